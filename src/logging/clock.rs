//! The log's clock: the local time of day that lines are stamped with and
//! that decides when a day ends. Knows nothing of files.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Says what time it is, and in which zone.
pub(super) trait Clock: Send + Sync {
    /// Now, in local time.
    fn now(&self) -> Zoned;
}

/// The system's clock and zone, shifted only in tests.
pub(super) struct SystemClock {
    ahead: SignedDuration,
}

impl SystemClock {
    /// A clock that shows `start` now, or the true time.
    pub(super) fn starting_at(start: Option<&str>) -> Result<Self, jiff::Error> {
        let ahead = match start {
            None => SignedDuration::ZERO,
            Some(start) => Timestamp::now().duration_until(start.parse()?),
        };
        Ok(Self { ahead })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Zoned {
        let now = Timestamp::now();
        // Out of range only for a test clock in the year 9999.
        let shown = now.checked_add(self.ahead).unwrap_or(now);
        // Asked for each time: the zone may change while we run.
        shown.to_zoned(TimeZone::system())
    }
}

/// Stamps lines with the clock's time.
pub(super) struct Stamp {
    clock: Arc<dyn Clock>,
    format: &'static str,
}

/// Date, time and offset, as every line of the file begins.
pub(super) const FULL: &str = "%Y-%m-%dT%H:%M:%S%.3f%:z";

impl Stamp {
    /// Date, time and offset.
    pub(super) fn full(clock: Arc<dyn Clock>) -> Self {
        let format = FULL;
        Self { clock, format }
    }

    /// The time of day alone.
    pub(super) fn short(clock: Arc<dyn Clock>) -> Self {
        let format = "%H:%M:%S";
        Self { clock, format }
    }
}

impl FormatTime for Stamp {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", self.clock.now().strftime(self.format))
    }
}

/// Sends the file's queue an empty record at midnight and once a minute, so
/// that the day also ends in a process that has nothing to log, and a file
/// moved away by someone else is noticed.
pub(super) struct Ticker {
    /// Dropping it ends the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(super) fn start(clock: Arc<dyn Clock>, mut queue: NonBlocking) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("log-ticker".to_owned())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) =
                    stopped.recv_timeout(until_next_tick(&clock.now()))
                {
                    // Lossy: if the queue is full, the file is being written anyway.
                    let _ = queue.write_all(b"");
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panics nowhere, and if it did there would be nothing to do.
            let _ = thread.join();
        }
    }
}

/// A minute, or less if the day ends before that. The few milliseconds more
/// make sure that it is past midnight then.
pub(super) fn until_next_tick(now: &Zoned) -> Duration {
    const MINUTE: Duration = Duration::from_secs(60);
    now.tomorrow()
        .and_then(|tomorrow| tomorrow.start_of_day())
        .ok()
        .and_then(|midnight| Duration::try_from(now.duration_until(&midnight)).ok())
        .map_or(MINUTE, |left| MINUTE.min(left + Duration::from_millis(5)))
}
