//! What is asked, called and answered.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use serde_json::{Value, json};
use tokio::sync::{Barrier, Notify};

use super::support::*;
use crate::chat::{Arguments, ChatError, Message, Written};
use crate::mcp::CallOutcome;
use crate::session::{Answer, SessionError, Settings};

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
    first.written = Some(Written::of("hm, so let me see."));
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
                written: first.written,
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
