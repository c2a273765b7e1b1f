//! Rounds, results and contexts that come to their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::*;
use crate::chat::{ChatError, Finish};
use crate::session::{NOTHING_AFTER_THE_LAST_ROUND, SessionError, Settings};

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
    let model = Arc::new(Script::with_room(17, []));
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
    let model = Arc::new(Script::with_room(1500, turns));
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
    let model = Arc::new(Script::with_room(18 + 90, turns));
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
    let model = Arc::new(Script::with_room(1050, turns));
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
    let model = Arc::new(Script::with_room(18, [calls(&["t"])]));
    let got = answer(&model, always(&"x".repeat(500), false), settings).await;
    assert!(matches!(
        got,
        Err(SessionError::Model(ChatError::ContextExceeded { .. }))
    ));
    assert!(model.asked().len() < 10);
}
