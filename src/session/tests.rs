//! The loop over a scripted model and tools that are closures.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::sync::{Barrier, Notify};

use super::*;
use crate::chat::{Arguments, ToolCall, Usage};
use crate::mcp::{CallOutcome, Tool};

type Asked = (Vec<Message>, Vec<ToolSpec>);

/// A model that says what it is told to, turn by turn.
#[derive(Default)]
struct Script {
    turns: Mutex<VecDeque<Result<Reply, ChatError>>>,
    asked: Mutex<Vec<Asked>>,
    /// The context's size, in characters of the messages.
    room: Option<usize>,
}

impl Script {
    fn new(turns: impl IntoIterator<Item = Reply>) -> Self {
        Self {
            turns: Mutex::new(turns.into_iter().map(Ok).collect()),
            ..Self::default()
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl ChatModel for Script {
    fn reply<'a>(&'a self, request: ChatRequest<'a>) -> BoxFuture<'a, Result<Reply, ChatError>> {
        let asked = (request.messages.to_vec(), request.tools.to_vec());
        self.asked.lock().unwrap().push(asked);
        let needed: usize = request.messages.iter().map(characters).sum();
        if let Some(limit) = self.room.filter(|room| needed > *room) {
            return async move { Err(ChatError::ContextExceeded { needed, limit }) }.boxed();
        }
        let turn = self.turns.lock().unwrap().pop_front();
        async move { turn.expect("the script has no more turns") }.boxed()
    }
}

fn characters(message: &Message) -> usize {
    match message {
        Message::System(text) | Message::User(text) => text.chars().count(),
        Message::Assistant { content, .. } => content.chars().count(),
        Message::Tool { content, .. } => content.chars().count(),
    }
}

type Handler = dyn Fn(&str, Map<String, Value>) -> BoxFuture<'static, CallOutcome> + Send + Sync;

/// Tools that are one closure.
struct Closure {
    names: Arc<Mutex<Vec<&'static str>>>,
    handler: Box<Handler>,
}

impl ToolSource for Closure {
    fn tools(&self) -> Arc<[Tool]> {
        let names = self.names.lock().unwrap();
        let tools = names.iter().map(|name| Tool {
            name: (*name).to_owned(),
            description: format!("does {name}"),
            input_schema: json!({"type": "object"}),
            server: "test".to_owned(),
        });
        tools.collect()
    }

    fn call<'a>(
        &'a self,
        name: &'a str,
        arguments: Map<String, Value>,
    ) -> BoxFuture<'a, CallOutcome> {
        (self.handler)(name, arguments)
    }
}

fn tools<F>(names: &[&'static str], handler: F) -> Arc<Closure>
where
    F: Fn(&str, Map<String, Value>) -> BoxFuture<'static, CallOutcome> + Send + Sync + 'static,
{
    Arc::new(Closure {
        names: Arc::new(Mutex::new(names.to_vec())),
        handler: Box::new(handler),
    })
}

fn no_tools() -> Arc<Closure> {
    tools(&[], |_, _| panic!("there is no tool to call"))
}

/// A tool named `t` whose results are always `text`.
fn always(text: &str, is_error: bool) -> Arc<Closure> {
    let text = text.to_owned();
    tools(&["t"], move |_, _| outcome(text.clone(), is_error))
}

fn outcome(text: impl Into<String>, is_error: bool) -> BoxFuture<'static, CallOutcome> {
    let text = text.into();
    async move { CallOutcome { text, is_error } }.boxed()
}

fn says(content: &str) -> Reply {
    Reply {
        content: content.to_owned(),
        reasoning: None,
        tool_calls: Vec::new(),
        finish: Finish::Stop,
        usage: Usage {
            prompt_tokens: 10,
            generated_tokens: 3,
            time_to_first_token: Duration::from_millis(7),
        },
    }
}

fn calls(names: &[&str]) -> Reply {
    let mut reply = says("");
    reply.tool_calls = names
        .iter()
        .enumerate()
        .map(|(index, name)| ToolCall {
            id: format!("call-{index}"),
            name: (*name).to_owned(),
            arguments: Arguments::Object(Map::new()),
        })
        .collect();
    reply
}

fn settings() -> Settings {
    Settings {
        system_prompt: "Be brief.".to_owned(),
        max_tool_rounds: 4,
        tool_result_limit: 1000,
    }
}

async fn answer(
    model: &Arc<Script>,
    tools: Arc<Closure>,
    settings: Settings,
) -> Result<Answer, SessionError> {
    let model: Arc<dyn ChatModel> = model.clone();
    let answer = ToolLoop::new(model, tools, settings);
    let answer = answer.answer("How much?");
    tokio::time::timeout(Duration::from_secs(10), answer)
        .await
        .expect("the loop hangs")
}

/// The texts of the tool results in the last question to the model.
fn results(model: &Script) -> Vec<String> {
    let (messages, _) = model.asked().pop().unwrap();
    let results = messages.into_iter().filter_map(|message| match message {
        Message::Tool { content, .. } => Some(content),
        _ => None,
    });
    results.collect()
}

#[tokio::test]
async fn an_answer_without_tools() {
    let model = Arc::new(Script::new([says("391")]));
    let got = answer(&model, no_tools(), settings()).await.unwrap();
    assert_eq!(
        got,
        Answer {
            text: "391".to_owned(),
            rounds: 1,
            prompt_tokens: 10,
            generated_tokens: 3,
            time_to_first_token: Duration::from_millis(7),
        }
    );
    let asked = model.asked();
    let expected = vec![
        Message::System("Be brief.".to_owned()),
        Message::User("How much?".to_owned()),
    ];
    assert_eq!(asked, [(expected, vec![])]);
}

#[tokio::test]
async fn an_empty_system_prompt_is_no_message() {
    let model = Arc::new(Script::new([says("391")]));
    let settings = Settings {
        system_prompt: String::new(),
        ..settings()
    };
    answer(&model, no_tools(), settings).await.unwrap();
    assert_eq!(model.asked()[0].0, [Message::User("How much?".to_owned())]);
}

#[tokio::test]
async fn calls_are_made_and_results_go_back() {
    let mut first = calls(&["t"]);
    first.content = "Let me see.".to_owned();
    first.reasoning = Some("hm".to_owned());
    let arguments = json!({"a": 1}).as_object().unwrap().clone();
    first.tool_calls[0].arguments = Arguments::Object(arguments);
    let mut second = says("It is 2.");
    second.usage.time_to_first_token = Duration::from_secs(9);
    let model = Arc::new(Script::new([first.clone(), second]));
    let source = tools(&["t"], |name, arguments| {
        outcome(format!("{name} {}", Value::Object(arguments)), false)
    });
    let got = answer(&model, source, settings()).await.unwrap();
    assert_eq!(got.text, "It is 2.");
    assert_eq!(
        (got.rounds, got.prompt_tokens, got.generated_tokens),
        (2, 20, 6)
    );
    assert_eq!(got.time_to_first_token, Duration::from_millis(7));

    let asked = model.asked();
    assert_eq!(asked[0].1[0].name, "t");
    assert_eq!(asked[0].1[0].description, "does t");
    assert_eq!(asked[0].1, asked[1].1);
    // History is only ever appended to.
    assert_eq!(asked[1].0[..2], asked[0].0[..]);
    assert_eq!(
        asked[1].0[2..],
        [
            Message::Assistant {
                content: "Let me see.".to_owned(),
                reasoning: Some("hm".to_owned()),
                tool_calls: first.tool_calls,
            },
            Message::Tool {
                call_id: "call-0".to_owned(),
                name: "t".to_owned(),
                content: r#"t {"a":1}"#.to_owned(),
            },
        ]
    );
}

#[tokio::test]
async fn calls_of_a_turn_run_at_once_and_keep_their_order() {
    // Each call waits for the others: one after the other would never end.
    // The first to be called is the last to return.
    let all = Arc::new(Barrier::new(3));
    let last = Arc::new(Notify::new());
    let source = tools(&["a", "b", "c"], move |name, _| {
        let (name, all, last) = (name.to_owned(), all.clone(), last.clone());
        async move {
            all.wait().await;
            match name.as_str() {
                "a" => last.notified().await,
                "c" => last.notify_one(),
                _ => {}
            }
            CallOutcome {
                text: name,
                is_error: false,
            }
        }
        .boxed()
    });
    let model = Arc::new(Script::new([calls(&["a", "b", "c"]), says("done")]));
    answer(&model, source, settings()).await.unwrap();
    assert_eq!(results(&model), ["a", "b", "c"]);
}

#[tokio::test]
async fn errors_are_marked_once() {
    for text in ["no such file", "Error: no such file"] {
        let model = Arc::new(Script::new([calls(&["t"]), says("sorry")]));
        let got = answer(&model, always(text, true), settings())
            .await
            .unwrap();
        assert_eq!(got.text, "sorry");
        assert_eq!(results(&model), ["Error: no such file"]);
    }
}

#[tokio::test]
async fn calls_that_cannot_be_made_are_errors_for_the_model() {
    let mut turn = calls(&["u", "", "t"]);
    turn.tool_calls[2].arguments = Arguments::Malformed {
        text: "{oops".to_owned(),
        reason: "the arguments are not a JSON object".to_owned(),
    };
    let model = Arc::new(Script::new([turn, says("sorry")]));
    let source = tools(&["t", "v"], |_, _| panic!("nothing can be called"));
    answer(&model, source, settings()).await.unwrap();
    assert_eq!(
        results(&model),
        [
            r#"Error: there is no tool named "u"; the tools are: t, v."#,
            "Error: the call names no tool; the tools are: t, v.",
            "Error: the arguments are not a JSON object",
        ]
    );
}

#[tokio::test]
async fn a_call_where_there_are_no_tools() {
    let model = Arc::new(Script::new([calls(&["t"]), says("sorry")]));
    answer(&model, no_tools(), settings()).await.unwrap();
    assert_eq!(
        results(&model),
        [r#"Error: there is no tool named "t"; there are no tools, so answer without them."#]
    );
}

#[tokio::test]
async fn long_results_are_cut_between_characters() {
    let model = Arc::new(Script::new([calls(&["t"]), says("done")]));
    let settings = Settings {
        tool_result_limit: 3,
        ..settings()
    };
    answer(&model, always("aéß𝄞z", false), settings.clone())
        .await
        .unwrap();
    assert_eq!(
        results(&model),
        ["aéß\n[cut: only the first 3 of 5 characters are shown]"]
    );

    let model = Arc::new(Script::new([calls(&["t"]), says("done")]));
    answer(&model, always("aéß", false), settings)
        .await
        .unwrap();
    assert_eq!(results(&model), ["aéß"]);
}

#[tokio::test]
async fn after_the_last_round_the_model_answers_without_tools() {
    let settings = Settings {
        max_tool_rounds: 2,
        ..settings()
    };
    let mut last = calls(&["t"]);
    last.content = "So far: 7.".to_owned();
    let model = Arc::new(Script::new([calls(&["t"]), calls(&["t"]), last]));
    let called = Arc::new(AtomicUsize::new(0));
    let counter = called.clone();
    let source = tools(&["t"], move |_, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        outcome("7", false)
    });
    let got = answer(&model, source, settings.clone()).await.unwrap();
    assert_eq!((got.text.as_str(), got.rounds), ("So far: 7.", 3));
    assert_eq!(called.load(Ordering::Relaxed), 2);
    let offered: Vec<usize> = model.asked().iter().map(|(_, tools)| tools.len()).collect();
    assert_eq!(offered, [1, 1, 0]);

    // And if it has nothing to say then, the user still reads a sentence.
    let model = Arc::new(Script::new([calls(&["t"]), calls(&["t"]), calls(&["t"])]));
    let got = answer(&model, always("7", false), settings).await.unwrap();
    assert_eq!(got.text, NOTHING_AFTER_THE_LAST_ROUND);
}

#[tokio::test]
async fn no_rounds_at_all() {
    let settings = Settings {
        max_tool_rounds: 0,
        ..settings()
    };
    let model = Arc::new(Script::new([says("hello")]));
    let got = answer(&model, always("7", false), settings).await.unwrap();
    assert_eq!((got.text.as_str(), got.rounds), ("hello", 1));
    assert!(model.asked()[0].1.is_empty());
}

#[tokio::test]
async fn an_empty_answer_and_a_cut_one_are_returned_as_they_are() {
    let model = Arc::new(Script::new([says("")]));
    assert_eq!(
        answer(&model, no_tools(), settings()).await.unwrap().text,
        ""
    );
    let mut cut = says("It is");
    cut.finish = Finish::Length;
    let model = Arc::new(Script::new([cut]));
    assert_eq!(
        answer(&model, no_tools(), settings()).await.unwrap().text,
        "It is"
    );
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_too_long() {
    let model = Arc::new(Script {
        room: Some(17),
        ..Script::new([])
    });
    let got = answer(&model, no_tools(), settings()).await;
    assert_eq!(
        got,
        Err(SessionError::PromptTooLong {
            needed: 18,
            limit: 17
        })
    );
}

#[tokio::test]
async fn a_full_context_cuts_the_newest_results() {
    let turns = [calls(&["t"]), calls(&["t", "short"]), says("done")];
    let model = Arc::new(Script {
        room: Some(1500),
        ..Script::new(turns)
    });
    let source = tools(&["t", "short"], |name, _| match name {
        "t" => outcome("x".repeat(5000), false),
        _ => outcome("ok", false),
    });
    let got = answer(&model, source, settings()).await.unwrap();
    assert_eq!((got.text.as_str(), got.rounds), ("done", 3));
    let results = results(&model);
    assert!(
        results[0].starts_with(&"x".repeat(1000)),
        "the older result is as it was"
    );
    assert_eq!(
        results[1],
        format!(
            "{}\n[cut: only the first 250 of 5000 characters are shown]",
            "x".repeat(250)
        )
    );
    assert_eq!(results[2], "ok");
}

#[tokio::test]
async fn results_that_never_fit_are_left_out() {
    // Not even a cut result fits; a notice in its place does.
    let turns = [calls(&["t"]), says("too long, it says")];
    let model = Arc::new(Script {
        room: Some(18 + 90),
        ..Script::new(turns)
    });
    let settings = Settings {
        tool_result_limit: 100_000,
        ..settings()
    };
    let source = always(&"x".repeat(90_000), false);
    let got = answer(&model, source, settings.clone()).await.unwrap();
    assert_eq!(got.text, "too long, it says");
    let shown = results(&model).pop().unwrap();
    assert!(
        shown.starts_with("Error: the result is too long"),
        "{shown}"
    );

    // Older results go last.
    let turns = [calls(&["t"]), calls(&["tiny"]), says("done")];
    let model = Arc::new(Script {
        room: Some(1050),
        ..Script::new(turns)
    });
    let source = tools(&["t", "tiny"], |name, _| match name {
        "t" => outcome("x".repeat(1000), false),
        _ => outcome("y".repeat(40), false),
    });
    assert_eq!(
        answer(&model, source, settings.clone()).await.unwrap().text,
        "done"
    );
    let shown = results(&model);
    assert!(
        shown[0].starts_with("Error: the result is too long"),
        "{shown:?}"
    );
    assert_eq!(shown[1], "y".repeat(40));

    // And where nothing helps there is an end.
    let model = Arc::new(Script {
        room: Some(18),
        ..Script::new([calls(&["t"])])
    });
    let got = answer(&model, always(&"x".repeat(500), false), settings).await;
    assert!(matches!(
        got,
        Err(SessionError::Model(ChatError::ContextExceeded { .. }))
    ));
    assert!(model.asked().len() < 10);
}

#[tokio::test]
async fn a_model_that_fails_fails_the_request() {
    let model = Arc::new(Script::default());
    let failure = ChatError::Engine("out of memory".to_owned());
    model.turns.lock().unwrap().push_back(Err(failure.clone()));
    let got = answer(&model, no_tools(), settings()).await;
    assert_eq!(got, Err(SessionError::Model(failure)));
}

#[tokio::test]
async fn the_tools_offered_stay_the_same_within_a_request() {
    let model = Arc::new(Script::new([calls(&["t"]), calls(&["t"]), says("done")]));
    let names = Arc::new(Mutex::new(vec!["t", "u"]));
    let servers = names.clone();
    let source = Arc::new(Closure {
        names: names.clone(),
        // A server goes and another comes while the request is under way.
        handler: Box::new(move |_, _| {
            *servers.lock().unwrap() = vec!["v"];
            outcome("the server is gone", true)
        }),
    });
    answer(&model, source, settings()).await.unwrap();
    assert_eq!(*names.lock().unwrap(), ["v"]);
    let asked = model.asked();
    assert_eq!(asked[0].1.len(), 2);
    assert_eq!(asked[0].1, asked[1].1);
    assert_eq!(asked[0].1, asked[2].1);
    assert_eq!(results(&model), ["Error: the server is gone"; 2]);
}

/// Notices that it is dropped.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn dropping_the_answer_cancels_the_calls() {
    let begun = Arc::new(Barrier::new(3));
    let dropped = Arc::new(AtomicUsize::new(0));
    let (waits, counts) = (begun.clone(), dropped.clone());
    let source = tools(&["t"], move |_, _| {
        let (begun, guard) = (waits.clone(), Dropped(counts.clone()));
        async move {
            let _guard = guard;
            begun.wait().await;
            std::future::pending().await
        }
        .boxed()
    });
    let model = Arc::new(Script::new([calls(&["t", "t"])]));
    let answering = answer(&model, source, settings());
    tokio::select! {
        _ = answering => panic!("the tools never answer"),
        _ = begun.wait() => {}
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}
