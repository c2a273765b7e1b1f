//! `llm-server check`: what a start would find, without loading the model.

use std::path::Path;

use super::host::{hub_settings, is_bundled};
use super::{Failure, load_config, log_to_stderr, print, with_log};
use crate::config::Config;
use crate::hub::{self, Location};
use crate::logging::Level;
use crate::mcp::{Registry, ServerState};

pub(super) async fn run(path: &Path) -> Result<(), Failure> {
    let config = load_config(path).await?;
    print(format_args!("config   {} is fine", path.display()))?;
    let log = log_to_stderr(&config, Level::Error);
    with_log(&log, &config.secrets, check(&config)).await
}

async fn check(config: &Config) -> Result<(), Failure> {
    let registry = Registry::start(config.servers.clone()).await;
    let servers = servers(&registry);
    registry.close().await;
    let servers = servers?;
    let model = model(config)?;
    match (servers, model) {
        (true, true) => Ok(()),
        (false, true) => Err(Failure::new("not every server is up")),
        (true, false) => Err(Failure::new("the model is not there")),
        (false, false) => Err(Failure::new(
            "not every server is up, and the model is not there",
        )),
    }
}

/// A line a server and its tools; whether all are up.
fn servers(registry: &Registry) -> Result<bool, Failure> {
    let mut all_up = true;
    for server in registry.status() {
        let name = &server.name;
        match server.state {
            ServerState::Up => {
                let what = server.implementation.unwrap_or_default();
                let count = server.tools.len();
                print(format_args!("server   {name}: up, {what}, {count} tools"))?;
                for tool in &server.tools {
                    print(format_args!("  tool   {tool}"))?;
                }
            }
            ServerState::Failed { reason } => {
                all_up = false;
                print(format_args!("server   {name}: does not start: {reason}"))?;
            }
            ServerState::Starting | ServerState::Closed => {
                all_up = false;
                print(format_args!("server   {name}: did not start in time"))?;
            }
        }
    }
    Ok(all_up)
}

/// A line on the model; whether it is complete.
fn model(config: &Config) -> Result<bool, Failure> {
    let name = config.model.model_name.to_string();
    if is_bundled(&config.model) {
        print(format_args!("model    {name}: bundled"))?;
        return Ok(true);
    }
    let (complete, state) = match hub::locate(&hub_settings(&config.model)) {
        Ok(Location::Folder(folder)) => (true, format!("complete in {}", folder.display())),
        Ok(Location::Cached(folder)) => (true, format!("cached in {}", folder.display())),
        Ok(Location::Partial { missing }) => {
            let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let missing = missing.join("; ");
            (
                false,
                format!("cached in part ({missing}); the next start downloads the rest"),
            )
        }
        Ok(Location::NotCached) => (false, "not cached; the next start downloads it".to_owned()),
        Err(error) => (false, error.to_string()),
    };
    print(format_args!("model    {name}: {state}"))?;
    Ok(complete)
}
