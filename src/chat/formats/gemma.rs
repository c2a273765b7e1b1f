//! The form of FunctionGemma and Gemma 4, objects without quotes:
//! `<start_function_call>call:name{key:<escape>text<escape>,n:1}<end_function_call>`
//! and `<|tool_call>call:name{key:<|"|>text<|"|>,list:[1,2]}<tool_call|>`.
//!
//! A text may also stand in JSON's quotes, or bare: then it goes up to a comma
//! or a closing bracket, and what it means is decided as for all raw texts.
//! What opens the results of calls is dropped: the models begin it themselves
//! where nothing ends their turn before.

use serde_json::{Map, Value as Json};

use super::python::Stop;
use super::steps::{Look, Reader, Start, Step, Syntax, start};
use super::tags::{between, length_before};
use super::values::Tools;
use super::{Arguments, Form, ParsedCall, THINK};

const OPENING: &str = "<start_function_call>";
const CLOSING: &str = "<end_function_call>";
const OPENING_4: &str = "<|tool_call>";
const CLOSING_4: &str = "<tool_call|>";
const CALL: &str = "call:";
/// What stands on both sides of a text.
const QUOTES: [&str; 2] = ["<escape>", "<|\"|>"];
/// How deep values may be within each other.
const DEPTH: usize = 64;

pub(super) const FORM: Form = Form {
    openings: &[OPENING, OPENING_4],
    closings: &[
        CLOSING,
        CLOSING_4,
        "<start_function_response>",
        "<|tool_response>",
    ],
    reasoning: &[("<|channel>thought", "<channel|>"), THINK],
    answer: &[],
    reader: |opening, tools| Reader::boxed(&SYNTAX, opening, tools),
    bare: None,
};

static SYNTAX: Syntax = Syntax {
    step,
    name: |text| between(text, CALL, "{").filter(|name| is_name(name)),
    ends: &[CLOSING, CLOSING_4],
    begins: &[OPENING, OPENING_4],
    keeps: &[],
};

fn step(look: &Look<'_>) -> Step {
    let text = look.text.trim_start();
    let blanks = length_before(look.text, text);
    if text.is_empty() {
        return Step::More;
    }
    match start(text, look.ended, &[CALL, CLOSING, CLOSING_4]) {
        Start::With(CALL) => match call(text, look.tools) {
            Ok((call, length)) => Step::Calls(vec![call], blanks + length),
            Err(Stop::More) => Step::More,
            Err(Stop::Bad) => Step::Unreadable,
        },
        Start::With(closing) => Step::Over(blanks + closing.len()),
        Start::Perhaps => Step::More,
        Start::Other if look.first => Step::Unreadable,
        Start::Other => Step::Over(0),
    }
}

/// The call that `text` begins with, and its length.
fn call(text: &str, tools: &Tools) -> Result<(ParsedCall, usize), Stop> {
    let (name, _) = text[CALL.len()..].split_once('{').ok_or(Stop::More)?;
    let mut cursor = Cursor {
        text,
        at: CALL.len() + name.len() + 1,
        tools,
        tool: name.trim(),
    };
    if !is_name(cursor.tool) {
        return Err(Stop::Bad);
    }
    let arguments = cursor.fields(DEPTH)?;
    let call = ParsedCall {
        name: cursor.tool.to_owned(),
        arguments: Arguments::Object(arguments),
        id: None,
    };
    Ok((call, cursor.at))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_whitespace)
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
    tools: &'a Tools,
    tool: &'a str,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// What comes next, blanks aside.
    fn next(&mut self) -> Result<char, Stop> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        self.rest().chars().next().ok_or(Stop::More)
    }

    /// The fields behind `{`, and `}`.
    fn fields(&mut self, depth: usize) -> Result<Map<String, Json>, Stop> {
        let mut fields = Map::new();
        loop {
            if self.next()? == '}' {
                self.at += 1;
                return Ok(fields);
            }
            let key = match self.quoted()? {
                Some(key) => key,
                None => {
                    let rest = self.rest();
                    let end = rest.find([':', ',', '}', '{']).ok_or(Stop::More)?;
                    self.at += end;
                    rest[..end].trim_end().to_owned()
                }
            };
            if self.next()? != ':' {
                return Err(Stop::Bad);
            }
            self.at += 1;
            let place = (depth == DEPTH).then_some(key.as_str());
            let value = self.value(place, depth)?;
            fields.insert(key, value);
            self.comma('}')?;
        }
    }

    /// A comma, or nothing before `closing`.
    fn comma(&mut self, closing: char) -> Result<(), Stop> {
        match self.next()? {
            ',' => self.at += 1,
            next if next == closing => {}
            _ => return Err(Stop::Bad),
        }
        Ok(())
    }

    /// A value; `key` is the argument that it is the whole of.
    fn value(&mut self, key: Option<&str>, depth: usize) -> Result<Json, Stop> {
        let depth = depth.checked_sub(1).ok_or(Stop::Bad)?;
        match self.next()? {
            '{' => {
                self.at += 1;
                Ok(Json::Object(self.fields(depth)?))
            }
            '[' => {
                self.at += 1;
                let mut items = Vec::new();
                while self.next()? != ']' {
                    items.push(self.value(None, depth)?);
                    self.comma(']')?;
                }
                self.at += 1;
                Ok(Json::Array(items))
            }
            _ => match self.quoted()? {
                Some(text) => Ok(text.into()),
                None => {
                    let rest = self.rest();
                    let end = rest.find([',', '}', ']']).ok_or(Stop::More)?;
                    self.at += end;
                    let text = rest[..end].trim_end();
                    Ok(match key {
                        Some(key) => self.tools.argument(self.tool, key, text),
                        None => Tools::default().argument("", "", text),
                    })
                }
            },
        }
    }

    /// The text that stands here between quotes, if one does.
    fn quoted(&mut self) -> Result<Option<String>, Stop> {
        let rest = self.rest();
        match start(rest, false, &QUOTES) {
            Start::With(quote) => {
                let text = &rest[quote.len()..];
                let end = text.find(quote).ok_or(Stop::More)?;
                self.at += end + 2 * quote.len();
                Ok(Some(text[..end].to_owned()))
            }
            Start::Perhaps => Err(Stop::More),
            Start::Other if rest.starts_with('"') => {
                let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                match strings.next() {
                    Some(Ok(text)) => {
                        self.at += strings.byte_offset();
                        Ok(Some(text))
                    }
                    Some(Err(error)) if !error.is_eof() => Err(Stop::Bad),
                    _ => Err(Stop::More),
                }
            }
            Start::Other => Ok(None),
        }
    }
}
