//! Llama 3's form: `{"name": …, "parameters": {…}}` as the turn, several with
//! `;` between them, with `<|python_tag|>` before them or without.

use super::bare::{Bare, Reader};
use super::{Form, THINK};

pub(super) const FORM: Form = Form {
    openings: &["<|python_tag|>"],
    closings: &[],
    reasoning: &[THINK],
    answer: &[],
    reader: |_, _| Box::new(Reader::new(Bare::Llama, true)),
    bare: Some(Bare::Llama),
};
