//! Engines one after the other with one folder of preambles, on every backend.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;

const PREAMBLE: &str = "<|im_start|>system\nYou are a helpful assistant. You can call tools. \
    Today is a day like any other, and the weather is not known.<|im_end|>\n";

fn encode(text: &str) -> Vec<u32> {
    tokenizer().encode(text).unwrap()
}

/// What the warm-up asks.
fn preamble() -> Vec<u32> {
    encode(&format!("{PREAMBLE}{PROMPT}"))
}

/// Fingerprints as the program takes them.
fn folder(path: &Path) -> PreambleFolder {
    PreambleFolder {
        path: path.to_owned(),
        model: crate::demo::files().fingerprint().unwrap(),
    }
}

/// What came of one life of an engine.
struct Life {
    warm_up: Usage,
    /// What a user's request got.
    text: String,
    user: Usage,
}

fn usage((text, last): (String, Event)) -> (String, Usage) {
    match last {
        Event::Finished { usage, .. } => (text, usage),
        other => panic!("{other:?}"),
    }
}

/// Starts an engine, warms it up, asks something behind the preamble, and ends
/// it.
async fn live(backend: BackendChoice, warm_up: &[u32], settings: Settings) -> Life {
    let load = move || crate::model::load(&crate::demo::files(), backend, &());
    let (engine, thread) = start(load, tokenizer(), settings).await.unwrap();
    let (_, warmed) = usage(
        finish(engine.submit(Request {
            prompt: warm_up.to_vec(),
            pin: true,
            ..request("", 1)
        }))
        .await,
    );
    let (text, user) =
        usage(finish(engine.submit(request(&format!("{PREAMBLE}{PROMPT}"), 20))).await);
    drop(engine);
    assert!(thread.join());
    Life {
        warm_up: warmed,
        text,
        user,
    }
}

fn with(preambles: Option<PreambleFolder>) -> Settings {
    Settings {
        preambles,
        ..settings(None)
    }
}

fn files(path: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(path).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[tokio::test]
async fn the_pinned_preamble_is_there_again_after_a_restart() {
    let temp = TempDir::new().unwrap();
    let prompt = preamble();
    for &backend in BackendChoice::BUILT_IN {
        let here = || with(Some(folder(&temp.path().join("kv"))));
        let never = live(backend, &prompt, with(None)).await;
        let first = live(backend, &prompt, here()).await;
        assert_eq!(first.warm_up.cached_tokens, 0, "{backend:?}");
        assert_eq!(first.text, never.text);
        for _ in 0..2 {
            let again = live(backend, &prompt, here()).await;
            assert_eq!(again.warm_up.prompt_tokens, prompt.len());
            assert_eq!(again.warm_up.cached_tokens, prompt.len() - 1);
            assert_eq!(again.warm_up.prefilled_tokens, 1);
            assert_eq!(again.user.prefilled_tokens, 1);
            assert_eq!(again.text, never.text);
        }
    }
    // Each backend has its own.
    let count = BackendChoice::BUILT_IN.len();
    assert_eq!(files(&temp.path().join("kv")).len(), count);
}

#[tokio::test]
async fn another_preamble_begins_with_what_it_shares_and_is_stored_too() {
    let temp = TempDir::new().unwrap();
    let here = || with(Some(folder(temp.path())));
    let prompt = preamble();
    let other = [&prompt[..prompt.len() - 5], &[5, 6, 7, 8]].concat();
    let candle = BackendChoice::Candle;
    live(candle, &prompt, here()).await;
    let life = live(candle, &other, here()).await;
    assert_eq!(life.warm_up.cached_tokens, prompt.len() - 5);
    for (prompt, text) in [(&other, &life.text), (&prompt, &life.text)] {
        let life = live(candle, prompt, here()).await;
        assert_eq!(life.warm_up.prefilled_tokens, 1);
        assert_eq!(&life.text, text);
    }
    assert_eq!(files(temp.path()).len(), 2);
}

#[tokio::test]
async fn what_is_damaged_or_another_models_is_evaluated_again() {
    let temp = TempDir::new().unwrap();
    let here = || with(Some(folder(temp.path())));
    let prompt = preamble();
    let candle = BackendChoice::Candle;
    let first = live(candle, &prompt, here()).await;
    let [file] = &files(temp.path())[..] else {
        panic!("{:?}", files(temp.path()))
    };
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
    for cached in [0, prompt.len() - 1] {
        let life = live(candle, &prompt, here()).await;
        assert_eq!(life.warm_up.cached_tokens, cached);
        assert_eq!(life.text, first.text);
    }
    let mut other = here();
    if let Some(folder) = &mut other.preambles {
        folder.model = crate::model::Fingerprint::from([1; 32]);
    }
    let life = live(candle, &prompt, other).await;
    assert_eq!(life.warm_up.cached_tokens, 0);
    assert_eq!(files(temp.path()).len(), 2);
}

#[tokio::test]
async fn where_there_is_no_room_or_no_folder_everything_works_without() {
    let temp = TempDir::new().unwrap();
    let prompt = preamble();
    let candle = BackendChoice::Candle;
    let here = || with(Some(folder(temp.path())));
    let first = live(candle, &prompt, here()).await;
    let model = crate::model::load(&crate::demo::files(), candle, &()).unwrap();
    let token = model.info().kv_bytes_per_token;
    drop(model);
    // None is parked; less is parked; all of the memory is the prompt's own.
    let mut tight = [here(), here(), here()];
    tight[0].prefix_cache_bytes = 0;
    tight[1].prefix_cache_bytes = (prompt.len() - 2) * token;
    tight[2].kv_bytes = Some((prompt.len() + 1) * token);
    for (settings, cached) in tight.into_iter().zip([0, 0, prompt.len() - 1]) {
        let kv_bytes = settings.kv_bytes;
        let load = move || crate::model::load(&crate::demo::files(), candle, &());
        let (engine, thread) = start(load, tokenizer(), settings).await.unwrap();
        let warm_up = Request {
            prompt: prompt.clone(),
            pin: true,
            ..request("", 1)
        };
        let (_, usage) = usage(finish(engine.submit(warm_up)).await);
        assert_eq!(usage.cached_tokens, cached, "{kv_bytes:?}");
        drop(engine);
        assert!(thread.join());
    }
    let file = temp.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let life = live(candle, &prompt, with(Some(folder(&file.join("kv"))))).await;
    assert_eq!(life.text, first.text);
    assert_eq!(life.warm_up.cached_tokens, 0);
}

#[tokio::test]
async fn requests_that_come_while_it_is_stored_get_what_they_get_without() {
    let temp = TempDir::new().unwrap();
    for &backend in BackendChoice::BUILT_IN {
        let prompt = preamble();
        let expected = live(backend, &prompt, with(None)).await.text;
        let load = move || crate::model::load(&crate::demo::files(), backend, &());
        let settings = with(Some(folder(temp.path())));
        let (engine, thread) = start(load, tokenizer(), settings).await.unwrap();
        let warm_up = engine.submit(Request {
            pin: true,
            ..request(&format!("{PREAMBLE}{PROMPT}"), 1)
        });
        let all: Vec<Events> = (0..4)
            .map(|_| engine.submit(request(&format!("{PREAMBLE}{PROMPT}"), 20)))
            .collect();
        usage(finish(warm_up).await);
        for events in all {
            assert_eq!(finish(events).await.0, expected);
        }
        drop(engine);
        assert!(thread.join());
        let again = live(backend, &prompt, with(Some(folder(temp.path())))).await;
        assert_eq!(again.warm_up.prefilled_tokens, 1);
        assert_eq!(again.text, expected);
    }
}
