//! The configuration: what the user wrote, and what it means.
//!
//! [`load`] reads the file as written (`file`), substitutes `${NAME}`
//! (`secrets`), checks every key and builds the other modules' settings
//! (`resolve`, `servers`). All faults are reported together (`faults`).
//! `schema.json` tells editors the same; a test holds the two together.
//!
//! Looks at nothing but the file, `.env` beside it and the environment: that
//! a folder exists or a server answers is not for this module to find out.

mod faults;
mod file;
mod resolve;
mod secrets;
mod section;
mod servers;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use faults::{Fault, Faults};

use crate::backend::{BackendChoice, BackendSettings};
use crate::model::Quantize;
use crate::{chat, logging, mcp, session};

/// Everything the configuration says, checked and complete.
#[derive(Clone)]
pub struct Config {
    /// Which model, and what runs it.
    pub model: ModelChoice,
    /// How the model generates.
    pub chat: chat::Settings,
    /// The tool loop's settings.
    pub session: session::Settings,
    /// The MCP servers in the order written, without the disabled ones.
    pub servers: Vec<mcp::ServerSettings>,
    /// Where requests are accepted.
    pub listen: Listen,
    /// How long and how many.
    pub limits: Limits,
    /// The log; nothing to stderr unless the caller sets it.
    pub log: logging::Settings,
    /// Every value that came in through `${NAME}`. They must not be seen in
    /// logs or errors.
    pub secrets: Vec<String>,
}

/// Which model, and what runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelChoice {
    /// A Hugging Face repository, or a folder.
    pub model_name: ModelName,
    /// The branch, tag or commit of the repository; `None` takes its main one.
    pub revision: Option<String>,
    /// What runs it.
    pub backend: BackendChoice,
    /// The most tokens of context; `None` takes what the model was made for.
    pub context_length: Option<usize>,
    /// The most bytes of keys and values kept for prompts that begin alike;
    /// `None` takes a default.
    pub prefix_cache_bytes: Option<usize>,
    /// The folder where the keys and values that every request begins with are
    /// kept over a restart, by its full path; `None` keeps them nowhere.
    pub prefix_cache_dir: Option<PathBuf>,
    /// The folder of a LoRA adapter to the model, by its full path.
    pub adapter_path: Option<PathBuf>,
    /// What its floating-point matrices become when it is loaded; `None` leaves
    /// them as they are.
    pub quantize: Option<Quantize>,
    /// How many threads compute what the CPU computes; `None` is one a core.
    pub threads: Option<NonZero<usize>>,
}

impl ModelChoice {
    /// What its backend is started by.
    pub fn backend_settings(&self) -> BackendSettings {
        BackendSettings {
            choice: self.backend,
            threads: self.threads,
        }
    }
}

/// Where a model is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelName {
    /// A repository of the Hugging Face hub, `owner/name` or `name`.
    Repository(String),
    /// A folder, by its full path.
    Folder(PathBuf),
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(name) => f.write_str(name),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

/// Where requests are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The interface.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// An interface by its address or a name for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name that is looked up.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// How long and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest a request may take, waiting included.
    pub request_timeout: Duration,
    /// How long requests may go on after the signal to end.
    pub shutdown_grace: Duration,
    /// Requests that are worked on at once.
    pub max_concurrent_requests: usize,
    /// Requests that may wait beyond those.
    pub max_queued_requests: usize,
}

impl fmt::Debug for Config {
    /// What is safe to show: anything else may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let redactor = logging::Redactor::new(&self.secrets);
        let hide = |text: String| redactor.redact(&text).into_owned();
        let servers: Vec<_> = self.servers.iter().map(|s| &s.name).collect();
        f.debug_struct("Config")
            .field("model", &hide(self.model.model_name.to_string()))
            .field("chat", &hide(format!("{:?}", self.chat)))
            .field("servers", &servers)
            .field("host", &hide(self.listen.host.to_string()))
            .field("port", &self.listen.port)
            .field("limits", &self.limits)
            .field("log", &hide(self.log.file.display().to_string()))
            .finish_non_exhaustive()
    }
}

/// Reads the configuration.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, Faults> {
    load_with(path, &|name| std::env::var(name).ok())
}

/// Says what an environment variable holds. Tests bring their own.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

fn load_with(path: &Path, environment: Environment<'_>) -> Result<Config, Faults> {
    // With the full path, faults say which file is meant, and relative paths
    // inside do not depend on where the process happens to be later.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let document = file::read(&path).map_err(Faults::before_log)?;
    let folder = path.parent().unwrap_or(&path);
    resolve::resolve(&document, folder, environment)
}
