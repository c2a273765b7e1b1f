//! A child's stderr into our log. Reads as fast as the child writes, so that
//! the child never waits for us; what is too much for the log is counted.

use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncRead;
use tracing::{debug, info};

use super::lines::{Line, Lines};
use super::secrets::Secrets;
use super::throttle::Throttle;

/// The longest line that is logged, in bytes.
const LINE: usize = 4096;
/// The most lines a second.
const RATE: u32 = 200;

/// Logs every line until the end of the stream.
pub(super) async fn log(server: Arc<str>, secrets: Arc<Secrets>, stream: impl AsyncRead + Unpin) {
    let mut lines = Lines::new(stream, |_| LINE);
    let mut throttle = Throttle::new(RATE);
    loop {
        let next = match throttle.due() {
            None => lines.next().await,
            Some(due) => match tokio::time::timeout_at(due.into(), lines.next()).await {
                Ok(next) => next,
                Err(_) => {
                    report(&server, throttle.rest());
                    continue;
                }
            },
        };
        let (bytes, end) = match next {
            Ok(Some(Line::Whole(bytes))) => (bytes, ""),
            Ok(Some(Line::Cut(bytes))) => (bytes, "…"),
            Ok(None) => break,
            Err(error) => {
                debug!(server = %server, %error, "stderr cannot be read any more");
                break;
            }
        };
        let now = Instant::now();
        report(&server, throttle.take_suppressed(now));
        if bytes.is_empty() || !throttle.admit(now) {
            continue;
        }
        let text = secrets.hide(&String::from_utf8_lossy(bytes)) + end;
        info!(server = %server, line = ?text, "stderr");
    }
    report(&server, throttle.rest());
}

fn report(server: &str, suppressed: Option<u64>) {
    if let Some(count) = suppressed {
        info!(server = %server, "stderr: {count} lines suppressed (more than {RATE} a second)");
    }
}
