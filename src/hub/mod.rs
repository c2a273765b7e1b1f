//! Brings a model's files into a local folder: a folder given by the user,
//! a snapshot in the Hugging Face cache, or a download into that cache with
//! hf-hub. Knows nothing of what is in the files beyond whether they are whole.
//!
//! | file | its job |
//! |---|---|
//! | `env` | the environment: cache, endpoint, token, offline |
//! | `check` | whether a folder holds a complete model |
//! | `cache` | the cache's layout and locks |
//! | `remote` | what the hub says, through hf-hub |
//! | `download`, `partial`, `attempts` | bringing missing files into the cache |

mod attempts;
mod cache;
mod check;
mod download;
mod env;
mod error;
mod partial;
mod remote;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use self::cache::{DEFAULT_REVISION, RepoCache, is_repo_name, is_revision};
pub use self::check::Fault;
use self::download::Download;
pub use self::env::HubEnv;
pub use self::error::HubError;
use self::remote::{Pace, Remote};
use crate::progress::Progress;

/// Which model.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A folder, or a repository on the hub (`owner/name`). What is a folder
    /// on this machine is taken as one.
    pub model_name: String,
    /// A branch, a tag or a commit of the repository; its main branch if
    /// `None`. Means nothing for a folder.
    pub revision: Option<String>,
}

/// Where a model is, as far as this machine knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In a folder of the user's, complete.
    Folder(PathBuf),
    /// In the cache, complete.
    Cached(PathBuf),
    /// In the cache, but a download was interrupted or a file is damaged.
    Partial {
        /// What is wrong with which file.
        missing: Vec<Fault>,
    },
    /// Not on this machine.
    NotCached,
}

/// Says where a model is. Never uses the network.
///
/// # Errors
/// If the name can be no model, or is a folder that holds no complete one.
pub fn locate(settings: &Settings) -> Result<Location, HubError> {
    locate_in(settings, &HubEnv::from_process())
}

/// Gives the folder of a model's files, after downloading those that the
/// cache lacks. A folder and a complete cached copy need no network.
///
/// # Errors
/// If the model cannot be had; see [`HubError`].
pub async fn fetch(settings: &Settings, progress: &dyn Progress) -> Result<PathBuf, HubError> {
    fetch_in(settings, &HubEnv::from_process(), Pace::default(), progress).await
}

/// [`locate`], in a given environment.
pub(crate) fn locate_in(settings: &Settings, env: &HubEnv) -> Result<Location, HubError> {
    let (repo, revision) = match Source::of(settings)? {
        Source::Folder(path) => return Ok(Location::Folder(path)),
        Source::Hub { repo, revision } => (repo, revision),
    };
    let cache = RepoCache::new(&env.cache, repo);
    let Some(commit) = cache.commit(revision.unwrap_or(DEFAULT_REVISION)) else {
        return Ok(Location::NotCached);
    };
    let snapshot = cache.snapshot(&commit);
    let missing = check::faults(&snapshot);
    Ok(if missing.is_empty() {
        Location::Cached(snapshot)
    } else {
        Location::Partial { missing }
    })
}

/// [`fetch`], in a given environment and at a given pace.
async fn fetch_in(
    settings: &Settings,
    env: &HubEnv,
    pace: Pace,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    let faults = match locate_in(settings, env)? {
        Location::Folder(path) | Location::Cached(path) => return Ok(path),
        Location::Partial { missing } => missing,
        Location::NotCached => Vec::new(),
    };
    let (repo, revision) = match Source::of(settings)? {
        Source::Folder(path) => return Ok(path),
        Source::Hub { repo, revision } => (repo, revision),
    };
    if env.offline {
        return Err(HubError::Offline {
            repo: repo.to_owned(),
            faults,
        });
    }
    if !faults.is_empty() {
        warn!(
            ?repo,
            ?faults,
            "the cached copy is not complete; downloading the rest"
        );
    }
    let download = Download {
        repo,
        revision: revision.unwrap_or(DEFAULT_REVISION),
        remote: &Remote::new(env, pace, repo, revision)?,
        cache: &RepoCache::new(&env.cache, repo),
        pace,
        progress,
    };
    let folder = download.run().await?;
    // Every file is as the hub lists it; this asks whether they make a model.
    let faults = check::faults(&folder);
    if !faults.is_empty() {
        return Err(HubError::DamagedRepository {
            repo: repo.to_owned(),
            faults,
        });
    }
    info!(?repo, ?folder, "the model is complete");
    Ok(folder)
}

/// What a model's name means.
enum Source<'a> {
    Folder(PathBuf),
    Hub {
        repo: &'a str,
        revision: Option<&'a str>,
    },
}

impl<'a> Source<'a> {
    /// Decides it, and checks a folder.
    fn of(settings: &'a Settings) -> Result<Self, HubError> {
        let name = settings.model_name.as_str();
        let home = std::env::home_dir();
        let path = env::expand(name, home.as_deref());
        if path.is_dir() {
            return complete_folder(path).map(Self::Folder);
        }
        // Written as a path, it is one, though there is nothing there.
        let looks_like_a_path = ["/", "./", "../", "~"]
            .iter()
            .any(|start| name.starts_with(start));
        if looks_like_a_path || Path::new(name) == Path::new(".") {
            return Err(HubError::NoFolder { path });
        }
        if !is_repo_name(name) {
            return Err(HubError::NotAName {
                name: name.to_owned(),
            });
        }
        let revision = settings.revision.as_deref();
        match revision.filter(|revision| !is_revision(revision)) {
            Some(revision) => Err(HubError::NotARevision {
                revision: revision.to_owned(),
            }),
            None => Ok(Self::Hub {
                repo: name,
                revision,
            }),
        }
    }
}

/// The folder itself if it holds a complete model.
fn complete_folder(path: PathBuf) -> Result<PathBuf, HubError> {
    let faults = check::faults(&path);
    if faults.is_empty() {
        Ok(path)
    } else {
        Err(HubError::IncompleteFolder { path, faults })
    }
}
