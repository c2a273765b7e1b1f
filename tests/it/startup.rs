//! The start: ports, broken models.

use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;

use crate::support::{Setup, playing};

#[test]
fn a_port_in_use_is_noticed_before_anything_is_started() {
    let setup = Setup::new();
    let _taken = TcpListener::bind(("127.0.0.1", setup.port())).unwrap();
    let starts = setup.path().join("starts");
    let server = playing("empty", &["--starts", starts.to_str().unwrap()]);
    let (finished, setup) = setup.server("fake", server).run(&[]);
    assert_eq!(finished.code, Some(1));
    let port = setup.port().to_string();
    assert!(finished.stderr.contains(&port), "{}", finished.stderr);
    assert!(finished.stderr.contains("taken"), "{}", finished.stderr);
    assert!(setup.log().contains("taken"));
    assert!(!starts.exists(), "a server was started");
    assert!(!setup.log().contains("model loaded"));
}

#[test]
fn a_model_in_a_folder_answers_as_the_bundled_one() {
    let setup = Setup::new();
    let folder = setup.model_folder();
    let program = setup.set("model_name", folder.to_str().unwrap()).start();
    assert!(program.ask("hello!").contains("Hello"));
    program.stop();
}

/// Breaks a copy of the model and gives what the program says to it.
fn said_to_broken(breaking: impl Fn(&Path)) -> String {
    let setup = Setup::new();
    let folder = setup.model_folder();
    breaking(&folder);
    let (finished, setup) = setup.set("model_name", folder.to_str().unwrap()).run(&[]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert_eq!(finished.stdout, "");
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    assert!(
        !finished.stderr.contains("RUST_BACKTRACE"),
        "{}",
        finished.stderr
    );
    assert!(setup.log().contains("ERROR"), "{}", setup.log());
    finished.stderr
}

fn change_config(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_model_without_a_tokenizer_says_so() {
    let said = said_to_broken(|folder| {
        std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
    });
    assert!(said.contains("tokenizer.json"), "{said}");
}

#[test]
fn a_model_whose_weights_are_cut_says_so() {
    let said = said_to_broken(|folder| {
        let path = folder.join("model.safetensors");
        let weights = std::fs::read(&path).unwrap();
        std::fs::write(path, &weights[..weights.len() / 2]).unwrap();
    });
    assert!(said.contains("safetensors"), "{said}");
}

#[test]
fn a_model_of_an_unknown_architecture_says_so() {
    let said = said_to_broken(|folder| {
        change_config(folder, |config| {
            config["model_type"] = "mystery".into();
            config["architectures"] = serde_json::json!(["MysteryForCausalLM"]);
        });
    });
    assert!(said.to_lowercase().contains("mystery"), "{said}");
}

#[test]
fn a_model_whose_weights_do_not_fit_its_config_says_so() {
    let said = said_to_broken(|folder| {
        change_config(folder, |config| config["num_hidden_layers"] = 7.into());
    });
    assert!(said.contains("layers.6"), "{said}");
}

#[test]
fn a_model_whose_template_is_broken_says_so() {
    let said = said_to_broken(|folder| {
        std::fs::write(folder.join("chat_template.jinja"), "{% if %}").unwrap();
    });
    assert!(said.contains("template"), "{said}");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let setup = Setup::new();
    let folder = setup.path().join("nowhere");
    let (finished, _) = setup.set("model_name", folder.to_str().unwrap()).run(&[]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("nowhere"), "{}", finished.stderr);
}

#[test]
fn more_tools_than_the_context_holds_are_noticed_at_the_start() {
    let (finished, _) = Setup::with_tools().set("context_length", 64).run(&[]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("64"), "{}", finished.stderr);
}

#[test]
fn a_log_that_cannot_be_written_ends_the_start() {
    let setup = Setup::new().file("in-the-way", "x");
    let log = setup.path().join("in-the-way/llm-server.log");
    let (finished, _) = setup.set("log_filename", log.to_str().unwrap()).run(&[]);
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("log_filename"),
        "{}",
        finished.stderr
    );
}
