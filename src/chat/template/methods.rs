//! Python's methods on strings, lists and dicts, as templates call them: what
//! `minijinja_contrib`'s `pycompat` lacks or does otherwise, over the rest of it.
//! Also [`Dict`], a map whose attributes are Python's.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{DynObject, Enumerator, Kwargs, Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value, value::from_args};
use minijinja_contrib::pycompat;
use serde_json::Value as Json;

/// Python's methods of `dict`.
const DICT_METHODS: [&str; 11] = [
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];

/// The methods that change a list or a dict, which the sandbox that templates
/// run in forbids.
const MUTATING: [&str; 12] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "add",
];

/// A value for a template, made of JSON: objects become [`Dict`]s and keep
/// their order.
pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
            (Some(number), _, _) => Value::from(number),
            (_, Some(number), _) => Value::from(number),
            (_, _, Some(number)) => Value::from(number),
            (None, None, None) => Value::from(number.to_string()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        Json::Object(entries) => {
            let map = Value::from_pairs(
                entries
                    .iter()
                    .map(|(key, value)| (key.as_str(), from_json(value))),
            );
            match map.as_object() {
                Some(object) => Value::from_object(Dict(object.clone())),
                None => map,
            }
        }
    }
}

/// A map that answers as Python's `dict` does: `d.items` is the method even
/// where there is an entry `items`, and `d['items']` is the entry. A tool with
/// a parameter called `items` or `values` is quite ordinary. Where there is no
/// such entry, jinja2's `d['items']` falls back to the method; here it is
/// undefined, as `'items' in d` and `d['items']` are one question to minijinja.
#[derive(Debug)]
struct Dict(DynObject);

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get_value(key)
    }

    /// What the engine calls for `d.name`, and for nothing else.
    fn get_value_by_str(self: &Arc<Self>, name: &str) -> Option<Value> {
        match DICT_METHODS.iter().find(|method| **method == name) {
            Some(method) => Some(Value::from_object(BoundMethod {
                target: Value::from_dyn_object(self.clone()),
                method,
            })),
            None => self.0.get_value_by_str(name),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.0.enumerate()
    }
}

/// A method taken from its object and not called, or called later.
#[derive(Debug)]
struct BoundMethod {
    target: Value,
    method: &'static str,
}

impl Object for BoundMethod {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        call(state, &self.target, self.method, args)
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<built-in method {} of dict object>", self.method)
    }
}

/// Calls `method` of `value`; for [`minijinja::Environment::set_unknown_method_callback`].
///
/// # Errors
/// If there is no such method, it refuses its arguments, or it would change
/// the value.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable if MUTATING.contains(&method) => {
            Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("a template may not change its data, and {method}() does"),
            ))
        }
        ValueKind::Map if method == "copy" => Ok(value.clone()),
        ValueKind::Seq | ValueKind::Iterable => sequence(state, value, method, args),
        ValueKind::String => match value.as_str() {
            Some(text) => string(state, value, text, method, args),
            None => pycompat::unknown_method_callback(state, value, method, args),
        },
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn sequence(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let count = |wanted: &Value| -> Result<(usize, Option<usize>), Error> {
        let (mut count, mut first) = (0, None);
        for (index, item) in value.try_iter()?.checked().enumerate() {
            if item? == *wanted {
                count += 1;
                first = first.or(Some(index));
            }
        }
        Ok((count, first))
    };
    match method {
        "copy" => Ok(value.clone()),
        "count" => {
            let (wanted,): (&Value,) = from_args(args)?;
            Ok(Value::from(count(wanted)?.0))
        }
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            match count(wanted)?.1 {
                Some(index) => Ok(Value::from(index)),
                None => Err(refused(format!("{wanted} is not in the list"))),
            }
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn string(
    state: &mut State<'_, '_>,
    value: &Value,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    Ok(match method {
        "split" | "rsplit" => {
            let (separator, most) = split_arguments(args)?;
            list(match (method, separator) {
                ("split", Some(separator)) => split(text, &separator, most)?,
                (_, Some(separator)) => rsplit(text, &separator, most)?,
                ("split", None) => split_whitespace(text, most),
                (_, None) => rsplit_whitespace(text, most),
            })
        }
        "splitlines" => {
            let (keep_ends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep_ends = match keep_ends {
                Some(keep_ends) => keep_ends,
                None => kwargs.get::<Option<bool>>("keepends")?.unwrap_or(false),
            };
            kwargs.assert_all_used()?;
            list(split_lines(text, keep_ends))
        }
        "strip" | "lstrip" | "rstrip" => {
            let (characters,): (Option<&str>,) = from_args(args)?;
            let drop = |character| strips(characters, character);
            Value::from(match method {
                "strip" => text.trim_matches(drop),
                "lstrip" => text.trim_start_matches(drop),
                _ => text.trim_end_matches(drop),
            })
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (found, missing) = if method == "partition" {
                (text.split_once(separator), [text, "", ""])
            } else {
                (text.rsplit_once(separator), ["", "", text])
            };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None => missing,
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "index" | "rindex" => {
            let (wanted,): (&str,) = from_args(args)?;
            let found = if method == "index" {
                text.find(wanted)
            } else {
                text.rfind(wanted)
            };
            match found {
                Some(offset) => Value::from(text[..offset].chars().count()),
                None => return Err(refused(format!("substring {wanted:?} not found"))),
            }
        }
        _ => return pycompat::unknown_method_callback(state, value, method, args),
    })
}

fn list(parts: Vec<&str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

/// `sep` and `maxsplit`, by position or by name. No `sep` means whitespace,
/// no `maxsplit` (or a negative one) means no limit.
fn split_arguments(args: &[Value]) -> Result<(Option<String>, Option<usize>), Error> {
    let (separator, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(separator) => Some(separator),
        None => kwargs.get::<Option<Value>>("sep")?,
    };
    let most = match most {
        Some(most) => Some(most),
        None => kwargs.get::<Option<i64>>("maxsplit")?,
    };
    kwargs.assert_all_used()?;
    let separator = match separator {
        Some(value) if !value.is_none() && !value.is_undefined() => match value.as_str() {
            Some(text) => Some(text.to_owned()),
            None => return Err(refused(format!("cannot split at a {}", value.kind()))),
        },
        _ => None,
    };
    Ok((separator, most.and_then(|most| usize::try_from(most).ok())))
}

fn split<'a>(text: &'a str, at: &str, most: Option<usize>) -> Result<Vec<&'a str>, Error> {
    if at.is_empty() {
        return Err(refused("cannot split at an empty text".to_owned()));
    }
    Ok(match most {
        Some(most) => text.splitn(most.saturating_add(1), at).collect(),
        None => text.split(at).collect(),
    })
}

fn rsplit<'a>(text: &'a str, at: &str, most: Option<usize>) -> Result<Vec<&'a str>, Error> {
    if at.is_empty() {
        return Err(refused("cannot split at an empty text".to_owned()));
    }
    let mut parts: Vec<&str> = match most {
        Some(most) => text.rsplitn(most.saturating_add(1), at).collect(),
        None => text.rsplit(at).collect(),
    };
    parts.reverse();
    Ok(parts)
}

fn split_whitespace(text: &str, most: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        match rest.find(is_space) {
            Some(end) if most.is_none_or(|most| parts.len() < most) => {
                parts.push(&rest[..end]);
                rest = rest[end..].trim_start_matches(is_space);
            }
            // Python keeps the whitespace at the end of the last part when the
            // limit, not the text's end, stopped it.
            _ => {
                parts.push(rest);
                break;
            }
        }
    }
    parts
}

fn rsplit_whitespace(text: &str, most: Option<usize>) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        let start = rest
            .char_indices()
            .rfind(|(_, character)| is_space(*character))
            .map(|(offset, character)| (offset, offset + character.len_utf8()));
        match start {
            Some((end, start)) if most.is_none_or(|most| parts.len() < most) => {
                parts.push(&rest[start..]);
                rest = rest[..end].trim_end_matches(is_space);
            }
            _ => {
                parts.push(rest);
                break;
            }
        }
    }
    parts.reverse();
    parts
}

/// Python's `str.splitlines`.
pub(super) fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some((end, character)) = rest.char_indices().find(|(_, c)| is_line_end(*c)) else {
            lines.push(rest);
            break;
        };
        let after = if rest[end..].starts_with("\r\n") {
            end + 2
        } else {
            end + character.len_utf8()
        };
        lines.push(&rest[..if keep_ends { after } else { end }]);
        rest = &rest[after..];
    }
    lines
}

/// Whether Python's `strip(characters)` takes `character` away.
pub(super) fn strips(characters: Option<&str>, character: char) -> bool {
    match characters {
        Some(characters) => characters.contains(character),
        None => is_space(character),
    }
}

/// Python's `str.isspace` of one character.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

/// Where Python's `str.splitlines` ends a line.
fn is_line_end(character: char) -> bool {
    matches!(
        character,
        '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

fn refused(why: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, why)
}
