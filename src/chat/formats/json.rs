//! Finds where a JSON value ends in text that comes in pieces, and makes calls
//! of the values that the JSON-based forms write.
//!
//! Knows no markers.

use serde_json::{Map, Value as Json};

use super::ParsedCall;
use crate::chat::Arguments;

/// Follows the brackets and strings of one JSON object or array, character by
/// character. A marker inside a string is thereby only text.
#[derive(Debug, Default)]
pub(super) struct Extent {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Extent {
    /// Takes the next byte of the value, the first being `{` or `[`; `true` if
    /// it is the last. Bytes will do, since all of JSON's own characters are
    /// ASCII and never part of another character's bytes.
    pub(super) fn ends_at(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// How long the JSON object or array is that `text` begins with; `None` if it
/// is not all there.
pub(super) fn extent(text: &str) -> Option<usize> {
    let mut extent = Extent::default();
    let last = text.bytes().position(|byte| extent.ends_at(byte))?;
    Some(last + 1)
}

/// The call of the tool `name` whose arguments are written as `text`.
pub(super) fn with_arguments(name: &str, text: &str) -> ParsedCall {
    let arguments = match serde_json::from_str::<Json>(text) {
        Ok(Json::Object(arguments)) => Arguments::Object(arguments),
        Ok(_) => Arguments::Malformed {
            text: text.trim().to_owned(),
            reason: "the tool call's arguments are not a JSON object".to_owned(),
        },
        Err(error) => Arguments::Malformed {
            text: text.trim().to_owned(),
            reason: format!("the tool call's arguments are not valid JSON: {error}"),
        },
    };
    ParsedCall {
        name: name.to_owned(),
        arguments,
        id: None,
    }
}

/// Whether a JSON text, which may be cut short or broken, has a call's name
/// and arguments in its outermost object, or in each of its array's.
pub(super) fn is_call(text: &str) -> bool {
    match serde_json::from_str::<Json>(text) {
        Ok(Json::Array(items)) => !items.is_empty() && items.iter().all(has_call_fields),
        Ok(value) => has_call_fields(&value),
        Err(_) => {
            let keys: Vec<String> = outer_strings(text)
                .into_iter()
                .filter_map(|(string, is_key)| is_key.then_some(string))
                .collect();
            name_in(text).is_some() && keys.iter().any(|key| ARGUMENTS.contains(&key.as_str()))
        }
    }
}

/// The fields that a name is in; the second is Cohere's.
const NAMES: [&str; 2] = ["name", "tool_name"];

/// The fields that arguments are in.
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];

fn has_call_fields(value: &Json) -> bool {
    let fields = if value.get("name").is_none() {
        value.get("function").unwrap_or(value)
    } else {
        value
    };
    fields.get("name").is_some_and(Json::is_string)
        && ARGUMENTS.iter().any(|key| fields.get(key).is_some())
}

/// The calls a complete JSON text makes: one for an object, any number for an
/// array of objects. A text that is not JSON makes one malformed call.
pub(super) fn calls(text: &str) -> Vec<ParsedCall> {
    match serde_json::from_str::<Json>(text) {
        Ok(Json::Array(items)) if !items.is_empty() => {
            items.into_iter().map(|item| call(item, text)).collect()
        }
        Ok(value) => vec![call(value, text)],
        Err(error) => vec![malformed(
            text,
            format!("the tool call is not valid JSON: {error}"),
        )],
    }
}

/// A call that cannot be carried out, with the name if it can be read.
pub(super) fn malformed(text: &str, reason: String) -> ParsedCall {
    ParsedCall {
        name: name_in(text).unwrap_or_default(),
        arguments: Arguments::Malformed {
            text: text.trim().to_owned(),
            reason,
        },
        id: None,
    }
}

/// The call that `value`, written as `text`, makes.
fn call(value: Json, text: &str) -> ParsedCall {
    let refused = |name: String, reason: &str| ParsedCall {
        name,
        arguments: Arguments::Malformed {
            text: text.trim().to_owned(),
            reason: reason.to_owned(),
        },
        id: None,
    };
    let Json::Object(mut fields) = value else {
        return refused(String::new(), "the tool call is not a JSON object");
    };
    let id = fields.get("id").and_then(Json::as_str).map(str::to_owned);
    // OpenAI's shape has the call one level down.
    if !fields.contains_key("name")
        && let Some(Json::Object(function)) = fields.get_mut("function")
    {
        fields = std::mem::take(function);
    }
    let name = match NAMES.iter().find_map(|key| fields.get(*key)) {
        Some(Json::String(name)) => name.clone(),
        _ => return refused(String::new(), "the tool call has no \"name\""),
    };
    let arguments = fields
        .get_mut("arguments")
        .map(Json::take)
        .or_else(|| fields.get_mut("parameters").map(Json::take));
    match arguments {
        Some(Json::Object(arguments)) => ParsedCall {
            name,
            arguments: Arguments::Object(arguments),
            id,
        },
        Some(Json::String(encoded)) => match serde_json::from_str::<Map<String, Json>>(&encoded) {
            Ok(arguments) => ParsedCall {
                name,
                arguments: Arguments::Object(arguments),
                id,
            },
            Err(_) => refused(
                name,
                "the tool call's \"arguments\" are a text that is not a JSON object",
            ),
        },
        Some(_) => refused(name, "the tool call's \"arguments\" are not a JSON object"),
        None => refused(name, "the tool call has no \"arguments\" object"),
    }
}

/// The name in the outermost object of a JSON text that may be cut
/// short or broken.
pub(super) fn name_in(text: &str) -> Option<String> {
    let mut key = String::new();
    for (string, is_key) in outer_strings(text) {
        if is_key {
            key = string;
        } else if NAMES.contains(&key.as_str()) {
            return Some(string);
        }
    }
    None
}

/// The first key in the outermost object of a JSON text that may be cut short
/// or broken.
pub(super) fn first_key(text: &str) -> Option<String> {
    let strings = outer_strings(text).into_iter();
    let mut keys = strings.filter_map(|(string, is_key)| is_key.then_some(string));
    keys.next()
}

/// The strings in the outermost object of a JSON text, or in those of the
/// outermost array, up to where the text is cut or no JSON; and whether they
/// are keys.
fn outer_strings(text: &str) -> Vec<(String, bool)> {
    let text = text.trim_start();
    let outermost = match text.as_bytes().first() {
        Some(b'{') => 1,
        Some(b'[') => 2,
        _ => return Vec::new(),
    };
    let mut extent = Extent::default();
    let mut start = 0;
    let mut strings = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        let was_in_string = extent.in_string;
        extent.ends_at(byte);
        match (was_in_string, extent.in_string) {
            (false, true) => start = at,
            (true, false) if extent.depth == outermost => {
                let Ok(string) = serde_json::from_str(&text[start..=at]) else {
                    break;
                };
                strings.push((string, !text[..start].trim_end().ends_with(':')));
            }
            _ => {}
        }
    }
    strings
}
