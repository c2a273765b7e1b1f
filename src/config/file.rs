//! The configuration file as written: bytes to a JSON object, with help where
//! it is not one. Knows no key.

use std::cell::RefCell;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Fault;

/// Reads the file's JSON object.
pub(super) fn read(path: &Path) -> Result<Map<String, Value>, Vec<Fault>> {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = name.to_string_lossy();
    let fault = |problem: String, mend: &str| Fault {
        key: name.to_string(),
        problem,
        mend: mend.to_owned(),
    };
    let bytes = std::fs::read(path).map_err(|error| {
        vec![match error.kind() {
            ErrorKind::NotFound => fault(
                format!("there is no {}", path.display()),
                "copy config.json.example there and fill it in, \
                 name another file with --config, \
                 or run `llm-server demo`, which needs none",
            ),
            _ => fault(
                format!("{} cannot be read: {error}", path.display()),
                "make it a file that this user may read",
            ),
        }]
    })?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = 1 + count_lines(&bytes[..error.valid_up_to()]);
        vec![fault(
            format!("line {line} is not UTF-8"),
            "save the file as UTF-8",
        )]
    })?;
    parse(text.strip_prefix('\u{feff}').unwrap_or(text), &fault)
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

fn parse(
    text: &str,
    fault: &dyn Fn(String, &str) -> Fault,
) -> Result<Map<String, Value>, Vec<Fault>> {
    let doubles = RefCell::default();
    let node = Node {
        at: String::new(),
        doubles: &doubles,
    };
    let mut reader = serde_json::Deserializer::from_str(text);
    let parsed = node
        .deserialize(&mut reader)
        .and_then(|value| reader.end().map(|()| value));
    let value = parsed.map_err(|error| vec![syntax_fault(text, &error, fault)])?;
    let doubles = doubles.into_inner();
    match value {
        _ if !doubles.is_empty() => Err(doubles
            .into_iter()
            .map(|key| Fault {
                key,
                problem: "is given twice".to_owned(),
                mend: "keep one of the two".to_owned(),
            })
            .collect()),
        Value::Object(object) => Ok(object),
        _ => Err(vec![fault(
            "is not a JSON object".to_owned(),
            "write the settings between { and }, as config.json.example does",
        )]),
    }
}

/// Where and why the JSON cannot be read. Shows none of the text, which may
/// hold secrets.
fn syntax_fault(
    text: &str,
    error: &serde_json::Error,
    fault: &dyn Fn(String, &str) -> Fault,
) -> Fault {
    let (line, column) = (error.line(), error.column());
    let full = error.to_string();
    let reason = full.rsplit_once(" at line ").map_or(&*full, |(why, _)| why);
    let here = text.lines().nth(line.saturating_sub(1)).unwrap_or("");
    // The column counts bytes, from 1.
    let rest = here.get(column.saturating_sub(1)..).unwrap_or("");
    let found = rest.chars().next();

    let mend = match (reason, found) {
        ("trailing comma", _) => "remove the comma after the last entry",
        (_, Some('/' | '#')) => "remove the comment: JSON has none",
        (_, Some('\'' | '“' | '”' | '„' | '‘' | '’')) => {
            "put text between straight double quotes: \"…\""
        }
        ("expected `,` or `}`" | "expected `,` or `]`", Some('"')) => {
            "put a comma after the entry before this one"
        }
        ("trailing characters", _) => "remove what comes after the last }",
        ("control character (\\u0000-\\u001F) found while parsing a string", _) => {
            "end the text with \" on the same line, and write line breaks in it as \\n"
        }
        ("invalid escape", _) => "write \\\\ for each \\ in a text",
        ("number out of range", _) => "write a smaller number",
        _ if reason.starts_with("EOF") => {
            "something that was opened is not closed: look for a missing \", ] or }"
        }
        ("expected value" | "expected ident", Some('T' | 'F' | 'N')) => {
            "write true, false and null in small letters"
        }
        ("key must be a string" | "expected value", _) => "put keys and text between double quotes",
        _ => "mend the JSON there",
    };
    fault(format!("line {line}, column {column}: {reason}"), mend)
}

/// Builds a `Value` and notes the keys that one object has twice, which
/// `serde_json` alone would pass over in silence.
struct Node<'a> {
    at: String,
    doubles: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        loop {
            let node = Node {
                at: format!("{}[{}]", self.at, array.len()),
                doubles: self.doubles,
            };
            match items.next_element_seed(node)? {
                Some(item) => array.push(item),
                None => return Ok(Value::Array(array)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let at = match self.at.as_str() {
                "" => key.clone(),
                outer => format!("{outer}.{key}"),
            };
            if object.contains_key(&key) {
                self.doubles.borrow_mut().push(at.clone());
            }
            let doubles = self.doubles;
            let value = entries.next_value_seed(Node { at, doubles })?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}
