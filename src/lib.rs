//! `llm-server`: put a `config.json` in a folder, start one program, and
//! `curl -d '{"prompt": "…"}' localhost:8080` is answered by a local model
//! that may call every MCP tool the config lists.
//!
//! # The map
//!
//! Dependencies point one way:
//!
//! ```text
//! http ──> session ──> chat ──> engine ──> model ──> backend (mlx | candle | cpu)
//!              └─────> mcp
//! ```
//!
//! | module | its job | what it never sees |
//! |---|---|---|
//! | [`app`] | the command line and the composition root: builds every part in start-up order and takes them down in drain order | |
//! | [`config`] | `file` mirrors the JSON as written; `resolve` substitutes `${VAR}`, validates, reports every fault at once | only `app` imports it |
//! | [`logging`], [`shutdown`] | the daily log file and its flush guard; SIGTERM/SIGINT as a watchable value | anything of ours |
//! | [`http`] | accept, limits, JSON in and out, error to status; one file a surface | tokens, tensors |
//! | [`session`] | one request's tool loop: ask, run the calls at once, feed the results back, until an answer or a limit | HTTP, tokens |
//! | [`chat`] | where text meets tokens: messages, chat template, tool-call formats, reasoning split; the trait [`chat::ChatModel`] | HTTP, MCP |
//! | [`mcp`] | the host: connect, list, call, watch, reconnect, close | the model |
//! | [`engine`] | one OS thread that owns the model; `submit(request) -> events` | HTTP, MCP, prompt text |
//! | [`model`] | config-driven decoder, KV cache, weight loading, tokenizer | requests |
//! | [`backend`] | the seam to the tensor library, some twenty coarse ops; which libraries are compiled in, and which one runs | everything above |
//! | [`blob`] | bytes memory-mapped, embedded or owned, shared without copying | what is in them |
//! | `excerpt` | the beginning of a text, for a line of the log | what the text is |
//! | [`hub`] | brings a model's files into a local folder | what is in them |
//! | [`progress`] | how far a long job has come: a bar and log lines | what the job is |
//! | [`tools`] | the bundled MCP server, `llm-server tools` | the rest of the program |
//! | [`demo`] | the bundled model's files, embedded | the rest of the program |
//!
//! Each module owns its settings struct; [`config`] builds them all and only
//! [`app`] reads [`config`].

pub mod app;
pub mod backend;
pub mod blob;
pub mod chat;
pub mod config;
pub mod demo;
pub mod engine;
mod excerpt;
pub mod http;
pub mod hub;
pub mod logging;
pub mod mcp;
pub mod model;
pub mod progress;
pub mod session;
pub mod shutdown;
pub mod tools;
