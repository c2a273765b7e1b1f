//! The next connection, whatever accept says: a server that runs out of file
//! descriptors waits for better times instead of ending. Does not know what
//! is said on a connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

/// How long accept rests after an error of the system's, at first and at most.
const REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// The next connection, accepted once there is `room` for it. May be dropped
/// at any time without losing a connection.
pub(super) async fn next(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let Ok(permit) = Arc::clone(room).acquire_owned().await else {
        // Nobody closes this semaphore; were it closed there would be no
        // room for ever.
        return std::future::pending().await;
    };
    let (stream, _) = patiently(|| listener.accept()).await;
    (stream, permit)
}

/// Accepts until it works.
async fn patiently<T, F>(mut accept: impl FnMut() -> F) -> T
where
    F: Future<Output = io::Result<T>>,
{
    let mut rest = REST;
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(error) if concerns_one_connection(&error) => {
                debug!(%error, "a connection was gone before it was accepted");
            }
            Err(error) => {
                warn!(%error, rest_ms = rest.as_millis(), "cannot accept connections, trying again");
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(LONGEST_REST);
            }
        }
    }
}

/// Whether the next accept may well succeed at once.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[tokio::test]
    async fn errors_of_accept_are_outlived() {
        const TOO_MANY_OPEN_FILES: i32 = 24;
        let mut script = VecDeque::from([
            Err(io::Error::from_raw_os_error(TOO_MANY_OPEN_FILES)),
            Err(io::ErrorKind::ConnectionAborted.into()),
            Err(io::Error::from_raw_os_error(TOO_MANY_OPEN_FILES)),
            Ok(7),
        ]);
        let started = std::time::Instant::now();
        let accepted = patiently(|| {
            let next = script.pop_front().expect("the script ends with Ok");
            std::future::ready(next)
        });
        assert_eq!(accepted.await, 7);
        // It rested after the errors of the system's, the second time longer.
        assert!(started.elapsed() >= 3 * REST);
    }
}
