//! Brings the missing files of a repository into the cache: decides which
//! files, tries again what may pass, and lets nothing take a blob's name that
//! is not that blob. Several processes may do so at once: a blob is written
//! under its lock. Dropping the future stops it; what had arrived by then is
//! where the next attempt goes on.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::attempts::Attempts;
use super::cache::{RepoCache, is_sha256};
use super::check::{self, INDEX, REQUIRED};
use super::error::HubError;
use super::partial::Partial;
use super::remote::{Pace, Remote, is_past_the_end};
use crate::progress::Progress;

/// Small files beside the weights; each is taken if the repository has it.
const SMALL: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
];

/// Files that arrive at once. One connection rarely fills the line.
const AT_ONCE: usize = 4;

/// Headway worth counting the attempts anew.
const HEADWAY: u64 = 1 << 20;

/// Bytes are handed to the disk in pieces of this size.
const PIECE: usize = 1 << 20;

/// How often to look whether another process has finished.
const LOCK_POLL: Duration = Duration::from_millis(250);

/// One repository on its way into the cache.
pub(super) struct Download<'a> {
    pub(super) repo: &'a str,
    pub(super) revision: &'a str,
    pub(super) remote: &'a Remote,
    pub(super) cache: &'a RepoCache,
    pub(super) pace: Pace,
    pub(super) progress: &'a dyn Progress,
}

/// One file that is wanted.
struct Wanted {
    name: String,
    size: u64,
}

/// Tells the progress of one file, which must not go down when a file is
/// begun anew.
struct Meter<'a> {
    progress: &'a dyn Progress,
    file: &'a str,
    told: u64,
}

/// How an attempt ended that did not fail.
enum Transferred {
    /// All announced bytes are there.
    Whole(Partial),
    /// The server sends a file from its beginning, whatever it is asked for.
    NoRanges,
}

impl Meter<'_> {
    fn reached(&mut self, bytes: u64) {
        if bytes > self.told {
            self.progress.advance(self.file, bytes - self.told);
            self.told = bytes;
        }
    }
}

impl Download<'_> {
    /// Downloads what is missing and returns the folder.
    pub(super) async fn run(&self) -> Result<PathBuf, HubError> {
        let commit = self
            .trying("the repository", || self.remote.commit())
            .await?;
        let files = self
            .trying("its files", || self.remote.files(&commit))
            .await?;
        self.require(&files)?;
        self.cache.create(&commit)?;
        // Noted first: an interrupted download is then found as one.
        self.cache.note_commit(self.revision, &commit)?;

        let small = pick(&files, SMALL.iter().map(|name| (*name).to_owned()));
        let weights = self.weights(&commit, &files).await?;
        let all = small.iter().chain(&weights);
        let total = all.clone().map(|file| file.size).sum();
        info!(repo = ?self.repo, %commit, "downloading the model");
        self.progress.begin(total, all.count());
        // Weights come last: where they are complete, the rest is, too.
        for batch in [&small, &weights] {
            futures::stream::iter(batch)
                .map(|file| self.file(&commit, file, self.progress))
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        self.progress.done();
        Ok(self.cache.snapshot(&commit))
    }

    /// Refuses a repository that cannot be served before anything is fetched.
    fn require(&self, files: &BTreeMap<String, u64>) -> Result<(), HubError> {
        let repo = || self.repo.to_owned();
        let has = |ending: &str| files.keys().any(|name| name.ends_with(ending));
        if !has(".safetensors") {
            let kinds = [".gguf", ".bin", ".pt", ".pth", ".npz"];
            let found = kinds.into_iter().find(|ending| has(ending));
            return Err(HubError::NoSafetensors {
                repo: repo(),
                found,
            });
        }
        let missing = REQUIRED.iter().find(|name| !files.contains_key(**name));
        match missing {
            None => Ok(()),
            Some(file) => Err(HubError::NotInRepository {
                repo: repo(),
                file: (*file).to_owned(),
            }),
        }
    }

    /// The weights: the shards that the index names, fetched for that, or
    /// what there is without one.
    async fn weights(
        &self,
        commit: &str,
        files: &BTreeMap<String, u64>,
    ) -> Result<Vec<Wanted>, HubError> {
        let Some(index) = pick(files, [INDEX.to_owned()]).pop() else {
            let names = check::select_unindexed(files.keys().map(String::as_str));
            return Ok(pick(files, names));
        };
        self.file(commit, &index, &()).await?;
        let path = self.cache.snapshot(commit).join(INDEX);
        let mut names = check::shards(&path).map_err(|damage| HubError::DamagedRepository {
            repo: self.repo.to_owned(),
            faults: vec![check::Fault {
                file: INDEX.to_owned(),
                damage: Some(damage),
            }],
        })?;
        if let Some(file) = names.iter().find(|name| !files.contains_key(*name)) {
            return Err(HubError::NotInRepository {
                repo: self.repo.to_owned(),
                file: file.clone(),
            });
        }
        names.insert(INDEX.to_owned());
        Ok(pick(files, names))
    }

    /// Sees to it that one file is in the snapshot, whole.
    async fn file(
        &self,
        commit: &str,
        file: &Wanted,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        let mut meter = Meter {
            progress,
            file: &file.name,
            told: 0,
        };
        if !file.is_whole(&self.cache.snapshot(commit).join(&file.name)) {
            let etag = self
                .trying(&file.name, || self.remote.etag(commit, &file.name))
                .await?;
            let blob = self.cache.blob(&etag);
            if !file.is_whole(&blob) {
                // Held across awaits on purpose: it guards the blob's file
                // against other processes for as long as this one writes it.
                let lock = Arc::new(self.lock(&etag, file).await?);
                if !file.is_whole(&blob) {
                    self.blob(commit, file, &etag, &lock, &mut meter).await?;
                }
            }
            self.cache.link(commit, &file.name, &etag)?;
        }
        meter.reached(file.size);
        Ok(())
    }

    /// Takes the lock on a blob. Another process that holds it may take as
    /// long as it likes while its file grows.
    async fn lock(&self, etag: &str, file: &Wanted) -> Result<File, HubError> {
        let size = || std::fs::metadata(self.cache.incomplete(etag)).map_or(0, |found| found.len());
        let mut seen = (size(), Instant::now());
        let mut told = false;
        loop {
            if let Some(lock) = self.cache.try_lock(etag)? {
                return Ok(lock);
            }
            if !told {
                info!(file = ?file.name, "another process is downloading this file; waiting for it");
                told = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
            let now = size();
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if seen.1.elapsed() > self.pace.stall * 3 {
                return Err(HubError::Busy {
                    file: file.name.clone(),
                });
            }
        }
    }

    /// Downloads a blob, going on where the last attempt stopped, and once
    /// more from its beginning if the result is wrong.
    async fn blob(
        &self,
        commit: &str,
        file: &Wanted,
        etag: &str,
        lock: &Arc<File>,
        meter: &mut Meter<'_>,
    ) -> Result<(), HubError> {
        let path = self.cache.incomplete(etag);
        // Bytes left by another run are trusted only where the whole can be
        // checked: after a power cut they may be anything. Other files are small.
        let mut resume = is_sha256(etag);
        let mut ranges = true;
        let mut wrong = false;
        let mut attempts = Attempts::new(self.pace);
        loop {
            let before = if resume { length(&path) } else { 0 };
            let sha256 = is_sha256(etag).then(|| etag.to_owned());
            let partial = Partial::open(path.clone(), resume, sha256, Arc::clone(lock));
            let partial = partial.await?;
            let error = match self.transfer(commit, file, partial, meter).await {
                Ok(Transferred::Whole(partial)) => {
                    let blob = self.cache.blob(etag);
                    match partial.finish(&file.name, file.size, blob).await {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
                Ok(Transferred::NoRanges) => {
                    (ranges, resume) = (false, false);
                    continue;
                }
                Err(error) => error,
            };
            match &error {
                HubError::WrongSize { .. } | HubError::WrongContent { .. } => {
                    remove(&path)?;
                    if wrong {
                        return Err(error);
                    }
                    warn!(file = ?file.name, %error, "starting this file anew");
                    wrong = true;
                }
                _ => {
                    let gained = length(&path).saturating_sub(before);
                    attempts
                        .failed(&file.name, error, gained >= HEADWAY)
                        .await?;
                }
            }
            resume = ranges;
        }
    }

    /// One attempt: all bytes that are still missing go into `partial`.
    async fn transfer(
        &self,
        commit: &str,
        file: &Wanted,
        mut partial: Partial,
        meter: &mut Meter<'_>,
    ) -> Result<Transferred, HubError> {
        let wrong = |actual| HubError::WrongSize {
            file: file.name.clone(),
            expected: file.size,
            actual,
        };
        let start = partial.len();
        if start == file.size {
            return Ok(Transferred::Whole(partial));
        }
        if start > file.size {
            return Err(wrong(start));
        }
        let opened = self.remote.open(commit, &file.name, start, file.size).await;
        let (announced, mut stream) = match opened {
            Err(error) if is_past_the_end(&error) => return Err(wrong(start)),
            other => other?,
        };
        let rest = file.size - start;
        match announced {
            Some(announced) if start > 0 && announced == file.size => {
                return Ok(Transferred::NoRanges);
            }
            Some(announced) if announced != rest => return Err(wrong(start + announced)),
            _ => {}
        }
        debug!(file = ?file.name, start, "receiving");
        let mut piece = Vec::with_capacity(PIECE.min(rest as usize));
        loop {
            let next = self.remote.next(&mut stream).await;
            if let Ok(Some(chunk)) = &next {
                piece.extend_from_slice(chunk.as_ref());
            }
            let more = matches!(next, Ok(Some(_)));
            // Whatever ended the stream, what has arrived is kept.
            if piece.len() >= PIECE || (!more && !piece.is_empty()) {
                partial = partial.append(std::mem::take(&mut piece)).await?;
            }
            let reached = partial.len() + piece.len() as u64;
            meter.reached(reached.min(file.size));
            if reached > file.size {
                return Err(wrong(reached));
            }
            if next?.is_none() {
                return Ok(Transferred::Whole(partial));
            }
        }
    }

    /// Tries `exchange` until it succeeds, fails for good or too often.
    async fn trying<T, F>(&self, what: &str, exchange: impl Fn() -> F) -> Result<T, HubError>
    where
        F: Future<Output = Result<T, HubError>>,
    {
        let mut attempts = Attempts::new(self.pace);
        loop {
            match exchange().await {
                Ok(found) => return Ok(found),
                Err(error) => attempts.failed(what, error, false).await?,
            }
        }
    }
}

impl Wanted {
    /// Whether the file at `path` is this one, as far as can be told without
    /// reading all of it.
    fn is_whole(&self, path: &Path) -> bool {
        let found = std::fs::metadata(path);
        found.is_ok_and(|found| found.is_file() && found.len() == self.size)
            && check::damage(path, &self.name).is_none()
    }
}

/// Those of `names` that the repository has.
fn pick(files: &BTreeMap<String, u64>, names: impl IntoIterator<Item = String>) -> Vec<Wanted> {
    names
        .into_iter()
        .filter_map(|name| {
            let size = *files.get(&name)?;
            Some(Wanted { name, size })
        })
        .collect()
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |found| found.len())
}

fn remove(path: &Path) -> Result<(), HubError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HubError::io(path, error))
        }
        _ => Ok(()),
    }
}
