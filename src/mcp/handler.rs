//! What a server may ask and tell us: its log messages go to our log, a
//! changed tool list wakes whoever lists, everything else gets the protocol's
//! polite refusal from `rmcp`'s defaults (no roots, sampling or elicitation).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

// Later versions of the protocol give log messages up; today's servers still
// send them.
#[allow(deprecated)]
use rmcp::model::{
    ClientCapabilities, ClientConfig, Implementation, LoggingLevel,
    LoggingMessageNotificationParam, ProtocolVersion,
};
use rmcp::service::{NotificationContext, RoleClient};
use tokio::sync::Notify;
use tracing::{debug, error, info, warn};

use super::secrets::Secrets;
use super::throttle::Throttle;

/// The most log messages a second.
const RATE: u32 = 200;
/// The longest log message, in characters.
const LONGEST: usize = 4096;

/// Our side of one connection.
pub(super) struct Handler {
    pub(super) server: Arc<str>,
    pub(super) secrets: Arc<Secrets>,
    /// Told when the server says that its tools changed.
    pub(super) tools_changed: Arc<Notify>,
    /// Held for a few instructions at a time, never across an await.
    pub(super) throttle: Mutex<Throttle>,
}

impl Handler {
    pub(super) fn new(server: Arc<str>, secrets: Arc<Secrets>, tools_changed: Arc<Notify>) -> Self {
        Self {
            server,
            secrets,
            tools_changed,
            throttle: Mutex::new(Throttle::new(RATE)),
        }
    }
}

impl rmcp::ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let us = Implementation::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), us)
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
    }

    #[allow(deprecated)]
    async fn on_logging_message(
        &self,
        params: LoggingMessageNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        let now = Instant::now();
        let (admitted, suppressed) = {
            let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
            (throttle.admit(now), throttle.take_suppressed(now))
        };
        let server = &*self.server;
        if let Some(count) = suppressed {
            info!(
                server,
                "{count} log messages suppressed (more than {RATE} a second)"
            );
        }
        if !admitted {
            return;
        }
        let text = match params.data {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        let message: String = self.secrets.hide(&text).chars().take(LONGEST).collect();
        match params.level {
            LoggingLevel::Debug => debug!(server, ?message, "log"),
            LoggingLevel::Info | LoggingLevel::Notice => info!(server, ?message, "log"),
            LoggingLevel::Warning => warn!(server, ?message, "log"),
            _ => error!(server, ?message, "log"),
        }
    }

    async fn on_tool_list_changed(&self, _context: NotificationContext<RoleClient>) {
        self.tools_changed.notify_one();
    }
}
