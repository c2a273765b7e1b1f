//! `llm-server bench`: how fast a model is here, alone in the engine and
//! through the whole host, as a table and as a line of JSON.
//!
//! The prompts are random tokens: what is measured does not depend on what
//! they say, and none is in the prefix cache unless it is meant to be.

mod measure;
mod overhead;
mod report;

use std::io::{self, IsTerminal};
use std::path::Path;

use serde_json::Map;

use super::host::{load_model, model_files, named};
use super::{Failure, cli, load_config, print, say};
use crate::chat;
use crate::model;
use measure::Measured;

pub(super) async fn run(config: &Path, options: cli::Bench) -> Result<(), Failure> {
    let mut choice = match &options.model {
        Some(name) => named(name),
        None => load_config(config).await?.model,
    };
    if let Some(backend) = options.backend {
        choice.backend = backend;
    }
    if let Some(quantize) = options.quantize {
        choice.quantize = Some(quantize);
    }
    choice.threads = options.threads.or(choice.threads);
    // Nothing is to be there already.
    choice.prefix_cache_dir = None;
    if options.rates_only {
        // Memory goes round, as in a server whose prefix cache is full: what is
        // new to the process would have to come from the system first.
        choice.prefix_cache_bytes = Some(0);
    }
    let files = model_files(&choice).await?;
    // Nothing ends a turn: every request generates as much as it is asked to.
    let (engine, thread, model) =
        load_model(model::load, &choice, files, one_token(), false).await?;
    let measured = Measured::take(&engine, model, &options, &|line| {
        // For people alone: stdout is for the result, a file for neither.
        if io::stderr().is_terminal() {
            say(line);
        }
    })
    .await?;
    drop(engine);
    if !thread.join() {
        return Err(Failure::new("the engine has failed"));
    }
    print(match options.json {
        true => report::json(&measured),
        false => report::table(&measured),
    })
}

/// Answers of one token.
fn one_token() -> chat::Settings {
    chat::Settings {
        temperature: 0.0,
        top_p: 1.0,
        min_p: 0.0,
        min_tokens_to_keep: 1,
        max_tokens: 1,
        seed: None,
        template_args: Map::new(),
    }
}
