//! Random walks through the grammars of all families: every call that ends,
//! read again by other means, is one of the tools' and valid.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Map;

use super::families::{Family, families, models_of};
use super::literals::{Reader, simplified};
use super::schemas::arguments;
use super::*;

/// More than any of the calls needs.
const MAX_TOKENS: usize = 4000;

/// Words that bring a call to its end.
pub(super) const ENDINGS: [&str; 22] = [
    "}",
    "]",
    "\"",
    "}}",
    ")",
    "'",
    "0",
    "```",
    "\n</parameter>",
    "</parameter>",
    "</arg_value>",
    "</arg_key>",
    "<escape>",
    "<|\"|>",
    "</function>",
    "</invoke>",
    "</｜DSML｜parameter>",
    "</｜DSML｜invoke>",
    "<",
    "/",
    "\n",
    "a",
];

/// The text of a random turn that begins as `start` does, up to the end of its
/// calls.
pub(super) fn walk(
    model: &Model,
    grammar: &CallGrammar,
    start: &str,
    seed: u64,
) -> Result<String, String> {
    let mut random = SmallRng::seed_from_u64(seed);
    let endings: Vec<u32> = ENDINGS.iter().map(|text| model.token(text)).collect();
    let mut constraint = Constraint::new(grammar);
    let mut text = start.as_bytes().to_vec();
    let error = |error: ConstraintError| error.to_string();
    for token in model.tokens(start) {
        constraint.advance(token).map_err(error)?;
    }
    for length in 0..MAX_TOKENS {
        let eager = random.random_range(0..100) < 15 + length / 4;
        let sampled = random.random_range(0..model.vocabulary.size() as u32);
        let ending = *endings.choose(&mut random).unwrap();
        let token = if eager && constraint.accepts(ending) {
            ending
        } else if random.random_ratio(1, 3) && constraint.accepts(sampled) {
            sampled
        } else {
            let allowed: Vec<u32> = constraint.mask().map_err(error)?.tokens().collect();
            *allowed.choose(&mut random).ok_or("a dead end")?
        };
        if !constraint.accepts(token) {
            return Err(format!("{token} is in the mask but not accepted"));
        }
        constraint.advance(token).map_err(error)?;
        text.extend_from_slice(model.vocabulary.bytes(token));
        if !constraint.is_inside_call() {
            return String::from_utf8(text).map_err(|error| error.to_string());
        }
    }
    Err("it does not end".to_owned())
}

/// A call as its text says: arguments that are JSON, or the texts of each.
pub(super) enum Read {
    Json(String, Value),
    Texts(String, Vec<(String, String)>),
}

/// The calls of a turn that begins with one.
pub(super) fn read(family: &str, text: &str) -> Option<Vec<Read>> {
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    let objects = |text: &str, key: &str| {
        let calls = match json(text)? {
            Value::Array(calls) => calls,
            call => vec![call],
        };
        let calls = calls.iter().map(|call| {
            let name = call["name"].as_str()?.to_owned();
            Some(Read::Json(name, call.get(key)?.clone()))
        });
        calls.collect::<Option<Vec<Read>>>()
    };
    match family {
        "json" => objects(text, "arguments"),
        "llama_json" => {
            let text = text.strip_prefix("<|python_tag|>").unwrap_or(text);
            let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
            objects(&values.take(1).next()?.ok()?.to_string(), "parameters")
        }
        "mistral_array" => objects(text.strip_prefix("[TOOL_CALLS]")?, "arguments"),
        "phi4_mini" => {
            let text = text.strip_prefix("<|tool_call|>")?;
            objects(&text[..text.rfind("<|/tool_call|>")?], "arguments")
        }
        "granite" => objects(text.strip_prefix("<|tool_call|>")?, "arguments"),
        "mistral_args" | "mistral_call_id" | "mistral_bare_args" => {
            let text = text.strip_prefix("[TOOL_CALLS]")?;
            let (name, arguments) = match family {
                "mistral_args" => text.split_once("[ARGS]")?,
                "mistral_call_id" => {
                    let (name, text) = text.split_once("[CALL_ID]")?;
                    (name, text.split_once("[ARGS]")?.1)
                }
                _ => text.split_at(text.find(|c: char| c == '{' || c.is_whitespace())?),
            };
            Some(vec![Read::Json(name.trim().to_owned(), json(arguments)?)])
        }
        "harmony" => {
            let text = text.strip_prefix("<|channel|>commentary to=functions.")?;
            let (header, arguments) = text.split_once("<|message|>")?;
            let name = header.split([' ', '<']).next()?;
            Some(vec![Read::Json(name.to_owned(), json(arguments)?)])
        }
        "deepseek_v3" | "deepseek_v3_1" => several(
            text,
            ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"],
            |call| {
                let old = family == "deepseek_v3";
                let [opens, between, ends] = match old {
                    true => ["function<｜tool▁sep｜>", "\n```json", "```"],
                    false => ["", "<｜tool▁sep｜>", ""],
                };
                let call = call.strip_prefix("<｜tool▁call▁begin｜>")?.trim_start();
                let (name, call) = call.strip_prefix(opens)?.split_once(between)?;
                let (arguments, call) = first_json(call)?;
                let call = call.trim_start().strip_prefix(ends)?;
                let call = call.trim_start().strip_prefix("<｜tool▁call▁end｜>")?;
                Some((Read::Json(name.to_owned(), arguments), call))
            },
        ),
        "kimi_k2" => several(
            text,
            ["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"],
            |call| {
                let call = call.strip_prefix("<|tool_call_begin|>functions.")?;
                let (id, call) = call.split_once("<|tool_call_argument_begin|>")?;
                let (name, number) = id.split_once(':')?;
                number.trim().parse::<u32>().ok()?;
                let (arguments, call) = first_json(call)?;
                let call = call.trim_start().strip_prefix("<|tool_call_end|>")?;
                Some((Read::Json(name.to_owned(), arguments), call))
            },
        ),
        "qwen_xml" => several(text, ["<tool_call>", "</tool_call>"], |call| {
            let (name, call) = call.strip_prefix("<function=")?.split_once('>')?;
            let (arguments, call) = tagged(call, ["<parameter=", ">\n", "</parameter>"])?;
            let cut = |text: String| text.strip_suffix('\n').unwrap_or(&text).to_owned();
            let arguments = arguments.into_iter().map(|(key, value)| (key, cut(value)));
            let call = call.strip_prefix("</function>")?;
            Some((Read::Texts(name.to_owned(), arguments.collect()), call))
        }),
        "glm" => {
            let call = text.strip_prefix("<tool_call>")?;
            let (name, call) = call.split_at(call.find(['\n', ' ', '<', '\t', '\r'])?);
            let (arguments, call) = tagged(call, ["<arg_key>", "</arg_key>", "</arg_value>"])?;
            let open =
                |text: String| Some(text.trim_start().strip_prefix("<arg_value>")?.to_owned());
            let arguments = arguments
                .into_iter()
                .map(|(key, value)| Some((key, open(value)?)));
            let arguments = arguments.collect::<Option<_>>()?;
            (call.trim_end() == "</tool_call>")
                .then(|| vec![Read::Texts(name.to_owned(), arguments)])
        }
        "minimax" => several(
            text,
            ["<minimax:tool_call>", "</minimax:tool_call>"],
            |call| {
                let (name, call) = call.strip_prefix("<invoke name=\"")?.split_once("\">")?;
                let tags = ["<parameter name=\"", "\">", "</parameter>"];
                let (arguments, call) = tagged(call, tags)?;
                let call = call.strip_prefix("</invoke>")?;
                Some((Read::Texts(name.to_owned(), arguments), call))
            },
        ),
        "deepseek_v3_2" => several(
            text,
            ["<｜DSML｜function_calls>", "</｜DSML｜function_calls>"],
            |call| {
                let call = call.strip_prefix("<｜DSML｜invoke name=\"")?;
                let (name, call) = call.split_once("\">")?;
                let tags = ["<｜DSML｜parameter name=\"", "\">", "</｜DSML｜parameter>"];
                let (arguments, call) = tagged(call, tags)?;
                let key = |key: String| Some(key.split_once("\" string=\"")?.0.to_owned());
                let arguments = arguments
                    .into_iter()
                    .map(|(name, value)| Some((key(name)?, value)));
                let arguments = arguments.collect::<Option<_>>()?;
                let call = call.strip_prefix("</｜DSML｜invoke>")?;
                Some((Read::Texts(name.to_owned(), arguments), call))
            },
        ),
        "lfm2" => {
            let text = text.strip_prefix("<|tool_call_start|>")?;
            let mut reader = Reader { text, mark: None };
            let mut calls = Vec::new();
            reader.take("[")?;
            while reader.take("]").is_none() {
                if !calls.is_empty() {
                    reader.take(",")?;
                }
                let name = reader.name()?.to_owned();
                reader.take("(")?;
                let arguments = reader.members("=", ")", true)?;
                calls.push(Read::Json(name, arguments.into()));
            }
            (reader.text.trim_end() == "<|tool_call_end|>").then_some(calls)
        }
        "gemma" | "gemma4" => {
            let [opens, mark, closes] = match family {
                "gemma" => ["<start_function_call>", "<escape>", "<end_function_call>"],
                _ => ["<|tool_call>", "<|\"|>", "<tool_call|>"],
            };
            let text = text.strip_prefix(opens)?;
            let mark = Some(mark);
            let mut reader = Reader { text, mark };
            reader.take("call:")?;
            let name = reader.name()?.to_owned();
            reader.take("{")?;
            let arguments = reader.members(":", "}", true)?;
            reader.take(closes)?;
            reader
                .text
                .trim()
                .is_empty()
                .then(|| vec![Read::Json(name, arguments.into())])
        }
        _ => None,
    }
}

/// Calls one after the other, all of them between two texts.
fn several(
    text: &str,
    [opens, closes]: [&str; 2],
    read: impl Fn(&str) -> Option<(Read, &str)>,
) -> Option<Vec<Read>> {
    let mut text = text.strip_prefix(opens)?.trim();
    let mut calls = Vec::new();
    while text != closes {
        let (call, rest) = read(text)?;
        calls.push(call);
        text = rest.trim_start();
    }
    Some(calls)
}

/// The JSON value a text begins with, and what is behind it.
fn first_json(text: &str) -> Option<(Value, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    Some((value, &text[values.byte_offset()..]))
}

/// Arguments between tags, and what is behind them.
#[allow(clippy::type_complexity)]
fn tagged<'a>(
    text: &'a str,
    [opens, between, closes]: [&str; 3],
) -> Option<(Vec<(String, String)>, &'a str)> {
    let mut text = text.trim_start();
    let mut arguments = Vec::new();
    while let Some(argument) = text.strip_prefix(opens) {
        let (argument, rest) = argument.split_once(closes)?;
        let (key, value) = argument.split_once(between)?;
        arguments.push((key.to_owned(), value.to_owned()));
        text = rest.trim_start();
    }
    Some((arguments, text))
}

/// Whether the calls are to the tools and their arguments are valid.
fn check(calls: &[Read], tools: &[(&str, Value)], lost: &[Fallback]) -> Result<(), String> {
    for call in calls {
        let (Read::Json(name, _) | Read::Texts(name, _)) = call;
        let (_, schema) = tools
            .iter()
            .find(|(tool, _)| tool == name)
            .ok_or(format!("no tool {name:?}"))?;
        if lost.iter().any(|fallback| fallback.tool == *name) {
            continue;
        }
        let arguments = match call {
            Read::Json(_, arguments) => arguments.clone(),
            Read::Texts(_, texts) => typed(texts, schema)?,
        };
        let validator = jsonschema::validator_for(schema).map_err(|error| error.to_string())?;
        let checked = validator.validate(&arguments);
        checked.map_err(|error| format!("{error} in {arguments}"))?;
    }
    Ok(())
}

/// Arguments of which each is a text or JSON, whichever its own schema allows.
fn typed(texts: &[(String, String)], schema: &Value) -> Result<Value, String> {
    let mut arguments = Map::new();
    for (key, text) in texts {
        let mut own = match &schema["properties"][key] {
            Value::Null => schema["additionalProperties"].clone(),
            own => own.clone(),
        };
        if let (Some(own), Some(definitions)) = (own.as_object_mut(), schema.get("$defs")) {
            own.insert("$defs".to_owned(), definitions.clone());
        }
        if own.is_null() {
            own = json!(true);
        }
        let own = jsonschema::validator_for(&own).map_err(|error| error.to_string())?;
        let text_value = Value::from(text.as_str());
        let json_value = serde_json::from_str::<Value>(text).ok();
        let value = [Some(text_value), json_value].into_iter().flatten();
        let value = value.into_iter().find(|value| own.is_valid(value));
        let value = value.ok_or(format!("{key:?} cannot be {text:?}"))?;
        if arguments.insert(key.clone(), value).is_some() {
            return Err(format!("{key:?} is there twice"));
        }
    }
    Ok(arguments.into())
}

/// How a turn begins that calls a tool.
pub(super) fn start(family: &str) -> &'static str {
    match family {
        "json" | "llama_json" => "{\"name\"",
        "mistral_array" | "mistral_args" | "mistral_call_id" | "mistral_bare_args" => {
            "[TOOL_CALLS]"
        }
        "harmony" => "<|channel|>commentary to=functions.",
        "phi4_mini" | "granite" => "<|tool_call|>",
        "deepseek_v3" | "deepseek_v3_1" => "<｜tool▁calls▁begin｜>",
        "kimi_k2" => "<|tool_calls_section_begin|>",
        "minimax" => "<minimax:tool_call>",
        "deepseek_v3_2" => "<｜DSML｜function_calls>",
        "lfm2" => "<|tool_call_start|>",
        "gemma" => "<start_function_call>",
        "gemma4" => "<|tool_call>",
        _ => "<tool_call>",
    }
}

fn walks(family: &Family, seeds: std::ops::Range<u64>) {
    let (mut bound, mut all) = (0, 0);
    for (model, seeds) in models_of(family, &ENDINGS).iter().zip([
        seeds.start..(seeds.start + seeds.end) / 2,
        (seeds.start + seeds.end) / 2..seeds.end,
    ]) {
        for seed in seeds {
            let schema = |seed| match family.name {
                "lfm2" | "gemma" | "gemma4" => simplified(&arguments(seed)),
                _ => arguments(seed),
            };
            let tools = [
                ("first", schema(2 * seed)),
                ("first_2", schema(2 * seed + 1)),
            ];
            let (grammar, fallbacks) = model.grammar(&tools);
            all += 2;
            bound += 2 - fallbacks.len();
            let text = walk(model, &grammar, start(family.name), seed);
            let checked = text.clone().and_then(|text| {
                let calls = read(family.name, &text).ok_or("it cannot be read")?;
                check(&calls, &tools, &fallbacks)
            });
            if let Err(error) = checked {
                let [(_, first), (_, second)] = &tools;
                panic!(
                    "{} seed {seed}: {error}\n{text:?}\n{first}\n{second}\n{fallbacks:?}",
                    family.name
                );
            }
        }
    }
    assert!(4 * bound > 3 * all, "{}: {bound} of {all}", family.name);
}

#[test]
fn calls_of_all_families_are_valid() {
    std::thread::scope(|scope| {
        for family in families() {
            scope.spawn(move || walks(&family, 0..110));
        }
    });
}
