//! What the log says of a request.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Level};

use super::support::{Fixture, settings};

/// Collects what is logged on this thread, which is all of it: the test's
/// runtime has no other.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Collects while the guard lives.
    fn collect(&self, level: Level) -> (DefaultGuard, Dispatch) {
        // While there is one subscriber only, tracing asks the thread that
        // first comes by a line whether the line is wanted, and remembers the
        // answer for all; the other tests' threads say no. A second one makes
        // it ask the subscribers.
        let second = Dispatch::new(tracing_subscriber::registry());
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        (tracing::subscriber::set_default(subscriber), second)
    }

    /// The lines that say `what`.
    fn lines(&self, what: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().filter(|line| line.contains(what));
        lines.map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn every_line_of_a_request_has_its_id() {
    let log = Log::default();
    let _guard = log.collect(Level::INFO);
    let server = Fixture::start(settings()).await;
    let prompt = format!("two\nlines {}", "ä".repeat(5000));
    let response = server.post(json!({"prompt": prompt}).to_string()).await;
    let id = response.header("x-request-id").unwrap();
    let lines = log.lines(&format!("request{{id={id}}}"));
    // The request, the model's reply, the response.
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].contains(r#"prompt="two\nlines "#), "{lines:?}");
    assert!(lines[0].chars().count() < 2500, "it is not cut");
    for field in [
        "status=200",
        "response=",
        "rounds=1",
        "prompt_tokens=",
        "generated_tokens=",
        "first_token_ms=",
        "total_ms=",
    ] {
        assert!(lines[2].contains(field), "{field}: {lines:?}");
    }

    let client = server.send("wait").await;
    server.until(|doings| doings.waiting == 1).await;
    drop(client);
    server.until(|doings| doings.cancelled == 1).await;
    let lines = log.lines("the client is gone");
    assert!(
        lines.len() == 1 && lines[0].contains("request{id="),
        "{lines:?}"
    );
}

#[tokio::test]
async fn failures_are_logged_with_their_cause_and_id_at_any_level() {
    let log = Log::default();
    let _guard = log.collect(Level::ERROR);
    let server = Fixture::start(settings()).await;
    let response = server.post(r#"{"prompt": "fail"}"#).await;
    let id = response.header("x-request-id").unwrap();
    let lines = log.lines(&format!("request{{id={id}}}"));
    assert!(
        lines.len() == 1 && lines[0].contains("/secret/model"),
        "{lines:?}"
    );
}
