//! Operations that carry a state of a fixed size along each sequence, made of
//! candle's own, which run on any device. They compute in f32, whatever the
//! type of what they are given, and leave each state as a new tensor. The
//! gated delta rule goes token by token, ten small operations each: a long
//! prompt is fed sooner where there is a kernel.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};
use candle_nn::ops;

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
    // [taps, channels].
    let weight = wide(weight)?.t()?;
    let mut outputs = Vec::with_capacity(spans.len());
    let mut start = 0;
    for span in spans.iter_mut().filter(|span| span.tokens > 0) {
        let rows = x.narrow(0, start, span.tokens)?;
        start += span.tokens;
        let seen = match (taps, &*span.state) {
            (1, _) => rows,
            (_, Some(state)) => Tensor::cat(&[state, &rows], 0)?,
            (_, None) => rows.pad_with_zeros(0, taps - 1, 0)?,
        };
        if taps > 1 {
            // A copy, that the state may not hold on to all rows.
            let last = seen.narrow(0, span.tokens, taps - 1)?;
            *span.state = Some(last.force_contiguous()?);
        }
        let seen = wide(&seen)?;
        let mut sum = Tensor::zeros((span.tokens, channels), seen.dtype(), seen.device())?;
        for tap in 0..taps {
            let rows = seen.narrow(0, tap, span.tokens)?;
            sum = (sum + rows.broadcast_mul(&weight.narrow(0, tap, 1)?)?)?;
        }
        if silu {
            sum = ops::silu(&sum)?;
        }
        outputs.push(sum.to_dtype(x.dtype())?);
    }
    Tensor::cat(&outputs, 0)
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
    let dtype = v.dtype();
    // The value heads that share a key head, as one with many rows.
    let shared = (key_heads, heads / key_heads * value_dim, key_dim);
    let separate = (heads, value_dim, key_dim);
    let (decay, beta) = (decay(gates)?, ops::sigmoid(&wide(gates.b)?)?);
    let (q, k, v) = (wide(q)?, wide(k)?, wide(v)?);
    let mut outputs = Vec::with_capacity(v.dims()[0]);
    for span in spans.iter_mut().filter(|span| span.tokens > 0) {
        let mut state = match &*span.state {
            Some(state) => wide(state)?,
            None => Tensor::zeros(separate, v.dtype(), v.device())?,
        };
        for _ in 0..span.tokens {
            let row = outputs.len();
            let of_head = |x: &Tensor| x.get(row)?.reshape((heads, 1, 1));
            let key = k.get(row)?;
            let query = q.get(row)?.unsqueeze(2)?;
            let value = v.get(row)?.unsqueeze(2)?;
            state = state.broadcast_mul(&of_head(&decay)?)?;
            let known = state.reshape(shared)?.matmul(&key.unsqueeze(2)?)?;
            let new = (value - known.reshape((heads, value_dim, 1))?)?;
            let new = new.broadcast_mul(&of_head(&beta)?)?;
            let learned = new
                .reshape((key_heads, (), 1))?
                .matmul(&key.unsqueeze(1)?)?;
            state = (state + learned.reshape(separate)?)?;
            let said = state.reshape(shared)?.matmul(&query)?;
            outputs.push(said.reshape((heads, value_dim))?);
        }
        *span.state = Some(state);
    }
    Tensor::stack(&outputs, 0)?.to_dtype(dtype)
}

/// What is left of each head's state at each token, `[T, heads]`.
fn decay(gates: &DeltaGates<'_, Tensor>) -> Result<Tensor> {
    let x = wide(gates.a)?.broadcast_add(&wide(gates.dt_bias)?)?;
    // softplus(x) = max(x, 0) + ln(1 + e), and what the sum 1 + e has lost.
    let e = x.abs()?.neg()?.exp()?;
    let sum = (&e + 1.0)?;
    let lost = ((e - (&sum - 1.0)?)? / &sum)?;
    let softplus = ((x.relu()? + sum.log()?)? + lost)?;
    let rate = wide(gates.a_log)?.exp()?;
    softplus.broadcast_mul(&rate)?.neg()?.exp()
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
