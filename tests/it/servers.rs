//! MCP servers that misbehave: whatever they do, requests are answered.

use std::net::TcpListener;
use std::process::Command;

use serde_json::json;

use crate::support::{
    Client, Service, Setup, TEMPERATURE_PROMPT, fake, playing, prompt_body, python, repository,
    signal, wait_until,
};

#[test]
fn a_server_killed_in_the_middle_of_a_call_comes_back() {
    let setup = Setup::new();
    let starts = setup.path().join("starts");
    let options = ["--starts", starts.to_str().unwrap()];
    let program = setup.slow_temperature(3, &options).start();
    let pids = || -> Vec<i64> {
        std::fs::read_to_string(&starts)
            .unwrap_or_default()
            .lines()
            .map(|line| line.parse().unwrap())
            .collect()
    };
    let mut client = Client::connect(program.port());
    client.post("/", &prompt_body(TEMPERATURE_PROMPT)).unwrap();
    program.wait_for_calls(1);
    signal(pids()[0], "KILL");
    // The request is answered, if only to say that it did not work.
    let answer = client.read().expect("it is answered").answer();
    assert!(!answer.contains("64"), "{answer:?}");
    wait_until("the server is started again", || {
        (pids().len() > 1).then_some(())
    });
    let answer = wait_until("the server works again", || {
        let answer = program.ask(TEMPERATURE_PROMPT);
        answer.contains("64").then_some(answer)
    });
    assert!(answer.contains("64"));
    program.stop();
}

#[test]
fn a_server_that_crashes_on_every_call_fails_no_request() {
    let program = Setup::new().server("fake", playing("crash", &[])).start();
    for _ in 0..3 {
        let answer = program.ask(TEMPERATURE_PROMPT);
        assert!(!answer.is_empty());
    }
    assert!(program.ask("hello!").contains("Hello"));
    program.stop();
}

#[test]
fn a_server_that_hangs_at_start_is_left_out() {
    let mut hanging = fake(&["--hang"]);
    hanging["timeout_seconds"] = json!(2);
    let program = Setup::new()
        .with_tools_and(&[], Some(&["calculate"]))
        .server("fake", hanging)
        .start();
    let log = program.wait_for_log("did not start");
    assert!(log.contains("\"fake\""), "the log does not name it");
    assert!(program.ask("what is 17 * 23?").contains("391"));
    program.stop();
}

#[test]
fn a_server_that_cannot_be_started_is_left_out_and_tried_again() {
    let setup = Setup::new();
    let starts = setup.path().join("starts");
    let lame = playing(
        "echo:{\"text\":\"64°F\"}",
        &["--fail-starts", "2", "--starts", starts.to_str().unwrap()],
    );
    let program = setup
        .server(
            "missing",
            json!({"type": "stdio", "command": "no-such-program-anywhere"}),
        )
        .server("fake", lame)
        .start();
    let log = program.log();
    assert!(log.contains("no-such-program-anywhere"), "the log names it");
    // Its stderr is in the log under its name.
    assert!(log.contains("told to fail at start"));
    let answer = wait_until("the server is there in the end", || {
        let answer = program.ask(TEMPERATURE_PROMPT);
        answer.contains("64").then_some(answer)
    });
    assert!(answer.contains("64"));
    program.stop();
}

#[test]
fn a_server_that_floods_stderr_holds_up_nothing() {
    let program = Setup::new()
        .server(
            "fake",
            playing(
                "echo:{\"text\":\"64°F\"}",
                &["--flood-stderr", "200000", "--long-stderr"],
            ),
        )
        .start();
    assert!(program.ask(TEMPERATURE_PROMPT).contains("64"));
    let log = program.wait_for_log("suppressed");
    assert!(log.contains("flood line 1\\n") || log.contains("flood line 1\""));
    let setup = program.stop();
    assert!(setup.log().len() < 5_000_000, "the flood is in the log");
}

#[test]
fn garbage_on_stdout_is_passed_over() {
    let program = Setup::new()
        .server("fake", playing("echo:{\"text\":\"64°F\"}", &["--garbage"]))
        .start();
    assert!(program.ask(TEMPERATURE_PROMPT).contains("64"));
    program.stop();
}

#[test]
fn five_megabytes_are_cut_to_what_the_model_is_shown() {
    let program = Setup::new()
        .server("fake", playing("big:{\"bytes\":5000000}", &[]))
        // The model may repeat what it is shown until it is stopped.
        .set("max_tokens", 64)
        .set("tool_result_limit", 50)
        .start();
    let answer = program.ask(TEMPERATURE_PROMPT);
    assert!(answer.len() < 10_000, "{} bytes", answer.len());
    let setup = program.stop();
    assert!(setup.log().len() < 1_000_000, "the result is in the log");
}

#[test]
fn five_megabytes_fit_even_without_a_limit_of_their_own() {
    // The default limit is more than the demo model's context holds.
    let program = Setup::new()
        .server("fake", playing("big:{\"bytes\":5000000}", &[]))
        // The model may repeat what it is shown until it is stopped.
        .set("max_tokens", 64)
        .start();
    assert!(!program.ask(TEMPERATURE_PROMPT).is_empty());
    let log = program.stop().log();
    assert!(log.contains("tool results are made shorter"));
}

#[test]
fn a_server_whose_tools_change_is_asked_again() {
    let program = Setup::new().server("fake", playing("change", &[])).start();
    program.ask(TEMPERATURE_PROMPT);
    program.wait_for_log("the server's tools changed");
    // The new tool is in what the model is told: the prompt has grown.
    let preamble = |log: &str| -> Vec<u32> {
        log.lines()
            .filter(|line| line.contains("rendered the prompt") && line.contains("request{"))
            .filter_map(|line| {
                line.split("tokens=")
                    .nth(1)?
                    .split(' ')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect()
    };
    let before = preamble(&program.log())[0];
    program.ask(TEMPERATURE_PROMPT);
    let after = preamble(&program.log())[2];
    assert!(after > before, "{after} tokens after {before}");
    program.stop();
}

#[test]
fn results_that_are_errors_or_nothing_are_answered() {
    for tool in [
        "fail:{\"text\":\"city not found\"}",
        "protocol_error",
        "empty",
        "image",
    ] {
        let program = Setup::new().server("fake", playing(tool, &[])).start();
        let answer = program.ask(TEMPERATURE_PROMPT);
        if tool.starts_with("fail") {
            assert!(answer.contains("city not found"), "{answer:?}");
        }
        assert!(!answer.is_empty(), "{tool}");
        program.stop();
    }
}

#[test]
fn a_call_that_takes_too_long_is_given_up() {
    let mut slow = playing("slow:{\"seconds\":300,\"text\":\"64°F\"}", &[]);
    slow["timeout_seconds"] = json!(3);
    let program = Setup::new().server("fake", slow).start();
    let answer = program.ask(TEMPERATURE_PROMPT);
    assert!(!answer.contains("64"), "{answer:?}");
    let log = program.stop().log();
    assert!(
        log.lines()
            .any(|line| line.contains("tool call") && line.contains("ok=false")),
        "the log does not say so"
    );
}

#[test]
fn tools_of_one_name_get_their_servers_name() {
    let program = Setup::new()
        .server("first", fake(&["--tools", "echo,add"]))
        .server("second", fake(&["--tools", "echo"]));
    let (checked, _) = program.run(&["check"]);
    assert_eq!(
        checked.code,
        Some(0),
        "{}{}",
        checked.stdout,
        checked.stderr
    );
    let tools: Vec<&str> = checked
        .stdout
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tool"))
        .map(str::trim)
        .collect();
    assert_eq!(tools.len(), 3, "{tools:?}");
    assert!(tools.contains(&"add"), "{tools:?}");
    assert!(
        tools
            .iter()
            .any(|tool| tool.starts_with("first") && tool.ends_with("echo"))
    );
    assert!(
        tools
            .iter()
            .any(|tool| tool.starts_with("second") && tool.ends_with("echo"))
    );
}

#[test]
fn only_allowed_tools_of_enabled_servers_are_offered() {
    let mut allowed = fake(&[]);
    allowed["tools"] = json!(["echo", "pid", "misspelt"]);
    let mut disabled = fake(&["--tools", "add"]);
    disabled["disabled"] = json!(true);
    let (checked, setup) = Setup::new()
        .server("allowed", allowed)
        .server("disabled", disabled)
        .run(&["check"]);
    assert_eq!(
        checked.code,
        Some(0),
        "{}{}",
        checked.stdout,
        checked.stderr
    );
    let tools: Vec<&str> = checked
        .stdout
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tool"))
        .map(str::trim)
        .collect();
    assert_eq!(tools, ["echo", "pid"]);
    assert!(
        setup.log().contains("misspelt"),
        "the log says what is not there"
    );
}

#[test]
fn a_long_list_of_tools_comes_in_pages() {
    let (checked, _) = Setup::new()
        .server("fake", fake(&["--pages", "7"]))
        .run(&["check"]);
    assert_eq!(
        checked.code,
        Some(0),
        "{}{}",
        checked.stdout,
        checked.stderr
    );
    for tool in ["echo", "slow", "image", "ask"] {
        assert!(
            checked
                .stdout
                .lines()
                .any(|line| line.trim().ends_with(tool)),
            "{tool} is not in {}",
            checked.stdout
        );
    }
}

#[test]
fn a_server_over_http_is_used_and_may_go_and_come_back() {
    let setup = Setup::new();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let serve = |n: usize| {
        let port_file = setup.path().join(format!("port{n}"));
        let service = Service::start(
            Command::new(python())
                .arg(repository("tests/support/fake_mcp.py"))
                .args(["--play", "get_temperature=echo:{\"text\":\"64°F\"}"])
                .args([
                    "--http",
                    &port.to_string(),
                    "--require-header",
                    "X-Key:k3y-of-the-test",
                ])
                .arg("--port-file")
                .arg(&port_file),
            &setup.path().join(format!("service{n}.out")),
        );
        wait_until("the service listens", || port_file.exists().then_some(()));
        service
    };
    let service = serve(1);
    let url = format!("http://127.0.0.1:{port}/mcp");
    let program = Setup::new()
        .variable("TEST_KEY", "k3y-of-the-test")
        .server(
            "remote",
            json!({"type": "http", "url": url, "headers": {"X-Key": "${TEST_KEY}"}, "timeout_seconds": 20}),
        )
        .start();
    assert!(program.ask(TEMPERATURE_PROMPT).contains("64"));
    drop(service);
    assert!(
        !program.ask(TEMPERATURE_PROMPT).contains("64"),
        "nobody is there"
    );
    let _service = serve(2);
    wait_until("the service is used again", || {
        program.ask(TEMPERATURE_PROMPT).contains("64").then_some(())
    });
    assert!(!program.stop().log().contains("k3y-of-the-test"));
}
