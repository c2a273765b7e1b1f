//! Harmony's messages: channels, recipients, and what stands between them.

use super::*;

fn read(text: &str) -> Parts {
    let prompt = "<|start|>assistant";
    Reading {
        prompt,
        ..reading(ToolFormat::Harmony)
    }
    .turn(text)
}

fn thought(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn channels_tell_reasoning_content_and_calls() {
    let call = good("get_weather", json!({"city": "Zürich \"ZH\" <|call|>"}));
    let arguments = r#"{"city": "Zürich \"ZH\" <|call|>"}"#;
    for header in [
        "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json",
        "<|start|>assistant<|channel|>commentary to=functions.get_weather<|constrain|>json",
        "<|start|>assistant to=functions.get_weather<|channel|>commentary json",
        "<|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json",
        "<|start|>assistant<|channel|>analysis to=functions.get_weather code",
        "<|channel|>commentary to=get_weather ",
    ] {
        for end in ["<|call|>", "", "\n<|call|>", "<|end|>"] {
            let text = format!(
                "<|channel|>analysis<|message|>Weather. to=nobody\n<|end|>{header}<|message|>\n{arguments}{end}"
            );
            let expected = (
                String::new(),
                thought("Weather. to=nobody"),
                vec![call.clone()],
            );
            assert_eq!(read(&text), expected, "{text}");
        }
    }
    let text = format!(
        " to=functions.get_weather<|channel|>commentary json<|message|>{arguments}<|call|>"
    );
    assert_eq!(read(&text), (String::new(), None, vec![call]));
}

#[test]
fn messages_of_a_kind_have_an_empty_line_between_them() {
    let text = "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>commentary\
                <|message|>I look it up.<|end|><|start|>assistant<|channel|>commentary to=functions.a \
                <|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>commentary \
                to=functions.b<|message|>{\"x\": 1}<|call|><|start|>assistant<|channel|>analysis\
                <|message|>Two.<|end|><|start|>assistant<|channel|>final<|message|>It is <b> <|x|> 3.<|return|>";
    let (content, reasoning, calls) = read(text);
    assert_eq!(content, "I look it up.\n\nIt is <b> <|x|> 3.");
    assert_eq!(reasoning, thought("One.\n\nTwo."));
    assert_eq!(calls, [good("a", json!({})), good("b", json!({"x": 1}))]);
}

#[test]
fn a_prompt_may_have_opened_a_message() {
    let after = |prompt: &str, text: &str| {
        Reading {
            prompt,
            ..reading(ToolFormat::Harmony)
        }
        .turn(text)
    };
    let text = "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.";
    let expected = ("Yes.".to_owned(), thought("Hm."), vec![]);
    assert_eq!(
        after("<|start|>assistant<|channel|>analysis<|message|>", text),
        expected
    );
    let expected = ("Yes.".to_owned(), None, vec![]);
    assert_eq!(
        after("<|start|>assistant<|channel|>final<|message|>", "Yes."),
        expected
    );
}

#[test]
fn turns_without_their_markers_are_content() {
    for text in ["Plain text.", "a < b <| c", "to=day", "I go to=x"] {
        let (content, reasoning, calls) = read(text);
        if text == "to=day" {
            // A call's header that was cut: better asked again than shown.
            assert_eq!(malformed(&calls), [""]);
        } else {
            assert_eq!((content.as_str(), reasoning, calls), (text, None, vec![]));
        }
    }
    let missing_end = "<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Yes.";
    assert_eq!(read(missing_end), ("Yes.".into(), thought("Hm."), vec![]));
    let missing_end =
        "<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>final<|message|>Yes.";
    assert_eq!(read(missing_end), ("Yes.".into(), thought("Hm."), vec![]));
    let between = "<|channel|>final<|message|>Yes.<|end|>No.";
    assert_eq!(read(between), ("Yes.\n\nNo.".into(), None, vec![]));
}

#[test]
fn calls_cut_short_are_malformed_and_keep_their_name() {
    let full = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary \
                to=functions.get_it <|constrain|>json<|message|>{\"a\": {\"b\": \"c\"}}";
    let named = full.find(" <|constrain|>").unwrap();
    for (at, _) in full.char_indices() {
        let (content, _, calls) = read(&full[..at]);
        assert_eq!(
            content,
            if at <= 1 {
                &full[..at]
            } else {
                content.as_str()
            }
        );
        if at > named {
            assert_eq!(malformed(&calls), ["get_it"], "{}", &full[..at]);
        } else {
            assert!(
                malformed(&calls).iter().all(|name| name.is_empty()),
                "{}",
                &full[..at]
            );
        }
    }
    let (_, _, calls) = read("<|channel|>commentary to=functions.a<|message|>not JSON<|call|>");
    assert_eq!(malformed(&calls), ["a"]);
    // Broken quotes do not swallow the next message.
    let text = "<|channel|>commentary to=functions.a<|message|>{\"x\": \"y\"z\"}<|call|><|start|>assistant\
                <|channel|>commentary to=functions.b<|message|>{}<|call|>";
    let (_, _, calls) = read(text);
    assert_eq!(malformed(&calls[..1]), ["a"]);
    assert_eq!(calls[1..], [good("b", json!({}))]);
}

/// Random turns: cutting never matters.
#[test]
fn random_turns_read_the_same_however_they_are_cut() {
    const PARTS: [&str; 18] = [
        "<|start|>",
        "assistant",
        "<|channel|>",
        "analysis",
        "commentary",
        "final",
        " to=functions.a",
        "<|constrain|>json",
        "<|message|>",
        "<|end|>",
        "<|call|>",
        "<|return|>",
        "{\"x\": \"",
        "\"}",
        "{}",
        "text",
        " ",
        "<|",
    ];
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..2000 {
        let count = rng.random_range(0..14);
        let text: String = (0..count)
            .filter_map(|_| PARTS.choose(&mut rng).copied())
            .collect();
        read(&text);
    }
}
