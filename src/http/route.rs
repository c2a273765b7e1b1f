//! What every request passes through, whatever it asks for: its id, the
//! choice of the surface, the limits on time and number, and the turn of
//! failures and panics into responses.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures::FutureExt;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response};
use tokio::time::timeout;
use tracing::{Instrument, error, error_span, info, warn};

use super::failure::Failure;
use super::{Server, prompt};

/// Answers one request of a connection. `refused` is told whether it was
/// refused, in which case parts of it may be unread.
pub(super) async fn respond(
    server: Arc<Server>,
    refused: Arc<AtomicBool>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let id = format!("{:08x}", rand::random::<u32>());
    // At the highest level, so that it is there at whatever level is logged.
    let span = error_span!("request", %id);
    let answered = async {
        let mut watch = Watch::begin();
        let outcome = guarded(&server, request).await;
        watch.done = true;
        refused.store(outcome.is_err(), Ordering::Relaxed);
        outcome.unwrap_or_else(|failure| {
            log(&failure, watch.begun);
            failure.response()
        })
    };
    let mut response = answered.instrument(span).await;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    Ok(response)
}

/// The request's outcome, a panic included, and the end of the grace period.
async fn guarded(
    server: &Server,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Failure> {
    if server.draining.is_cancelled() {
        return Err(Failure::Draining);
    }
    // Nothing that a panic can leave half done is used again: what a request
    // changes outside of itself it changes through guards.
    let routed = AssertUnwindSafe(route(server, request)).catch_unwind();
    tokio::select! {
        outcome = routed => outcome.unwrap_or_else(|_| Err(Failure::panic())),
        () = server.cut.cancelled() => Err(Failure::Draining),
    }
}

/// One line a surface.
async fn route(
    server: &Server,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Failure> {
    match (request.uri().path(), request.method()) {
        ("/", &Method::POST) => prompt::answer(server, request).await,
        ("/", _) => Err(Failure::MethodNotAllowed { allow: "POST" }),
        _ => Err(Failure::NotFound),
    }
}

impl Server {
    /// Does `work` when there is a slot for it, all within the time a request
    /// may take. The slot is free again when the work is done, however long
    /// the client takes to read what comes of it.
    pub(super) async fn within_limits<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let limit = self.settings.request_timeout;
        let queued = async {
            let _slot = self.queue.enter().await.map_err(|_| Failure::QueueFull)?;
            Ok(work.await)
        };
        timeout(limit, queued)
            .await
            .unwrap_or(Err(Failure::Deadline(limit)))
    }
}

/// Notices when a request ends before its time.
struct Watch {
    begun: Instant,
    done: bool,
}

impl Watch {
    fn begin() -> Self {
        Self {
            begun: Instant::now(),
            done: false,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.done {
            info!(
                total_ms = self.begun.elapsed().as_millis(),
                "the client is gone: its request is cancelled"
            );
        }
    }
}

fn log(failure: &Failure, begun: Instant) {
    let status = failure.status();
    let code = status.as_u16();
    let total_ms = begun.elapsed().as_millis();
    match failure.cause() {
        Some(cause) => {
            error!(status = code, error = ?failure.to_string(), ?cause, total_ms, "request failed")
        }
        None if status.is_server_error() => {
            warn!(status = code, error = ?failure.to_string(), total_ms, "request refused");
        }
        None => info!(status = code, error = ?failure.to_string(), total_ms, "request refused"),
    }
}
