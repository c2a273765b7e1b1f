//! All servers together: which tools are on offer under which names, and
//! where a call goes. Knows nothing of how a server is reached.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Map, Value};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::connection::failure;
use super::server::{Phase, Server, State};
use super::{CallOutcome, ServerSettings, Tool, names};

/// How long a call waits for a server that is being restarted.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most names an error lists.
const LISTED: usize = 50;
/// How alike two names must be for one to be suggested for the other.
const ALIKE: f64 = 0.7;

/// The servers and their tools. Dropping it kills every child.
pub struct Registry {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// Ends the servers' tasks, and with them their children, when dropped.
    _abandon: DropGuard,
}

/// How a server is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// The name it has in the configuration.
    pub name: String,
    /// Whether it can be used.
    pub state: ServerState,
    /// What it calls itself, with its version, once it has said so.
    pub implementation: Option<String>,
    /// The names its tools are offered under; empty while they are not.
    pub tools: Vec<String>,
}

/// Whether a server can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// It is connected.
    Up,
    /// An attempt to connect is under way.
    Starting,
    /// It is not connected; it will be tried again.
    Failed {
        /// Why, in a sentence without secrets.
        reason: String,
    },
    /// [`Registry::close`] was called.
    Closed,
}

struct Shared {
    servers: Vec<Server>,
    /// Replaced as a whole, so that readers get one consistent picture. The
    /// lock is held to swap or clone an `Arc`, and by [`Shared::publish`] for
    /// as long as it builds the next one, so that an older picture never
    /// replaces a newer.
    catalog: RwLock<Arc<Catalog>>,
}

/// Everything that is known of all servers' tools at one moment.
#[derive(Default)]
struct Catalog {
    offered: Arc<[Tool]>,
    /// Offered names to the server's index and its own name of the tool. Holds
    /// the tools of servers that are down as well.
    routes: HashMap<String, Route>,
}

#[derive(Clone)]
struct Route {
    server: usize,
    tool: String,
}

impl Registry {
    /// Starts all servers at once, each within its own time-out. One that
    /// does not start is logged, left out, and tried again in the background.
    pub async fn start(servers: Vec<ServerSettings>) -> Self {
        let abandoned = CancellationToken::new();
        let registry = Self {
            shared: Arc::new(Shared {
                servers: servers.into_iter().map(Server::new).collect(),
                catalog: RwLock::default(),
            }),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            _abandon: abandoned.clone().drop_guard(),
        };
        for index in 0..registry.shared.servers.len() {
            let shared = Arc::clone(&registry.shared);
            let closing = registry.closing.clone();
            let abandoned = abandoned.clone();
            registry.tasks.spawn(async move {
                let run = shared.servers[index].run(closing, || shared.publish());
                abandoned.run_until_cancelled(run).await
            });
        }
        join_all(registry.shared.servers.iter().map(Server::tried)).await;
        registry
    }

    /// The tools on offer, in the configuration's order: those of all servers
    /// that are up, and of one that was up until it crashed while its restart
    /// has not failed.
    pub fn tools(&self) -> Arc<[Tool]> {
        Arc::clone(&self.shared.catalog().offered)
    }

    /// Calls a tool by the name it is offered under. Dropping the future
    /// cancels the call. Where the server is being restarted, waits for it for
    /// a few seconds.
    pub async fn call(&self, name: &str, arguments: Map<String, Value>) -> CallOutcome {
        let Some(route) = self.shared.route(name) else {
            return failure(self.shared.unknown(name));
        };
        let server = &self.shared.servers[route.server];
        let settings = &server.settings;
        match server.ready(settings.timeout.min(PATIENCE)).await {
            Ok(connection) => {
                let limit = settings.timeout;
                connection
                    .call(&settings.name, &route.tool, arguments, limit)
                    .await
            }
            Err(reason) => {
                debug!(
                    server = settings.name,
                    tool = name,
                    reason,
                    "no server for a call"
                );
                failure(format!(
                    "The tool's server {} is not available: {reason}.",
                    settings.name
                ))
            }
        }
    }

    /// How every server is, in the configuration's order.
    pub fn status(&self) -> Vec<ServerStatus> {
        let offered = self.tools();
        let status = |server: &Server| {
            let State {
                phase,
                implementation,
                ..
            } = server.state();
            let name = server.settings.name.clone();
            ServerStatus {
                state: match phase {
                    Phase::Up(_) => ServerState::Up,
                    Phase::Starting => ServerState::Starting,
                    Phase::Down { reason, .. } => ServerState::Failed { reason },
                    Phase::Closed => ServerState::Closed,
                },
                implementation,
                tools: offered
                    .iter()
                    .filter(|tool| tool.server == name)
                    .map(|tool| tool.name.clone())
                    .collect(),
                name,
            }
        };
        self.shared.servers.iter().map(status).collect()
    }

    /// Ends every server, all at once: stdin closed, then SIGTERM, then kill,
    /// to whole process groups. Nothing is started afterwards. Calling it
    /// again waits for the same end.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Shared {
    fn catalog(&self) -> Arc<Catalog> {
        // A catalog is swapped in whole: even a panic leaves a good one.
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Builds the catalog from what the servers are now.
    fn publish(&self) {
        let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        let states: Vec<State> = self.servers.iter().map(Server::state).collect();
        let mut pairs = Vec::new();
        let mut known = Vec::new();
        for (index, (server, state)) in self.servers.iter().zip(&states).enumerate() {
            for tool in state.tools.iter() {
                pairs.push((server.settings.name.as_str(), tool.name.as_str()));
                known.push((index, state.offered, tool));
            }
        }
        let mut offered = Vec::new();
        let mut routes = HashMap::new();
        for (name, (index, is_offered, tool)) in names::assign(&pairs).into_iter().zip(known) {
            let route = Route {
                server: index,
                tool: tool.name.clone(),
            };
            routes.insert(name.clone(), route);
            if is_offered {
                offered.push(Tool {
                    name,
                    description: tool.description.clone(),
                    input_schema: tool.input_schema.clone(),
                    server: self.servers[index].settings.name.clone(),
                });
            }
        }
        *catalog = Arc::new(Catalog {
            offered: offered.into(),
            routes,
        });
    }

    /// Where a call goes. A conversation may still use the name a tool had
    /// before another server came or went: its own, or with its server's name.
    fn route(&self, name: &str) -> Option<Route> {
        let catalog = self.catalog();
        if let Some(route) = catalog.routes.get(name) {
            return Some(route.clone());
        }
        catalog
            .routes
            .values()
            .filter(|route| {
                let server = &self.servers[route.server].settings.name;
                route.tool == name || names::prefixed(server, &route.tool) == name
            })
            .min_by_key(|route| route.server)
            .cloned()
    }

    /// What a model that made up a tool is told.
    fn unknown(&self, name: &str) -> String {
        let catalog = self.catalog();
        let nearest = catalog
            .offered
            .iter()
            .map(|tool| (strsim::jaro_winkler(name, &tool.name), &tool.name))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(alike, _)| *alike >= ALIKE);
        if let Some((_, nearest)) = nearest {
            return format!("There is no tool named {name:?}. Did you mean {nearest:?}?");
        }
        if catalog.offered.is_empty() {
            return format!("There is no tool named {name:?}: no tools are available.");
        }
        let names: Vec<_> = catalog
            .offered
            .iter()
            .take(LISTED)
            .map(|tool| tool.name.as_str())
            .collect();
        let more = match catalog.offered.len() - names.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "There is no tool named {name:?}. The available tools are: {}{more}.",
            names.join(", ")
        )
    }
}
