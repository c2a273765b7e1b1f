//! MCP servers written by others: what is said to work with them is tried
//! with them. They are installed by `scripts/test`.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Service, Setup, node_program, python, wait_until};

fn everything() -> Value {
    json!({
        "type": "stdio", "command": "node",
        "args": [node_program("server-everything"), "stdio"], "timeout_seconds": 60,
    })
}

fn filesystem(root: &Path) -> Value {
    json!({
        "type": "stdio", "command": "node",
        "args": [node_program("server-filesystem"), root], "timeout_seconds": 60,
    })
}

fn time() -> Value {
    json!({
        "type": "stdio", "command": python(),
        "args": ["-m", "mcp_server_time", "--local-timezone", "UTC"], "timeout_seconds": 60,
    })
}

fn allow(mut server: Value, tools: &[&str]) -> Value {
    server["tools"] = json!(tools);
    server
}

#[test]
fn the_tools_of_all_real_servers_are_listed() {
    let setup = Setup::new();
    let root = setup.path().to_owned();
    let (checked, _) = setup
        .server("everything", everything())
        .server("filesystem", filesystem(&root))
        .server("time", time())
        .run(&["check"]);
    assert_eq!(
        checked.code,
        Some(0),
        "{}{}",
        checked.stdout,
        checked.stderr
    );
    for tool in [
        "echo",
        "get-sum",
        "read_text_file",
        "list_directory",
        "get_current_time",
        "convert_time",
    ] {
        assert!(
            checked.stdout.contains(tool),
            "{tool} is not in {}",
            checked.stdout
        );
    }
}

#[test]
fn server_time_tells_the_time() {
    let program = Setup::new()
        .server("time", allow(time(), &["get_current_time"]))
        .start();
    let answer = program.ask("what time is it in Asia/Tokyo?");
    assert!(answer.contains("+09:00"), "{answer:?}");
    program.stop();
}

#[test]
fn server_filesystem_lists_a_folder() {
    let setup = Setup::new().file("files/notes.txt", "buy milk");
    // The server knows its folder by its name without links.
    let root = setup.path().join("files").canonicalize().unwrap();
    let program = setup
        .server("filesystem", allow(filesystem(&root), &["list_directory"]))
        .start();
    let answer = program.ask(&format!("What files are in {}?", root.display()));
    assert!(answer.contains("notes.txt"), "{answer:?}");
    program.stop();
}

#[test]
fn server_filesystem_reads_a_file() {
    let setup = Setup::new().file("files/notes.txt", "buy milk");
    let root = setup.path().join("files").canonicalize().unwrap();
    let program = setup
        .server("filesystem", allow(filesystem(&root), &["read_file"]))
        .start();
    let file = root.join("notes.txt");
    let answer = program.ask(&format!("Please read {}", file.display()));
    assert!(answer.contains("buy milk"), "{answer:?}");
    // What the server refuses is told, and not more.
    let answer = program.ask("Please read /etc/passwd");
    assert!(!answer.contains("root:"), "{answer:?}");
    program.stop();
}

#[test]
fn server_everything_echoes_over_stdio() {
    let program = Setup::new()
        .server("everything", allow(everything(), &["echo"]))
        .start();
    let answer = program.ask("echo the message \"good morning\"");
    assert!(answer.contains("good morning"), "{answer:?}");
    program.stop();
}

#[test]
fn server_everything_adds_over_streamable_http() {
    let setup = Setup::new();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let _service = Service::start(
        Command::new("node")
            .arg(node_program("server-everything"))
            .arg("streamableHttp")
            .env("PORT", port.to_string()),
        &setup.path().join("everything.out"),
    );
    wait_until("the server listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let program = setup
        .server(
            "everything",
            allow(
                json!({"type": "http", "url": format!("http://127.0.0.1:{port}/mcp"), "timeout_seconds": 60}),
                &["get-sum"],
            ),
        )
        .start();
    let answer = program.ask("what is 1234 plus 4321?");
    assert!(answer.contains("5555"), "{answer:?}");
    program.stop();
}
