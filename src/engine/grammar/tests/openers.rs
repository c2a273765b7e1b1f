//! Openers, whole, in pieces, and what only looks like one.

use super::*;

const CALL: &str = "\n{\"name\": \"read\", \"arguments\": {\"path\": \"a\"}}\n</tool_call>";

fn grammar(model: &Model) -> CallGrammar {
    let schema = json!({
        "type": "object",
        "properties": {"path": {"type": "string"}},
        "required": ["path"],
        "additionalProperties": false,
    });
    model.strict(&[("read", schema)])
}

#[test]
fn text_outside_of_calls_is_free() {
    for model in models() {
        let grammar = grammar(model);
        for text in [
            "Hello {\"name\": 1} </tool_call>",
            "<tool_calls> < tool_call> <tool_ call> <tool_call",
            "</tool_call><tool_response>",
            "<think>a <tool_call> in thought</think> and <tool_calls>",
        ] {
            let mut constraint = Constraint::new(&grammar);
            assert_eq!(model.write(&mut constraint, text), "", "{text}");
            assert!(!constraint.is_inside_call(), "{text}");
            for end in &model.end {
                assert!(constraint.accepts(*end), "{text}");
            }
        }
    }
}

#[test]
fn several_calls_in_a_turn_are_each_bound() {
    for model in models() {
        let grammar = grammar(model);
        let mut constraint = Constraint::new(&grammar);
        for before in ["First", " then\n", ""] {
            let text = format!("{before}<tool_call>{CALL}");
            assert_eq!(model.write(&mut constraint, &text), "");
            assert!(!constraint.is_inside_call());
        }
        assert_eq!(model.write(&mut constraint, "<tool_call>x"), "x");
        assert!(constraint.is_inside_call());
    }
}

#[test]
fn reasoning_is_free_and_ends_with_its_marker() {
    for model in models() {
        let grammar = grammar(model);
        let mut constraint = Constraint::in_reasoning(&grammar);
        assert_eq!(model.write(&mut constraint, "<tool_call>x</think>"), "");
        assert_eq!(model.write(&mut constraint, "<tool_call>x"), "x");
    }
}

#[test]
fn an_opener_in_pieces_binds_with_its_last() {
    let model = plain();
    let grammar = grammar(model);
    for pieces in [
        &["<", "tool_call", ">"][..],
        &["<tool", "_call", ">"],
        &["<", "t", "o", "o", "l", "_call", ">\n"],
        &[" <", "tool_call", ">{\""],
    ] {
        let mut constraint = Constraint::new(&grammar);
        for (at, piece) in pieces.iter().enumerate() {
            let token = model.token(piece);
            assert!(constraint.accepts(token), "{pieces:?}");
            constraint.advance(token).unwrap();
            assert_eq!(constraint.is_inside_call(), at + 1 == pieces.len());
        }
        assert!(!constraint.accepts(model.token("x")), "{pieces:?}");
        assert!(!constraint.accepts(model.end[0]), "{pieces:?}");
    }
}

#[test]
fn what_an_opener_carries_along_must_fit() {
    let model = plain();
    let grammar = grammar(model);
    let mut constraint = Constraint::new(&grammar);
    assert_eq!(model.write(&mut constraint, "<tool_call"), "");
    let wrong = model.token(">a");
    assert!(!constraint.accepts(wrong));
    assert_eq!(
        constraint.advance(wrong),
        Err(ConstraintError::Refused(wrong))
    );
    let mask = constraint.mask().unwrap();
    assert!(!mask.allows(wrong));
    // All else is still free text, the end of the turn included.
    assert!(mask.allows(model.token(">{\"")) && mask.allows(model.end[0]));
    assert_eq!(mask.tokens().count(), model.vocabulary.size() - 1);
    let right = model.token(">{\"");
    assert!(constraint.accepts(right));
    constraint.advance(right).unwrap();
    let rest = &CALL.replace("\n{\"", "");
    assert_eq!(model.write(&mut constraint, rest), "");
    assert!(!constraint.is_inside_call());
}

#[test]
fn a_token_may_close_a_call_and_go_on() {
    let model = plain();
    let grammar = grammar(model);
    let mut constraint = Constraint::new(&grammar);
    let call = format!("<tool_call>{}", CALL.strip_suffix('>').unwrap());
    assert_eq!(model.write(&mut constraint, &call), "");
    for token in [">\n", ">a", ">{\""] {
        assert!(constraint.accepts(model.token(token)), "{token:?}");
    }
    constraint.advance(model.token(">\n")).unwrap();
    assert!(!constraint.is_inside_call());
}
