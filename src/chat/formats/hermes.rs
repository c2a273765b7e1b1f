//! `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as the Hermes and
//! Qwen models write it, SmolLM3 and Granite 4.

use super::json_block::Reader;
use super::{Form, THINK};

pub(super) const OPENING: &str = "<tool_call>";
pub(super) const CLOSING: &str = "</tool_call>";

pub(super) const FORM: Form = Form {
    openings: &[OPENING],
    closings: &[CLOSING],
    reasoning: &[THINK],
    answer: &[],
    reader: |opening, _| Box::new(Reader::new(opening, CLOSING)),
    bare: None,
};
