//! How far a long job has come, for a person at a terminal and for the log.
//! Knows nothing of what is downloaded or loaded.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

/// A line in the log is worth it after this long…
const LOG_EVERY: Duration = Duration::from_secs(10);
/// …or after this part of the whole, but never twice within [`LOG_AT_MOST`].
const LOG_PARTS: u64 = 10;
const LOG_AT_MOST: Duration = Duration::from_secs(1);

/// The bar's looks.
const TEMPLATE: &str = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";

/// Someone who wants to know how far a job has come. Calls may come from
/// several threads, and `advance` often: it must be cheap.
pub trait Progress: Send + Sync {
    /// The job starts: so many units (bytes, unless the job says otherwise)
    /// in so many files.
    fn begin(&self, total: u64, files: usize);
    /// So many more units of `file` are done.
    fn advance(&self, file: &str, units: u64);
    /// All of it is done.
    fn done(&self);
}

/// Nobody wants to know.
impl Progress for () {
    fn begin(&self, _total: u64, _files: usize) {}
    fn advance(&self, _file: &str, _units: u64) {}
    fn done(&self) {}
}

/// A bar on stderr when that is a terminal, and lines in the log always.
pub struct Reporter {
    /// What is being done, such as `downloading`.
    verb: &'static str,
    /// To what, such as the model's name.
    what: String,
    state: Mutex<State>,
}

/// Behind one lock, held for a few instructions: several files advance at
/// once and the bar and the log must tell of one sum.
struct State {
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    started: Instant,
    logged_at: Instant,
    logged: u64,
}

impl Reporter {
    /// A reporter of one job whose units are bytes.
    pub fn new(verb: &'static str, what: impl Into<String>) -> Self {
        let now = Instant::now();
        Self {
            verb,
            what: what.into(),
            state: Mutex::new(State {
                bar: None,
                total: 0,
                done: 0,
                started: now,
                logged_at: now,
                logged: 0,
            }),
        }
    }

    /// The numbers stay usable even if a thread died while counting.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a line in the log is due at `now`.
    fn log_is_due(&self, now: Instant) -> bool {
        let quiet = now.duration_since(self.logged_at);
        let part = (self.done - self.logged) >= self.total.div_ceil(LOG_PARTS);
        quiet >= LOG_EVERY || (part && quiet >= LOG_AT_MOST)
    }

    fn percent(&self) -> u64 {
        // In u128, since a hundred times the bytes of a model may not fit.
        match self.total {
            0 => 100,
            total => (u128::from(self.done) * 100 / u128::from(total)).min(100) as u64,
        }
    }
}

impl Progress for Reporter {
    fn begin(&self, total: u64, files: usize) {
        let mut state = self.state();
        let now = Instant::now();
        (state.total, state.done, state.logged) = (total, 0, 0);
        (state.started, state.logged_at) = (now, now);
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(total);
            bar.set_style(style());
            bar.set_prefix(format!("{} {}", self.verb, self.what));
            state.bar = Some(bar);
        }
        info!(what = ?self.what, bytes = total, files, "{}", self.verb);
    }

    fn advance(&self, file: &str, units: u64) {
        let mut state = self.state();
        state.done += units;
        if let Some(bar) = &state.bar {
            bar.set_position(state.done);
            bar.set_message(file.to_owned());
        }
        let now = Instant::now();
        if state.log_is_due(now) {
            (state.logged_at, state.logged) = (now, state.done);
            info!(
                what = ?self.what,
                ?file,
                done = state.done,
                total = state.total,
                percent = state.percent(),
                "{}",
                self.verb
            );
        }
    }

    fn done(&self) {
        let mut state = self.state();
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        info!(
            what = ?self.what,
            bytes = state.done,
            seconds = state.started.elapsed().as_secs_f32(),
            "{}: done",
            self.verb
        );
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_has_its_own_looks() {
        // `style` falls back in silence; this is where a slip is seen.
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }

    #[test]
    fn a_line_is_due_after_a_tenth_or_ten_seconds() {
        let start = Instant::now();
        let mut state = State {
            bar: None,
            total: 1000,
            done: 99,
            started: start,
            logged_at: start,
            logged: 0,
        };
        assert!(!state.log_is_due(start + Duration::from_secs(5)));
        assert!(state.log_is_due(start + Duration::from_secs(10)));
        state.done = 100;
        assert!(state.log_is_due(start + Duration::from_secs(5)));
        assert!(!state.log_is_due(start + Duration::from_millis(500)));
    }

    #[test]
    fn percent_neither_overflows_nor_divides_by_zero() {
        let now = Instant::now();
        let state = |total, done| State {
            bar: None,
            total,
            done,
            started: now,
            logged_at: now,
            logged: 0,
        };
        assert_eq!(state(0, 0).percent(), 100);
        assert_eq!(state(u64::MAX, u64::MAX / 2).percent(), 49);
        assert_eq!(state(10, 12).percent(), 100);
    }
}
