//! DeepSeek's forms. V3 and R1 write the type of the tool, the name and a fence:
//!
//! ~~~text
//! <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>name
//! ```json
//! {…}
//! ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
//! ~~~
//!
//! V3.1 writes `name<｜tool▁sep｜>{…}` between the same markers. V3.2 and V4
//! write DSML, the tags of [`super::invoke`] with a prefix, between
//! `<｜DSML｜function_calls>` or `<｜DSML｜tool_calls>` and its end.

use super::invoke::{self, Tags};
use super::sections::{self, Markers};
use super::steps::{Reader, Syntax};
use super::{Form, THINK};

const CALLS: &str = "<｜tool▁calls▁begin｜>";
const CALLS_END: &str = "<｜tool▁calls▁end｜>";
const CALL: &str = "<｜tool▁call▁begin｜>";
const CALL_END: &str = "<｜tool▁call▁end｜>";
const MARKERS: Markers = Markers {
    call: CALL,
    separator: "<｜tool▁sep｜>",
    call_ends: &["```", CALL_END],
    end: CALLS_END,
    name: |head, between| {
        // Behind V3.1's separator the arguments follow at once.
        let name = between.split('`').next().unwrap_or_default().trim();
        let name = if name.is_empty() { head.trim() } else { name };
        name.to_owned()
    },
    id: |_| None,
};

const DSML: &str = "<｜DSML｜function_calls>";
const DSML_END: &str = "</｜DSML｜function_calls>";
const DSML_V4: &str = "<｜DSML｜tool_calls>";
const DSML_V4_END: &str = "</｜DSML｜tool_calls>";
const INVOKE: &str = "<｜DSML｜invoke ";
const TAGS: Tags = Tags {
    invoke: INVOKE,
    invoke_end: "</｜DSML｜invoke>",
    parameter: "<｜DSML｜parameter ",
    parameter_end: "</｜DSML｜parameter>",
    cdata: false,
    ends: &[DSML_END, DSML_V4_END],
};

pub(super) const FORM: Form = Form {
    openings: &[CALLS, CALL, DSML, DSML_V4, INVOKE],
    closings: &[CALL_END, CALLS_END, DSML_END, DSML_V4_END],
    reasoning: &[THINK],
    answer: &[],
    reader: |opening, tools| {
        let syntax = match opening {
            CALLS | CALL => &SECTIONS,
            _ => &TAGGED,
        };
        Reader::boxed(syntax, opening, tools)
    },
    bare: None,
};

static SECTIONS: Syntax = Syntax {
    step: |look| sections::step(look, &MARKERS),
    name: |text| sections::name_in(text, &MARKERS),
    ends: &[CALL_END, CALLS_END],
    begins: &[CALL, CALLS],
    keeps: &[CALL],
};

static TAGGED: Syntax = Syntax {
    step: |look| invoke::step(look, &TAGS),
    name: |text| invoke::name_in(text, &TAGS),
    ends: &[TAGS.invoke_end, DSML_END, DSML_V4_END],
    begins: &[INVOKE, DSML, DSML_V4],
    keeps: &[INVOKE],
};
