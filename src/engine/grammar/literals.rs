//! The grammar of arguments that are literals: Python's, or Gemma's with marks
//! around texts.
//!
//! The arguments come in the schema's order, each at most once, and no others
//! where the schema names some; those that are not required may be left out.
//! Scalars, lists, objects and listed values are bound; the length and form of
//! texts are not.

use std::collections::{HashMap, HashSet};

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Map, Value};

use super::members::{self, MAX_NESTING, Members};
use super::patterns::pattern;
use super::source::{Source, blanks, json_grammar, quoted, tail};
use super::vocabulary::Vocabulary;

/// More members than this come in any order and any number.
const MAX_ORDERED: usize = 60;

/// After so many rules, what follows may be anything: llguidance takes some
/// stack for each rule that leads to another.
const MAX_RULES: usize = 300;

/// How literals are written.
pub(super) struct Syntax<'a> {
    /// What stands around texts; Python's quotes if none does.
    pub(super) mark: Option<&'a str>,
}

/// The grammar being written.
struct Writer<'a> {
    syntax: &'a Syntax<'a>,
    root: &'a Value,
    lenient: bool,
    rules: String,
    grammars: Vec<GrammarWithLexer>,
    /// The rules of what was referred to.
    references: HashMap<String, String>,
    count: usize,
    lost: Vec<String>,
}

/// Keywords that are not heeded.
const UNHEEDED: [&str; 13] = [
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minItems",
    "maxItems",
    "uniqueItems",
    "prefixItems",
    "contains",
    "additionalItems",
    "allOf",
    "not",
    "if",
];

/// The grammar of arguments by `schema`, which is an object's, up to the
/// bracket that ends them.
///
/// # Errors
/// What it cannot say, unless it is `lenient`.
pub(super) fn source(
    vocabulary: &Vocabulary,
    syntax: &Syntax<'_>,
    schema: &Value,
    lenient: bool,
) -> Result<Source, String> {
    let mut writer = Writer {
        syntax,
        root: schema,
        lenient,
        rules: String::new(),
        grammars: Vec::new(),
        references: HashMap::new(),
        count: 0,
        lost: Vec::new(),
    };
    let top = writer.members(schema, MAX_NESTING, true)?;
    if !lenient && !writer.lost.is_empty() {
        return Err(writer.lost.join("; "));
    }
    let closes = if syntax.mark.is_some() { "}" } else { ")" };
    let rules = format!(
        "%llguidance {{\"ignore_once\": true, \"allow_initial_skip\": true}}\n\
         start: {top} {}{}\n%ignore /{}/\n{}{}",
        quoted(closes),
        tail(vocabulary.format()),
        blanks(),
        syntax.any(),
        writer.rules,
    );
    let mut grammars = vec![GrammarWithLexer::from_lark(rules)];
    grammars.extend(writer.grammars);
    Ok(Source {
        grammar: TopLevelGrammar {
            grammars,
            max_tokens: None,
        },
        plain: HashSet::new(),
        lost: writer.lost,
    })
}

impl Syntax<'_> {
    /// The rules of texts and of any literal.
    fn any(&self) -> String {
        let (text, key) = match self.mark {
            Some(mark) => {
                let mark = pattern(mark);
                (
                    format!("text[lazy]: /{mark}(?s:.*){mark}/\n"),
                    "key: /[A-Za-z_][A-Za-z0-9_.-]{0,63}/ | text\n",
                )
            }
            None => {
                let escape =
                    r#"\\(["'\\nrt]|u([0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}))"#;
                let single = format!(r#"'([^'\\\x00-\x1f\x7f]|{escape})*'"#);
                let double = format!(r#""([^"\\\x00-\x1f\x7f]|{escape})*""#);
                (format!("text: /{single}|{double}/\n"), "key: text\n")
            }
        };
        let [yes, no, null] = self.constants();
        format!(
            "{text}{key}any: text | /-?(0|[1-9][0-9]{{0,18}})(\\.[0-9]{{1,15}})?([eE][+-]?[0-9]{{1,2}})?/ \
             | \"{yes}\" | \"{no}\" | \"{null}\" | list | object\n\
             list: \"[\" (any (\",\" any)*)? \"]\"\n\
             object: \"{{\" (member (\",\" member)*)? \"}}\"\n\
             member: key \":\" any\n\
             argument: /[A-Za-z_][A-Za-z0-9_]{{0,63}}/ {} any\n",
            if self.mark.is_some() {
                "\":\""
            } else {
                "\"=\""
            },
        )
    }

    fn constants(&self) -> [&'static str; 3] {
        match self.mark {
            Some(_) => ["true", "false", "null"],
            None => ["True", "False", "None"],
        }
    }

    /// A text as it may be written.
    fn text(&self, text: &str) -> Option<String> {
        if let Some(mark) = self.mark {
            return (!text.contains(mark)).then(|| quoted(&format!("{mark}{text}{mark}")));
        }
        let mut double = text.replace('\\', "\\\\");
        for (character, escape) in [('\n', "\\n"), ('\r', "\\r"), ('\t', "\\t")] {
            double = double.replace(character, escape);
        }
        if double.chars().any(char::is_control) {
            return None;
        }
        let single = quoted(&format!("'{}'", double.replace('\'', "\\'")));
        let double = quoted(&format!("\"{}\"", double.replace('"', "\\\"")));
        Some(format!("({single} | {double})"))
    }

    /// A key and what stands between it and its value.
    fn key(&self, key: &str, top: bool) -> Option<String> {
        let plain = !key.is_empty()
            && key
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$'));
        match (self.mark, top) {
            (None, true) => plain.then(|| format!("{} \"=\"", quoted(key))),
            (Some(_), _) if plain => Some(format!("{} \":\"", quoted(key))),
            (Some(_), true) => None,
            (_, false) => Some(format!("{} \":\"", self.text(key)?)),
        }
    }

    /// A value as it may be written.
    fn literal(&self, value: &Value) -> Option<String> {
        let [yes, no, null] = self.constants();
        let joined = |parts: Option<Vec<String>>| Some(parts?.join(" \",\" "));
        Some(match value {
            Value::Null => quoted(null),
            Value::Bool(true) => quoted(yes),
            Value::Bool(false) => quoted(no),
            Value::Number(number) => quoted(&number.to_string()),
            Value::String(text) => self.text(text)?,
            Value::Array(items) => {
                let items = items.iter().map(|item| self.literal(item));
                format!("(\"[\" {} \"]\")", joined(items.collect())?)
            }
            Value::Object(members) => {
                let members = members.iter().map(|(key, value)| {
                    Some(format!(
                        "{} {}",
                        self.key(key, false)?,
                        self.literal(value)?
                    ))
                });
                format!("(\"{{\" {} \"}}\")", joined(members.collect())?)
            }
        })
    }
}

impl Writer<'_> {
    fn rule(&mut self, body: &str) -> String {
        let name = format!("r{}", self.count);
        self.count += 1;
        self.rules += &format!("{name}: {body}\n");
        name
    }

    /// The members of an object, or if `top`, the arguments.
    fn members(&mut self, schema: &Value, depth: usize, top: bool) -> Result<String, String> {
        let Members {
            named,
            others,
            lost,
        } = members::members(self.root, schema)?;
        self.lost.extend(lost);
        let mut members = Vec::new();
        for member in named {
            let Some(key) = self.syntax.key(&member.name, top) else {
                self.lost
                    .push(format!("{:?} cannot be written", member.name));
                continue;
            };
            let value = self.value(&member.schema, depth)?;
            members.push((self.rule(&format!("{key} {value}")), member.required));
        }
        if let Some(others) = others {
            let body = match (top, self.value(&others, depth)?) {
                (true, value) if value == "any" => "argument".to_owned(),
                (true, value) => match self.syntax.mark {
                    Some(_) => format!("/[A-Za-z_][A-Za-z0-9_]{{0,63}}/ \":\" {value}"),
                    None => format!("/[A-Za-z_][A-Za-z0-9_]{{0,63}}/ \"=\" {value}"),
                },
                (false, value) => format!("key \":\" {value}"),
            };
            let member = self.rule(&body);
            return Ok(self.rule(&format!("({member} (\",\" {member})*)?")));
        }
        if members.is_empty() {
            return Ok("\"\"".to_owned());
        }
        if members.len() > MAX_ORDERED {
            self.lost
                .push("there are too many members to require some".to_owned());
            let any: Vec<String> = members.into_iter().map(|(member, _)| member).collect();
            let any = self.rule(&any.join(" | "));
            return Ok(self.rule(&format!("({any} (\",\" {any})*)?")));
        }
        // What may come next if nothing came before, and if something did.
        let (mut first, mut more) = ("\"\"".to_owned(), "\"\"".to_owned());
        for (member, required) in members.into_iter().rev() {
            let (skipped, skipped_more) = match required {
                true => (String::new(), String::new()),
                false => (format!(" | {first}"), format!(" | {more}")),
            };
            first = self.rule(&format!("{member} {more}{skipped}"));
            more = self.rule(&format!("\",\" {member} {more}{skipped_more}"));
        }
        Ok(first)
    }

    /// What a value by `schema` may be.
    fn value(&mut self, schema: &Value, depth: usize) -> Result<String, String> {
        if depth == 0 || self.count > MAX_RULES {
            self.lost
                .push("what is nested deeper is not heeded".to_owned());
            return Ok("any".to_owned());
        }
        let schema = match schema {
            Value::Bool(true) => return Ok("any".to_owned()),
            Value::Object(schema) => schema,
            _ => return Err("nothing satisfies a part of it".to_owned()),
        };
        if let Some(reference) = schema.get("$ref") {
            return self.reference(reference, depth);
        }
        for key in UNHEEDED.iter().filter(|key| schema.contains_key(**key)) {
            self.lost.push(format!("{key} is not heeded"));
        }
        let schema = &Value::Object(schema.clone());
        let kinds = members::kinds(schema)?;
        let mut ways = Vec::new();
        if let Some(values) = members::listed(schema) {
            let values = values
                .into_iter()
                .filter(|value| members::is_of(&kinds, value));
            ways.extend(values.filter_map(|value| self.syntax.literal(value)));
        } else if let Some(schemas) = members::alternatives(schema) {
            for schema in schemas {
                ways.push(self.value(schema, depth - 1)?);
            }
        } else if schema.get("type").is_none() && schema.get("properties").is_none() {
            return Ok("any".to_owned());
        } else {
            for kind in kinds {
                ways.push(self.kind(kind, schema, depth)?);
            }
        }
        if ways.is_empty() {
            return Err("nothing satisfies a part of it".to_owned());
        }
        Ok(self.rule(&ways.join(" | ")))
    }

    fn kind(&mut self, kind: &str, schema: &Value, depth: usize) -> Result<String, String> {
        let [yes, no, null] = self.syntax.constants();
        Ok(match kind {
            "string" => "text".to_owned(),
            "boolean" => format!("\"{yes}\" | \"{no}\""),
            "null" => quoted(null),
            "array" => match schema.get("items") {
                None | Some(Value::Array(_)) => "list".to_owned(),
                Some(items) => {
                    let item = self.value(items, depth - 1)?;
                    self.rule(&format!("\"[\" ({item} (\",\" {item})*)? \"]\""))
                }
            },
            "object" => {
                let members = self.members(schema, depth - 1, false)?;
                self.rule(&format!("\"{{\" {members} \"}}\""))
            }
            // Numbers are written as JSON writes them.
            number => {
                let mut own = Map::from_iter([("type".to_owned(), number.into())]);
                for key in [
                    "minimum",
                    "maximum",
                    "exclusiveMinimum",
                    "exclusiveMaximum",
                    "multipleOf",
                ] {
                    own.extend(schema.get(key).map(|limit| (key.to_owned(), limit.clone())));
                }
                let name = format!("n{}", self.grammars.len());
                let grammar = json_grammar(&name, own.into(), self.lenient)?;
                self.grammars.push(grammar);
                format!("@{name}")
            }
        })
    }

    /// What a value by another part of the schema may be.
    fn reference(&mut self, reference: &Value, depth: usize) -> Result<String, String> {
        let nowhere = || format!("{reference} leads nowhere");
        let path = reference.as_str().ok_or_else(nowhere)?;
        if let Some(rule) = self.references.get(path) {
            return Ok(rule.clone());
        }
        let pointer = path.strip_prefix('#').ok_or_else(nowhere)?;
        let target = self.root.pointer(pointer).ok_or_else(nowhere)?;
        let rule = format!("d{}", self.references.len());
        self.references.insert(path.to_owned(), rule.clone());
        let value = self.value(target, depth - 1)?;
        self.rules += &format!("{rule}: {value}\n");
        Ok(rule)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn listed_values_are_written_in_all_ways() {
        let python = Syntax { mark: None };
        assert_eq!(
            python.literal(&json!([true, null])).as_deref(),
            Some("(\"[\" \"True\" \",\" \"None\" \"]\")")
        );
        assert_eq!(
            python.literal(&json!("it's")).as_deref(),
            Some(r#"("'it\\'s'" | "\"it's\"")"#)
        );
        let gemma = Syntax {
            mark: Some("<escape>"),
        };
        assert_eq!(
            gemma.literal(&json!({"a": "b"})).as_deref(),
            Some("(\"{\" \"a\" \":\" \"<escape>b<escape>\" \"}\")")
        );
        assert_eq!(gemma.literal(&json!("<escape>")), None);
    }
}
