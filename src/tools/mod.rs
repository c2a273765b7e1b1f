//! The bundled MCP server, `llm-server tools`: time, arithmetic, files below
//! one folder, temperature and facts about this computer, over stdin and
//! stdout. One file a tool or a family of tools; `server` puts them behind
//! the protocol. Knows nothing of the rest of the program.
//!
//! The results are short texts in the forms the bundled model was trained
//! on (`models/demo/training/gen.py`); every one is worked out when it is
//! asked for.

mod calculate;
mod files;
mod server;
mod stdin;
mod system;
mod time;
mod weather;
mod zones;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use rmcp::service::{QuitReason, RoleServer, ServerInitializeError};
use rmcp::transport::IntoTransport;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use server::Server;

/// The public services behind `get_temperature`; neither needs a key.
const GEOCODING_URL: &str = "https://geocoding-api.open-meteo.com";
const FORECAST_URL: &str = "https://api.open-meteo.com";

/// What the bundled tools may reach.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder whose files may be listed and read, and nothing outside it.
    pub root: PathBuf,
    /// The base address of the service that finds a place by its name
    /// (Open-Meteo's geocoding API, `/v1/search` is added).
    pub geocoding_url: String,
    /// The base address of the service that knows the temperature
    /// (Open-Meteo's forecast API, `/v1/forecast` is added).
    pub forecast_url: String,
}

impl Settings {
    /// Files below `root`, and the public weather service.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            geocoding_url: GEOCODING_URL.to_owned(),
            forecast_url: FORECAST_URL.to_owned(),
        }
    }

    /// Asks one host for both halves of the weather instead: a mirror, a
    /// proxy, or a test's.
    pub fn with_weather_url(mut self, url: &str) -> Self {
        self.geocoding_url = url.to_owned();
        self.forecast_url = url.to_owned();
        self
    }
}

/// Why the server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    /// The folder cannot be opened.
    #[error("cannot use the folder {}: {error}; name another with --root", root.display())]
    Root {
        /// The folder.
        root: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// The list of tools in the program is not what it should be.
    #[error("the bundled list of tools is damaged: {0}")]
    Definitions(serde_json::Error),
    /// The process cannot be told to end.
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    /// No thread for stdin.
    #[error("cannot read stdin: {0}")]
    Stdin(io::Error),
    /// The client did not begin as the protocol says.
    #[error("the client did not start the protocol: {0}")]
    Handshake(Box<ServerInitializeError>),
    /// The server's task failed.
    #[error("the server stopped: {0}")]
    Stopped(tokio::task::JoinError),
}

/// Serves the tools over stdin and stdout until stdin ends or a SIGTERM or
/// SIGINT comes.
pub async fn serve_stdio(settings: Settings) -> Result<(), ToolsError> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(ToolsError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ToolsError::Signals)?;
    let input = stdin::reader().map_err(ToolsError::Stdin)?;
    let serving = serve(settings, (input, tokio::io::stdout()), stop.clone());
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => return result,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    serving.await
}

/// Serves the tools over `transport` until it closes or `stop` is cancelled;
/// both are good ends.
async fn serve<T, E, A>(
    settings: Settings,
    transport: T,
    stop: CancellationToken,
) -> Result<(), ToolsError>
where
    T: IntoTransport<RoleServer, E, A>,
    E: std::error::Error + Send + Sync + 'static,
{
    let server = Server::new(settings)?;
    match rmcp::service::serve_server_with_ct(server, transport, stop).await {
        Ok(running) => match running.waiting().await {
            Ok(QuitReason::JoinError(error)) | Err(error) => Err(ToolsError::Stopped(error)),
            Ok(_) => Ok(()),
        },
        Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => {
            Ok(())
        }
        Err(error) => Err(ToolsError::Handshake(Box::new(error))),
    }
}
