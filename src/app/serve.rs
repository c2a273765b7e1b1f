//! `llm-server`: the server, from start to drain.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpSocket, lookup_host};
use tracing::{error, info};

use super::host::{Host, Load};
use super::{Failure, load_config, log_to_stderr, with_log};
use crate::config::{Config, Listen};
use crate::http;
use crate::logging::Level;
use crate::shutdown::Shutdown;

/// Connections the operating system keeps for us until they are accepted.
const BACKLOG: u32 = 1024;

pub(super) async fn run(config: &Path, load: Load) -> Result<(), Failure> {
    let config = load_config(config).await?;
    // A person at a terminal sees what happens; a service manager's own log
    // gets only what is wrong.
    let level = match io::stderr().is_terminal() {
        true => Level::Info,
        false => Level::Warning,
    };
    let log = log_to_stderr(&config, level);
    with_log(&log, &config.secrets, serve(&config, load, |_| Ok(()))).await
}

/// Serves until told to stop. `ready` is called with the address as soon as
/// requests are answered.
pub(super) async fn serve(
    config: &Config,
    load: Load,
    ready: impl FnOnce(SocketAddr) -> Result<(), Failure>,
) -> Result<(), Failure> {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        "starting"
    );
    let shutdown = Shutdown::install()
        .map_err(|error| Failure::new(format_args!("cannot watch for signals: {error}")))?;
    // Taken now, so that a port in use shows before anything is loaded; not
    // listened on before requests can be answered.
    let (socket, address) = reserve(&config.listen).await?;
    let Some(host) = Host::start(config, load, shutdown.wait()).await? else {
        info!("stopped before it was ready");
        return Ok(());
    };
    let listener = socket
        .listen(BACKLOG)
        .map_err(|error| taken(&config.listen, &error))?;
    info!(%address, "listening");
    ready(address)?;
    let stop = async {
        tokio::select! {
            () = shutdown.wait() => {}
            () = host.engine.ended() => error!("the engine has stopped; ending"),
        }
    };
    http::serve(
        listener,
        Arc::clone(&host.sessions),
        http_settings(config),
        stop,
    )
    .await;
    host.close().await?;
    info!("stopped");
    Ok(())
}

fn http_settings(config: &Config) -> http::Settings {
    http::Settings {
        max_concurrent_requests: config.limits.max_concurrent_requests,
        max_queued_requests: config.limits.max_queued_requests,
        request_timeout: config.limits.request_timeout,
        shutdown_grace: config.limits.shutdown_grace,
        limits: http::Limits::default(),
    }
}

/// A socket bound to the configured address, not yet listening.
async fn reserve(listen: &Listen) -> Result<(TcpSocket, SocketAddr), Failure> {
    let host = listen.host.to_string();
    let addresses = lookup_host((host.as_str(), listen.port))
        .await
        .map_err(|error| Failure::new(format_args!("host {host} is not known: {error}; set host to an address of this machine, such as 127.0.0.1")))?;
    let mut failure = Failure::new(format_args!("host {host} has no address"));
    for address in addresses {
        match bind(address) {
            Ok(socket) => return Ok((socket, address)),
            Err(error) => failure = taken(listen, &error),
        }
    }
    Err(failure)
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of the process before us may still be in their last
    // minute; they are no reason not to start.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn taken(listen: &Listen, error: &io::Error) -> Failure {
    let Listen { host, port } = listen;
    Failure::new(match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "port {port} on {host} is taken by another program; stop it or choose another listening_port"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "port {port} on {host} may not be used: ports below 1024 need privileges; choose a listening_port above"
        ),
        _ => format!("cannot listen on {host} port {port}: {error}"),
    })
}

/// The first port from `first` on, of `count`, that nobody listens on.
pub(super) async fn free_port(first: u16, count: u16) -> Option<u16> {
    (first..first.saturating_add(count)).find(|&port| {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        bind(address).is_ok_and(|socket| socket.listen(1).is_ok())
    })
}
