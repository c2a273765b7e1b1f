//! One JSON object of the configuration with a fixed set of keys: finds each
//! key in any of its spellings and reads it as the type it must have. Knows
//! no key's meaning.
//!
//! A reader that finds a fault notes it and returns `None`, as for a key that
//! is not there; the caller goes on with any value it likes, since nothing is
//! built from a configuration with faults.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::Fault;
use super::secrets::Secrets;

/// What all sections share while a configuration is read.
pub(super) struct Context<'a> {
    pub(super) secrets: Secrets<'a>,
    pub(super) faults: Vec<Fault>,
}

impl Context<'_> {
    pub(super) fn fault(
        &mut self,
        key: impl Into<String>,
        problem: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.faults.push(Fault {
            key: key.into(),
            problem: problem.into(),
            mend: mend.into(),
        });
    }

    /// Reads a string and substitutes `${NAME}` in it.
    pub(super) fn text(&mut self, key: &str, value: &Value) -> Option<String> {
        let Value::String(written) = value else {
            self.wrong_type(key, value, "a text between double quotes");
            return None;
        };
        match self.secrets.substitute(written) {
            Ok(text) if text.contains('\0') => {
                self.fault(key, "holds a NUL character", "remove it");
                None
            }
            Ok(text) => Some(text),
            Err(misuses) => {
                for (problem, mend) in misuses {
                    self.fault(key, problem, mend);
                }
                None
            }
        }
    }

    pub(super) fn wrong_type(&mut self, key: &str, value: &Value, wanted: &str) {
        let found = match value {
            Value::Null => "is null",
            Value::Bool(_) => "is true or false",
            Value::Number(_) => "is a number",
            Value::String(_) => "is a text",
            Value::Array(_) => "is a list",
            Value::Object(_) => "is an object",
        };
        self.fault(key, found, format!("write {wanted}"));
    }
}

/// A key there may be.
pub(super) struct Key {
    /// The spelling with underscores.
    pub(super) name: &'static str,
    /// If it must be there: an example of its value.
    pub(super) example: Option<&'static str>,
}

/// A key that must be there.
pub(super) const fn required(name: &'static str, example: &'static str) -> Key {
    Key {
        name,
        example: Some(example),
    }
}

/// A key that may be left out.
pub(super) const fn optional(name: &'static str) -> Key {
    Key {
        name,
        example: None,
    }
}

/// An object whose keys are known.
pub(super) struct Section<'a> {
    /// What comes before a key in a fault: empty, or `servers.NAME.`.
    prefix: String,
    entries: Vec<(&'static str, &'a Value)>,
}

impl<'a> Section<'a> {
    /// Sorts the object's keys; notes the unknown, the doubled and the
    /// missing. `aliases` are further spellings, `(written, name)`.
    pub(super) fn new(
        context: &mut Context<'_>,
        prefix: String,
        object: &'a Map<String, Value>,
        keys: &'static [Key],
        aliases: &[(&str, &'static str)],
    ) -> Self {
        let mut entries: Vec<(&'static str, &'a Value)> = Vec::new();
        let mut spelled: Vec<(&'static str, &str)> = Vec::new();
        for (written, value) in object {
            let name = match aliases.iter().find(|(alias, _)| alias == written) {
                Some((_, name)) => (*name).to_owned(),
                None => written.replace([' ', '-'], "_"),
            };
            let Some(key) = keys.iter().find(|key| key.name == name) else {
                let mend = match nearest(&name, keys) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "remove it".to_owned(),
                };
                context.fault(format!("{prefix}{written}"), "is not a known key", mend);
                continue;
            };
            if let Some((_, before)) = spelled.iter().find(|(name, _)| *name == key.name) {
                context.fault(
                    format!("{prefix}{}", key.name),
                    format!("is given twice, as \"{before}\" and as \"{written}\""),
                    "keep one of the two",
                );
                continue;
            }
            spelled.push((key.name, written));
            entries.push((key.name, value));
        }
        for key in keys {
            if let Some(example) = key.example
                && !entries.iter().any(|(name, _)| *name == key.name)
            {
                context.fault(
                    format!("{prefix}{}", key.name),
                    "is missing",
                    format!("add it, for example \"{}\": {example}", key.name),
                );
            }
        }
        Self { prefix, entries }
    }

    /// The key as faults name it.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.entries
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| *value)
    }

    /// A text; may be empty.
    pub(super) fn text(&self, context: &mut Context<'_>, name: &str) -> Option<String> {
        context.text(&self.key(name), self.get(name)?)
    }

    /// A text with something in it.
    pub(super) fn filled(&self, context: &mut Context<'_>, name: &str) -> Option<String> {
        let text = self.text(context, name)?;
        if text.trim().is_empty() {
            context.fault(self.key(name), "is empty", "fill it in");
            return None;
        }
        Some(text)
    }

    pub(super) fn flag(&self, context: &mut Context<'_>, name: &str) -> Option<bool> {
        let value = self.get(name)?;
        if value.as_bool().is_none() {
            context.wrong_type(&self.key(name), value, "true or false, without quotes");
        }
        value.as_bool()
    }

    /// A list of texts.
    pub(super) fn texts(&self, context: &mut Context<'_>, name: &str) -> Option<Vec<String>> {
        let value = self.get(name)?;
        let Value::Array(items) = value else {
            context.wrong_type(&self.key(name), value, "a list of texts: [\"…\", \"…\"]");
            return None;
        };
        let texts = items
            .iter()
            .enumerate()
            .filter_map(|(n, item)| context.text(&format!("{}{name}[{n}]", self.prefix), item))
            .collect();
        Some(texts)
    }

    /// A whole number within the range.
    pub(super) fn whole(
        &self,
        context: &mut Context<'_>,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = self.get(name)?;
        let wanted = match *range.end() {
            u64::MAX => format!("a whole number, {} or more", range.start()),
            end => format!("a whole number from {} to {end}", range.start()),
        };
        let Value::Number(number) = value else {
            context.wrong_type(&self.key(name), value, &unquoted(wanted, value));
            return None;
        };
        // As JSON has it, 8080.0 is a whole number too.
        let float = number
            .as_f64()
            .filter(|f| f.fract() == 0.0 && (0.0..1e15).contains(f));
        let found = number.as_u64().or_else(|| float.map(|f| f as u64));
        let found = found.filter(|found| range.contains(found));
        if found.is_none() {
            context.fault(
                self.key(name),
                format!("is {number}"),
                format!("write {wanted}"),
            );
        }
        found
    }

    /// A number for which `accepts` holds.
    pub(super) fn number(
        &self,
        context: &mut Context<'_>,
        name: &str,
        wanted: &str,
        accepts: impl Fn(f64) -> bool,
    ) -> Option<f64> {
        let value = self.get(name)?;
        let Value::Number(number) = value else {
            context.wrong_type(&self.key(name), value, &unquoted(wanted.to_owned(), value));
            return None;
        };
        let found = number.as_f64().filter(|&found| accepts(found));
        if found.is_none() {
            context.fault(
                self.key(name),
                format!("is {number}"),
                format!("write {wanted}"),
            );
        }
        found
    }
}

fn unquoted(wanted: String, value: &Value) -> String {
    match value {
        Value::String(_) => format!("{wanted}, without quotes"),
        _ => wanted,
    }
}

/// The known name that is most like this one, if any is like it at all.
fn nearest(name: &str, keys: &[Key]) -> Option<&'static str> {
    let name = name.to_lowercase();
    keys.iter()
        .map(|key| (strsim::jaro_winkler(&name, key.name), key.name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
