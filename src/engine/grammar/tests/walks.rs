//! Random walks through the grammars of random schemas.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::schemas::arguments;
use super::*;

/// More than any of the schemas needs.
const MAX_TOKENS: usize = 3000;

/// Tokens that bring a call to its end.
fn endings(model: &Model) -> Vec<u32> {
    ["}", "]", "\"", "\"}}\n", "}}\n", "</tool_call>", "</", "0"]
        .iter()
        .filter_map(|text| {
            (0..model.vocabulary.size() as u32)
                .find(|id| model.vocabulary.bytes(*id) == text.as_bytes())
        })
        .collect()
}

/// The text of a random call, from its opener to its closer, that begins as
/// `start` does.
fn walk(model: &Model, grammar: &CallGrammar, start: &str, seed: u64) -> Result<String, String> {
    let mut random = SmallRng::seed_from_u64(seed);
    let endings = endings(model);
    let mut constraint = Constraint::new(grammar);
    let mut text = start.as_bytes().to_vec();
    for token in model.tokens(&format!("<tool_call>{start}")) {
        constraint
            .advance(token)
            .map_err(|error| error.to_string())?;
    }
    for length in 0..MAX_TOKENS {
        // A token sampled without a mask, as a model does, or one that ends
        // something, or any that is allowed.
        let eager = random.random_range(0..100) < 10 + length / 4;
        let sampled = random.random_range(0..model.vocabulary.size() as u32);
        let ending = *endings.choose(&mut random).unwrap();
        let token = if eager && constraint.accepts(ending) {
            ending
        } else if random.random_ratio(1, 3) && constraint.accepts(sampled) {
            sampled
        } else {
            let mask = constraint.mask().map_err(|error| error.to_string())?;
            let allowed: Vec<u32> = mask.tokens().collect();
            let refused = !mask.allows(sampled);
            let token = *allowed.choose(&mut random).ok_or("a dead end")?;
            // The mask and the judgement of one token agree, but for tokens
            // that close the call and go on.
            let closes = refused && constraint.accepts(sampled);
            let tail = model.vocabulary.bytes(sampled);
            if closes && !tail.contains(&b'>') {
                return Err(format!("{sampled} is accepted but not in the mask"));
            }
            token
        };
        if !constraint.accepts(token) {
            return Err(format!("{token} is in the mask but not accepted"));
        }
        constraint
            .advance(token)
            .map_err(|error| error.to_string())?;
        text.extend_from_slice(model.vocabulary.bytes(token));
        if !constraint.is_inside_call() {
            return String::from_utf8(text).map_err(|error| error.to_string());
        }
    }
    Err("it does not end".to_owned())
}

/// Whether the call is one of the tools' and its arguments are valid.
fn check(text: &str, tools: &[(&str, Value)], lost: &[Fallback]) -> Result<(), String> {
    let (call, _) = text.rsplit_once("</tool_call>").ok_or("no closer")?;
    let call: Value = serde_json::from_str(call).map_err(|error| error.to_string())?;
    let call = call.as_object().ok_or("not an object")?;
    let keys: Vec<&String> = call.keys().collect();
    if keys != ["name", "arguments"] || !call["arguments"].is_object() {
        return Err("not a call".to_owned());
    }
    let (name, schema) = tools
        .iter()
        .find(|(name, _)| call["name"] == *name)
        .ok_or("no such tool")?;
    if lost.iter().any(|fallback| fallback.tool == *name) {
        return Ok(());
    }
    let validator = jsonschema::validator_for(schema).map_err(|error| error.to_string())?;
    let checked = validator.validate(&call["arguments"]);
    checked.map_err(|error| error.to_string())
}

/// Walks through grammars of two tools with random schemas, one to each tool
/// and one to either, and returns how many schemas did not bind wholly.
fn walks(model: &Model, seeds: std::ops::Range<u64>) -> usize {
    let mut lost = 0;
    for seed in seeds {
        let tools = [
            ("first", arguments(2 * seed)),
            ("second\"", arguments(2 * seed + 1)),
        ];
        let (grammar, fallbacks) = model.grammar(&tools);
        lost += fallbacks.len();
        let starts = ["{\"name\": \"first\"", "{\"name\":\"second\\\"\"", ""];
        for start in starts {
            let text = walk(model, &grammar, start, seed);
            let checked = text
                .clone()
                .and_then(|text| check(&text, &tools, &fallbacks));
            if let Err(error) = checked {
                let [(_, first), (_, second)] = &tools;
                panic!("seed {seed}: {error}\n{text:?}\n{first}\n{second}\n{fallbacks:?}");
            }
        }
    }
    lost
}

// 10,000 schemas in all, two at a time, in quarters that run side by side.

#[test]
fn calls_by_random_schemas_are_valid_1() {
    assert!(walks(demo(), 0..1250) < 5);
}

#[test]
fn calls_by_random_schemas_are_valid_2() {
    assert!(walks(demo(), 1250..2500) < 5);
}

#[test]
fn calls_by_random_schemas_are_valid_3() {
    assert!(walks(plain(), 2500..3750) < 5);
}

#[test]
fn calls_by_random_schemas_are_valid_4() {
    assert!(walks(plain(), 3750..5000) < 5);
}

/// Whatever is fed, accepted or not, nothing panics, and what is refused
/// changes nothing.
#[test]
fn any_tokens_may_be_fed() {
    let schema = arguments(7);
    for model in models() {
        let grammar = model.strict(&[("t", schema.clone())]);
        let mut random = SmallRng::seed_from_u64(1);
        let opener = model.tokens("<tool_call>");
        for _ in 0..200 {
            let mut constraint = Constraint::new(&grammar);
            for token in &opener {
                constraint.advance(*token).unwrap();
            }
            for _ in 0..100 {
                let token = random.random_range(0..model.vocabulary.size() as u32 + 10);
                let inside = constraint.is_inside_call();
                match constraint.advance(token) {
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(error, ConstraintError::Refused(token));
                        assert_eq!(constraint.is_inside_call(), inside);
                        let token = constraint.mask().unwrap().tokens().next().unwrap();
                        constraint.advance(token).unwrap();
                    }
                }
            }
        }
    }
}
