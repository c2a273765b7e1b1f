//! Tests of the log: days that end, disks that are full, and, in a process of
//! its own, everything `init` sets up.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::Duration;

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

fn put(file: &mut DailyFile, line: &str) {
    file.write_all(line.as_bytes()).unwrap();
}

#[test]
fn midnight_renames_the_file_after_the_day_that_ended() {
    let bench = Bench::at("2026-02-28T23:59:59.9[Europe/Berlin]");
    let mut file = bench.open();
    put(&mut file, "old\n");
    bench.clock.set("2026-03-01T00:00:00[Europe/Berlin]");
    put(&mut file, "new\n");
    put(&mut file, "newer\n");
    bench.assert_files(&[("log", "new\nnewer\n"), ("log-20260228", "old\n")]);
}

#[test]
fn the_day_also_ends_without_lines_and_an_empty_day_leaves_no_file() {
    let bench = Bench::at("2026-05-01T12:00:00[UTC]");
    let mut file = bench.open();
    put(&mut file, "first\n");
    for day in ["02", "03", "04"] {
        bench.clock.set(&format!("2026-05-{day}T00:00:00.005[UTC]"));
        put(&mut file, "");
    }
    put(&mut file, "fourth\n");
    bench.assert_files(&[("log", "fourth\n"), ("log-20260501", "first\n")]);
}

#[test]
fn no_file_is_overwritten() {
    let bench = Bench::at("2026-05-01T12:00:00[UTC]");
    fs::write(bench.folder.path().join("log-20260501"), "kept\n").unwrap();
    fs::write(bench.folder.path().join("log-20260501.1"), "").unwrap();
    let mut file = bench.open();
    put(&mut file, "today\n");
    bench.clock.set("2026-05-02T12:00:00[UTC]");
    put(&mut file, "next\n");
    bench.assert_files(&[
        ("log", "next\n"),
        ("log-20260501", "kept\n"),
        ("log-20260501.1", ""),
        ("log-20260501.2", "today\n"),
    ]);
}

/// In these nights an hour is missing or comes twice, and in Santiago's
/// spring it is the one that begins with midnight.
#[test]
fn days_of_clock_changes_end_once() {
    for (zone, day, before, after, name) in [
        (
            "Europe/Berlin",
            "2026-03-28",
            "23:59:59",
            "2026-03-29T00:00:01",
            "log-20260328",
        ),
        (
            "Europe/Berlin",
            "2026-10-24",
            "23:59:59",
            "2026-10-25T00:00:01",
            "log-20261024",
        ),
        (
            "America/Santiago",
            "2026-09-05",
            "23:59:59",
            "2026-09-06T01:00:01",
            "log-20260905",
        ),
    ] {
        let bench = Bench::at(&format!("{day}T{before}[{zone}]"));
        let mut file = bench.open();
        put(&mut file, "a\n");
        let left = clock::until_next_tick(&bench.clock.now());
        assert_eq!(left, Duration::from_millis(1005), "{zone} {day}");
        bench.clock.set(&format!("{after}[{zone}]"));
        put(&mut file, "b\n");
        // The hour that comes twice, and a clock set back over midnight.
        let hours = bench
            .clock
            .now()
            .checked_add(jiff::Span::new().hours(4))
            .unwrap();
        bench.clock.set(&hours.to_string());
        put(&mut file, "c\n");
        bench.clock.set(&format!("{day}T{before}[{zone}]"));
        put(&mut file, "d\n");
        bench.assert_files(&[("log", "b\nc\nd\n"), (name, "a\n")]);
    }
}

#[test]
fn a_log_of_an_earlier_day_is_set_aside_at_the_start() {
    let bench = Bench::at("2026-05-03T12:00:00[Asia/Tokyo]");
    fs::write(bench.path(), "before\n").unwrap();
    // In Tokyo this is the 2nd already.
    let written: jiff::Timestamp = "2026-05-01T15:30:00Z".parse().unwrap();
    let old = fs::File::options().append(true).open(bench.path()).unwrap();
    old.set_modified(written.into()).unwrap();
    put(&mut bench.open(), "now\n");
    bench.assert_files(&[("log", "now\n"), ("log-20260502", "before\n")]);
}

#[test]
fn a_log_of_the_same_day_or_of_the_future_is_appended_to() {
    let now = Zoned::now();
    for hours in [0, -48] {
        let bench = Bench::at("2026-01-01T00:00:00[UTC]");
        let earlier = now.checked_add(jiff::Span::new().hours(hours)).unwrap();
        bench.clock.set(&earlier.to_string());
        fs::write(bench.path(), "before\n").unwrap();
        put(&mut bench.open(), "now\n");
        bench.assert_files(&[("log", "before\nnow\n")]);
    }
}

#[test]
fn a_file_that_someone_moved_or_removed_is_begun_anew() {
    let bench = Bench::at("2026-05-01T12:00:00[UTC]");
    let mut file = bench.open();
    put(&mut file, "one\n");
    fs::rename(bench.path(), bench.folder.path().join("moved")).unwrap();
    put(&mut file, "");
    put(&mut file, "two\n");
    bench.assert_files(&[("log", "two\n"), ("moved", "one\n")]);

    // Noticed at midnight too; what someone else put there is not ours to rename.
    fs::write(bench.folder.path().join("other"), "theirs\n").unwrap();
    fs::rename(bench.folder.path().join("other"), bench.path()).unwrap();
    bench.clock.set("2026-05-02T12:00:00[UTC]");
    put(&mut file, "three\n");
    bench.assert_files(&[("log", "theirs\nthree\n"), ("moved", "one\n")]);
}

#[test]
fn a_name_that_cannot_be_claimed_loses_no_line() {
    let bench = Bench::at("2026-05-01T12:00:00[UTC]");
    // The longest name there can be: with the date it is too long.
    let path = bench.folder.path().join("l".repeat(255));
    let mut file = DailyFile::open(&path, bench.clock.clone(), Arc::default()).unwrap();
    put(&mut file, "one\n");
    bench.clock.set("2026-05-02T00:00:01[UTC]");
    put(&mut file, "two\n");
    put(&mut file, "three\n");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(
        lines[1].contains("could not be renamed at the end of its day"),
        "{text}"
    );
    // Tried again after a minute.
    bench.clock.set("2026-05-02T00:01:02[UTC]");
    put(&mut file, "four\n");
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 6);
}

#[test]
fn a_full_disk_loses_lines_and_says_so_later() {
    let bench = Bench::at("2026-05-01T12:00:00[UTC]");
    let path = bench.path();
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let mut file = bench.open();
    put(&mut file, "one\n");
    put(&mut file, "two\n");
    bench.clock.set("2026-05-02T12:00:00[UTC]");
    put(&mut file, "three\n");
    // Room again: the ticker finds another file there.
    fs::remove_file(&path).unwrap();
    put(&mut file, "");
    put(&mut file, "four\n");
    let text = fs::read_to_string(&path).unwrap();
    let (note, rest) = text.split_once('\n').unwrap();
    assert!(
        note.starts_with("2026-05-02T12:00:00.000+00:00  WARN "),
        "{note}"
    );
    assert!(
        note.contains("3 lines of the log were lost: No space left"),
        "{note}"
    );
    assert_eq!(rest, "four\n");
}

#[test]
fn a_folder_that_vanished_loses_lines_and_says_so_later() {
    let bench = Bench::at("2026-05-01T12:00:00[UTC]");
    let folder = bench.folder.path().join("sub");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("log");
    let mut file = DailyFile::open(&path, bench.clock.clone(), Arc::default()).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    put(&mut file, "");
    put(&mut file, "lost\n");
    fs::create_dir(&folder).unwrap();
    put(&mut file, "back\n");
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains(" 1 lines of the log were lost: No such file"),
        "{text}"
    );
    assert!(text.ends_with("\nback\n"), "{text}");
}

#[test]
fn dropped_lines_are_counted_in_the_log() {
    /// Holds the queue's thread up until told to go on.
    struct Slow(DailyFile, std::sync::mpsc::Receiver<()>);
    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.1.recv();
            self.0.write(line)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }
    let bench = Bench::at("2026-05-01T12:00:00[UTC]");
    let counter = Arc::new(OnceLock::new());
    let file = DailyFile::open(&bench.path(), bench.clock.clone(), counter.clone()).unwrap();
    let (go, wait) = std::sync::mpsc::channel();
    let (mut queue, guard) = queue(Slow(file, wait), "test");
    counter.set(queue.error_counter()).unwrap();
    // One more may be on its way to the file already.
    for _ in 0..QUEUE + 11 {
        queue.write_all(b"line\n").unwrap();
    }
    let dropped = queue.error_counter().dropped_lines();
    assert!((10..=11).contains(&dropped), "{dropped}");
    drop(go);
    drop(guard);
    let text = fs::read_to_string(bench.path()).unwrap();
    let last = text.lines().last().unwrap();
    assert!(
        last.contains(&format!("{dropped} lines of the log were dropped")),
        "{last}"
    );
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
    std::thread::sleep(Duration::from_millis(1500));
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
    let output = run_child(&bench.path(), "2026-03-28T22:59:59.2Z");
    assert!(output.status.success(), "{output:?}");

    let files = bench.files();
    assert_eq!(files.len(), 2, "{files:?}");
    let (name, old) = &files[1];
    assert_eq!(name, "log-20260328");
    assert_eq!(old.lines().count(), 1);
    assert!(
        old.starts_with("2026-03-28T23:59:59.") && old.contains("before"),
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
