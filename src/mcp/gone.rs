//! That a connection has ended, shared by all who must know.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

/// That a connection has ended, and why, in two steps: whoever sees a symptom
/// gives a hint, then its owner looks for the cause and gives the reason.
#[derive(Default)]
pub(super) struct Gone {
    hint: OnceLock<String>,
    hinted: CancellationToken,
    reason: OnceLock<String>,
    told: CancellationToken,
}

impl Gone {
    /// Nothing more will come through the connection. The first hint counts.
    pub(super) fn hint(&self, symptom: String) {
        let _ = self.hint.set(symptom);
        self.hinted.cancel();
    }

    /// The connection is at its end. The first reason counts.
    pub(super) fn tell(&self, reason: String) {
        let _ = self.reason.set(reason);
        self.hinted.cancel();
        self.told.cancel();
    }

    /// Waits for the hint.
    pub(super) async fn hinted(&self) -> String {
        self.hinted.cancelled().await;
        self.hint.get().cloned().unwrap_or_default()
    }

    /// Waits for the reason.
    pub(super) async fn told(&self) -> String {
        self.told.cancelled().await;
        self.reason.get().cloned().unwrap_or_default()
    }

    /// Whether there was a hint.
    pub(super) fn is_hinted(&self) -> bool {
        self.hinted.is_cancelled()
    }
}
