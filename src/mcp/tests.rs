//! The host against real child processes: `tests/support/fake_mcp.py` in all
//! its ways to misbehave. Needs `python3` and `ps`.

mod failures;
mod http;
mod lifecycle;
mod tools;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{CallOutcome, Registry, ServerSettings, ServerState, Transport};

const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/fake_mcp.py");

/// The fake server with these options, separated by spaces.
fn fake(name: &str, options: &str) -> ServerSettings {
    ServerSettings {
        name: name.to_owned(),
        transport: Transport::Stdio {
            command: "python3".to_owned(),
            args: std::iter::once(FAKE)
                .chain(options.split_whitespace())
                .map(str::to_owned)
                .collect(),
            env: Default::default(),
            cwd: None,
        },
        timeout: Duration::from_secs(20),
        tools: None,
    }
}

fn with_timeout(mut settings: ServerSettings, timeout: Duration) -> ServerSettings {
    settings.timeout = timeout;
    settings
}

async fn call(registry: &Registry, tool: &str, arguments: Value) -> CallOutcome {
    let Value::Object(arguments) = arguments else {
        unreachable!("arguments are an object");
    };
    registry.call(tool, arguments).await
}

/// The text of a call that must succeed.
async fn text(registry: &Registry, tool: &str, arguments: Value) -> String {
    let outcome = call(registry, tool, arguments).await;
    assert!(!outcome.is_error, "{tool}: {}", outcome.text);
    outcome.text
}

/// The text of a call that must fail.
async fn error(registry: &Registry, tool: &str, arguments: Value) -> String {
    let outcome = call(registry, tool, arguments).await;
    assert!(outcome.is_error, "{tool}: {}", outcome.text);
    outcome.text
}

fn names(registry: &Registry) -> Vec<String> {
    let tools = registry.tools();
    tools.iter().map(|tool| tool.name.clone()).collect()
}

/// Why the only server is down.
fn reason(registry: &Registry) -> String {
    match &registry.status()[0].state {
        ServerState::Failed { reason } => reason.clone(),
        other => format!("not failed: {other:?}"),
    }
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

/// A folder for the files of one test.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The methods of the messages in a `--record` file.
    fn methods(&self, name: &str) -> Vec<String> {
        self.lines(name)
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|message| Some(message.get("method")?.as_str()?.to_owned()))
            .collect()
    }
}

/// Whether a process runs; one that has ended but was not reaped does not.
fn alive(pid: &str) -> bool {
    let output = std::process::Command::new("ps")
        .args(["-o", "stat=", "-p", pid.trim()])
        .output()
        .unwrap();
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Everything that is logged on this thread while it lives.
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

struct LogWriter(Arc<Mutex<Vec<u8>>>);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn capture() -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&text);
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || LogWriter(Arc::clone(&writer)))
            .finish();
        Self {
            text,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    /// The lines that hold all of `parts`.
    fn lines(&self, parts: &[&str]) -> Vec<String> {
        self.text()
            .lines()
            .filter(|line| parts.iter().all(|part| line.contains(part)))
            .map(str::to_owned)
            .collect()
    }
}
