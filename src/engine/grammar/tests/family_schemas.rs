//! How schemas bind arguments that are not JSON, and what binds where they
//! cannot.

use super::families::{Family, families, models_of};
use super::family_walks::{Read, read, start, walk};
use super::*;

fn family(name: &str) -> Family {
    let mut families = families().into_iter();
    families.find(|family| family.name == name).unwrap()
}

fn with(property: Value) -> Value {
    json!({"type": "object", "properties": {"p": property}, "required": ["p"]})
}

/// Whether a turn can be written, and all its calls end.
fn fits(model: &Model, grammar: &CallGrammar, text: &str) -> bool {
    let mut constraint = Constraint::new(grammar);
    model.write(&mut constraint, text).is_empty() && !constraint.is_inside_call()
}

/// Whether these, which are `(schema, value, whether it fits)`, do in calls
/// that `call` makes of the value.
fn binds(family: &Family, cases: &[(Value, &str, bool)], call: impl Fn(&str) -> String) {
    for model in models_of(family, &[]) {
        for (schema, value, expected) in cases {
            let (grammar, _) = model.grammar(&[("t", with(schema.clone()))]);
            let text = call(value);
            let found = fits(&model, &grammar, &text);
            assert_eq!(found, *expected, "{schema} {text}");
        }
    }
}

#[test]
fn values_between_tags_are_texts_or_json() {
    let text = |keywords: Value| {
        let mut schema = json!({"type": "string"});
        let keywords = keywords.as_object().unwrap().clone();
        schema.as_object_mut().unwrap().extend(keywords);
        schema
    };
    let cases = [
        (json!({}), "any \"<x>\" {thing", true),
        (text(json!({})), "", true),
        (text(json!({"maxLength": 3})), "東京都", true),
        (text(json!({"maxLength": 3})), "four", false),
        (text(json!({"minLength": 2})), "a", false),
        (text(json!({"pattern": "^\\d+/x$"})), "12/x", true),
        (text(json!({"pattern": "^\\d+/x$"})), "12/xy", false),
        (text(json!({"pattern": "b"})), "abc", true),
        (text(json!({"pattern": "b"})), "ac", false),
        (
            text(json!({"enum": ["one", "two.", "<three>"]})),
            "two.",
            true,
        ),
        (
            text(json!({"enum": ["one", "two.", "<three>"]})),
            "<three>",
            true,
        ),
        (
            text(json!({"enum": ["one", "two.", "<three>"]})),
            "twox",
            false,
        ),
        (json!({"const": "x"}), "y", false),
        (json!({"type": "integer", "maximum": 7}), "7", true),
        (json!({"type": "integer", "maximum": 7}), "8", false),
        (json!({"type": "number"}), "123456789012345678901", false),
        (json!({"type": "boolean"}), "true", true),
        (json!({"type": "boolean"}), "True", false),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            "[\"a\", \"b\"]",
            true,
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            "[1]",
            false,
        ),
        (json!({"type": "array"}), "[\"</parameter>\"]", false),
        (json!({"type": "array"}), "[\"\\u003c/parameter>\"]", true),
        (json!({"type": "array"}), "a", false),
        (
            json!({"anyOf": [{"enum": ["a"]}, {"type": "null"}]}),
            "null",
            true,
        ),
        (
            json!({"anyOf": [{"enum": ["a"]}, {"type": "null"}]}),
            "a",
            true,
        ),
        (
            json!({"anyOf": [{"enum": ["a"]}, {"type": "null"}]}),
            "b",
            false,
        ),
        (
            json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
            "b",
            true,
        ),
        (json!({"type": ["integer", "null"]}), "null", true),
        (json!({"type": ["integer", "null"]}), "x", false),
        (json!({"enum": [1, 2]}), "2", true),
        (json!({"enum": [1, 2]}), "3", false),
    ];
    binds(&family("qwen_xml"), &cases, |value| {
        format!(
            "<tool_call>\n<function=t>\n<parameter=p>\n{value}\n</parameter>\n</function>\n</tool_call>"
        )
    });
    binds(&family("minimax"), &cases, |value| {
        format!(
            "<minimax:tool_call><invoke name=\"t\"><parameter name=\"p\">{value}</parameter></invoke></minimax:tool_call>"
        )
    });
}

#[test]
fn literals_are_bound() {
    let list = json!({"type": "array", "items": {"type": "integer"}});
    let place = json!({
        "type": "object",
        "properties": {"x": {"type": "integer"}, "y": {"$ref": "#/properties/p/properties/x"}},
        "required": ["y"],
    });
    let python = [
        (json!({}), "{'a': [None, 1.5e3, \"b\"]}", true),
        (json!({}), "null", false),
        (json!({"type": "string"}), "'it\\'s\\n\\u00e9'", true),
        (json!({"type": "string"}), "'it's'", false),
        (json!({"type": "string"}), "'\\ud800'", false),
        (json!({"enum": ["it's", 2, null]}), "\"it's\"", true),
        (json!({"enum": ["it's", 2, null]}), "'it\\'s'", true),
        (json!({"enum": ["it's", 2, null]}), "None", true),
        (json!({"enum": ["it's", 2, null]}), "3", false),
        (json!({"type": "boolean"}), "True", true),
        (json!({"type": "boolean"}), "true", false),
        (json!({"type": "integer", "minimum": 5}), "5", true),
        (json!({"type": "integer", "minimum": 5}), "4", false),
        (list.clone(), "[1, 2]", true),
        (list.clone(), "[]", true),
        (list.clone(), "[1.5]", false),
        (list.clone(), "[1,]", false),
        (place.clone(), "{'y': 2}", true),
        (place.clone(), "{\"x\": 1, 'y': 2}", true),
        (place.clone(), "{'x': 1}", false),
        (place.clone(), "{'y': 'a'}", false),
    ];
    binds(&family("lfm2"), &python, |value| {
        format!("<|tool_call_start|>[t(p={value})]<|tool_call_end|>")
    });
    let gemma = [
        (json!({}), "{a:[null,1,<escape>}{<escape>]}", true),
        (json!({}), "\"a\"", false),
        (json!({"enum": ["a b"]}), "<escape>a b<escape>", true),
        (json!({"enum": ["a b"]}), "<escape>b<escape>", false),
        (json!({"type": "boolean"}), "true", true),
        (list.clone(), "[1,2]", true),
        (list, "[<escape>a<escape>]", false),
        (place.clone(), "{x:1,y:2}", true),
        (place, "{x:1}", false),
    ];
    binds(&family("gemma"), &gemma, |value| {
        format!("<start_function_call>call:t{{p:{value}}}<end_function_call>")
    });
}

#[test]
fn whatever_a_schema_says_a_tool_can_be_called() {
    let node = json!({"type": "object", "properties": {"next": {"$ref": "#/properties/p"}}});
    let many: serde_json::Map<String, Value> = (0..300)
        .map(|n| (format!("p{n}"), json!({"type": "null"})))
        .collect();
    let again = json!({"$ref": "#/properties/p"});
    let endless = json!({"anyOf": [again, again, again, {"type": "integer"}, again]});
    let deep = (0..15).fold(json!({"type": "null"}), |inner, _| {
        let mut properties: serde_json::Map<String, Value> = (0..50)
            .map(|n| (format!("p{n}"), json!({"type": "null"})))
            .collect();
        properties.insert("last".to_owned(), inner);
        json!({"type": "object", "properties": properties})
    });
    let schemas = [
        Value::Null,
        deep,
        with(endless),
        json!(false),
        json!({"type": "array"}),
        with(json!({"type": "integer", "minimum": 3, "maximum": 1})),
        with(json!({"type": "strin"})),
        with(json!({"enum": []})),
        with(json!(false)),
        with(json!("string")),
        with(json!({"$ref": "#/$defs/nowhere"})),
        with(json!({"$ref": "#/properties/p"})),
        with(json!({"type": "string", "pattern": "("})),
        with(json!({"type": "string", "minLength": 3, "maxLength": 1})),
        with(json!({"type": "string", "format": "date", "pattern": "^a|b$"})),
        with(json!({"enum": ["</parameter>", "</arg_value>", "<escape>", "<|\"|>"]})),
        with(json!({"type": "array", "uniqueItems": true})),
        with(json!({"anyOf": [{"type": "string", "maxLength": 1}, {"type": "array"}]})),
        with(node),
        json!({"type": "object", "properties": {"a b>\"\n": {"type": "integer"}}, "required": ["a b>\"\n"]}),
        json!({"type": "object", "properties": [1]}),
        json!({"type": "object", "required": [1]}),
        json!({"type": "object", "required": ["a"], "additionalProperties": false}),
        json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
        json!({"type": "object", "properties": many}),
        json!({"type": "object", "additionalProperties": {"type": "integer"}}),
    ];
    for family in families() {
        let [model, _] = models_of(&family, &super::family_walks::ENDINGS);
        for (seed, schema) in (0..).zip(&schemas) {
            let (grammar, fallbacks) = model.grammar(&[("t", schema.clone())]);
            for fallback in &fallbacks {
                assert!(!fallback.reason.is_empty() && !fallback.reason.contains('\n'));
            }
            let text = walk(&model, &grammar, start(family.name), seed);
            let calls = text.as_ref().ok().and_then(|text| read(family.name, text));
            let calls = calls.unwrap_or_else(|| panic!("{} {schema} {text:?}", family.name));
            for Read::Json(name, _) | Read::Texts(name, _) in calls {
                assert_eq!(name, "t");
            }
        }
    }
}

#[test]
fn a_property_that_cannot_be_bound_costs_no_other() {
    let schema = json!({
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": "integer", "minimum": 3, "maximum": 1},
        },
        "required": ["a", "b"],
    });
    let family = family("glm");
    let [model, _] = models_of(&family, &[]);
    let (grammar, fallbacks) = model.grammar(&[("t", schema)]);
    assert_eq!(fallbacks.len(), 1);
    assert_eq!(fallbacks[0].loss, Loss::Keywords);
    let argument =
        |key: &str, value: &str| format!("<arg_key>{key}</arg_key><arg_value>{value}</arg_value>");
    let call = |arguments: String| format!("<tool_call>t{arguments}</tool_call>");
    assert!(fits(
        &model,
        &grammar,
        &call(argument("a", "1") + &argument("b", "2"))
    ));
    assert!(!fits(
        &model,
        &grammar,
        &call(argument("a", "x") + &argument("b", "2"))
    ));
    assert!(!fits(
        &model,
        &grammar,
        &call(argument("a", "1") + &argument("b", "x"))
    ));
    assert!(!fits(&model, &grammar, &call(argument("b", "2"))));
}

#[test]
fn a_closer_may_end_the_turn() {
    // Those who run gpt-oss stop it at its closer.
    let family = family("harmony");
    let [model, _] = models_of(&family, &[]);
    let closer = model.token("<|call|>");
    let (tokenizer, end) = byte_tokenizer(&[], family.special);
    let at = family
        .special
        .iter()
        .position(|text| *text == "<|call|>")
        .unwrap();
    let ends = [(end + 1 + at) as u32];
    let stopped = Model::with(&tokenizer, &ends, end + 40, CallFormat::harmony());
    for (model, end) in [(&model, closer), (&stopped, ends[0])] {
        let grammar = model.strict(&[("now", json!({}))]);
        let mut constraint = Constraint::new(&grammar);
        let text = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{";
        assert_eq!(model.write(&mut constraint, text), "");
        assert!(!constraint.accepts(end) && !constraint.mask().unwrap().allows(end));
        assert_eq!(model.write(&mut constraint, "}"), "");
        assert!(constraint.accepts(end) && constraint.mask().unwrap().allows(end));
        assert!(!constraint.accepts(u32::from(b'x')));
        constraint.advance(end).unwrap();
    }
}

#[test]
fn without_a_token_that_ends_the_turn_all_is_free_behind_a_call() {
    let (tokenizer, end) = byte_tokenizer(&[], &[]);
    let model = Model::with(&tokenizer, &[], end + 40, CallFormat::granite());
    let grammar = model.strict(&[("now", json!({}))]);
    let text = "<tool_call>[{\"name\": \"now\", \"arguments\": {}}] and more";
    assert!(fits(&model, &grammar, text));
}

#[test]
fn a_deep_schema_takes_little_stack() {
    let schema = (0..15).fold(json!({"type": "null"}), |inner, _| {
        let mut properties: serde_json::Map<String, Value> = (0..50)
            .map(|n| (format!("p{n}"), json!({"type": "null"})))
            .collect();
        properties.insert("last".to_owned(), inner);
        json!({"type": "object", "properties": properties})
    });
    // Half of what threads have that serve requests.
    std::thread::scope(|scope| {
        let compile = || {
            for name in ["lfm2", "gemma", "glm"] {
                let [model, _] = models_of(&family(name), &[]);
                let (_, fallbacks) = model.grammar(&[("t", schema.clone())]);
                assert!(name == "glm" || fallbacks[0].loss == Loss::Keywords);
            }
        };
        let thread = std::thread::Builder::new().stack_size(1 << 20);
        thread.spawn_scoped(scope, compile).unwrap();
    });
}
