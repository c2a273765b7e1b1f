//! Conversations in the shapes of OpenAI's chat completions: JSON in,
//! [`Message`] and [`ToolSpec`] out. What is wrong is named by its place, as
//! in `messages[2].tool_calls[0].function.name`. Keys it does not know are
//! passed over.
//!
//! Knows no template and nothing of how a request came.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::chat::{Arguments, Message, ToolCall, ToolSpec};

/// A conversation and the tools the model may call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Vec<ToolSpec>,
}

/// A part that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at} {problem}")]
pub(crate) struct Misshapen {
    /// Where it is; never empty.
    at: String,
    /// What is wrong, and what would be right.
    problem: String,
}

impl Conversation {
    /// Reads `{"messages": […], "tools": […]}`; `tools` may be missing.
    ///
    /// # Errors
    /// The first part that is not what it should be.
    pub(crate) fn read(document: &Value) -> Result<Self, Misshapen> {
        let top = Part {
            at: String::new(),
            value: document,
        };
        let top = top.object()?;
        let messages = top.required("messages")?.list()?;
        if messages.is_empty() {
            return Err(wrong("messages", "is empty; write at least one message"));
        }
        // Names of the tools called so far, by the calls' ids.
        let mut called = HashMap::new();
        let messages = messages
            .iter()
            .map(|part| message(part, &mut called))
            .collect::<Result<_, _>>()?;
        let tools = match top.optional("tools") {
            Some(tools) => tools.list()?.iter().map(tool).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        Ok(Self { messages, tools })
    }
}

fn wrong(at: impl Into<String>, problem: impl Into<String>) -> Misshapen {
    Misshapen {
        at: at.into(),
        problem: problem.into(),
    }
}

fn message(part: &Part<'_>, called: &mut HashMap<String, String>) -> Result<Message, Misshapen> {
    let object = part.object()?;
    let role = object.required("role")?;
    match role.text()? {
        "system" | "developer" => Ok(Message::System(content(&object)?)),
        "user" => Ok(Message::User(content(&object)?)),
        "assistant" => assistant(&object, called),
        "tool" => tool_result(&object, called),
        other => Err(wrong(
            role.at,
            format!("is {other:?}; write system, user, assistant or tool"),
        )),
    }
}

/// A content that must be there.
fn content(message: &Object<'_>) -> Result<String, Misshapen> {
    text_or_parts(&message.required("content")?)
}

fn assistant(
    object: &Object<'_>,
    called: &mut HashMap<String, String>,
) -> Result<Message, Misshapen> {
    let tool_calls: Vec<ToolCall> = match object.optional("tool_calls") {
        Some(calls) => calls
            .list()?
            .iter()
            .map(tool_call)
            .collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let content = match object.optional("content") {
        Some(content) => text_or_parts(&content)?,
        None if tool_calls.is_empty() => {
            return Err(wrong(
                &object.at,
                "has neither content nor tool_calls; write one of them",
            ));
        }
        None => String::new(),
    };
    let reasoning = object
        .optional("reasoning_content")
        .or_else(|| object.optional("reasoning"));
    let reasoning = match reasoning {
        Some(reasoning) => Some(reasoning.text()?.to_owned()),
        None => None,
    };
    let ids = tool_calls.iter().map(|call| &call.id).cloned();
    let names = tool_calls.iter().map(|call| &call.name).cloned();
    called.extend(ids.zip(names));
    Ok(Message::Assistant {
        content,
        reasoning,
        tool_calls,
        written: None,
    })
}

fn tool_call(part: &Part<'_>) -> Result<ToolCall, Misshapen> {
    let object = part.object()?;
    let function = object.required("function")?.object()?;
    Ok(ToolCall {
        id: object.required("id")?.filled()?.to_owned(),
        name: function.required("name")?.filled()?.to_owned(),
        arguments: arguments(&function.required("arguments")?)?,
    })
}

/// The arguments as the text of a JSON object, which is OpenAI's way, or as
/// the object. A text that is none is what a model wrote wrongly once: it is
/// part of the conversation, not a fault of who sends it.
fn arguments(part: &Part<'_>) -> Result<Arguments, Misshapen> {
    match part.value {
        Value::Object(object) => Ok(Arguments::Object(object.clone())),
        Value::String(text) if text.trim().is_empty() => Ok(Arguments::Object(Map::new())),
        Value::String(text) => Ok(match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Arguments::Object(object),
            Ok(_) => Arguments::Malformed {
                text: text.clone(),
                reason: "the arguments are not a JSON object".to_owned(),
            },
            Err(error) => Arguments::Malformed {
                text: text.clone(),
                reason: format!("the arguments are not JSON: {error}"),
            },
        }),
        _ => Err(part.is_not("the text of a JSON object, or the object")),
    }
}

fn tool_result(
    object: &Object<'_>,
    called: &HashMap<String, String>,
) -> Result<Message, Misshapen> {
    let id = object.required("tool_call_id")?;
    let call_id = id.filled()?.to_owned();
    let Some(name) = called.get(&call_id) else {
        return Err(wrong(
            id.at,
            format!("is {call_id:?}, which no tool call before it has; write the call's id"),
        ));
    };
    Ok(Message::Tool {
        call_id,
        name: name.clone(),
        content: content(object)?,
    })
}

fn tool(part: &Part<'_>) -> Result<ToolSpec, Misshapen> {
    let object = part.object()?;
    if let Some(kind) = object.optional("type")
        && kind.text()? != "function"
    {
        return Err(wrong(
            kind.at,
            "is not \"function\"; no other tools are known",
        ));
    }
    let function = object.required("function")?.object()?;
    let description = match function.optional("description") {
        Some(description) => description.text()?.to_owned(),
        None => String::new(),
    };
    let parameters = match function.optional("parameters") {
        Some(parameters) => Value::Object(parameters.object()?.members.clone()),
        // OpenAI's way to say that there are none.
        None => json!({"type": "object", "properties": {}}),
    };
    Ok(ToolSpec {
        name: function.required("name")?.filled()?.to_owned(),
        description,
        parameters,
    })
}

/// A text, or a list of `{"type": "text", "text": …}`, which are put together
/// as they are.
fn text_or_parts(part: &Part<'_>) -> Result<String, Misshapen> {
    let Value::Array(_) = part.value else {
        return part
            .value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| part.is_not("a text or a list of text parts"));
    };
    let mut whole = String::new();
    for part in part.list()? {
        let object = part.object()?;
        let kind = object.required("type")?;
        if kind.text()? != "text" {
            return Err(wrong(
                kind.at,
                format!("is {}; only text parts can be read", kind.value),
            ));
        }
        whole.push_str(object.required("text")?.text()?);
    }
    Ok(whole)
}

/// A value and its place in the document.
struct Part<'a> {
    at: String,
    value: &'a Value,
}

struct Object<'a> {
    at: String,
    members: &'a Map<String, Value>,
}

impl<'a> Part<'a> {
    fn is_not(&self, wanted: &str) -> Misshapen {
        let found = match self.value {
            Value::Null => "is null",
            Value::Bool(_) => "is true or false",
            Value::Number(_) => "is a number",
            Value::String(_) => "is a text",
            Value::Array(_) => "is a list",
            Value::Object(_) => "is an object",
        };
        let at = match self.at.as_str() {
            "" => "the conversation",
            at => at,
        };
        wrong(at, format!("{found}; write {wanted}"))
    }

    fn object(&self) -> Result<Object<'a>, Misshapen> {
        let members = self.value.as_object();
        let members = members.ok_or_else(|| self.is_not("an object"))?;
        Ok(Object {
            at: self.at.clone(),
            members,
        })
    }

    fn list(&self) -> Result<Vec<Part<'a>>, Misshapen> {
        let items = self.value.as_array();
        let items = items.ok_or_else(|| self.is_not("a list"))?;
        let part = |(index, value)| Part {
            at: format!("{}[{index}]", self.at),
            value,
        };
        Ok(items.iter().enumerate().map(part).collect())
    }

    fn text(&self) -> Result<&'a str, Misshapen> {
        self.value.as_str().ok_or_else(|| self.is_not("a text"))
    }

    fn filled(&self) -> Result<&'a str, Misshapen> {
        match self.text()? {
            "" => Err(wrong(&self.at, "is empty; fill it in")),
            text => Ok(text),
        }
    }
}

impl<'a> Object<'a> {
    fn place(&self, key: &str) -> String {
        match self.at.as_str() {
            "" => key.to_owned(),
            at => format!("{at}.{key}"),
        }
    }

    fn required(&self, key: &str) -> Result<Part<'a>, Misshapen> {
        let value = self.members.get(key);
        let value = value.ok_or_else(|| wrong(self.place(key), "is missing; add it"))?;
        Ok(Part {
            at: self.place(key),
            value,
        })
    }

    /// What is there; `null` is not.
    fn optional(&self, key: &str) -> Option<Part<'a>> {
        let value = self.members.get(key).filter(|value| !value.is_null())?;
        Some(Part {
            at: self.place(key),
            value,
        })
    }
}
