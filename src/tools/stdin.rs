//! Stdin as an asynchronous reader, on a thread of its own. A read of stdin
//! cannot be interrupted, and the runtime would wait for one that tokio's
//! pool had begun: a SIGTERM would then end nothing until the client writes.

use std::io::{self, Read};

use tokio::io::{AsyncWriteExt, DuplexStream};

/// What is read ahead of the server.
const BUFFER: usize = 64 * 1024;

/// Ends when stdin does. The thread is left behind at the end of the process.
pub(super) fn reader() -> io::Result<DuplexStream> {
    let (reader, mut writer) = tokio::io::duplex(BUFFER);
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let mut stdin = io::stdin().lock();
            let mut buffer = vec![0; BUFFER];
            loop {
                match stdin.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(length) => {
                        let written = runtime.block_on(writer.write_all(&buffer[..length]));
                        if written.is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        })?;
    Ok(reader)
}
