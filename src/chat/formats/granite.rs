//! `<|tool_call|>[{"name": …, "arguments": {…}}]`, as Granite 3 writes it;
//! some of the family open with `<tool_call>`. Nothing closes the array but its
//! own bracket. An answer behind reasoning stands between `<response>` and
//! `</response>`. Granite 4 writes Hermes' form.

use super::json_block::Reader;
use super::{Form, THINK, hermes};

const OPENING: &str = "<|tool_call|>";
const CLOSING: &str = "<|/tool_call|>";

pub(super) const FORM: Form = Form {
    openings: &[OPENING, hermes::OPENING],
    closings: &[CLOSING, hermes::CLOSING],
    reasoning: &[THINK],
    answer: &[("<response>", "</response>")],
    reader: |opening, _| {
        let closing = match opening {
            hermes::OPENING => hermes::CLOSING,
            _ => CLOSING,
        };
        Box::new(Reader::new(opening, closing))
    },
    bare: None,
};
