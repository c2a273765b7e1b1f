//! Reads literals, Python's and Gemma's, for the walks to check.

use serde_json::{Map, Value};

/// Reads from the start of a text. `mark` stands around texts where they are
/// not in quotes.
pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) mark: Option<&'a str>,
}

impl<'a> Reader<'a> {
    /// Takes `wanted`, and whitespace before it, if it is there.
    pub(super) fn take(&mut self, wanted: &str) -> Option<()> {
        self.text = self.text.trim_start().strip_prefix(wanted)?;
        Some(())
    }

    /// Takes what `belongs` tells.
    fn word(&mut self, belongs: impl Fn(char) -> bool) -> Option<&'a str> {
        let text = self.text.trim_start();
        let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
        self.text = &text[end..];
        (end > 0).then(|| &text[..end])
    }

    pub(super) fn name(&mut self) -> Option<&'a str> {
        self.word(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$'))
    }

    /// Members up to what closes them.
    pub(super) fn members(
        &mut self,
        between: &str,
        closes: &str,
        bare: bool,
    ) -> Option<Map<String, Value>> {
        let mut members = Map::new();
        while self.take(closes).is_none() {
            if !members.is_empty() {
                self.take(",")?;
            }
            let key = match self.string() {
                Some(key) if !bare => key,
                _ => self.name()?.to_owned(),
            };
            self.take(between)?;
            let value = self.value()?;
            members.insert(key, value);
        }
        Some(members)
    }

    pub(super) fn value(&mut self) -> Option<Value> {
        if let Some(text) = self.string() {
            return Some(text.into());
        }
        if self.take("[").is_some() {
            let mut items = Vec::new();
            while self.take("]").is_none() {
                if !items.is_empty() {
                    self.take(",")?;
                }
                items.push(self.value()?);
            }
            return Some(items.into());
        }
        if self.take("{").is_some() {
            return self.members(":", "}", false).map(Value::from);
        }
        match self.word(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.'))? {
            "True" | "true" => Some(true.into()),
            "False" | "false" => Some(false.into()),
            "None" | "null" => Some(Value::Null),
            number => serde_json::from_str::<serde_json::Number>(number)
                .ok()
                .map(Value::from),
        }
    }

    fn string(&mut self) -> Option<String> {
        let text = self.text.trim_start();
        if let Some(mark) = self.mark {
            let (string, rest) = text.strip_prefix(mark)?.split_once(mark)?;
            self.text = rest;
            return Some(string.to_owned());
        }
        let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let mut string = String::new();
        let mut characters = text.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => string.push(match characters.next()?.1 {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => {
                        let digits: String = characters.by_ref().take(4).map(|(_, c)| c).collect();
                        char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?
                    }
                    other => other,
                }),
                _ if character == quote => {
                    self.text = &text[at + 1..];
                    return Some(string);
                }
                _ => string.push(character),
            }
        }
        None
    }
}

/// Keywords the grammar of literals does not heed, and names that cannot be
/// written in it: the schema without them.
pub(super) fn simplified(schema: &Value) -> Value {
    const UNHEEDED: [&str; 7] = [
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minItems",
        "maxItems",
        "prefixItems",
    ];
    const NAMES: [&str; 3] = ["the key", "q\"q", "x\\y"];
    match schema {
        Value::Object(members) => members
            .iter()
            .filter(|(key, _)| !UNHEEDED.contains(&key.as_str()))
            .map(|(key, value)| {
                let mut value = match key.as_str() {
                    "enum" | "const" => value.clone(),
                    _ => simplified(value),
                };
                if let (true, Some(properties)) = (key == "properties", value.as_object_mut()) {
                    properties.retain(|name, _| !NAMES.contains(&name.as_str()));
                }
                if let (true, Some(names)) = (key == "required", value.as_array_mut()) {
                    names.retain(|name| !NAMES.contains(&name.as_str().unwrap_or_default()));
                }
                (key.clone(), value)
            })
            .collect(),
        Value::Array(items) => items.iter().map(simplified).collect(),
        other => other.clone(),
    }
}
