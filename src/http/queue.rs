//! Who is answered now, who waits and who is turned away. Does not know what
//! the requests ask for.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// A number of slots and a line of limited length before them, first come,
/// first served.
pub(super) struct Queue {
    slots: Semaphore,
    waiting: AtomicUsize,
    max_waiting: usize,
}

/// The line is as long as it may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A place in the line, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl Queue {
    /// A queue of `slots` slots, at least one, and as many as `max_waiting`
    /// in the line.
    pub(super) fn new(slots: usize, max_waiting: usize) -> Self {
        Self {
            slots: Semaphore::new(slots.clamp(1, Semaphore::MAX_PERMITS)),
            waiting: AtomicUsize::new(0),
            max_waiting,
        }
    }

    /// Waits for a slot, which is free again when the permit is dropped.
    /// Dropping the future leaves the line.
    pub(super) async fn enter(&self) -> Result<SemaphorePermit<'_>, Full> {
        // A slot that becomes free goes to the first in the line, so that
        // this takes none from those who wait.
        if let Ok(permit) = self.slots.try_acquire() {
            return Ok(permit);
        }
        let _place = self.place()?;
        match self.slots.acquire().await {
            Ok(permit) => Ok(permit),
            // Only a closed semaphore says no, and nobody closes this one.
            Err(_) => Err(Full),
        }
    }

    fn place(&self) -> Result<Place<'_>, Full> {
        // The counter guards nothing but itself.
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                (waiting < self.max_waiting).then_some(waiting + 1)
            })
            .map(|_| Place(&self.waiting))
            .map_err(|_| Full)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn slots_then_places_then_full() {
        let queue = Queue::new(1, 2);
        let running = queue.enter().await.expect("a free slot");
        let mut second = Box::pin(queue.enter());
        let mut third = Box::pin(queue.enter());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        assert!(matches!(queue.enter().await, Err(Full)));

        // Who leaves the line makes room at its end.
        drop(second);
        let mut fourth = Box::pin(queue.enter());
        assert!(fourth.as_mut().now_or_never().is_none());

        // A slot goes to the first in the line, and to no newcomer.
        drop(running);
        assert!(queue.slots.try_acquire().is_err());
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(matches!(third.now_or_never(), Some(Ok(_))));
        assert!(matches!(fourth.now_or_never(), Some(Ok(_))));
        assert_eq!(queue.waiting.load(Ordering::Relaxed), 0);
    }
}
