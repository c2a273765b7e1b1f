//! Qwen3-Coder's form, which Qwen3.5, Nemotron 3, StepFun and Seed-OSS write
//! too:
//!
//! ```text
//! <tool_call>
//! <function=name>
//! <parameter=key>
//! value
//! </parameter>
//! </function>
//! </tool_call>
//! ```
//!
//! The outer marker is often left out. One line break on either side of a value
//! is the form's, all else is the value's. Functionary's
//! `<function=name>{…}</function>` is read as well, and so is Hermes' JSON in
//! the outer marker.

use serde_json::Map;

use super::steps::{Look, Reader, Start, Step, Syntax, start};
use super::tags::{between, length_before, raw};
use super::{Arguments, Form, ParsedCall, THINK, json};

const OUTER: &str = "<tool_call>";
const OUTER_END: &str = "</tool_call>";
const SEED: &str = "<seed:tool_call>";
const SEED_END: &str = "</seed:tool_call>";
const FUNCTION: &str = "<function=";
const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

pub(super) const FORM: Form = Form {
    openings: &[OUTER, SEED, FUNCTION],
    closings: &[OUTER_END, SEED_END, FUNCTION_END],
    reasoning: &[THINK, ("<seed:think>", "</seed:think>")],
    answer: &[],
    reader: |opening, tools| Reader::boxed(&SYNTAX, opening, tools),
    bare: None,
};

static SYNTAX: Syntax = Syntax {
    step,
    name: |text| between(text, FUNCTION, ">").or_else(|| json::name_in(text)),
    ends: &[FUNCTION_END, OUTER_END, SEED_END],
    begins: &[FUNCTION, OUTER, SEED],
    keeps: &[FUNCTION],
};

fn step(look: &Look<'_>) -> Step {
    let text = look.text.trim_start();
    let blanks = length_before(look.text, text);
    if text.is_empty() {
        return Step::More;
    }
    let markers = [FUNCTION, FUNCTION_END, OUTER_END, SEED_END];
    match start(text, look.ended, &markers) {
        Start::With(FUNCTION) => match function(text, look) {
            Read::Call(call, rest) => Step::Calls(vec![call], length_before(look.text, rest)),
            Read::More => Step::More,
            Read::Other => Step::Unreadable,
        },
        Start::With(FUNCTION_END) if !look.first => Step::Skip(blanks + FUNCTION_END.len()),
        Start::With(FUNCTION_END) => Step::Unreadable,
        Start::With(end) => Step::Over(blanks + end.len()),
        Start::Perhaps => Step::More,
        Start::Other if !look.first => Step::Over(0),
        Start::Other if text.starts_with(['{', '[']) => match json::extent(text) {
            Some(length) => Step::Calls(json::calls(&text[..length]), blanks + length),
            None => Step::More,
        },
        Start::Other => Step::Unreadable,
    }
}

enum Read<'a> {
    /// A call, and what is behind it.
    Call(ParsedCall, &'a str),
    More,
    Other,
}

/// Reads from `<function=` to `</function>`.
fn function<'a>(text: &'a str, look: &Look<'_>) -> Read<'a> {
    let Some((name, mut rest)) = text[FUNCTION.len()..].split_once('>') else {
        return Read::More;
    };
    let name = name.trim();
    if name.is_empty() || name.contains('<') {
        return Read::Other;
    }
    if rest.trim_start().starts_with('{') {
        let rest = rest.trim_start();
        return match json::extent(rest) {
            // `</function>` is skipped in a step of its own.
            Some(length) => {
                Read::Call(json::with_arguments(name, &rest[..length]), &rest[length..])
            }
            None => Read::More,
        };
    }
    let mut arguments = Map::new();
    loop {
        rest = rest.trim_start();
        match start(
            rest,
            look.ended,
            &[PARAMETER, FUNCTION_END, OUTER_END, SEED_END],
        ) {
            Start::With(PARAMETER) => {
                let Some((key, behind)) = rest[PARAMETER.len()..].split_once('>') else {
                    return Read::More;
                };
                let followers = [PARAMETER, FUNCTION_END, OUTER_END, SEED_END];
                let Some((value, next)) = raw(behind, PARAMETER_END, &followers) else {
                    return Read::More;
                };
                let key = key.trim();
                let value = value.strip_prefix('\n').unwrap_or(value);
                let value = value.strip_suffix('\n').unwrap_or(value);
                arguments.insert(key.to_owned(), look.tools.argument(name, key, value));
                rest = next;
            }
            Start::With(end) => {
                let call = ParsedCall {
                    name: name.to_owned(),
                    arguments: Arguments::Object(arguments),
                    id: None,
                };
                // Where `</function>` is missing, the outer end is left to
                // end the block.
                let rest = if end == FUNCTION_END {
                    &rest[end.len()..]
                } else {
                    rest
                };
                return Read::Call(call, rest);
            }
            Start::Perhaps => return Read::More,
            Start::Other => return Read::Other,
        }
    }
}
