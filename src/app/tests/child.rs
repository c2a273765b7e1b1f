//! The server in a process of its own, its model, and clients. The model says
//! on stdout that it is about to take a step, and of how many tokens of each
//! sequence, and is told on stdin what to make of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::app::{serve, to_end};
use crate::backend::{BackendChoice, BackendSettings, MemoryUse};
use crate::model::{
    self, Input, Model, ModelError, ModelFiles, ModelInfo, RawKv, SequenceId, Submitted, Tokens,
};
use crate::progress::Progress;

/// What the process's environment names its configuration file by.
const CONFIG: &str = "TEST_SERVER_CONFIG";

/// The step in which two sequences decode, and nothing else happens.
pub(super) const STEP_OF_TWO: &str = "step 1 1";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `Child` starts. `main` does the same with the arguments' path and the
/// real model, and returns the code instead of exiting with it.
#[test]
#[ignore = "started by other tests"]
fn server() {
    let config: PathBuf = std::env::var_os(CONFIG).unwrap().into();
    std::process::exit(to_end(serve::run(&config, load)).into());
}

fn load(
    files: &ModelFiles,
    _: BackendSettings,
    progress: &dyn Progress,
) -> Result<Box<dyn Model>, ModelError> {
    let inner = model::load(files, BackendChoice::Candle, progress)?;
    Ok(Box::new(Told { inner }))
}

/// The bundled model, doing before each step what it is told.
struct Told {
    inner: Box<dyn Model>,
}

impl Model for Told {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }
    fn open(&mut self) -> Result<SequenceId, ModelError> {
        self.inner.open()
    }
    fn fork(&mut self, sequence: SequenceId, len: usize) -> Result<SequenceId, ModelError> {
        self.inner.fork(sequence, len)
    }
    fn snapshot(&mut self, sequence: SequenceId) -> Result<(), ModelError> {
        self.inner.snapshot(sequence)
    }
    fn export(&self, sequence: SequenceId, layer: usize, len: usize) -> Result<RawKv, ModelError> {
        self.inner.export(sequence, layer, len)
    }
    fn import(
        &mut self,
        len: usize,
        layers: &mut dyn Iterator<Item = RawKv>,
    ) -> Result<SequenceId, ModelError> {
        self.inner.import(len, layers)
    }
    fn close(&mut self, sequence: SequenceId) {
        self.inner.close(sequence);
    }
    fn memory(&self) -> Option<MemoryUse> {
        self.inner.memory()
    }
    fn submit(&mut self, batch: &[Input<'_>]) -> Result<Submitted, ModelError> {
        let mut step = "step".to_owned();
        for input in batch {
            let tokens = match input.tokens {
                Tokens::Given(tokens) => tokens.len(),
                Tokens::Drawn => 1,
            };
            step.push_str(&format!(" {tokens}"));
        }
        writeln!(std::io::stdout(), "\n{step}").unwrap();
        let mut told = String::new();
        // At the end of stdin everything goes its way.
        std::io::stdin().read_line(&mut told).unwrap();
        match told.trim() {
            "panic" => panic!("made to panic"),
            "fail" => Err(ModelError::Input("made to fail".to_owned())),
            _ => self.inner.submit(batch),
        }
    }
}

/// A port that nobody has, another one each time: from below the range that
/// systems use for outgoing connections.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if let Some(port) = runtime.block_on(serve::free_port(port, 1)) {
            return port;
        }
    }
}

/// The process. It does not outlive this.
pub(super) struct Child {
    process: std::process::Child,
    /// `None` once nothing more is told.
    stdin: Option<ChildStdin>,
    steps: Receiver<String>,
    port: u16,
    folder: TempDir,
}

impl Child {
    /// A server that answers requests, two at a time.
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let config = json!({
            "model_name": "demo",
            "listening_port": port,
            "servers": {},
            "system_prompt": "You are a helpful assistant.",
            "temperature": 0.0,
            "top_p": 1.0,
            "min_p": 0.0,
            "min_tokens_to_keep": 1,
            "log_level": "info",
            "log_filename": folder.path().join("log"),
            "max_concurrent_requests": 2,
        });
        let path = folder.path().join("config.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "app::tests::child::server"])
            .args(["--ignored", "--nocapture"])
            .env(CONFIG, path)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        let (step, steps) = mpsc::channel();
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if line.starts_with("step") && step.send(line).is_err() {
                    return;
                }
            }
        });
        let mut this = Self {
            stdin: process.stdin.take(),
            process,
            steps,
            port,
            folder,
        };
        this.warm_up();
        this
    }

    /// Takes whatever steps it takes until the server listens.
    fn warm_up(&mut self) {
        let begun = Instant::now();
        while !self.log().contains("listening address=") {
            match self.steps.recv_timeout(Duration::from_millis(20)) {
                Ok(_) => self.tell("go"),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("it has ended: {}", self.log()),
            }
            assert!(begun.elapsed() < PATIENCE, "{}", self.log());
        }
    }

    /// Takes steps until the next one is `wanted`, of which it is not told
    /// yet what to make.
    pub(super) fn step_until(&mut self, wanted: &str) {
        loop {
            let step = self.steps.recv_timeout(PATIENCE).unwrap();
            if step == wanted {
                return;
            }
            // Time for a request that was logged to come to the engine.
            std::thread::sleep(Duration::from_millis(50));
            self.tell("go");
        }
    }

    /// What to make of the step that is next.
    pub(super) fn tell(&mut self, what: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{what}").unwrap();
        stdin.flush().unwrap();
    }

    /// All steps go their way from now on.
    pub(super) fn let_go(&mut self) {
        self.stdin = None;
    }

    /// Asks, and does not wait for the answer.
    pub(super) fn ask(&self, prompt: &str) -> Asked {
        let mut asked = self.begin_to_ask(prompt);
        asked.go_on();
        asked
    }

    /// Asks all but the last character.
    pub(super) fn begin_to_ask(&self, prompt: &str) -> Asked {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = json!({ "prompt": prompt }).to_string();
        let (most, rest) = body.split_at(body.len() - 1);
        let length = body.len();
        write!(
            stream,
            "POST / HTTP/1.1\r\nhost: here\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{most}"
        )
        .unwrap();
        let rest = rest.to_owned();
        Asked { stream, rest }
    }

    /// Waits until the log has this many lines that say `what`.
    pub(super) fn until_logged(&self, what: &str, count: usize) {
        let begun = Instant::now();
        while self.log().matches(what).count() < count {
            assert!(begun.elapsed() < PATIENCE, "{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until connections are not accepted any more.
    pub(super) fn until_refused(&self) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(begun.elapsed() < PATIENCE, "{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(super) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Its exit code, if it has ended.
    pub(super) fn exit_code_so_far(&mut self) -> Option<i32> {
        self.process.try_wait().unwrap()?.code()
    }

    /// Its exit code, and what it said on stderr. It ends by itself, and soon.
    pub(super) fn exit_code(&mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut said = String::new();
        let stderr = self.process.stderr.as_mut().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (status.code(), said)
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A request that was sent, or most of it.
pub(super) struct Asked {
    stream: TcpStream,
    /// What is still to be sent.
    rest: String,
}

impl Asked {
    /// Sends what is missing.
    pub(super) fn go_on(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        self.stream.write_all(rest.as_bytes()).unwrap();
    }

    /// The answer of a request that has one.
    pub(super) fn answer(self) -> String {
        let (status, body) = self.response();
        assert_eq!(status, 200, "{body}");
        let answer = body["response"].as_str().unwrap();
        assert!(!answer.is_empty());
        answer.to_owned()
    }

    /// The request was answered with an error of the server's.
    pub(super) fn assert_failed(self) {
        let (status, body) = self.response();
        assert!((500..600).contains(&status), "{status}: {body}");
        let object = body.as_object().unwrap();
        assert!(object.len() == 1 && object["Error"].is_string(), "{body}");
    }

    /// The status and the body, which is as long as it says and JSON.
    fn response(mut self) -> (u16, Value) {
        assert!(self.rest.is_empty(), "it was never sent whole");
        let mut text = String::new();
        self.stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a response");
        let head = head.to_lowercase();
        let length = format!("content-length: {}", body.len());
        for line in ["content-type: application/json", &length] {
            assert!(head.lines().any(|known| known == line), "{text}");
        }
        let status = head
            .strip_prefix("http/1.1 ")
            .and_then(|rest| rest.get(..3));
        let status = status.unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }
}
