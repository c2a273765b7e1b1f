//! The composition root: reads the command line and the configuration,
//! builds every part in start-up order and takes them down in drain order.
//!
//! | file | its job |
//! |---|---|
//! | `cli` | the command line |
//! | `host` | the parts: MCP servers, model, tool loop |
//! | `serve`, `ask`, `bench`, `check`, `demo`, `inspect`, `tools` | one command each |

mod ask;
mod bench;
mod check;
mod cli;
mod demo;
mod host;
mod inspect;
mod serve;
mod tools;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracing::error;

use crate::config::{self, Config};
use crate::logging::{self, Level, Redactor};
use crate::model;
use cli::{Cli, Command};

/// How long work that nobody waits for any more may hold up the exit.
const RUNTIME_GRACE: Duration = Duration::from_millis(200);

/// A configuration that cannot be used, as `sysexits.h` numbers it.
const BAD_CONFIG: u8 = 78;

/// Any other error there is no way around.
const FAILED: u8 = 1;

/// Why a command failed.
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// An error that is not the configuration's.
    fn new(message: impl Display) -> Self {
        Self {
            code: FAILED,
            message: message.to_string(),
        }
    }

    /// The configuration's error.
    fn config(message: impl Display) -> Self {
        Self {
            code: BAD_CONFIG,
            message: message.to_string(),
        }
    }
}

/// Runs the command named by the process's arguments.
pub fn run() -> ExitCode {
    let Cli { config, command } = Cli::parse();
    let code = to_end(async {
        match command {
            None => serve::run(&config, model::load).await,
            Some(Command::Ask { prompt }) => ask::run(&config, &prompt).await,
            Some(Command::Bench(options)) => bench::run(&config, options).await,
            Some(Command::Check) => check::run(&config).await,
            Some(Command::Demo(options)) => demo::run(options).await,
            Some(Command::Inspect(options)) => inspect::run(&config, options).await,
            Some(Command::Tools(options)) => tools::run(options).await,
        }
    });
    code.into()
}

/// Runs `command` to its end: the exit code of the process. Why it is not 0
/// has been said.
fn to_end(command: impl Future<Output = Result<(), Failure>>) -> u8 {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(format_args!("llm-server: no runtime: {error}"));
            return FAILED;
        }
    };
    let result = runtime.block_on(command);
    // A blocking read of stdin or a prompt nobody waits for must not hold up
    // the exit.
    runtime.shutdown_timeout(RUNTIME_GRACE);
    match result {
        Ok(()) => 0,
        Err(failure) => {
            say(format_args!("llm-server: {}", failure.message));
            failure.code
        }
    }
}

/// Runs `command` with a log: what it fails with is in the log as well.
async fn with_log<T>(
    settings: &logging::Settings,
    secrets: &[String],
    command: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let redact = |failure: Failure| Failure {
        message: Redactor::new(secrets).redact(&failure.message).into_owned(),
        ..failure
    };
    let _guard =
        logging::init(settings, secrets.to_vec()).map_err(|error| redact(Failure::new(error)))?;
    let result = command.await.map_err(redact);
    if let Err(failure) = &result {
        // Not to stderr as well: `run` says it there.
        error!(target: logging::FILE_ONLY, "{}", failure.message);
    }
    result
}

/// Reads the configuration. Faults are in its log too, if that much of it
/// could be read.
async fn load_config(path: &Path) -> Result<Config, Failure> {
    let faults = match config::load(path) {
        Ok(config) => return Ok(config),
        Err(faults) => faults,
    };
    let failure = || Failure::config(format_args!("{} cannot be used:\n{faults}", path.display()));
    if let Some(log) = &faults.log {
        return with_log(log, &[], async { Err(failure()) }).await;
    }
    Err(failure())
}

/// The log's settings with what goes to stderr beside it.
fn log_to_stderr(config: &Config, level: Level) -> logging::Settings {
    logging::Settings {
        to_stderr: Some(level),
        ..config.log.clone()
    }
}

/// A line for the person who started the program.
fn say(line: impl Display) {
    // With stderr gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

/// A line of the command's result.
fn print(line: impl Display) -> Result<(), Failure> {
    print_exactly(format_args!("{line}\n"))
}

/// The command's result, without a newline behind it.
fn print_exactly(text: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(format_args!("cannot write to stdout: {error}")))
}

#[cfg(test)]
mod tests;
