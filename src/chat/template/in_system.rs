//! Conversations for templates that take tools from the system message's own
//! `tools`, as Phi-4-mini's does, and show of every message its role and its
//! content alone.
//!
//! Tools are a JSON text there. Calls are part of the content, in the form's
//! own words, and results are messages of the role that makes their marker.

use serde_json::{Value as Json, json};

use super::messages;
use super::methods;
use super::python::Dumps;
use crate::chat::formats::phi4_mini::{CLOSING, OPENING};
use crate::chat::{Message, ToolSpec};

/// The role that the template writes as `<|tool_response|>`.
const RESULT: &str = "tool_response";

/// A conversation whose system message has tools, and what shows there of
/// them, to find out whether a template takes them from it.
pub(super) fn probe() -> (Json, &'static str) {
    const TOOLS: &str = "[\"probed\"]";
    let system = json!({"role": "system", "content": "probe", "tools": TOOLS});
    let user = json!({"role": "user", "content": "probe"});
    (json!([system, user]), TOOLS)
}

/// The messages as such a template expects them. Without a system message one
/// is made for the tools.
pub(super) fn messages(conversation: &[Message], tools: &[ToolSpec]) -> Json {
    let mut out: Vec<Json> = conversation.iter().map(message).collect();
    if !tools.is_empty() {
        let first = out.first().and_then(|first| first.get("role"));
        if first.is_none_or(|role| role != "system") {
            out.insert(0, json!({"role": "system", "content": ""}));
        }
        let functions: Json = tools.iter().map(function).collect();
        out[0]["tools"] = json!(dumps(&functions));
    }
    Json::Array(out)
}

fn function(tool: &ToolSpec) -> Json {
    json!({"name": tool.name, "description": tool.description, "parameters": tool.parameters})
}

fn message(message: &Message) -> Json {
    match message {
        Message::Assistant {
            content,
            tool_calls,
            ..
        } if !tool_calls.is_empty() => {
            let calls: Json = tool_calls.iter().map(messages::function).collect();
            let content = format!("{content}{OPENING}{}{CLOSING}", dumps(&calls));
            json!({"role": "assistant", "content": content})
        }
        Message::Tool { content, .. } => json!({"role": RESULT, "content": content}),
        other => messages::message(other),
    }
}

/// As Python's `json.dumps` writes it, which is what such models were trained
/// on.
fn dumps(value: &Json) -> String {
    let dumped = Dumps::default().dump(&methods::from_json(value));
    // It fails at what JSON cannot hold, which JSON does not.
    dumped.unwrap_or_else(|_| value.to_string())
}
