//! Every form read whole and cut at every character: what holds for all of them
//! here, what is a form's own in the files beside.

#![allow(clippy::unwrap_used)]

mod bound;
mod choice;
mod forms;
mod harmony;
mod tagged;
mod ways;
mod written;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value as Json, json};

use super::{ParsedCall, ToolFormat};
use crate::chat::turn::{Turn, TurnReader};
use crate::chat::{Arguments, ToolSpec};
use ways::{Call, WAYS, Way};

type Parts = (String, Option<String>, Vec<ParsedCall>);

/// How a turn is read.
#[derive(Clone, Copy)]
struct Reading<'a> {
    format: ToolFormat,
    prompt: &'a str,
    tools: Option<&'a [ToolSpec]>,
}

impl Reading<'_> {
    /// What the pieces come to, without the calls' ids.
    fn pieces(&self, pieces: &[&str]) -> Parts {
        without_ids(self.with_ids(pieces))
    }

    fn with_ids(&self, pieces: &[&str]) -> Parts {
        let mut reader = TurnReader::new(self.format, self.prompt);
        if let Some(tools) = self.tools {
            reader = reader.with_tools(tools);
        }
        let mut turn = Turn::default();
        for piece in pieces {
            turn.extend(reader.feed(piece));
        }
        turn.extend(reader.finish());
        turn.into_parts()
    }

    /// What `text` comes to, having checked that it does not matter how it is
    /// cut.
    fn turn(&self, text: &str) -> Parts {
        let whole = self.with_ids(&[text]);
        for (at, _) in text.char_indices() {
            let halves = self.with_ids(&[&text[..at], &text[at..]]);
            assert_eq!(halves, whole, "cut at {at}: {text:?}");
        }
        let characters: Vec<String> = text.chars().map(String::from).collect();
        let characters: Vec<&str> = characters.iter().map(String::as_str).collect();
        assert_eq!(self.with_ids(&characters), whole, "one by one: {text:?}");
        without_ids(whole)
    }
}

fn without_ids((content, reasoning, mut calls): Parts) -> Parts {
    for call in &mut calls {
        call.id = None;
    }
    (content, reasoning, calls)
}

fn reading(format: ToolFormat) -> Reading<'static> {
    Reading {
        format,
        prompt: "assistant\n",
        tools: None,
    }
}

/// What `text` comes to where the tools are not known.
fn turn(format: ToolFormat, text: &str) -> Parts {
    reading(format).turn(text)
}

fn good(name: &str, arguments: Json) -> ParsedCall {
    ParsedCall {
        name: name.to_owned(),
        arguments: Arguments::Object(map(arguments)),
        id: None,
    }
}

fn map(value: Json) -> Map<String, Json> {
    value.as_object().unwrap().clone()
}

/// The calls of a text that is nothing else.
fn calls(format: ToolFormat, text: &str) -> Vec<ParsedCall> {
    let (content, reasoning, calls) = turn(format, text);
    assert_eq!((content.as_str(), reasoning), ("", None), "{text}");
    calls
}

fn a() -> ParsedCall {
    good("a", json!({"x": 1}))
}

fn b() -> ParsedCall {
    good("b", json!({}))
}

/// The names of calls that are all malformed.
fn malformed(calls: &[ParsedCall]) -> Vec<&str> {
    let names = calls.iter().map(|call| match &call.arguments {
        Arguments::Malformed { .. } => call.name.as_str(),
        Arguments::Object(_) => panic!("a good call: {call:?}"),
    });
    names.collect()
}

/// A tool whose arguments are of every type.
fn tools() -> Vec<ToolSpec> {
    let parameters = json!({
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "number": {"type": "integer"},
            "flag": {"type": "boolean"},
            "list": {"type": "array"},
            "object": {"type": "object"},
        },
    });
    let tool = |name: &str| ToolSpec {
        name: name.to_owned(),
        description: String::new(),
        parameters: parameters.clone(),
    };
    vec![tool("get_it"), tool("put-it")]
}

fn known<'a>(way: &Way, tools: &'a [ToolSpec]) -> Reading<'a> {
    Reading {
        tools: Some(tools),
        ..reading(way.format)
    }
}

#[test]
fn calls_of_every_form_are_read_with_the_text_around_them() {
    let tools = tools();
    let first = map(json!({
        "text": "naïve \"quotes\" 'and' \\ 日本 🦀\n  {\"a\": [1, \"}\"]} <b> & ```",
        "number": 7,
        "flag": true,
        "list": [1, "two", [false, null]],
        "object": {"deep": {"er": ["x", 1.5]}},
    }));
    let second = map(json!({"text": "7"}));
    let none = Map::new();
    let calls: [Call<'_>; 3] = [("get_it", &first), ("put-it", &second), ("get_it", &none)];
    for way in WAYS {
        for calls in [&calls[..1], &calls[1..2], &calls[2..], &calls[..2], &calls] {
            let written = (way.write)(calls);
            let expected: Vec<ParsedCall> = calls
                .iter()
                .map(|(name, args)| good(name, Json::Object((*args).clone())))
                .collect();
            let (before, after) = way.around;
            let before = if before { "Let me see.\n" } else { "" };
            let after = if after { "\nDone" } else { "\n" };
            for text in [written.clone(), format!("{before}\n{written}{after}")] {
                let (content, reasoning, calls) = known(&way, &tools).turn(&text);
                assert_eq!(calls, expected, "{}: {text}", way.name);
                assert_eq!(reasoning, None, "{}", way.name);
                let words: Vec<&str> = content.split_whitespace().collect();
                let around = text.len() > written.len();
                let expected = if around {
                    format!("{before}{after}")
                } else {
                    String::new()
                };
                let expected: Vec<&str> = expected.split_whitespace().collect();
                assert_eq!(words, expected, "{}: {text}", way.name);
            }
        }
    }
}

#[test]
fn markers_in_a_text_argument_are_text() {
    let tools = tools();
    for way in WAYS {
        for closing in way.closings.iter().chain(&["<think>", "</think>"]) {
            let arguments = map(json!({"text": format!("a {closing} b"), "number": 1}));
            let calls = [("get_it", &arguments)];
            let text = (way.write)(&calls);
            let parts = known(&way, &tools).turn(&text);
            let call = good("get_it", Json::Object(arguments.clone()));
            assert_eq!(
                parts,
                (String::new(), None, vec![call]),
                "{}: {text}",
                way.name
            );
        }
    }
}

#[test]
fn a_call_that_is_cut_short_is_never_lost_and_never_wrong() {
    let tools = tools();
    let first = map(json!({"text": "a \"b\" }", "list": [1, {"c": "d"}]}));
    let second = map(json!({"text": "second", "number": 12}));
    let calls: [Call<'_>; 2] = [("get_it", &first), ("put-it", &second)];
    for way in WAYS {
        let full = (way.write)(&calls);
        for (at, _) in full.char_indices() {
            let text = &full[..at];
            let (content, _, read) = known(&way, &tools).pieces(&[text]);
            let context = format!("{}: {text:?} gave {read:?}, {content:?}", way.name);
            if read.is_empty() {
                assert_eq!(content, text.trim(), "{context}");
                let opened = text.starts_with(way.opening) && text.contains("get_it\"");
                let opened = opened || (way.around.0 && text.starts_with(way.opening));
                // JSON that nothing opens is a call when it has arguments.
                let bare = !way.around.0
                    && !text.contains("\"arguments\"")
                    && !text.contains("\"parameters\"");
                assert!(!opened || bare, "{context}");
            } else {
                // At most the start of the next one's opening, or of what
                // closes them all, which is a character longer.
                assert!(text.trim_end().ends_with(&content), "{context}");
                assert!(content.len() <= way.opening.len(), "{context}");
            }
            assert!(read.len() <= 2, "{context}");
            for (call, (name, arguments)) in read.iter().zip(&calls) {
                match &call.arguments {
                    Arguments::Object(read) => {
                        assert_eq!((call.name.as_str(), read), (*name, *arguments), "{context}");
                    }
                    Arguments::Malformed { reason, .. } => {
                        assert!(call.name.is_empty() || call.name == *name, "{context}");
                        assert!(!reason.is_empty(), "{context}");
                    }
                }
            }
            // Well within the arguments the name is known.
            if text.ends_with("a \"b") || text.ends_with("a \\\"b") {
                assert_eq!(malformed(&read), ["get_it"], "{context}");
            }
        }
        let one = (way.write)(&calls[..1]);
        let list = one.find("list").unwrap();
        let end = list + one[list..].find('c').unwrap();
        let cut = &one[..end];
        let (_, _, read) = known(&way, &tools).turn(cut);
        assert_eq!(malformed(&read), ["get_it"], "{}: {cut}", way.name);
    }
}

#[test]
fn reasoning_comes_before_calls_and_calls_in_it_are_none() {
    let tools = tools();
    let arguments = map(json!({"text": "x"}));
    for way in WAYS {
        let call = (way.write)(&[("get_it", &arguments)]);
        let expected = vec![good("get_it", Json::Object(arguments.clone()))];
        for (opening, closing) in way.format.reasoning() {
            let thought = format!("I could {call} now");
            let text = format!("{opening}\n{thought}\n{closing}\n\n{call}");
            let parts = known(&way, &tools).turn(&text);
            let wanted = (String::new(), Some(thought.clone()), expected.clone());
            assert_eq!(parts, wanted, "{}: {text}", way.name);

            let opened = format!("assistant\n{opening}\n");
            let opened = Reading {
                prompt: &opened,
                ..known(&way, &tools)
            };
            let text = format!("{thought}\n{closing}\n\n{call}");
            assert_eq!(opened.turn(&text), wanted, "{}: {text}", way.name);

            let closed = format!("assistant\n{opening}\n\n{closing}\n\n");
            let closed = Reading {
                prompt: &closed,
                ..known(&way, &tools)
            };
            let parts = closed.turn(&call);
            assert_eq!(
                parts,
                (String::new(), None, expected.clone()),
                "{}",
                way.name
            );
        }
        let text = format!("I could {call} now</think>\n{call}");
        if way.format.reasoning()[0].1 == "</think>" {
            let (content, reasoning, calls) = known(&way, &tools).turn(&text);
            assert_eq!(
                (content.as_str(), &calls),
                ("", &expected),
                "{}: {text}",
                way.name
            );
            assert_eq!(
                reasoning.unwrap(),
                format!("I could {call} now"),
                "{}",
                way.name
            );
        }
    }
}

#[test]
fn text_without_calls_is_content() {
    for way in WAYS {
        for text in [
            "Hello, <b>wörld</b> {x} [1] `y` < 3",
            "",
            "call: me(1)",
            "7",
        ] {
            let parts = known(&way, &tools()).turn(text);
            assert_eq!(parts, (text.to_owned(), None, vec![]), "{}", way.name);
        }
    }
}

/// Random turns of a form's markers and their like: cutting never matters.
#[test]
fn random_turns_read_the_same_however_they_are_cut() {
    const PARTS: [&str; 12] = [
        "\n", " ", "text", "é🦀", "<", "{", "}", "[", "]", "\"", ",", "</think>",
    ];
    let tools = tools();
    let arguments = map(json!({"text": "x"}));
    let mut rng = StdRng::seed_from_u64(5);
    for way in WAYS {
        let whole = (way.write)(&[("get_it", &arguments), ("get_it", &arguments)]);
        // Pieces of a turn with the markers whole, and some cut anywhere.
        let mut parts: Vec<&str> = PARTS.to_vec();
        let mut from = 0;
        for (at, _) in whole.match_indices(['<', '[', '{', '`', '(', '\n', ';']) {
            parts.push(&whole[from..at]);
            from = at;
        }
        parts.push(&whole[from..]);
        parts.push(&whole);
        for (at, _) in whole.char_indices().step_by(17) {
            parts.push(&whole[..at]);
            parts.push(&whole[at..]);
        }
        for _ in 0..40 {
            let count = rng.random_range(1..8);
            let text: String = (0..count)
                .filter_map(|_| parts.choose(&mut rng).copied())
                .collect();
            known(&way, &tools).turn(&text);
        }
    }
}
