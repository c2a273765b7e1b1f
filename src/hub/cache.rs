//! One repository's folder in the shared cache, laid out as Python's
//! `huggingface_hub` and hf-hub lay it out:
//!
//! ```text
//! models--owner--name/blobs/ETAG                 the bytes
//! models--owner--name/snapshots/COMMIT/FILE      a link to a blob
//! models--owner--name/refs/REVISION              a commit
//! .locks/models--owner--name/ETAG.lock           held while a blob is written
//! ```
//!
//! hf-hub has these paths too but keeps them to itself. Knows no network.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::HubError;

/// The branch of a repository when none is named.
pub(super) const DEFAULT_REVISION: &str = "main";

/// Where one repository is cached.
pub(super) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    /// The place of the repository `repo` below `cache`. `repo` must have
    /// been checked with [`is_repo_name`], `revision`s with [`is_revision`].
    pub(super) fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self {
            folder: cache.join(&name),
            locks: cache.join(".locks").join(name),
        }
    }

    /// The commit that `revision` stands for, as far as the cache knows.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            let known = self.snapshot(revision).is_dir();
            return known.then(|| revision.to_owned());
        }
        let text = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// The folder with the files of `commit`.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The file that holds the bytes called `etag`.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where a blob is written until it is complete.
    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Makes the folders that a download of `commit` writes into.
    pub(super) fn create(&self, commit: &str) -> Result<(), HubError> {
        let folders = [
            self.folder.join("blobs"),
            self.folder.join("refs"),
            self.snapshot(commit),
            self.locks.clone(),
        ];
        folders
            .into_iter()
            .try_for_each(|folder| create_folder(&folder))
    }

    /// Notes that `revision` is `commit`. Readers see the old note or the
    /// new one, never half of it.
    pub(super) fn note_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let failed = |error| HubError::io(&path, error);
        if let Some(parent) = path.parent() {
            create_folder(parent)?;
        }
        let written = path.with_file_name(format!(".{}.tmp", std::process::id()));
        std::fs::write(&written, commit).map_err(failed)?;
        std::fs::rename(&written, &path).map_err(failed)
    }

    /// Makes `file` of `commit` a link to the blob `etag`.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let link = self.snapshot(commit).join(file);
        let failed = |error| HubError::io(&link, error);
        let target = Path::new("../../blobs").join(etag);
        // A link that is right stays: another process may be reading there.
        if std::fs::read_link(&link).is_ok_and(|current| current == target) {
            return Ok(());
        }
        match std::fs::remove_file(&link) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        match std::os::unix::fs::symlink(&target, &link) {
            // Another process was quicker, with the same link.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(failed),
        }
    }

    /// The lock on the blob `etag` (a file lock, as hf-hub and Python take
    /// it, that ends with its process), or `None` while another holds it.
    pub(super) fn try_lock(&self, etag: &str) -> Result<Option<File>, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        let failed = |error| HubError::io(&path, error);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

fn create_folder(folder: &Path) -> Result<(), HubError> {
    std::fs::create_dir_all(folder).map_err(|error| HubError::io(folder, error))
}

/// Whether `name` can be a repository's name and so part of paths:
/// `owner/name`, or one of the old ones without an owner.
pub(super) fn is_repo_name(name: &str) -> bool {
    let part = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let edge = |c: char| matches!(c, '-' | '.');
        !part.is_empty()
            && part.chars().all(known)
            && !part.starts_with(edge)
            && !part.ends_with(edge)
            // `--` stands for the slash in the cache.
            && !part.contains("--")
            && !part.contains("..")
    };
    name.len() <= 96 && name.split('/').count() <= 2 && name.split('/').all(part)
}

/// Whether `revision` can be a branch, tag or commit and so part of paths.
pub(super) fn is_revision(revision: &str) -> bool {
    let bad = |c: char| {
        c.is_ascii_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\')
    };
    // Git itself allows none of these.
    revision.len() <= 200
        && !revision.contains(bad)
        && revision
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains(".."))
}

/// Whether `text` is the full name of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// Whether `etag` is a SHA-256, as it is for every large file on the hub.
pub(super) fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.chars().all(|c| c.is_ascii_hexdigit())
}
