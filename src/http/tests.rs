//! The HTTP surface over real sockets and a model that does what the prompt says.

#![allow(clippy::unwrap_used)]

mod clients;
mod drain;
mod log;
mod requests;
mod support;
