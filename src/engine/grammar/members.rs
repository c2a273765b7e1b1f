//! Reads from a tool's schema what its arguments may be, for the forms that are
//! not JSON.
//!
//! Knows nothing of how they are written.

use serde_json::{Map, Value, json};

/// How many references and alternatives within each other are followed.
pub(super) const MAX_NESTING: usize = 16;

/// The members of an object.
pub(super) struct Members {
    /// Those with a name, in the schema's order.
    pub(super) named: Vec<Member>,
    /// The schema of any others, if there are none with a name.
    pub(super) others: Option<Value>,
    /// The keywords that are not heeded.
    pub(super) lost: Vec<String>,
}

/// A member of an object.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) schema: Value,
    pub(super) required: bool,
}

/// Keywords of an object that are not heeded where its members are not JSON.
const UNHEEDED: [&str; 13] = [
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "patternProperties",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "enum",
    "const",
];

/// The members of the objects of `schema`, a part of `root`.
pub(super) fn members(root: &Value, schema: &Value) -> Result<Members, String> {
    let schema = resolve(root, schema);
    let empty = Map::new();
    let properties = match schema.get("properties") {
        None => &empty,
        Some(properties) => properties
            .as_object()
            .ok_or("\"properties\" is not an object")?,
    };
    let required: Vec<&str> = match schema.get("required") {
        None => Vec::new(),
        Some(Value::Array(names)) => names
            .iter()
            .map(|name| name.as_str().ok_or("\"required\" is not a list of names"))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err("\"required\" is not a list of names".to_owned()),
    };
    let others = match schema.get("additionalProperties") {
        None => json!(true),
        Some(others) => others.clone(),
    };
    let mut named = Vec::new();
    for (name, schema) in properties {
        let required = required.contains(&name.as_str());
        if *schema != json!(false) {
            let (name, schema) = (name.clone(), schema.clone());
            named.push(Member {
                name,
                schema,
                required,
            });
        } else if required {
            return Err(format!("nothing satisfies {name:?}"));
        }
    }
    for name in required {
        if !properties.contains_key(name) {
            named.push(Member {
                name: name.to_owned(),
                schema: others.clone(),
                required: true,
            });
        }
    }
    let lost = UNHEEDED.iter().filter(|key| schema.get(**key).is_some());
    Ok(Members {
        others: (named.is_empty() && others != json!(false)).then_some(others),
        lost: lost.map(|key| format!("{key} is not heeded")).collect(),
        named,
    })
}

/// `schema`, or what it refers to.
pub(super) fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut schema = schema;
    for _ in 0..MAX_NESTING {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let target = reference.and_then(|reference| root.pointer(reference.strip_prefix('#')?));
        match target {
            Some(target) => schema = target,
            None => break,
        }
    }
    schema
}

/// `schema`, a part of `root`, with what it refers to, as one of its own.
pub(super) fn alone(root: &Value, schema: &Value) -> Value {
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        Value::Bool(false) => json!({"not": {}}),
        _ => json!({}),
    };
    if refers(&schema) {
        let mut root = root.clone();
        move_references(&mut root);
        move_references(&mut schema);
        schema["$defs"] = json!({"root": root});
    }
    schema
}

fn refers(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            members.get("$ref").is_some_and(Value::is_string) || members.values().any(refers)
        }
        Value::Array(items) => items.iter().any(refers),
        _ => false,
    }
}

fn move_references(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get_mut("$ref")
                && let Some(pointer) = reference.strip_prefix('#')
            {
                *reference = format!("#/$defs/root{pointer}");
            }
            members.values_mut().for_each(move_references);
        }
        Value::Array(items) => items.iter_mut().for_each(move_references),
        _ => {}
    }
}

/// The kinds of values a schema's `type` names; all if it names none.
pub(super) fn kinds(schema: &Value) -> Result<Vec<&str>, String> {
    let unknown = || format!("the type {} is not known", schema["type"]);
    const KINDS: [&str; 7] = [
        "string", "integer", "number", "boolean", "null", "array", "object",
    ];
    let known = |kind: &Value| {
        let kind = kind
            .as_str()
            .and_then(|kind| KINDS.iter().find(|known| **known == kind));
        kind.copied().ok_or_else(unknown)
    };
    match schema.get("type") {
        None => Ok(KINDS.to_vec()),
        Some(Value::Array(kinds)) => kinds.iter().map(known).collect(),
        Some(kind) => Ok(vec![known(kind)?]),
    }
}

/// Whether a value is of one of the kinds.
pub(super) fn is_of(kinds: &[&str], value: &Value) -> bool {
    kinds.iter().any(|kind| match *kind {
        "string" => value.is_string(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        _ => value.is_object(),
    })
}

/// The values a schema lists, if it does.
pub(super) fn listed(schema: &Value) -> Option<Vec<&Value>> {
    if let Some(value) = schema.get("const") {
        return Some(vec![value]);
    }
    let values = schema.get("enum")?.as_array()?;
    Some(values.iter().collect())
}

/// The schemas any of which a value may satisfy, if the schema says so.
pub(super) fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    let schemas = schema.get("anyOf").or_else(|| schema.get("oneOf"))?;
    schemas.as_array()
}
