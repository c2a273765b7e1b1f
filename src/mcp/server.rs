//! One configured server for the whole life of the program: a task that
//! connects, lists, watches, and connects again with back-off, until it is
//! told to close. Does not know of other servers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ServerSettings;
use super::connection::{Connection, ListedTool, Live};

/// A connection that held this long was a good one: the next failure is a
/// first failure.
const STEADY: Duration = Duration::from_secs(10);
/// How long a server has to finish changing its tools before they are listed
/// again; it also bounds how often that happens.
const SETTLE: Duration = Duration::from_millis(200);

/// One configured server.
pub(super) struct Server {
    pub(super) settings: ServerSettings,
    state: watch::Sender<State>,
}

/// What is known of a server.
#[derive(Clone)]
pub(super) struct State {
    pub(super) phase: Phase,
    /// Attempts to connect that came to an end, well or not.
    pub(super) attempts: u64,
    /// The tools it listed last, those not allowed left out. Kept while it is
    /// down, so that names stay as they are.
    pub(super) tools: Arc<[ListedTool]>,
    /// Whether its tools are on offer: from a connection until an attempt to
    /// connect fails. A crash alone does not end it, since calls wait for the
    /// restart.
    pub(super) offered: bool,
    /// What it called itself last.
    pub(super) implementation: Option<String>,
}

/// Where a server is in its life.
#[derive(Clone)]
pub(super) enum Phase {
    Starting,
    Up(Arc<Connection>),
    Down { reason: String, retry_at: Instant },
    Closed,
}

impl Server {
    pub(super) fn new(settings: ServerSettings) -> Self {
        let state = State {
            phase: Phase::Starting,
            attempts: 0,
            tools: Arc::new([]),
            offered: false,
            implementation: None,
        };
        Self {
            settings,
            state: watch::Sender::new(state),
        }
    }

    /// What is known of it now.
    pub(super) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until the first attempt to connect has come to an end.
    pub(super) async fn tried(&self) {
        // `self` holds the sender, so that the channel cannot close.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| state.attempts > 0 || matches!(state.phase, Phase::Closed))
            .await;
    }

    /// The connection. If there is none but one may come soon, waits for it up
    /// to `patience`. The error says why there is none.
    pub(super) async fn ready(&self, patience: Duration) -> Result<Arc<Connection>, String> {
        let deadline = Instant::now() + patience;
        let mut changes = self.state.subscribe();
        loop {
            let reason = match &changes.borrow_and_update().phase {
                Phase::Up(connection) if !connection.is_gone() => return Ok(connection.clone()),
                Phase::Up(_) | Phase::Starting => "it is being restarted".to_owned(),
                Phase::Down { reason, retry_at } if *retry_at > deadline => {
                    return Err(reason.clone());
                }
                Phase::Down { reason, .. } => reason.clone(),
                Phase::Closed => return Err("this program is shutting down".to_owned()),
            };
            if tokio::time::timeout_at(deadline, changes.changed())
                .await
                .is_err()
            {
                return Err(reason);
            }
        }
    }

    /// Keeps the server up until `closing`. `publish` is called after every
    /// change that others may see. Dropping the future kills the child.
    pub(super) async fn run(&self, closing: CancellationToken, publish: impl Fn()) {
        let name = self.settings.name.as_str();
        let mut backoff = Backoff::default();
        loop {
            self.state
                .send_modify(|state| state.phase = Phase::Starting);
            let opened = tokio::select! {
                biased;
                () = closing.cancelled() => break,
                opened = self.open() => opened,
            };
            let retry_at = match opened {
                Ok((mut live, tools)) => {
                    info!(server = name, tools = tools.len(), "MCP server is up");
                    self.state.send_modify(|state| {
                        state.phase = Phase::Up(Arc::clone(&live.connection));
                        state.attempts += 1;
                        state.tools = tools.into();
                        state.offered = true;
                        state.implementation = live.connection.implementation.clone();
                    });
                    publish();
                    let since = Instant::now();
                    let reason = tokio::select! {
                        biased;
                        () = closing.cancelled() => {
                            live.close().await;
                            break;
                        }
                        reason = self.watch(&mut live, &publish) => reason,
                    };
                    if since.elapsed() >= STEADY {
                        backoff = Backoff::default();
                    }
                    let retry_at = self.down(&reason, &mut backoff, |_| ());
                    let seconds = seconds_until(retry_at);
                    warn!(
                        server = name,
                        reason, "MCP server is gone; restarting it in {seconds} s"
                    );
                    live.bury().await;
                    retry_at
                }
                Err(reason) => {
                    let retry_at = self.down(&reason, &mut backoff, |state| {
                        state.attempts += 1;
                        state.offered = false;
                    });
                    publish();
                    let seconds = seconds_until(retry_at);
                    warn!(
                        server = name,
                        reason,
                        "MCP server did not start and its tools are left out; \
                         check its entry in `servers`; trying again in {seconds} s"
                    );
                    retry_at
                }
            };
            tokio::select! {
                biased;
                () = closing.cancelled() => break,
                () = tokio::time::sleep_until(retry_at) => {}
            }
        }
        self.state.send_modify(|state| {
            state.phase = Phase::Closed;
            state.offered = false;
        });
        publish();
    }

    /// Notes that the server is down; when it will be tried again.
    fn down(&self, reason: &str, backoff: &mut Backoff, also: impl Fn(&mut State)) -> Instant {
        let retry_at = Instant::now() + backoff.next(rand::random());
        self.state.send_modify(|state| {
            state.phase = Phase::Down {
                reason: reason.to_owned(),
                retry_at,
            };
            also(state);
        });
        retry_at
    }

    /// Connects and lists, all within the server's time-out.
    async fn open(&self) -> Result<(Live, Vec<ListedTool>), String> {
        let limit = self.settings.timeout;
        let open = async {
            let live = Live::open(&self.settings).await?;
            let tools = self.list(&live.connection).await?;
            Ok((live, tools))
        };
        match tokio::time::timeout(limit, open).await {
            Ok(opened) => opened,
            Err(_) => Err(format!(
                "it was not ready within {} s; raise its `timeout_seconds` if it needs longer",
                limit.as_secs_f32()
            )),
        }
    }

    /// The server's tools, less those that are not allowed.
    async fn list(&self, connection: &Connection) -> Result<Vec<ListedTool>, String> {
        let name = self.settings.name.as_str();
        let mut tools = connection.list_tools(name).await?;
        if let Some(allowed) = &self.settings.tools {
            for missing in allowed
                .iter()
                .filter(|allowed| !tools.iter().any(|tool| tool.name == **allowed))
            {
                warn!(
                    server = name,
                    tool = ?missing,
                    "the server has no such tool; correct its `tools` in the configuration"
                );
            }
            tools.retain(|tool| allowed.contains(&tool.name));
        }
        Ok(tools)
    }

    /// Follows changes until the connection ends; why it did.
    async fn watch(&self, live: &mut Live, publish: &impl Fn()) -> String {
        let connection = Arc::clone(&live.connection);
        let tools_changed = Arc::clone(&live.tools_changed);
        tokio::select! {
            biased;
            reason = live.ended() => reason,
            () = connection.broken.notified() => "it cannot be reached any more".to_owned(),
            () = self.follow(&connection, &tools_changed, publish) => {
                unreachable!("following the list of tools has no end")
            }
        }
    }

    /// Lists the tools again whenever the server says that they changed.
    async fn follow(&self, connection: &Connection, changed: &Notify, publish: &impl Fn()) {
        let name = self.settings.name.as_str();
        loop {
            changed.notified().await;
            tokio::time::sleep(SETTLE).await;
            match tokio::time::timeout(self.settings.timeout, self.list(connection)).await {
                Ok(Ok(tools)) => {
                    info!(
                        server = name,
                        tools = tools.len(),
                        "the server's tools changed"
                    );
                    self.state.send_modify(|state| state.tools = tools.into());
                    publish();
                }
                Ok(Err(reason)) => {
                    warn!(
                        server = name,
                        reason, "the server's tools changed but stay as they were"
                    );
                }
                Err(_) => warn!(
                    server = name,
                    "the server's tools changed but were not listed in time; they stay as they were"
                ),
            }
        }
    }
}

fn seconds_until(when: Instant) -> String {
    format!("{:.1}", when.duration_since(Instant::now()).as_secs_f32())
}

/// Exponential back-off with jitter.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);

    /// The next delay, between half of the nominal one and all of it;
    /// `jitter` from 0 to 1 says where.
    fn next(&mut self, jitter: f64) -> Duration {
        let doubled = Self::FIRST.saturating_mul(1 << self.failures.min(6));
        self.failures += 1;
        doubled.min(Self::LONGEST).mul_f64(0.5 + jitter / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_a_minute() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..9).map(|_| backoff.next(1.0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(Backoff::default().next(0.0), Duration::from_millis(500));
        backoff.failures = u32::MAX - 1;
        assert_eq!(backoff.next(1.0), Backoff::LONGEST);
    }
}
