//! GLM 4.x's form, which Ling 3, Laguna and Spark write too:
//!
//! ```text
//! <tool_call>name
//! <arg_key>key</arg_key>
//! <arg_value>value</arg_value>
//! </tool_call>
//! ```
//!
//! Hermes' JSON in the same marker is read as well.

use serde_json::Map;

use super::steps::{Look, Reader, Start, Step, Syntax, start};
use super::tags::{length_before, raw};
use super::{Arguments, Form, ParsedCall, THINK, json};

const OPENING: &str = "<tool_call>";
const CLOSING: &str = "</tool_call>";
const KEY: &str = "<arg_key>";
const KEY_END: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const VALUE_END: &str = "</arg_value>";

pub(super) const FORM: Form = Form {
    openings: &[OPENING],
    closings: &[CLOSING],
    reasoning: &[THINK],
    answer: &[],
    reader: |opening, tools| Reader::boxed(&SYNTAX, opening, tools),
    bare: None,
};

static SYNTAX: Syntax = Syntax {
    step,
    name: |text| {
        // What ends with the name may have it in part only.
        let name = || name_in(text).filter(|name| !text.ends_with(name.as_str()));
        json::name_in(text).or_else(name)
    },
    ends: &[CLOSING],
    begins: &[OPENING],
    keeps: &[],
};

fn step(look: &Look<'_>) -> Step {
    let text = look.text.trim_start();
    let blanks = length_before(look.text, text);
    if text.is_empty() {
        return Step::More;
    }
    match start(text, look.ended, &[CLOSING]) {
        Start::With(closing) => Step::Over(blanks + closing.len()),
        Start::Perhaps => Step::More,
        // The call is complete and only its closing marker is missing.
        Start::Other if !look.first => Step::Over(0),
        Start::Other if text.starts_with(['{', '[']) => match json::extent(text) {
            Some(length) => Step::Calls(json::calls(&text[..length]), blanks + length),
            None => Step::More,
        },
        Start::Other => match call(text, look) {
            Some(Some((call, rest))) => Step::Calls(vec![call], length_before(look.text, rest)),
            Some(None) => Step::Unreadable,
            None => Step::More,
        },
    }
}

/// The call, and what is behind it from `</tool_call>` on. The outer `None` is
/// more to come, the inner one something else.
fn call<'a>(text: &'a str, look: &Look<'_>) -> Option<Option<(ParsedCall, &'a str)>> {
    let end = [KEY, CLOSING]
        .iter()
        .filter_map(|tag| text.find(tag))
        .min()?;
    let (name, mut rest) = text.split_at(end);
    let Some(name) = name_in(name) else {
        return Some(None);
    };
    let mut arguments = Map::new();
    loop {
        rest = rest.trim_start();
        match start(rest, look.ended, &[KEY, CLOSING]) {
            Start::With(KEY) => {
                let (key, behind) = raw(&rest[KEY.len()..], KEY_END, &[VALUE])?;
                let followers = [KEY, CLOSING];
                let value = &behind[VALUE.len()..];
                let (value, next) = raw(value, VALUE_END, &followers)?;
                let key = key.trim();
                arguments.insert(key.to_owned(), look.tools.argument(&name, key, value));
                rest = next;
            }
            Start::With(_) => {
                let arguments = Arguments::Object(arguments);
                let call = ParsedCall {
                    name,
                    arguments,
                    id: None,
                };
                return Some(Some((call, rest)));
            }
            Start::Perhaps => return None,
            Start::Other => return Some(None),
        }
    }
}

/// The name that a call begins with: one word before the first tag.
fn name_in(text: &str) -> Option<String> {
    let name = text.split('<').next()?.trim();
    let is_name = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '{');
    is_name.then(|| name.to_owned())
}
