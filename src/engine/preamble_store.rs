//! Keys and values of pinned sequences in a folder, so that they survive a
//! restart: the longest stored prefix of a prompt is put back into the model,
//! and a new preamble is written.
//!
//! The engine's thread reads the model, a layer at a time between two steps; a
//! thread of its own writes the file. What goes wrong here costs an evaluation
//! and a line in the log, never a request.
//!
//! Decides nothing about what is cached in memory.

mod folder;
mod format;
mod writing;

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::{debug, info, warn};

use super::PreambleFolder;
use super::prefix_cache::common_prefix;
use crate::model::{KvLayout, Model, SequenceId};
use folder::Folder;
use format::{Fault, Kind, Reader, hash_of};
use writing::{Handed, Writing};

/// How long the engine waits for the writing thread at most, where there is
/// nothing else to do.
const PAUSE: Duration = Duration::from_millis(5);

/// While requests are worked on, reading the model takes one part of this many
/// of the time.
const SHARE: u32 = 10;

/// The stored preambles of one model.
pub(super) struct PreambleStore {
    folder: Folder,
    kind: Arc<Kind>,
    /// The preamble that is stored or being written, or was tried to.
    stored: Vec<u32>,
    writing: Option<Writing>,
    /// While requests are worked on, nothing is read before.
    rest_until: Instant,
}

/// A stored preamble that begins as a prompt does.
struct Found {
    path: PathBuf,
    reader: Reader<File>,
    /// How many tokens they have in common.
    common: usize,
}

impl PreambleStore {
    /// The store in a folder, for a model whose KV cache is of `layout`. If the
    /// folder cannot be used, that is said and there is none.
    pub(super) fn open(settings: &PreambleFolder, layout: KvLayout) -> Option<Self> {
        match Folder::open(&settings.path) {
            Ok(folder) => Some(Self {
                folder,
                kind: Arc::new(Kind::new(&settings.model, layout)),
                stored: Vec::new(),
                writing: None,
                rest_until: Instant::now(),
            }),
            Err(error) => {
                warn!(
                    folder = ?settings.path,
                    %error,
                    "prefix_cache_dir cannot be used; the preamble will not survive a restart"
                );
                None
            }
        }
    }

    /// Begins a sequence with the keys and values of as many of the first
    /// tokens of `prompt` as are stored, all but its last at most, and says how
    /// many. `fits` says whether there is room for those tokens and they are of
    /// use.
    pub(super) fn restore(
        &mut self,
        model: &mut dyn Model,
        prompt: &[u32],
        fits: impl Fn(&[u32]) -> bool,
    ) -> Option<(SequenceId, usize)> {
        let began = Instant::now();
        let before_last = prompt.split_last()?.1;
        for found in self.find(before_last) {
            let Found {
                path,
                reader,
                common,
            } = found;
            if !fits(&before_last[..common]) {
                debug!(tokens = common, "there is no room for a stored preamble");
                continue;
            }
            let mut reader = reader.shortened(common);
            let sequence = match model.import(common, &mut reader) {
                Ok(sequence) => sequence,
                Err(error) => {
                    match reader.into_fault() {
                        Some(fault) => discard(&path, &fault),
                        None => warn!(?path, %error, "a stored preamble cannot be used"),
                    }
                    continue;
                }
            };
            // Only now is it known that all of it was as written.
            if let Err(fault) = reader.finish() {
                model.close(sequence);
                discard(&path, &fault);
                continue;
            }
            // The one used last is the last to go. It does no harm if it goes.
            let _ = reader.file().set_modified(SystemTime::now());
            let ms = began.elapsed().as_millis() as u64;
            info!(tokens = common, ?path, ms, "read the stored preamble");
            self.stored = reader.ids().to_vec();
            return Some((sequence, common));
        }
        None
    }

    /// Those that begin as `ids` do, the one that does so longest first. One
    /// of which less than half is of use is not worth reading.
    fn find(&self, ids: &[u32]) -> Vec<Found> {
        let files = match self.folder.of_kind(self.kind.key()) {
            Ok(files) => files,
            Err(error) => {
                warn!(%error, "prefix_cache_dir cannot be listed");
                return Vec::new();
            }
        };
        let count = files.len();
        let mut found: Vec<Found> = files
            .into_iter()
            .filter_map(|path| match self.look_at(&path) {
                Ok(reader) => Some(Found {
                    common: common_prefix(reader.ids(), ids),
                    path,
                    reader,
                }),
                Err(fault) => {
                    discard(&path, &fault);
                    None
                }
            })
            .filter(|found| found.common > 0 && found.common * 2 >= found.reader.ids().len())
            .collect();
        if found.is_empty() {
            debug!(
                of_this_model = count,
                "no stored preamble begins as this one does"
            );
        }
        found.sort_by_key(|found| (usize::MAX - found.common, found.reader.ids().len()));
        found
    }

    /// Opens a file and reads which tokens it is of.
    fn look_at(&self, path: &Path) -> Result<Reader<File>, Fault> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let reader = Reader::open(file, length, &self.kind)?;
        match self.file_of(reader.ids()) == path {
            true => Ok(reader),
            false => Err(Fault::Damaged("its tokens are not those of its name")),
        }
    }

    fn file_of(&self, ids: &[u32]) -> PathBuf {
        self.folder.file(self.kind.key(), &hash_of(ids))
    }

    /// Begins to write what the model holds of a sequence with these tokens,
    /// unless it is stored already. [`Self::advance`] goes on with it.
    pub(super) fn store(&mut self, sequence: SequenceId, ids: &[u32]) {
        if self.stored == ids {
            return;
        }
        self.stored = ids.to_vec();
        let path = self.file_of(ids);
        let (folder, kind) = (self.folder.clone(), Arc::clone(&self.kind));
        match Writing::begin(sequence, ids.to_vec(), path, folder, kind) {
            Ok(writing) => self.writing = Some(writing),
            Err(error) => {
                self.writing = None;
                warn!(%error, "the preamble cannot be stored: there is no thread for it");
            }
        }
    }

    /// A sequence is about to be closed.
    pub(super) fn closing(&mut self, sequence: SequenceId) {
        self.writing
            .take_if(|writing| writing.sequence() == sequence);
    }

    /// Hands the writing thread the next layer if it takes one; `busy` says
    /// whether requests are worked on. Says how long the engine may wait before
    /// the next time: `None` is for ever.
    pub(super) fn advance(&mut self, model: &dyn Model, busy: bool) -> Option<Duration> {
        let writing = self.writing.as_mut()?;
        let began = Instant::now();
        if busy && began < self.rest_until {
            return Some(PAUSE);
        }
        match writing.hand_over(model) {
            Ok(Handed::One) => {
                self.rest_until = began + began.elapsed() * SHARE;
                Some(Duration::ZERO)
            }
            Ok(Handed::None) => Some(PAUSE),
            Ok(Handed::All) => None,
            Err(error) => {
                warn!(%error, "the preamble cannot be stored");
                self.writing = None;
                None
            }
        }
    }

    /// Waits until what is being written is, but no longer than `patience`.
    pub(super) fn finish(&mut self, model: &dyn Model, patience: Duration) {
        let until = Instant::now() + patience;
        while let Some(pause) = self.advance(model, false) {
            if Instant::now() >= until {
                warn!("the preamble is not stored: the disk is too slow");
                self.writing = None;
                return;
            }
            std::thread::sleep(pause.min(Duration::from_millis(1)));
        }
        if let Some(writing) = self.writing.take()
            && !writing.wait(until)
        {
            warn!("the preamble may not be stored: the disk is too slow");
        }
    }
}

/// Says what is wrong with a stored preamble, and removes it if nobody can use
/// it.
fn discard(path: &Path, fault: &Fault) {
    match fault {
        // Another server that shares the folder has removed it.
        Fault::Unreadable(error) if error.kind() == ErrorKind::NotFound => {}
        Fault::Unreadable(_) => {
            warn!(?path, reason = %fault, "a stored preamble is not used; it is evaluated again");
        }
        Fault::Damaged(reason) => {
            warn!(
                ?path,
                reason, "a stored preamble is damaged and removed; it is evaluated again"
            );
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests;
