//! A preamble on its way to the disk: the engine's thread reads a layer from
//! the model when the writing thread is ready for one, so that no more than two
//! of them are in memory and a slow disk holds nobody up.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::folder::Folder;
use super::format::{Kind, Writer};
use crate::model::{Model, ModelError, RawKv, SequenceId};

/// A sequence that is being written. Dropped before all of it is handed over,
/// nothing comes of it.
pub(super) struct Writing {
    sequence: SequenceId,
    tokens: usize,
    layers: usize,
    /// The next layer to be read.
    next: usize,
    /// Read, and not taken yet.
    pending: Option<RawKv>,
    /// `None` once the thread has all it needs, or has given up.
    sender: Option<SyncSender<RawKv>>,
    thread: JoinHandle<()>,
}

/// What came of trying to hand a layer over.
pub(super) enum Handed {
    /// The thread is not ready for it.
    None,
    /// It has taken one.
    One,
    /// It needs no more.
    All,
}

impl Writing {
    /// Begins to write the sequence's keys and values to the file `path`.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn begin(
        sequence: SequenceId,
        ids: Vec<u32>,
        path: PathBuf,
        folder: Folder,
        kind: Arc<Kind>,
    ) -> io::Result<Self> {
        // It takes a layer only when it has written the one before.
        let (sender, layers) = mpsc::sync_channel(0);
        let (tokens, count) = (ids.len(), kind.layers());
        let thread = std::thread::Builder::new()
            .name("preamble".to_owned())
            .spawn(move || write(&ids, path, &folder, &kind, &layers))?;
        Ok(Self {
            sequence,
            tokens,
            layers: count,
            next: 0,
            pending: None,
            sender: Some(sender),
            thread,
        })
    }

    /// What is being written.
    pub(super) fn sequence(&self) -> SequenceId {
        self.sequence
    }

    /// Reads the next layer, if none is waiting, and offers it to the thread.
    ///
    /// # Errors
    /// If the model does not give it.
    pub(super) fn hand_over(&mut self, model: &dyn Model) -> Result<Handed, ModelError> {
        let Some(sender) = &self.sender else {
            return Ok(Handed::All);
        };
        let layer = match self.pending.take() {
            Some(layer) => layer,
            None => model.export(self.sequence, self.next, self.tokens)?,
        };
        match sender.try_send(layer) {
            Ok(()) => {
                self.next += 1;
                if self.next == self.layers {
                    self.sender = None;
                }
                Ok(Handed::One)
            }
            Err(TrySendError::Full(layer)) => {
                self.pending = Some(layer);
                Ok(Handed::None)
            }
            // It has said why.
            Err(TrySendError::Disconnected(_)) => {
                self.sender = None;
                Ok(Handed::All)
            }
        }
    }

    /// Waits until the thread has ended. Whether it has in time.
    pub(super) fn wait(self, until: Instant) -> bool {
        while !self.thread.is_finished() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

/// The writing thread.
fn write(ids: &[u32], path: PathBuf, folder: &Folder, kind: &Kind, layers: &Receiver<RawKv>) {
    let began = Instant::now();
    match try_write(ids, path, folder, kind, layers) {
        Ok(Some(path)) => {
            let ms = began.elapsed().as_millis() as u64;
            info!(tokens = ids.len(), ?path, ms, "stored the preamble");
            folder.trim(&path);
        }
        Ok(None) => debug!("the preamble is not stored: it is not needed any more"),
        Err(error) => warn!(%error, "the preamble cannot be stored in prefix_cache_dir"),
    }
}

/// Writes the layers as they come. `None` if they end before the last.
fn try_write(
    ids: &[u32],
    path: PathBuf,
    folder: &Folder,
    kind: &Kind,
    layers: &Receiver<RawKv>,
) -> io::Result<Option<PathBuf>> {
    let Ok(first) = layers.recv() else {
        return Ok(None);
    };
    let file = folder.temporary(path)?;
    let mut writer = Writer::begin(file, kind, ids, &first)?;
    writer.layer(&first)?;
    drop(first);
    for _ in 1..kind.layers() {
        match layers.recv() {
            Ok(layer) => writer.layer(&layer)?,
            Err(_) => return Ok(None),
        }
    }
    let mut file = writer.finish()?;
    file.flush()?;
    file.keep().map(Some)
}
