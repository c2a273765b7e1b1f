//! The command line beside the server: help, check, ask, demo, tools.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Setup, assert_tells_tokyo_time, fake, post, prompt_body, wait_until};

#[test]
fn help_teaches_every_command() {
    let (finished, _) = Setup::new().without_config().run(&["--help"]);
    assert_eq!(finished.code, Some(0));
    assert_eq!(finished.stderr, "");
    for word in [
        "check",
        "ask",
        "demo",
        "inspect",
        "tools",
        "--config",
        "config.json",
        "curl",
    ] {
        assert!(finished.stdout.contains(word), "{word}");
    }
    for command in ["check", "ask", "demo", "inspect", "tools"] {
        let (finished, _) = Setup::new().without_config().run(&[command, "--help"]);
        assert_eq!(finished.code, Some(0), "{command}");
        assert!(finished.stdout.contains("Usage"), "{command}");
    }
}

#[test]
fn the_version_is_the_packages() {
    let (finished, _) = Setup::new().without_config().run(&["--version"]);
    assert_eq!(finished.code, Some(0));
    assert_eq!(
        finished.stdout,
        format!("llm-server {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn an_unknown_command_or_option_is_refused() {
    for arguments in [
        &["serv"][..],
        &["--port", "1"],
        &["ask"],
        &["demo", "--port", "0"],
    ] {
        let (finished, _) = Setup::new().run(arguments);
        assert_eq!(finished.code, Some(2), "{arguments:?}: {}", finished.stderr);
        assert_eq!(finished.stdout, "");
        assert!(finished.stderr.contains("--help"), "{}", finished.stderr);
    }
}

#[test]
fn ask_prints_the_answer_and_nothing_else() {
    let (finished, setup) = Setup::with_tools().run(&["ask", "what is 17 * 23?"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stderr, "");
    assert!(finished.stdout.contains("391"), "{}", finished.stdout);
    assert_eq!(finished.stdout.lines().count(), 1, "{}", finished.stdout);
    assert!(setup.log().contains("what is 17 * 23?"));
}

#[test]
fn ask_works_beside_a_running_server() {
    let program = Setup::new().start();
    let other = Setup::new().set("listening_port", program.port());
    let (finished, _) = other.run(&["ask", "hello!"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    program.stop();
}

#[test]
fn ask_without_a_prompt_or_with_too_long_a_one_fails() {
    let (finished, setup) = Setup::new().run(&["ask", "  "]);
    assert_eq!(finished.code, Some(1));
    assert_eq!(finished.stdout, "");
    let (finished, _) = setup.run(&["ask", &"word ".repeat(5000)]);
    assert_eq!(finished.code, Some(1));
    assert_eq!(finished.stdout, "");
    assert!(finished.stderr.contains("tokens"), "{}", finished.stderr);
}

#[test]
fn check_tells_what_is_there_and_what_is_not() {
    let (good, setup) = Setup::with_tools().run(&["check"]);
    assert_eq!(good.code, Some(0), "{}{}", good.stdout, good.stderr);
    assert_eq!(good.stderr, "");
    for word in [
        "config.json",
        "tools",
        "get_current_time",
        "calculate",
        "read_file",
        "demo",
    ] {
        assert!(
            good.stdout.contains(word),
            "{word} is not in {}",
            good.stdout
        );
    }

    let (bad, _) = setup
        .server("lame", fake(&["--exit-at-start"]))
        .set("model_name", "org/never-downloaded")
        .run(&["check"]);
    assert_eq!(bad.code, Some(1));
    assert!(bad.stdout.contains("lame"), "{}", bad.stdout);
    assert!(bad.stdout.contains("not cached"), "{}", bad.stdout);
    assert!(bad.stdout.contains("calculate"), "{}", bad.stdout);

    let (worse, _) = Setup::new().set("min_p", 7).run(&["check"]);
    assert_eq!(worse.code, Some(78));
    assert!(worse.stderr.contains("min_p"), "{}", worse.stderr);
}

#[test]
fn the_demo_serves_with_nothing_configured() {
    let setup = Setup::new().without_config();
    let temporary = setup.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let port = setup.port().to_string();
    let mut program = setup
        .variable("TMPDIR", temporary.to_str().unwrap())
        .file("hello.txt", "Good morning")
        .launch_with(&["demo", "--port", &port]);
    program.wait_ready();
    let said = wait_until("the demo says how to use it", || {
        let said = std::fs::read_to_string(program.path().join("stdout.txt")).ok()?;
        said.contains("curl").then_some(said)
    });
    assert!(said.contains(&format!("http://127.0.0.1:{port}")), "{said}");
    assert!(program.ask("what is 17 * 23?").contains("391"));
    assert_tells_tokyo_time(|| program.ask("what time is it in Tokyo?"));
    assert!(
        program
            .ask("Please read hello.txt")
            .contains("Good morning")
    );
    let setup = program.stop();
    assert_eq!(setup.stderr(), "");
}

#[test]
fn a_second_demo_takes_the_next_port() {
    // Which ports are free is the machine's business: two demos must differ.
    let launch = || {
        let setup = Setup::new().without_config();
        let temporary = setup.path().join("tmp");
        std::fs::create_dir(&temporary).unwrap();
        let program = setup
            .variable("TMPDIR", temporary.to_str().unwrap())
            .launch_with(&["demo"]);
        let port: u16 = wait_until("the demo says where it listens", || {
            let said = std::fs::read_to_string(program.path().join("stdout.txt")).ok()?;
            let (_, rest) = said.split_once("http://127.0.0.1:")?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        });
        (program, port)
    };
    let (first, first_port) = launch();
    let (second, second_port) = launch();
    assert_ne!(first_port, second_port);
    for port in [first_port, second_port] {
        post(port, &prompt_body("hello!")).answer();
    }
    first.stop();
    second.stop();
}

/// `llm-server tools`, spoken to by hand.
struct Tools {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    next: u32,
}

impl Tools {
    fn start(root: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_llm-server"))
            .args(["tools", "--root"])
            .arg(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut tools = Self {
            child,
            lines,
            next: 0,
        };
        let initialized = tools.request(
            "initialize",
            json!({
                "protocolVersion": "2025-06-18", "capabilities": {},
                "clientInfo": {"name": "test", "version": "1"},
            }),
        );
        assert!(initialized["result"]["serverInfo"]["name"].is_string());
        tools.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        tools
    }

    fn send(&mut self, message: &Value) {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{message}").unwrap();
    }

    fn request(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        loop {
            let line = self.lines.next().expect("it answers").unwrap();
            let message: Value = serde_json::from_str(&line).expect("stdout is JSON alone");
            if message["id"] == id {
                return message;
            }
        }
    }

    /// The text of a tool's result, and whether it is an error.
    fn call(&mut self, name: &str, arguments: Value) -> (String, bool) {
        let answer = self.request("tools/call", json!({"name": name, "arguments": arguments}));
        let result = &answer["result"];
        let text = result["content"][0]["text"]
            .as_str()
            .expect("a text")
            .to_owned();
        (text, result["isError"] == true)
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tools_is_an_mcp_server() {
    let setup = Setup::new()
        .without_config()
        .file("files/a.txt", "alpha")
        .file("secret.txt", "hidden");
    std::os::unix::fs::symlink("../secret.txt", setup.path().join("files/link.txt")).unwrap();
    let mut tools = Tools::start(&setup.path().join("files"));

    let listed = tools.request("tools/list", json!({}));
    let trained: Value = serde_json::from_str(
        &std::fs::read_to_string(crate::support::repository("models/demo/tools.json")).unwrap(),
    )
    .unwrap();
    for tool in trained.as_array().unwrap() {
        let function = &tool["function"];
        let found = listed["result"]["tools"]
            .as_array()
            .unwrap()
            .iter()
            .find(|listed| listed["name"] == function["name"])
            .expect("every tool the model knows is there");
        assert_eq!(found["description"], function["description"]);
        assert_eq!(found["inputSchema"], function["parameters"]);
    }

    assert_eq!(
        tools.call("calculate", json!({"expression": "17*23"})),
        ("391".to_owned(), false)
    );
    assert_tells_tokyo_time(|| {
        tools
            .call("get_current_time", json!({"timezone": "Tokyo"}))
            .0
    });
    let (suggestion, failed) = tools.call("get_current_time", json!({"timezone": "Tokio"}));
    assert!(failed && suggestion.contains("Tokyo"), "{suggestion}");
    let (converted, failed) = tools.call(
        "convert_time",
        json!({"source_timezone": "Asia/Tokyo", "time": "09:00", "target_timezone": "UTC"}),
    );
    assert!(!failed && converted.contains("00:00"), "{converted}");
    let (listing, failed) = tools.call("list_directory", json!({"path": "."}));
    assert!(!failed && listing.contains("a.txt"), "{listing}");
    assert_eq!(
        tools.call("read_file", json!({"path": "a.txt"})),
        ("alpha".to_owned(), false)
    );
    for path in [
        "../secret.txt",
        "link.txt",
        "/etc/passwd",
        "a.txt/../../secret.txt",
    ] {
        let (text, failed) = tools.call("read_file", json!({"path": path}));
        assert!(
            failed && !text.contains("hidden") && !text.contains("root:"),
            "{path}: {text}"
        );
    }
    let (info, failed) = tools.call("system_info", json!({}));
    assert!(!failed && !info.is_empty(), "{info}");
    let (division, failed) = tools.call("calculate", json!({"expression": "1/0"}));
    assert!(failed, "{division}");

    // It ends when its stdin does.
    drop(tools.child.stdin.take());
    let status = wait_until("the tools end", || tools.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}
