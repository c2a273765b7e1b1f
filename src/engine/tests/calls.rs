//! Tool calls under a grammar: however tokens are drawn, a call that ends is
//! one of the tools' with arguments that its schema allows.

use serde_json::Value;

use super::batching::stepped;
use super::*;
use crate::engine::grammar::{CallFormat, ToolSchema, Vocabulary};

const EOS: u32 = 2043;

fn tools() -> Vec<ToolSchema> {
    let text = include_str!("../../../models/demo/tools.json");
    let tools: Vec<Value> = serde_json::from_str(text).unwrap();
    tools
        .iter()
        .map(|tool| ToolSchema {
            name: tool["function"]["name"].as_str().unwrap().to_owned(),
            parameters: tool["function"]["parameters"].clone(),
        })
        .collect()
}

fn calls() -> Calls {
    let tokenizer = tokenizer();
    let format = CallFormat::hermes();
    let vocabulary = Vocabulary::new(tokenizer.inner(), &[EOS], 2048, format).unwrap();
    let (grammar, fallbacks) = CallGrammar::compile(&vocabulary, &tools()).unwrap();
    assert_eq!(fallbacks, []);
    Calls {
        grammar,
        in_reasoning: false,
    }
}

/// The prompts of the golden file: the tools, and a question for one.
fn prompts() -> Vec<Vec<u32>> {
    let golden: Vec<Value> =
        serde_json::from_str(include_str!("../../model/golden_demo.json")).unwrap();
    golden
        .iter()
        .map(|case| serde_json::from_value(case["ids"].clone()).unwrap())
        .collect()
}

/// Whether each call in `text` that was closed is what it must be.
fn judge(text: &str) -> Vec<bool> {
    let tools = tools();
    text.split("<tool_call>")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("</tool_call>")?.0))
        .map(|call| {
            let Ok(call) = serde_json::from_str::<Value>(call) else {
                return false;
            };
            let tool = tools.iter().find(|tool| call["name"] == tool.name.as_str());
            tool.is_some_and(|tool| jsonschema::is_valid(&tool.parameters, &call["arguments"]))
        })
        .collect()
}

/// What hot draws make of the prompts, many at once.
async fn draw(overlaps: bool, calls: Option<Calls>) -> Vec<bool> {
    let (engine, _thread, steps) = stepped(settings(None), overlaps).await;
    drop(steps);
    let mut requests = Vec::new();
    // From draws that mostly go well to ones that mostly do not.
    for (seed, temperature) in (0..30).zip([1.6, 2.2, 2.8].into_iter().cycle()) {
        for prompt in prompts() {
            requests.push(engine.submit(Request {
                prompt,
                max_tokens: 60,
                sampling: Sampling {
                    temperature,
                    seed,
                    ..GREEDY
                },
                calls: calls.clone(),
                pin: false,
                boundaries: Vec::new(),
            }));
        }
    }
    let mut judged = Vec::new();
    for events in requests {
        let (text, last) = finish(events).await;
        assert!(matches!(last, Event::Finished { .. }), "{last:?}");
        judged.extend(judge(&text));
    }
    judged
}

#[tokio::test]
async fn a_call_that_ends_is_one_the_schemas_allow() {
    for overlaps in [false, true] {
        let judged = draw(overlaps, Some(calls())).await;
        assert!(judged.len() >= 10, "only {} calls", judged.len());
        assert!(judged.iter().all(|good| *good), "{judged:?}");
    }
    // Without the grammar the same draws do make bad ones.
    let free = draw(false, None).await;
    assert!(free.contains(&false), "{free:?}");
}

#[tokio::test]
async fn a_grammar_changes_nothing_where_the_model_needs_none() {
    for overlaps in [false, true] {
        let (engine, _thread, steps) = stepped(settings(None), overlaps).await;
        drop(steps);
        for prompt in prompts() {
            let greedy = |calls| Request {
                prompt: prompt.clone(),
                max_tokens: 60,
                sampling: GREEDY,
                calls,
                pin: false,
                boundaries: Vec::new(),
            };
            let (free, _) = finish(engine.submit(greedy(None))).await;
            let (bound, _) = finish(engine.submit(greedy(Some(calls())))).await;
            assert_eq!(bound, free);
        }
    }
}
