//! Attention of a ragged step, and the keys and values it reads.

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::{broadcast_to, concatenate, select, softmax_axis, zeros_dtype};

use super::activation::{scale, softcap};
use super::array::length;
use super::failed;
use super::memory::Memory;
use crate::backend::{AttentionSettings, BackendError, Span};

/// Rows the buffers grow by, as mlx-lm's do.
const GROWTH: i32 = 256;

/// The keys and values of one sequence in one layer. `len` rows of the
/// buffers are in use, `len <= capacity`.
pub struct Kv {
    kv_heads: i32,
    head_dim: i32,
    len: i32,
    capacity: i32,
    /// `[kv_heads, capacity, head_dim]` each; none before the first append.
    /// MLX writes into them in place as long as nobody else holds them.
    buffers: Option<(Array, Array)>,
}

impl Kv {
    pub(super) fn new(kv_heads: i32, head_dim: i32) -> Self {
        Self {
            kv_heads,
            head_dim,
            len: 0,
            capacity: 0,
            buffers: None,
        }
    }

    /// A copy of the first `len` rows, not evaluated yet; its buffers are
    /// [`Self::arrays`].
    pub(super) fn fork(&self, len: i32, memory: &Memory) -> Result<Self, BackendError> {
        let mut fork = Self::new(self.kv_heads, self.head_dim);
        if let Some((keys, values)) = &self.buffers
            && len > 0
        {
            // Room for one more: a fork is made to go on.
            fork.grow(len + 1, keys, values, memory)?;
            if let Some((new_keys, new_values)) = &mut fork.buffers {
                let copy = |new: &mut Array, old: &Array| -> Result<(), Exception> {
                    let rows = (.., ..len, ..);
                    new.try_index_mut(rows, old.try_index(rows)?)
                };
                let failed = failed("fork_kv");
                copy(new_keys, keys).map_err(&failed)?;
                copy(new_values, values).map_err(&failed)?;
            }
            fork.len = len;
        }
        Ok(fork)
    }

    /// The first `len` rows, `[len, kv_heads, head_dim]` each, row-major and
    /// not evaluated yet.
    pub(super) fn export(&self, len: i32, memory: &Memory) -> Result<(Array, Array), BackendError> {
        let Some((keys, values)) = self.buffers.as_ref().filter(|_| len <= self.len) else {
            return Err(BackendError {
                op: "read_kv",
                reason: format!("{len} of {} rows", self.len),
            });
        };
        let elements: usize = [len, self.kv_heads, self.head_dim]
            .iter()
            .map(|&axis| axis as usize)
            .product();
        let size = keys.item_size() + values.item_size();
        memory.plan(elements * size, "read_kv")?;
        let rows = |buffer: &Array| -> Result<Array, Exception> {
            buffer
                .try_index((.., ..len, ..))?
                .swap_axes(0, 1)?
                .contiguous()
        };
        let failed = failed("read_kv");
        Ok((rows(keys).map_err(&failed)?, rows(values).map_err(&failed)?))
    }

    /// Appends rows that [`Self::export`] gave; not evaluated yet, the buffers
    /// are [`Self::arrays`].
    pub(super) fn import(
        &mut self,
        keys: &Array,
        values: &Array,
        memory: &Memory,
    ) -> Result<(), BackendError> {
        let failed = failed("write_kv");
        let (keys, values) = (
            keys.swap_axes(0, 1).map_err(&failed)?,
            values.swap_axes(0, 1).map_err(&failed)?,
        );
        self.append(&keys, &values, memory)
    }

    /// The buffers, if there are any yet.
    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.buffers
            .iter()
            .flat_map(|(keys, values)| [keys, values])
    }

    /// Appends `k` and `v` `[kv_heads, n, head_dim]`.
    fn append(&mut self, k: &Array, v: &Array, memory: &Memory) -> Result<(), BackendError> {
        let failed = failed("attention");
        let len = self.len + k.dim(1);
        if len > self.capacity {
            // By half at least, so that copying stays linear in the length.
            let capacity = len.max(self.len + self.len / 2);
            self.grow(capacity, k, v, memory)?;
        }
        if let Some((keys, values)) = &mut self.buffers {
            let rows = (.., self.len..len, ..);
            keys.try_index_mut(rows.clone(), k).map_err(&failed)?;
            values.try_index_mut(rows, v).map_err(&failed)?;
        }
        self.len = len;
        Ok(())
    }

    /// Buffers with room for `capacity` rows, those in use kept.
    fn grow(
        &mut self,
        capacity: i32,
        k: &Array,
        v: &Array,
        memory: &Memory,
    ) -> Result<(), BackendError> {
        let capacity = (capacity + GROWTH - 1) / GROWTH * GROWTH;
        let shape = [self.kv_heads, capacity, self.head_dim];
        let elements: usize = shape.iter().map(|&axis| axis as usize).product();
        memory.plan(elements * (k.item_size() + v.item_size()), "attention")?;
        let old = self.buffers.take();
        let grow = |old: Option<&Array>, like: &Array| -> Result<Array, Exception> {
            let mut new = zeros_dtype(&shape, like.dtype())?;
            if let Some(old) = old {
                let rows = (.., ..self.len, ..);
                new.try_index_mut(rows, old.try_index(rows)?)?;
            }
            Ok(new)
        };
        let (keys, values) = old.as_ref().map(|(k, v)| (k, v)).unzip();
        let failed = failed("attention");
        self.buffers = Some((
            grow(keys, k).map_err(&failed)?,
            grow(values, v).map_err(&failed)?,
        ));
        self.capacity = capacity;
        Ok(())
    }
}

/// As [`crate::backend::Backend::attention`] says.
pub(super) fn ragged(
    q: &Array,
    k: &Array,
    v: &Array,
    spans: &mut [Span<'_, Kv>],
    settings: &AttentionSettings<'_, Array>,
    memory: &Memory,
) -> Result<Array, BackendError> {
    let failed = failed("attention");
    let mut outputs = Vec::with_capacity(spans.len());
    let mut start = 0;
    let alone = spans.len() == 1;
    for span in spans {
        let end = start + length(span.tokens, "attention")?;
        // [heads, n, head_dim].
        let rows = |x: &Array| -> Result<Array, Exception> {
            match alone {
                true => x.swap_axes(0, 1),
                false => x.try_index((start..end, .., ..))?.swap_axes(0, 1),
            }
        };
        let (k, v) = (rows(k).map_err(&failed)?, rows(v).map_err(&failed)?);
        span.kv.append(&k, &v, memory)?;
        let q = rows(q).map_err(&failed)?;
        let seen = visible(span.kv.len, q.dim(1), settings.window);
        memory.check_scores([q.dim(0), q.dim(1), seen], q.dim(2))?;
        outputs.push(one_sequence(&q, span.kv, settings).map_err(&failed)?);
        start = end;
    }
    match outputs.len() {
        1 => Ok(outputs.swap_remove(0)),
        _ => concatenate(&outputs, 0).map_err(&failed),
    }
}

/// Causal attention of the last rows of one sequence, `q` `[heads, n,
/// head_dim]`: `[n, heads * head_dim]`.
fn one_sequence(
    q: &Array,
    kv: &Kv,
    settings: &AttentionSettings<'_, Array>,
) -> Result<Array, Exception> {
    let Some((keys, values)) = &kv.buffers else {
        return Err(Exception::custom("there are no keys"));
    };
    let n = q.dim(1);
    let seen = visible(kv.len, n, settings.window);
    let last = |buffer: &Array| -> Result<Array, Exception> {
        let rows = (.., kv.len - seen..kv.len, ..);
        buffer.try_index(rows)?.expand_dims(0)
    };
    let (keys, values) = (last(keys)?, last(values)?);
    let band = match settings.window {
        Some(window) if n > 1 && seen as usize > window => Some(band_mask(n, seen, window)),
        _ => None,
    };
    let mask = match &band {
        Some(band) => Some(ScaledDotProductAttentionMask::Array(band)),
        None if n > 1 => Some(ScaledDotProductAttentionMask::Causal),
        None => None,
    };
    if let Some(cap) = settings.softcap {
        let attended = capped(q, &keys, &values, settings, cap, seen)?;
        return rows_of_heads(&attended);
    }
    let attended = scaled_dot_product_attention(
        q.expand_dims(0)?,
        keys,
        values,
        settings.scale,
        mask,
        settings.sinks,
    )?;
    rows_of_heads(&attended.squeeze_axes(&[0])?)
}

/// `[heads, n, head_dim]` as `[n, heads * head_dim]`.
fn rows_of_heads(x: &Array) -> Result<Array, Exception> {
    x.swap_axes(0, 1)?.reshape(&[x.dim(1), x.dim(0) * x.dim(2)])
}

/// [`one_sequence`] where scores are capped, which no fused kernel does:
/// `keys` and `values` `[1, kv_heads, seen, head_dim]`, `[heads, n, head_dim]`
/// comes of it.
fn capped(
    q: &Array,
    keys: &Array,
    values: &Array,
    settings: &AttentionSettings<'_, Array>,
    cap: f32,
    seen: i32,
) -> Result<Array, Exception> {
    let (heads, n, head_dim) = (q.dim(0), q.dim(1), q.dim(2));
    let kv_heads = keys.dim(1);
    let group = heads / kv_heads;
    // [kv_heads, group * n, head_dim].
    let q = scale(q, settings.scale)?.reshape(&[kv_heads, group * n, head_dim])?;
    let keys = keys.squeeze_axes(&[0])?.swap_axes(1, 2)?;
    let scores = softcap(&q.matmul(keys)?, cap)?.reshape(&[kv_heads, group, n, seen])?;
    let sees = band_mask(n, seen, settings.window.unwrap_or(usize::MAX));
    let never = Array::from_f32(f32::NEG_INFINITY).as_dtype(scores.dtype())?;
    let scores = select(&sees, scores, never)?;
    let weights = match settings.sinks {
        None => softmax_axis(scores, -1, true)?,
        Some(sinks) => {
            // One more column, whose share of the softmax is thrown away.
            let sinks = broadcast_to(
                sinks.reshape(&[kv_heads, group, 1, 1])?,
                &[kv_heads, group, n, 1],
            )?;
            softmax_axis(concatenate(&[scores, sinks], -1)?, -1, true)?.try_index((
                ..,
                ..,
                ..,
                ..seen,
            ))?
        }
    };
    weights
        .reshape(&[kv_heads, group * n, seen])?
        .matmul(values.squeeze_axes(&[0])?)?
        .reshape(&[heads, n, head_dim])
}

/// How many of `len` positions the last `n` see: what is before the first
/// one's window, none does.
fn visible(len: i32, n: i32, window: Option<usize>) -> i32 {
    match window.and_then(|window| i32::try_from(window).ok()) {
        Some(window) => len.min((window - 1).saturating_add(n)),
        None => len,
    }
}

/// `[n, seen]`: whether each of the last `n` of `seen` positions sees each of
/// them.
fn band_mask(n: i32, seen: i32, window: usize) -> Array {
    let sees: Vec<bool> = (seen - n..seen)
        .flat_map(|own| {
            (0..seen).map(move |other| other <= own && ((own - other) as usize) < window)
        })
        .collect();
    Array::from_slice(&sees, &[n, seen])
}
