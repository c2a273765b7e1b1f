//! The loop over a scripted model and tools that are closures.

#![allow(clippy::unwrap_used)]

mod limits;
mod rounds;
mod support;
