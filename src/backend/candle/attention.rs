//! Attention out of candle's own products, for GPUs: keys and values in one
//! tensor each, one sequence after the other.

use candle_core::{D, Result, Tensor};

use super::activation::softcap;
use crate::backend::{AttentionSettings, Span};

/// Rows the buffers grow by: a few steps of decoding between two copies, and
/// little memory taken in advance.
const GROWTH: usize = 256;

/// The keys and values of one sequence in one layer. `len` rows of the
/// buffers are in use, `len <= capacity`.
pub struct Kv {
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    /// `[capacity, kv_heads, head_dim]` each; none before the first append.
    buffers: Option<(Tensor, Tensor)>,
}

impl Kv {
    pub(super) fn new(kv_heads: usize, head_dim: usize) -> Self {
        Self {
            kv_heads,
            head_dim,
            len: 0,
            buffers: None,
        }
    }

    /// A copy of the first `len` rows.
    pub(super) fn fork(&self, len: usize) -> Result<Self> {
        let mut fork = Self::new(self.kv_heads, self.head_dim);
        if let Some((keys, values)) = &self.buffers
            && len > 0
        {
            // Room for one more: a fork is made to go on.
            let (new_keys, new_values) = fork.reserve(len + 1, keys)?;
            new_keys.slice_set(&keys.narrow(0, 0, len)?, 0, 0)?;
            new_values.slice_set(&values.narrow(0, 0, len)?, 0, 0)?;
            fork.len = len;
        }
        Ok(fork)
    }

    /// The first `len` rows, `[len, kv_heads, head_dim]` each.
    pub(super) fn export(&self, len: usize) -> Result<(Tensor, Tensor)> {
        let Some((keys, values)) = self.buffers.as_ref().filter(|_| len <= self.len) else {
            candle_core::bail!("{len} of {} rows", self.len);
        };
        Ok((keys.narrow(0, 0, len)?, values.narrow(0, 0, len)?))
    }

    /// Appends rows that [`Self::export`] gave.
    pub(super) fn import(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        self.append(keys, values).map(drop)
    }

    /// Appends rows and returns all keys and values so far,
    /// `[len, kv_heads, head_dim]` each.
    fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let len = self.len + k.dim(0)?;
        let (keys, values) = self.reserve(len, k)?;
        keys.slice_set(&k.contiguous()?, 0, self.len)?;
        values.slice_set(&v.contiguous()?, 0, self.len)?;
        self.len = len;
        Ok((keys.narrow(0, 0, len)?, values.narrow(0, 0, len)?))
    }

    /// Buffers with room for `len` rows, those in use kept.
    fn reserve(&mut self, len: usize, like: &Tensor) -> Result<(Tensor, Tensor)> {
        if let Some((keys, values)) = &self.buffers
            && keys.dim(0)? >= len
        {
            return Ok((keys.clone(), values.clone()));
        }
        // By half at least, so that copying stays linear in the length.
        let capacity = len.max(self.len + self.len / 2).next_multiple_of(GROWTH);
        let grow = |old: Option<&Tensor>| {
            let new = Tensor::zeros(
                (capacity, self.kv_heads, self.head_dim),
                like.dtype(),
                like.device(),
            )?;
            if let Some(old) = old {
                new.slice_set(&old.narrow(0, 0, self.len)?, 0, 0)?;
            }
            Ok::<_, candle_core::Error>(new)
        };
        let old = self.buffers.take();
        let grown = (
            grow(old.as_ref().map(|(keys, _)| keys))?,
            grow(old.as_ref().map(|(_, values)| values))?,
        );
        self.buffers = Some(grown.clone());
        Ok(grown)
    }
}

/// As [`crate::backend::Backend::attention`] says.
pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &mut [Span<'_, Kv>],
    settings: &AttentionSettings<'_, Tensor>,
) -> Result<Tensor> {
    let mut outputs = Vec::with_capacity(spans.len());
    let mut start = 0;
    for span in spans {
        let rows = |x: &Tensor| x.narrow(0, start, span.tokens);
        let (keys, values) = span.kv.append(&rows(k)?, &rows(v)?)?;
        outputs.push(one_sequence(&rows(q)?, &keys, &values, settings)?);
        start += span.tokens;
    }
    let output = Tensor::cat(&outputs, 0)?;
    output.flatten_from(1)
}

/// Causal attention of the last rows of one sequence: `q` `[n, heads,
/// head_dim]` are the last `n` of the `len` positions in `k` and `v`.
fn one_sequence(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    settings: &AttentionSettings<'_, Tensor>,
) -> Result<Tensor> {
    // What is before the first row's window, no row sees.
    let (n, len) = (q.dim(0)?, k.dim(0)?);
    let seen = settings
        .window
        .map_or(len, |window| len.min(window - 1 + n));
    let (k, v) = (
        k.narrow(0, len - seen, seen)?,
        v.narrow(0, len - seen, seen)?,
    );
    let (_, heads, head_dim) = q.dims3()?;
    let (len, kv_heads, _) = k.dims3()?;
    // Heads of a group are rows of one product with their shared keys:
    // [kv_heads, group * n, head_dim].
    let group = heads / kv_heads;
    let q = q
        .transpose(0, 1)?
        .contiguous()?
        .reshape((kv_heads, group * n, head_dim))?;
    let k = k.transpose(0, 1)?.contiguous()?;
    let v = v.transpose(0, 1)?.contiguous()?;
    let scores = (q.matmul(&k.transpose(1, 2)?)? * f64::from(settings.scale))?;
    let scores = match settings.softcap {
        Some(cap) => softcap(&scores, cap)?,
        None => scores,
    };
    let scores = if n == 1 {
        scores
    } else {
        let mask: Vec<f32> = (0..n)
            .flat_map(|row| {
                let own = len - n + row;
                let first = settings
                    .window
                    .map_or(0, |window| (own + 1).saturating_sub(window));
                (0..len).map(move |column| {
                    if (first..=own).contains(&column) {
                        0.0
                    } else {
                        f32::NEG_INFINITY
                    }
                })
            })
            .collect();
        let mask = Tensor::from_vec(mask, (1, 1, n, len), q.device())?.to_dtype(q.dtype())?;
        scores
            .reshape((kv_heads, group, n, len))?
            .broadcast_add(&mask)?
            .reshape((kv_heads, group * n, len))?
    };
    let weights = match settings.sinks {
        None => candle_nn::ops::softmax(&scores, D::Minus1)?,
        Some(sinks) => {
            // One more column, whose share of the softmax is thrown away.
            let sinks = sinks
                .reshape((kv_heads, group, 1, 1))?
                .broadcast_as((kv_heads, group, n, 1))?
                .reshape((kv_heads, group * n, 1))?;
            let scores = Tensor::cat(&[&scores, &sinks], D::Minus1)?;
            candle_nn::ops::softmax(&scores, D::Minus1)?
                .narrow(D::Minus1, 0, len)?
                .contiguous()?
        }
    };
    weights
        .matmul(&v)?
        .reshape((heads, n, head_dim))?
        .transpose(0, 1)?
        .contiguous()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn growing_and_forking_keep_every_row() {
        let rows = |n| Tensor::randn(0f32, 1f32, (n, 2, 8), &Device::Cpu).unwrap();
        let elements = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut kv = Kv::new(2, 8);
        let mut expected: Option<(Tensor, Tensor)> = None;
        for n in [1, 255, 1, 300, 7, 1] {
            let (k, v) = (rows(n), rows(n));
            let (keys, values) = kv.append(&k, &v).unwrap();
            let (all_keys, all_values) = match &expected {
                Some((keys, values)) => (
                    Tensor::cat(&[keys, &k], 0).unwrap(),
                    Tensor::cat(&[values, &v], 0).unwrap(),
                ),
                None => (k, v),
            };
            assert_eq!(elements(&keys), elements(&all_keys));
            assert_eq!(elements(&values), elements(&all_values));
            let len = kv.len - n / 2;
            let (keys, values) = kv.fork(len).unwrap().append(&rows(1), &rows(1)).unwrap();
            for (forked, all) in [(&keys, &all_keys), (&values, &all_values)] {
                let (forked, all) = (forked.narrow(0, 0, len), all.narrow(0, 0, len));
                assert_eq!(elements(&forked.unwrap()), elements(&all.unwrap()));
            }
            expected = Some((all_keys, all_values));
        }
    }
}
