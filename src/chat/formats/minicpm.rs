//! MiniCPM5's form: `<function name="…"><param name="key">value</param></function>`,
//! with `<![CDATA[…]]>` around values that have tags or line breaks. Nothing
//! stands around several calls.

use super::invoke::{self, Tags};
use super::steps::{Reader, Syntax};
use super::{Form, THINK};

const OPENING: &str = "<function name=";
const TAGS: Tags = Tags {
    invoke: "<function ",
    invoke_end: "</function>",
    parameter: "<param ",
    parameter_end: "</param>",
    cdata: true,
    ends: &[],
};

pub(super) const FORM: Form = Form {
    openings: &[OPENING],
    closings: &[TAGS.invoke_end],
    reasoning: &[THINK],
    answer: &[],
    reader: |opening, tools| Reader::boxed(&SYNTAX, opening, tools),
    bare: None,
};

static SYNTAX: Syntax = Syntax {
    step: |look| invoke::step(look, &TAGS),
    name: |text| invoke::name_in(text, &TAGS),
    ends: &[TAGS.invoke_end],
    begins: &[TAGS.invoke],
    keeps: &[OPENING],
};
