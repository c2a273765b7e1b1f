//! Faults in the config, secrets, exit codes.

use serde_json::json;

use crate::support::{Setup, TEMPERATURE_PROMPT, playing};

#[test]
fn all_faults_are_told_together_on_stderr_and_in_the_log() {
    let (finished, setup) = Setup::new()
        .set("temperature", "warm")
        .set("listening_port", 70_000)
        .set("sytem_promt", "x")
        .without("system_prompt")
        .server(
            "old",
            json!({"type": "sse", "url": "http://127.0.0.1:1/sse"}),
        )
        .server("empty", json!({"type": "stdio"}))
        .server(
            "secret",
            json!({"type": "stdio", "command": "${NO_SUCH_SECRET}"}),
        )
        .run(&[]);
    assert_eq!(finished.code, Some(78));
    assert_eq!(finished.stdout, "");
    for text in [&finished.stderr, &setup.log()] {
        for expected in [
            "temperature",
            "listening_port",
            "sytem_promt",
            "system_prompt",
            "servers.old",
            "streamable HTTP",
            "servers.empty.command",
            "NO_SUCH_SECRET",
        ] {
            assert!(text.contains(expected), "{expected} is not in {text}");
        }
    }
}

#[test]
fn without_a_log_the_faults_go_to_stderr() {
    let (finished, setup) = Setup::new()
        .without("log_filename")
        .set("top_p", 2)
        .run(&[]);
    assert_eq!(finished.code, Some(78));
    assert!(
        finished.stderr.contains("log_filename"),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains("top_p"), "{}", finished.stderr);
    assert_eq!(setup.log(), "");
}

#[test]
fn a_config_that_is_missing_or_no_json_ends_it() {
    let (finished, _) = Setup::new().without_config().run(&[]);
    assert_eq!(finished.code, Some(78));
    assert!(
        finished.stderr.contains("config.json"),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains("demo"), "{}", finished.stderr);

    let (finished, _) = Setup::new()
        .without_config()
        .file(
            "config.json",
            "{\"model_name\": \"demo\",\n\"servers\": {},,}",
        )
        .run(&[]);
    assert_eq!(finished.code, Some(78));
    assert!(finished.stderr.contains("line 2"), "{}", finished.stderr);
}

#[test]
fn another_config_can_be_named() {
    let setup = Setup::new();
    let log = setup.path().join("other.log");
    let config = json!({
        "model name": "demo", "listening port": setup.port(), "mcpServers": {}, "system prompt": "",
        "temperature": 0, "top p": 1, "min p": 0, "min tokens to keep": 1,
        "log level": "info", "log filename": log,
    });
    let (finished, setup) = setup
        .without_config()
        .file("other.json", config.to_string())
        .run(&["--config", "other.json", "ask", "hello!"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("Hello"), "{}", finished.stdout);
    assert!(setup.path().join("other.log").exists());
}

#[test]
fn a_missing_secret_is_the_end() {
    for server in [
        json!({"type": "stdio", "command": "x", "env": {"KEY": "${ABSENT_KEY}"}}),
        json!({"type": "http", "url": "http://127.0.0.1:1", "headers": {"K": "${ABSENT_KEY}"}}),
    ] {
        let (finished, _) = Setup::new().server("s", server).run(&[]);
        assert_eq!(finished.code, Some(78));
        assert!(
            finished.stderr.contains("ABSENT_KEY"),
            "{}",
            finished.stderr
        );
    }
}

#[test]
fn secrets_reach_the_servers_and_neither_log_nor_stderr() {
    const FROM_ENVIRONMENT: &str = "sw0rdfish-from-the-environment";
    const FROM_FILE: &str = "0pen-sesame-from-the-file";
    const OVERRIDDEN: &str = "never-to-be-used-at-all";
    // The child prints its secrets to stderr and gives one to the model too.
    let mut chatty = playing(
        &format!(
            "stderr:{}",
            json!({"text": format!("my keys: {FROM_ENVIRONMENT} {FROM_FILE}")})
        ),
        &[],
    );
    chatty["env"] = json!({"FIRST_KEY": "${FIRST_KEY}", "SECOND_KEY": "${SECOND_KEY}"});
    let mut telling = playing("env:{\"name\":\"SECOND_KEY\"}", &["--name", "telling"]);
    telling["args"][2] = json!("get_current_time=env:{\"name\":\"SECOND_KEY\"}");
    telling["env"] = json!({"SECOND_KEY": "${SECOND_KEY}"});
    let program = Setup::new()
        .set("log_level", "trace")
        .variable("FIRST_KEY", FROM_ENVIRONMENT)
        .file(
            ".env",
            format!("FIRST_KEY={OVERRIDDEN}\nSECOND_KEY=\"{FROM_FILE}\"\n"),
        )
        .server("chatty", chatty)
        .server("telling", telling)
        .start();
    program.ask(TEMPERATURE_PROMPT);
    // It was given the value: the model repeats what the tool says.
    let answer = program.ask("what time is it in Tokyo?");
    assert!(
        answer.contains("0pen") || answer.contains("sesame"),
        "{answer:?}"
    );
    program.wait_for_log("my keys");
    let setup = program.stop();
    for text in [setup.log(), setup.stderr()] {
        for secret in [FROM_ENVIRONMENT, FROM_FILE, OVERRIDDEN] {
            assert!(!text.contains(secret), "{secret} is told");
        }
    }
}

#[test]
fn a_secret_in_a_faulty_config_is_not_told() {
    let (finished, setup) = Setup::new()
        .variable("LEVEL", "my-pa55word")
        .variable("COMMAND_FOR_IT", "an0ther-pa55word")
        .set("log_level", "${LEVEL}")
        .set("model_name", "${COMMAND_FOR_IT}://x")
        .run(&[]);
    assert_eq!(finished.code, Some(78));
    for text in [finished.stderr, setup.log()] {
        assert!(!text.contains("pa55word"), "{text}");
    }
}
