//! Tests of the signals, each in a process of its own, and of the value.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::*;

#[tokio::test]
async fn all_clones_see_it_set() {
    let (trigger, shutdown) = Shutdown::manual();
    let clone = shutdown.clone();
    let waiting = tokio::spawn(clone.wait());
    assert!(!shutdown.is_set());
    trigger.set();
    waiting.await.unwrap();
    assert!(shutdown.is_set() && clone.is_set());
    // Set for good: who comes later does not wait.
    shutdown.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_trigger_that_is_dropped_sets_nothing() {
    let (trigger, shutdown) = Shutdown::manual();
    drop(trigger);
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, shutdown.wait()).await.is_err());
}

/// What the tests below start: says what it sees, and ends by itself only
/// when its stdin does.
#[test]
#[ignore = "started by other tests"]
fn child_process() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let shutdown = Shutdown::install().unwrap();
        println!("\nready");
        shutdown.wait().await;
        println!("\nset");
    });
    // Nothing of the runtime runs from here on.
    let _ = std::io::stdin().lines().count();
}

struct Running {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Running {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shutdown::tests::child_process"])
            .args(["--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut this = Self { child, said };
        this.wait_for("ready");
        this
    }

    fn wait_for(&mut self, word: &str) {
        let mut lines = self.said.by_ref().lines();
        assert!(lines.any(|line| line.unwrap() == word), "no {word}");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }
}

#[test]
fn the_first_signal_sets_it_and_the_process_goes_on() {
    for name in ["TERM", "INT"] {
        let mut running = Running::start();
        running.signal(name);
        running.wait_for("set");
        assert_eq!(running.child.try_wait().unwrap(), None);
        drop(running.child.stdin.take());
        assert!(running.child.wait().unwrap().success(), "{name}");
    }
}

#[test]
fn the_second_signal_ends_the_process_at_once() {
    for (first, second, code) in [
        ("TERM", "TERM", 143),
        ("INT", "INT", 130),
        ("TERM", "INT", 130),
    ] {
        let mut running = Running::start();
        running.signal(first);
        running.wait_for("set");
        running.signal(second);
        let status = running.child.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{first} {second}");
    }
}
