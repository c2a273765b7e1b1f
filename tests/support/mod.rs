//! What the black-box tests share: the program in a temporary folder, a plain
//! HTTP client over a socket, processes, and the little services it talks to.
//! Knows the program only by its command line, its files and its socket.

mod client;
mod process;
mod program;
mod services;

pub(crate) use client::{Client, Response, exchange, get, post, prompt_body};
pub(crate) use process::{alive, descendants, signal, wait_until};
pub(crate) use program::{Finished, Running, Setup};
pub(crate) use services::{Service, fake, fake_with_log, node_server, python, weather};
