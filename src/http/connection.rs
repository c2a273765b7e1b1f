//! One connection from its first byte to its close: hyper in the middle,
//! the end of idle connections when the server drains, and a close that
//! leaves the client the time to read. Does not know what requests ask for.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use hyper::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::failure::error_body;
use super::guarded::{Guarded, Unguarded};
use super::{Limits, Server, route};

/// The longest head of a request.
const HEAD_BYTES: usize = 64 * 1024;

/// Serves a connection until its end.
pub(super) async fn run(stream: TcpStream, server: Arc<Server>) {
    // Answers are written in one go; there is nothing to gather.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "a connection without TCP_NODELAY");
    }
    let limits = &server.settings.limits;
    let refused = Arc::new(AtomicBool::new(false));
    let (mut unguarded, result) = speak(stream, &server, &refused).await;

    let refusal = match result {
        Ok(()) => None,
        Err(error) => {
            debug!(%error, "a connection ended");
            let late = error.is_timeout() && unguarded.heard;
            late.then_some(StatusCode::REQUEST_TIMEOUT)
                .or(unguarded.refusal)
        }
    };
    if let Some(status) = refusal {
        let response = refusal_response(status);
        let written = unguarded.stream.write_all(response.as_bytes());
        if !matches!(
            timeout(limits.write_stall_timeout, written).await,
            Ok(Ok(()))
        ) {
            return;
        }
    }
    if refusal.is_some() || refused.load(Ordering::Relaxed) {
        close_gently(unguarded.stream, limits).await;
    }
}

/// Speaks HTTP until the connection's end. When this returns, no request of
/// the connection's is under way: if the client went, it was dropped.
async fn speak(
    stream: TcpStream,
    server: &Arc<Server>,
    refused: &Arc<AtomicBool>,
) -> (Unguarded<TcpStream>, hyper::Result<()>) {
    let limits = &server.settings.limits;
    let stream = Guarded::new(stream, limits.write_stall_timeout);
    let service = service_fn(|request| {
        let (server, refused) = (Arc::clone(server), Arc::clone(refused));
        route::respond(server, refused, request).boxed()
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // Hyper is not let shut the stream down, which is needed for a gentle close.
    let ended = tokio::select! {
        result = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => Some(result),
        () = server.draining.cancelled() => None,
    };
    let result = match ended {
        Some(result) => result,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    (connection.into_parts().io.into_inner().into_inner(), result)
}

/// What the client reads where hyper refuses a request.
fn refusal_response(status: StatusCode) -> String {
    let sentence = match status {
        StatusCode::REQUEST_TIMEOUT => "The request's head took too long to arrive.",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "The request's head is too large.",
        _ => "The request is not valid HTTP/1.1.",
    };
    let body = error_body(sentence).to_string();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Closes such that the client can read its answer first: a close with input
/// unread resets the connection, and a reset destroys what is on its way.
async fn close_gently(mut stream: TcpStream, limits: &Limits) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let discard = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(Ok(1..)) = timeout(limits.linger_idle, stream.read(&mut buffer)).await {}
    };
    // Both ways to end are right: the client closed, or it had its time.
    let _ = timeout(limits.linger, discard).await;
}
