//! Makes a tool's schema one that llguidance reads as it is meant.
//!
//! Knows nothing of grammars.

use serde_json::{Map, Value};

/// Deeper schemas are not compiled: llguidance takes a stack frame or more a
/// level. JSON that was parsed is never this deep.
const MAX_DEPTH: usize = 128;

/// The drafts of JSON schema that llguidance tells apart.
const DRAFTS: [&str; 5] = [
    "http://json-schema.org/draft-04/schema",
    "http://json-schema.org/draft-06/schema",
    "http://json-schema.org/draft-07/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
];

/// A schema that does not compile as it is.
pub(super) struct Unusable {
    /// Why, in a line.
    pub(super) reason: String,
    /// What may compile with some keywords left out.
    pub(super) schema: Option<Value>,
}

impl From<&str> for Unusable {
    fn from(reason: &str) -> Self {
        Self {
            reason: reason.to_owned(),
            schema: None,
        }
    }
}

/// The schema of those objects that satisfy `schema`.
pub(super) fn objects(schema: &Value) -> Result<Value, Unusable> {
    if depth(schema) > MAX_DEPTH {
        return Err("the schema is nested too deeply".into());
    }
    let mut schema = match schema {
        Value::Null | Value::Bool(true) => Map::new(),
        Value::Object(schema) => schema.clone(),
        _ => return Err("the schema is not an object".into()),
    };
    match schema.get("type") {
        None => {}
        Some(Value::String(kind)) if kind == "object" => {}
        Some(Value::Array(kinds)) if kinds.iter().any(|kind| kind == "object") => {}
        Some(_) => return Err("the schema is not that of an object".into()),
    }
    schema.insert("type".to_owned(), "object".into());
    // llguidance refuses schemas of drafts it has not heard of; read as the
    // newest one they are what most of their authors meant.
    let draft = schema.get("$schema").and_then(Value::as_str);
    if !draft.is_some_and(|draft| DRAFTS.contains(&draft.trim_end_matches('#'))) {
        schema.shift_remove("$schema");
    }
    let mut schema = Value::Object(schema);
    spell_out_classes(&mut schema);
    if has_inner_id(&schema) {
        return Err("a part of the schema has an $id, from which references would count".into());
    }
    Ok(schema)
}

/// How deeply a value is nested. Does not recurse, since it guards what does.
fn depth(value: &Value) -> usize {
    let mut deepest = 0;
    let mut open = vec![(value, 1)];
    while let Some((value, depth)) = open.pop() {
        deepest = deepest.max(depth);
        open.extend(children(value).map(|child| (child, depth + 1)));
    }
    deepest
}

/// Whether a part other than the root says that references in it count from
/// there, while llguidance counts all of them from the root.
fn has_inner_id(schema: &Value) -> bool {
    let mut open: Vec<&Value> = children(schema).collect();
    while let Some(value) = open.pop() {
        if value.get("$id").is_some_and(Value::is_string) {
            return true;
        }
        open.extend(children(value));
    }
    false
}

fn children(value: &Value) -> impl Iterator<Item = &Value> {
    let values = value.as_object().into_iter().flat_map(Map::values);
    values.chain(value.as_array().into_iter().flatten())
}

/// Takes NUL out of the negated classes of all patterns. llguidance quotes a
/// class for JSON as if it held `"` and `\` wherever it holds all control
/// characters, so that `[^"]` would allow a quote; one without NUL it quotes
/// right.
fn spell_out_classes(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    for (key, value) in schema {
        match key.as_str() {
            "pattern" => {
                if let Some(pattern) = value.as_str() {
                    *value = without_nul(pattern).into();
                }
            }
            "patternProperties" => {
                if let Some(properties) = value.as_object_mut() {
                    *properties = std::mem::take(properties)
                        .into_iter()
                        .map(|(pattern, schema)| (without_nul(&pattern), schema))
                        .collect();
                    properties.values_mut().for_each(spell_out_classes);
                }
            }
            "properties" | "$defs" | "definitions" => {
                let schemas = value.as_object_mut().into_iter();
                let schemas = schemas.flat_map(|schemas| schemas.values_mut());
                schemas.for_each(spell_out_classes);
            }
            "items"
            | "prefixItems"
            | "additionalItems"
            | "additionalProperties"
            | "allOf"
            | "anyOf"
            | "oneOf" => match value {
                Value::Array(schemas) => schemas.iter_mut().for_each(spell_out_classes),
                schema => spell_out_classes(schema),
            },
            // All others are annotations, or data that only looks like a schema.
            _ => {}
        }
    }
}

/// The pattern with NUL added to what its negated classes exclude.
fn without_nul(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len() + 8);
    let mut in_class = false;
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        text.push(character);
        match character {
            '\\' => text.extend(characters.next()),
            '[' if !in_class => {
                in_class = true;
                if let Some(negation) = characters.next_if_eq(&'^') {
                    text.push(negation);
                    text.push_str("\\x00");
                }
            }
            ']' => in_class = false,
            _ => {}
        }
    }
    text
}
