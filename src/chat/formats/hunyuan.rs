//! Hunyuan 3's form: GLM's with other tags, `<tool_sep:opensource>` behind the
//! name, and `<tool_calls:opensource>` around all calls.

use super::Form;
use super::glm::{self, Tags};
use super::steps::{Reader, Start, Step, Syntax, start};
use super::tags::length_before;

const CALLS: &str = "<tool_calls:opensource>";
const CALLS_END: &str = "</tool_calls:opensource>";
const TAGS: Tags = Tags {
    opening: "<tool_call:opensource>",
    closing: "</tool_call:opensource>",
    key: "<arg_key:opensource>",
    key_end: "</arg_key:opensource>",
    value: "<arg_value:opensource>",
    value_end: "</arg_value:opensource>",
};

pub(super) const FORM: Form = Form {
    openings: &[CALLS, TAGS.opening],
    closings: &[TAGS.closing, CALLS_END],
    reasoning: &[("<think:opensource>", "</think:opensource>")],
    answer: &[],
    reader: |opening, tools| Reader::boxed(&SYNTAX, opening, tools),
    bare: None,
};

static SYNTAX: Syntax = Syntax {
    step: |look| {
        let text = look.text.trim_start();
        match start(text, look.ended, &[TAGS.opening]) {
            Start::With(opening) if look.first => {
                Step::Skip(length_before(look.text, text) + opening.len())
            }
            Start::Perhaps if look.first && !text.is_empty() => Step::More,
            _ => glm::step(look, &TAGS),
        }
    },
    name: glm::name_of_broken,
    ends: &[TAGS.closing],
    begins: &[TAGS.opening],
    keeps: &[],
};
