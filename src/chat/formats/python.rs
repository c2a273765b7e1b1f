//! Python's literals, and calls with named arguments, as LFM2 writes them.
//!
//! Knows no markers and carries nothing out: names other than the constants are
//! not values.

use serde_json::{Map, Number, Value as Json};

use super::ParsedCall;
use crate::chat::Arguments;

/// Why a text was not read to the end of what was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It is well so far and ends too early.
    More,
    /// It is something else.
    Bad,
}

type Read<T> = Result<T, Stop>;

/// How deep values may be within each other.
const DEPTH: usize = 64;

/// The value of a text that is one literal.
pub(super) fn literal(text: &str) -> Option<Json> {
    // With a blank behind it, a number or a name is known to be over.
    let text = format!("{text} ");
    let mut cursor = Cursor::new(&text);
    let value = cursor.value(DEPTH).ok()?;
    cursor.rest().trim().is_empty().then_some(value)
}

/// The call `name(key=value, …)` that `text` begins with, and how long it is.
///
/// # Errors
/// If it is not all there, or is no such call.
pub(super) fn call(text: &str) -> Read<(ParsedCall, usize)> {
    let mut cursor = Cursor::new(text);
    let name = cursor.word()?.to_owned();
    if name.is_empty() {
        return Err(Stop::Bad);
    }
    cursor.blanks();
    cursor.expect('(')?;
    let mut arguments = Map::new();
    cursor.items(')', |cursor| {
        let key = cursor.word()?.to_owned();
        if key.is_empty() {
            return Err(Stop::Bad);
        }
        cursor.blanks();
        cursor.expect('=')?;
        cursor.blanks();
        arguments.insert(key, cursor.value(DEPTH)?);
        Ok(())
    })?;
    let call = ParsedCall {
        name,
        arguments: Arguments::Object(arguments),
        id: None,
    };
    Ok((call, cursor.at))
}

/// The name of the call that `text` begins with.
pub(super) fn name_in(text: &str) -> Option<String> {
    let text = text.trim_start_matches(|c: char| c == '[' || c == ',' || c.is_whitespace());
    let (name, _) = text.split_once('(')?;
    let name = name.trim_end();
    (!name.is_empty() && name.chars().all(is_word)).then(|| name.to_owned())
}

/// What names are made of, those of tools included.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '-')
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Read<char> {
        self.rest().chars().next().ok_or(Stop::More)
    }

    fn next(&mut self) -> Read<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Ok(next)
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn expect(&mut self, wanted: char) -> Read<()> {
        if self.peek()? != wanted {
            return Err(Stop::Bad);
        }
        self.at += wanted.len_utf8();
        Ok(())
    }

    /// The word here; may be empty. It is over only when something follows.
    fn word(&mut self) -> Read<&'a str> {
        let rest = self.rest();
        let length = rest.find(|c| !is_word(c)).ok_or(Stop::More)?;
        self.at += length;
        Ok(&rest[..length])
    }

    /// Items with commas between them, up to `closing`.
    fn items(&mut self, closing: char, mut item: impl FnMut(&mut Self) -> Read<()>) -> Read<()> {
        loop {
            self.blanks();
            if self.peek()? == closing {
                return self.expect(closing);
            }
            item(self)?;
            self.blanks();
            if self.peek()? == ',' {
                self.expect(',')?;
            } else {
                return self.expect(closing);
            }
        }
    }

    fn value(&mut self, depth: usize) -> Read<Json> {
        let depth = depth.checked_sub(1).ok_or(Stop::Bad)?;
        match self.peek()? {
            '"' | '\'' => self.string().map(Json::String),
            '[' => self.list(']', depth),
            '(' => self.list(')', depth),
            '{' => self.dict(depth),
            c if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => self.number(),
            _ => match self.word()? {
                "True" | "true" => Ok(Json::Bool(true)),
                "False" | "false" => Ok(Json::Bool(false)),
                "None" | "null" => Ok(Json::Null),
                _ => Err(Stop::Bad),
            },
        }
    }

    fn list(&mut self, closing: char, depth: usize) -> Read<Json> {
        self.next()?;
        let mut items = Vec::new();
        self.items(closing, |cursor| {
            items.push(cursor.value(depth)?);
            Ok(())
        })?;
        Ok(Json::Array(items))
    }

    fn dict(&mut self, depth: usize) -> Read<Json> {
        self.next()?;
        let mut fields = Map::new();
        self.items('}', |cursor| {
            let key = match cursor.value(depth)? {
                Json::String(key) => key,
                other => other.to_string(),
            };
            cursor.blanks();
            cursor.expect(':')?;
            cursor.blanks();
            fields.insert(key, cursor.value(depth)?);
            Ok(())
        })?;
        Ok(Json::Object(fields))
    }

    fn number(&mut self) -> Read<Json> {
        let rest = self.rest();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.' | '_');
        let length = rest.find(|c| !is_part(c)).ok_or(Stop::More)?;
        self.at += length;
        let digits = rest[..length].replace('_', "");
        if let Ok(integer) = digits.parse::<i64>() {
            return Ok(integer.into());
        }
        if let Ok(integer) = digits.parse::<u64>() {
            return Ok(integer.into());
        }
        let float = digits.parse::<f64>().map_err(|_| Stop::Bad)?;
        Number::from_f64(float).map(Json::Number).ok_or(Stop::Bad)
    }

    fn string(&mut self) -> Read<String> {
        let quote = self.next()?;
        let triple: String = [quote; 3].iter().collect();
        let mut closing = quote.to_string();
        let rest = self.rest();
        if rest.starts_with(&triple[1..]) {
            closing = triple;
            self.at += 2;
        } else if rest == &triple[2..] {
            // The empty string, or the start of three quotes.
            return Err(Stop::More);
        }
        let mut string = String::new();
        loop {
            if self.rest().starts_with(&closing) {
                self.at += closing.len();
                return Ok(string);
            }
            match self.next()? {
                '\\' => self.escape(&mut string)?,
                c => string.push(c),
            }
        }
    }

    /// What stands behind a backslash.
    fn escape(&mut self, string: &mut String) -> Read<()> {
        let plain = match self.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            '0' => '\0',
            c @ ('\\' | '\'' | '"' | '/') => c,
            '\n' => return Ok(()),
            'x' => self.code(2)?,
            'u' => self.code(4)?,
            'U' => self.code(8)?,
            other => {
                string.push('\\');
                other
            }
        };
        string.push(plain);
        Ok(())
    }

    /// The character with the code of so many hexadecimal digits; two codes
    /// where JSON's notation takes a pair for one character.
    fn code(&mut self, digits: usize) -> Read<char> {
        let code = self.hex(digits)?;
        if !(0xD800..0xDC00).contains(&code) {
            return char::from_u32(code).ok_or(Stop::Bad);
        }
        self.expect('\\')?;
        self.expect('u')?;
        let low = self.hex(4)?;
        let offset = low.checked_sub(0xDC00).filter(|low| *low < 0x400);
        let offset = offset.ok_or(Stop::Bad)?;
        char::from_u32(0x10000 + ((code - 0xD800) << 10) + offset).ok_or(Stop::Bad)
    }

    fn hex(&mut self, digits: usize) -> Read<u32> {
        let mut code: u32 = 0;
        for _ in 0..digits {
            let digit = self.next()?.to_digit(16).ok_or(Stop::Bad)?;
            code = code.checked_mul(16).ok_or(Stop::Bad)? + digit;
        }
        Ok(code)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn literals_are_read() {
        let cases = [
            ("1", json!(1)),
            ("-1_000", json!(-1000)),
            ("2.5e3", json!(2500.0)),
            ("18446744073709551615", json!(u64::MAX)),
            ("True", json!(true)),
            ("null", json!(null)),
            ("'it\\'s \"x\"'", json!("it's \"x\"")),
            ("\"a\\n\\t\\\\b\\d\"", json!("a\n\t\\b\\d")),
            ("''", json!("")),
            ("'''a 'b' ''c'''", json!("a 'b' ''c")),
            ("'\\x41\\u00e9\\U0001F980'", json!("Aé🦀")),
            ("'\\ud83e\\udd80'", json!("🦀")),
            ("[1, 'a', (2, None,), {}]", json!([1, "a", [2, null], {}])),
            (
                "{'a': {\"b\": [true]}, 1: 2}",
                json!({"a": {"b": [true]}, "1": 2}),
            ),
        ];
        for (text, value) in cases {
            assert_eq!(literal(text), Some(value), "{text}");
        }
        for text in [
            "",
            "x",
            "1 2",
            "[1",
            "'a",
            "{1}",
            "1x",
            "__import__('os')",
            "'\\ud83e'",
            "nan",
        ] {
            assert_eq!(literal(text), None, "{text}");
        }
        assert_eq!(literal(&"[".repeat(100_000)), None);
    }

    #[test]
    fn a_call_is_read_as_far_as_it_goes() {
        let text = "a.b-c ( x = 'p)q' , y=[1], )rest";
        let (call, length) = super::call(text).unwrap();
        assert_eq!(call.name, "a.b-c");
        let arguments = json!({"x": "p)q", "y": [1]}).as_object().unwrap().clone();
        assert_eq!(call.arguments, Arguments::Object(arguments));
        assert_eq!(&text[length..], "rest");
        for (at, _) in text[..length].char_indices() {
            assert_eq!(super::call(&text[..at]).unwrap_err(), Stop::More, "{at}");
        }
        for text in [
            "a b",
            "(x=1)",
            "a(1)",
            "a(x=y)",
            "a(x=1 y=2)",
            "a[",
            "a(**x)",
        ] {
            assert_eq!(super::call(text).unwrap_err(), Stop::Bad, "{text}");
        }
        assert_eq!(name_in(" [a(x="), Some("a".to_owned()));
        assert_eq!(name_in("[ab"), None);
    }
}
