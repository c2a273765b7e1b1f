//! The end: signals, requests under way, children and grandchildren.

use crate::support::{
    Client, Running, Setup, TEMPERATURE_PROMPT, alive, playing, prompt_body, signal, wait_until,
};

/// Kills a process that escaped, should the test fail.
struct Escaped(u32);

impl Drop for Escaped {
    fn drop(&mut self) {
        signal(i64::from(self.0), "KILL");
    }
}

/// The process id that a fake server wrote to a file.
fn pid_in(program: &Running, file: &str) -> u32 {
    let path = program.path().join(file);
    wait_until("a process id is written", || {
        std::fs::read_to_string(&path).ok()?.trim().parse().ok()
    })
}

#[test]
fn requests_and_slow_tools_are_finished_before_the_end() {
    let setup = Setup::new();
    let grandchild = setup.path().join("grandchild");
    let options = ["--grandchild", grandchild.to_str().unwrap()];
    let mut program = setup.slow_temperature(4, &options).start();
    let grandchild = Escaped(pid_in(&program, "grandchild"));
    let children = program.descendants();
    assert!(children.contains(&grandchild.0));

    let mut clients: Vec<_> = (0..3)
        .map(|_| {
            let mut client = Client::connect(program.port());
            client.post("/", &prompt_body(TEMPERATURE_PROMPT)).unwrap();
            client
        })
        .collect();
    // All three must be at work in the tool when the signal comes.
    program.wait_for_calls(3);
    program.signal("TERM");
    for client in &mut clients {
        let answer = client.read().expect("it is answered").answer();
        assert!(answer.contains("64"), "{answer:?}");
    }
    assert_eq!(program.wait().code(), Some(0), "{}", program.stderr());
    for child in children {
        assert!(!alive(child), "process {child} is still there");
    }
}

#[test]
fn while_it_drains_nobody_new_is_let_in() {
    let program = Setup::new().slow_temperature(5, &[]).start();
    let mut working = Client::connect(program.port());
    let mut idle = Client::connect(program.port());
    // A request on it makes sure that the program knows the connection.
    idle.post("/", b"").unwrap();
    idle.read().unwrap().refusal(400);
    working.post("/", &prompt_body(TEMPERATURE_PROMPT)).unwrap();
    program.wait_for_calls(1);
    program.signal("TERM");
    program.wait_for_log("draining");
    let newcomer = std::net::TcpStream::connect(("127.0.0.1", program.port()));
    assert!(newcomer.is_err(), "a new client is let in");
    assert!(idle.is_closed_by_peer(), "an idle connection is kept");
    working.read().expect("it is answered").answer();
    program.stopped();
}

#[test]
fn after_the_grace_period_requests_are_given_up() {
    let mut program = Setup::new()
        .slow_temperature(300, &["--ignore-sigterm"])
        .set("shutdown_grace_seconds", 1)
        .start();
    let children = program.descendants();
    let mut client = Client::connect(program.port());
    client.post("/", &prompt_body(TEMPERATURE_PROMPT)).unwrap();
    program.wait_for_calls(1);
    program.signal("INT");
    client.read().expect("it is told").refusal(503);
    assert_eq!(program.wait().code(), Some(0), "{}", program.stderr());
    for child in children {
        assert!(!alive(child), "process {child} is still there");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut program = Setup::new()
        .slow_temperature(300, &[])
        .set("shutdown_grace_seconds", 600)
        .start();
    let mut client = Client::connect(program.port());
    client.post("/", &prompt_body(TEMPERATURE_PROMPT)).unwrap();
    program.wait_for_calls(1);
    program.signal("TERM");
    program.wait_for_log("draining");
    assert!(program.is_running());
    program.signal("TERM");
    let status = program.wait();
    assert_ne!(status.code(), Some(0), "it did not end in good order");
}

#[test]
fn a_signal_during_the_start_is_heeded() {
    let program = Setup::new()
        .server("fake", playing("echo:{\"text\":\"x\"}", &["--hang"]))
        .launch();
    program.wait_for_log("starting");
    wait_until("the server is started", || {
        (!program.descendants().is_empty()).then_some(())
    });
    program.stop();
}

#[test]
fn an_idle_program_ends_at_once() {
    let program = Setup::with_tools().start();
    let setup = program.stop();
    assert!(setup.log().contains("stopped"));
    assert_eq!(setup.stderr(), "");
}
