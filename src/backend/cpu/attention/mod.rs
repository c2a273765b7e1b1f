//! Attention of a ragged step, and the keys and values it reads.

mod kernel;
mod paged;

pub(super) use kernel::{exp, tanh};
pub use paged::PagedKv as Kv;
pub(super) use paged::{Settings, attention};
