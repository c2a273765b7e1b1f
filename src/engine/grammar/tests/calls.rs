//! Calls that are right and wrong in ways worth a name.

use super::*;

#[test]
fn whitespace_of_all_habits_fits() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "array"}}});
    for model in models() {
        let grammar = model.strict(&[("read", schema.clone())]);
        for call in [
            "{\"name\": \"read\", \"arguments\": {\"a\": [1, 2]}}\n</tool_call>",
            "{\"name\":\"read\",\"arguments\":{\"a\":[1,2]}}</tool_call>",
            "\n{\n  \"name\": \"read\",\n  \"arguments\": {\n    \"a\": [\n      1\n    ]\n  }\n}\n</tool_call>",
            "\r\n\t{ \"name\" : \"read\" , \"arguments\" : { \"a\" : [ ] } } </tool_call>",
        ] {
            let mut constraint = Constraint::new(&grammar);
            assert_eq!(
                model.write(&mut constraint, &format!("<tool_call>{call}")),
                ""
            );
            assert!(!constraint.is_inside_call(), "{call}");
        }
        let mut constraint = Constraint::new(&grammar);
        let endless = "<tool_call>{\"name\": \"read\", \"arguments\": {\"a\": [";
        assert_eq!(model.write(&mut constraint, endless), "");
        let rest = model.write(&mut constraint, &" ".repeat(4 * MAX_BLANKS));
        assert!(
            !rest.is_empty() && rest.len() >= 3 * MAX_BLANKS,
            "{}",
            rest.len()
        );
    }
}

#[test]
fn the_schema_binds() {
    let schema = json!({
        "type": "object",
        "properties": {
            "unit": {"enum": ["C", "F"]},
            "place": {"$ref": "#/$defs/place"},
            "days": {"type": "integer", "minimum": 1, "maximum": 10},
            "note": {"type": "string", "maxLength": 3},
            "kind": {"const": {"v": 1}},
            "tags": {"type": "array", "items": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}},
        },
        "required": ["unit", "place"],
        "additionalProperties": false,
        "$defs": {"place": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        }},
    });
    for model in models() {
        let grammar = model.strict(&[("weather", schema.clone()), ("other", Value::Null)]);
        let place = r#""place": {"city": "東京"}"#;
        for right in [
            format!(r#"{{"unit": "C", {place}}}"#),
            format!(r#"{{"unit": "F", {place}, "days": 10, "note": "a\"\u00e9"}}"#),
            format!(r#"{{"unit": "F", {place}, "kind": {{"v": 1}}, "tags": [null, true]}}"#),
            r#"{"unit": "C", "place": {"city": "", "more": [1.5e3, {}]}}"#.to_owned(),
        ] {
            assert!(model.writes(&grammar, "weather", &right), "{right}");
        }
        for wrong in [
            "{}".to_owned(),
            "[]".to_owned(),
            r#""x""#.to_owned(),
            r#"{"unit": "K"}"#.to_owned(),
            r#"{"unit": "C"}"#.to_owned(),
            r#"{"unit": "C", "place": {}}"#.to_owned(),
            format!(r#"{{"unit": "C", {place}, "days": 11}}"#),
            format!(r#"{{"unit": "C", {place}, "days": 1.5}}"#),
            format!(r#"{{"unit": "C", {place}, "note": "long"}}"#),
            format!(r#"{{"unit": "C", {place}, "kind": {{"v": 2}}}}"#),
            format!(r#"{{"unit": "C", {place}, "tags": [1]}}"#),
            format!(r#"{{"unit": "C", {place}, "more": 1}}"#),
            format!(r#"{{"unit": "C", {place},}}"#),
        ] {
            assert!(!model.writes(&grammar, "weather", &wrong), "{wrong}");
        }
        assert!(model.writes(&grammar, "other", r#"{"any": {"thing": [1, null]}}"#));
        assert!(!model.writes(&grammar, "other", "[]"));
        assert!(!model.writes(&grammar, "unknown", "{}"));
    }
}

#[test]
fn schemas_as_tools_write_them_bind() {
    // As pydantic, zod and older drafts write them.
    let fetch = json!({
        "description": "Parameters for fetching a URL.",
        "properties": {
            "url": {
                "description": "URL to fetch", "format": "uri", "minLength": 1,
                "title": "Url", "type": "string",
            },
            "max_length": {
                "default": 5000, "exclusiveMaximum": 1_000_000, "exclusiveMinimum": 0,
                "title": "Max Length", "type": "integer",
            },
            "raw": {"default": false, "title": "Raw", "type": "boolean"},
        },
        "required": ["url"],
        "title": "Fetch",
        "type": "object",
    });
    let log = json!({
        "$defs": {"Order": {"enum": ["asc", "desc"], "title": "Order", "type": "string"}},
        "properties": {
            "since": {
                "anyOf": [{"type": "string"}, {"type": "null"}],
                "default": null, "title": "Since",
            },
            "order": {"$ref": "#/$defs/Order", "default": "asc", "description": "of time"},
        },
        "title": "Log",
        "type": "object",
    });
    let edit = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "edits": {"type": "array", "items": {"$ref": "#/definitions/edit"}},
            "range": {"type": "array", "items": [{"type": "integer"}, {"type": "integer"}]},
        },
        "required": ["path", "edits"],
        "additionalProperties": false,
        "definitions": {"edit": {
            "type": "object",
            "properties": {"old": {"type": "string"}, "new": {"type": "string"}},
            "required": ["old", "new"],
            "additionalProperties": false,
        }},
    });
    let mut unknown_draft = edit.clone();
    unknown_draft["$schema"] = "https://example.com/my-draft".into();
    let tools = [
        ("fetch", fetch),
        ("log", log),
        ("edit", edit),
        ("mine", unknown_draft),
    ];
    for model in models() {
        let grammar = model.strict(&tools);
        for (tool, right) in [
            (
                "fetch",
                r#"{"url": "https://example.com/a?b=c#d", "max_length": 999999}"#,
            ),
            ("log", r#"{"since": null, "order": "desc"}"#),
            ("log", "{}"),
            (
                "edit",
                r#"{"path": "a", "edits": [{"old": "a\tb", "new": ""}], "range": [1, 2]}"#,
            ),
            ("mine", r#"{"path": "a", "edits": []}"#),
        ] {
            assert!(model.writes(&grammar, tool, right), "{right}");
        }
        for (tool, wrong) in [
            ("fetch", r#"{"url": "not a url"}"#),
            (
                "fetch",
                r#"{"url": "https://example.com", "max_length": 0}"#,
            ),
            ("fetch", r#"{"max_length": 1}"#),
            ("log", r#"{"order": "up"}"#),
            ("edit", r#"{"path": "a", "edits": [{"old": "a"}]}"#),
            ("edit", r#"{"path": "a"}"#),
            ("mine", r#"{"path": 1, "edits": []}"#),
        ] {
            assert!(!model.writes(&grammar, tool, wrong), "{wrong}");
        }
    }
}

#[test]
fn patterns_hold_for_what_json_escapes() {
    let pattern = |pattern: &str| json!({"type": "string", "pattern": pattern});
    for (schema, right, wrong) in [
        (pattern("^[^\"]+$"), r#""a\\\nb""#, r#""a\"""#),
        (pattern("^[^\\\\]+$"), r#""a\"b""#, r#""a\\""#),
        (pattern("^[^\n]+$"), r#""a\"\\""#, r#""\n""#),
        (pattern("^\\[\\^[^\"]$"), r#""[^x""#, r#""[^\"""#),
        (pattern("^[a-z]{2}$"), r#""ab""#, r#""a\n""#),
        (
            json!({"const": {"pattern": "[^a]"}}),
            r#"{"pattern": "[^a]"}"#,
            r#"{"pattern": "b"}"#,
        ),
        (
            json!({"type": "object", "patternProperties": {"^[^\"]$": {"type": "null"}},
                "additionalProperties": false}),
            r#"{"a": null}"#,
            r#"{"\"": null}"#,
        ),
        (
            json!({"anyOf": [{"type": "array", "items": pattern("^[^\"]$")}]}),
            r#"["a"]"#,
            r#"["\""]"#,
        ),
    ] {
        let schema = json!({"type": "object", "properties": {"p": schema}});
        let grammar = plain().strict(&[("t", schema.clone())]);
        for (value, fits) in [(right, true), (wrong, false)] {
            let arguments = format!("{{\"p\": {value}}}");
            assert_eq!(
                plain().writes(&grammar, "t", &arguments),
                fits,
                "{schema} {value}"
            );
        }
    }
}

#[test]
fn names_with_quotes_and_newlines_are_written_as_json() {
    let names = [
        "a\"b",
        "a\nb",
        "a\\",
        "a\"",
        "",
        "naïve 東",
        "}</tool_call>",
    ];
    let tools = names.map(|name| (name, json!({})));
    for model in models() {
        let grammar = model.strict(&tools);
        for name in names {
            assert!(model.writes(&grammar, name, "{}"), "{name:?}");
        }
        assert!(!model.writes(&grammar, "a", "{}"));
    }
}

#[test]
fn a_number_does_not_grow_beyond_what_is_read() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "number"}}});
    for model in models() {
        let grammar = model.strict(&[("t", schema.clone())]);
        for number in [
            "18446744073709551615",
            "-1.23456789012345",
            "1e99",
            "-0.5E-3",
        ] {
            assert!(model.writes(&grammar, "t", &format!("{{\"n\": {number}}}")));
        }
        for number in ["184467440737095516150", "1.2345678901234567", "1e100"] {
            assert!(!model.writes(&grammar, "t", &format!("{{\"n\": {number}}}")));
        }
        let mut constraint = Constraint::new(&grammar);
        let start = "<tool_call>{\"name\": \"t\", \"arguments\": {\"n\": 1e10";
        assert_eq!(model.write(&mut constraint, start), "");
        let mask = constraint.mask().unwrap();
        assert!(!mask.allows(model.token("0")) && mask.allows(model.token("}")));
    }
    // Where the schema wants it, a number is as long as it must be.
    let long = json!({"type": "object", "properties": {"n": {"const": 1e25}}});
    let grammar = demo().strict(&[("t", long)]);
    assert!(demo().writes(&grammar, "t", "{\"n\": 10000000000000000000000000}"));
}

#[test]
fn the_end_of_the_sequence_and_unknown_ids_are_no_part_of_a_call() {
    for model in models() {
        let grammar = model.strict(&[("t", Value::Null)]);
        let call = "<tool_call>\n{\"name\": \"t\", \"arguments\": {\"a\": \"b\"}}\n</tool_call>";
        let mut constraint = Constraint::new(&grammar);
        let size = model.vocabulary.size() as u32;
        for token in model.tokens(call) {
            if constraint.is_inside_call() {
                for end in [model.end[0], size - 1, size, u32::MAX] {
                    assert!(!constraint.accepts(end));
                    assert_eq!(constraint.advance(end), Err(ConstraintError::Refused(end)));
                    assert!(!constraint.mask().unwrap().allows(end));
                }
                assert!(constraint.mask().unwrap().allows(token));
                assert_eq!(
                    constraint.mask().unwrap().words().len(),
                    size.div_ceil(32) as usize
                );
            }
            assert!(constraint.accepts(token));
            constraint.advance(token).unwrap();
        }
        assert!(!constraint.is_inside_call());
    }
}

#[test]
fn many_tools_are_told_apart() {
    let names: Vec<String> = (0..300).map(|n| format!("tool_{n}")).collect();
    let tools: Vec<(&str, Value)> = names
        .iter()
        .enumerate()
        .map(|(n, name)| {
            let property = format!("p{n}");
            let schema = json!({
                "type": "object",
                "properties": {(property.as_str()): {"type": "integer"}},
                "required": [property],
            });
            (name.as_str(), schema)
        })
        .collect();
    let grammar = demo().strict(&tools);
    for n in [0, 9, 99, 255, 256, 299] {
        assert!(demo().writes(&grammar, &names[n], &format!("{{\"p{n}\": 1}}")));
        assert!(!demo().writes(&grammar, &names[n], "{\"p\": 1}"));
    }
    assert!(!demo().writes(&grammar, "tool_300", "{}"));
    assert!(!demo().writes(&grammar, "tool_", "{}"));
}
