//! `list_directory` and `read_file`: one folder and nothing outside it. Every
//! path is opened from the folder's own handle by cap-std, component by
//! component: neither `..` nor a symbolic link leads out, and one that is
//! changed meanwhile does not either. (A link to an absolute path counts as
//! leading out wherever it points.) Nothing is ever written.

#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, DirEntry};

use super::ToolsError;
use super::server::{Failure, Outcome, short};

/// How many bytes of a file are given.
const READ_LIMIT: u64 = 64 * 1024;

/// How many names of a folder are given, and how many are looked at.
const LIST_LIMIT: usize = 200;
const SCAN_LIMIT: usize = 20_000;

/// Longer paths are refused by every system.
const PATH_LIMIT: usize = 4096;

/// The folder.
pub(super) struct Files {
    folder: Arc<Folder>,
}

struct Folder {
    dir: Dir,
    /// Its name without links, to know absolute paths by.
    root: PathBuf,
}

impl Files {
    /// Opens the folder.
    pub(super) fn open(root: PathBuf) -> Result<Self, ToolsError> {
        let opened = root
            .canonicalize()
            .and_then(|root| Ok((Dir::open_ambient_dir(&root, ambient_authority())?, root)));
        match opened {
            Ok((dir, root)) => Ok(Self {
                folder: Arc::new(Folder { dir, root }),
            }),
            Err(error) => Err(ToolsError::Root { root, error }),
        }
    }

    /// The names in a folder, one a line in alphabetical order, folders with
    /// a `/` behind.
    pub(super) async fn list(&self, path: &str) -> Outcome {
        self.run(path, Folder::list).await
    }

    /// The text of a file, without the line ends at its end.
    pub(super) async fn read(&self, path: &str) -> Outcome {
        self.run(path, Folder::read).await
    }

    /// Runs `action` where it may block.
    async fn run(&self, path: &str, action: fn(&Folder, &str) -> Outcome) -> Outcome {
        let folder = Arc::clone(&self.folder);
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || action(&folder, &path))
            .await
            .unwrap_or_else(|error| Err(Failure::new(format_args!("internal error, {error}"))))
    }
}

impl Folder {
    fn list(&self, path: &str) -> Outcome {
        let inside = self.inside(path)?;
        let fail = |error| failure(path, &error);
        if !self.dir.metadata(&inside).map_err(fail)?.is_dir() {
            return Err(Failure::new(format_args!(
                "not a directory: {}",
                short(path)
            )));
        }
        let mut names = Vec::new();
        let mut more = false;
        for entry in self.dir.read_dir(&inside).map_err(fail)? {
            if names.len() == SCAN_LIMIT {
                more = true;
                break;
            }
            names.push(self.shown(&inside, &entry.map_err(fail)?));
        }
        if names.is_empty() {
            return Ok("(empty)".to_owned());
        }
        names.sort_unstable();
        let count = names.len();
        names.truncate(LIST_LIMIT);
        if more {
            names.push(format!("[cut: more than {count} names]"));
        } else if count > LIST_LIMIT {
            names.push(format!("[cut: {LIST_LIMIT} of {count} names]"));
        }
        Ok(names.join("\n"))
    }

    /// An entry's name. A link is what it leads to, if it leads there.
    fn shown(&self, folder: &Path, entry: &DirEntry) -> String {
        let name = entry.file_name();
        let is_dir = match entry.file_type() {
            Ok(kind) if kind.is_symlink() => self
                .dir
                .metadata(folder.join(&name))
                .is_ok_and(|metadata| metadata.is_dir()),
            Ok(kind) => kind.is_dir(),
            Err(_) => false,
        };
        let name = name.to_string_lossy().replace(char::is_control, "?");
        if is_dir { name + "/" } else { name }
    }

    fn read(&self, path: &str) -> Outcome {
        let inside = self.inside(path)?;
        let fail = |error| failure(path, &error);
        // Looked at first, since opening a pipe waits for a writer, and
        // again once it is open, since it may be another by then.
        let kind = self.dir.metadata(&inside).map_err(fail)?;
        check_file(path, &kind)?;
        let file = self.dir.open(&inside).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        check_file(path, &metadata)?;
        let mut bytes = Vec::new();
        file.take(READ_LIMIT)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
        let cut = metadata.len() > READ_LIMIT;
        let text = text(&bytes, cut).ok_or_else(|| binary(path))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Ok(match text.trim_end_matches(['\n', '\r']) {
            text if cut => {
                let (shown, length) = (bytes.len(), metadata.len());
                format!("{text}\n[cut: the first {shown} of {length} bytes]")
            }
            "" => "(empty)".to_owned(),
            text => text.to_owned(),
        })
    }

    /// A path as the client wrote it, seen from the folder. Whether it stays
    /// inside is found out when it is opened.
    fn inside(&self, path: &str) -> Result<PathBuf, Failure> {
        if path.is_empty() {
            return Err(Failure::new("path is empty"));
        }
        if path.len() > PATH_LIMIT || path.contains('\0') {
            return Err(Failure::new("invalid path"));
        }
        let home;
        let path = match path.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                home = std::env::home_dir().ok_or_else(|| Failure::new("there is no home"))?;
                home.join(rest.trim_start_matches('/'))
            }
            _ => PathBuf::from(path),
        };
        if path.is_relative() {
            return Ok(path);
        }
        let below = |path: &Path| {
            let below = path.strip_prefix(&self.root).ok()?;
            Some(Path::new(".").join(below))
        };
        below(&path)
            .or_else(|| below(&path.canonicalize().ok()?))
            .ok_or_else(outside)
    }
}

fn check_file(path: &str, metadata: &cap_std::fs::Metadata) -> Result<(), Failure> {
    if metadata.is_file() {
        return Ok(());
    }
    let path = short(path);
    Err(Failure::new(if metadata.is_dir() {
        format!("{path} is a directory")
    } else {
        format!("not a regular file: {path}")
    }))
}

/// The bytes as text, if they are any. A character cut in two at the end of
/// what was read is left off.
fn text(bytes: &[u8], cut: bool) -> Option<&str> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if cut && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    (!text.contains('\0')).then_some(text)
}

fn binary(path: &str) -> Failure {
    Failure::new(format_args!("{} does not hold text", short(path)))
}

fn outside() -> Failure {
    Failure::new("access is denied outside of the root folder")
}

fn failure(path: &str, error: &io::Error) -> Failure {
    let shown = short(path);
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(format_args!("{shown} does not exist")),
        // cap-std's own refusal, which no system call made.
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_none() => outside(),
        io::ErrorKind::PermissionDenied => Failure::new("permission denied"),
        io::ErrorKind::NotADirectory => Failure::new(format_args!("not a directory: {shown}")),
        _ => Failure::new(format_args!("cannot open {shown}")),
    }
}
