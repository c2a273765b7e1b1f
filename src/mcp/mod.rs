//! The MCP host: connects to the servers the configuration lists, offers
//! their tools, calls them, watches the servers, restarts the ones that die
//! and closes them all at the end. Knows nothing of the model.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// One MCP server as configured.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The name it has in the configuration.
    pub name: String,
    /// How to reach it.
    pub transport: Transport,
    /// The limit for starting it and for each tool call.
    pub timeout: Duration,
    /// The tools that may be offered; `None` offers all of them.
    pub tools: Option<Vec<String>>,
}

/// How a server is reached.
#[derive(Debug, Clone)]
pub enum Transport {
    /// A child process that speaks over its stdin and stdout.
    Stdio {
        /// The program.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// What is added to the environment it inherits.
        env: BTreeMap<String, String>,
        /// Its working directory; `None` keeps ours.
        cwd: Option<PathBuf>,
    },
    /// Streamable HTTP.
    Http {
        /// The endpoint.
        url: String,
        /// Headers sent with every request.
        headers: BTreeMap<String, String>,
    },
}

/// A tool as it is offered to the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name, unique over all servers (with the server's name before it
    /// where two servers have a tool of the same name).
    pub name: String,
    /// What the server says it does; may be empty.
    pub description: String,
    /// The JSON schema of its arguments.
    pub input_schema: Value,
    /// The server it belongs to.
    pub server: String,
}

/// What a tool call came to. A call never fails the request: whatever goes
/// wrong is an outcome with `is_error` set, written for the model to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOutcome {
    /// The result as text; content that is not text is described.
    pub text: String,
    /// Whether the tool, its server or the host says that it failed.
    pub is_error: bool,
}

/// The servers and their tools.
pub struct Registry {}

impl Registry {
    /// Starts all servers at once, each within its own time-out. One that
    /// does not start is logged, left out, and tried again in the background.
    pub async fn start(_servers: Vec<ServerSettings>) -> Self {
        unimplemented!()
    }

    /// The tools of all servers that are up, in the configuration's order.
    pub fn tools(&self) -> std::sync::Arc<[Tool]> {
        unimplemented!()
    }

    /// Calls a tool by the name it is offered under. Dropping the future
    /// cancels the call.
    pub async fn call(
        &self,
        _name: &str,
        _arguments: serde_json::Map<String, Value>,
    ) -> CallOutcome {
        unimplemented!()
    }

    /// Ends every server: stdin closed, then SIGTERM, then kill, to whole
    /// process groups.
    pub async fn close(&self) {
        unimplemented!()
    }
}
