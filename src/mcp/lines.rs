//! Lines out of a byte stream that may be anything: bounded in memory and safe
//! to cancel. Knows nothing of what the lines say.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// A buffer that grew beyond this for one long line is not kept for the next.
const KEEP: usize = 1 << 20;

/// One line without its end (`\n` or `\r\n`).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It is longer than the limit: its beginning. The rest is skipped.
    Cut(&'a [u8]),
}

/// Reads lines.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    /// The line so far. It survives a cancelled [`Lines::next`], which goes on
    /// with it.
    buffer: Vec<u8>,
    state: State,
    limit: fn(u8) -> usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// `buffer` holds the beginning of a line.
    Filling,
    /// `buffer` holds a line that was handed out.
    Delivered,
    /// The rest of the line that was handed out is to be skipped.
    Skipping,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most `limit(first byte of the line)` bytes.
    pub(super) fn new(reader: R, limit: fn(u8) -> usize) -> Self {
        Self {
            reader: BufReader::with_capacity(64 * 1024, reader),
            buffer: Vec::new(),
            state: State::Filling,
            limit,
        }
    }

    /// The next line; `None` at the end. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        if self.state != State::Filling {
            if self.buffer.capacity() > KEEP {
                self.buffer = Vec::new();
            }
            self.buffer.clear();
            if self.state == State::Delivered {
                self.state = State::Filling;
            }
        }
        loop {
            // From here to `consume` there is no await, so that a cancelled
            // call has either taken bytes and stored them or done neither.
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                if self.state == State::Skipping || self.buffer.is_empty() {
                    return Ok(None);
                }
                self.state = State::Delivered;
                return Ok(Some(Line::Whole(trim_end(&self.buffer))));
            }
            let newline = available.iter().position(|byte| *byte == b'\n');
            let content = &available[..newline.unwrap_or(available.len())];
            let consumed = content.len() + usize::from(newline.is_some());
            if self.state == State::Skipping {
                if newline.is_some() {
                    self.state = State::Filling;
                }
                self.reader.consume(consumed);
                continue;
            }
            let first = self.buffer.first().or(content.first()).copied();
            let limit = first.map_or(0, self.limit);
            let room = limit.saturating_sub(self.buffer.len());
            let fits = content.len() <= room;
            self.buffer
                .extend_from_slice(&content[..content.len().min(room)]);
            self.reader.consume(consumed);
            if !fits {
                self.state = match newline {
                    Some(_) => State::Delivered,
                    None => State::Skipping,
                };
                return Ok(Some(Line::Cut(&self.buffer)));
            }
            if newline.is_some() {
                self.state = State::Delivered;
                return Ok(Some(Line::Whole(trim_end(&self.buffer))));
            }
        }
    }
}

fn trim_end(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn limit(first: u8) -> usize {
        if first == b'{' { 10 } else { 4 }
    }

    async fn all(input: &[u8]) -> Vec<(bool, Vec<u8>)> {
        let mut lines = Lines::new(input, limit);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            found.push(match line {
                Line::Whole(text) => (true, text.to_vec()),
                Line::Cut(text) => (false, text.to_vec()),
            });
        }
        found
    }

    #[tokio::test]
    async fn splits_cuts_and_skips() {
        let found = all(b"ab\r\n\nabcd\nabcdefgh\n{234567890\n{2345678901\nend").await;
        let expected: [(bool, &[u8]); 7] = [
            (true, b"ab"),
            (true, b""),
            (true, b"abcd"),
            (false, b"abcd"),
            (true, b"{234567890"),
            (false, b"{234567890"),
            (true, b"end"),
        ];
        assert_eq!(found, expected.map(|(whole, text)| (whole, text.to_vec())));
    }

    #[tokio::test]
    async fn a_cancelled_read_loses_nothing() {
        let (mut write, read) = tokio::io::duplex(64);
        let mut lines = Lines::new(read, |_| 100);
        for part in ["on", "e l", "ine\nand"] {
            write.write_all(part.as_bytes()).await.unwrap();
            let wait = Duration::from_millis(20);
            if let Ok(line) = tokio::time::timeout(wait, lines.next()).await {
                assert_eq!(line.unwrap(), Some(Line::Whole(b"one line")));
            }
        }
        drop(write);
        assert_eq!(lines.next().await.unwrap(), Some(Line::Whole(b"and")));
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_endless_line_is_not_kept() {
        let mut lines = Lines::new(tokio::io::repeat(b'x'), |_| 1000);
        assert!(matches!(lines.next().await.unwrap(), Some(Line::Cut(line)) if line.len() == 1000));
        let more = tokio::time::timeout(Duration::from_millis(50), lines.next()).await;
        assert!(more.is_err());
        assert!(lines.buffer.capacity() < 4000);
    }
}
