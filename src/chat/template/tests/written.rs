//! The calls that real templates write into a conversation's history, which
//! are those that their models were trained on: the form's reader reads them,
//! and its grammar lets them through.

use serde_json::json;

use super::real::{REFUSE, assistant, calling, loaded, real, told, weather};
use crate::chat::turn::{Turn, TurnReader};
use crate::chat::{ChatTemplate, Message};
use crate::engine::grammar::{CallFormat, CallGrammar, Constraint, ToolSchema, Vocabulary};
use crate::model::Tokenizer;

/// Templates that leave calls out of the history.
const UNWRITTEN: [&str; 3] = [
    "LFM2-8B-A1B",
    "LFM2.5-Instruct",
    "ibm-granite-granite-3.3-2B-Instruct",
];

/// Templates with a form of their own that is not known.
const UNREAD: [&str; 5] = [
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "Kimi-K3",
    "MiniMax-M3",
    "muse-glimmer",
    "upstage-Solar-Open-100B",
];

/// Templates whose calls are read and not bound.
pub(super) const UNBOUND: [&str; 0] = [];

const RESULT: &str = "It is warm.";

/// The turn with a call as the template writes it: what follows the prompt
/// that the turn answers, up to the call's result.
fn turn_with_a_call(template: &ChatTemplate) -> String {
    let call = calling("call00000", json!({"city": "Zürich", "days": 2}));
    let mut messages = vec![
        Message::System("Be brief.".to_owned()),
        Message::User("How warm is it?".to_owned()),
    ];
    let prompt = template.render(&messages, &[weather()]).unwrap();
    messages.push(assistant("", None, vec![call]));
    messages.push(told("call00000", RESULT));
    let whole = template.render(&messages, &[weather()]).unwrap();
    let same = prompt.bytes().zip(whole.bytes());
    let mut from = same.take_while(|(a, b)| a == b).count();
    if from < prompt.len() {
        // What the prompt has at its end, a turn of the past has not: the
        // marker in which they part is the turn's.
        from = prompt[..from].rfind('<').unwrap();
    }
    let (turn, _) = whole[from..].split_once(RESULT).unwrap();
    turn.to_owned()
}

/// Whether the call is read in `turn`, and no other.
fn is_read(template: &ChatTemplate, turn: &str) -> bool {
    let mut reader = TurnReader::new(template.tool_format(), "").with_tools(&[weather()]);
    let mut read = Turn::default();
    read.extend(reader.feed(turn));
    read.extend(reader.finish());
    let (_, _, calls) = read.into_parts();
    let call = calling("", json!({"city": "Zürich", "days": 2}));
    matches!(&calls[..], [one] if one.name == call.name && one.arguments == call.arguments)
}

/// Whether the grammar takes the call in `turn` for one and lets it through
/// to its end.
pub(super) fn is_bound(format: CallFormat, turn: &str) -> bool {
    let tokenizer = Tokenizer::load(&crate::demo::files()).unwrap();
    let tokenizer = tokenizer.inner();
    let ends = [2043, 2041];
    let vocabulary = Vocabulary::new(tokenizer, &ends, 2100, format).unwrap();
    let tool = ToolSchema {
        name: weather().name,
        parameters: weather().parameters,
    };
    let (grammar, lost) = CallGrammar::compile(&vocabulary, &[tool]).unwrap();
    assert!(lost.is_empty(), "{lost:?}");
    let mut constraint = Constraint::new(&grammar);
    let mut opened = false;
    for character in turn.chars() {
        let encoding = tokenizer.encode(character.to_string(), false).unwrap();
        for token in encoding.get_ids() {
            if opened && !constraint.is_inside_call() {
                return true;
            }
            if !constraint.accepts(*token) {
                // Where nothing but the turn's end may come, that has come.
                let mut may = constraint.mask().unwrap().tokens();
                return may.any(|token| ends.contains(&token));
            }
            constraint.advance(*token).unwrap();
            opened |= constraint.is_inside_call();
        }
    }
    opened && !constraint.is_inside_call()
}

#[test]
fn calls_that_templates_write_are_read_and_bound() {
    let (mut unwritten, mut unread, mut unbound) = (vec![], vec![], vec![]);
    for (name, text) in real() {
        if REFUSE.contains(&name.as_str()) && name != "google-gemma-2-2b-it" {
            continue;
        }
        let template = loaded(&text);
        let turn = turn_with_a_call(&template);
        if !turn.contains("days") {
            unwritten.push(name);
        } else if !is_read(&template, &turn) {
            unread.push(name);
        } else if !template.binding().is_some_and(|it| is_bound(it, &turn)) {
            unbound.push(name);
        }
    }
    assert_eq!(unwritten, UNWRITTEN);
    assert_eq!(unread, UNREAD);
    assert_eq!(unbound, UNBOUND);
}
