//! LFM2's form: `<|tool_call_start|>[f(a="x", b=1), g()]<|tool_call_end|>`, calls
//! in Python's notation with named arguments, whose values are Python's literals
//! or JSON's. A list of JSON objects, which LFM2 writes when it is asked to, is
//! read as well.

use super::python::{self, Stop};
use super::steps::{Look, Reader, Start, Step, Syntax, start};
use super::tags::length_before;
use super::{Form, THINK, json};

const OPENING: &str = "<|tool_call_start|>";
const CLOSING: &str = "<|tool_call_end|>";

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
    name: |text| json::name_in(text).or_else(|| python::name_in(text)),
    ends: &[CLOSING],
    begins: &[OPENING],
    keeps: &[],
};

fn step(look: &Look<'_>) -> Step {
    let text = look.text.trim_start();
    let blanks = length_before(look.text, text);
    let Some(next) = text.chars().next() else {
        return Step::More;
    };
    match start(text, look.ended, &[CLOSING]) {
        Start::With(closing) => return Step::Over(blanks + closing.len()),
        Start::Perhaps => return Step::More,
        Start::Other => {}
    }
    match (look.before, next) {
        (None, '{') => json_calls(text, blanks),
        (None, '[') => match text[1..].trim_start().chars().next() {
            None => Step::More,
            Some('{') => json_calls(text, blanks),
            Some(_) => Step::Skip(blanks + 1),
        },
        (Some(')'), ',' | ']') | (Some('['), ']') => Step::Skip(blanks + 1),
        (None | Some('[' | ','), _) => match python::call(text) {
            Ok((call, length)) => Step::Calls(vec![call], blanks + length),
            Err(Stop::More) => Step::More,
            Err(Stop::Bad) => Step::Unreadable,
        },
        // The calls are complete and only the closing marker is missing.
        _ if !look.first => Step::Over(0),
        _ => Step::Unreadable,
    }
}

fn json_calls(text: &str, blanks: usize) -> Step {
    match json::extent(text) {
        Some(length) => Step::Calls(json::calls(&text[..length]), blanks + length),
        None => Step::More,
    }
}
