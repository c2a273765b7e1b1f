//! `llm-server ask`: one prompt through the same model, tools and loop as
//! the server's, the answer on stdout.

use std::path::Path;

use tracing::{Instrument, info, info_span};

use super::host::Host;
use super::{Failure, load_config, log_to_stderr, print, with_log};
use crate::config::Config;
use crate::logging::Level;
use crate::model;
use crate::shutdown::Shutdown;

pub(super) async fn run(config: &Path, prompt: &str) -> Result<(), Failure> {
    if prompt.trim().is_empty() {
        return Err(Failure::new("the prompt is empty"));
    }
    let config = load_config(config).await?;
    let log = log_to_stderr(&config, Level::Warning);
    with_log(&log, &config.secrets, ask(&config, prompt)).await
}

async fn ask(config: &Config, prompt: &str) -> Result<(), Failure> {
    let shutdown = Shutdown::install()
        .map_err(|error| Failure::new(format_args!("cannot watch for signals: {error}")))?;
    let interrupted = || Failure::new("interrupted");
    let host = Host::start(config, model::load, shutdown.wait()).await?;
    let host = host.ok_or_else(interrupted)?;
    let span = info_span!("request", id = "ask");
    let answer = async {
        info!(?prompt, "request");
        let answer = tokio::select! {
            answer = host.sessions.answer(prompt) => answer.map_err(Failure::new)?,
            () = shutdown.wait() => return Err(interrupted()),
            () = tokio::time::sleep(config.limits.request_timeout) => {
                let seconds = config.limits.request_timeout.as_secs();
                return Err(Failure::new(format_args!(
                    "no answer within request_timeout_seconds ({seconds})"
                )));
            }
        };
        info!(
            response = ?answer.text,
            rounds = answer.rounds,
            prompt_tokens = answer.prompt_tokens,
            generated_tokens = answer.generated_tokens,
            "response"
        );
        Ok(answer.text)
    };
    let answer = answer.instrument(span).await;
    let closed = host.close().await;
    print(answer?)?;
    closed
}
