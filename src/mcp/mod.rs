//! The MCP host: connects to the servers the configuration lists, offers
//! their tools, calls them, watches the servers, restarts the ones that die
//! and closes them all at the end. Knows nothing of the model.
//!
//! ```text
//! registry ──> server ──> connection ──> stdio ──> lines
//!    │           │            ├────────> http
//!  names     (one task        ├────────> child, stderr
//!             a server)       └────────> handler
//! ```
//!
//! [`registry`](Registry) is what the rest of the program sees. A `server` is
//! the task that keeps one configured server up; a `connection` is one life of
//! it, from the handshake to its end.

mod child;
mod connection;
mod content;
mod handler;
mod http;
mod lines;
mod names;
mod registry;
mod secrets;
mod server;
mod stderr;
mod stdio;
mod throttle;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use registry::{Registry, ServerState, ServerStatus};

use std::collections::BTreeMap;
use std::fmt;
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
#[derive(Clone)]
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

/// Arguments, environment, headers and the query of a URL may carry secrets, so
/// that only their shape is shown.
impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio {
                command,
                args,
                env,
                cwd,
            } => f
                .debug_struct("Stdio")
                .field("command", command)
                .field("args", &format_args!("{} hidden", args.len()))
                .field("env", &env.keys().collect::<Vec<_>>())
                .field("cwd", cwd)
                .finish(),
            Self::Http { url, headers } => f
                .debug_struct("Http")
                .field("url", &secrets::bare_url(url))
                .field("headers", &headers.keys().collect::<Vec<_>>())
                .finish(),
        }
    }
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
