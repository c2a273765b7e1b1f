//! A connection's stream with two guards that hyper does not offer: against
//! a client that stops reading, and in place of hyper's own refusals of what
//! is not HTTP, which have no body. Does not know what requests ask for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The stream under guard.
pub(super) struct Guarded<S> {
    stream: S,
    stall_timeout: Duration,
    /// Runs while a write stands still.
    stall: Option<Pin<Box<Sleep>>>,
    /// Whether the last write left a rest, with which the next one begins. A
    /// rest may be any text, and is never taken for a refusal.
    rest: bool,
    /// The refusal hyper wanted to write. It was kept from the client, who
    /// is owed one with a body.
    refusal: Option<StatusCode>,
    /// Whether the client has said something since it was last answered.
    heard: bool,
}

/// What the stream can tell when hyper is done with it.
pub(super) struct Unguarded<S> {
    pub(super) stream: S,
    pub(super) refusal: Option<StatusCode>,
    pub(super) heard: bool,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, stall_timeout: Duration) -> Self {
        Self {
            stream,
            stall_timeout,
            stall: None,
            rest: false,
            refusal: None,
            heard: false,
        }
    }

    pub(super) fn into_inner(self) -> Unguarded<S> {
        Unguarded {
            stream: self.stream,
            refusal: self.refusal,
            heard: self.heard,
        }
    }

    /// Passes on what came of a write, unless it has stood still for too long.
    fn unless_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let timeout = self.stall_timeout;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.heard |= buf.filled().len() > before;
        Poll::Ready(Ok(()))
    }
}

/// Not vectored, so that a head comes in one piece and can be told apart.
impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.rest
            && let Some(status) = refusal_of_hyper(buf)
        {
            self.refusal = Some(status);
            return Poll::Ready(Ok(buf.len()));
        }
        self.heard = false;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.rest = !matches!(written, Poll::Ready(Ok(length)) if length == buf.len());
        self.unless_stalled(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unless_stalled(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The status of a refusal that hyper makes by itself. They are known by
/// their empty bodies: every response of ours to anything has one.
fn refusal_of_hyper(head: &[u8]) -> Option<StatusCode> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let status = StatusCode::from_bytes(rest.get(2..5)?).ok()?;
    if !status.is_client_error() || !head.ends_with(b"\r\n\r\n") {
        return None;
    }
    let empty = b"\r\ncontent-length: 0\r\n";
    let is_empty = head.windows(empty.len()).any(|window| window == empty);
    is_empty.then_some(status)
}
