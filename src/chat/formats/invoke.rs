//! `<invoke name="tool"><parameter name="key">value</parameter></invoke>`, as
//! MiniMax M2 writes it, and with a prefix to each tag DeepSeek's DSML.
//!
//! A parameter with `string="true"` is a text and with `string="false"` is JSON;
//! without either the tool's schema decides. Knows no markers around it.

use serde_json::{Map, Value as Json};

use super::steps::{Look, Start, Step, start};
use super::tags::{between, length_before, raw};
use super::{Arguments, ParsedCall};

/// What stands around a value in which nothing is a tag.
const CDATA: (&str, &str) = ("<![CDATA[", "]]>");

/// The tags, without what follows their names.
pub(super) struct Tags {
    pub(super) invoke: &'static str,
    pub(super) invoke_end: &'static str,
    pub(super) parameter: &'static str,
    pub(super) parameter_end: &'static str,
    /// Whether a value may stand in `<![CDATA[…]]>`.
    pub(super) cdata: bool,
    /// What ends a block of calls.
    pub(super) ends: &'static [&'static str],
}

/// Looks at a block of calls.
pub(super) fn step(look: &Look<'_>, tags: &Tags) -> Step {
    let text = look.text.trim_start();
    let blanks = length_before(look.text, text);
    if text.is_empty() {
        return Step::More;
    }
    if !look.first {
        // What is left of a call that could not be read.
        match start(text, look.ended, &[tags.invoke_end]) {
            Start::With(end) => return Step::Skip(blanks + end.len()),
            Start::Perhaps => return Step::More,
            Start::Other => {}
        }
    }
    let ends = start(text, look.ended, tags.ends);
    match (start(text, look.ended, &[tags.invoke]), ends) {
        (Start::With(_), _) => match call(text, look, tags) {
            Some(Some((call, rest))) => Step::Calls(vec![call], length_before(look.text, rest)),
            Some(None) => Step::Unreadable,
            None => Step::More,
        },
        (_, Start::With(end)) => Step::Over(blanks + end.len()),
        (Start::Perhaps, _) | (_, Start::Perhaps) => Step::More,
        _ if look.first => Step::Unreadable,
        _ => Step::Over(0),
    }
}

/// The name in a call that is cut short.
pub(super) fn name_in(text: &str, tags: &Tags) -> Option<String> {
    let tag = between(text, tags.invoke, ">")?;
    attribute(&tag, "name").map(str::to_owned)
}

/// The call, and what is behind it. The outer `None` is more to come, the
/// inner one something else.
fn call<'a>(text: &'a str, look: &Look<'_>, tags: &Tags) -> Option<Option<(ParsedCall, &'a str)>> {
    let (tag, mut rest) = text[tags.invoke.len()..].split_once('>')?;
    let Some(name) = attribute(tag, "name") else {
        return Some(None);
    };
    let mut arguments = Map::new();
    loop {
        rest = rest.trim_start();
        match start(rest, look.ended, &[tags.parameter, tags.invoke_end]) {
            Start::With(found) if found == tags.parameter => {
                let (tag, behind) = rest[found.len()..].split_once('>')?;
                let followers = [tags.parameter, tags.invoke_end];
                let (value, next) = match behind.strip_prefix(CDATA.0).filter(|_| tags.cdata) {
                    Some(value) => {
                        let closing = format!("{}{}", CDATA.1, tags.parameter_end);
                        raw(value, &closing, &followers)?
                    }
                    None => raw(behind, tags.parameter_end, &followers)?,
                };
                let Some(key) = attribute(tag, "name") else {
                    return Some(None);
                };
                let value = match attribute(tag, "string") {
                    Some("true") => Json::from(value),
                    Some("false") => json_or_text(value),
                    _ => look.tools.argument(name, key, value),
                };
                arguments.insert(key.to_owned(), value);
                rest = next;
            }
            Start::With(found) => {
                let call = ParsedCall {
                    name: name.to_owned(),
                    arguments: Arguments::Object(arguments),
                    id: None,
                };
                return Some(Some((call, &rest[found.len()..])));
            }
            Start::Perhaps => return None,
            Start::Other => return Some(None),
        }
    }
}

fn json_or_text(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// The value of an attribute in what a tag has behind its name; the quotes may
/// be of either kind, or missing.
fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, behind) = tag.split_once(name)?;
    let value = behind.trim_start().strip_prefix('=')?.trim_start();
    let found = match value.chars().next()? {
        quote @ ('"' | '\'') => value[1..].split(quote).next()?,
        _ => value.split_whitespace().next()?,
    };
    (!found.is_empty()).then_some(found)
}
