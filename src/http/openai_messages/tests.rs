#![allow(clippy::unwrap_used)]

use super::*;

fn read(document: Value) -> Result<Conversation, String> {
    Conversation::read(&document).map_err(|error| error.to_string())
}

fn object(value: Value) -> Arguments {
    Arguments::Object(value.as_object().unwrap().clone())
}

#[test]
fn every_role_and_shape_is_read() {
    let call = |id: &str, arguments: Value| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let read = read(json!({
        "model": "passed over",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "Hi", "name": "me"},
            {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                call("1", json!("{\"z\": 1, \"a\": \"ä\"}")), call("2", json!({"b": []})), call("3", json!("")),
                call("4", json!("{\"a\"")), call("5", json!("[1]"))]},
            {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "two"}]},
            {"role": "assistant", "content": ""},
        ],
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
            {"function": {"name": "g", "description": null}},
        ],
    }))
    .unwrap();
    assert_eq!(read.messages[0], Message::System("Be kind.".into()));
    assert_eq!(read.messages[1], Message::System("ab".into()));
    assert_eq!(read.messages[2], Message::User("Hi".into()));
    let Message::Assistant {
        content,
        reasoning,
        tool_calls,
        ..
    } = &read.messages[3]
    else {
        panic!("{:?}", read.messages[3]);
    };
    assert_eq!((content.as_str(), reasoning.as_deref()), ("", Some("hm")));
    let arguments: Vec<_> = tool_calls.iter().map(|call| &call.arguments).collect();
    assert_eq!(arguments[0], &object(json!({"z": 1, "a": "ä"})));
    assert_eq!(arguments[1], &object(json!({"b": []})));
    assert_eq!(arguments[2], &object(json!({})));
    for (malformed, written) in [(arguments[3], "{\"a\""), (arguments[4], "[1]")] {
        assert!(matches!(malformed, Arguments::Malformed { text, .. } if text == written));
    }
    assert_eq!(
        read.messages[4],
        Message::Tool {
            call_id: "2".into(),
            name: "f".into(),
            content: "two".into()
        }
    );
    let [f, g] = &read.tools[..] else {
        panic!("{:?}", read.tools);
    };
    assert_eq!((f.name.as_str(), f.description.as_str()), ("f", "d"));
    assert_eq!(g.description, "");
    assert_eq!(g.parameters, json!({"type": "object", "properties": {}}));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let with = |message: Value| json!({"messages": [{"role": "user", "content": "x"}, message]});
    let calling = |call: Value| with(json!({"role": "assistant", "tool_calls": [call]}));
    let tooled =
        |tool: Value| json!({"messages": [{"role": "user", "content": "x"}], "tools": [tool]});
    for (document, said) in [
        (json!([]), "the conversation is a list; write an object"),
        (json!({}), "messages is missing; add it"),
        (json!({"messages": "x"}), "messages is a text; write a list"),
        (json!({"messages": []}), "messages is empty"),
        (
            json!({"messages": [3]}),
            "messages[0] is a number; write an object",
        ),
        (with(json!({"content": "x"})), "messages[1].role is missing"),
        (
            with(json!({"role": "robot", "content": "x"})),
            "messages[1].role is \"robot\"; write system",
        ),
        (
            with(json!({"role": "user"})),
            "messages[1].content is missing",
        ),
        (
            with(json!({"role": "user", "content": null})),
            "messages[1].content is null; write a text or a list of text parts",
        ),
        (
            with(json!({"role": "user", "content": [{"type": "image_url"}]})),
            "messages[1].content[0].type is \"image_url\"; only text",
        ),
        (
            with(json!({"role": "user", "content": [{"type": "text"}]})),
            "messages[1].content[0].text is missing",
        ),
        (
            with(json!({"role": "assistant"})),
            "messages[1] has neither content nor tool_calls",
        ),
        (
            with(json!({"role": "assistant", "tool_calls": {}})),
            "messages[1].tool_calls is an object; write a list",
        ),
        (
            calling(json!({"function": {"name": "f", "arguments": "{}"}})),
            "messages[1].tool_calls[0].id is missing",
        ),
        (
            calling(json!({"id": "", "function": {"name": "f", "arguments": "{}"}})),
            "messages[1].tool_calls[0].id is empty",
        ),
        (
            calling(json!({"id": "1"})),
            "messages[1].tool_calls[0].function is missing",
        ),
        (
            calling(json!({"id": "1", "function": {"name": "f"}})),
            "messages[1].tool_calls[0].function.arguments is missing",
        ),
        (
            calling(json!({"id": "1", "function": {"name": "f", "arguments": 1}})),
            "messages[1].tool_calls[0].function.arguments is a number; write the text of a JSON object",
        ),
        (
            with(json!({"role": "tool", "content": "x"})),
            "messages[1].tool_call_id is missing",
        ),
        (
            with(json!({"role": "tool", "tool_call_id": "9", "content": "x"})),
            "messages[1].tool_call_id is \"9\", which no tool call before it has",
        ),
        (
            tooled(json!({"type": "retrieval"})),
            "tools[0].type is not \"function\"",
        ),
        (
            tooled(json!({"type": "function", "name": "f"})),
            "tools[0].function is missing",
        ),
        (
            tooled(json!({"function": {"name": 1}})),
            "tools[0].function.name is a number; write a text",
        ),
        (
            tooled(json!({"function": {"name": "f", "parameters": []}})),
            "tools[0].function.parameters is a list; write an object",
        ),
    ] {
        let error = read(document.clone()).unwrap_err();
        assert!(error.starts_with(said), "{document}: {error}");
    }
}
