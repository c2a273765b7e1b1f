//! Tests of the log: single records, the layers, and, in a process of its own,
//! everything `init` sets up.

#![allow(clippy::unwrap_used)]

mod days;

use std::fs;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Zoned;
use tempfile::TempDir;
use tracing::{debug, error, info, warn};

use super::*;

/// A clock that is set by hand.
struct HandClock(Mutex<Zoned>);

impl HandClock {
    fn at(time: &str) -> Arc<Self> {
        Arc::new(Self(Mutex::new(time.parse().unwrap())))
    }

    fn set(&self, time: &str) {
        *self.0.lock().unwrap() = time.parse().unwrap();
    }
}

impl Clock for HandClock {
    fn now(&self) -> Zoned {
        self.0.lock().unwrap().clone()
    }
}

/// A folder, and a log in it with a clock set by hand.
struct Bench {
    folder: TempDir,
    clock: Arc<HandClock>,
}

impl Bench {
    fn at(time: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: HandClock::at(time),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn open(&self) -> DailyFile {
        DailyFile::open(&self.path(), self.clock.clone(), Arc::default()).unwrap()
    }

    /// All files of the folder with their contents, by name.
    fn files(&self) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn assert_files(&self, expected: &[(&str, &str)]) {
        let found = self.files();
        let found: Vec<_> = found
            .iter()
            .map(|(n, t)| (n.as_str(), t.as_str()))
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_record_is_one_line_of_bounded_length_without_secrets() {
    let redactor = Redactor::new(["top secret"]);
    let line = |text: &str| record::line(text, &redactor);
    assert_eq!(line("a\nb\r\nc\n"), "a\\nb\\r\\nc\n");
    assert_eq!(line("it is top secret.\n"), "it is ***.\n");
    // The cut falls inside the secret, and inside a character.
    let long = format!(
        "{}top secret{}\n",
        "x".repeat(record::LONGEST - 4),
        "é".repeat(99)
    );
    let cut = line(&long);
    assert!(cut.len() < record::LONGEST + 40, "{}", cut.len());
    assert!(
        cut.ends_with("bytes cut]\n") && !cut.contains("top"),
        "{cut}"
    );
}

#[test]
fn layers_write_what_their_level_lets_through() {
    let bench = Bench::at("2026-05-01T12:00:00[Asia/Tokyo]");
    let settings = Settings {
        level: Level::Info,
        file: bench.folder.path().join("deep/er/log"),
        to_stderr: None,
    };
    let secrets = ["s3cret".to_owned()];
    let (subscriber, guard) = build(&settings, &secrets, bench.clock.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let request = tracing::info_span!("request", id = 7, token = "s3cret");
        let _entered = request.enter();
        info!(name = ?"a\nb", "hello");
        debug!("not this");
        info!(target: "hyper::proto", "nor this");
        warn!(target: "hyper::proto", "but this");
    });
    drop(guard);
    let text = fs::read_to_string(&settings.file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let prefix = "2026-05-01T12:00:00.000+09:00  INFO request{id=7 token=\"***\"}: ";
    assert!(lines[0].starts_with(prefix), "{text}");
    assert!(lines[0].ends_with(r#"hello name="a\nb""#), "{text}");
    assert!(lines[1].contains("but this"), "{text}");
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_that_says_so() {
    let bench = Bench::at("2026-05-01T12:00:00[UTC]");
    fs::write(bench.path(), "").unwrap();
    let attempt = |file: PathBuf| {
        let (level, to_stderr) = (Level::Info, None);
        let settings = Settings {
            level,
            file,
            to_stderr,
        };
        build(&settings, &[], bench.clock.clone())
            .err()
            .unwrap()
            .to_string()
    };
    let said = attempt(bench.path().join("under-a-file/log"));
    assert!(
        said.contains("cannot be created") && said.contains("log_filename"),
        "{said}"
    );
    let said = attempt(bench.folder.path().to_owned());
    assert!(
        said.contains("cannot be written") && said.contains("log_filename"),
        "{said}"
    );
}

#[test]
fn levels_are_named_as_they_are_read() {
    for name in Level::NAMES {
        assert_eq!(name.parse::<Level>().unwrap().to_string(), name);
    }
    assert!("warn".parse::<Level>().is_err());
}

/// Runs `child_process` in a process of its own.
fn run_child(file: &Path, clock: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "logging::tests::child_process",
            "--ignored",
            "--nocapture",
        ])
        .env("TEST_LOG_FILE", file)
        .env(TEST_CLOCK, clock)
        .env("TZ", "Europe/Berlin")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

/// What `run_child` runs: the whole log, over a midnight nobody waits for
/// with a line, and a panic.
#[test]
#[ignore = "started by other tests"]
fn child_process() {
    let settings = Settings {
        level: Level::Debug,
        file: std::env::var_os("TEST_LOG_FILE").unwrap().into(),
        to_stderr: Some(Level::Error),
    };
    let guard = match init(&settings, vec!["s3cret".to_owned()]) {
        Ok(guard) => guard,
        Err(error) => panic!("{error}"),
    };
    assert!(matches!(init(&settings, vec![]), Err(LogError::Twice)));
    info!("before");
    // Midnight comes without a line.
    let renamed = settings.file.with_file_name("log-20260328");
    let patience = Instant::now() + Duration::from_secs(20);
    while !renamed.exists() {
        assert!(Instant::now() < patience, "midnight went unnoticed");
        std::thread::sleep(Duration::from_millis(20));
    }
    error!(key = "s3cret", "after");
    let panic = std::thread::Builder::new()
        .name("worker".to_owned())
        .spawn(|| panic!("first s3cret\nsecond"))
        .unwrap();
    assert!(panic.join().is_err());
    drop(guard);
}

#[test]
fn the_whole_log_crosses_midnight_and_takes_panics() {
    let bench = Bench::at("2026-05-01T12:00:00[UTC]");
    let output = run_child(&bench.path(), "2026-03-28T22:59:58.5Z");
    assert!(output.status.success(), "{output:?}");

    let files = bench.files();
    assert_eq!(files.len(), 2, "{files:?}");
    let (name, old) = &files[1];
    assert_eq!(name, "log-20260328");
    assert_eq!(old.lines().count(), 1);
    assert!(
        old.starts_with("2026-03-28T23:59:5") && old.contains("before"),
        "{old}"
    );
    let (name, new) = &files[0];
    assert_eq!(name, "log");
    let lines: Vec<_> = new.lines().collect();
    assert_eq!(lines.len(), 2, "{new}");
    assert!(lines[0].starts_with("2026-03-29T00:00:0") && lines[0].contains("+01:00 ERROR"));
    assert!(
        lines[1].contains("thread=\"worker\" place=\"src/logging/tests.rs:"),
        "{new}"
    );
    assert!(lines[1].contains(r#"panic: "first ***\nsecond""#), "{new}");

    // Errors alone, in short, without colour, without secrets.
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with("00:00:0") && lines[0].contains("ERROR after key=\"***\""));
    assert!(
        !stderr.contains('\u{1b}') && !stderr.contains("s3cret"),
        "{stderr}"
    );
}

#[test]
fn a_test_clock_that_makes_no_sense_is_refused() {
    let bench = Bench::at("2026-05-01T12:00:00[UTC]");
    let output = run_child(&bench.path(), "noon");
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        stderr.contains("LLM_SERVER_TEST_CLOCK is not an instant"),
        "{stderr}"
    );
}
