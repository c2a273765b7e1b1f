//! What can go wrong between a model's name and its files, each with one
//! sentence that says what to do. Does not decide what is tried again, only
//! which failures may pass ([`HubError::is_transient`]).

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::HFError;

use super::check::Fault;

/// A model that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The name is neither a folder nor the name of a repository.
    #[error(
        "{name:?} is neither a folder nor a repository's name: write \"owner/name\" as on huggingface.co, or the path of a folder"
    )]
    NotAName {
        /// As configured.
        name: String,
    },
    /// The revision cannot be one.
    #[error("{revision:?} cannot be a revision: name a branch, a tag or a commit")]
    NotARevision {
        /// As configured.
        revision: String,
    },
    /// The name is a path and there is no such folder.
    #[error("there is no folder {}", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A folder given by the user is not a complete model.
    #[error("the folder {} is not a complete model: {}", path.display(), list(faults))]
    IncompleteFolder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        faults: Vec<Fault>,
    },
    /// The network may not be used and the cache is not enough.
    #[error(
        "the model {repo} is not complete in the cache ({}) and HF_HUB_OFFLINE forbids to download it: unset HF_HUB_OFFLINE once",
        list(faults)
    )]
    Offline {
        /// The repository.
        repo: String,
        /// What is wrong with the cached copy.
        faults: Vec<Fault>,
    },
    /// `HF_ENDPOINT` is not an address.
    #[error("HF_ENDPOINT is {endpoint:?}, which is not an http or https address")]
    Endpoint {
        /// As configured.
        endpoint: String,
    },
    /// The repository has no weights this program can read.
    #[error(
        "the repository {repo} has no safetensors weights{}: choose a repository with *.safetensors files, such as those of mlx-community",
        found.as_ref().map(|kind| format!(", only {kind}")).unwrap_or_default()
    )]
    NoSafetensors {
        /// The repository.
        repo: String,
        /// What weights it has instead.
        found: Option<&'static str>,
    },
    /// The repository lacks a file that a model must have.
    #[error("the repository {repo} has no {file}, so it cannot be served")]
    NotInRepository {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
    },
    /// 401 or 403.
    #[error(
        "the hub refuses access to {repo} ({status}): check the spelling, set HF_TOKEN to a token that may read it, and if it is gated accept its licence on the model's page"
    )]
    Refused {
        /// The repository.
        repo: String,
        /// The HTTP status.
        status: u16,
    },
    /// No such repository.
    #[error(
        "the hub has no repository {repo}: check the spelling, \"owner/name\"; a private one needs HF_TOKEN"
    )]
    NoRepository {
        /// The repository.
        repo: String,
    },
    /// No such branch, tag or commit.
    #[error("the repository {repo} has no revision {revision:?}")]
    NoRevision {
        /// The repository.
        repo: String,
        /// As configured.
        revision: String,
    },
    /// No connection.
    #[error(
        "cannot connect to {host} ({detail}): check the network or HF_ENDPOINT; a model that is complete in the cache needs no network"
    )]
    Unreachable {
        /// The host.
        host: String,
        /// What the HTTP client says.
        detail: String,
    },
    /// A connection that went silent.
    #[error("{host} sent nothing for {} s; start again to go on from there", after.as_secs())]
    Stalled {
        /// The host.
        host: String,
        /// How long was waited.
        after: Duration,
    },
    /// A connection that broke.
    #[error("the connection to {host} broke ({detail}); start again to go on from there")]
    Broken {
        /// The host.
        host: String,
        /// What the HTTP client says.
        detail: String,
    },
    /// Any other status.
    #[error("{host} answered with status {status}; try again later")]
    Status {
        /// The host.
        host: String,
        /// The HTTP status.
        status: u16,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// An answer that is not the hub's.
    #[error("{host} does not answer as the Hugging Face hub does: {detail}")]
    Protocol {
        /// The host.
        host: String,
        /// What is wrong.
        detail: String,
    },
    /// Not the bytes that the hub's listing promises.
    #[error("{file} arrived with {actual} bytes instead of {expected}, twice; try again later")]
    WrongSize {
        /// The file.
        file: String,
        /// As listed.
        expected: u64,
        /// As sent.
        actual: u64,
    },
    /// The right number of bytes, but not the right ones.
    #[error("{file} arrived damaged (its SHA-256 is wrong), twice; try again later")]
    WrongContent {
        /// The file.
        file: String,
    },
    /// All arrived as listed and yet it is not a model.
    #[error("the repository {repo} is itself damaged: {}", list(faults))]
    DamagedRepository {
        /// The repository.
        repo: String,
        /// What is wrong with it.
        faults: Vec<Fault>,
    },
    /// Another process has the file's lock and makes no headway.
    #[error(
        "another process is downloading {file} and makes no headway: end it, or wait, then start again"
    )]
    Busy {
        /// The file.
        file: String,
    },
    /// No room.
    #[error("the disk is full at {}: make room, then start again to go on from there", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The cache cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The faults in one line, cut where it would be long.
fn list(faults: &[Fault]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = faults.iter().take(SHOWN).map(Fault::to_string).collect();
    match faults.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

impl HubError {
    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }

    /// A failed file operation on `path`.
    pub(super) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path }
            }
            _ => Self::Io { path, source },
        }
    }
}

/// Whom an HTTP exchange was about: what its errors name.
pub(super) struct About<'a> {
    pub(super) repo: &'a str,
    pub(super) revision: &'a str,
    /// The hub's host, for errors that do not know theirs.
    pub(super) host: &'a str,
    pub(super) stall: Duration,
}

impl About<'_> {
    /// The meaning of an HTTP status. `code` is the hub's `X-Error-Code`.
    pub(super) fn status(&self, status: u16, code: Option<&str>) -> HubError {
        let repo = self.repo.to_owned();
        match (status, code) {
            // The hub also says 401 for a repository that does not exist,
            // lest strangers learn which private ones do.
            (401 | 403, _) => HubError::Refused { repo, status },
            (404, Some("RevisionNotFound")) => HubError::NoRevision {
                repo,
                revision: self.revision.to_owned(),
            },
            (404, None | Some("RepoNotFound")) => HubError::NoRepository { repo },
            _ => HubError::Status {
                host: self.host.to_owned(),
                status,
                retry_after: None,
            },
        }
    }

    /// The meaning of a failed exchange.
    pub(super) fn transport(&self, error: &reqwest::Error) -> HubError {
        let host = error
            .url()
            .and_then(|url| url.host_str())
            .unwrap_or(self.host)
            .to_owned();
        if error.is_connect() {
            HubError::Unreachable {
                host,
                detail: root_cause(error),
            }
        } else if error.is_timeout() {
            HubError::Stalled {
                host,
                after: self.stall,
            }
        } else {
            HubError::Broken {
                host,
                detail: root_cause(error),
            }
        }
    }

    /// The meaning of what hf-hub reports.
    pub(super) fn hub(&self, error: &HFError) -> HubError {
        let host = self.host.to_owned();
        match error {
            HFError::Request { source, .. } => self.transport(source),
            HFError::RateLimited { retry_after, .. } => HubError::Status {
                host,
                status: 429,
                retry_after: *retry_after,
            },
            HFError::Http { context }
            | HFError::AuthRequired { context }
            | HFError::Forbidden { context }
            | HFError::Conflict { context }
            | HFError::RepoNotFound {
                context: Some(context),
                ..
            }
            | HFError::RevisionNotFound {
                context: Some(context),
                ..
            }
            | HFError::EntryNotFound {
                context: Some(context),
                ..
            } => self.status(context.status.as_u16(), context.error_code.as_deref()),
            HFError::Xet { source, .. } => HubError::Broken {
                host,
                detail: root_cause(source.as_ref()),
            },
            other => HubError::Protocol {
                host,
                detail: root_cause(other),
            },
        }
    }
}

/// The innermost message, which is the one that says what happened, without
/// the addresses (signed ones are secrets) that the outer ones carry.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string().chars().take(200).collect()
}
