//! What the program talks to in tests: MCP servers that misbehave as told,
//! real ones, a weather service and a model hub, all on this machine.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::process::{descendants, signal, wait_until};
use super::program::repository;

/// An interpreter that `scripts/test` has prepared, or the system's.
pub(crate) fn python() -> String {
    std::env::var("LLM_SERVER_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// A program of an npm package that `scripts/test` has installed.
#[track_caller]
pub(crate) fn node_program(package: &str) -> PathBuf {
    let modules = std::env::var("LLM_SERVER_TEST_NODE")
        .expect("LLM_SERVER_TEST_NODE is set: run the tests with scripts/test");
    let program = Path::new(&modules)
        .join("@modelcontextprotocol")
        .join(package)
        .join("dist/index.js");
    assert!(program.exists(), "{} is not there", program.display());
    program
}

/// The entry of a fake MCP server: what it can do is told in its own help.
pub(crate) fn fake(options: &[&str]) -> Value {
    let mut args = vec![json!(repository("tests/support/fake_mcp.py"))];
    args.extend(options.iter().map(|option| json!(option)));
    json!({"type": "stdio", "command": python(), "args": args, "timeout_seconds": 60})
}

/// The entry of a fake MCP server that offers `get_temperature`, which the
/// demo model calls when asked for a temperature, and behaves like `tool`.
pub(crate) fn playing(tool: &str, options: &[&str]) -> Value {
    let play = format!("get_temperature={tool}");
    let mut all = vec!["--play", &play];
    all.extend(options);
    fake(&all)
}

/// What makes the demo model call `get_temperature`.
pub(crate) const TEMPERATURE_PROMPT: &str = "What is the temperature in Dallas, TX?";

/// Asserts that what `told` gives holds the time of day in Tokyo.
#[track_caller]
pub(crate) fn assert_tells_tokyo_time(told: impl FnOnce() -> String) {
    let clock = || {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("it is after 1970")
            .as_secs();
        // Tokyo is nine hours ahead all year.
        let there = now + 9 * 3600;
        format!("{:02}:{:02}", there / 3600 % 24, there / 60 % 60)
    };
    let before = clock();
    let told = told();
    let after = clock();
    assert!(
        told.contains(&before) || told.contains(&after),
        "{told:?} at {before}"
    );
}

/// A process beside the program, killed with all below it when dropped.
pub(crate) struct Service {
    child: Child,
}

impl Service {
    /// Starts it. Its stdin stays open as long as this lives.
    pub(crate) fn start(command: &mut Command, output: &Path) -> Self {
        let file = File::create(output).expect("the file can be made");
        let errors = file.try_clone().expect("the file can be shared");
        let child = command
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .expect("the service starts");
        Self { child }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let below = descendants(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in below {
            signal(i64::from(pid), "KILL");
        }
    }
}

/// A hub that serves a folder as the model `org/tiny`.
pub(crate) struct Hub {
    /// For HF_ENDPOINT.
    pub(crate) endpoint: String,
    log: PathBuf,
    _service: Service,
}

impl Hub {
    /// Starts it with its files in `scratch`.
    pub(crate) fn start(scratch: &Path, model: &Path, options: &[&str]) -> Self {
        fs::create_dir_all(scratch).expect("the folder can be made");
        let output = scratch.join("hub.out");
        let log = scratch.join("hub.log");
        let service = Service::start(
            Command::new(python())
                .arg(repository("tests/support/fake_hub.py"))
                .arg(model)
                .arg("--log")
                .arg(&log)
                .args(options),
            &output,
        );
        let endpoint = wait_until("the hub listens", || {
            let text = fs::read_to_string(&output).ok()?;
            let line: Value = serde_json::from_str(text.lines().next()?).ok()?;
            Some(line["endpoint"].as_str()?.to_owned())
        });
        Self {
            endpoint,
            log,
            _service: service,
        }
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Value> {
        fs::read_to_string(&self.log)
            .unwrap_or_default()
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line is JSON"))
            .collect()
    }
}

/// A weather service with one city, Dallas in Texas, where it is 72 °F.
pub(crate) struct Weather {
    /// For `--weather-url`.
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    port: u16,
}

impl Weather {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopped) = (Arc::clone(&requests), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(mut stream) = stream else { continue };
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let request = lines.next().unwrap_or_default();
                while lines.next().is_some_and(|line| !line.is_empty()) {}
                let body = if request.contains("/v1/search") && request.contains("Dallas") {
                    json!({"results": [{
                        "id": 4684888, "name": "Dallas", "latitude": 32.78306,
                        "longitude": -96.80667, "country_code": "US",
                        "country": "United States", "admin1": "Texas", "population": 1_300_092,
                    }]})
                } else if request.contains("/v1/forecast") {
                    json!({"current": {"temperature_2m": 72.0}})
                } else {
                    json!({})
                }
                .to_string();
                seen.lock().expect("no test panics with it").push(request);
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Self {
            url: format!("http://127.0.0.1:{port}"),
            requests,
            stop,
            port,
        }
    }

    /// The request lines so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests
            .lock()
            .expect("no thread panics with it")
            .clone()
    }
}

impl Drop for Weather {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread up to see it.
        let _ = std::net::TcpStream::connect(("127.0.0.1", self.port));
    }
}
