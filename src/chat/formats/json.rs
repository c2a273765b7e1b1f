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
    };
    let Json::Object(mut fields) = value else {
        return refused(String::new(), "the tool call is not a JSON object");
    };
    // OpenAI's shape has the call one level down.
    if !fields.contains_key("name")
        && let Some(Json::Object(function)) = fields.get_mut("function")
    {
        fields = std::mem::take(function);
    }
    let name = match fields.get("name") {
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
        },
        Some(Json::String(encoded)) => match serde_json::from_str::<Map<String, Json>>(&encoded) {
            Ok(arguments) => ParsedCall {
                name,
                arguments: Arguments::Object(arguments),
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

/// The text of `"name"` in the outermost object of a JSON text that may be cut
/// short or broken.
fn name_in(text: &str) -> Option<String> {
    let text = text.trim_start();
    let outermost = match text.as_bytes().first()? {
        b'{' => 1,
        b'[' => 2,
        _ => return None,
    };
    let mut extent = Extent::default();
    let (mut start, mut key) = (0, String::new());
    for (at, byte) in text.bytes().enumerate() {
        let was_in_string = extent.in_string;
        extent.ends_at(byte);
        match (was_in_string, extent.in_string) {
            (false, true) => start = at,
            (true, false) if extent.depth == outermost => {
                let string: String = serde_json::from_str(&text[start..=at]).ok()?;
                if !text[..start].trim_end().ends_with(':') {
                    key = string;
                } else if key == "name" {
                    return Some(string);
                }
            }
            _ => {}
        }
    }
    None
}
