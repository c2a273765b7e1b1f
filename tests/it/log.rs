//! The log file: what is in it, midnight, a full disk.

use std::process::Command;

use serde_json::json;

use crate::support::{Setup, TEMPERATURE_PROMPT, playing, prompt_body, wait_until};

#[test]
fn every_line_of_a_request_carries_its_id_and_the_last_its_figures() {
    let program = Setup::with_tools().set("log_level", "info").start();
    let response = program.post(&prompt_body("what is 17 * 23?"));
    let id = response
        .header("x-request-id")
        .expect("it has an id")
        .to_owned();
    assert!(response.answer().contains("391"));
    let other = program.post(&prompt_body("hello!"));
    assert_ne!(other.header("x-request-id"), Some(id.as_str()));

    let log = program.stop().log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&id)).collect();
    assert!(lines[0].contains("what is 17 * 23?"), "{}", lines[0]);
    assert!(
        lines
            .iter()
            .any(|line| line.contains("tool=calculate") && line.contains("expression")),
        "the tool call is not there: {lines:?}"
    );
    let last = lines.last().unwrap();
    for figure in [
        "response=",
        "rounds=2",
        "prompt_tokens=",
        "generated_tokens=",
        "first_token_ms=",
        "total_ms=",
        "status=200",
    ] {
        assert!(last.contains(figure), "{figure} is not in {last}");
    }
    // What is said of a request is said with its id: two replies, a call,
    // request and response of the first, a reply, request and response of the other.
    let about_requests: Vec<&str> = log
        .lines()
        .filter(|line| {
            ["llm_server::session", "llm_server::http::prompt"]
                .iter()
                .any(|source| line.contains(source))
        })
        .collect();
    assert!(about_requests.len() >= 8, "{about_requests:?}");
    for line in about_requests {
        assert!(line.contains("request{id="), "{line}");
    }
}

#[test]
fn refusals_and_childrens_words_are_in_the_log() {
    let stderr = playing("stderr:{\"text\":\"one\\ntwo words\"}", &[]);
    let program = Setup::new().server("chatty", stderr).start();
    program.post(b"nonsense").refusal(400);
    program.ask(TEMPERATURE_PROMPT);
    let log = program.wait_for_log("two words");
    assert!(
        log.lines()
            .any(|line| line.contains("two words") && line.contains("chatty"))
    );
    assert!(log.lines().any(|line| line.contains("status=400")));
    program.stop();
}

#[test]
fn levels_are_kept() {
    let missing = json!({"type": "stdio", "command": "no-such-program-anywhere"});
    let program = Setup::new()
        .set("log_level", "warning")
        .server("missing", missing)
        .start();
    program.ask("hello!");
    let log = program.stop().log();
    assert!(log.contains(" WARN "), "{log}");
    assert!(!log.contains(" INFO ") && !log.contains("DEBUG"), "{log}");
}

#[test]
fn at_midnight_a_new_file_is_begun_and_no_old_one_lost() {
    // The clock starts a few seconds before midnight; a file of the name the
    // old log is to get is there already.
    let program = Setup::new()
        .variable("TZ", "UTC")
        .variable("LLM_SERVER_TEST_CLOCK", "2031-03-28T23:59:53Z")
        .file("llm-server.log-20310328", "precious\n")
        .start();
    program.ask("hello!");
    let set_aside = wait_until("the log is set aside", || {
        let mut found = std::fs::read_dir(program.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("llm-server.log-20310328."));
        found.next()
    });
    program.post(b"nonsense").refusal(400);
    let setup = program.stop();
    let read = |name: &str| std::fs::read_to_string(setup.path().join(name)).unwrap();
    assert_eq!(read("llm-server.log-20310328"), "precious\n");
    let old = read(&set_aside);
    let first = old.lines().next().unwrap();
    assert!(first.starts_with("2031-03-28T23:59:5"), "{first}");
    assert!(old.contains("hello!"));
    assert!(
        old.lines().all(|line| line.starts_with("2031-03-28")),
        "{old}"
    );
    let new = setup.log();
    assert!(new.contains("status=400"), "{new}");
    assert!(
        new.lines().all(|line| line.starts_with("2031-03-29")),
        "{new}"
    );
}

#[test]
fn a_restart_appends() {
    let (first, setup) = Setup::new().run(&["ask", "hello!"]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let before = setup.log();
    let (second, setup) = setup.run(&["ask", "hello!"]);
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    let after = setup.log();
    assert!(after.starts_with(&before) && after.len() > before.len());
}

#[test]
fn a_full_disk_does_not_stop_serving() {
    let setup = Setup::new();
    let mount = setup.path().join("tiny");
    std::fs::create_dir(&mount).unwrap();
    let mounted = Mount::tiny(&mount);
    let log = match &mounted {
        Some(_) => mount.join("llm-server.log"),
        // Where nothing may be mounted: a device that is always full.
        None if std::path::Path::new("/dev/full").exists() => "/dev/full".into(),
        None => {
            // Neither: macOS without privileges. A log in a folder that is
            // taken away cannot be written either.
            mount.join("gone/llm-server.log")
        }
    };
    let program = setup.set("log_filename", log.to_str().unwrap()).start();
    if mounted.is_some() {
        // Larger than the whole file system.
        let _ = std::fs::write(mount.join("filler"), vec![0; 1 << 20]);
    } else if log.starts_with(&mount) {
        std::fs::remove_dir_all(mount.join("gone")).unwrap();
        std::fs::write(mount.join("gone"), "in the way").unwrap();
    }
    // More lines than the file's last page has room for.
    for _ in 0..100 {
        program.post(b"nonsense").refusal(400);
    }
    assert!(program.ask("hello!").contains("Hello"));
    if mounted.is_some() {
        // With room again, the log says what it lost.
        std::fs::remove_file(mount.join("filler")).unwrap();
        wait_until("the log is written again", || {
            program.post(b"nonsense").refusal(400);
            std::fs::read_to_string(&log)
                .ok()?
                .contains("lost")
                .then_some(())
        });
    }
    let setup = program.stop();
    // The folder can only be deleted when nothing is mounted in it.
    drop(mounted);
    drop(setup);
}

/// A file system of 64 KB, unmounted when dropped.
struct Mount(std::path::PathBuf);

impl Mount {
    /// `None` where this user may not mount one.
    fn tiny(folder: &std::path::Path) -> Option<Self> {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(folder)
            .stderr(std::process::Stdio::null())
            .status();
        status
            .is_ok_and(|status| status.success())
            .then(|| Self(folder.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
