//! A blob that is being written: append, then become the blob or not. All
//! file work is done off the async threads. Knows no network.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::error::HubError;

/// An incomplete blob, open at its end.
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    /// The hash of what is there, and what it must come to.
    sha256: Option<(Sha256, String)>,
    /// Kept here as well as by the caller: when the download is dropped in
    /// the middle of a write, the lock lives as long as that write.
    _lock: Arc<File>,
}

impl Partial {
    /// Opens the incomplete blob at `path`: what it holds is kept if
    /// `resume`, else removed.
    pub(super) async fn open(
        path: PathBuf,
        resume: bool,
        sha256: Option<String>,
        lock: Arc<File>,
    ) -> Result<Self, HubError> {
        blocking(path, move |path| {
            let mut file = File::options()
                .read(true)
                .append(true)
                .create(true)
                .open(path)?;
            if !resume {
                file.set_len(0)?;
            }
            let mut sha256 = sha256.map(|expected| (Sha256::new(), expected));
            let len = match &mut sha256 {
                Some((hasher, _)) => hash(&mut file, hasher)?,
                None => file.metadata()?.len(),
            };
            Ok(Self {
                path: path.to_owned(),
                file,
                len,
                sha256,
                _lock: lock,
            })
        })
        .await
    }

    /// How many bytes are there.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Appends `bytes`.
    pub(super) async fn append(mut self, bytes: Vec<u8>) -> Result<Self, HubError> {
        blocking(self.path.clone(), move |_| {
            self.file.write_all(&bytes)?;
            self.len += bytes.len() as u64;
            if let Some((hasher, _)) = &mut self.sha256 {
                hasher.update(&bytes);
            }
            Ok(self)
        })
        .await
    }

    /// Becomes the blob at `blob`, which replaces what was there, if it has
    /// `size` bytes and the right hash. Else the file stays as it is.
    pub(super) async fn finish(self, name: &str, size: u64, blob: PathBuf) -> Result<(), HubError> {
        let file = name.to_owned();
        if self.len != size {
            return Err(HubError::WrongSize {
                file,
                expected: size,
                actual: self.len,
            });
        }
        if let Some((hasher, expected)) = self.sha256 {
            let actual = hasher.finalize();
            let actual: String = actual.iter().map(|byte| format!("{byte:02x}")).collect();
            if !actual.eq_ignore_ascii_case(&expected) {
                return Err(HubError::WrongContent { file });
            }
        }
        let handle = self.file;
        blocking(self.path, move |path| {
            // On the disk before it has its name: a power cut must not leave
            // a blob with a hole.
            handle.sync_all()?;
            std::fs::rename(path, blob)
        })
        .await
    }
}

/// Feeds the rest of `file` to `hasher` and says how long it was.
fn hash(file: &mut File, hasher: &mut Sha256) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut len = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(len);
        }
        hasher.update(&buffer[..read]);
        len += read as u64;
    }
}

/// Does file work on a thread for it.
async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
) -> Result<T, HubError> {
    let task = tokio::task::spawn_blocking(move || {
        work(&path).map_err(|error| HubError::io(path.as_path(), error))
    });
    match task.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down; nobody waits for the answer.
            Err(error) => Err(HubError::io("", std::io::Error::other(error))),
        },
    }
}
