//! `<|tool_call|>[{"name": …, "arguments": {…}}]<|/tool_call|>`, as Phi-4-mini
//! writes it, and `functools[…]`, which it sometimes writes instead.

use super::bare::Bare;
use super::json_block::Reader;
use super::{Form, THINK};

pub(in crate::chat) const OPENING: &str = "<|tool_call|>";
pub(in crate::chat) const CLOSING: &str = "<|/tool_call|>";

pub(super) const FORM: Form = Form {
    openings: &[OPENING],
    closings: &[CLOSING],
    reasoning: &[THINK],
    answer: &[],
    reader: |opening, _| Box::new(Reader::new(opening, CLOSING)),
    bare: Some(Bare::Functools),
};
