//! The model's files from a hub: a local one that speaks the hub's API.

use std::path::Path;

use crate::support::{Hub, Running, Setup, repository, wait_until};

/// A program that is to get its model from `hub`.
fn wanting(setup: Setup, hub: &Hub) -> Setup {
    setup
        .set("model_name", "org/tiny")
        .variable("HF_ENDPOINT", hub.endpoint.clone())
}

fn hub(setup: &Setup, name: &str, options: &[&str]) -> Hub {
    Hub::start(
        &setup.path().join(name),
        &repository("models/demo"),
        options,
    )
}

/// A hub that is there no more.
fn gone(setup: Setup) -> Setup {
    setup.variable("HF_ENDPOINT", "http://127.0.0.1:9")
}

/// How many bytes of weights lie in the cache, finished or not.
fn cached(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .map_while(Result::ok)
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => cached(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |found| found.len()),
            _ => 0,
        })
        .sum()
}

#[test]
fn a_model_is_downloaded_once_and_served_without_a_network_then() {
    let setup = Setup::new();
    let hub = hub(&setup, "hub", &[]);
    let program = wanting(setup, &hub).start();
    assert!(program.ask("hello!").contains("Hello"));
    let setup = program.stop();
    // Only what is needed was asked for.
    for request in hub.requests() {
        let path = request["path"].as_str().unwrap();
        assert!(
            !path.contains("README") && !path.contains("training"),
            "{path}"
        );
    }
    drop(hub);
    let program = gone(setup).start();
    assert!(program.ask("hello!").contains("Hello"));
    program.stop();
}

#[test]
fn a_start_that_was_killed_in_a_download_goes_on_from_there() {
    let setup = Setup::new();
    let slow = hub(
        &setup,
        "slow",
        &[
            "--fault",
            "slow",
            "--at",
            "20000",
            "--file",
            "*.safetensors",
            "--times",
            "0",
        ],
    );
    let program = wanting(setup, &slow).launch();
    let cache = program.path().join("hf");
    wait_until("a part of the weights is there", || {
        (cached(&cache) > 400_000).then_some(())
    });
    let setup = Running::into_setup(program);
    drop(slow);

    // Without a network the part is no model, and the program says so.
    let (offline, setup) = gone(setup).variable("HF_HUB_OFFLINE", "1").run(&[]);
    assert_eq!(offline.code, Some(1), "{}", offline.stderr);
    assert!(offline.stderr.contains("org/tiny"), "{}", offline.stderr);
    let (checked, setup) = setup.run(&["check"]);
    assert_eq!(checked.code, Some(1), "{}", checked.stdout);

    let whole = hub(&setup, "whole", &[]);
    let setup = setup.variable("HF_HUB_OFFLINE", "0");
    let program = wanting(setup, &whole).start();
    assert!(program.ask("hello!").contains("Hello"));
    let resumed = whole.requests().iter().any(|request| {
        request["range"]
            .as_str()
            .is_some_and(|range| range != "bytes=0-")
    });
    assert!(resumed, "it began anew: {:?}", whole.requests());
    program.stop();
}

#[test]
fn a_connection_that_breaks_in_the_middle_is_taken_up_again() {
    let setup = Setup::new();
    let hub = hub(
        &setup,
        "hub",
        &[
            "--fault",
            "cut",
            "--at",
            "500000",
            "--file",
            "*.safetensors",
        ],
    );
    let program = wanting(setup, &hub).start();
    assert!(program.ask("hello!").contains("Hello"));
    program.stop();
}

#[test]
fn a_hub_that_is_gone_in_the_middle_ends_the_start() {
    let setup = Setup::new();
    let hub = hub(
        &setup,
        "hub",
        &[
            "--fault",
            "die",
            "--at",
            "500000",
            "--file",
            "*.safetensors",
        ],
    );
    let (finished, _) = wanting(setup, &hub).run(&[]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("no model"), "{}", finished.stderr);
}

#[test]
fn a_file_of_the_wrong_size_is_not_taken_for_the_model() {
    let setup = Setup::new();
    let hub = hub(
        &setup,
        "hub",
        &[
            "--fault",
            "short",
            "--at",
            "1000",
            "--file",
            "*.safetensors",
            "--times",
            "0",
        ],
    );
    let (finished, setup) = wanting(setup, &hub).run(&[]);
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("model.safetensors"),
        "{}",
        finished.stderr
    );
    let (checked, _) = setup.run(&["check"]);
    assert_eq!(checked.code, Some(1), "{}", checked.stdout);
}

#[test]
fn a_model_that_may_not_be_had_or_is_not_there_ends_the_start() {
    let setup = Setup::new();
    let private = hub(&setup, "private", &["--token", "hf_the-right-one"]);
    let (finished, setup) = wanting(setup, &private).run(&[]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("401"), "{}", finished.stderr);
    assert!(finished.stderr.contains("HF_TOKEN"), "{}", finished.stderr);

    let (finished, setup) = wanting(setup, &private)
        .variable("HF_TOKEN", "hf_a-wrong-one")
        .run(&[]);
    assert_eq!(finished.code, Some(1));
    assert!(
        !finished.stderr.contains("hf_a-wrong-one"),
        "{}",
        finished.stderr
    );
    assert!(!setup.log().contains("hf_a-wrong-one"));

    let (finished, setup) = setup.set("model_name", "org/other").run(&[]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("org/other"), "{}", finished.stderr);

    // With the right token all is well.
    let program = wanting(setup, &private)
        .variable("HF_TOKEN", "hf_the-right-one")
        .start();
    assert!(program.ask("hello!").contains("Hello"));
    assert!(!program.stop().log().contains("hf_the-right-one"));
}

#[test]
fn without_a_network_and_a_cache_the_start_ends() {
    let (finished, _) = gone(Setup::new()).set("model_name", "org/tiny").run(&[]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("127.0.0.1"), "{}", finished.stderr);
}

#[test]
fn a_signal_ends_a_download() {
    let setup = Setup::new();
    let slow = hub(
        &setup,
        "slow",
        &[
            "--fault",
            "slow",
            "--at",
            "2000",
            "--file",
            "*.safetensors",
            "--times",
            "0",
        ],
    );
    let program = wanting(setup, &slow).launch();
    let cache = program.path().join("hf");
    wait_until("a part of the weights is there", || {
        (cached(&cache) > 200_000).then_some(())
    });
    program.stop();
}
