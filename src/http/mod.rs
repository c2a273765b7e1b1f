//! The HTTP surface: accept, limits, JSON in and out, errors to statuses.
//! One file a surface; so far `prompt`, which is `POST /`.
//!
//! Knows nothing of tokens and nothing of tools: it hands a prompt to the
//! session and writes down what comes back.
//!
//! # What a client can meet
//!
//! | status | when |
//! |---|---|
//! | 200 | the answer |
//! | 400 | the request is malformed, or the prompt does not fit the model's context |
//! | 404, 405 | another path; another method |
//! | 408 | the head or the body comes too slowly |
//! | 413, 431 | the body is longer than [`Limits::body_bytes`]; the head is too large |
//! | 500 | something failed inside |
//! | 503 | the queue is full, or the server is ending; with `Retry-After` |
//! | 504 | [`Settings::request_timeout`] passed, queueing included |
//!
//! Every error is `{"Error": "one sentence"}`. A client that closes its side
//! of the connection before it has its answer counts as gone, and its request
//! is cancelled; half-closed connections are not told apart from closed ones.

mod accept;
mod connection;
mod failure;
mod guarded;
pub(crate) mod openai_messages;
mod prompt;
mod queue;
mod request_body;
mod route;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::session::ToolLoop;
use queue::Queue;

/// What the server is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many requests are answered at once; at least one.
    pub max_concurrent_requests: usize,
    /// How many more wait for their turn. Beyond that clients get 503.
    pub max_queued_requests: usize,
    /// The limit for one request, from the moment its body is there, the wait
    /// for its turn included.
    pub request_timeout: Duration,
    /// How long requests may go on once the server is told to stop.
    pub shutdown_grace: Duration,
    /// What the configuration does not touch.
    pub limits: Limits,
}

/// Limits that protect the server from its clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The longest request body.
    pub body_bytes: usize,
    /// The bodies of all requests in the house together. What would go beyond
    /// is turned away with 503, so that many large requests cannot take all
    /// memory.
    pub all_bodies_bytes: usize,
    /// Open connections. Beyond that new ones wait to be accepted.
    pub connections: usize,
    /// For a request's head, and for a connection on which nothing happens.
    pub header_timeout: Duration,
    /// Between two pieces of a body.
    pub body_idle_timeout: Duration,
    /// For a whole body.
    pub body_timeout: Duration,
    /// For a client that does not read: how long a write may stand still.
    pub write_stall_timeout: Duration,
    /// How long a connection that ends on an error goes on discarding what
    /// the client still sends. To close at once would destroy the answer.
    pub linger: Duration,
    /// How long it does so while nothing comes.
    pub linger_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 10 * 1024 * 1024,
            all_bodies_bytes: 256 * 1024 * 1024,
            connections: 1024,
            header_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            write_stall_timeout: Duration::from_secs(10),
            linger: Duration::from_secs(5),
            linger_idle: Duration::from_secs(1),
        }
    }
}

/// What all connections share.
struct Server {
    sessions: Arc<ToolLoop>,
    queue: Queue,
    /// A permit is a byte of a request's body held in memory.
    bodies: Arc<Semaphore>,
    settings: Settings,
    /// No new request is begun.
    draining: CancellationToken,
    /// The grace period is over: requests under way are given up.
    cut: CancellationToken,
}

/// Accepts connections on `listener` and answers their requests with
/// `sessions` until `stop` is ready, then drains: the listener is closed, idle
/// connections too, and the requests under way, those in the queue included,
/// get their answers. Returns when the last connection is closed.
///
/// Requests that are not done within the grace period get 503 and are
/// cancelled. Dropping the future closes everything at once.
pub async fn serve(
    listener: TcpListener,
    sessions: Arc<ToolLoop>,
    settings: Settings,
    stop: impl Future<Output = ()>,
) {
    let server = Arc::new(Server::new(sessions, settings));
    let mut connections = JoinSet::new();
    accept_until(stop, listener, &server, &mut connections).await;
    server.draining.cancel();
    info!(connections = connections.len(), "draining");
    drain(server, connections).await;
}

/// Accepts until `stop` is ready. The listener is dropped with the return.
async fn accept_until(
    stop: impl Future<Output = ()>,
    listener: TcpListener,
    server: &Arc<Server>,
    connections: &mut JoinSet<()>,
) {
    let room = Arc::new(Semaphore::new(server.settings.limits.connections));
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            (stream, permit) = accept::next(&listener, &room) => {
                let server = Arc::clone(server);
                connections.spawn(async move {
                    connection::run(stream, server).await;
                    drop(permit);
                });
            }
            Some(ended) = connections.join_next() => report(ended),
        }
    }
}

/// Waits for the connections to end, and sees to it that they do.
async fn drain(server: Arc<Server>, mut connections: JoinSet<()>) {
    let settings = &server.settings;
    if finished(&mut connections, settings.shutdown_grace).await {
        return;
    }
    warn!(
        connections = connections.len(),
        "the grace period is over: requests still running are given up"
    );
    server.cut.cancel();
    if !finished(&mut connections, settings.limits.linger).await {
        connections.shutdown().await;
    }
}

/// Whether all connections end within `limit`.
async fn finished(connections: &mut JoinSet<()>, limit: Duration) -> bool {
    let all = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    tokio::time::timeout(limit, all).await.is_ok()
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "a connection's task failed");
    }
}

impl Server {
    fn new(sessions: Arc<ToolLoop>, settings: Settings) -> Self {
        Self {
            sessions,
            queue: Queue::new(
                settings.max_concurrent_requests,
                settings.max_queued_requests,
            ),
            bodies: Arc::new(Semaphore::new(settings.limits.all_bodies_bytes)),
            settings,
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }
}

#[cfg(test)]
mod tests;
