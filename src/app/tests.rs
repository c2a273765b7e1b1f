//! The server as a process of its own, from its configuration file to its
//! exit code, on a model that goes wrong when it is told to. All but the model
//! is what `main` runs.

#![allow(clippy::unwrap_used)]

mod child;

use child::{Asked, Child, STEP_OF_TWO};

/// Two clients whose answers are being decoded and two that wait for their
/// turn.
fn four_in_flight(child: &mut Child) -> (Vec<Asked>, Vec<Asked>) {
    let decoding = vec![child.ask("hello there"), child.ask("what can you do?")];
    child.until_logged(": request prompt=", 2);
    child.step_until(STEP_OF_TWO);
    let waiting = vec![child.ask("who are you?"), child.ask("hello there")];
    child.until_logged(": request prompt=", 4);
    (decoding, waiting)
}

#[test]
fn a_panic_of_the_engine_answers_everybody_and_ends_the_process_with_an_error() {
    let mut child = Child::start();
    // Its body is not there yet; it keeps the drain from ending.
    let mut slow = child.begin_to_ask("hello there");
    let (decoding, waiting) = four_in_flight(&mut child);
    child.tell("panic");
    for asked in decoding.into_iter().chain(waiting) {
        asked.assert_failed();
    }
    // While the process is still there, nobody new is let in.
    child.until_refused();
    assert_eq!(child.exit_code_so_far(), None);
    slow.go_on();
    slow.assert_failed();
    let (code, stderr) = child.exit_code();
    // What `main` would return.
    assert_eq!(code, Some(super::FAILED.into()), "{stderr}");
    assert!(
        stderr.contains("llm-server: the engine has failed; the log says why"),
        "{stderr}"
    );
    let log = child.log();
    for said in [
        "panic: \"made to panic\"",
        "thread=\"engine\"",
        "the engine has stopped; ending",
        "the engine has failed; the log says why",
    ] {
        assert!(log.contains(said), "{said:?} is not in {log}");
    }
}

#[test]
fn a_step_that_fails_fails_the_requests_in_it_and_the_server_goes_on() {
    let mut child = Child::start();
    let (decoding, waiting) = four_in_flight(&mut child);
    child.tell("fail");
    for asked in decoding {
        asked.assert_failed();
    }
    // Nothing goes wrong from here on.
    child.let_go();
    let answers: Vec<String> = waiting.into_iter().map(Asked::answer).collect();
    // The one that comes later gets what one of those got that failed.
    assert_eq!(child.ask("hello there").answer(), answers[1]);
    assert_eq!(child.exit_code_so_far(), None);
    child.signal("TERM");
    let (code, stderr) = child.exit_code();
    assert_eq!(code, Some(0), "{stderr}");
    let log = child.log();
    assert_eq!(log.matches("generation failed").count(), 2, "{log}");
    assert!(log.contains("error=made to fail"), "{log}");
}
