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

const TAGS: Tags = Tags {
    opening: "<tool_call>",
    closing: "</tool_call>",
    key: "<arg_key>",
    key_end: "</arg_key>",
    value: "<arg_value>",
    value_end: "</arg_value>",
};

/// The tags of a form in GLM's manner.
pub(super) struct Tags {
    pub(super) opening: &'static str,
    pub(super) closing: &'static str,
    pub(super) key: &'static str,
    pub(super) key_end: &'static str,
    pub(super) value: &'static str,
    pub(super) value_end: &'static str,
}

pub(super) const FORM: Form = Form {
    openings: &[TAGS.opening],
    closings: &[TAGS.closing],
    reasoning: &[THINK],
    answer: &[],
    reader: |opening, tools| Reader::boxed(&SYNTAX, opening, tools),
    bare: None,
};

static SYNTAX: Syntax = Syntax {
    step: |look| step(look, &TAGS),
    name: name_of_broken,
    ends: &[TAGS.closing],
    begins: &[TAGS.opening],
    keeps: &[],
};

/// The name in a call that is cut short.
pub(super) fn name_of_broken(text: &str) -> Option<String> {
    // What ends with the name may have it in part only.
    let name = || name_in(text).filter(|name| !text.ends_with(name.as_str()));
    json::name_in(text).or_else(name)
}

/// Looks at what follows a call's opening.
pub(super) fn step(look: &Look<'_>, tags: &Tags) -> Step {
    let text = look.text.trim_start();
    let blanks = length_before(look.text, text);
    if text.is_empty() {
        return Step::More;
    }
    match start(text, look.ended, &[tags.closing]) {
        Start::With(closing) => Step::Over(blanks + closing.len()),
        Start::Perhaps => Step::More,
        // The call is complete and only its closing marker is missing.
        Start::Other if !look.first => Step::Over(0),
        Start::Other if text.starts_with(['{', '[']) => match json::extent(text) {
            Some(length) => Step::Calls(json::calls(&text[..length]), blanks + length),
            None => Step::More,
        },
        Start::Other => match call(text, look, tags) {
            Some(Some((call, rest))) => Step::Calls(vec![call], length_before(look.text, rest)),
            Some(None) => Step::Unreadable,
            None => Step::More,
        },
    }
}

/// The call, and what is behind it from its closing tag on. The outer `None` is
/// more to come, the inner one something else.
fn call<'a>(text: &'a str, look: &Look<'_>, tags: &Tags) -> Option<Option<(ParsedCall, &'a str)>> {
    let end = [tags.key, tags.closing]
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
        match start(rest, look.ended, &[tags.key, tags.closing]) {
            Start::With(found) if found == tags.key => {
                let (key, behind) = raw(&rest[found.len()..], tags.key_end, &[tags.value])?;
                let followers = [tags.key, tags.closing];
                let value = &behind[tags.value.len()..];
                let (value, next) = raw(value, tags.value_end, &followers)?;
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
