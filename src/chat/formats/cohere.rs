//! `<|START_ACTION|>[{"tool_call_id": "0", "tool_name": …, "parameters": {…}}]<|END_ACTION|>`,
//! as Cohere's Command R7B, Command A and their successors write it, behind a
//! plan between markers of reasoning. Answers stand between markers too.
//!
//! The ids are numbers that begin anew with each conversation: its templates
//! count the calls themselves and show no ids of ours.

use super::json_block::Reader;
use super::{Form, THINK};

const OPENING: &str = "<|START_ACTION|>";
const CLOSING: &str = "<|END_ACTION|>";

pub(super) const FORM: Form = Form {
    openings: &[OPENING],
    closings: &[CLOSING],
    reasoning: &[("<|START_THINKING|>", "<|END_THINKING|>"), THINK],
    answer: &[
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        ("<|START_TEXT|>", "<|END_TEXT|>"),
    ],
    reader: |opening, _| Box::new(Reader::new(opening, CLOSING)),
    bare: None,
};
