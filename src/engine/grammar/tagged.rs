//! The grammar of arguments between tags: texts as they are, everything else as
//! JSON by its own schema.
//!
//! The arguments come in the schema's order, each at most once, and no others
//! where the schema names some; those that are not required may be left out.

use std::collections::HashSet;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::{Value, json};

use super::CallFormat;
use super::format::Tags;
use super::members::{self, MAX_NESTING, Member, Members};
use super::outline::Hash;
use super::patterns::{optional_blanks, pattern, whole};
use super::source::{Source, json_grammar};
use super::vocabulary::Vocabulary;

/// More arguments than this come in any order and any number: llguidance
/// follows no more at once.
const MAX_ORDERED: usize = 200;

/// How many schemas the alternatives of one argument may lead to.
const MAX_ALTERNATIVES: usize = 100;

/// The grammar being written.
struct Writer<'a> {
    format: &'a CallFormat,
    tags: &'a Tags,
    vocabulary: &'a Vocabulary,
    root: &'a Value,
    lenient: bool,
    rules: String,
    grammars: Vec<GrammarWithLexer>,
    plain: HashSet<u64>,
    lost: Vec<String>,
    /// How many schemas the argument's alternatives have led to.
    steps: usize,
}

/// What the value of an argument may be.
enum Kind {
    /// Any text.
    Text,
    /// A text that this expression matches.
    Matching(String),
    /// One of these texts, which are strings or JSON.
    Listed(Vec<String>),
    /// JSON by this schema.
    Json(Value),
}

/// The grammar of arguments by `schema`, which is an object's.
///
/// # Errors
/// What it cannot say, unless it is `lenient`.
pub(super) fn source(
    vocabulary: &Vocabulary,
    tags: &Tags,
    schema: &Value,
    lenient: bool,
) -> Result<Source, String> {
    let Members {
        named,
        others,
        lost,
    } = members::members(schema, schema)?;
    let mut writer = Writer {
        format: vocabulary.format(),
        tags,
        vocabulary,
        root: schema,
        lenient,
        rules: String::new(),
        grammars: Vec::new(),
        plain: HashSet::new(),
        lost,
        steps: 0,
    };
    writer.write(&named, others.as_ref())?;
    if !lenient && !writer.lost.is_empty() {
        return Err(writer.lost.join("; "));
    }
    let mut grammars = vec![GrammarWithLexer::from_lark(writer.rules)];
    grammars.extend(writer.grammars);
    Ok(Source {
        grammar: TopLevelGrammar {
            grammars,
            max_tokens: None,
        },
        plain: writer.plain,
        lost: writer.lost,
    })
}

impl Writer<'_> {
    fn write(&mut self, named: &[Member], others: Option<&Value>) -> Result<(), String> {
        let ordered = named.len() <= MAX_ORDERED;
        if !ordered {
            self.lost
                .push("there are too many arguments to require some".to_owned());
        }
        let mut arguments = Vec::new();
        for (at, member) in named.iter().enumerate() {
            let closings = [
                Some(&self.tags.key_closes),
                self.tags.json_key_closes.as_ref(),
            ];
            if (closings.into_iter().flatten()).any(|closing| member.name.contains(closing)) {
                // Where the key ends could not be told.
                self.lost
                    .push(format!("{:?} cannot be written", member.name));
                continue;
            }
            let ways = self.argument(at, &member.name, &member.schema)?;
            let ways = ways.into_iter().map(|(written, value)| {
                let key = format!("{}{}", member.name, self.closing(written));
                if written == Written::Plain {
                    self.plain.insert(Hash::of(&key));
                }
                format!("{} {value}", self.open(&pattern(&key)))
            });
            let ways: Vec<String> = ways.collect();
            self.rules += &format!("a{at}: {}\n", ways.join(" | "));
            let optional = if member.required || !ordered { "" } else { "?" };
            arguments.push(format!("a{at}{optional}"));
        }
        if let Some(others) = others {
            let ways = self.argument(0, "", others)?;
            let ways = ways.into_iter().map(|(written, value)| {
                if written == Written::Plain {
                    self.plain.insert(Hash::ALL);
                }
                let closing = pattern(self.closing(written));
                let key = format!("[A-Za-z_][A-Za-z0-9_.-]{{0,63}}{closing}");
                format!("{} {value}", self.open(&key))
            });
            let ways: Vec<String> = ways.collect();
            self.rules += &format!("a0: {}\n", ways.join(" | "));
            arguments.push("a0*".to_owned());
        }
        let arguments = match ordered {
            true => arguments.join(" "),
            false => format!("({})*", arguments.join(" | ")),
        };
        let tail = self.tail();
        self.rules += &format!("start: {arguments} {tail}\n");
        Ok(())
    }

    /// What closes the key of a value that is written so.
    fn closing(&self, written: Written) -> &str {
        match (written, &self.tags.json_key_closes) {
            (Written::Json, Some(closing)) => closing,
            _ => &self.tags.key_closes,
        }
    }

    /// What opens an argument whose key and its closing tag match `key`.
    fn open(&self, key: &str) -> String {
        let tags = self.tags;
        let value = match tags.value_opens.as_str() {
            "" => String::new(),
            opens => format!("{}{}", optional_blanks(), pattern(opens)),
        };
        let line = if tags.lines { "\\n" } else { "" };
        let opens = pattern(&tags.key_opens);
        format!("/{}{opens}{key}{value}{line}/", optional_blanks())
    }

    /// What ends the call, and what may follow.
    fn tail(&self) -> String {
        let next = [&self.format.closer, &self.format.separator].into_iter();
        let next = next.filter(|text| !text.is_empty());
        let next: Vec<String> = next.map(|text| pattern(text)).collect();
        let blanks = optional_blanks();
        let mut tail = format!("{blanks}{}", pattern(&self.format.end));
        if !next.is_empty() {
            tail += &format!("{blanks}({})", next.join("|"));
        }
        format!("/{tail}/")
    }

    /// The rest of an argument, from its value on, as rules, and how it is
    /// written: in one way, or where tags tell them apart in two.
    fn argument(
        &mut self,
        at: usize,
        name: &str,
        schema: &Value,
    ) -> Result<Vec<(Written, String)>, String> {
        let mut kinds = Vec::new();
        let lost = self.lost.len();
        self.steps = 0;
        if let Err(reason) = self.kinds(schema, MAX_NESTING, &mut kinds) {
            self.lost.push(reason);
            kinds = vec![Kind::Text];
        }
        let typed = self.tags.json_key_closes.is_some();
        if !typed
            && kinds.iter().any(|kind| !matches!(kind, Kind::Json(_)))
            && kinds
                .iter()
                .any(|kind| matches!(kind, Kind::Json(schema) if holds_texts(schema)))
        {
            // Where a value ends could not be told.
            if !kinds.iter().any(|kind| matches!(kind, Kind::Text)) {
                self.lost.push("the alternatives are not heeded".to_owned());
            }
            kinds = vec![Kind::Text];
        }
        for lost in &mut self.lost[lost..] {
            *lost = format!("{lost} in {name:?}");
        }
        if kinds.iter().any(|kind| matches!(kind, Kind::Text)) {
            kinds.retain(|kind| typed && matches!(kind, Kind::Json(_)));
            kinds.push(Kind::Text);
        }
        let all_json = kinds.iter().all(|kind| matches!(kind, Kind::Json(_)));
        let (mut plain, mut json) = (Vec::new(), Vec::new());
        for (alternative, kind) in kinds.into_iter().enumerate() {
            let rule = format!("v{at}-{alternative}");
            let is_json = matches!(kind, Kind::Json(_)) && (typed || all_json);
            if let Some(body) = self.value(&rule, kind)? {
                self.rules += &body;
                match is_json {
                    true => json.push(rule),
                    false => plain.push(rule),
                }
            }
        }
        let ways = [(Written::Plain, plain), (Written::Json, json)];
        let ways = ways.into_iter().filter(|(_, rules)| !rules.is_empty());
        let ways = ways.map(|(written, rules)| (written, format!("({})", rules.join(" | "))));
        let ways: Vec<(Written, String)> = ways.collect();
        if ways.is_empty() {
            return Err(format!("nothing satisfies {name:?}"));
        }
        Ok(ways)
    }

    /// The rule for a value and what closes it.
    fn value(&mut self, rule: &str, kind: Kind) -> Result<Option<String>, String> {
        let closes = pattern(&self.tags.value_closes);
        let line = if self.tags.lines { "\\n?" } else { "" };
        Ok(match kind {
            Kind::Text => Some(format!("{rule}[lazy]: /(?s:.*){closes}/\n")),
            Kind::Matching(text) => {
                // Nothing that would be cut short: the closing tag, and a line
                // break before it.
                let line_end = if self.tags.lines {
                    " & ~/(?s:.*)\\n/"
                } else {
                    ""
                };
                let name = rule.to_uppercase();
                Some(format!(
                    "{name}: {text} & ~/(?s:.*){closes}(?s:.*)/{line_end}\n\
                     {rule}[lazy]: {name} /{line}{closes}/\n"
                ))
            }
            Kind::Listed(texts) => {
                let cut = |text: &str| self.tags.lines && text.ends_with('\n');
                let writable = texts
                    .iter()
                    .filter(|text| !text.contains(&self.tags.value_closes) && !cut(text));
                let texts: Vec<String> = writable.map(|text| pattern(text)).collect();
                (!texts.is_empty())
                    .then(|| format!("{rule}: /({}){line}{closes}/\n", texts.join("|")))
            }
            Kind::Json(schema) => {
                self.json(rule, schema)?;
                Some(format!("{rule}: @{rule} /{}{closes}/\n", optional_blanks()))
            }
        })
    }

    /// Adds the grammar of JSON by `schema`; of any JSON if that cannot be.
    fn json(&mut self, name: &str, schema: Value) -> Result<(), String> {
        let mut schema = members::alone(self.root, &schema);
        // What cannot be compiled costs its own argument only.
        if self.lenient && !compiles(self.vocabulary, &schema) {
            self.lost.push(format!("a schema is not heeded ({name})"));
            schema = match schema.get("type") {
                Some(Value::String(kind)) => json!({"type": kind}),
                _ => json!({}),
            };
        }
        self.grammars
            .push(json_grammar(name, schema, self.lenient)?);
        Ok(())
    }

    /// What a value by `schema` may be.
    fn kinds(&mut self, schema: &Value, depth: usize, found: &mut Vec<Kind>) -> Result<(), String> {
        // Alternatives may refer to each other without end.
        self.steps += 1;
        if self.steps > MAX_ALTERNATIVES {
            return Err("there are too many alternatives".to_owned());
        }
        let schema = members::resolve(self.root, schema);
        match schema {
            Value::Bool(true) => {
                found.push(Kind::Text);
                if self.tags.json_key_closes.is_some() {
                    found.push(Kind::Json(
                        json!({"type": ["number", "boolean", "null", "array", "object"]}),
                    ));
                }
                return Ok(());
            }
            Value::Bool(false) => return Ok(()),
            Value::Object(_) => {}
            _ => return Err("the schema is not an object".to_owned()),
        }
        if schema.get("$ref").is_some() {
            return Err(format!("{} leads nowhere", schema["$ref"]));
        }
        let kinds = members::kinds(schema)?;
        if let Some(values) = members::listed(schema) {
            let values = values
                .into_iter()
                .filter(|value| members::is_of(&kinds, value));
            let (texts, others): (Vec<&Value>, Vec<&Value>) = values.partition(|v| v.is_string());
            if !texts.is_empty() {
                let texts = texts.iter().filter_map(|text| text.as_str());
                found.push(Kind::Listed(texts.map(str::to_owned).collect()));
            }
            if !others.is_empty() {
                found.push(Kind::Json(json!({"enum": others})));
            }
            return Ok(());
        }
        if let (Some(schemas), true) = (members::alternatives(schema), depth > 0) {
            for schema in schemas {
                self.kinds(schema, depth - 1, found)?;
            }
            return Ok(());
        }
        if !kinds.contains(&"string") {
            found.push(Kind::Json(schema.clone()));
            return Ok(());
        }
        found.push(self.text(schema));
        let others: Vec<&&str> = kinds.iter().filter(|kind| **kind != "string").collect();
        let told_apart = self.tags.json_key_closes.is_some();
        if !others.is_empty() && (told_apart || !matches!(found.last(), Some(Kind::Text))) {
            let mut schema = schema.clone();
            schema["type"] = json!(others);
            found.push(Kind::Json(schema));
        }
        Ok(())
    }

    /// What a text by `schema` may be.
    fn text(&mut self, schema: &Value) -> Kind {
        let mut parts = Vec::new();
        let length = |key: &'static str| {
            schema
                .get(key)
                .map(move |length| length.as_u64().ok_or(key))
        };
        match (length("minLength"), length("maxLength")) {
            (None, None) => {}
            (least, most) => match (least.transpose(), most.transpose()) {
                (Ok(least), Ok(most)) if least.unwrap_or(0) <= most.unwrap_or(u64::MAX) => {
                    let most = most.map(|most| most.to_string()).unwrap_or_default();
                    parts.push(format!("/(?s:.){{{},{most}}}/", least.unwrap_or(0)));
                }
                _ => self.lost.push("the length is not heeded".to_owned()),
            },
        }
        if let Some(pattern) = schema.get("pattern") {
            match pattern.as_str().and_then(whole) {
                Some(pattern) => parts.push(pattern),
                None => self.lost.push("the pattern is not heeded".to_owned()),
            }
        }
        for key in ["format", "allOf", "not", "if"] {
            if schema.get(key).is_some() {
                self.lost.push(format!("{key} is not heeded"));
            }
        }
        match parts.is_empty() {
            true => Kind::Text,
            false => Kind::Matching(parts.join(" & ")),
        }
    }
}

/// Whether JSON by the schema may hold texts.
fn holds_texts(schema: &Value) -> bool {
    let simple = ["integer", "number", "boolean", "null"];
    match members::listed(schema) {
        Some(values) => !values.iter().all(|value| members::is_of(&simple, value)),
        None => !members::kinds(schema)
            .is_ok_and(|kinds| kinds.iter().all(|kind| simple.contains(kind))),
    }
}

/// How the values of an argument are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// As they are.
    Plain,
    Json,
}

/// Whether JSON by `schema` can be bound.
fn compiles(vocabulary: &Vocabulary, schema: &Value) -> bool {
    json_grammar("start", schema.clone(), true).is_ok_and(|grammar| {
        let grammar = TopLevelGrammar {
            grammars: vec![grammar],
            max_tokens: None,
        };
        super::arguments::compiles(vocabulary, &grammar)
    })
}
