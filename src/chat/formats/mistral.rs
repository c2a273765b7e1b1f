//! Mistral's forms: `[TOOL_CALLS][{"name": …, "arguments": {…}, "id": …}]` of
//! the older models, and `[TOOL_CALLS]name[ARGS]{…}` of the newer ones, with
//! `[CALL_ID]…` before the arguments or without `[ARGS]`, repeated for each
//! call.

use super::steps::{Look, Reader, Start, Step, Syntax, start};
use super::tags::length_before;
use super::{Form, ParsedCall, THINK, json};

const OPENING: &str = "[TOOL_CALLS]";
const ID: &str = "[CALL_ID]";
const ARGUMENTS: &str = "[ARGS]";

pub(super) const FORM: Form = Form {
    openings: &[OPENING],
    closings: &[],
    // The first Magistral wrote what others write.
    reasoning: &[("[THINK]", "[/THINK]"), THINK],
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
    ends: &[],
    begins: &[OPENING],
    keeps: &[],
};

fn step(look: &Look<'_>) -> Step {
    let text = look.text.trim_start();
    let blanks = length_before(look.text, text);
    if text.is_empty() {
        return Step::More;
    }
    match start(text, look.ended, &[OPENING]) {
        // Another block, which has a reader of its own.
        Start::With(_) => return Step::Over(blanks),
        Start::Perhaps => return Step::More,
        Start::Other => {}
    }
    if look.first && text.starts_with(['[', '{']) {
        return match json::extent(text) {
            Some(length) => Step::Calls(json::calls(&text[..length]), blanks + length),
            None => Step::More,
        };
    }
    match call(text, look) {
        Some(Some((call, length))) => Step::Calls(vec![call], blanks + length),
        None => Step::More,
        // Behind a call it is content, unless a marker says otherwise.
        Some(None) if !(look.first || is_marked(text)) => Step::Over(0),
        Some(None) => Step::Unreadable,
    }
}

/// The call that `text` begins with, and its length. The outer `None` is more
/// to come, the inner one something else.
fn call(text: &str, look: &Look<'_>) -> Option<Option<(ParsedCall, usize)>> {
    let name = name_in(text).unwrap_or_default();
    let mut rest = text[name.len()..].trim_start();
    if rest.is_empty() && !look.ended {
        return None;
    }
    let mut marked = false;
    let mut written = None;
    loop {
        match start(rest, look.ended, &[ID, ARGUMENTS]) {
            Start::With(ID) => {
                let id = &rest[ID.len()..];
                // Up to the arguments or their marker.
                let (id, behind) = id.split_at(id.find(['[', '{'])?);
                written = Some(id.trim().to_owned());
                rest = behind;
            }
            Start::With(marker) => rest = rest[marker.len()..].trim_start(),
            Start::Perhaps => return None,
            Start::Other => break,
        }
        marked = true;
    }
    if marked && rest.is_empty() {
        return None;
    }
    if name.is_empty() || !(marked || look.first) || !rest.starts_with('{') {
        return Some(None);
    }
    let length = json::extent(rest)?;
    let call = ParsedCall {
        id: written,
        ..json::with_arguments(&name, &rest[..length])
    };
    Some(Some((call, length_before(text, rest) + length)))
}

/// Whether a marker of what follows a name is behind it.
fn is_marked(text: &str) -> bool {
    let behind = text[name_in(text).map_or(0, |name| name.len())..].trim_start();
    [ID, ARGUMENTS]
        .iter()
        .any(|marker| behind.starts_with(marker))
}

/// The name that a call begins with.
fn name_in(text: &str) -> Option<String> {
    let text = text.trim_start();
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}
