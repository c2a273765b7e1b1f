//! Turns read whole, and read again cut at every character.

#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};

use super::*;
use crate::chat::Arguments;

type Parts = (String, Option<String>, Vec<ParsedCall>);

fn read(prompt: &str, pieces: &[&str]) -> Parts {
    let mut reader = TurnReader::new(ToolFormat::Hermes, prompt);
    let mut turn = Turn::default();
    for piece in pieces {
        turn.extend(reader.feed(piece));
    }
    turn.extend(reader.finish());
    turn.into_parts()
}

/// What `text` comes to, having checked that it does not matter how it is cut.
fn turn_after(prompt: &str, text: &str) -> Parts {
    let whole = read(prompt, &[text]);
    for (at, _) in text.char_indices() {
        assert_eq!(
            read(prompt, &[&text[..at], &text[at..]]),
            whole,
            "cut at {at}: {text:?}"
        );
    }
    let characters: Vec<String> = text.chars().map(String::from).collect();
    let characters: Vec<&str> = characters.iter().map(String::as_str).collect();
    assert_eq!(read(prompt, &characters), whole, "one by one: {text:?}");
    whole
}

fn turn(text: &str) -> Parts {
    turn_after("<|im_start|>assistant\n", text)
}

fn good(name: &str, arguments: Json) -> ParsedCall {
    ParsedCall {
        name: name.to_owned(),
        arguments: Arguments::Object(arguments.as_object().unwrap().clone()),
        id: None,
    }
}

/// The calls' names, texts and reasons; for calls that are all malformed.
fn malformed(text: &str) -> Vec<(String, String, String)> {
    let (_, _, calls) = turn(text);
    calls
        .into_iter()
        .map(|call| match call.arguments {
            Arguments::Malformed { text, reason } => (call.name, text, reason),
            Arguments::Object(_) => panic!("{text:?} made a good call"),
        })
        .collect()
}

#[test]
fn text_without_markers_is_content() {
    assert_eq!(
        turn("  Hello, <b>wörld</b> < 3 \n"),
        ("Hello, <b>wörld</b> < 3".into(), None, vec![])
    );
    assert_eq!(turn(""), (String::new(), None, vec![]));
    assert_eq!(turn("a <tool_c"), ("a <tool_c".into(), None, vec![]));
    assert_eq!(
        turn("a </tool_call> b"),
        ("a </tool_call> b".into(), None, vec![])
    );
}

#[test]
fn calls_are_read_in_order_with_the_text_around_them() {
    let (content, reasoning, calls) = turn(
        "First.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>\nThen \
         <tool_call>{\"name\": \"b\", \"parameters\": {}}</tool_call> done",
    );
    assert_eq!(content, "First.\n\nThen  done");
    assert_eq!(reasoning, None);
    assert_eq!(calls, [good("a", json!({"x": 1})), good("b", json!({}))]);
}

#[test]
fn markers_and_brackets_inside_strings_are_text() {
    let arguments = json!({
        "a": "</tool_call> <tool_call> <think> </think>",
        "b": "}]{[ \" \\ \\\" 'x' {\"n\": \"</tool_call>\"}",
        "c": ["日本 🦀", {"d": "ü\n"}],
    });
    let text =
        format!("<tool_call>{{\"name\": \"write\", \"arguments\": {arguments}}}</tool_call>after");
    assert_eq!(
        turn(&text),
        ("after".into(), None, vec![good("write", arguments)])
    );
}

#[test]
fn a_call_whose_json_is_complete_counts() {
    let json = r#"{"name": "a", "arguments": {}}"#;
    for tail in [
        "",
        "\n",
        "</tool",
        "\n</tool_call>",
        "</tool_call></tool_call>\n",
    ] {
        assert_eq!(
            turn(&format!("<tool_call>{json}{tail}")),
            (String::new(), None, vec![good("a", json!({}))]),
            "{tail:?}"
        );
    }
    let (content, _, calls) = turn(&format!("<tool_call>{json}\n<tool_call>{json}\nBye"));
    assert_eq!((content.as_str(), calls.len()), ("Bye", 2));
}

#[test]
fn one_block_may_hold_several_calls() {
    let a = r#"{"name": "a", "arguments": {}}"#;
    let b = r#"{"name": "b", "arguments": {}}"#;
    let two = vec![good("a", json!({})), good("b", json!({}))];
    for block in [
        format!("[{a}, {b}]"),
        format!("{a}\n{b}"),
        format!("\n{a}{b}\n"),
    ] {
        let text = format!("<tool_call>{block}</tool_call>");
        assert_eq!(turn(&text), (String::new(), None, two.clone()), "{block}");
    }
}

#[test]
fn arguments_may_be_json_in_a_string_and_the_call_openais() {
    let (_, _, calls) = turn(
        "<tool_call>{\"name\": \"a\", \"arguments\": \"{\\\"x\\\": \\\"é</tool_call>\\\"}\"}</tool_call>\
         <tool_call>{\"type\": \"function\", \"function\": {\"name\": \"b\", \"arguments\": {}}}</tool_call>",
    );
    assert_eq!(
        calls,
        [
            good("a", json!({"x": "é</tool_call>"})),
            good("b", json!({}))
        ]
    );
}

#[test]
fn a_call_cut_short_is_malformed_and_keeps_its_name() {
    let text = "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"a\": \"b </tool_call> c";
    let (content, _, _) = turn(text);
    assert_eq!(content, "");
    let calls = malformed(text);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].0, "get");
    assert_eq!(calls[0].1, text.trim_start_matches("<tool_call>\n"));
    assert!(calls[0].2.contains("before it is complete"));
    let names = |text: &str| malformed(text)[0].0.clone();
    assert_eq!(
        names("<tool_call>{\"arguments\": {\"name\": \"inner\"}, \"name\": \"outer\", "),
        "outer"
    );
    assert_eq!(names("<tool_call>{\"arguments\": {\"name\": \"inner\""), "");
    assert_eq!(names("<tool_call>{\"name\": 5, \"x\": \"y\", "), "");
    assert_eq!(names("<tool_call>{\"name\": \"ge"), "");
    assert_eq!(names("<tool_call>"), "");
}

#[test]
fn a_call_that_is_not_as_it_should_be_is_malformed_with_a_reason() {
    let cases = [
        (r#"{"name": "a"}"#, "a", "no \"arguments\""),
        (
            r#"{"name": "a", "arguments": [1]}"#,
            "a",
            "not a JSON object",
        ),
        (
            r#"{"name": "a", "arguments": null}"#,
            "a",
            "not a JSON object",
        ),
        (
            r#"{"name": "a", "arguments": "x"}"#,
            "a",
            "text that is not",
        ),
        (r#"{"arguments": {}}"#, "", "no \"name\""),
        (
            r#"{"name": "a", "arguments": {"x": 1,}}"#,
            "a",
            "not valid JSON",
        ),
        (
            r#"{"name": "a", "arguments": {"x": 'y'}}"#,
            "a",
            "not valid JSON",
        ),
        (r#"{"name": "a", "arguments": {]}"#, "a", "not valid JSON"),
        ("[]", "", "not a JSON object"),
        ("get(x)", "", "not a JSON object"),
        ("", "", "not a JSON object"),
    ];
    for (call, name, reason) in cases {
        let calls = malformed(&format!("<tool_call>\n{call}\n</tool_call>"));
        assert_eq!(calls.len(), 1, "{call}");
        assert_eq!((calls[0].0.as_str(), calls[0].1.as_str()), (name, call));
        assert!(calls[0].2.contains(reason), "{call}: {}", calls[0].2);
    }
}

#[test]
fn a_call_with_broken_quotes_does_not_swallow_the_next() {
    let text = "<tool_call>{\"name\": \"a\", \"arguments\": {\"code\": \"print(\"hi)\"}}</tool_call>\n\
                <tool_call>{\"name\": \"b\", \"arguments\": {}}</tool_call>";
    let (content, _, calls) = turn(text);
    assert_eq!(content, "");
    assert_eq!(calls.len(), 2);
    assert!(matches!(calls[0].arguments, Arguments::Malformed { .. }));
    assert_eq!(calls[0].name, "a");
    assert_eq!(calls[1], good("b", json!({})));
}

#[test]
fn reasoning_is_kept_apart() {
    let thought = |text: &str| Some(text.to_owned());
    assert_eq!(
        turn("<think>\nhm\n</think>\n\nYes."),
        ("Yes.".into(), thought("hm"), vec![])
    );
    assert_eq!(
        turn("hm\n</think>\n\nYes."),
        ("Yes.".into(), thought("hm"), vec![])
    );
    assert_eq!(
        turn("<think>hm <b>"),
        (String::new(), thought("hm <b>"), vec![])
    );
    assert_eq!(
        turn("<think>\n\n</think>\n\nYes."),
        ("Yes.".into(), None, vec![])
    );
    assert_eq!(
        turn("A<think>b</think>C<think>d"),
        ("AC".into(), thought("bd"), vec![])
    );
    assert_eq!(
        turn("<think>a</think>b</think>c"),
        ("bc".into(), thought("a"), vec![])
    );
    assert_eq!(
        turn("a</think>b</think>c"),
        ("bc".into(), thought("a"), vec![])
    );
}

#[test]
fn a_prompt_may_have_opened_the_reasoning() {
    let after = |text| turn_after("<|im_start|>assistant\n<think>\n", text);
    let thought = |text: &str| Some(text.to_owned());
    assert_eq!(
        after("hm\n</think>\n\nYes."),
        ("Yes.".into(), thought("hm"), vec![])
    );
    assert_eq!(
        after("<think>hm</think>Yes."),
        ("Yes.".into(), thought("hm"), vec![])
    );
    assert_eq!(
        after("hm, for ever"),
        (String::new(), thought("hm, for ever"), vec![])
    );
    let closed = turn_after("assistant\n<think>\n\n</think>\n\n", "Yes.");
    assert_eq!(closed, ("Yes.".into(), None, vec![]));
}

#[test]
fn calls_inside_reasoning_are_not_calls() {
    let call = r#"<tool_call>{"name": "a", "arguments": {}}</tool_call>"#;
    let (content, reasoning, calls) = turn(&format!("<think>I could {call} now</think>{call}Well"));
    assert_eq!((content.as_str(), calls.len()), ("Well", 1));
    assert_eq!(reasoning.unwrap(), format!("I could {call} now"));
    let (content, reasoning, calls) = turn(&format!("I could {call}\n now</think>Well"));
    assert_eq!((content.as_str(), calls.len()), ("Well", 0));
    assert_eq!(reasoning.unwrap(), format!("I could {call}\n now"));
}

/// Random turns of markers and their like: cutting never matters, and every
/// letter that is given out was fed.
#[test]
fn random_turns_read_the_same_however_they_are_cut() {
    const PARTS: [&str; 20] = [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "\n",
        " ",
        "text",
        "é🦀",
        "<",
        "</",
        "<tool_",
        "{\"name\": \"a\", \"arguments\": {}}",
        "{\"name\": \"a\", \"arguments\": {\"x\": \"",
        "\"}}",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\",
    ];
    let mut rng = StdRng::seed_from_u64(11);
    for _ in 0..3000 {
        let parts = rng.random_range(0..12);
        let text: String = (0..parts)
            .filter_map(|_| PARTS.choose(&mut rng).copied())
            .collect();
        for prompt in ["", "<think>\n"] {
            turn_after(prompt, &text);
        }
    }
}
