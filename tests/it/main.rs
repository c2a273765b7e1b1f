//! Black-box tests: the real program, its command line, its files and its
//! socket, with the bundled model. `scripts/test` brings what they need. One
//! module counts allocations instead, which a binary can do only as a whole,
//! and one scores what the bundled model says, with code of the benches.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

// What drawing tokens allocates.
mod allocations;
// Requests at once: what they share, how fast they are.
mod batching;
// The command line beside the server: help, check, ask, demo, tools.
mod commands;
// Faults in the config, secrets, exit codes.
mod config;
// The end: signals, requests under way, children and grandchildren.
mod drain;
// What clients send and how they behave.
mod http;
// The model's files from a hub.
mod hub;
// What a model is, and what its parts make of an input.
mod inspect;
// The log file: what is in it, midnight, a full disk.
mod log;
// The model on MLX, where it is compiled in.
#[cfg(feature = "mlx")]
mod mlx;
// What survives a restart.
mod preamble;
// Prompts that the bundled model answers with the bundled tools.
mod prompts;
// What rounding costs: the bundled model's answers.
mod quality;
// Weights that are quantized when they are loaded.
mod quantize;
// MCP servers written by others.
mod real_servers;
// MCP servers that misbehave.
mod servers;
// The files that make it a service, and the scripts that fill them in.
mod service;
// The start: ports, broken models.
mod startup;
