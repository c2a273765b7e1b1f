//! Attention of a ragged step, and the keys and values it reads: `paged` on
//! the CPU, `plain` out of candle's products on a GPU.

mod kernel;
mod paged;
mod plain;

use candle_core::{Device, Result, Tensor};

use crate::backend::{AttentionSettings, Span};
use paged::PagedKv;
use plain::PlainKv;

pub(super) use kernel::exp;

/// The keys and values of one sequence in one layer.
pub enum Kv {
    /// On the CPU.
    Paged(PagedKv),
    /// On a GPU.
    Plain(PlainKv),
}

impl Kv {
    pub(super) fn new(kv_heads: usize, head_dim: usize, device: &Device) -> Self {
        match device {
            Device::Cpu => Self::Paged(PagedKv::new(kv_heads, head_dim)),
            _ => Self::Plain(PlainKv::new(kv_heads, head_dim)),
        }
    }

    /// The first `len` rows, `[len, kv_heads, head_dim]` each.
    pub(super) fn export(&self, len: usize) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Paged(kv) => kv.export(len),
            Self::Plain(kv) => kv.export(len),
        }
    }

    /// Appends rows that [`Self::export`] gave.
    pub(super) fn import(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        match self {
            Self::Paged(kv) => kv.import(keys, values),
            Self::Plain(kv) => kv.import(keys, values),
        }
    }

    /// The first `len` rows, which live on by themselves.
    pub(super) fn fork(&self, len: usize) -> Result<Self> {
        Ok(match self {
            Self::Paged(kv) => Self::Paged(kv.fork(len)),
            Self::Plain(kv) => Self::Plain(kv.fork(len)?),
        })
    }
}

/// As [`super::Backend::attention`] says.
pub(super) fn ragged(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &mut [Span<'_, Kv>],
    settings: &AttentionSettings<'_, Tensor>,
) -> Result<Tensor> {
    match q.device() {
        Device::Cpu => paged::attention(q, k, v, spans, settings),
        _ => plain::attention(q, k, v, spans, settings),
    }
}
