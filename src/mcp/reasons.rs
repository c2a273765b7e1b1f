//! Why something went wrong, in one sentence that says what to do where that
//! is known. Hides no secrets: the callers do.

use std::io;
use std::time::Duration;

use rmcp::service::{ClientInitializeError, ServiceError};

use super::child::Child;
use super::gone::Gone;
use super::{ServerSettings, Transport, http};
use crate::excerpt::head;

/// The longest text that is passed on, in characters.
const LONGEST: usize = 500;
/// How long the exit of a child may be behind the end of its pipes.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why a child could not be started.
pub(super) fn cannot_start(settings: &ServerSettings, error: &io::Error) -> String {
    let Transport::Stdio { command, cwd, .. } = &settings.transport else {
        return error.to_string();
    };
    if let Some(cwd) = cwd.as_deref().filter(|cwd| !cwd.is_dir()) {
        return format!("its `cwd` {} is not a folder", cwd.display());
    }
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("its `command` {command:?} was not found; install it, or give its full path")
        }
        io::ErrorKind::PermissionDenied => {
            format!("its `command` {command:?} may not be executed; check its permissions")
        }
        _ => format!("its `command` {command:?} cannot be started: {error}"),
    }
}

/// Why a child did not shake hands: what it did says more than the transport.
pub(super) async fn no_handshake(
    error: &ClientInitializeError,
    gone: &Gone,
    child: &mut Child,
) -> String {
    if !gone.is_hinted() {
        return describe_start(error);
    }
    match tokio::time::timeout(LAST_WORDS, child.exited()).await {
        Ok(exit) => format!("it {exit} before it was ready; its stderr is in this log"),
        Err(_) => gone.hinted().await,
    }
}

/// Why there was no handshake.
pub(super) fn describe_start(error: &ClientInitializeError) -> String {
    match error {
        ClientInitializeError::TransportError { error, .. } => describe(&*error.error),
        ClientInitializeError::JsonRpcError(error) => {
            cut(&format!("it refused the handshake: {}", error.message))
        }
        error => describe(error),
    }
}

/// Why a request was not answered.
pub(super) fn describe_request(error: &ServiceError) -> String {
    match error {
        // Its own text begins with the name of a Rust type.
        ServiceError::TransportSend(error) => describe(&*error.error),
        error => describe(error),
    }
}

/// An error with its causes in one line.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let first = http::client_error(error).unwrap_or(error);
    let mut text = first.to_string();
    let mut cause = first.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    if http::is_unauthorized(error) {
        text = format!("it refuses our credentials, check its `headers` ({text})");
    }
    cut(&text)
}

/// The beginning of a text, enough to recognise it.
pub(super) fn cut(text: &str) -> String {
    head(text, LONGEST).to_owned()
}
