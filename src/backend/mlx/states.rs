//! Operations that carry a state of a fixed size along each sequence.
//!
//! Sequences of a step that have one token each are computed as one batch,
//! those with more by themselves. What is said depends on the states that are
//! left behind ([`depends`]), so that they are evaluated with it: a state that
//! only the next step reads would else grow a graph that holds on to
//! everything it was computed from.

mod delta;

use std::ops::Range;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{concatenate, conv1d, sigmoid, stack, zeros_dtype};

use super::failed;
use super::memory::Memory;
use super::sys::depends;
use crate::backend::{BackendError, DeltaGates, StateSpan};
pub(super) use delta::Deltas;

/// As [`crate::backend::Backend::causal_conv`] says.
pub(super) fn causal_conv(
    x: &Array,
    weight: &Array,
    silu: bool,
    spans: &mut [StateSpan<'_, Array>],
) -> Result<Array, Exception> {
    let misfit = || {
        let (x, weight) = (x.shape(), weight.shape());
        Exception::custom(format!("{x:?} and weights {weight:?}"))
    };
    let (&[rows, channels], &[weighed, taps]) = (x.shape(), weight.shape()) else {
        return Err(misfit());
    };
    if weighed != channels || channels == 0 || taps == 0 {
        return Err(misfit());
    }
    let carried = taps - 1;
    check_spans(rows, &[carried, channels], spans)?;
    let weight = weight.expand_dims(2)?;
    by_runs(spans, |run, range| {
        let (count, tokens) = (run.len() as i32, run[0].tokens as i32);
        let new = x
            .try_index((range, ..))?
            .reshape(&[count, tokens, channels])?;
        let seen = match carried {
            0 => new,
            _ => {
                let before = stacked(run, &[carried, channels], x.dtype())?;
                concatenate(&[before, new], 1)?
            }
        };
        let states = match carried {
            0 => Vec::new(),
            _ => separate(&seen.try_index((.., tokens.., ..))?)?,
        };
        // [count, tokens, channels].
        let sums = conv1d(&seen, &weight, 1, 0, 1, channels)?.as_dtype(x.dtype())?;
        let sums = match silu {
            true => sums.multiply(sigmoid(&sums)?)?,
            false => sums,
        };
        Ok((sums.reshape(&[count * tokens, channels])?, states))
    })
}

/// As [`crate::backend::Backend::gated_delta`] says.
pub(super) fn gated_delta(
    q: &Array,
    k: &Array,
    v: &Array,
    gates: &DeltaGates<'_, Array>,
    spans: &mut [StateSpan<'_, Array>],
    deltas: &Deltas,
    memory: &Memory,
) -> Result<Array, BackendError> {
    let failed = failed("gated_delta");
    let shape = delta::Shape::of(q, k, v, gates).map_err(&failed)?;
    let of_state = [shape.heads, shape.value_dim, shape.key_dim];
    check_spans(v.dim(0), &of_state, spans).map_err(&failed)?;
    for span in spans.iter().filter(|span| span.tokens > 0) {
        if span.state.is_none() {
            memory.plan(shape.state_bytes(), "gated_delta")?;
        }
        memory.check(shape.step_bytes(span.tokens), "gated_delta")?;
    }
    let mut said = || {
        let wide = |x: &Array| x.as_type::<f32>();
        let (q, k, v) = (wide(q)?, wide(k)?, wide(v)?);
        let [log_decay, beta] = deltas.gates(gates)?;
        by_runs(spans, |run, range| {
            let rows = |x: &Array| x.try_index((range.clone(), ..));
            let step = delta::Step {
                q: rows(&q)?,
                k: rows(&k)?,
                v: rows(&v)?,
                log_decay: rows(&log_decay)?,
                beta: rows(&beta)?,
            };
            let state = stacked(run, &of_state, mlx_rs::Dtype::Float32)?;
            match run[0].tokens {
                1 => {
                    let (said, states) = step.one_token_each(shape, &state, deltas)?;
                    Ok((said, separate(&states)?))
                }
                _ => {
                    let (said, state) = step.one_sequence(shape, &state)?;
                    Ok((said, vec![state]))
                }
            }
        })
    };
    said()
        .and_then(|said: Array| said.as_dtype(v.dtype()))
        .map_err(&failed)
}

/// Columns `range` of `x` `[T, n]`.
pub(super) fn columns(x: &Array, range: Range<usize>) -> Result<Array, Exception> {
    // MLX would take as many as there are.
    if range.is_empty() || range.end > x.dim(1) as usize {
        let count = x.dim(1);
        return Err(Exception::custom(format!("columns {range:?} of {count}")));
    }
    x.try_index((.., range.start as i32..range.end as i32))
}

/// Whether the spans are of `rows` rows in all, and their states of `shape`.
fn check_spans(rows: i32, shape: &[i32], spans: &[StateSpan<'_, Array>]) -> Result<(), Exception> {
    let spanned: usize = spans.iter().map(|span| span.tokens).sum();
    if spanned != rows as usize {
        return Err(Exception::custom(format!(
            "{rows} rows in spans of {spanned}"
        )));
    }
    for state in spans.iter().filter_map(|span| span.state.as_ref()) {
        if state.shape() != shape {
            let state = state.shape();
            return Err(Exception::custom(format!(
                "a state {state:?} where {shape:?} is kept"
            )));
        }
    }
    Ok(())
}

/// What `compute` says of each run, one after the other. A run is one
/// sequence, or several that have one token each; with it comes the range of
/// its rows, and of it come its rows and the state of each of its sequences.
fn by_runs(
    spans: &mut [StateSpan<'_, Array>],
    mut compute: impl FnMut(
        &[StateSpan<'_, Array>],
        Range<i32>,
    ) -> Result<(Array, Vec<Array>), Exception>,
) -> Result<Array, Exception> {
    let (mut outputs, mut left) = (Vec::new(), Vec::new());
    let mut start = 0;
    for run in spans.chunk_by_mut(|a, b| a.tokens == 1 && b.tokens == 1) {
        let tokens: usize = run.iter().map(|span| span.tokens).sum();
        if tokens == 0 {
            continue;
        }
        let end = start + tokens as i32;
        let (output, states) = compute(run, start..end)?;
        for (span, state) in run.iter_mut().zip(states) {
            left.push(state.clone());
            *span.state = Some(state);
        }
        outputs.push(output);
        start = end;
    }
    let output = match outputs.len() {
        1 => outputs.swap_remove(0),
        _ => concatenate(&outputs, 0)?,
    };
    depends(&output, &left)
}

/// The states of `run`, of `shape` each, `[n, …]`; those of none are zero.
fn stacked(
    run: &[StateSpan<'_, Array>],
    shape: &[i32],
    dtype: mlx_rs::Dtype,
) -> Result<Array, Exception> {
    let states = run
        .iter()
        .map(|span| match &*span.state {
            Some(state) => Ok(state.clone()),
            None => zeros_dtype(shape, dtype),
        })
        .collect::<Result<Vec<_>, _>>()?;
    match states.as_slice() {
        [state] => state.expand_dims(0),
        states => stack(states, 0),
    }
}

/// The entries of the first axis of `states`, each with memory of its own: a
/// state that is kept does not keep the others.
fn separate(states: &Array) -> Result<Vec<Array>, Exception> {
    (0..states.dim(0))
        .map(|index| states.try_index((index, ..))?.contiguous())
        .collect()
}
