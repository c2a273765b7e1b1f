//! The engine with the bundled model and with models made to fail.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::backend::{BackendChoice, MemoryUse};
use crate::model::{Draw, Input, RawKv, SequenceId, Step, Submitted, Tokens};

mod batching;
mod calls;
mod not_numbers;
mod restart;
mod seeds;
mod states;

const GREEDY: Sampling = Sampling {
    temperature: 0.0,
    top_p: 1.0,
    min_p: 0.0,
    min_tokens_to_keep: 1,
    seed: 0,
};

const PROMPT: &str = "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n";

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::load(&crate::demo::files()).unwrap())
}

fn load_demo() -> Result<Box<dyn Model>, ModelError> {
    crate::model::load(&crate::demo::files(), BackendChoice::Auto, &())
}

fn settings(context_length: Option<usize>) -> Settings {
    Settings {
        context_length,
        end_of_sequence: vec![2043],
        ..Settings::default()
    }
}

async fn demo(context_length: Option<usize>) -> (Engine, EngineThread) {
    start(load_demo, tokenizer(), settings(context_length))
        .await
        .unwrap()
}

fn request(text: &str, max_tokens: usize) -> Request {
    Request {
        prompt: tokenizer().encode(text).unwrap(),
        max_tokens,
        sampling: GREEDY,
        calls: None,
        pin: false,
        boundaries: Vec::new(),
    }
}

/// The tokens a step drew, all of which there are.
fn drawn(step: &dyn Step) -> Vec<u32> {
    let tokens = step.tokens().unwrap().into_iter();
    tokens.map(|token| token.unwrap()).collect()
}

/// The whole text and the last event.
async fn finish(mut events: Events) -> (String, Event) {
    let mut text = String::new();
    loop {
        match events
            .next()
            .await
            .expect("an end comes before the stream's")
        {
            Event::Text(more) => text.push_str(&more),
            last => {
                assert_eq!(events.next().await, None);
                return (text, last);
            }
        }
    }
}

#[tokio::test]
async fn a_request_gives_text_and_one_end_with_its_figures() {
    let (engine, thread) = demo(None).await;
    let request = request(PROMPT, 100);
    let prompt_tokens = request.prompt.len();
    let (text, last) = finish(engine.submit(request)).await;
    assert!(text.starts_with("Hello"), "{text:?}");
    let Event::Finished {
        reason,
        usage,
        tokens,
    } = last
    else {
        panic!("{last:?}")
    };
    // The end's own token counts and is not among them.
    assert_eq!(tokens.len(), usage.generated_tokens - 1);
    assert_eq!(tokenizer().decode(&tokens).unwrap(), text);
    assert_eq!(reason, FinishReason::Stop);
    assert_eq!(usage.prompt_tokens, prompt_tokens);
    assert!(usage.generated_tokens > 3);
    assert!(usage.time_to_first_token > Duration::ZERO);
    drop(engine);
    assert!(thread.join());
}

#[tokio::test]
async fn a_prompt_of_many_chunks_is_evaluated_whole() {
    let (engine, _thread) = demo(None).await;
    let long = format!(
        "<|im_start|>system\n{}<|im_end|>\n{PROMPT}",
        "a b c d ".repeat(90)
    );
    let request = request(&long, 1);
    assert!(request.prompt.len() > 513, "{}", request.prompt.len());
    let mut model = load_demo().unwrap();
    let sequence = model.open().unwrap();
    let step = model
        .submit(&[Input {
            sequence,
            tokens: Tokens::Given(&request.prompt),
            draw: Some(Draw::GREEDY),
        }])
        .unwrap();
    let best = drawn(&*step);
    let (text, _) = finish(engine.submit(request)).await;
    assert_eq!(text, tokenizer().decode(&best).unwrap());
}

#[tokio::test]
async fn the_limits_end_a_generation_or_refuse_it() {
    let length = |last| match last {
        Event::Finished {
            reason: FinishReason::Length,
            usage,
            tokens,
        } => {
            assert_eq!(tokens.len(), usage.generated_tokens);
            tokens.len()
        }
        other => panic!("{other:?}"),
    };
    let (engine, _thread) = demo(None).await;
    let (_, last) = finish(engine.submit(request(PROMPT, 2))).await;
    assert_eq!(length(last), 2);

    let needed = request(PROMPT, 1).prompt.len() + 1;
    let (engine, _thread) = demo(Some(needed)).await;
    assert_eq!(engine.context_length(), needed);
    let (_, last) = finish(engine.submit(request(PROMPT, 100))).await;
    assert_eq!(length(last), 1);

    let (engine, _thread) = demo(Some(needed - 1)).await;
    let (text, last) = finish(engine.submit(request(PROMPT, 100))).await;
    assert_eq!(text, "");
    let limit = needed - 1;
    assert_eq!(
        last,
        Event::Failed(EngineError::ContextExceeded { needed, limit })
    );

    let (engine, _thread) = demo(Some(1_000_000)).await;
    assert_eq!(engine.context_length(), engine.info().context_length);
}

/// A model that counts its steps, and waits in each for a permit.
struct Gated {
    info: ModelInfo,
    inner: Box<dyn Model>,
    steps: Arc<AtomicUsize>,
    gate: mpsc::Receiver<()>,
}

impl Model for Gated {
    fn info(&self) -> &ModelInfo {
        &self.info
    }
    fn open(&mut self) -> Result<SequenceId, ModelError> {
        self.inner.open()
    }
    fn fork(&mut self, sequence: SequenceId, len: usize) -> Result<SequenceId, ModelError> {
        self.inner.fork(sequence, len)
    }
    fn snapshot(&mut self, sequence: SequenceId) -> Result<(), ModelError> {
        self.inner.snapshot(sequence)
    }
    fn export(&self, sequence: SequenceId, layer: usize, len: usize) -> Result<RawKv, ModelError> {
        self.inner.export(sequence, layer, len)
    }
    fn import(
        &mut self,
        len: usize,
        layers: &mut dyn Iterator<Item = RawKv>,
    ) -> Result<SequenceId, ModelError> {
        self.inner.import(len, layers)
    }
    fn close(&mut self, sequence: SequenceId) {
        self.inner.close(sequence);
    }
    fn memory(&self) -> Option<MemoryUse> {
        self.inner.memory()
    }
    fn submit(&mut self, batch: &[Input<'_>]) -> Result<Submitted, ModelError> {
        self.gate.recv().expect("the test holds the gate");
        self.steps.fetch_add(1, Ordering::SeqCst);
        self.inner.submit(batch)
    }
}

#[tokio::test]
async fn a_dropped_request_stops_before_the_next_step_and_a_waiting_one_never_begins() {
    for overlaps in [false, true] {
        let steps = Arc::new(AtomicUsize::new(0));
        let (permits, gate) = mpsc::channel();
        let counted = steps.clone();
        let load = move || {
            let inner = load_demo()?;
            let info = ModelInfo {
                overlaps,
                ..inner.info().clone()
            };
            Ok(Box::new(Gated {
                info,
                inner,
                steps: counted,
                gate,
            }) as Box<dyn Model>)
        };
        let (engine, _thread) = start(load, tokenizer(), settings(None)).await.unwrap();
        let mut first = engine.submit(request(PROMPT, 100));
        let waiting = engine.submit(request(PROMPT, 100));
        let last = engine.submit(request(PROMPT, 1));
        // The step of the first token, and the one that overlaps with it.
        let ahead = usize::from(overlaps);
        for _ in 0..1 + ahead {
            permits.send(()).unwrap();
        }
        assert!(matches!(first.next().await, Some(Event::Text(_))));
        drop(first);
        drop(waiting);
        // At most the step the first was in, then the one of the last.
        for _ in 0..2 {
            permits.send(()).unwrap();
        }
        assert!(matches!(finish(last).await.1, Event::Finished { .. }));
        assert!(steps.load(Ordering::SeqCst) <= 3 + ahead, "{steps:?}");
    }
}

/// A model whose every step goes wrong.
struct Broken {
    info: ModelInfo,
    panics: bool,
    inner: Box<dyn Model>,
}

impl Model for Broken {
    fn info(&self) -> &ModelInfo {
        &self.info
    }
    fn open(&mut self) -> Result<SequenceId, ModelError> {
        self.inner.open()
    }
    fn fork(&mut self, sequence: SequenceId, len: usize) -> Result<SequenceId, ModelError> {
        self.inner.fork(sequence, len)
    }
    fn snapshot(&mut self, sequence: SequenceId) -> Result<(), ModelError> {
        self.inner.snapshot(sequence)
    }
    fn export(&self, sequence: SequenceId, layer: usize, len: usize) -> Result<RawKv, ModelError> {
        self.inner.export(sequence, layer, len)
    }
    fn import(
        &mut self,
        len: usize,
        layers: &mut dyn Iterator<Item = RawKv>,
    ) -> Result<SequenceId, ModelError> {
        self.inner.import(len, layers)
    }
    fn close(&mut self, _: SequenceId) {}
    fn memory(&self) -> Option<MemoryUse> {
        None
    }
    fn submit(&mut self, _: &[Input<'_>]) -> Result<Submitted, ModelError> {
        assert!(!self.panics, "made to panic");
        Err(ModelError::Input("made to fail".to_owned()))
    }
}

async fn broken(panics: bool) -> (Engine, EngineThread) {
    let load = move || {
        let inner = load_demo()?;
        let info = inner.info().clone();
        Ok(Box::new(Broken {
            info,
            panics,
            inner,
        }) as Box<dyn Model>)
    };
    start(load, tokenizer(), settings(None)).await.unwrap()
}

#[tokio::test]
async fn a_failing_step_fails_its_request_and_not_the_engine() {
    let (engine, _thread) = broken(false).await;
    for _ in 0..2 {
        let (_, last) = finish(engine.submit(request(PROMPT, 5))).await;
        assert_eq!(
            last,
            Event::Failed(EngineError::Model("made to fail".to_owned()))
        );
    }
}

#[tokio::test]
async fn a_dead_engine_fails_those_in_flight_and_those_after_and_is_noticed() {
    let (engine, thread) = broken(true).await;
    let (first, second) = (
        engine.submit(request(PROMPT, 5)),
        engine.submit(request(PROMPT, 5)),
    );
    thread.ended().await;
    for events in [first, second, engine.submit(request(PROMPT, 5))] {
        assert_eq!(finish(events).await.1, Event::Failed(EngineError::Stopped));
    }
    assert!(!thread.join());
}

#[tokio::test]
async fn a_model_that_does_not_load_is_an_error_and_so_is_a_panic() {
    let failed = || Err(ModelError::Input("not today".to_owned()));
    let error = start(failed, tokenizer(), settings(None))
        .await
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "not today");
    let error = start(|| panic!("while loading"), tokenizer(), settings(None))
        .await
        .err();
    assert!(matches!(error, Some(StartError::Panicked)));
}
