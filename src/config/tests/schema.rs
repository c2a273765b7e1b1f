//! `schema.json` says what the code says.

use std::collections::BTreeSet;

use jsonschema::Validator;

use super::*;
use crate::config::section::Key;
use crate::config::{resolve, servers};

fn schema() -> Value {
    serde_json::from_str(include_str!("../schema.json")).unwrap()
}

fn validator() -> Validator {
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema));
    jsonschema::validator_for(&schema).unwrap()
}

#[test]
fn the_example_is_valid() {
    let example = serde_json::from_str(include_str!("../../../config.json.example")).unwrap();
    let validator = validator();
    let errors: Vec<_> = validator
        .iter_errors(&example)
        .map(|e| e.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn the_schema_knows_the_same_keys() {
    let schema = schema();
    let in_schema = |pointer: &str| -> BTreeSet<String> {
        let properties = schema.pointer(pointer).unwrap().as_object().unwrap();
        properties.keys().cloned().collect()
    };
    let in_code =
        |keys: &[Key]| -> BTreeSet<String> { keys.iter().map(|key| key.name.to_owned()).collect() };
    assert_eq!(in_schema("/properties"), in_code(resolve::KEYS));
    assert_eq!(
        in_schema("/$defs/enabled/properties"),
        in_code(servers::KEYS)
    );

    let needed: BTreeSet<_> = schema["allOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| rule["then"]["required"][0].as_str().unwrap())
        .collect();
    let required = resolve::KEYS.iter().filter(|key| key.example.is_some());
    assert_eq!(needed, required.map(|key| key.name).collect());
}

/// A key in the table that nothing reads would be accepted and do nothing.
#[test]
fn every_known_key_is_read() {
    for Key { name, .. } in resolve::KEYS {
        let faults = Case::of(&with(json!({ *name: [[]] }))).load();
        match *name {
            "$schema" => assert!(faults.is_ok()),
            name => assert_eq!(faults.unwrap_err().faults[0].key, name),
        }
    }
    for Key { name, .. } in servers::KEYS {
        let base = match *name {
            "url" | "headers" => json!({"type": "http", "url": "http://h"}),
            _ => json!({"type": "stdio", "command": "x"}),
        };
        let mut entry = base;
        entry[*name] = json!([[]]);
        let faults = Case::of(&with(json!({"servers": {"s": entry}}))).load();
        let key = &faults.unwrap_err().faults[0].key;
        assert!(key.starts_with(&format!("servers.s.{name}")), "{key}");
    }
}

/// The defaults the schema tells editors of are the ones that are used.
#[test]
fn the_schemas_defaults_are_the_codes() {
    let mut written = json!({});
    for (key, property) in schema()["properties"].as_object().unwrap() {
        if let Some(default) = property.get("default") {
            written[key] = default.clone();
        }
    }
    assert_eq!(written.as_object().unwrap().len(), 9);
    let with_defaults = Case::of(&with(written)).load().unwrap();
    let without = Case::of(&minimal()).load().unwrap();
    assert_eq!(with_defaults.model, without.model);
    assert_eq!(with_defaults.chat, without.chat);
    assert_eq!(with_defaults.listen, without.listen);
    assert_eq!(with_defaults.limits, without.limits);
    let session = |config: &Config| {
        let session = &config.session;
        (session.max_tool_rounds, session.tool_result_limit)
    };
    assert_eq!(session(&with_defaults), session(&without));
}

#[test]
fn schema_and_code_agree() {
    let server = |entry: Value| json!({"servers": {"s": entry}});
    let good = [
        json!({}),
        json!({"$schema": "./x", "host": "h", "backend": "candle", "seed": u64::MAX}),
        json!({"servers": null, "mcpServers": {}}),
        json!({"model_name": null, "model name": "a"}),
        json!({"min_tokens_to_keep": null, "min tokens-to keep": 1}),
        json!({"listening_port": 65535.0, "temperature": 0}),
        json!({"model_name": "~/m"}),
        json!({"model_name": ".."}),
        json!({"log_filename": "~/m"}),
        json!({"prefix_cache_bytes": 0}),
        json!({"prefix_cache_dir": "kv"}),
        json!({"adapter_path": "lora"}),
        json!({"quantize": 4}),
        json!({"threads": 1}),
        json!({"threads": 1024}),
        json!({"quantize": 8.0}),
        json!({"prefix cache-dir": "~/kv"}),
        json!({"log_filename": "${DIR}/m"}),
        json!({"chat_template_args": {}}),
        json!({"chat template-args": {"enable_thinking": false, "_x": [{"bos_token": "${DIR}"}]}}),
        json!({"max_tool_rounds": 0, "max_queued_requests": 0, "shutdown_grace_seconds": 0}),
        server(json!({"command": "x"})),
        server(json!({"type": "stdio", "command": "x", "args": [], "env": {}, "cwd": "/"})),
        server(json!({"url": "HTTPS://h"})),
        server(json!({"url": "${DIR}", "disabled": true})),
        server(json!({"type": "streamableHttp", "url": "http://h", "headers": {"a": ""}})),
        server(json!({"command": "x", "timeout-seconds": 0.1, "tools": [], "disabled": false})),
        server(json!({"disabled": true, "type": "sse", "what": 1})),
    ];
    let bad = [
        json!({"model_name": null}),
        json!({"servers": null}),
        json!({"min_tokens_to_keep": null}),
        json!({"unknown": 1}),
        json!({"Model_name": "a"}),
        json!({"model_name": ""}),
        json!({"model_name": "a/b/c"}),
        json!({"model_name": "~me/x"}),
        json!({"listening_port": 0}),
        json!({"listening_port": 65536}),
        json!({"listening_port": "8080"}),
        json!({"system_prompt": 1}),
        json!({"temperature": -1}),
        json!({"top_p": -0.1}),
        json!({"top_p": 1.01}),
        json!({"min_p": -0.1}),
        json!({"min_p": 1.1}),
        json!({"min_tokens_to_keep": 0}),
        json!({"log_level": "warn"}),
        json!({"log_filename": "x.log"}),
        json!({"log_filename": "/x/"}),
        json!({"host": ""}),
        json!({"backend": "cpu"}),
        json!({"revision": ""}),
        json!({"max_tokens": 0}),
        json!({"max_tokens": 1.5}),
        json!({"max tokens": 0}),
        json!({"context_length": 0}),
        json!({"prefix_cache_bytes": -1}),
        json!({"prefix_cache_dir": " "}),
        json!({"prefix_cache_dir": true}),
        json!({"adapter_path": ""}),
        json!({"quantize": 5}),
        json!({"threads": 0}),
        json!({"threads": 1025}),
        json!({"threads": "2"}),
        json!({"threads": 1.5}),
        json!({"quantize": "4"}),
        json!({"quantize": 4.5}),
        json!({"chat_template_args": "enable_thinking"}),
        json!({"chat_template_args": null, "chat template args": {"tools": []}}),
        json!({"chat_template_args": {"bos_token": ""}}),
        json!({"chat_template_args": {"enable thinking": false}}),
        json!({"chat_template_args": {"": 1}}),
        json!({"chat_template_args": {"1st": 1}}),
        json!({"max_tool_rounds": -1}),
        json!({"tool_result_limit": 0}),
        json!({"request_timeout_seconds": 0}),
        json!({"request_timeout_seconds": 31_536_001}),
        json!({"shutdown_grace_seconds": -1}),
        json!({"max_concurrent_requests": 0}),
        json!({"max_queued_requests": -1}),
        json!({"seed": -1}),
        json!({"servers": []}),
        server(json!([])),
        server(json!({})),
        server(json!({"command": "x", "url": "http://h"})),
        server(json!({"type": "stdio", "url": "http://h"})),
        server(json!({"type": "http", "command": "x"})),
        server(json!({"type": "sse", "url": "http://h"})),
        server(json!({"url": "h"})),
        server(json!({"url": "http://h", "args": []})),
        server(json!({"url": "http://h", "headers": {"a b": "c"}})),
        server(json!({"command": ""})),
        server(json!({"command": "x", "args": [1]})),
        server(json!({"command": "x", "env": {"A": 1}})),
        server(json!({"command": "x", "env": {"A=B": ""}})),
        server(json!({"command": "x", "cwd": ""})),
        server(json!({"command": "x", "timeout_seconds": 0})),
        server(json!({"command": "x", "timeout seconds": 0})),
        server(json!({"command": "x", "tools": "a"})),
        server(json!({"command": "x", "disabled": 1})),
        server(json!({"command": "x", "what": 1})),
    ];
    let validator = validator();
    let cases = good
        .iter()
        .map(|c| (true, c))
        .chain(bad.iter().map(|c| (false, c)));
    for (expected, changes) in cases {
        let document = with(changes.clone());
        let case = Case::of(&document).with_env("DIR", "/dir");
        assert_eq!(case.load().is_ok(), expected, "code: {changes}");
        assert_eq!(validator.is_valid(&document), expected, "schema: {changes}");
    }
}
