//! Schemas that make no sense, and what binds instead.

use super::*;

/// What is lost of a tool with this schema; and that the tool can be called,
/// and others are bound as ever.
fn loss(schema: Value) -> Option<(Loss, String)> {
    let model = plain();
    let strict = json!({
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
    });
    let (grammar, fallbacks) = model.grammar(&[("absurd", schema), ("strict", strict)]);
    assert!(model.writes(&grammar, "strict", "{\"a\": 1}"));
    assert!(!model.writes(&grammar, "strict", "{}"));
    assert!(fallbacks.iter().all(|fallback| fallback.tool == "absurd"));
    let [fallback] = fallbacks.as_slice() else {
        assert_eq!(fallbacks, []);
        return None;
    };
    assert!(!fallback.reason.is_empty() && !fallback.reason.contains('\n'));
    if fallback.loss == Loss::Schema {
        assert!(model.writes(&grammar, "absurd", "{\"x\": [1]}"));
    }
    assert!(!model.writes(&grammar, "absurd", "[]"));
    Some((fallback.loss, fallback.reason.clone()))
}

fn with(property: Value) -> Value {
    json!({"type": "object", "properties": {"p": property}, "required": ["p"]})
}

#[test]
fn no_schema_is_any_object() {
    for schema in [
        Value::Null,
        json!({}),
        json!(true),
        json!({"type": "object"}),
    ] {
        assert_eq!(loss(schema), None);
    }
}

#[test]
fn a_schema_nothing_satisfies_binds_nothing() {
    for schema in [
        json!(false),
        json!(7),
        json!("object"),
        json!([]),
        json!({"type": "string"}),
        json!({"type": ["string", "null"]}),
        json!({"type": 3}),
        with(json!({"type": "integer", "minimum": 3, "maximum": 1})),
        with(json!({"type": "integer", "minimum": 1, "maximum": 2, "multipleOf": 5})),
        with(json!({"type": "number", "exclusiveMinimum": 1, "maximum": 1})),
        with(json!({"type": "string", "minLength": 3, "maxLength": 1})),
        with(json!({"type": "strin"})),
        with(json!({"enum": []})),
        with(json!({"$ref": "#/$defs/nowhere"})),
        with(json!({"$ref": "https://example.com/schema"})),
        with(json!({"$ref": 1})),
        with(json!("string")),
        with(json!(false)),
        with(json!({"$ref": "#"})),
        with(json!({"type": "string", "pattern": "("})),
        with(json!({"type": "string", "minLength": -1})),
        with(json!({"$id": "https://example.com/inner", "type": "string"})),
        json!({"type": "object", "properties": [1]}),
        json!({"type": "object", "required": "a"}),
        json!({"type": "object", "required": [1]}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
    ] {
        let lost = loss(schema.clone());
        assert!(matches!(lost, Some((Loss::Schema, _))), "{schema} {lost:?}");
    }
}

#[test]
fn keywords_that_are_not_known_are_left_out() {
    for (schema, keyword) in [
        (
            with(json!({"type": "array", "uniqueItems": true})),
            "uniqueItems",
        ),
        (with(json!({"not": {"type": "string"}})), "not"),
        (
            with(json!({"type": "string", "format": "no-such"})),
            "no-such",
        ),
        (
            with(json!({"oneOf": [{"type": "integer"}, {"type": "number"}]})),
            "oneOf",
        ),
        (
            with(json!({"if": {"type": "string"}, "then": {"maxLength": 3}})),
            "then",
        ),
    ] {
        let lost = loss(schema.clone());
        let Some((Loss::Keywords, reason)) = lost else {
            panic!("{schema} {lost:?}");
        };
        assert!(reason.contains(keyword), "{reason}");
    }
    // The rest of the schema still binds.
    let schema = with(json!({"type": "array", "items": {"type": "null"}, "uniqueItems": true}));
    let (grammar, _) = plain().grammar(&[("t", schema)]);
    assert!(plain().writes(&grammar, "t", "{\"p\": [null]}"));
    assert!(!plain().writes(&grammar, "t", "{\"p\": [1]}"));
    assert!(!plain().writes(&grammar, "t", "{}"));
}

#[test]
fn a_schema_does_not_set_the_grammar_s_options() {
    let mut schema = with(json!({"type": "array", "uniqueItems": true}));
    schema["x-guidance"] = json!({"lenient": true, "whitespace_flexible": "?"});
    assert!(matches!(loss(schema), Some((Loss::Keywords, _))));
}

#[test]
fn a_hundred_levels_bind_and_more_do_not() {
    // Each of these has two: the object and its properties.
    let nested =
        |objects: usize| (0..objects).fold(json!({"type": "integer"}), |inner, _| with(inner));
    let model = plain();
    let grammar = model.strict(&[("t", nested(50))]);
    let arguments = |objects| format!("{}1{}", "{\"p\": ".repeat(objects), "}".repeat(objects));
    assert!(model.writes(&grammar, "t", &arguments(50)));
    assert!(!model.writes(&grammar, "t", &arguments(49)));
    assert!(matches!(loss(nested(100)), Some((Loss::Schema, _))));
}

#[test]
fn recursion_with_an_end_binds() {
    let tree = json!({
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "children": {"type": "array", "items": {"$ref": "#"}},
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
        },
        "required": ["value"],
        "additionalProperties": false,
        "$defs": {"node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
            "required": ["next"],
        }},
    });
    for model in models() {
        let grammar = model.strict(&[("t", tree.clone())]);
        for right in [
            r#"{"value": 1, "children": [{"value": 2, "children": []}, {"value": 3}]}"#,
            r#"{"value": 1, "next": {"next": {"next": null}}}"#,
        ] {
            assert!(model.writes(&grammar, "t", right), "{right}");
        }
        for wrong in [
            r#"{"value": 1, "children": [{"value": 2, "children": [{}]}]}"#,
            r#"{"value": 1, "next": {"next": {}}}"#,
        ] {
            assert!(!model.writes(&grammar, "t", wrong), "{wrong}");
        }
    }
}

#[test]
fn tools_must_be_some_and_have_names_of_their_own() {
    let tool = |name: &str| ToolSchema {
        name: name.to_owned(),
        parameters: Value::Null,
    };
    let compile = |tools: &[ToolSchema]| CallGrammar::compile(&plain().vocabulary, tools).err();
    assert_eq!(compile(&[]), Some(GrammarError::NoTools));
    assert_eq!(
        compile(&[tool("a"), tool("b"), tool("a")]),
        Some(GrammarError::DuplicateTool("a".to_owned()))
    );
}

#[test]
fn a_call_too_much_for_its_grammar_is_let_go_and_the_next_is_bound() {
    // Any of these may come first, which is more than llguidance follows.
    let properties: serde_json::Map<String, Value> = (0..2100)
        .map(|n| (format!("p{n}"), json!({"type": "null"})))
        .collect();
    let much = json!({"type": "object", "properties": properties});
    let model = plain();
    let grammar = model.strict(&[("much", much), ("little", json!({}))]);
    let mut constraint = Constraint::new(&grammar);
    for _ in 0..2 {
        let start = "<tool_call>{\"name\": \"much\", \"arguments\": ";
        assert_eq!(model.write(&mut constraint, start), "");
        assert!(constraint.is_inside_call());
        let brace = model.token("{");
        assert!(constraint.accepts(brace));
        let released = constraint.advance(brace);
        assert!(
            matches!(released, Err(ConstraintError::Released(_))),
            "{released:?}"
        );
        assert!(!constraint.is_inside_call());
        let rest = "nonsense </tool_call> <tool_call>{\"name\": \"little\", \"arguments\": {";
        assert_eq!(model.write(&mut constraint, rest), "");
        assert_eq!(model.write(&mut constraint, "x"), "x");
        assert_eq!(model.write(&mut constraint, "}}</tool_call>"), "");
    }
}
