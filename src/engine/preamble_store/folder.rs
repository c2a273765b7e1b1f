//! The folder of stored preambles: which files in it are ours, how one comes to
//! its name, and which go when there are too many. Servers may share it.
//!
//! A preamble is the text that somebody wrote for their model, so what is made
//! here is for this user alone. Knows nothing of what is in the files.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::debug;

/// How many files are kept, of all models together.
pub(super) const MOST_FILES: usize = 8;

/// A temporary file is locked as long as it is written to; one that is not, and
/// was not made this very moment, was left behind by a crash.
const MOMENT: Duration = Duration::from_secs(10);

const PREFIX: &str = "llm-server-";
const SUFFIX: &str = ".kv";
const TEMPORARY: &str = ".tmp";

/// Digits of each of the two hashes in a name: 128 bits.
const DIGITS: usize = 32;

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder at `path`, which is made if there is none. What a crash left
    /// behind in it is removed.
    ///
    /// # Errors
    /// If it cannot be made or listed.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let folder = Self {
            path: path.to_owned(),
        };
        for (name, path) in folder.files()? {
            let ours = name.strip_suffix(TEMPORARY).and_then(|name| {
                let (name, number) = name.rsplit_once('.')?;
                Some(is_ours(name) && is_hex(number))
            });
            if ours == Some(true) && is_left_behind(&path).unwrap_or(false) {
                let removed = fs::remove_file(&path);
                debug!(?path, ?removed, "a temporary file was left behind");
            }
        }
        Ok(folder)
    }

    /// The file for the preamble of these hashes.
    pub(super) fn file(&self, kind: &str, ids: &str) -> PathBuf {
        let (kind, ids) = (&kind[..DIGITS], &ids[..DIGITS]);
        self.path.join(format!("{PREFIX}{kind}-{ids}{SUFFIX}"))
    }

    /// The files of one kind.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub(super) fn of_kind(&self, kind: &str) -> io::Result<Vec<PathBuf>> {
        let begin = format!("{PREFIX}{}-", &kind[..DIGITS]);
        let mut files = self.files()?;
        files.retain(|(name, _)| is_ours(name) && name.starts_with(&begin));
        Ok(files.into_iter().map(|(_, path)| path).collect())
    }

    /// A new file that will be `path` once it is [`Temporary::keep`]t.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn temporary(&self, path: PathBuf) -> io::Result<Temporary> {
        let number: u64 = rand::random();
        let mut temporary = path.clone().into_os_string();
        temporary.push(format!(".{number:x}{TEMPORARY}"));
        let temporary = PathBuf::from(temporary);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        let temporary = Temporary {
            file,
            temporary: Some(temporary),
            path,
        };
        // Whatever the umask says. Where files cannot be locked, they are just
        // not told from those left behind.
        temporary
            .file
            .set_permissions(Permissions::from_mode(0o600))?;
        let _ = temporary.file.try_lock();
        Ok(temporary)
    }

    /// Removes our oldest files beyond [`MOST_FILES`], but never `newest`.
    pub(super) fn trim(&self, newest: &Path) {
        let Ok(files) = self.files() else {
            return;
        };
        let mut others: Vec<(SystemTime, PathBuf)> = files
            .into_iter()
            .filter(|(name, path)| is_ours(name) && path != newest)
            .filter_map(|(_, path)| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
            .collect();
        others.sort();
        let beyond = (others.len() + 1).saturating_sub(MOST_FILES);
        for (_, path) in others.into_iter().take(beyond) {
            let removed = fs::remove_file(&path);
            debug!(?path, ?removed, "too many stored preambles");
        }
    }

    /// The plain files there are, those with odd names left out.
    fn files(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && let Ok(name) = entry.file_name().into_string() {
                files.push((name, entry.path()));
            }
        }
        Ok(files)
    }
}

/// Whether a name is one that [`Folder::file`] gives.
fn is_ours(name: &str) -> bool {
    let hashes = name
        .strip_prefix(PREFIX)
        .and_then(|name| name.strip_suffix(SUFFIX))
        .and_then(|hashes| hashes.split_once('-'));
    hashes.is_some_and(|(kind, ids)| {
        [kind, ids]
            .iter()
            .all(|hash| hash.len() == DIGITS && is_hex(hash))
    })
}

fn is_hex(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether nobody writes to a temporary file any more.
fn is_left_behind(path: &Path) -> io::Result<bool> {
    // To write, for where files are locked over a network that is needed.
    let file = File::options().read(true).write(true).open(path)?;
    // A time to come is one of a clock that was wrong.
    let age = file.metadata()?.modified()?.elapsed();
    if age.is_ok_and(|age| age < MOMENT) {
        return Ok(false);
    }
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A file on its way to its name. Dropped before, it is removed.
#[derive(Debug)]
pub(super) struct Temporary {
    file: File,
    /// Where it is; `None` once it has its name.
    temporary: Option<PathBuf>,
    path: PathBuf,
}

impl Temporary {
    /// Gives the file its name, in place of what had it. It is on the disk
    /// before: a power cut must not leave one with a hole.
    ///
    /// # Errors
    /// If the disk fails or somebody has removed the file.
    pub(super) fn keep(mut self) -> io::Result<PathBuf> {
        self.file.sync_all()?;
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.path)?;
        }
        self.temporary = None;
        Ok(std::mem::take(&mut self.path))
    }
}

impl io::Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary
            && let Err(error) = fs::remove_file(temporary)
            && error.kind() != ErrorKind::NotFound
        {
            debug!(path = ?temporary, %error, "a temporary file stays");
        }
    }
}
