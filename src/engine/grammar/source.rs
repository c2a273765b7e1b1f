//! The grammar of one tool's arguments and the end of the call, as llguidance
//! reads it.
//!
//! Knows nothing of tokens.

use std::collections::HashSet;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};

use super::format::{After, Form};
use super::literals::{self, Syntax};
use super::tagged;
use super::vocabulary::Vocabulary;
use super::{CallFormat, MAX_BLANKS};

/// A grammar's source.
pub(super) struct Source {
    pub(super) grammar: TopLevelGrammar,
    /// The hashes of the keys whose values are plain text.
    pub(super) plain: HashSet<u64>,
    /// What of the schema it does not say.
    pub(super) lost: Vec<String>,
}

/// The grammar of arguments by `schema`, which is an object's. If `lenient`,
/// what it cannot say is left out.
///
/// # Errors
/// What it cannot say.
pub(super) fn source(
    vocabulary: &Vocabulary,
    schema: Value,
    lenient: bool,
) -> Result<Source, String> {
    let format = vocabulary.format();
    match &format.form {
        Form::Json { member, id } => json_source(format, *member, *id, schema, lenient),
        Form::Tagged(tags) => tagged::source(vocabulary, tags, &schema, lenient),
        Form::Python => literals::source(vocabulary, &Syntax { mark: None }, &schema, lenient),
        Form::Marked { mark } => {
            let mark = Some(mark.as_str());
            literals::source(vocabulary, &Syntax { mark }, &schema, lenient)
        }
    }
}

/// Whitespace that may stand between two parts of a call.
pub(super) fn blanks() -> String {
    format!(r"[ \t\r\n]{{1,{MAX_BLANKS}}}")
}

/// What stands behind the arguments, each part with a space before it.
pub(super) fn tail(format: &CallFormat) -> String {
    let mut tail = String::new();
    if !format.end.is_empty() {
        tail = format!(" {}", quoted(&format.end));
    }
    if format.after != After::Turn {
        let next = [&format.closer, &format.separator].into_iter();
        let next = next.filter(|text| !text.is_empty());
        let next: Vec<String> = next.map(|text| quoted(text)).collect();
        if !next.is_empty() {
            tail += &format!(" ({})", next.join(" | "));
        }
    }
    tail
}

/// A text as the grammar writes it.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// JSON by a schema.
pub(super) fn json_grammar(
    name: &str,
    mut schema: Value,
    lenient: bool,
) -> Result<GrammarWithLexer, String> {
    let Some(object) = schema.as_object_mut() else {
        return Err("the schema is not an object".to_owned());
    };
    // The schema's own options, if it brought any, are not its business.
    let options = json!({
        "whitespace_pattern": blanks(),
        "lenient": lenient,
        "json_allow_general_unicode_escapes": true,
    });
    object.insert("x-guidance".to_owned(), options);
    let mut grammar = GrammarWithLexer::from_json_schema(schema);
    grammar.name = Some(name.to_owned());
    Ok(grammar)
}

fn json_source(
    format: &CallFormat,
    member: bool,
    id: bool,
    schema: Value,
    lenient: bool,
) -> Result<Source, String> {
    let id = match id {
        true => " (\",\" \"\\\"id\\\"\" \":\" /\"[A-Za-z0-9]{9}\"/)?",
        false => "",
    };
    let brace = if member { " \"}\"" } else { "" };
    let call = format!(
        "%llguidance {{\"ignore_once\": true, \"allow_initial_skip\": true}}\n\
         start: @arguments{id}{brace}{}\n\
         %ignore /{}/\n",
        tail(format),
        blanks()
    );
    let arguments = json_grammar("arguments", schema, lenient)?;
    Ok(Source {
        grammar: TopLevelGrammar {
            grammars: vec![GrammarWithLexer::from_lark(call), arguments],
            max_tokens: None,
        },
        plain: HashSet::new(),
        lost: Vec::new(),
    })
}
