//! The transport over a child's pipes: one JSON-RPC message a line. Whatever
//! else the child prints on stdout is logged and skipped; only a message
//! beyond all bounds or a child that stops reading ends the connection.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rmcp::model::{ErrorData, JsonRpcMessage, RequestId};
use rmcp::service::{RoleClient, RxJsonRpcMessage, TxJsonRpcMessage};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;
use tracing::{debug, warn};

use super::connection::Gone;
use super::lines::{Line, Lines};
use super::throttle::Throttle;

/// The longest message a server may send, in bytes.
const MESSAGE: usize = 64 << 20;
/// How much of anything else is looked at.
const GARBAGE: usize = 4096;
/// How much of that is logged, in characters.
const SHOWN: usize = 200;
/// How many skipped lines a second are logged.
const RATE: u32 = 10;
/// How long a child may take to read one message.
const WRITE: Duration = Duration::from_secs(30);

/// The transport `rmcp` runs on.
pub(super) struct StdioTransport<R, W> {
    server: Arc<str>,
    lines: Lines<R>,
    /// `None` once closed. Locked while one message is written, so that
    /// messages never mix.
    stdin: Arc<Mutex<Option<W>>>,
    gone: Arc<Gone>,
    throttle: Throttle,
    warned: bool,
}

impl<R: AsyncRead + Unpin, W> StdioTransport<R, W> {
    /// `gone` is told when the connection ends and why.
    pub(super) fn new(server: Arc<str>, stdout: R, stdin: W, gone: Arc<Gone>) -> Self {
        Self {
            server,
            lines: Lines::new(
                stdout,
                |first| if first == b'{' { MESSAGE } else { GARBAGE },
            ),
            stdin: Arc::new(Mutex::new(Some(stdin))),
            gone,
            throttle: Throttle::new(RATE),
            warned: false,
        }
    }
}

impl<R, W> rmcp::transport::Transport<RoleClient> for StdioTransport<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), io::Error>> + Send + 'static {
        let stdin = Arc::clone(&self.stdin);
        let gone = Arc::clone(&self.gone);
        async move {
            let mut line = serde_json::to_vec(&message)?;
            line.push(b'\n');
            let mut stdin = stdin.lock().await;
            let Some(pipe) = stdin.as_mut() else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            let write = async {
                pipe.write_all(&line).await?;
                pipe.flush().await
            };
            let written = match tokio::time::timeout(WRITE, write).await {
                Ok(written) => written,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            if let Err(error) = &written {
                // Half a message may be out: nothing sensible can follow it.
                *stdin = None;
                gone.set(format!("it does not read its stdin ({error})"));
            }
            written
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        loop {
            let line = match self.lines.next().await {
                Ok(Some(Line::Whole(line))) => line,
                Ok(Some(Line::Cut(line))) => {
                    if line.starts_with(b"{") {
                        let megabytes = MESSAGE >> 20;
                        self.gone
                            .set(format!("it sent a message of more than {megabytes} MB"));
                        return None;
                    }
                    line
                }
                Ok(None) => {
                    self.gone.set("it closed its stdout".to_owned());
                    return None;
                }
                Err(error) => {
                    self.gone
                        .set(format!("its stdout cannot be read ({error})"));
                    return None;
                }
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            if let Some(message) = parse(line) {
                return Some(message);
            }
            let shown: String = String::from_utf8_lossy(line).chars().take(SHOWN).collect();
            let server = &*self.server;
            if !self.warned {
                self.warned = true;
                warn!(
                    server,
                    line = ?shown,
                    "skipped a line on stdout that is no MCP message; \
                     a server must print its messages there and nothing else"
                );
            } else if self.throttle.admit(Instant::now()) {
                debug!(server, line = ?shown, "skipped a line on stdout");
            }
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        // Dropping our end is what tells the child to leave.
        self.stdin.lock().await.take();
        Ok(())
    }
}

/// The message in a line. An answer that is not quite valid becomes an error
/// for the request it names, so that nobody waits for it in vain.
fn parse(line: &[u8]) -> Option<RxJsonRpcMessage<RoleClient>> {
    match serde_json::from_slice(line) {
        Ok(message) => Some(message),
        Err(error) => {
            let value: Value = serde_json::from_slice(line).ok()?;
            if value.get("method").is_some()
                || (value.get("result").is_none() && value.get("error").is_none())
            {
                return None;
            }
            let id: RequestId = serde_json::from_value(value.get("id")?.clone()).ok()?;
            let text = format!("the answer is not valid JSON-RPC: {error}");
            Some(JsonRpcMessage::error(
                ErrorData::internal_error(text, None),
                Some(id),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_no_message_and_a_broken_answer_is_an_error() {
        for garbage in [
            "hello",
            "42",
            "{",
            r#"{"a": 1}"#,
            r#"[{"jsonrpc": "2.0", "method": "x"}]"#,
            r#"{"id": 1, "result": "#,
        ] {
            assert!(parse(garbage.as_bytes()).is_none(), "{garbage}");
        }
        for broken in [
            r#"{"jsonrpc": "2.0", "id": 7, "error": "no"}"#,
            r#"{"id": 7, "result": {}}"#,
        ] {
            let message = parse(broken.as_bytes());
            assert!(
                matches!(&message, Some(JsonRpcMessage::Error(error)) if error.id == Some(RequestId::Number(7))),
                "{broken} {message:?}"
            );
        }
        for message in [
            r#"{"jsonrpc": "2.0", "id": 7, "result": {}}"#,
            r#"{"jsonrpc": "2.0", "method": "notifications/never/heard/of", "params": {"a": 1}}"#,
        ] {
            assert!(parse(message.as_bytes()).is_some(), "{message}");
        }
    }
}
