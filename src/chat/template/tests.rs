//! The template against Python's jinja2, byte for byte, and the rewriting of
//! conversations for templates that cannot take them as they are.

#![allow(clippy::unwrap_used)]

mod conformance;
mod conversations;
mod families;
mod real;
mod written;

use serde_json::json;

use super::*;
use crate::chat::{Arguments, ToolCall};

fn template(text: &str) -> ChatTemplate {
    ChatTemplate::from_source(Source {
        default: text.to_owned(),
        tool_use: None,
        special_tokens: Vec::new(),
    })
    .unwrap()
}

fn tool(name: &str) -> ToolSpec {
    ToolSpec {
        name: name.to_owned(),
        description: "Does <it>.".to_owned(),
        parameters: json!({"type": "object", "properties": {"b": {}, "a": {}}}),
    }
}

fn user(text: &str) -> Message {
    Message::User(text.to_owned())
}

fn call(id: &str, name: &str, arguments: Arguments) -> ToolCall {
    ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments,
    }
}

fn result(call_id: &str, content: &str) -> Message {
    Message::Tool {
        call_id: call_id.to_owned(),
        name: "t".to_owned(),
        content: content.to_owned(),
    }
}

fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, ModelFiles) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let files = ModelFiles::Folder(folder.path().to_owned());
    (folder, files)
}

fn loaded(files: &[(&str, &str)]) -> Result<ChatTemplate, TemplateError> {
    let (_folder, files) = folder(files);
    ChatTemplate::load(&files)
}

#[test]
fn the_template_file_comes_first_then_the_tokenizers_config() {
    let config =
        r#"{"chat_template": "config", "bos_token": {"content": "<s>"}, "eos_token": null}"#;
    let map = r#"{"eos_token": "</s>", "bos_token": "ignored"}"#;
    let prompt = |files: &[(&str, &str)]| loaded(files).unwrap().render(&[user("x")], &[]).unwrap();
    assert_eq!(prompt(&[("tokenizer_config.json", config)]), "config");
    assert_eq!(
        prompt(&[
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", map),
            (
                "chat_template.jinja",
                "{{bos_token}}|{{eos_token}}|{{pad_token}}"
            ),
        ]),
        "<s>|</s>|"
    );
    assert_eq!(
        prompt(&[("chat_template.json", r#"{"chat_template": "old"}"#)]),
        "old"
    );
}

#[test]
fn the_template_for_tools_is_used_when_there_are_tools() {
    let config = json!({"chat_template": [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools[0].function.name if tools else '' }}"},
    ]})
    .to_string();
    let template = loaded(&[("tokenizer_config.json", &config)]).unwrap();
    assert_eq!(template.render(&[user("x")], &[]).unwrap(), "plain");
    assert_eq!(template.render(&[user("x")], &[tool("t")]).unwrap(), "t");
}

#[test]
fn a_model_without_a_usable_template_says_so() {
    let message = |files: &[(&str, &str)]| match loaded(files) {
        Ok(_) => panic!("it loaded"),
        Err(error) => error.to_string(),
    };
    assert!(message(&[]).contains("no chat template"));
    assert!(message(&[("tokenizer_config.json", "{}")]).contains("no chat template"));
    let list = r#"{"chat_template": [{"name": "rag", "template": ""}]}"#;
    assert!(message(&[("tokenizer_config.json", list)]).contains("no template named"));
    assert!(message(&[("tokenizer_config.json", "{")]).contains("tokenizer_config.json"));
    assert!(message(&[("chat_template.jinja", "{% if %}")]).contains("cannot be used"));
}

#[test]
fn an_exception_of_the_template_is_an_error_with_its_message() {
    let template = template("{{ raise_exception('no ' ~ messages[0].content) }}{{ tools }}");
    match template.render(&[user("way")], &[]) {
        Err(ChatError::Template(message)) => assert!(message.contains("no way"), "{message}"),
        other => panic!("{other:?}"),
    }
}

const NO_SYSTEM: &str = "{% for m in messages %}{% if m.role == 'system' %}\
    {{ raise_exception('System role not supported') }}{% endif %}\
    <{{ m.role }}>{{ m.content }}{% endfor %}{{ tools }}";

#[test]
fn a_refused_system_message_opens_the_users() {
    let template = template(NO_SYSTEM);
    let messages = [Message::System("Be kind.".into()), user("Hi"), user("Ho")];
    assert_eq!(
        template.render(&messages, &[]).unwrap(),
        "<user>Be kind.\n\nHi<user>HoNone"
    );
    // One that was not refused stays as it is.
    assert_eq!(
        template.render(&messages[1..], &[]).unwrap(),
        "<user>Hi<user>HoNone"
    );
}

/// As Llama 3's template has it.
#[test]
fn refused_calls_of_one_turn_get_a_turn_each() {
    let text = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.tool_calls %}\
        {% if m.tool_calls | length > 1 %}{{ raise_exception('one at once') }}{% endif %}\
        {{ m.tool_calls[0].function.name }}{{ m.reasoning_content }}{% endif %}{% endfor %}{{ tools }}";
    let no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}";
    let calls = |names: &[&str]| Message::Assistant {
        content: "So".into(),
        reasoning: Some("!".into()),
        tool_calls: names
            .iter()
            .map(|name| call(name, name, Arguments::Object(Map::new())))
            .collect(),
        written: None,
    };
    let messages = [
        Message::System("S".into()),
        user("Hi"),
        calls(&["a", "b"]),
        result("b", "2"),
        result("a", "1"),
        calls(&["c"]),
        result("c", "3"),
        user("Ho"),
    ];
    let rest = "<assistant>Soa!<tool>1<assistant>b<tool>2<assistant>Soc!<tool>3<user>HoNone";
    assert_eq!(
        template(text).render(&messages, &[]).unwrap(),
        format!("<system>S<user>Hi{rest}")
    );
    assert_eq!(
        template(&format!("{no_system}{text}"))
            .render(&messages, &[])
            .unwrap(),
        format!("<user>S\n\nHi{rest}")
    );
}

#[test]
fn a_template_without_tools_gets_them_in_the_system_prompt() {
    let template = template("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}");
    let malformed = Arguments::Malformed {
        text: "{\"a\":".into(),
        reason: "cut".into(),
    };
    let messages = [
        Message::System("Be kind.".into()),
        user("Hi"),
        Message::Assistant {
            content: "So:".into(),
            reasoning: None,
            tool_calls: vec![
                call(
                    "1",
                    "t",
                    Arguments::Object(json!({"z": 1, "a": "ä\""}).as_object().unwrap().clone()),
                ),
                call("2", "", malformed),
            ],
            written: None,
        },
        result("1", "one"),
        result("2", "two"),
        user("And?"),
    ];
    let prompt = template.render(&messages, &[tool("t")]).unwrap();
    let (system, rest) = prompt.split_once("<user>").unwrap();
    assert!(
        system.starts_with("<system>Be kind.\n\n# Tools"),
        "{system}"
    );
    assert!(
        system.contains(r#""parameters":{"type":"object","properties":{"b":{},"a":{}}}"#),
        "{system}"
    );
    assert_eq!(
        rest,
        "Hi<assistant>So:\n<tool_call>\n{\"name\":\"t\",\"arguments\":{\"z\":1,\"a\":\"ä\\\"\"}}\n</tool_call>\n\
         <tool_call>\n{\"name\":\"unknown\",\"arguments\":{\"unparsed\":\"{\\\"a\\\":\"}}\n</tool_call>\
         <user><tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><user>And?"
    );
    // Without tools nothing is said of them, and the history still reads.
    let prompt = template.render(&messages, &[]).unwrap();
    assert!(prompt.starts_with("<system>Be kind.<user>Hi"), "{prompt}");
    assert!(prompt.contains("<tool_response>\none"), "{prompt}");
}

/// As Phi-4-mini's template has it.
#[test]
fn tools_of_the_system_message_are_put_there() {
    let template = template(include_str!(
        "../../../tests/fixtures/templates/phi4_mini.jinja"
    ));
    assert!(template.knows_tools());
    assert_eq!(template.tool_format(), ToolFormat::Phi4Mini);
    assert_eq!(
        template.binding(),
        Some(crate::engine::grammar::CallFormat::phi4_mini())
    );
    let arguments = json!({"z": 1, "a": "ä\""}).as_object().unwrap().clone();
    let malformed = Arguments::Malformed {
        text: "{\"a\":".into(),
        reason: "cut".into(),
    };
    let messages = [
        Message::System("Be kind.".into()),
        user("Hi"),
        Message::Assistant {
            content: "So:".into(),
            reasoning: None,
            tool_calls: vec![
                call("1", "t", Arguments::Object(arguments)),
                call("2", "", malformed),
            ],
            written: None,
        },
        result("1", "one"),
        result("2", "two"),
        user("And?"),
    ];
    let tools = r#"<|tool|>[{"name": "t", "description": "Does <it>.", "parameters": {"type": "object", "properties": {"b": {}, "a": {}}}}]<|/tool|>"#;
    let calls = r#"<|tool_call|>[{"name": "t", "arguments": {"z": 1, "a": "ä\""}}, {"name": "unknown", "arguments": {"unparsed": "{\"a\":"}}]<|/tool_call|>"#;
    let rest = format!(
        "<|user|>Hi<|end|><|assistant|>So:{calls}<|end|><|tool_response|>one<|end|>\
         <|tool_response|>two<|end|><|user|>And?<|end|><|assistant|>"
    );
    assert_eq!(
        template.render(&messages, &[tool("t")]).unwrap(),
        format!("<|system|>Be kind.{tools}<|end|>{rest}")
    );
    assert_eq!(
        template.render(&messages[1..], &[tool("t")]).unwrap(),
        format!("<|system|>{tools}<|end|>{rest}")
    );
    assert_eq!(
        template.render(&messages, &[]).unwrap(),
        format!("<|system|>Be kind.<|end|>{rest}")
    );
}

#[test]
fn the_bundled_template_renders_a_malformed_call() {
    let template = template(include_str!("../../../models/demo/chat_template.jinja"));
    let malformed = Arguments::Malformed {
        text: "{'a'}".into(),
        reason: "not JSON".into(),
    };
    let messages = [
        user("Hi"),
        Message::Assistant {
            content: String::new(),
            reasoning: None,
            tool_calls: vec![call("1", "t", malformed)],
            written: None,
        },
        result("1", "not JSON"),
    ];
    let prompt = template.render(&messages, &[tool("t")]).unwrap();
    assert!(
        prompt.contains(r#"{"name": "t", "arguments": {"unparsed": "{'a'}"}}"#),
        "{prompt}"
    );
}

#[test]
fn arguments_are_variables_of_every_conversation() {
    let args = |value: serde_json::Value| value.as_object().unwrap().clone();
    let qwen3 = || {
        template(include_str!(
            "../../../tests/fixtures/templates/qwen3.jinja"
        ))
    };
    let messages = [Message::System("S".into()), user("Hi")];
    let plain = qwen3().render(&messages, &[tool("t")]).unwrap();
    let silent = qwen3().with_args(&args(json!({"enable_thinking": false})));
    assert_eq!(
        silent.render(&messages, &[tool("t")]).unwrap(),
        format!("{plain}<think>\n\n</think>\n\n")
    );
    let loud = qwen3().with_args(&args(json!({"enable_thinking": true})));
    assert_eq!(loud.render(&messages, &[tool("t")]).unwrap(), plain);
    // What the host says itself stays as it is.
    let stubborn = template("{{ messages[0].content }}{{ bos_token }}{{ a.b[0] }}{{ tools }}");
    let changed = stubborn.with_args(&args(
        json!({"messages": [], "bos_token": "<s>", "a": {"b": [1.5]}}),
    ));
    assert_eq!(changed.render(&[user("x")], &[]).unwrap(), "x1.5None");
}

#[test]
fn arguments_may_change_whether_the_template_knows_tools() {
    let text = "{{ messages[-1].content }}{% if with_tools %}{{ tools }}{% endif %}";
    assert!(!template(text).knows_tools());
    let args = json!({"with_tools": true});
    assert!(
        template(text)
            .with_args(args.as_object().unwrap())
            .knows_tools()
    );
}

/// minijinja 3.0.5 panics there.
#[test]
fn a_panic_of_the_engine_is_an_error() {
    // Evaluated at once, and only when it is rendered.
    for text in [
        "{{ ''[::-1] }}",
        "{{ messages[0].content[::-1] }}{{ tools }}",
    ] {
        match loaded(&[("chat_template.jinja", text)]) {
            Ok(template) => match template.render(&[user("")], &[]) {
                Err(ChatError::Template(message)) => {
                    assert!(message.contains("cannot evaluate"), "{message}");
                }
                other => panic!("{text}: {other:?}"),
            },
            Err(error) => assert!(error.to_string().contains("cannot evaluate"), "{error}"),
        }
    }
}
