//! Tests of the file: days that end, names that are taken, disks that are
//! full, files that others move.

use std::io::Write;

use super::*;

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
