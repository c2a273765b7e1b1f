//! Tests of the configuration as a whole: `load` on files in a folder of its
//! own, with an environment that is handed in.

#![allow(clippy::unwrap_used)]

mod faults;
mod schema;

use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::*;
use crate::mcp::Transport;

/// A folder with a configuration in it, and an environment.
pub(super) struct Case {
    folder: TempDir,
    environment: Vec<(&'static str, &'static str)>,
}

impl Case {
    pub(super) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), text).unwrap();
        Self {
            folder,
            environment: vec![("HOME", "/home/me")],
        }
    }

    pub(super) fn of(document: &Value) -> Self {
        Self::new(&document.to_string())
    }

    fn with_env(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    fn with_dotenv(self, text: impl AsRef<[u8]>) -> Self {
        fs::write(self.folder.path().join(".env"), text).unwrap();
        self
    }

    pub(super) fn load(&self) -> Result<Config, Faults> {
        load_with(&self.folder.path().join("config.json"), &|name| {
            let found = self.environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn faults(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

/// The smallest configuration without a fault.
pub(super) fn minimal() -> Value {
    json!({
        "model_name": "owner/model",
        "listening_port": 8080,
        "servers": {},
        "system_prompt": "",
        "temperature": 0.5,
        "top_p": 1,
        "min_p": 0,
        "min_tokens_to_keep": 1,
        "log_level": "info",
        "log_filename": "/var/log/llm.log",
    })
}

/// `minimal` with some keys set, or removed where the value is null.
pub(super) fn with(changes: Value) -> Value {
    let mut document = minimal();
    let object = document.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => object.shift_remove(key),
            value => object.insert(key.clone(), value.clone()),
        };
    }
    document
}

#[test]
fn the_smallest_configuration_has_the_defaults() {
    let config = Case::of(&minimal()).load().unwrap();
    assert_eq!(
        config.model,
        ModelChoice {
            model_name: ModelName::Repository("owner/model".to_owned()),
            revision: None,
            backend: BackendChoice::Auto,
            context_length: None,
            prefix_cache_bytes: None,
            prefix_cache_dir: None,
            adapter_path: None,
            quantize: None,
            threads: None,
        }
    );
    assert_eq!(
        config.chat,
        chat::Settings {
            temperature: 0.5,
            top_p: 1.0,
            min_p: 0.0,
            min_tokens_to_keep: 1,
            max_tokens: 4096,
            seed: None,
            template_args: Map::new(),
        }
    );
    assert_eq!(config.session.max_tool_rounds, 16);
    assert_eq!(config.session.tool_result_limit, 20_000);
    assert!(config.servers.is_empty());
    assert_eq!(config.listen.host.to_string(), "127.0.0.1");
    assert_eq!(config.listen.port, 8080);
    assert_eq!(
        config.limits,
        Limits {
            request_timeout: Duration::from_secs(600),
            shutdown_grace: Duration::from_secs(30),
            max_concurrent_requests: 8,
            max_queued_requests: 64,
        }
    );
    assert_eq!(config.log.level, logging::Level::Info);
    assert_eq!(config.log.file, PathBuf::from("/var/log/llm.log"));
    assert!(config.secrets.is_empty());
}

#[test]
fn every_optional_key_is_read() {
    let config = Case::of(&with(json!({
        "$schema": "anything", "host": "::1", "backend": "candle", "revision": "v2",
        "max_tokens": 7, "context_length": 4096, "prefix_cache_bytes": 5_000_000_000u64,
        "prefix_cache_dir": "preambles", "adapter_path": "lora", "quantize": 8, "threads": 3, "max_tool_rounds": 0,
        "tool_result_limit": 9, "request_timeout_seconds": 1.5, "shutdown_grace_seconds": 0,
        "max_concurrent_requests": 2, "max_queued_requests": 0, "seed": u64::MAX,
        "chat_template_args": {"enable_thinking": false, "levels": ["${LEVEL}", 1.5, null]},
    })))
    .with_env("LEVEL", "low");
    let folder = config.folder.path().join("preambles");
    let adapter = config.folder.path().join("lora");
    let config = config.load().unwrap();
    assert_eq!(config.model.prefix_cache_dir, Some(folder));
    assert_eq!(config.model.adapter_path, Some(adapter));
    assert_eq!(config.model.quantize, Some(Quantize::Eight));
    assert_eq!(config.model.threads.map(NonZero::get), Some(3));
    assert_eq!(config.listen.host.to_string(), "::1");
    assert_eq!(config.model.backend, BackendChoice::Candle);
    assert_eq!(config.model.revision.as_deref(), Some("v2"));
    assert_eq!(config.chat.max_tokens, 7);
    assert_eq!(config.model.context_length, Some(4096));
    assert_eq!(config.model.prefix_cache_bytes, Some(5_000_000_000));
    assert_eq!(config.session.max_tool_rounds, 0);
    assert_eq!(config.session.tool_result_limit, 9);
    assert_eq!(config.limits.request_timeout, Duration::from_millis(1500));
    assert_eq!(config.limits.shutdown_grace, Duration::ZERO);
    assert_eq!(config.limits.max_concurrent_requests, 2);
    assert_eq!(config.limits.max_queued_requests, 0);
    assert_eq!(config.chat.seed, Some(u64::MAX));
    assert_eq!(
        Value::Object(config.chat.template_args),
        json!({"enable_thinking": false, "levels": ["low", 1.5, null]})
    );
}

#[test]
fn keys_may_have_blanks_or_hyphens() {
    let text = r#"{
        "model name": "m", "listening port": 8080.0, "mcpServers": {
            "a": { "command": "x", "timeout seconds": 2 } },
        "system prompt": "s", "temperature": 0, "top-p": 1, "min p": 0,
        "min tokens-to_keep": 3, "log level": "error", "log filename": "/l"
    }"#;
    let config = Case::new(text).load().unwrap();
    assert_eq!(config.listen.port, 8080);
    assert_eq!(config.chat.min_tokens_to_keep, 3);
    assert_eq!(config.servers[0].timeout, Duration::from_secs(2));
}

#[test]
fn servers_are_read_in_order_without_the_disabled() {
    let config = Case::of(&with(json!({ "servers": {
        "zeta": { "type": "stdio", "command": "npx", "args": ["-y", "pkg"],
                  "env": { "K": "v" }, "cwd": "sub", "tools": ["one"] },
        "off": { "disabled": true, "command": "x", "env": { "T": "${NOT_THERE}" } },
        "alpha": { "url": "https://h/mcp", "headers": { "X-Key": "k" }, "disabled": false },
        "home": { "command": "y", "cwd": "~/there" },
        "long": { "type": "streamable-http", "url": "http://localhost:1" },
    } })));
    let folder = config.folder.path().join("sub");
    let config = config.load().unwrap();
    let names: Vec<_> = config.servers.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["zeta", "alpha", "home", "long"]);

    let zeta = &config.servers[0];
    assert_eq!(zeta.timeout, Duration::from_secs(60));
    assert_eq!(zeta.tools.as_deref(), Some(&["one".to_owned()][..]));
    let Transport::Stdio {
        command,
        args,
        env,
        cwd,
    } = &zeta.transport
    else {
        panic!("zeta is no program");
    };
    assert_eq!(
        (command.as_str(), args.join(" ")),
        ("npx", "-y pkg".to_owned())
    );
    assert_eq!(env["K"], "v");
    assert_eq!(cwd.as_deref(), Some(folder.as_path()));

    let Transport::Http { url, headers } = &config.servers[1].transport else {
        panic!("alpha is not on the network");
    };
    assert_eq!(
        (url.as_str(), headers["X-Key"].as_str()),
        ("https://h/mcp", "k")
    );
    let Transport::Stdio { cwd, .. } = &config.servers[2].transport else {
        panic!("home is no program");
    };
    assert_eq!(cwd.as_deref(), Some(Path::new("/home/me/there")));
}

#[test]
fn a_model_is_a_repository_or_a_folder() {
    let name = |written: &str| {
        let case = Case::of(&with(json!({ "model_name": written })));
        let folder = case.folder.path().to_owned();
        (case.load().unwrap().model.model_name, folder)
    };
    assert_eq!(name("gpt2").0, ModelName::Repository("gpt2".to_owned()));
    assert_eq!(name("/m").0, ModelName::Folder("/m".into()));
    assert_eq!(name("~/m").0, ModelName::Folder("/home/me/m".into()));
    let (found, folder) = name("../m");
    assert_eq!(found, ModelName::Folder(folder.join("../m")));
}

#[test]
fn the_preambles_folder_may_be_anywhere() {
    let of = |written: &str| {
        let case = Case::of(&with(json!({ "prefix_cache_dir": written })));
        case.load().unwrap().model.prefix_cache_dir.unwrap()
    };
    assert_eq!(of("/var/cache/llm"), PathBuf::from("/var/cache/llm"));
    assert_eq!(of("~/kv"), PathBuf::from("/home/me/kv"));
}

#[test]
fn secrets_come_from_the_environment_then_from_dotenv() {
    let case = Case::of(&with(json!({
        "system_prompt": "a ${ONE} b ${TWO}${ONE} $${ONE} $ONE {ONE}",
        "log_filename": "${DIR}/x.log",
    })))
    .with_env("ONE", "env-one")
    .with_dotenv("ONE=file-one\nexport TWO='two # $x'\nDIR=/logs");
    let config = case.load().unwrap();
    assert_eq!(
        config.session.system_prompt,
        "a env-one b two # $xenv-one ${ONE} $ONE {ONE}"
    );
    assert_eq!(config.log.file, PathBuf::from("/logs/x.log"));
    let mut secrets = config.secrets.clone();
    secrets.sort();
    assert_eq!(secrets, ["/logs", "env-one", "two # $x"]);
    let shown = format!("{config:?}");
    assert!(shown.contains("***/x.log"), "{shown}");
    assert!(
        !shown.contains("/logs") && !shown.contains("env-one"),
        "{shown}"
    );
}

#[test]
fn the_example_and_its_dotenv_load() {
    let case = Case::new(include_str!("../../config.json.example"))
        .with_dotenv(include_str!("../../.env.example"));
    let config = case.load().unwrap();
    assert_eq!(config.servers.len(), 2);
    assert_eq!(config.secrets, ["put-your-token-here"]);
}
