//! Attention of a ragged step, and the keys and values it reads: `paged` keeps
//! them, `rows` writes them, `step` shares a step's rows out among threads, and `many` and `few`
//! are what a thread does with many queries of a sequence or a few of several.
//! Both take the same sums in the same order, so that a query gets the same
//! bits from either. Knows nothing of layers or models.

mod exp;
mod few;
mod lines;
mod many;
mod paged;
mod rows;
mod step;
mod vectors;

pub(super) use exp::{exp, tanh};
pub use paged::Kv;
pub(super) use paged::KvElement;
pub(super) use step::{Scratch, Settings, attention};

#[cfg(test)]
mod tests;
