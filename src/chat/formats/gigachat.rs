//! `<|function_call|>{"name": …, "arguments": {…}}`, as GigaChat 3.1 writes it,
//! and the same as a message of the role `function call`, as GigaChat 3 does.
//! One call a turn, which the marker between messages ends.

use super::json_block::Reader;
use super::{Form, THINK};

const CLOSING: &str = "<|message_sep|>";

pub(super) const FORM: Form = Form {
    openings: &[
        "<|function_call|>",
        "<|message_sep|>\n\nfunction call<|role_sep|>",
        "function call<|role_sep|>",
    ],
    // It also begins the next message, which may be another call.
    closings: &[],
    reasoning: &[THINK],
    answer: &[],
    reader: |opening, _| Box::new(Reader::new(opening, CLOSING)),
    bare: None,
};
