//! Operations that carry a state of a fixed size along each sequence: on the
//! CPU `kernel` computes them, and elsewhere they are made of candle's own
//! operations, in `plain`. Both compute in f32, whatever the type of what they
//! are given, and leave each state as a new tensor.
//!
//! What a row gets depends on its own sequence alone, not on the others of its
//! step nor on the pieces its sequence is fed in.

mod kernel;
mod plain;

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

use crate::backend::{DeltaGates, StateSpan};

/// As [`crate::backend::Backend::causal_conv`] says.
pub(super) fn causal_conv(
    x: &Tensor,
    weight: &Tensor,
    silu: bool,
    spans: &mut [StateSpan<'_, Tensor>],
) -> Result<Tensor> {
    let (rows, channels) = x.dims2()?;
    let (weighed, taps) = weight.dims2()?;
    if weighed != channels || channels == 0 || taps == 0 {
        candle_core::bail!("weights {:?} for {channels} channels", weight.dims());
    }
    check_spans(rows, &[taps - 1, channels], spans)?;
    match x.device() {
        Device::Cpu => kernel::causal_conv(x, weight, silu, spans),
        _ => plain::causal_conv(x, weight, silu, spans),
    }
}

/// As [`crate::backend::Backend::gated_delta`] says.
pub(super) fn gated_delta(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    gates: &DeltaGates<'_, Tensor>,
    spans: &mut [StateSpan<'_, Tensor>],
) -> Result<Tensor> {
    let (rows, key_heads, key_dim) = k.dims3()?;
    let (_, heads, value_dim) = v.dims3()?;
    let per_token = [gates.a, gates.b].iter().all(|x| x.dims() == [rows, heads]);
    let per_head = [gates.a_log, gates.dt_bias]
        .iter()
        .all(|x| x.dims() == [heads]);
    if q.dims() != k.dims()
        || v.dims()[0] != rows
        || [key_heads, heads, key_dim, value_dim].contains(&0)
        || heads % key_heads != 0
        || !per_token
        || !per_head
    {
        candle_core::bail!(
            "queries {:?}, keys {:?}, values {:?}, gates {:?}, {:?}, {:?} and {:?}",
            q.dims(),
            k.dims(),
            v.dims(),
            gates.a.dims(),
            gates.b.dims(),
            gates.a_log.dims(),
            gates.dt_bias.dims()
        );
    }
    check_spans(rows, &[heads, value_dim, key_dim], spans)?;
    match q.device() {
        Device::Cpu => kernel::gated_delta(q, k, v, gates, spans),
        _ => plain::gated_delta(q, k, v, gates, spans),
    }
}

/// Columns `range` of `x` `[T, n]`, row-major, as most of candle's operations
/// ask for.
pub(super) fn columns(x: &Tensor, range: Range<usize>) -> Result<Tensor> {
    if range.is_empty() {
        candle_core::bail!("no columns: {range:?}");
    }
    x.narrow(1, range.start, range.len())?.contiguous()
}

/// Whether the spans are of `rows` rows in all, and their states of `shape`.
fn check_spans(rows: usize, shape: &[usize], spans: &[StateSpan<'_, Tensor>]) -> Result<()> {
    let spanned: usize = spans.iter().map(|span| span.tokens).sum();
    if spanned != rows {
        candle_core::bail!("{rows} rows in spans of {spanned}");
    }
    for state in spans.iter().filter_map(|span| span.state.as_ref()) {
        if state.dims() != shape {
            candle_core::bail!("a state {:?} where {shape:?} is kept", state.dims());
        }
    }
    Ok(())
}

/// `x` in f32.
fn wide(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
