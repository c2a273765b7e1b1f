//! A request's body, read whole: as long as it may be and no longer, and not
//! more slowly than it may come. Does not know what is in it.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Limits;

/// A body, and the room in memory it takes, which is given back with it.
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

/// Why a body could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("The request body is longer than {0} bytes.")]
    TooLarge(usize),
    #[error("The request body took too long to arrive.")]
    TooSlow,
    #[error("The request body ended early or is malformed.")]
    Broken,
    #[error("The server holds too many large requests; try again later.")]
    NoRoom,
}

impl BodyError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Reads `body` to its end. A body that announces itself as too long is
/// refused before a byte is read, and one that does not as soon as it is.
pub(super) async fn read(
    body: Incoming,
    limits: &Limits,
    all: &Arc<Semaphore>,
) -> Result<Held, BodyError> {
    if body.size_hint().lower() > limits.body_bytes as u64 {
        return Err(BodyError::TooLarge(limits.body_bytes));
    }
    let whole = collect(body, limits.body_bytes, limits.body_idle_timeout, all);
    timeout(limits.body_timeout, whole)
        .await
        .unwrap_or(Err(BodyError::TooSlow))
}

async fn collect(
    mut body: Incoming,
    limit: usize,
    idle: Duration,
    all: &Arc<Semaphore>,
) -> Result<Held, BodyError> {
    let mut held = Held {
        bytes: Vec::new(),
        room: None,
    };
    loop {
        let frame = match timeout(idle, body.frame()).await {
            Ok(None) => return Ok(held),
            Ok(Some(frame)) => frame.map_err(|_| BodyError::Broken)?,
            Err(_) => return Err(BodyError::TooSlow),
        };
        // What is not data are trailers, and they say nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > limit - held.bytes.len() {
            return Err(BodyError::TooLarge(limit));
        }
        held.take_room(all, data.len())?;
        held.bytes.extend_from_slice(&data);
    }
}

impl Held {
    fn take_room(&mut self, all: &Arc<Semaphore>, bytes: usize) -> Result<(), BodyError> {
        let bytes = u32::try_from(bytes).map_err(|_| BodyError::NoRoom)?;
        let more = Arc::clone(all)
            .try_acquire_many_owned(bytes)
            .map_err(|_| BodyError::NoRoom)?;
        match &mut self.room {
            Some(room) => room.merge(more),
            None => self.room = Some(more),
        }
        Ok(())
    }
}
