//! So many a second and no more. Knows nothing of what is counted.

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(1);

/// Admits a number of events a second and counts what it turned away.
#[derive(Debug)]
pub(super) struct Throttle {
    limit: u32,
    since: Instant,
    admitted: u32,
    suppressed: u64,
}

impl Throttle {
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit,
            since: Instant::now(),
            admitted: 0,
            suppressed: 0,
        }
    }

    /// Whether the event may pass.
    pub(super) fn admit(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= WINDOW {
            self.since = now;
            self.admitted = 0;
        }
        if self.admitted < self.limit {
            self.admitted += 1;
            true
        } else {
            self.suppressed += 1;
            false
        }
    }

    /// When [`Throttle::take_suppressed`] will have something to say, if it
    /// will.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.suppressed > 0).then(|| self.since + WINDOW)
    }

    /// How many were turned away, once their second is over.
    pub(super) fn take_suppressed(&mut self, now: Instant) -> Option<u64> {
        (now >= self.due()?).then(|| std::mem::take(&mut self.suppressed))
    }

    /// How many were turned away since the last report, whenever that was.
    pub(super) fn rest(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.suppressed)).filter(|count| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_its_limit_each_second_and_counts_the_rest() {
        let mut throttle = Throttle::new(3);
        let start = throttle.since;
        let admitted = (0..10).filter(|_| throttle.admit(start)).count();
        assert_eq!(admitted, 3);
        assert_eq!(throttle.take_suppressed(start), None);
        let later = start + WINDOW;
        assert_eq!(throttle.due(), Some(later));
        assert_eq!(throttle.take_suppressed(later), Some(7));
        assert_eq!(throttle.take_suppressed(later), None);
        assert!(throttle.admit(later));
        assert_eq!(throttle.due(), None);
    }
}
