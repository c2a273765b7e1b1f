//! When to try again, and when no more. Does not know what is tried.

use tracing::warn;

use super::error::HubError;
use super::remote::Pace;

/// Counts failed attempts at one thing.
pub(super) struct Attempts {
    pace: Pace,
    failed: u32,
}

impl Attempts {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, failed: 0 }
    }

    /// Waits before the next attempt, or gives the error back if there is to
    /// be none. `headway` says that this attempt was not in vain.
    pub(super) async fn failed(
        &mut self,
        what: &str,
        error: HubError,
        headway: bool,
    ) -> Result<(), HubError> {
        if headway {
            self.failed = 0;
        }
        self.failed += 1;
        if !error.is_transient() || self.failed >= self.pace.attempts {
            return Err(error);
        }
        let mut wait = self.pace.backoff * 2u32.pow((self.failed - 1).min(5));
        if let HubError::Status {
            retry_after: Some(asked),
            ..
        } = &error
        {
            wait = wait.max((*asked).min(self.pace.stall));
        }
        warn!(?what, attempt = self.failed, wait_seconds = wait.as_secs_f32(), %error, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}
