//! Kimi K2's form: between `<|tool_calls_section_begin|>` and
//! `<|tool_calls_section_end|>` any number of
//! `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`.
//! What stands for the name is the call's id, which has the name in it.

use super::sections::{self, Markers};
use super::steps::{Reader, Syntax};
use super::{Form, THINK};

const SECTION: &str = "<|tool_calls_section_begin|>";
const SECTION_END: &str = "<|tool_calls_section_end|>";
const CALL: &str = "<|tool_call_begin|>";
const CALL_END: &str = "<|tool_call_end|>";
const MARKERS: Markers = Markers {
    call: CALL,
    separator: "<|tool_call_argument_begin|>",
    call_ends: &[CALL_END],
    end: SECTION_END,
    name: |id, _| name_of(id),
    id: |id| Some(id.trim().to_owned()),
};

pub(super) const FORM: Form = Form {
    openings: &[SECTION, CALL],
    closings: &[CALL_END, SECTION_END],
    reasoning: &[THINK],
    answer: &[],
    reader: |opening, tools| Reader::boxed(&SYNTAX, opening, tools),
    bare: None,
};

static SYNTAX: Syntax = Syntax {
    step: |look| sections::step(look, &MARKERS),
    name: |text| sections::name_in(text, &MARKERS),
    ends: &[CALL_END, SECTION_END],
    begins: &[CALL, SECTION],
    keeps: &[CALL],
};

/// The name in `functions.name:0`.
fn name_of(id: &str) -> String {
    let id = id.trim();
    let id = id.strip_prefix("functions.").unwrap_or(id);
    let name = match id.rsplit_once(':') {
        Some((name, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => id,
    };
    name.to_owned()
}
