//! Text as Python writes it: `json.dumps`, `str` and `repr`. Chat templates
//! are written for Python, and a prompt that differs by one space is not the
//! prompt the model was trained with.
//!
//! Knows nothing of chat or of templates' syntax.

use std::fmt::Write as _;

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// What may be told to `json.dumps`.
#[derive(Debug, Clone)]
pub(super) struct Dumps {
    /// Text of one level of indentation; `None` keeps all on one line.
    pub(super) indent: Option<String>,
    /// Between two items.
    pub(super) item_separator: String,
    /// Between a key and its value.
    pub(super) key_separator: String,
    /// Order object keys by their text.
    pub(super) sort_keys: bool,
    /// Write characters beyond ASCII as `\u` escapes.
    pub(super) ensure_ascii: bool,
}

impl Default for Dumps {
    /// What `json.dumps(x, ensure_ascii=False)` does.
    fn default() -> Self {
        Self {
            indent: None,
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            sort_keys: false,
            ensure_ascii: false,
        }
    }
}

impl Dumps {
    /// The JSON text of `value`.
    ///
    /// # Errors
    /// If it holds something JSON has no form for, such as an undefined value.
    pub(super) fn dump(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write(&mut out, value, 0)?;
        Ok(out)
    }

    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value, Floats::Json)),
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
                self.write_all(out, depth, ('[', ']'), &items, |out, item, depth| {
                    self.write(out, item, depth)
                })?;
            }
            ValueKind::Map => {
                let mut items = pairs(value)?;
                if self.sort_keys {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.write_all(out, depth, ('{', '}'), &items, |out, (key, item), depth| {
                    self.write_key(out, key)?;
                    out.push_str(&self.key_separator);
                    self.write(out, item, depth)
                })?;
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::BadSerialization,
                    format!("a value of type {kind} has no JSON form"),
                ));
            }
        }
        Ok(())
    }

    fn write_all<T>(
        &self,
        out: &mut String,
        depth: usize,
        (open, close): (char, char),
        items: &[T],
        write: impl Fn(&mut String, &T, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |out: &mut String, depth: usize| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item_separator);
            }
            new_line(out, depth + 1);
            write(out, item, depth + 1)?;
        }
        if !items.is_empty() {
            new_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    /// Writes an object's key. Python turns numbers, booleans and None into text.
    fn write_key(&self, out: &mut String, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.write_string(out, key.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                out.push('"');
                self.write(out, key, 0)?;
                out.push('"');
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::BadSerialization,
                    format!("a JSON object cannot have a key of type {kind}"),
                ));
            }
        }
        Ok(())
    }

    fn write_string(&self, out: &mut String, text: &str) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\0'..='\x1f' => push_escape(out, 'u', u32::from(character), 4),
                _ if self.ensure_ascii && !(' '..='~').contains(&character) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        push_escape(out, 'u', u32::from(*unit), 4);
                    }
                }
                _ => out.push(character),
            }
        }
        out.push('"');
    }
}

/// What Python's `str(value)` gives; nothing for an undefined value, as jinja2
/// prints it.
///
/// # Errors
/// If the value carries an error, or iterating over it fails.
pub(super) fn str(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None if value.is_undefined() => Ok(String::new()),
        None => {
            let mut out = String::new();
            write_repr(&mut out, value)?;
            Ok(out)
        }
    }
}

fn write_repr(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value, Floats::Python)),
        ValueKind::String => quote(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.downcast_object_ref::<Tuple>().is_some();
            out.push(if tuple { '(' } else { '[' });
            let mut length = 0;
            for item in value.try_iter()?.checked() {
                if length > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &item?)?;
                length += 1;
            }
            out.push_str(match (tuple, length) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
        }
        ValueKind::Map => {
            out.push('{');
            for (index, (key, item)) in pairs(value)?.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(out, key)?;
                out.push_str(": ");
                write_repr(out, item)?;
            }
            out.push('}');
        }
        ValueKind::Invalid => {
            return Err(Error::new(ErrorKind::InvalidOperation, value.to_string()));
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// The entries of a map, in its order.
fn pairs(map: &Value) -> Result<Vec<(Value, Value)>, Error> {
    map.try_iter()?
        .checked()
        .map(|key| {
            let key = key?;
            let value = map.get_item(&key)?;
            Ok((key, value))
        })
        .collect()
}

/// Whose names infinity and "not a number" get.
#[derive(Clone, Copy, PartialEq)]
enum Floats {
    Json,
    Python,
}

fn number(value: &Value, names: Floats) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match (f64::try_from(value.clone()), names) {
        (Ok(float), Floats::Json) if float.is_nan() => "NaN".to_owned(),
        (Ok(float), Floats::Json) if float == f64::INFINITY => "Infinity".to_owned(),
        (Ok(float), Floats::Json) if float == f64::NEG_INFINITY => "-Infinity".to_owned(),
        (Ok(float), _) if float.is_nan() => "nan".to_owned(),
        (Ok(float), _) => float_repr(float),
        (Err(_), _) => value.to_string(),
    }
}

/// Python's `repr` of a float: the shortest digits that read back, with an
/// exponent below 1e-4 and from 1e16 on.
fn float_repr(float: f64) -> String {
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let magnitude = float.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{float:e}");
        if let Some((digits, exponent)) = text.split_once('e') {
            return match exponent.strip_prefix('-') {
                Some(negative) => format!("{digits}e-{negative:0>2}"),
                None => format!("{digits}e+{exponent:0>2}"),
            };
        }
        return text;
    }
    let text = float.to_string();
    if text.contains('.') {
        text
    } else {
        text + ".0"
    }
}

/// Writes a string as Python's `repr` does.
fn quote(out: &mut String, text: &str) {
    let mark = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(mark);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character == mark => {
                out.push('\\');
                out.push(mark);
            }
            _ if unprintable(character) => match u32::from(character) {
                code @ ..=0xff => push_escape(out, 'x', code, 2),
                code @ ..=0xffff => push_escape(out, 'u', code, 4),
                code => push_escape(out, 'U', code, 8),
            },
            _ => out.push(character),
        }
    }
    out.push(mark);
}

/// The characters of Unicode's categories Cc, Cf (its common ones), Zl, Zp and
/// Zs but for the space, which `repr` escapes.
fn unprintable(character: char) -> bool {
    character.is_control()
        || (character.is_whitespace() && character != ' ')
        || matches!(
            character,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{feff}'
            | '\u{e000}'..='\u{f8ff}' | '\u{fff9}'..='\u{fffb}'
        )
}

fn push_escape(out: &mut String, letter: char, code: u32, width: usize) {
    // Writing to a String cannot fail.
    let _ = write!(out, "\\{letter}{code:0width$x}");
}
