//! The log file: appended to, set aside at local midnight under the name of
//! the day that ended, and never a reason to stop. Knows nothing of events.
//!
//! A file `LOG` becomes `LOG-YYYYMMdd`; if there is a file of that name, it
//! becomes `LOG-YYYYMMdd.1`, `.2` and so on. No file is ever overwritten or
//! deleted. A day without lines leaves no file.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use tracing_appender::non_blocking::ErrorCounter;

use super::clock::{Clock, FULL};

/// How long a failed renaming is left alone before it is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(60);

/// How many files of one day there may be.
const MOST_OF_A_DAY: usize = 10_000;

/// The file that lines are appended to.
pub(super) struct DailyFile {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    /// `None` while it cannot be opened; each line tries again.
    file: Option<File>,
    /// The local day whose lines the file holds.
    day: Date,
    /// When renaming may be tried again after it failed.
    retry_at: Option<Timestamp>,
    /// Whether the last line in the file has no end, because the disk was full.
    torn: bool,
    /// Lines that could not be written, and why the last one could not.
    lost: Option<(u64, io::Error)>,
    /// Lines that never came here because the queue was full: the queue's
    /// counter (set once the queue exists), and how many were told of.
    dropped: Arc<OnceLock<ErrorCounter>>,
    dropped_told: usize,
}

impl DailyFile {
    /// Opens the file for appending. One whose last line is of an earlier day
    /// is set aside first.
    pub(super) fn open(
        path: &Path,
        clock: Arc<dyn Clock>,
        dropped: Arc<OnceLock<ErrorCounter>>,
    ) -> io::Result<Self> {
        let now = clock.now();
        let mut this = Self {
            path: path.to_owned(),
            day: now.date(),
            file: None,
            retry_at: None,
            torn: false,
            lost: None,
            dropped,
            dropped_told: 0,
            clock,
        };
        let written = fs::metadata(path)
            .and_then(|found| found.modified())
            .ok()
            .and_then(|time| Timestamp::try_from(time).ok());
        if let Some(written) = written {
            this.day = written
                .to_zoned(now.time_zone().clone())
                .date()
                .min(this.day);
        }
        match append(path) {
            Ok(file) => this.file = Some(file),
            Err(error) if disk_is_full(&error) => this.lost = Some((0, error)),
            Err(error) => return Err(error),
        }
        this.end_day_if_over();
        Ok(this)
    }

    /// Sets the file aside and begins a new one if its day is over.
    fn end_day_if_over(&mut self) {
        let now = self.clock.now();
        // A clock that was set back, or a journey west, ends no day.
        if now.date() <= self.day || self.retry_at.is_some_and(|at| now.timestamp() < at) {
            return;
        }
        let set_aside = match self.points_to_our_file() {
            Some(found) if found.is_file() && found.len() > 0 => set_aside(&self.path, self.day),
            // Empty, a device, or moved away by someone else: nothing to rename.
            _ => Ok(()),
        };
        match set_aside {
            Ok(()) => {
                self.day = now.date();
                self.retry_at = None;
                self.file = None;
                self.reopen();
            }
            Err(error) => {
                // The lines go on into the old file, which is better than losing them.
                self.retry_at = now.timestamp().checked_add(RETRY).ok();
                let note = format!("the log could not be renamed at the end of its day: {error}");
                self.append_note(&note);
            }
        }
    }

    /// What the path leads to, if that is the file we have open.
    fn points_to_our_file(&self) -> Option<Metadata> {
        let ours = self.file.as_ref()?.metadata().ok()?;
        let found = fs::metadata(&self.path).ok()?;
        (ours.dev() == found.dev() && ours.ino() == found.ino()).then_some(found)
    }

    fn reopen(&mut self) {
        match append(&self.path) {
            Ok(file) => {
                self.file = Some(file);
                self.torn = false;
            }
            Err(error) => {
                self.file = None;
                let lines = self.lost.take().map_or(0, |(lines, _)| lines);
                self.lost = Some((lines, error));
            }
        }
    }

    /// Appends a line, and before it, where lines were lost, how many.
    fn append_line(&mut self, line: &[u8]) {
        if self.file.is_none() {
            self.reopen();
        }
        let mut bytes = Vec::with_capacity(line.len() + 1);
        if self.torn {
            bytes.push(b'\n');
        }
        if let Some((lines, error)) = &self.lost
            && *lines > 0
        {
            let note = format!("{lines} lines of the log were lost: {error}");
            bytes.extend_from_slice(self.note(&note).as_bytes());
        }
        bytes.extend_from_slice(line);

        let Some(file) = &mut self.file else {
            // `reopen` has just said why.
            if let Some((lines, _)) = &mut self.lost {
                *lines += 1;
            }
            return;
        };
        let (written, result) = write_counted(file, &bytes);
        match result {
            Ok(()) => {
                self.torn = false;
                self.lost = None;
            }
            Err(error) => {
                self.torn = written > 0 && bytes[written - 1] != b'\n' || written == 0 && self.torn;
                let lines = self.lost.take().map_or(0, |(lines, _)| lines);
                self.lost = Some((lines + 1, error));
            }
        }
    }

    /// A line of the log's own.
    fn note(&self, text: &str) -> String {
        let stamp = self.clock.now().strftime(FULL).to_string();
        format!("{stamp}  WARN {}: {text}\n", module_path!())
    }

    fn append_note(&mut self, text: &str) {
        let note = self.note(text);
        self.append_line(note.as_bytes());
    }
}

impl Write for DailyFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    /// Takes one line, or nothing: an empty one is the ticker's, which only
    /// wants the day and the path looked at. Never fails: what goes wrong is
    /// remembered and told in the log once it can be.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.end_day_if_over();
        if !line.is_empty() {
            self.append_line(line);
        } else if self.file.is_some() && self.points_to_our_file().is_none() {
            // Moved or deleted by someone else.
            self.reopen();
        }
        Ok(())
    }

    /// Called when the queue is empty: the moment to tell what was dropped.
    fn flush(&mut self) -> io::Result<()> {
        let dropped = self.dropped.get().map_or(0, ErrorCounter::dropped_lines);
        let new = dropped.saturating_sub(self.dropped_told);
        if new > 0 {
            self.dropped_told = dropped;
            self.append_note(&format!(
                "{new} lines of the log were dropped: more came than could be written"
            ));
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn disk_is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Renames the file to the first free name of that day. Creating the name
/// first claims it: only one process can succeed, so the renaming replaces
/// nothing but our own empty claim. Works where hard links do not.
fn set_aside(path: &Path, day: Date) -> io::Result<()> {
    for number in 0..MOST_OF_A_DAY {
        let mut name = OsString::from(path);
        name.push(day.strftime("-%Y%m%d").to_string());
        if number > 0 {
            name.push(format!(".{number}"));
        }
        match OpenOptions::new().write(true).create_new(true).open(&name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(_) => {
                return fs::rename(path, &name).inspect_err(|_| {
                    // Our empty claim; if it stays, it is only in the way of a name.
                    let _ = fs::remove_file(&name);
                });
            }
        }
    }
    Err(io::Error::other("too many files of that day"))
}

/// `write_all` that also says how much was written before it failed.
fn write_counted(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}
