//! `prefix_cache_dir`: what every request begins with survives a restart.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::support::{Running, Setup};

/// The last warm-up: tokens of the preamble, and those that were there already.
fn warm_up(log: &str) -> (usize, usize) {
    let line = log.lines().rfind(|line| line.contains("warmed up"));
    let number = |key: &str| -> usize {
        let rest = line.unwrap().split(key).nth(1).unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    (number("preamble_tokens="), number("cached_tokens="))
}

/// The files in the folder `kv` beside the config.
fn files(setup: &Setup) -> Vec<PathBuf> {
    let entries = fs::read_dir(setup.path().join("kv")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Starts, asks and stops.
fn round(setup: Setup) -> (String, Setup) {
    let program = setup.start();
    let answer = program.ask("what is 17 * 23?");
    (answer, program.stop())
}

/// Turns a bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A second start has the preamble already; one whose file was damaged says so
/// and evaluates it again; all answers are the same.
pub(crate) fn survives(setup: Setup) {
    let (answer, setup) = round(setup.set("prefix_cache_dir", "kv"));
    assert!(answer.contains("391"), "{answer:?}");
    let (preamble, cached) = warm_up(&setup.log());
    assert!(preamble > 100);
    assert_eq!(cached, 0);
    assert!(
        setup.log().contains("stored the preamble"),
        "{}",
        setup.log()
    );

    let (again, setup) = round(setup);
    assert_eq!(again, answer);
    assert_eq!(warm_up(&setup.log()), (preamble, preamble - 1));
    let [file] = &files(&setup)[..] else {
        panic!("{:?}", files(&setup))
    };
    assert!(!setup.log().contains("damaged"));
    damage(file);

    let (third, setup) = round(setup);
    assert_eq!(third, answer);
    assert_eq!(warm_up(&setup.log()), (preamble, 0));
    let log = setup.log();
    let said = log.lines().filter(|line| line.contains("is damaged"));
    let said: Vec<_> = said.collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("WARN"), "{said:?}");
    assert!(said[0].contains("its checksum is wrong"), "{said:?}");

    let (fourth, setup) = round(setup);
    assert_eq!(fourth, answer);
    assert_eq!(warm_up(&setup.log()), (preamble, preamble - 1));
}

#[test]
fn the_preamble_survives_a_restart_and_a_damaged_one_is_evaluated_again() {
    survives(Setup::with_tools().set("backend", "candle"));
}

/// Whoever asks on the command line finds what the server has stored.
#[test]
fn ask_uses_it_too_and_another_system_prompt_gets_its_own() {
    let setup = Setup::with_tools().set("prefix_cache_dir", "kv");
    let (first, setup) = setup.run(&["ask", "what is 17 * 23?"]);
    let (second, setup) = setup.run(&["ask", "what is 17 * 23?"]);
    assert_eq!((first.code, second.code), (Some(0), Some(0)));
    assert_eq!(second.stdout, first.stdout);
    let (preamble, cached) = warm_up(&setup.log());
    assert_eq!(cached, preamble - 1);
    let (_, setup) = round(setup.set("system_prompt", "Never mind what they say."));
    let (preamble, cached) = warm_up(&setup.log());
    assert!(cached < preamble / 2, "{cached} of {preamble}");
    assert_eq!(files(&setup).len(), 2);
}

/// A crash while it is being stored: whatever is left must not matter.
#[test]
fn a_server_that_was_killed_leaves_nothing_that_the_next_one_trips_over() {
    let mut setup = Setup::with_tools().set("prefix_cache_dir", "kv");
    for _ in 0..3 {
        let program: Running = setup.start();
        program.signal("KILL");
        setup = program.into_setup();
    }
    let mut left = setup.path().join("kv").into_os_string();
    let zeros = "0".repeat(32);
    left.push(format!("/llm-server-{zeros}-{zeros}.kv.7f.tmp"));
    let left = PathBuf::from(left);
    fs::write(&left, "half").unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    let file = File::options().write(true).open(&left).unwrap();
    file.set_modified(long_ago).unwrap();

    let (answer, setup) = round(setup);
    assert!(answer.contains("391"), "{answer:?}");
    assert!(!left.exists());
    let (again, setup) = round(setup);
    assert_eq!(again, answer);
    let (preamble, cached) = warm_up(&setup.log());
    assert_eq!(cached, preamble - 1);
}

#[test]
fn a_folder_that_cannot_be_made_is_a_warning_and_no_more() {
    let setup = Setup::with_tools().file("kv", "in the way");
    let (answer, setup) = round(setup.set("prefix_cache_dir", "kv/preambles"));
    assert!(answer.contains("391"), "{answer:?}");
    let log = setup.log();
    let said = log.lines().find(|line| line.contains("prefix_cache_dir"));
    assert!(said.unwrap().contains("WARN"), "{said:?}");
}
