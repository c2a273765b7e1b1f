//! The real program in a temporary folder of its own: its config, its start,
//! its end. Whatever a test does, nothing that was started here outlives it.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::client::{Response, post, prompt_body};
use super::process::{alive, descendants, signal, wait_until};
use super::services::playing;

/// A folder with a config, not started yet.
pub(crate) struct Setup {
    dir: TempDir,
    config: Map<String, Value>,
    variables: Vec<(String, String)>,
    port: u16,
}

/// The program, running. Killed with everything below it when dropped.
pub(crate) struct Running {
    child: Child,
    setup: Setup,
}

/// A command that ran to its end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A port that nobody has. They are taken from below the range that systems
/// use for outgoing connections, so that none is lost to one in the meantime.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    let offset = (std::process::id() % u32::from(COUNT)) as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (offset + step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Setup {
    /// The demo model without servers, greedy.
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a temporary folder can be made");
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
            "log_level": "debug",
            "log_filename": dir.path().join("llm-server.log"),
        });
        let Value::Object(config) = config else {
            unreachable!("it is written as an object")
        };
        Self {
            dir,
            config,
            variables: Vec::new(),
            port,
        }
    }

    /// The demo model with the bundled tools, whose files are in `files/`.
    pub(crate) fn with_tools() -> Self {
        Self::new().with_tools_and(&[], None)
    }

    /// The same with more arguments and an allow list.
    pub(crate) fn with_tools_and(self, arguments: &[&str], allowed: Option<&[&str]>) -> Self {
        let files = self.dir.path().join("files");
        fs::create_dir_all(&files).expect("the folder can be made");
        let mut args = vec![json!("tools"), json!("--root"), json!(files)];
        args.extend(arguments.iter().map(|argument| json!(argument)));
        let mut server = json!({
            "type": "stdio",
            "command": env!("CARGO_BIN_EXE_llm-server"),
            "args": args,
            "timeout_seconds": 60,
        });
        if let Some(allowed) = allowed {
            server["tools"] = json!(allowed);
        }
        self.server("tools", server)
    }

    /// Sets a key of the config.
    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config.insert(key.to_owned(), value.into());
        self
    }

    /// Takes a key out of the config.
    pub(crate) fn without(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }

    /// Adds an MCP server.
    pub(crate) fn server(mut self, name: &str, server: Value) -> Self {
        self.config["servers"][name] = server;
        self
    }

    /// Adds a server "fake" whose temperature takes this long, `64°F` in the
    /// end. [`Running::wait_for_calls`] knows of the calls it gets.
    pub(crate) fn slow_temperature(self, seconds: u32, options: &[&str]) -> Self {
        let tool = json!({"seconds": seconds, "text": "64°F"});
        let record = self.path().join("calls");
        let record = record
            .to_str()
            .expect("a temporary folder has a plain name");
        let options = [&["--record", record], options].concat();
        self.server("fake", playing(&format!("slow:{tool}"), &options))
    }

    /// Sets a variable of the program's environment.
    pub(crate) fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Writes a file into the folder.
    pub(crate) fn file(self, name: &str, contents: impl AsRef<[u8]>) -> Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("folder made");
        fs::write(path, contents).expect("the file can be written");
        self
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a copy of the bundled model in the folder `model`.
    pub(crate) fn model_folder(&self) -> PathBuf {
        let folder = self.path().join("model");
        fs::create_dir(&folder).expect("the folder can be made");
        for entry in fs::read_dir(repository("models/demo")).expect("it is there") {
            let entry = entry.expect("the folder can be read");
            if entry.path().is_file() {
                let copy = folder.join(entry.file_name());
                fs::copy(entry.path(), copy).expect("the file can be copied");
            }
        }
        folder
    }

    /// Where the config says to listen.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The log so far; empty if there is none.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path().join("llm-server.log")).unwrap_or_default())
            .into_owned()
    }

    /// Everything said on stderr by the program that was started last.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path().join("stderr.txt")).unwrap_or_default())
            .into_owned()
    }

    fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path().join("stdout.txt")).unwrap_or_default())
            .into_owned()
    }

    /// Writes config.json and gives the command that starts the program in
    /// the folder. The environment is this process's, without what would
    /// make a test depend on the machine.
    fn command(&self, arguments: &[&str]) -> Command {
        if !self.config.is_empty() {
            let text = serde_json::to_string_pretty(&self.config).expect("it is JSON");
            fs::write(self.path().join("config.json"), text).expect("the config can be written");
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_llm-server"));
        command.args(arguments).current_dir(self.path());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            let upper = name.to_uppercase();
            if upper.starts_with("HF_")
                || upper.ends_with("_PROXY")
                || upper.starts_with("LLM_SERVER_")
                || upper.starts_with("RUST_")
            {
                command.env_remove(name);
            }
        }
        command.env("HF_HOME", self.path().join("hf"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = |name| File::create(self.path().join(name)).expect("the file can be made");
        command
            .stdin(Stdio::null())
            .stdout(output("stdout.txt"))
            .stderr(output("stderr.txt"));
        command
    }

    /// Without a config.json of ours: what is in the folder decides.
    pub(crate) fn without_config(mut self) -> Self {
        self.config.clear();
        self
    }

    /// Starts the program with arguments and does not wait for anything.
    pub(crate) fn launch_with(self, arguments: &[&str]) -> Running {
        let child = self.command(arguments).spawn().expect("the program starts");
        Running { child, setup: self }
    }

    /// Starts the program and does not wait for anything.
    pub(crate) fn launch(self) -> Running {
        self.launch_with(&[])
    }

    /// Starts the program and waits until it listens.
    pub(crate) fn start(self) -> Running {
        let mut running = self.launch();
        running.wait_ready();
        running
    }

    /// Runs a command to its end.
    pub(crate) fn run(self, arguments: &[&str]) -> (Finished, Self) {
        let mut running = self.launch_with(arguments);
        let code = running.wait().code();
        let finished = Finished {
            code,
            stdout: running.setup.stdout(),
            stderr: running.setup.stderr(),
        };
        (finished, running.into_setup())
    }
}

impl std::ops::Deref for Running {
    type Target = Setup;

    fn deref(&self) -> &Setup {
        &self.setup
    }
}

impl Running {
    /// The program's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it listens: it does so only when it can answer.
    pub(crate) fn wait_ready(&mut self) {
        wait_until("the program listens", || {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                panic!("the program ended before it listened: {status}");
            }
            TcpStream::connect(("127.0.0.1", self.setup.port)).ok()
        });
    }

    /// The answer to a prompt.
    #[track_caller]
    pub(crate) fn ask(&self, prompt: &str) -> String {
        self.post(&prompt_body(prompt)).answer()
    }

    /// POSTs a body.
    #[track_caller]
    pub(crate) fn post(&self, body: &[u8]) -> Response {
        post(self.port(), body)
    }

    /// Waits until the log holds `text` and gives the log.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        wait_until(&format!("{text:?} in the log"), || {
            let log = self.log();
            log.contains(text).then_some(log)
        })
    }

    /// Waits until the server of [`Setup::slow_temperature`] was called
    /// `count` times.
    #[track_caller]
    pub(crate) fn wait_for_calls(&self, count: usize) {
        self.wait_for_messages("tools/call", count);
    }

    /// The same for messages of any method.
    #[track_caller]
    pub(crate) fn wait_for_messages(&self, method: &str, count: usize) {
        wait_until(&format!("{count} messages {method}"), || {
            let record = fs::read_to_string(self.path().join("calls")).ok()?;
            (record.matches(method).count() >= count).then_some(())
        });
    }

    /// Sends the program a signal.
    pub(crate) fn signal(&self, name: &str) {
        signal(i64::from(self.pid()), name);
    }

    /// All processes below it.
    pub(crate) fn descendants(&self) -> Vec<u32> {
        descendants(self.pid())
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_until("the program ends", || {
            child.try_wait().expect("it is our child")
        })
    }

    /// SIGTERM; it must end with 0 and leave nobody behind.
    #[track_caller]
    pub(crate) fn stop(self) -> Setup {
        self.signal("TERM");
        self.stopped()
    }

    /// The same for a program that has had its signal.
    #[track_caller]
    pub(crate) fn stopped(mut self) -> Setup {
        let children = self.descendants();
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.stderr());
        for child in children {
            assert!(!alive(child), "process {child} is still there");
        }
        self.into_setup()
    }

    /// The folder, to look into after the end. Kills what still runs.
    pub(crate) fn into_setup(mut self) -> Setup {
        self.kill();
        let empty = Setup {
            dir: TempDir::new().expect("a temporary folder can be made"),
            config: Map::new(),
            variables: Vec::new(),
            port: 0,
        };
        std::mem::replace(&mut self.setup, empty)
    }

    fn kill(&mut self) {
        let below = descendants(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in below {
            signal(i64::from(pid), "KILL");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.setup.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            #[allow(clippy::print_stderr)]
            {
                eprintln!("--- stderr of the program\n{}", self.setup.stderr());
                eprintln!("--- end of its log\n{}", tail.join("\n"));
            }
        }
        self.kill();
    }
}

/// Where a file of this repository is.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
