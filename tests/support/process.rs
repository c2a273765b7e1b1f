//! Processes by their id: signals, children, waiting. Knows nothing of ours.

use std::process::Command;
use std::time::{Duration, Instant};

/// How long anything may take before a test says that it never came.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends the signal `name` (as `TERM`) to `target`; a negative number names a
/// process group. A process that is gone already is fine.
pub(crate) fn signal(target: i64, name: &str) {
    let _ = Command::new("kill")
        .args(["-s", name, "--", &target.to_string()])
        .stderr(std::process::Stdio::null())
        .status();
}

/// Whether the process is there and is not a zombie.
pub(crate) fn alive(pid: u32) -> bool {
    table().iter().any(|process| process.pid == pid)
}

/// The ids of all processes below `pid`, children before grandchildren.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let table = table();
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(table.iter().filter(|p| p.parent == parent).map(|p| p.pid));
        next += 1;
    }
    found.remove(0);
    found
}

struct Process {
    pid: u32,
    parent: u32,
}

fn table() -> Vec<Process> {
    let listing = Command::new("ps")
        .args(["-A", "-o", "pid=,ppid=,stat="])
        .output()
        .expect("ps runs");
    String::from_utf8_lossy(&listing.stdout)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let process = Process {
                pid: words.next()?.parse().ok()?,
                parent: words.next()?.parse().ok()?,
            };
            (!words.next()?.starts_with('Z')).then_some(process)
        })
        .collect()
}

/// Polls until `done` gives something; panics with `what` if it never does.
pub(crate) fn wait_until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
