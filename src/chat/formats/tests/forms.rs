//! What is a form's own: spellings, missing markers, and what is refused.

use super::*;

#[test]
fn llama_reads_bare_json_only_where_the_turn_begins() {
    use ToolFormat::LlamaJson;
    let json = r#"{"name": "a", "parameters": {"x": 1}}"#;
    for text in [
        json.to_owned(),
        format!("\n {json}\n"),
        format!("<|python_tag|>{json}"),
        format!("{json};"),
        format!("[{json}]"),
        r#"{"type": "function", "name": "a", "parameters": {"x": 1}}"#.to_owned(),
        r#"{"type": "function", "function": {"name": "a", "arguments": "{\"x\": 1}"}}"#.to_owned(),
        "<|python_tag|>a.call(x=1)".to_owned(),
    ] {
        assert_eq!(calls(LlamaJson, &text), [a()], "{text}");
    }
    let two = format!("{json}; {{\"name\": \"b\", \"parameters\": {{}}}}");
    assert_eq!(calls(LlamaJson, &two), [a(), b()]);
    let (content, _, read) = turn(LlamaJson, &format!("Look: <|python_tag|>{json}\nWell"));
    assert_eq!((content.as_str(), read), ("Look: \nWell", vec![a()]));
    for text in [
        &format!("Look: {json}"),
        r#"{"name": "Bob", "age": 5}"#,
        r#"{"name": "Bob", "ag"#,
        r#"{"name": "Bob"} {"#,
        r#"{x} {"name": "a", "parameters": {}}"#,
        "[1, 2]",
        "{",
        "{} and more",
    ] {
        assert_eq!(turn(LlamaJson, text), (text.to_owned(), None, vec![]));
    }
    assert_eq!(
        malformed(&calls(LlamaJson, r#"{"name": "a", "parameters": {"x": "#)),
        ["a"]
    );
    assert_eq!(
        malformed(&calls(LlamaJson, r#"{"name": "a", "parameters": {x: 1}}"#)),
        ["a"]
    );
    assert_eq!(
        malformed(&calls(LlamaJson, "<|python_tag|>print(1)\nx = 2")),
        [""]
    );
    assert_eq!(malformed(&calls(LlamaJson, "<|python_tag|>")), [""]);
    // Where there are no tools there are no calls, unless a marker says so.
    let without = Reading {
        tools: Some(&[]),
        ..reading(LlamaJson)
    };
    assert_eq!(without.turn(json), (json.to_owned(), None, vec![]));
    assert_eq!(without.turn(&format!("<|python_tag|>{json}")).2, [a()]);
}

#[test]
fn mistral_reads_old_and_new() {
    use ToolFormat::Mistral;
    let old = r#"[TOOL_CALLS] [{"name": "a", "arguments": {"x": 1}, "id": "a1B2c3D4e"}, {"name": "b", "arguments": {}}]"#;
    assert_eq!(calls(Mistral, old), [a(), b()]);
    for text in [
        "[TOOL_CALLS]a[ARGS]{\"x\": 1}[TOOL_CALLS]b[ARGS]{}",
        "[TOOL_CALLS] a [ARGS] {\"x\": 1}\n[TOOL_CALLS] b [ARGS] {}\n",
        "[TOOL_CALLS]a[CALL_ID]a1B2c3D4e[ARGS]{\"x\": 1}[TOOL_CALLS]b[CALL_ID]f[ARGS]{}",
        "[TOOL_CALLS]a[ARGS]{\"x\": 1}b[ARGS]{}",
        "[TOOL_CALLS]a{\"x\": 1}[TOOL_CALLS]b{}",
        "[TOOL_CALLS]{\"name\": \"a\", \"arguments\": {\"x\": 1}}[TOOL_CALLS]b{}",
    ] {
        assert_eq!(calls(Mistral, text), [a(), b()], "{text}");
    }
    let (content, _, read) = turn(Mistral, "Hm.[TOOL_CALLS]b[ARGS]{} b is [done] {x}");
    assert_eq!((content.as_str(), read), ("Hm. b is [done] {x}", vec![b()]));
    assert_eq!(malformed(&calls(Mistral, "[TOOL_CALLS]a[ARGS]null")), ["a"]);
    assert_eq!(malformed(&calls(Mistral, "[TOOL_CALLS]a[ARGS]{x}")), ["a"]);
    let read = calls(Mistral, "[TOOL_CALLS]b[ARGS]{}a[ARGS]null");
    assert_eq!((&read[..1], malformed(&read[1..])), (&[b()][..], vec!["a"]));
    assert_eq!(malformed(&calls(Mistral, "[TOOL_CALLS]")), [""]);
    assert_eq!(malformed(&calls(Mistral, "[TOOL_CALLS]a[AR")), ["a"]);
    assert_eq!(
        malformed(&calls(Mistral, "[TOOL_CALLS][{\"name\": \"a\", \"argum")),
        ["a"]
    );
    let read = calls(
        Mistral,
        "[TOOL_CALLS]a[ARGS]{\"x\": \"y\"z\"}[TOOL_CALLS]b[ARGS]{}",
    );
    assert_eq!((malformed(&read[..1]), &read[1..]), (vec!["a"], &[b()][..]));
    let (content, reasoning, read) =
        turn(Mistral, "[THINK]Hm [TOOL_CALLS][/THINK]Yes[TOOL_CALLS]b{}");
    assert_eq!(
        (content.as_str(), reasoning.as_deref()),
        ("Yes", Some("Hm [TOOL_CALLS]"))
    );
    assert_eq!(read, [b()]);
}

#[test]
fn gemma_reads_texts_in_any_quotes_and_in_none() {
    use ToolFormat::Gemma;
    let one = |fields: &str| {
        calls(
            Gemma,
            &format!("<start_function_call>call:a{fields}<end_function_call>"),
        )
    };
    let cases = [
        ("{x:1}", json!({"x": 1})),
        ("{ x : 1 , }", json!({"x": 1})),
        ("{x:<escape>1<escape>}", json!({"x": "1"})),
        (
            "{x:<|\"|>a, b}<|\"|>,y:true}",
            json!({"x": "a, b}", "y": true}),
        ),
        ("{x:\"a\\\"}\"}", json!({"x": "a\"}"})),
        (
            "{x:Paris is it,y:-1.5}",
            json!({"x": "Paris is it", "y": -1.5}),
        ),
        (
            "{<|\"|>x y<|\"|>:{z:[1,[],{}]},n:null}",
            json!({"x y": {"z": [1, [], {}]}, "n": null}),
        ),
        ("{x:}", json!({"x": ""})),
        ("{}", json!({})),
    ];
    for (fields, arguments) in cases {
        assert_eq!(one(fields), [good("a", arguments)], "{fields}");
    }
    for fields in ["{x}", "{x:1", "{x:[1}", "{x:<escape>1}"] {
        assert_eq!(malformed(&one(fields)), ["a"], "{fields}");
    }
    assert_eq!(malformed(&one("")), [""]);
    assert_eq!(malformed(&one(" b{}")), [""]);
    let tools = tools();
    let typed = Reading {
        tools: Some(&tools),
        ..reading(Gemma)
    };
    let text = "<|tool_call>call:get_it{text:7,number:7}<tool_call|><|tool_response>";
    let expected = good("get_it", json!({"text": "7", "number": 7}));
    assert_eq!(typed.turn(text), (String::new(), None, vec![expected]));
    let two = "<|tool_call>call:a{x:1}call:b{}<tool_call|>";
    assert_eq!(calls(Gemma, two), [a(), b()]);
}

#[test]
fn phi_and_granite_read_json_behind_their_marker() {
    let array = r#"[{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": {}}]"#;
    for (format, text) in [
        (
            ToolFormat::Phi4Mini,
            format!("<|tool_call|>{array}<|/tool_call|>"),
        ),
        (ToolFormat::Phi4Mini, format!("<|tool_call|>\n{array}")),
        (ToolFormat::Phi4Mini, format!("functools{array}")),
        (ToolFormat::Granite, format!("<|tool_call|>{array}")),
        (ToolFormat::Granite, format!("<|tool_call|> {array}\n")),
        (
            ToolFormat::Granite,
            format!("<tool_call>{array}</tool_call>"),
        ),
    ] {
        assert_eq!(calls(format, &text), [a(), b()], "{text}");
    }
    let text = "functools is a module of Python";
    assert_eq!(
        turn(ToolFormat::Phi4Mini, text),
        (text.to_owned(), None, vec![])
    );
    assert_eq!(
        malformed(&calls(ToolFormat::Granite, "<|tool_call|>none")),
        [""]
    );
}

#[test]
fn deepseek_reads_fences_names_and_dsml() {
    use ToolFormat::DeepSeek;
    for text in [
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>a\n```json\n{\"x\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>b\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>{\"x\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>b<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>a<｜tool▁sep｜>{\"x\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>b<｜tool▁sep｜>{}",
        "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"a\">\n<｜DSML｜parameter name=\"x\" string=\"false\">1</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"b\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        "<｜DSML｜tool_calls><｜DSML｜invoke name=\"a\"><｜DSML｜parameter name=\"x\" string=\"false\">1</｜DSML｜parameter></｜DSML｜invoke><｜DSML｜invoke name=\"b\"></｜DSML｜invoke></｜DSML｜tool_calls>",
    ] {
        assert_eq!(calls(DeepSeek, text), [a(), b()], "{text}");
    }
    let text = "<｜DSML｜invoke name=\"a\"><｜DSML｜parameter name=\"x\" string=\"true\">1</｜DSML｜parameter></｜DSML｜invoke>";
    assert_eq!(calls(DeepSeek, text), [good("a", json!({"x": "1"}))]);
    let text = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>none<｜tool▁call▁end｜><｜tool▁call▁begin｜>b<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    let read = calls(DeepSeek, text);
    assert_eq!(malformed(&read[..1]).len(), 1);
    assert_eq!(read[1..], [b()]);
    let text = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>{\"x\": \"y\"z\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>b<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    let read = calls(DeepSeek, text);
    assert_eq!((malformed(&read[..1]), &read[1..]), (vec!["a"], &[b()][..]));
}

#[test]
fn kimi_reads_the_name_in_the_id() {
    use ToolFormat::KimiK2;
    for id in ["functions.a:0", " functions.a:12\n", "a:0", "a"] {
        let text = format!(
            "<|tool_calls_section_begin|>\n<|tool_call_begin|>{id}<|tool_call_argument_begin|> {{\"x\": 1}} \
             <|tool_call_end|>\n<|tool_calls_section_end|>"
        );
        assert_eq!(calls(KimiK2, &text), [a()], "{id}");
    }
    let bare = "<|tool_call_begin|>functions.my.b:c:1<|tool_call_argument_begin|>{}";
    assert_eq!(calls(KimiK2, bare), [good("my.b:c", json!({}))]);
    let nothing = "<|tool_calls_section_begin|><|tool_calls_section_end|>";
    assert_eq!(malformed(&calls(KimiK2, nothing)), [""]);
    let nameless = "<|tool_call_begin|>{\"x\": 1}<|tool_call_end|>";
    assert_eq!(malformed(&calls(KimiK2, nameless)), [""]);
}

#[test]
fn lfm2_reads_pythons_calls() {
    use ToolFormat::Lfm2;
    for text in [
        "<|tool_call_start|>[a(x=1), b()]<|tool_call_end|>",
        "<|tool_call_start|>\n[ a( x = 1 , ) ,\n b( ) ]\n<|tool_call_end|>",
        "<|tool_call_start|>[a(x=1), b()]",
        "<|tool_call_start|>[{\"name\": \"a\", \"arguments\": {\"x\": 1}}, {\"name\": \"b\", \"arguments\": {}}]<|tool_call_end|>",
    ] {
        assert_eq!(calls(Lfm2, text), [a(), b()], "{text}");
    }
    let text = "<|tool_call_start|>[get.it-now(s=\"it's \\\"x\\\" )]\", t='ü', l=[1, {'k': None}], f=-1.5, b=true)]<|tool_call_end|>";
    let arguments =
        json!({"s": "it's \"x\" )]", "t": "ü", "l": [1, {"k": null}], "f": -1.5, "b": true});
    assert_eq!(calls(Lfm2, text), [good("get.it-now", arguments)]);
    for (text, name) in [
        ("[a(1)]", "a"),
        ("[a(x=os.getcwd())]", "a"),
        ("[a(x='y]", "a"),
        ("[a]", ""),
        ("nothing", ""),
        ("[]", ""),
        ("", ""),
    ] {
        let text = format!("<|tool_call_start|>{text}<|tool_call_end|>");
        assert_eq!(malformed(&calls(Lfm2, &text)), [name], "{text}");
    }
    let (content, _, read) = turn(
        Lfm2,
        "<|tool_call_start|>[b()]<|tool_call_end|>Checking b().",
    );
    assert_eq!((content.as_str(), read), ("Checking b().", vec![b()]));
}

#[test]
fn bare_json_is_a_call_only_if_it_is_all_there_is() {
    use ToolFormat::Json;
    let json = r#"{"name": "a", "arguments": {"x": 1}}"#;
    for text in [
        json.to_owned(),
        format!(" {json}\n"),
        format!("[{json}]"),
        format!("```json\n{json}\n```"),
        format!("```\n{json}```\n"),
        format!("functools[{json}]"),
        format!("<TOOLCALL>[{json}]</TOOLCALL>"),
        format!("<tool_calls>\n{json}\n</tool_calls>"),
        format!("<tool_call>{json}</tool_call>"),
        json.replace("arguments", "parameters"),
    ] {
        assert_eq!(calls(Json, &text), [a()], "{text}");
    }
    assert_eq!(calls(Json, &format!("{json}\n{json}")), [a(), a()]);
    for text in [
        format!("{json} is what I would call"),
        format!("So: {json}"),
        format!("```json\n{json}\n```\nThat is it."),
        "```rust\nfn main() {}\n```".to_owned(),
        "```json\n{\"name\": \"Bob\"}\n```".to_owned(),
        "```".to_owned(),
        "```js".to_owned(),
        "functools".to_owned(),
        "[]".to_owned(),
        format!("[{json}, 1]"),
    ] {
        assert_eq!(turn(Json, &text), (text.clone(), None, vec![]));
    }
    assert_eq!(
        malformed(&calls(
            Json,
            "```json\n{\"name\": \"a\", \"arguments\": {\"x\""
        )),
        ["a"]
    );
    let without = Reading {
        tools: Some(&[]),
        ..reading(Json)
    };
    assert_eq!(without.turn(json), (json.to_owned(), None, vec![]));
}

/// A call's id is read with it, however the text is cut, which `turn` sees to.
#[test]
fn ids_are_read_as_the_model_wrote_them() {
    use ToolFormat::{Hermes, KimiK2, Mistral};
    let ids = |format, text: &str| -> Vec<Option<String>> {
        assert!(!turn(format, text).2.is_empty(), "{text}");
        let (_, _, calls) = reading(format).with_ids(&[text]);
        calls.into_iter().map(|call| call.id).collect()
    };
    let some = |id: &str| Some(id.to_owned());
    let old = r#"[TOOL_CALLS][{"name": "a", "arguments": {"id": "no"}, "id": "a1B2c3D4e"}, {"name": "b", "arguments": {}}]"#;
    assert_eq!(ids(Mistral, old), [some("a1B2c3D4e"), None]);
    let new =
        "[TOOL_CALLS]a[CALL_ID]a1B2c3D4e[ARGS]{}[TOOL_CALLS]b[CALL_ID] x {}[TOOL_CALLS]c[ARGS]{}";
    assert_eq!(ids(Mistral, new), [some("a1B2c3D4e"), some("x"), None]);
    let kimi = "<|tool_calls_section_begin|><|tool_call_begin|> functions.a:0 <|tool_call_argument_begin|>{}<|tool_call_end|>\
        <|tool_call_begin|>call00000<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>";
    assert_eq!(
        ids(KimiK2, kimi),
        [some("functions.a:0"), some("call00000")]
    );
    let hermes =
        r#"<tool_call>{"id": "x", "function": {"name": "a", "arguments": "{}"}}</tool_call>"#;
    assert_eq!(ids(Hermes, hermes), [some("x")]);
}

#[test]
fn markers_around_the_answer_are_no_content() {
    use ToolFormat::{Cohere, Granite};
    let said = |format, text: &str| {
        let (content, reasoning, calls) = turn(format, text);
        assert_eq!(calls, [], "{text}");
        (content, reasoning.unwrap_or_default())
    };
    let pair = |content: &str, reasoning: &str| (content.to_owned(), reasoning.to_owned());
    for (text, expected) in [
        (
            "<think>Hm.</think>\n<response>Yes.</response>",
            pair("Yes.", "Hm."),
        ),
        (
            "<think>Hm.</think><response>\nYes.\n</response>\n",
            pair("Yes.", "Hm."),
        ),
        ("Hm.</think><response>Yes.</response>", pair("Yes.", "Hm.")),
        ("<response>Yes.", pair("Yes.", "")),
        ("<response>Yes.</respon", pair("Yes.</respon", "")),
        ("<response></response>", pair("", "")),
        // Anywhere else they are text.
        (
            "Write <response> here.</response>",
            pair("Write <response> here.</response>", ""),
        ),
        ("Yes.</response>", pair("Yes.</response>", "")),
        (
            "<response>a <response>b</response> c</response> d</response></response> ",
            pair("a <response>b</response> c</response> d</response>", ""),
        ),
        (
            "<think><response>x</response></think>Yes.",
            pair("Yes.", "<response>x</response>"),
        ),
    ] {
        assert_eq!(said(Granite, text), expected, "{text}");
        let cohere = text
            .replace("<think>", "<|START_THINKING|>")
            .replace("</think>", "<|END_THINKING|>")
            .replace("<response>", "<|START_RESPONSE|>")
            .replace("</response>", "<|END_RESPONSE|>");
        let expected = pair(
            &expected
                .0
                .replace("<response>", "<|START_RESPONSE|>")
                .replace("</response>", "<|END_RESPONSE|>"),
            &expected
                .1
                .replace("<response>", "<|START_RESPONSE|>")
                .replace("</response>", "<|END_RESPONSE|>"),
        );
        // Cut in its marker, a text ends in less of the other one.
        if !text.ends_with("</respon") {
            assert_eq!(said(Cohere, &cohere), expected, "{cohere}");
        }
    }
    // The prompt opens the reasoning, or has closed it.
    for (end, text) in [
        (
            "<|START_THINKING|>",
            "Hm.<|END_THINKING|><|START_TEXT|>Yes.<|END_TEXT|>",
        ),
        (
            "<|START_THINKING|><|END_THINKING|>",
            "<|START_TEXT|>Yes.<|END_TEXT|>",
        ),
    ] {
        let prompt = format!("<|CHATBOT_TOKEN|>{end}");
        let opened = Reading {
            prompt: &prompt,
            ..reading(Cohere)
        };
        let (content, reasoning, _) = opened.turn(text);
        assert_eq!(content, "Yes.", "{text}");
        assert_eq!(reasoning.is_some(), text.starts_with("Hm."), "{text}");
    }
    // A call behind an answer, and one within.
    let call = r#"<|tool_call|>[{"name": "a", "arguments": {"x": 1}}]"#;
    for text in [
        format!("<response>Look.</response>{call}"),
        format!("<response>Look.{call}</response>"),
    ] {
        let (content, _, calls) = turn(Granite, &text);
        assert_eq!((content.as_str(), calls), ("Look.", vec![a()]), "{text}");
    }
}
