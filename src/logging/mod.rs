//! The log: one line an event into a file that starts anew each day, and on
//! request a short form of the same on stderr.
//!
//! Lines are handed to a queue and written by a thread of their own, so that
//! a slow, full or stalled disk never holds up a request. When the queue is
//! full, lines are dropped; how many is logged as soon as a line gets through.
//! The values of the configuration's secrets are replaced in every line.
//!
//! For tests, the environment variable `LLM_SERVER_TEST_CLOCK` (an instant
//! such as `2026-03-28T23:59:58+01:00`) sets where the log's clock starts
//! ticking; nothing but the log's own clock is affected.
//!
//! Knows nothing of the rest of the program.

mod clock;
mod file;
mod panics;
mod record;
mod redact;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use tracing::Subscriber;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt as format};

use clock::{Clock, Stamp, SystemClock, Ticker};
use file::DailyFile;
use record::{Records, TerminalFields};
pub use redact::Redactor;

/// The environment variable that sets the log's clock, for tests.
pub const TEST_CLOCK: &str = "LLM_SERVER_TEST_CLOCK";

/// The target of events that stay away from stderr: the program says the same
/// there in its own words.
pub const FILE_ONLY: &str = concat!(env!("CARGO_CRATE_NAME"), "::file_only");

/// Parts of libraries that call each failed attempt an error, though it is
/// tried again; our own events say so, and say what to do.
const TOLD_BY_US: [&str; 2] = ["hf_hub", "rmcp::transport::worker"];

/// Lines that may wait for the disk. With `record::LONGEST` this bounds the
/// memory that waiting lines can take.
const QUEUE: usize = 8192;

/// What the log is told by the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The least severe level that is written to the file.
    pub level: Level,
    /// The file, by its full path.
    pub file: PathBuf,
    /// The least severe level that is also written to stderr; `None` writes
    /// nothing there.
    pub to_stderr: Option<Level>,
}

/// How severe an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Every step.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What happened.
    Info,
    /// What should not have happened but was dealt with.
    Warning,
    /// What failed.
    Error,
}

impl Level {
    /// The names, least severe first.
    pub const NAMES: [&str; 5] = ["trace", "debug", "info", "warning", "error"];

    /// What is let through: our own events at this level, and those of the
    /// libraries one step quieter, since at their own `info` they tell of
    /// every connection and frame. [`TOLD_BY_US`] are quieter still.
    fn targets(self) -> Targets {
        let (ours, theirs) = match self {
            Self::Trace => (LevelFilter::TRACE, LevelFilter::DEBUG),
            Self::Debug => (LevelFilter::DEBUG, LevelFilter::INFO),
            Self::Info => (LevelFilter::INFO, LevelFilter::WARN),
            Self::Warning => (LevelFilter::WARN, LevelFilter::WARN),
            Self::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        };
        let told_by_us = match self {
            Self::Trace | Self::Debug => theirs,
            _ => LevelFilter::OFF,
        };
        Targets::new()
            .with_targets(TOLD_BY_US.map(|target| (target, told_by_us)))
            .with_default(theirs)
            .with_target(env!("CARGO_CRATE_NAME"), ours)
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Ok(match name {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "info" => Self::Info,
            "warning" => Self::Warning,
            "error" => Self::Error,
            _ => return Err(()),
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES[*self as usize])
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder could not be made.
    #[error("the log's folder {} cannot be created: {source}; choose another log_filename or create the folder", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file could not be opened.
    #[error("the log file {} cannot be written: {source}; choose another log_filename or make it writable", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The test clock makes no sense.
    #[error("{TEST_CLOCK} is not an instant such as 2026-03-28T23:59:58+01:00: {0}")]
    TestClock(jiff::Error),
    /// A thread could not be started.
    #[error("the log's thread cannot be started: {0}")]
    Thread(io::Error),
    /// There is a log already.
    #[error("the log was set up twice")]
    Twice,
}

/// Keeps the log alive. Dropping it writes what still waits.
#[must_use = "the log ends when the guard is dropped"]
pub struct Guard {
    // Dropped in this order: the ticker feeds the file's queue.
    _ticker: Ticker,
    _file: WorkerGuard,
    _stderr: Option<WorkerGuard>,
}

/// Starts the log for the whole process, our own panics included. `secrets`
/// are the values that must not be seen in it.
///
/// # Errors
/// If the file cannot be written (a full disk is no error: what happens until
/// there is room is lost) or the process has a log already.
pub fn init(settings: &Settings, secrets: Vec<String>) -> Result<Guard, LogError> {
    let start = std::env::var(TEST_CLOCK).ok();
    let clock = Arc::new(SystemClock::starting_at(start.as_deref()).map_err(LogError::TestClock)?);
    let (subscriber, guard) = build(settings, &secrets, clock)?;
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    panics::log_panics();
    Ok(guard)
}

/// Everything `init` sets up, with the clock injected and without touching
/// the process's state.
fn build(
    settings: &Settings,
    secrets: &[String],
    clock: Arc<dyn Clock>,
) -> Result<(impl Subscriber + for<'a> LookupSpan<'a> + use<>, Guard), LogError> {
    make_folder(&settings.file)?;
    let redactor = Arc::new(Redactor::new(secrets));

    let dropped = Arc::new(OnceLock::new());
    let file =
        DailyFile::open(&settings.file, clock.clone(), dropped.clone()).map_err(|source| {
            LogError::File {
                file: settings.file.clone(),
                source,
            }
        })?;
    let (queue, file_guard) = queue(file, "log-file");
    // The file was just made and nothing else sets its counter.
    let _ = dropped.set(queue.error_counter());
    let ticker = Ticker::start(clock.clone(), queue.clone()).map_err(LogError::Thread)?;
    let file_layer = format::layer()
        .with_ansi(false)
        .with_timer(Stamp::full(clock.clone()))
        .with_writer(Records::new(queue, redactor.clone()))
        .with_filter(settings.level.targets());

    let (stderr_layer, stderr_guard) = match settings.to_stderr {
        None => (None, None),
        Some(level) => {
            let (queue, guard) = self::queue(io::stderr(), "log-stderr");
            let layer = format::layer()
                .compact()
                .fmt_fields(TerminalFields::default())
                .with_ansi(colour_wanted())
                .with_target(false)
                .with_timer(Stamp::short(clock))
                .with_writer(Records::new(queue, redactor))
                .with_filter(level.targets().with_target(FILE_ONLY, LevelFilter::OFF));
            (Some(layer), Some(guard))
        }
    };

    let subscriber = tracing_subscriber::registry()
        .with(file_layer)
        .with(stderr_layer);
    let guard = Guard {
        _ticker: ticker,
        _file: file_guard,
        _stderr: stderr_guard,
    };
    Ok((subscriber, guard))
}

fn make_folder(file: &Path) -> Result<(), LogError> {
    let Some(folder) = file.parent() else {
        return Ok(());
    };
    std::fs::create_dir_all(folder).map_err(|source| LogError::Folder {
        folder: folder.to_owned(),
        source,
    })
}

/// Lossy: a caller never waits for the writer.
fn queue<W: io::Write + Send + 'static>(writer: W, thread: &str) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUE)
        .thread_name(thread)
        .finish(writer)
}

fn colour_wanted() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !refused
}
