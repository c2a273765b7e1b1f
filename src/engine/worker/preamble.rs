//! What the worker does so that the pinned preamble survives a restart: it has
//! the store put it back before it is evaluated, and write it once it is.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::{Job, Worker};

/// How long the end waits for what is being written.
const PATIENCE: Duration = Duration::from_secs(5);

impl Worker<'_> {
    /// Parks what is stored of a prompt, for its request to go on from. All but
    /// the last token, so that the request can take the sequence as it is.
    pub(super) fn restore(&mut self, prompt: &[u32]) {
        let Some(store) = &mut self.preambles else {
            return;
        };
        let scheduler = &self.scheduler;
        let restored = store.restore(&mut *self.model, prompt, |ids| scheduler.can_adopt(ids));
        if let Some((sequence, len)) = restored {
            let slot = self.scheduler.adopt(prompt[..len].to_vec());
            self.sequences.insert(slot, sequence);
        }
    }

    /// A request has ended: if its sequence is the one pinned, it is stored.
    pub(super) fn store_pinned(&mut self) {
        if let Some(store) = &mut self.preambles
            && let Some((slot, ids)) = self.scheduler.pinned()
            && let Some(&sequence) = self.sequences.get(&slot)
        {
            store.store(sequence, ids);
        }
    }

    /// Goes on with what is being stored and, if there is nothing to generate,
    /// waits for a job. False when none will come any more.
    pub(super) fn wait_for_work(&mut self, queue: &mpsc::Receiver<Job>) -> bool {
        loop {
            let busy = !self.generations.is_empty();
            let store = self.preambles.as_mut();
            let pause = store.and_then(|store| store.advance(&*self.model, busy));
            if busy {
                return true;
            }
            let job = match pause {
                None => queue.recv().map_err(RecvTimeoutError::from),
                Some(pause) => queue.recv_timeout(pause),
            };
            match job {
                Ok(job) => self.arrive(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Nothing will be generated any more.
    pub(super) fn finish_storing(&mut self) {
        if let Some(store) = &mut self.preambles {
            store.finish(&*self.model, PATIENCE);
        }
    }
}
