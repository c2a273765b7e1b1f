//! Messages and tools in the shape templates expect, which is OpenAI's with
//! the arguments of calls as objects; and the rewriting of conversations for
//! templates that know no tools, no system role, or not more than one call a
//! turn.

use serde_json::{Map, Value as Json, json};

use super::super::{Arguments, Message, ToolCall, ToolSpec};

/// The key under which a template is given arguments that are no JSON object.
const UNPARSED: &str = "unparsed";

/// The name a template is given for a call whose name could not be read.
const UNNAMED: &str = "unknown";

/// Messages as a template expects them.
pub(super) fn messages(messages: &[Message]) -> Json {
    messages.iter().map(message).collect()
}

pub(super) fn message(message: &Message) -> Json {
    match message {
        Message::System(content) => json!({"role": "system", "content": content}),
        Message::User(content) => json!({"role": "user", "content": content}),
        Message::Assistant {
            content,
            reasoning,
            tool_calls,
            ..
        } => {
            let mut out = Map::new();
            out.insert("role".to_owned(), json!("assistant"));
            out.insert("content".to_owned(), json!(content));
            if let Some(reasoning) = reasoning {
                out.insert("reasoning_content".to_owned(), json!(reasoning));
            }
            if !tool_calls.is_empty() {
                let calls = tool_calls.iter().map(tool_call).collect();
                out.insert("tool_calls".to_owned(), calls);
            }
            Json::Object(out)
        }
        Message::Tool {
            call_id,
            name,
            content,
        } => json!({"role": "tool", "tool_call_id": call_id, "name": name, "content": content}),
    }
}

fn tool_call(call: &ToolCall) -> Json {
    json!({"type": "function", "id": call.id, "function": function(call)})
}

/// A call's name and arguments. A malformed call has them too, so that its
/// conversation can be rendered: the model sees the text it wrote, and in the
/// tool's result what was wrong with it.
pub(super) fn function(call: &ToolCall) -> Json {
    let name = if call.name.is_empty() {
        UNNAMED
    } else {
        &call.name
    };
    let arguments = match &call.arguments {
        Arguments::Object(arguments) => Json::Object(arguments.clone()),
        Arguments::Malformed { text, .. } => json!({UNPARSED: text}),
    };
    json!({"name": name, "arguments": arguments})
}

/// Tools as a template expects them; `null` if there are none.
pub(super) fn tools(tools: &[ToolSpec]) -> Json {
    if tools.is_empty() {
        return Json::Null;
    }
    tools.iter().map(tool).collect()
}

fn tool(tool: &ToolSpec) -> Json {
    json!({
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        },
    })
}

/// The conversation for a template that knows nothing of tools, in the form
/// that Hermes made common: the tools are in the system prompt, calls are JSON
/// between `<tool_call>` tags in the assistant's text, and results are users'
/// messages between `<tool_response>` tags.
pub(super) fn tools_as_text(messages: &[Message], tools: &[ToolSpec]) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    // Results of one turn's calls share a message, since templates of this
    // age want users and assistants to alternate.
    let mut after_result = false;
    for message in messages {
        match message {
            Message::Assistant {
                content,
                reasoning,
                tool_calls,
                ..
            } => out.push(Message::Assistant {
                content: calls_as_text(content, tool_calls),
                reasoning: reasoning.clone(),
                tool_calls: Vec::new(),
                written: None,
            }),
            Message::Tool { content, .. } => {
                let result = format!("<tool_response>\n{content}\n</tool_response>");
                match out.last_mut() {
                    Some(Message::User(results)) if after_result => {
                        results.push('\n');
                        results.push_str(&result);
                    }
                    _ => out.push(Message::User(result)),
                }
            }
            Message::System(_) | Message::User(_) => out.push(message.clone()),
        }
        after_result = matches!(message, Message::Tool { .. });
    }
    if !tools.is_empty() {
        let about = about_tools(tools);
        match out.first_mut() {
            Some(Message::System(system)) => {
                system.push_str("\n\n");
                system.push_str(&about);
            }
            _ => out.insert(0, Message::System(about)),
        }
    }
    out
}

fn calls_as_text(content: &str, calls: &[ToolCall]) -> String {
    let mut parts = Vec::with_capacity(calls.len() + 1);
    if !content.is_empty() {
        parts.push(content.to_owned());
    }
    parts.extend(
        calls
            .iter()
            .map(|call| format!("<tool_call>\n{}\n</tool_call>", function(call))),
    );
    parts.join("\n")
}

fn about_tools(tools: &[ToolSpec]) -> String {
    let mut text = "# Tools\n\nYou can call these tools:\n<tools>\n".to_owned();
    for spec in tools {
        text.push_str(&tool(spec).to_string());
        text.push('\n');
    }
    text.push_str(
        "</tools>\n\nTo call a tool, write its name and its arguments as a JSON object between \
         <tool_call> tags, one pair of tags for each call:\n\
         <tool_call>\n{\"name\": \"the tool's name\", \"arguments\": {}}\n</tool_call>\n\n\
         You then receive each result between <tool_response> tags.",
    );
    text
}

/// The conversation for a template that refuses the system role: the
/// operator's instructions open the first message of the user. `None` if there
/// are none.
pub(super) fn system_in_user(messages: &[Message]) -> Option<Vec<Message>> {
    let mut instructions = Vec::new();
    let mut rest = Vec::with_capacity(messages.len());
    for message in messages {
        match message {
            Message::System(text) => instructions.push(text.as_str()),
            _ => rest.push(message.clone()),
        }
    }
    if instructions.is_empty() {
        return None;
    }
    let instructions = instructions.join("\n\n");
    let first_user = rest.iter_mut().find_map(|message| match message {
        Message::User(content) => Some(content),
        _ => None,
    });
    match first_user {
        Some(content) => *content = format!("{instructions}\n\n{content}"),
        None => rest.insert(0, Message::User(instructions)),
    }
    Some(rest)
}

/// The conversation for a template that refuses several calls in a turn: each
/// call has a turn of its own, with its result behind it. `None` if there are
/// never several.
pub(super) fn one_call_a_turn(messages: &[Message]) -> Option<Vec<Message>> {
    let mut out = Vec::with_capacity(messages.len());
    let mut split_any = false;
    let mut rest = messages;
    while let Some((message, behind)) = rest.split_first() {
        rest = behind;
        let Message::Assistant {
            content,
            reasoning,
            tool_calls,
            ..
        } = message
        else {
            out.push(message.clone());
            continue;
        };
        if tool_calls.len() < 2 {
            out.push(message.clone());
            continue;
        }
        split_any = true;
        let is_result = |message: &Message| matches!(message, Message::Tool { .. });
        let count = rest.iter().take_while(|message| is_result(message)).count();
        let (results, behind) = rest.split_at(count);
        rest = behind;
        for (index, call) in tool_calls.iter().enumerate() {
            let first = index == 0;
            out.push(Message::Assistant {
                content: match first {
                    true => content.clone(),
                    false => String::new(),
                },
                reasoning: reasoning.clone().filter(|_| first),
                tool_calls: vec![call.clone()],
                written: None,
            });
            let of_call = |message: &&Message| matches!(message, Message::Tool { call_id, .. } if *call_id == call.id);
            out.extend(results.iter().filter(of_call).cloned());
        }
    }
    split_any.then_some(out)
}
