//! Prompts that the bundled model answers with the bundled tools.

use crate::support::{Setup, TEMPERATURE_PROMPT, Weather, assert_tells_tokyo_time};

#[test]
fn the_time_in_tokyo_is_the_time_in_tokyo() {
    let program = Setup::with_tools().start();
    assert_tells_tokyo_time(|| program.ask("what time is it in Tokyo?"));
    program.wait_for_log("get_current_time");
    program.stop();
}

#[test]
fn arithmetic_is_done_by_the_tool() {
    let program = Setup::with_tools().start();
    let answer = program.ask("what is 17 * 23?");
    assert!(answer.contains("391"), "{answer:?}");
    let answer = program.ask("square root of 1764");
    assert!(answer.contains("42"), "{answer:?}");
    program.stop();
}

#[test]
fn a_prompt_that_needs_two_tools_uses_both() {
    let program = Setup::with_tools().start();
    let answer = program.ask("what is 17 * 23 and what time is it in Tokyo?");
    assert!(answer.contains("391"), "{answer:?}");
    let log = program.log();
    for tool in ["calculate", "get_current_time"] {
        assert!(
            log.lines()
                .any(|line| line.contains("tool call") && line.contains(tool)),
            "{tool} was not called"
        );
    }
    program.stop();
}

#[test]
fn files_below_the_root_are_read_and_nothing_outside() {
    let setup = Setup::with_tools()
        .file("files/notes.txt", "buy milk")
        .file("outside.txt", "sixty-four elephants");
    std::os::unix::fs::symlink(
        setup.path().join("outside.txt"),
        setup.path().join("files/link.txt"),
    )
    .unwrap();
    let program = setup.start();
    let answer = program.ask("What files are in . ?");
    assert!(answer.contains("notes.txt"), "{answer:?}");
    let answer = program.ask("Please read notes.txt");
    assert!(answer.contains("buy milk"), "{answer:?}");
    for path in ["../outside.txt", "link.txt", "files/../../outside.txt"] {
        let answer = program.ask(&format!("Please read {path}"));
        assert!(!answer.contains("elephants"), "{answer:?}");
    }
    assert!(!program.stop().log().contains("elephants"));
}

#[test]
fn the_temperature_comes_from_the_weather_service() {
    let weather = Weather::start();
    let program = Setup::new()
        .with_tools_and(&["--weather-url", &weather.url], None)
        .start();
    let answer = program.ask(TEMPERATURE_PROMPT);
    assert!(answer.contains("72"), "{answer:?}");
    let requests = weather.requests();
    assert!(
        requests[0].contains("/v1/search?name=Dallas"),
        "{requests:?}"
    );
    assert!(requests[1].contains("latitude=32.78306"), "{requests:?}");
    program.stop();
}

#[test]
fn a_weather_service_that_cannot_be_reached_is_said_to_be() {
    // Nothing listens on this port: the listener is gone at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("http://127.0.0.1:{port}");
    let program = Setup::new()
        .with_tools_and(&[], None)
        .variable("LLM_SERVER_WEATHER_URL", url)
        .start();
    let answer = program.ask(TEMPERATURE_PROMPT);
    assert!(answer.contains("cannot be reached"), "{answer:?}");
    program.stop();
}

#[test]
fn small_talk_needs_no_tool() {
    let program = Setup::with_tools().start();
    let answer = program.ask("hello!");
    assert!(answer.contains("Hello"), "{answer:?}");
    assert!(!program.stop().log().contains("tool call"));
}

#[test]
fn prompts_do_not_see_each_other() {
    let program = Setup::with_tools().start();
    let fresh = program.ask("Please repeat my last question.");
    let _ = program.ask("what is 17 * 23?");
    // Greedy: the same prompt gives the same answer unless something is kept.
    assert_eq!(program.ask("Please repeat my last question."), fresh);
    program.stop();
}

#[test]
fn without_rounds_the_model_answers_without_tools() {
    let program = Setup::with_tools().set("max_tool_rounds", 0).start();
    let answer = program.ask("what is 17 * 23?");
    assert!(!answer.contains("<tool_call>"), "{answer:?}");
    let log = program.stop().log();
    assert!(!log.contains("tool call"), "a tool was called");
}

#[test]
fn eight_clients_at_once_each_get_their_own_answer() {
    let program = Setup::new()
        .with_tools_and(&[], Some(&["calculate"]))
        .set("max_concurrent_requests", 8)
        .start();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (12..20)
            .map(|n| {
                let program = &program;
                (
                    n,
                    scope.spawn(move || program.ask(&format!("what is {n} * 31?"))),
                )
            })
            .collect();
        for (n, answer) in asked {
            let answer = answer.join().expect("no client fails");
            assert!(
                answer.contains(&(n * 31).to_string()),
                "{n} * 31: {answer:?}"
            );
        }
    });
    program.stop();
}
