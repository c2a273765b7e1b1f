//! Conversations with tiny models whose layers carry states, through the
//! engine: what was evaluated once is gone on from, and answers stay the same.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::model::ModelFiles;

/// Each character is a token.
const TEMPLATE: &str = "{% for message in messages %}<{{ message.role }}>\
                        {% if message.reasoning_content and loop.last %}{{ message.reasoning_content }}{% endif %}\
                        {{ message.content }}|{% endfor %}\
                        {% if add_generation_prompt %}<assistant>{% endif %}";

const SYSTEM: &str = "You are of few words, and those are kind ones.";

/// The fixture `name` with a tokenizer and a template.
fn files(name: &str) -> (TempDir, ModelFiles) {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(root.join(name).join(file), folder.path().join(file)).unwrap();
    }
    let vocabulary: Map<String, Value> = (0u8..128)
        .map(|id| (char::from(id).to_string(), json!(id)))
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "[\\s\\S]"},
            "behavior": "Isolated",
            "invert": false,
        },
        "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "?"},
    });
    let write = |file: &str, text: String| std::fs::write(folder.path().join(file), text).unwrap();
    write("tokenizer.json", tokenizer.to_string());
    write("chat_template.jinja", TEMPLATE.to_owned());
    let files = ModelFiles::Folder(folder.path().to_owned());
    (folder, files)
}

async fn model(files: &ModelFiles, prefix_cache_bytes: usize) -> LocalModel {
    let load = {
        let files = files.clone();
        move || model::load(&files, BackendChoice::Auto, &())
    };
    let tokenizer = Arc::new(Tokenizer::load(files).unwrap());
    let settings = engine::Settings {
        context_length: None,
        // No token ends a turn: these models are random.
        end_of_sequence: Vec::new(),
        prefix_cache_bytes,
        ..engine::Settings::default()
    };
    let started = engine::start(load, Arc::clone(&tokenizer), settings).await;
    let (engine, _thread) = started.unwrap();
    let template = ChatTemplate::load(files).unwrap();
    let settings = Settings {
        temperature: 0.0,
        max_tokens: 12,
        ..super::settings(Some(1))
    };
    LocalModel::new(engine, tokenizer, template, settings)
}

fn begun(words: &str) -> Vec<Message> {
    vec![
        Message::System(SYSTEM.to_owned()),
        Message::User(words.to_owned()),
    ]
}

fn goes_on(messages: &mut Vec<Message>, reply: &Reply, kept: bool, words: &str) {
    messages.push(Message::Assistant {
        content: reply.content.clone(),
        reasoning: None,
        tool_calls: Vec::new(),
        written: reply.written.clone().filter(|_| kept),
    });
    messages.push(Message::User(words.to_owned()));
}

#[tokio::test]
async fn what_requests_share_is_evaluated_once_and_changes_no_answer() {
    let mut whole = false;
    for name in ["qwen3.5-f32", "qwen3-next-f32", "lfm2-f32"] {
        let (_folder, files) = files(name);
        let cold = model(&files, 0).await;
        let warm = model(&files, 1 << 30).await;
        assert!(warm.engine.info().state_bytes > 0, "{name}");

        let preamble = format!("<system>{SYSTEM}|<user>").len();
        let usage = warm.warm_up(request(&begun("Hello"), &[])).await.unwrap();
        assert_eq!(usage.cached_tokens, 0);
        for words in ["What is it?", "Hell is others.", "1", "A"] {
            let messages = begun(words);
            let expected = cold.reply(request(&messages, &[])).await.unwrap();
            assert_eq!(expected.usage.cached_tokens, 0);
            let reply = warm.reply(request(&messages, &[])).await.unwrap();
            assert_eq!(reply.content, expected.content, "{name}, {words}");
            assert_eq!(reply.usage.cached_tokens, preamble, "{name}, {words}");
            let prompt = preamble + words.len() + "|<assistant>".len();
            assert_eq!(reply.usage.prefilled_tokens, prompt - preamble);
            // The same again: all but its last token is there, if that is
            // worth a snapshot.
            let again = warm.reply(request(&messages, &[])).await.unwrap();
            assert_eq!(again.content, expected.content);
            let left = match prompt - preamble {
                few @ ..=16 => few,
                _ => 1,
            };
            assert_eq!(again.usage.prefilled_tokens, left, "{name}, {words}");
        }

        // The next turn: all that was given and written is there but the
        // token drawn last. Or what was written comes back changed, and the
        // prompt it was written to is there.
        for (kept, words) in [(true, "Once more."), (false, "And again.")] {
            let mut messages = begun(words);
            let reply = warm.reply(request(&messages, &[])).await.unwrap();
            let before = reply.usage.prompt_tokens;
            // What it wrote is kept unless it reads otherwise than it is
            // written, with a space at its end for instance.
            let kept = kept && reply.content.chars().count() == 12;
            whole |= kept;
            goes_on(&mut messages, &reply, kept, "And then?");
            if !kept && let Message::Assistant { content, .. } = &mut messages[2] {
                content.insert(0, '~');
            }
            let expected = cold.reply(request(&messages, &[])).await.unwrap();
            let reply = warm.reply(request(&messages, &[])).await.unwrap();
            assert_eq!(reply.content, expected.content, "{name}, kept: {kept}");
            let there = match kept {
                true => before + 12 - 1,
                false => before - 1,
            };
            assert_eq!(reply.usage.cached_tokens, there, "{name}, kept: {kept}");
        }
    }
    assert!(whole, "nothing that was written was kept");
}
