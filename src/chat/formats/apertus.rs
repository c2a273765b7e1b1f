//! `<|tools_prefix|>[{"name of the tool": {…}}, …]<|tools_suffix|>`, as Apertus
//! writes it: each call is an object whose one key is the tool's name.

use serde_json::Value as Json;

use super::json_block::{Meaning, Reader};
use super::{Arguments, Form, ParsedCall, THINK, json};

const OPENING: &str = "<|tools_prefix|>";
const CLOSING: &str = "<|tools_suffix|>";

pub(super) const FORM: Form = Form {
    openings: &[OPENING],
    closings: &[CLOSING],
    reasoning: &[("<|inner_prefix|>", "<|inner_suffix|>"), THINK],
    answer: &[],
    reader: |opening, _| Box::new(Reader::meaning(opening, CLOSING, MEANING)),
    bare: None,
};

const MEANING: Meaning = Meaning {
    calls,
    name: |text| json::name_in(text).or_else(|| json::first_key(text)),
};

/// The calls of a complete JSON text. What is none of this form is read as
/// calls with a name and arguments.
fn calls(text: &str) -> Vec<ParsedCall> {
    let items = match serde_json::from_str(text) {
        Ok(Json::Array(items)) if !items.is_empty() => items,
        Ok(item @ Json::Object(_)) => vec![item],
        _ => return json::calls(text),
    };
    let calls: Option<Vec<ParsedCall>> = items.into_iter().map(call).collect();
    calls.unwrap_or_else(|| json::calls(text))
}

fn call(item: Json) -> Option<ParsedCall> {
    let Json::Object(fields) = item else {
        return None;
    };
    let mut fields = fields.into_iter();
    match (fields.next(), fields.next()) {
        (Some((name, Json::Object(arguments))), None) => Some(ParsedCall {
            name,
            arguments: Arguments::Object(arguments),
            id: None,
        }),
        _ => None,
    }
}
