//! Calls as each family's own template writes them, and calls that are wrong.

/// Arguments that are JSON.
mod json;
/// Arguments that are texts between tags, or literals.
mod texts;

use super::*;

/// A family's format and texts of it.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) format: fn() -> CallFormat,
    /// The texts that are single tokens in the family's vocabularies.
    pub(super) special: &'static [&'static str],
    /// Turns that call `weather` and `now` in the right way.
    pub(super) right: &'static [&'static str],
    /// Turns that are right up to a byte that is not; that far, and the byte.
    pub(super) wrong: &'static [(&'static str, &'static str)],
    /// Turns in which there is no call.
    pub(super) free: &'static [&'static str],
}

/// All families.
pub(super) fn families() -> Vec<Family> {
    let mut families = json::families();
    families.extend(texts::tagged());
    families.extend(texts::literals());
    families
}

/// Words that reach across the edges of what the formats tell apart.
const WORDS: [&str; 34] = [
    "{\"",
    "\"}}",
    "\": \"",
    "\":",
    "}}",
    "}\n",
    "\n\n",
    "  ",
    ">\n",
    "\n</",
    "</",
    "\"name",
    "name",
    "},",
    "}]",
    "]<",
    "=\"",
    "\">",
    "weather",
    "now",
    "city",
    "days",
    "parameter",
    "value",
    "tool",
    "call",
    "json",
    "```",
    "true",
    "123",
    "4.5",
    "東京",
    "x</",
    "', ",
];

/// A model whose markers are single tokens, and one where they are not, with
/// some words more.
pub(super) fn models_of(family: &Family, words: &[&str]) -> [Model; 2] {
    let model = |special: &[&str]| {
        let more = words
            .iter()
            .filter(|word| !WORDS.contains(word) && !special.contains(word) && word.len() > 1);
        let words: Vec<&str> = WORDS.iter().chain(more).copied().collect();
        Model::of_bytes(&words, special, (family.format)())
    };
    [model(family.special), model(&[])]
}

fn tools() -> [(&'static str, Value); 2] {
    let weather = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 10},
            "unit": {"type": "string", "enum": ["C", "F"]},
        },
        "required": ["city"],
        "additionalProperties": false,
    });
    let now = json!({"type": "object", "properties": {}, "additionalProperties": false});
    [("weather", weather), ("now", now)]
}

#[test]
fn calls_as_the_templates_write_them_fit() {
    for family in families() {
        for model in models_of(&family, &[]) {
            let grammar = model.strict(&tools());
            for text in family.right {
                let mut constraint = Constraint::new(&grammar);
                let rest = model.write(&mut constraint, text);
                assert_eq!(rest, "", "{} {text}", family.name);
                assert!(!constraint.is_inside_call(), "{} {text}", family.name);
                assert!(constraint.accepts(model.end[0]), "{} {text}", family.name);
                // Bytes alone may be written too.
                let mut constraint = Constraint::new(&grammar);
                for byte in text.bytes() {
                    let token = u32::from(byte);
                    assert!(constraint.accepts(token), "{} {text}", family.name);
                    constraint.advance(token).unwrap();
                }
                assert!(!constraint.is_inside_call(), "{} {text}", family.name);
            }
        }
    }
}

#[test]
fn what_is_not_a_call_to_a_tool_is_refused() {
    for family in families() {
        for model in models_of(&family, &[]) {
            let grammar = model.strict(&tools());
            for (right, wrong) in family.wrong {
                let mut constraint = Constraint::new(&grammar);
                let rest = model.write(&mut constraint, right);
                assert_eq!(rest, "", "{} {right}", family.name);
                let rest = model.write(&mut constraint, wrong);
                assert_ne!(rest, "", "{} {right}{wrong}", family.name);
                let mask = constraint.mask().unwrap();
                assert!(mask.tokens().next().is_some(), "{} {right}", family.name);
            }
        }
    }
}

#[test]
fn all_else_is_free() {
    for family in families() {
        for model in models_of(&family, &[]) {
            let grammar = model.strict(&tools());
            for text in family.free {
                let mut constraint = Constraint::new(&grammar);
                assert_eq!(
                    model.write(&mut constraint, text),
                    "",
                    "{} {text}",
                    family.name
                );
                assert!(!constraint.is_inside_call(), "{} {text}", family.name);
                assert!(constraint.accepts(model.end[0]), "{} {text}", family.name);
                assert!(
                    constraint.accepts(u32::from(b'\xFE')),
                    "{} {text}",
                    family.name
                );
            }
        }
    }
}

#[test]
fn a_call_is_not_left_by_the_end_of_the_turn() {
    for family in families() {
        for model in models_of(&family, &[]) {
            let grammar = model.strict(&tools());
            for text in family.right {
                let mut constraint = Constraint::new(&grammar);
                for token in model.tokens(text) {
                    let end = constraint.accepts(model.end[0]);
                    assert_eq!(end, !constraint.is_inside_call(), "{} {text}", family.name);
                    constraint.advance(token).unwrap();
                }
            }
        }
    }
}
