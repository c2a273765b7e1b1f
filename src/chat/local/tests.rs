//! Replies read from an engine's events, and from the bundled model itself.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::backend::BackendChoice;
use crate::chat::formats::ToolFormat;
use crate::chat::{Arguments, Finish, ToolCall, ToolSpec};
use crate::{demo, engine, model};

mod states;

fn finished(reason: Finish) -> Event {
    Event::Finished {
        reason,
        usage: engine::Usage {
            prompt_tokens: 5,
            cached_tokens: 2,
            prefilled_tokens: 3,
            generated_tokens: 7,
            time_to_first_token: Duration::from_millis(3),
        },
        tokens: vec![8, 9],
    }
}

async fn read(events: Vec<Event>, before: &[&str]) -> Result<Reply, ChatError> {
    let reader = TurnReader::new(ToolFormat::Hermes, "assistant\n");
    let record =
        |turn, generated: &[u32]| Written::new("assistant\n".to_owned(), vec![7], turn, generated);
    let call = |id: &&str| ToolCall {
        id: (*id).to_owned(),
        name: "t".to_owned(),
        arguments: Arguments::Object(serde_json::Map::new()),
    };
    let before = Message::Assistant {
        content: String::new(),
        reasoning: None,
        tool_calls: before.iter().map(call).collect(),
        written: None,
    };
    let ids = Ids::new(ToolFormat::Hermes, &[before]);
    read_reply(stream::iter(events), reader, ids, record).await
}

fn text(text: &str) -> Event {
    Event::Text(text.to_owned())
}

#[tokio::test]
async fn a_reply_has_the_turns_parts_and_what_it_cost() {
    let events = vec![
        text("<think>hm</th"),
        text("ink>Wait.\n<tool_call>{\"name\": \"a\", \"argum"),
        text("ents\": {}}</tool_call><tool_call>{\"name\": \"b\""),
        finished(Finish::Length),
    ];
    let reply = read(events, &["call00011"]).await.unwrap();
    assert_eq!(reply.content, "Wait.");
    assert_eq!(reply.reasoning.as_deref(), Some("hm"));
    assert_eq!(reply.finish, Finish::Length);
    assert_eq!(
        (reply.usage.prompt_tokens, reply.usage.generated_tokens),
        (5, 7)
    );
    let text = "<think>hm</think>Wait.\n<tool_call>{\"name\": \"a\", \"arguments\": {}}</tool_call>\
                <tool_call>{\"name\": \"b\"";
    let record = Written::new("assistant\n".to_owned(), vec![7], text.to_owned(), &[8, 9]);
    assert_eq!(reply.written, Some(record));
    let ids: Vec<&str> = reply
        .tool_calls
        .iter()
        .map(|call| call.id.as_str())
        .collect();
    assert_eq!(ids, ["call00012", "call00013"]);
    assert_eq!(
        reply.tool_calls[0].arguments,
        Arguments::Object(serde_json::Map::new())
    );
    assert_eq!(reply.tool_calls[1].name, "b");
    assert!(matches!(
        reply.tool_calls[1].arguments,
        Arguments::Malformed { .. }
    ));
}

#[tokio::test]
async fn failures_of_the_engine_are_told_apart() {
    let exceeded = EngineError::ContextExceeded {
        needed: 9,
        limit: 8,
    };
    assert_eq!(
        read(vec![text("x"), Event::Failed(exceeded)], &[]).await,
        Err(ChatError::ContextExceeded {
            needed: 9,
            limit: 8
        })
    );
    let broken = Event::Failed(EngineError::Model("NaN".to_owned()));
    assert_eq!(
        read(vec![broken], &[]).await,
        Err(ChatError::Engine("NaN".to_owned()))
    );
    assert!(matches!(
        read(vec![text("x")], &[]).await,
        Err(ChatError::Engine(_))
    ));
}

fn settings(seed: Option<u64>) -> Settings {
    Settings {
        temperature: 0.0,
        top_p: 1.0,
        min_p: 0.0,
        min_tokens_to_keep: 1,
        max_tokens: 100,
        seed,
        template_args: serde_json::Map::new(),
    }
}

#[test]
fn a_configured_seed_is_every_requests_seed() {
    assert_eq!(settings(Some(7)).sampling().seed, 7);
    let seeds: Vec<u64> = (0..8).map(|_| settings(None).sampling().seed).collect();
    assert!(seeds.iter().any(|seed| *seed != seeds[0]), "{seeds:?}");
}

fn request<'a>(messages: &'a [Message], tools: &'a [ToolSpec]) -> ChatRequest<'a> {
    ChatRequest { messages, tools }
}

/// The bundled model itself, loaded into an engine.
async fn demo(settings: Settings) -> LocalModel {
    let files = demo::files();
    let load = {
        let files = files.clone();
        move || model::load(&files, BackendChoice::Auto, &())
    };
    let tokenizer = Arc::new(Tokenizer::load(&files).unwrap());
    let engine_settings = engine::Settings {
        context_length: None,
        end_of_sequence: model::end_of_sequence_ids(&files, |_| None).unwrap(),
        ..engine::Settings::default()
    };
    let started = engine::start(load, Arc::clone(&tokenizer), engine_settings).await;
    let (engine, _thread) = started.unwrap();
    let template = ChatTemplate::load(&files).unwrap();
    LocalModel::new(engine, tokenizer, template, settings)
}

#[tokio::test]
async fn the_bundled_model_calls_a_tool_and_answers_from_its_result() {
    let model = demo(settings(Some(1))).await;
    let tools = [ToolSpec {
        name: "calculate".to_owned(),
        description: "Evaluate an arithmetic expression.".to_owned(),
        parameters: json!({
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        }),
    }];
    let mut messages = vec![Message::User("What is 17 * 23?".to_owned())];
    let reply = model.reply(request(&messages, &tools)).await.unwrap();
    assert_eq!(reply.finish, Finish::Stop);
    assert_eq!(reply.tool_calls.len(), 1, "{reply:?}");
    let call = &reply.tool_calls[0];
    assert_eq!(
        (call.id.as_str(), call.name.as_str()),
        ("call00000", "calculate")
    );
    assert!(
        matches!(&call.arguments, Arguments::Object(arguments) if arguments.contains_key("expression"))
    );

    // The same request comes to the same, but for the time it takes.
    let again = model.reply(request(&messages, &tools)).await.unwrap();
    assert_eq!(again.tool_calls, reply.tool_calls);

    let call_id = call.id.clone();
    messages.push(Message::Assistant {
        content: reply.content,
        reasoning: reply.reasoning,
        tool_calls: reply.tool_calls,
        written: reply.written,
    });
    messages.push(Message::Tool {
        call_id,
        name: "calculate".to_owned(),
        content: "391".to_owned(),
    });
    let answer = model.reply(request(&messages, &tools)).await.unwrap();
    assert!(answer.content.contains("391"), "{answer:?}");
    // The new prompt is the last one, the turn without its end, and what the
    // template adds; all but that was there already.
    let added = "<|im_end|>\n<|im_start|>user\n<tool_response>\n391\n</tool_response><|im_end|>\n\
                 <|im_start|>assistant\n";
    let added = model.text.tokenizer.encode(added).unwrap().len();
    let before = reply.usage.prompt_tokens + reply.usage.generated_tokens - 1;
    assert_eq!(answer.usage.prompt_tokens, before + added);
    // A step ahead may have evaluated the end.
    let ahead = usize::from(model.engine.info().overlaps);
    let prefilled = answer.usage.prefilled_tokens;
    assert!((added - ahead..=added).contains(&prefilled), "{answer:?}");
}

#[tokio::test]
async fn a_conversation_beyond_the_context_is_refused_with_its_size() {
    let model = demo(settings(None)).await;
    let messages = [Message::User("seventeen ".repeat(20_000))];
    match model.reply(request(&messages, &[])).await {
        Err(ChatError::ContextExceeded { needed, limit }) => assert!(needed > limit),
        other => panic!("{other:?}"),
    }
}
