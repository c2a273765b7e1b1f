//! What an argument means that a form writes as raw text, without quotes: the
//! tool's schema decides, since `7` may be a number and may be a text.
//!
//! The rule, for a text and the schema of its parameter:
//! - Only `string` fits: the text as it is, to the last blank.
//! - Other types fit: the first of null, boolean, integer, number, object and
//!   array that the schema has and the text is written as; then the text as it
//!   is if `string` is among them. Python's `True`, `False`, `None` and
//!   literals count as JSON's. A whole number in another notation (`2.0`) is an
//!   integer.
//! - The schema is not known or names no type, or nothing fits: JSON if the
//!   text is a JSON value other than a string, else the text.
//!
//! Types are collected from `type`, `enum`, `const`, `anyOf`, `oneOf` and
//! `allOf`, and behind a `$ref` within the schema. The values are not checked
//! further: that is the tool's affair.

use std::sync::Arc;

use serde_json::{Number, Value as Json};

use super::python;
use crate::chat::ToolSpec;

/// The tools the model may call, as far as they are known.
#[derive(Debug, Clone, Default)]
pub(in crate::chat) struct Tools(Option<Arc<[ToolSpec]>>);

/// How many references are followed from one schema.
const REFERENCES: usize = 32;

impl Tools {
    /// Exactly these.
    pub(in crate::chat) fn known(tools: &[ToolSpec]) -> Self {
        Self(Some(tools.into()))
    }

    /// Whether it is known that there are none.
    pub(in crate::chat) fn are_none(&self) -> bool {
        self.0.as_ref().is_some_and(|tools| tools.is_empty())
    }

    /// What `text` means as the argument `key` of `tool`.
    pub(super) fn argument(&self, tool: &str, key: &str, text: &str) -> Json {
        let tools = self.0.as_deref().unwrap_or_default();
        let schema = tools
            .iter()
            .find(|spec| spec.name == tool)
            .map(|spec| &spec.parameters);
        let types = schema.and_then(|schema| {
            let mut types = Types {
                root: schema,
                found: Vec::new(),
                references: REFERENCES,
            };
            types.add(schema.get("properties")?.get(key)?);
            Some(types.found)
        });
        typed(text, &types.unwrap_or_default())
    }
}

/// The types a schema allows, as far as it names them.
struct Types<'a> {
    root: &'a Json,
    found: Vec<&'a str>,
    /// How many references may still be followed.
    references: usize,
}

impl<'a> Types<'a> {
    fn add(&mut self, schema: &'a Json) {
        match schema.get("type") {
            Some(Json::String(name)) => self.found.push(name),
            Some(Json::Array(names)) => {
                self.found.extend(names.iter().filter_map(Json::as_str));
            }
            _ => {
                let values = schema.get("enum").and_then(Json::as_array);
                let values = values.into_iter().flatten().chain(schema.get("const"));
                for value in values {
                    self.found.push(type_of(value));
                }
            }
        }
        for key in ["anyOf", "oneOf", "allOf"] {
            let choices = schema.get(key).and_then(Json::as_array);
            for choice in choices.into_iter().flatten() {
                self.add(choice);
            }
        }
        if let Some(reference) = schema.get("$ref").and_then(Json::as_str)
            && let Some(pointer) = reference.strip_prefix('#')
            && let Some(target) = self.root.pointer(pointer)
            && let Some(left) = self.references.checked_sub(1)
        {
            self.references = left;
            self.add(target);
        }
    }
}

fn type_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(number) if number.is_f64() => "number",
        Json::Number(_) => "integer",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// The value of `text` if it may be of `types`, of any if there are none.
fn typed(text: &str, types: &[&str]) -> Json {
    let is = |name: &str| types.contains(&name);
    let value = || serde_json::from_str::<Json>(text.trim()).ok();
    if !types.is_empty() && types.iter().all(|name| *name == "string") {
        return text.to_owned().into();
    }
    let fits = |value: &Json| {
        let name = type_of(value);
        is(name) || (name == "integer" && is("number"))
    };
    if types.is_empty() {
        let value = value().filter(|value| !value.is_string());
        return value.unwrap_or_else(|| text.to_owned().into());
    }
    let written = value().or_else(|| python::literal(text.trim()));
    let written = written.map(|value| if is("integer") { whole(value) } else { value });
    match written.filter(|value| !value.is_string()) {
        Some(value) if fits(&value) => value,
        _ if is("string") => text.to_owned().into(),
        _ => typed(text, &[]),
    }
}

/// A number that is whole as an integer.
fn whole(value: Json) -> Json {
    /// Up to here a float holds every integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value.as_f64() {
        Some(float) if !value.is_i64() && float.fract() == 0.0 && float.abs() <= EXACT => {
            Json::Number(Number::from(float as i64))
        }
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tools() -> Tools {
        Tools::known(&[ToolSpec {
            name: "t".to_owned(),
            description: String::new(),
            parameters: json!({
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "choice": {"enum": ["1", "2"]},
                    "count": {"type": "integer"},
                    "ratio": {"type": "number"},
                    "flag": {"type": "boolean"},
                    "list": {"type": "array", "items": {"type": "string"}},
                    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "either": {"type": ["string", "integer"]},
                    "filter": {"$ref": "#/$defs/Filter"},
                    "loop": {"$ref": "#/$defs/Loop"},
                    "any": {"description": "no type"},
                },
                "$defs": {
                    "Filter": {"type": "object"},
                    "Loop": {"$ref": "#/$defs/Loop"},
                },
            }),
        }])
    }

    #[test]
    fn the_schema_decides_what_a_text_means() {
        let tools = tools();
        let cases = [
            ("text", " 7\n", json!(" 7\n")),
            ("text", "null", json!("null")),
            ("text", "{\"a\": 1}", json!("{\"a\": 1}")),
            ("choice", "1", json!("1")),
            ("count", "7", json!(7)),
            ("count", " 7.0\n", json!(7)),
            ("count", "1e3", json!(1000)),
            ("count", "-3", json!(-3)),
            ("count", "7.5", json!(7.5)),
            ("count", "seven", json!("seven")),
            ("ratio", "2", json!(2)),
            ("ratio", "0.5", json!(0.5)),
            ("flag", "true", json!(true)),
            ("flag", "False", json!(false)),
            ("list", "[\"a\", 1]", json!(["a", 1])),
            ("list", "['a', None]", json!(["a", null])),
            ("maybe", "null", json!(null)),
            ("maybe", "None", json!(null)),
            ("maybe", "nothing", json!("nothing")),
            ("maybe", "5", json!("5")),
            ("either", "5", json!(5)),
            ("either", "five", json!("five")),
            ("filter", "{\"a\": {\"b\": []}}", json!({"a": {"b": []}})),
            ("filter", "x", json!("x")),
            ("loop", "5", json!(5)),
            ("any", "5", json!(5)),
            ("unknown", "true", json!(true)),
        ];
        for (key, text, value) in cases {
            assert_eq!(tools.argument("t", key, text), value, "{key}: {text:?}");
        }
    }

    #[test]
    fn without_a_schema_json_is_json_and_the_rest_is_text() {
        let cases = [
            ("5", json!(5)),
            ("[1]", json!([1])),
            ("null", json!(null)),
            ("\"quoted\"", json!("\"quoted\"")),
            ("True", json!("True")),
            (" x ", json!(" x ")),
            ("", json!("")),
        ];
        for (text, value) in cases {
            assert_eq!(Tools::default().argument("t", "k", text), value, "{text:?}");
            assert_eq!(tools().argument("other", "count", text), value, "{text:?}");
        }
    }

    #[test]
    fn no_tools_are_not_unknown_tools() {
        assert!(Tools::known(&[]).are_none());
        assert!(!tools().are_none());
        assert!(!Tools::default().are_none());
    }
}
