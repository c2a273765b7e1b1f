//! MiniMax M2's form: `<invoke name="…">` with a `<parameter name="…">` for each
//! argument, between `<minimax:tool_call>` and `</minimax:tool_call>`.

use super::invoke::{self, Tags};
use super::steps::{Reader, Syntax};
use super::{Form, THINK};

const OPENING: &str = "<minimax:tool_call>";
const CLOSING: &str = "</minimax:tool_call>";
const TAGS: Tags = Tags {
    invoke: "<invoke ",
    invoke_end: "</invoke>",
    parameter: "<parameter ",
    parameter_end: "</parameter>",
    cdata: false,
    ends: &[CLOSING],
};

pub(super) const FORM: Form = Form {
    openings: &[OPENING],
    closings: &[CLOSING],
    reasoning: &[THINK],
    answer: &[],
    reader: |opening, tools| Reader::boxed(&SYNTAX, opening, tools),
    bare: None,
};

static SYNTAX: Syntax = Syntax {
    step: |look| invoke::step(look, &TAGS),
    name: |text| invoke::name_in(text, &TAGS),
    ends: &[TAGS.invoke_end, CLOSING],
    begins: &[TAGS.invoke, OPENING],
    keeps: &[],
};
