//! What the bundled model says in held-out conversations, with activations
//! rounded to eight bits and in f32. `cargo bench --bench quality` has the
//! figures, over more of them.

use llm_server::backend::BackendChoice;
use llm_server::demo;
use llm_server::model::{self, Tokenizer};

use crate::support::repository;
use answers::{Score, score};

#[path = "../../benches/quality/answers.rs"]
mod answers;
#[path = "../../benches/quality/held_out.rs"]
mod held_out;

/// Of so many conversations one is taken: products in f32 take their time
/// where the tests are built.
const EVERY: usize = 6;

#[test]
fn rounded_activations_leave_as_many_answers_right() {
    let files = demo::files();
    let tokenizer = Tokenizer::load(&files).unwrap();
    let all = held_out::read(&repository("tests/fixtures/held-out.jsonl"), &tokenizer);
    for conversation in &all {
        assert!(!conversation.scored.is_empty());
        for scored in &conversation.scored {
            assert!(conversation.replies[scored.behind]);
            assert!(!conversation.replies[scored.behind - 1]);
        }
    }
    let some: Vec<_> = all.into_iter().step_by(EVERY).collect();
    let [wide, rounded]: [Score; 2] =
        [BackendChoice::CandleF32, BackendChoice::Candle].map(|backend| {
            let mut model = model::load(&files, backend, &()).unwrap();
            score(model.as_mut(), &tokenizer, &some)
        });
    assert_eq!(wide.conversations, some.len());
    // models/demo/README.md has 88.5 % of all conversations.
    assert!(wide.right_replies * 10 >= wide.replies * 8, "{wide:?}");
    assert!(
        wide.right_conversations * 10 >= wide.conversations * 7,
        "{wide:?}"
    );
    assert!(
        rounded.right_replies >= wide.right_replies,
        "{rounded:?}, not {wide:?}"
    );
    assert!(
        rounded.right_conversations >= wide.right_conversations,
        "{rounded:?}, not {wide:?}"
    );
}

#[test]
fn what_is_wrong_is_told_from_what_is_right() {
    let tokenizer = Tokenizer::load(&demo::files()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("one.jsonl");
    let call = r#"{"name": "sum", "arguments": {"a": 1, "b": 2}}"#;
    let line = serde_json::json!({"category": "A", "parts": [
        {"text": "<|im_start|>user\nwhat is 1 + 2?<|im_end|>\n<|im_start|>assistant\n"},
        {"reply": "…", "calls": [serde_json::from_str::<serde_json::Value>(call).unwrap()]},
        {"text": "\n<|im_start|>user\n3<|im_end|>\n<|im_start|>assistant\n"},
        {"reply": "It is 3.<|im_end|>", "holds": ["3"]},
    ]});
    std::fs::write(&file, line.to_string()).unwrap();
    let [conversation] = &held_out::read(&file, &tokenizer)[..] else {
        panic!("one line is one conversation");
    };
    let [calls, answer] = &conversation.scored[..] else {
        panic!("two replies are scored");
    };
    let written = |call: &str| format!("<tool_call>\n{call}\n</tool_call>");
    let once = written(call);
    assert!(calls.is_right(&once));
    assert!(calls.is_right(&written(
        r#"{"name": "sum", "arguments": {"b": 2, "a": 1}}"#
    )));
    for wrong in [
        "It is 3.",
        &format!("{once}\n{once}"),
        &written(r#"{"name": "sum", "arguments": {"a": 1, "b": 3}}"#),
        &written(r#"{"name": "product", "arguments": {"a": 1, "b": 2}}"#),
        &written(r#"{"name": "sum", "arguments": {"a": 1, "b": 2}"#),
        "<tool_call>\n",
    ] {
        assert!(!calls.is_right(wrong), "{wrong}");
    }
    assert!(answer.is_right("That makes 3."));
    assert!(!answer.is_right("That makes 4."));
    assert!(!answer.is_right(&format!("3\n{once}")));
}
