//! SIGTERM and SIGINT as a value that can be watched. Knows nothing of what
//! is shut down.
//!
//! SIGHUP is left alone on purpose: `nohup` asks for it to be ignored, and a
//! handler of ours would undo that.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures::StreamExt;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook_tokio::Signals;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Whether the process has been told to end. Clones watch the same value.
#[derive(Debug, Clone)]
pub struct Shutdown {
    token: CancellationToken,
}

/// Sets a [`Shutdown`] by hand.
#[derive(Debug)]
pub struct Trigger {
    token: CancellationToken,
}

impl Shutdown {
    /// Watches for SIGTERM and SIGINT from now on. The first sets the value;
    /// the second ends the process at once, with 128 and its number as the
    /// exit code, even if the runtime is stuck.
    ///
    /// Must be called within a tokio runtime, once.
    ///
    /// # Errors
    /// If the signals cannot be watched.
    pub fn install() -> io::Result<Self> {
        let told = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            // The order matters: the first signal finds the flag not set, and
            // sets it; the second finds it set, and exits inside the handler.
            flag::register_conditional_shutdown(signal, 128 + signal, told.clone())?;
            flag::register(signal, told.clone())?;
        }
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let (trigger, shutdown) = Self::manual();
        tokio::spawn(async move {
            if let Some(signal) = signals.next().await {
                info!(signal = name(signal), "shutting down");
                trigger.set();
            }
            // Kept to the end: dropping it would take its handlers away.
            signals.for_each(|_| std::future::ready(())).await;
        });
        Ok(shutdown)
    }

    /// A value that is set by hand and never by a signal.
    pub fn manual() -> (Trigger, Self) {
        let token = CancellationToken::new();
        let trigger = Trigger {
            token: token.clone(),
        };
        (trigger, Self { token })
    }

    /// Whether it has been set.
    pub fn is_set(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until it is set.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }
}

impl Trigger {
    /// Sets the value, for good.
    pub fn set(&self) {
        self.token.cancel();
    }
}

fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("unknown")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stdout)]
mod tests;
