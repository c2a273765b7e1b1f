//! What the black-box tests share: the program in a temporary folder, a plain
//! HTTP client over a socket, processes, and the services it talks to. Knows
//! the program only by its command line, its files and its socket.

mod client;
mod process;
mod program;
mod services;

pub(crate) use client::{Client, exchange, get, post, prompt_body};
pub(crate) use process::{alive, signal, wait_until};
pub(crate) use program::{Finished, Running, Setup, repository};
pub(crate) use services::{
    Hub, Service, TEMPERATURE_PROMPT, Weather, assert_tells_tokyo_time, fake, node_program,
    playing, python,
};
