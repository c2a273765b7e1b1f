//! What one event becomes on its way to a queue: a single line without
//! secrets and of bounded length. Knows nothing of files.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;

use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

use super::Redactor;

/// The longest line, in bytes.
pub(super) const LONGEST: usize = 16 * 1024;

/// The way into a queue. Secrets are replaced here, before anything is cut,
/// so that no cut can leave half of one.
#[derive(Clone)]
pub(super) struct Records {
    queue: NonBlocking,
    redactor: Arc<Redactor>,
}

impl Records {
    pub(super) fn new(queue: NonBlocking, redactor: Arc<Redactor>) -> Self {
        Self { queue, redactor }
    }
}

impl<'a> MakeWriter<'a> for Records {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Records {
    /// Takes one event, as the formatting layer hands it over: whole.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = line(&String::from_utf8_lossy(event), &self.redactor);
        self.queue.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The event as one line. Line breaks inside are written as `\n`, so that
/// nothing from outside can pretend to be a line of its own.
pub(super) fn line(event: &str, redactor: &Redactor) -> String {
    let event = event.strip_suffix('\n').unwrap_or(event);
    let event = redactor.redact(event);
    let mut line = match event.contains(['\n', '\r']) {
        true => Cow::Owned(event.replace('\n', "\\n").replace('\r', "\\r")),
        false => event,
    }
    .into_owned();
    if line.len() > LONGEST {
        let end = (0..=LONGEST)
            .rev()
            .find(|&at| line.is_char_boundary(at))
            .unwrap_or(0);
        let cut = line.len() - end;
        line.truncate(end);
        line.push_str(&format!("… [{cut} bytes cut]"));
    }
    line.push('\n');
    line
}

/// The default way to write fields, under a type of its own: layers with the
/// same type share the text of a span's fields, and with it the colours.
#[derive(Default)]
pub(super) struct TerminalFields(DefaultFields);

impl<'w> FormatFields<'w> for TerminalFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> std::fmt::Result {
        self.0.format_fields(writer, fields)
    }
}
