//! Many requests at once on the bundled model: what each gets must not depend
//! on the others, and what they share is evaluated once.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::{AbortHandle, JoinSet};

use super::*;
use crate::engine::detokenizer::Detokenizer;

pub(super) const SYSTEM: &str = "<|im_start|>system\nYou are a helpful assistant. You can call tools. \
    Today is a day like any other, and the weather is not known.<|im_end|>\n";

pub(super) fn load_on(backend: BackendChoice) -> Result<Box<dyn Model>, ModelError> {
    crate::model::load(&crate::demo::files(), backend, &())
}

pub(super) fn load_candle() -> Result<Box<dyn Model>, ModelError> {
    load_on(BackendChoice::Candle)
}

async fn on_candle(settings: Settings) -> (Engine, EngineThread) {
    start(load_candle, tokenizer(), settings).await.unwrap()
}

pub(super) fn encode(text: &str) -> Vec<u32> {
    tokenizer().encode(text).unwrap()
}

pub(super) fn user(text: &str) -> String {
    format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")
}

pub(super) fn asks(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        max_tokens,
        sampling: GREEDY,
        calls: None,
        pin: false,
        boundaries: Vec::new(),
    }
}

/// The most likely tokens after a prompt, alone on the model, up to the end
/// of the turn.
pub(super) fn alone(model: &mut dyn Model, prompt: &[u32], count: usize) -> Vec<u32> {
    let sequence = model.open().unwrap();
    let mut tokens: Vec<u32> = Vec::new();
    let mut next = prompt.to_vec();
    while tokens.len() < count && tokens.last() != Some(&2043) {
        let step = model.submit(&[Input {
            sequence,
            tokens: Tokens::Given(&next),
            draw: Some(Draw::GREEDY),
        }]);
        next = drawn(&*step.unwrap());
        tokens.extend(&next);
    }
    model.close(sequence);
    tokens
}

/// What a request for `max_tokens` should give, where `tokens` come alone.
pub(super) fn expected(tokens: &[u32], max_tokens: usize) -> (String, FinishReason, usize) {
    let tokens = &tokens[..tokens.len().min(max_tokens)];
    let (text, reason) = match tokens.split_last() {
        Some((2043, text)) => (text, FinishReason::Stop),
        _ => (tokens, FinishReason::Length),
    };
    let tokenizer = tokenizer();
    let mut detokenizer = Detokenizer::new(&tokenizer);
    let mut pieces: Vec<String> = text
        .iter()
        .map(|&token| detokenizer.push(token).unwrap())
        .collect();
    pieces.push(detokenizer.finish().unwrap());
    (pieces.concat(), reason, tokens.len())
}

pub(super) fn usage(last: &Event) -> (FinishReason, Usage) {
    match last {
        Event::Finished { reason, usage, .. } => (*reason, *usage),
        other => panic!("{other:?}"),
    }
}

/// A model that says before each step that it is about to take it, and waits
/// for leave; it fails where it is told to.
struct Stepped {
    info: ModelInfo,
    inner: Box<dyn Model>,
    about_to: events::UnboundedSender<()>,
    leave: mpsc::Receiver<bool>,
}

impl Model for Stepped {
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
        // A test that is over lets everything pass.
        let _ = self.about_to.send(());
        match self.leave.recv() {
            Ok(false) => Err(ModelError::Input("made to fail".to_owned())),
            Ok(true) | Err(_) => self.inner.submit(batch),
        }
    }
}

pub(super) struct Steps {
    pub(super) about_to: events::UnboundedReceiver<()>,
    pub(super) leave: mpsc::Sender<bool>,
}

pub(super) async fn stepped(settings: Settings, overlaps: bool) -> (Engine, EngineThread, Steps) {
    stepped_with(load_candle, settings, overlaps).await
}

pub(super) async fn stepped_with(
    load: impl FnOnce() -> Result<Box<dyn Model>, ModelError> + Send + 'static,
    settings: Settings,
    overlaps: bool,
) -> (Engine, EngineThread, Steps) {
    let (said, about_to) = events::unbounded_channel();
    let (leave, wait) = mpsc::channel();
    let load = move || {
        let inner = load()?;
        let info = ModelInfo {
            overlaps,
            ..inner.info().clone()
        };
        Ok(Box::new(Stepped {
            info,
            inner,
            about_to: said,
            leave: wait,
        }) as Box<dyn Model>)
    };
    let (engine, thread) = start(load, tokenizer(), settings).await.unwrap();
    (engine, thread, Steps { about_to, leave })
}

/// The longest generation of the interleavings.
pub(super) const MOST: usize = 12;

/// Prompts that share prefixes, are prefixes of one another, go on where an
/// answer ended, or have nothing in common with the others, each with what
/// comes after it alone. `long` makes the longest of them.
pub(super) fn pool(backend: BackendChoice, system: &str, long: usize) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut model = load_on(backend).unwrap();
    let mut pool = Vec::new();
    let mut add = |prompt: Vec<u32>| {
        let tokens = alone(&mut *model, &prompt, MOST);
        pool.push((prompt, tokens.clone()));
        tokens
    };
    let hello = encode(&format!("{system}{}", user("hello there")));
    let answer = add(hello.clone());
    add(hello[..hello.len() - 3].to_vec());
    add(hello[..10].to_vec());
    add(hello[..1].to_vec());
    let went_on = [&hello, &answer, &encode(&user("and what time is it?"))[..]].concat();
    add(went_on);
    add(encode(&format!("{system}{}", user("what is 2 + 2?"))));
    add(encode(&format!(
        "{system}{}",
        user("what is 2 + 3, please?")
    )));
    add(encode(&user("hello there")));
    add(encode(&format!(
        "{}{}",
        "a b c d ".repeat(long),
        user("hello")
    )));
    pool
}

#[tokio::test]
async fn in_any_company_a_request_gets_what_it_gets_alone() {
    for &backend in BackendChoice::BUILT_IN {
        // MLX's CPU build, a reference to test with, takes its time.
        let (requests, system, long) = match backend {
            BackendChoice::Mlx => (4, "<|im_start|>system\nBe helpful.<|im_end|>\n", 35),
            _ => (20, SYSTEM, 80),
        };
        let pool = pool(backend, system, long);
        let cached = sixteen_interleavings(move || load_on(backend), requests, &pool).await;
        assert!(cached > 50 * requests, "{cached} tokens were cached");
    }
}

/// Each of `requests` requests. The tokens are the same even on MLX: what its
/// products with other numbers of rows round differently is too little to make
/// another token the most likely. Returns how many tokens were cached.
pub(super) async fn sixteen_interleavings(
    load: impl Fn() -> Result<Box<dyn Model>, ModelError> + Clone + Send + 'static,
    requests: usize,
    pool: &[(Vec<u32>, Vec<u32>)],
) -> usize {
    let info = load().unwrap().info().clone();
    let token = info.kv_bytes_per_token;
    let (mut finished, mut cached, mut cancelled) = (0, 0, 0);
    for seed in 0..16 {
        let dice = &mut StdRng::seed_from_u64(seed);
        let settings = Settings {
            max_batch: [2, 4, 16][seed as usize % 3],
            kv_bytes: [None, Some(1000 * token)][seed as usize % 2],
            prefix_cache_bytes: [1 << 30, 400 * token, 0, 150 * token][seed as usize % 4],
            ..settings(None)
        };
        let overlaps = seed / 2 % 2 == 1;
        let (engine, _thread, mut steps) = stepped_with(load.clone(), settings, overlaps).await;
        let mut running: JoinSet<(usize, usize, (String, Event))> = JoinSet::new();
        let mut handles: Vec<AbortHandle> = Vec::new();
        let mut to_come = requests;
        while to_come > 0 || !running.is_empty() {
            if to_come > 0 && (running.is_empty() || dice.random_bool(0.4)) {
                to_come -= 1;
                let which = dice.random_range(0..pool.len());
                let max_tokens = dice.random_range(1..=MOST);
                let prompt = &pool[which].0;
                let events = engine.submit(Request {
                    boundaries: vec![seed as usize * 3, prompt.len().saturating_sub(5)],
                    ..asks(prompt, max_tokens)
                });
                let result = async move { (which, max_tokens, finish(events).await) };
                handles.push(running.spawn(result));
                continue;
            }
            tokio::select! {
                Some(()) = steps.about_to.recv() => {
                    if dice.random_bool(0.1) {
                        handles[dice.random_range(0..handles.len())].abort();
                        tokio::task::yield_now().await;
                    }
                    steps.leave.send(true).unwrap();
                }
                Some(result) = running.join_next() => {
                    let Ok((which, max_tokens, (text, last))) = result else {
                        cancelled += 1;
                        continue;
                    };
                    let (reason, usage) = usage(&last);
                    let got = (text, reason, usage.generated_tokens);
                    let (prompt, tokens) = &pool[which];
                    let what = format!("{}, seed {seed}, prompt {which}", info.backend);
                    assert_eq!(got, expected(tokens, max_tokens), "{what}");
                    assert_eq!(usage.prompt_tokens, prompt.len());
                    assert_eq!(usage.cached_tokens + usage.prefilled_tokens, prompt.len());
                    assert!(usage.prefilled_tokens > 0);
                    finished += 1;
                    cached += usage.cached_tokens;
                }
            }
        }
    }
    assert_eq!(finished + cancelled, 16 * requests);
    assert!(cancelled > requests / 2, "{cancelled} were cancelled");
    cached
}

#[tokio::test]
async fn eight_clients_at_once_pay_for_their_preamble_once() {
    let preamble = encode(&SYSTEM.repeat(12));
    assert!(preamble.len() > 300, "{}", preamble.len());
    let (engine, _thread) = on_candle(settings(None)).await;
    let own = |client: u32| encode(&user(&format!("my number is {client} and yours?")));
    let all: Vec<Events> = (0..8)
        .map(|client| engine.submit(asks(&[&preamble[..], &own(client)].concat(), 4)))
        .collect();
    let mut prefilled = 0;
    for events in all {
        prefilled += usage(&finish(events).await.1).1.prefilled_tokens;
    }
    let needed = preamble.len() + (0..8).map(|client| own(client).len()).sum::<usize>();
    assert!(prefilled * 100 <= needed * 105, "{prefilled} of {needed}");
}

#[tokio::test]
async fn a_round_that_adds_to_the_last_costs_what_it_adds() {
    let mut model = load_candle().unwrap();
    let (engine, _thread) = on_candle(settings(None)).await;
    let mut prompt = encode(&format!("{SYSTEM}{}", user("hello there")));
    let mut evaluated = 0;
    for _ in 0..4 {
        let answer = alone(&mut *model, &prompt, 20);
        let (text, last) = finish(engine.submit(asks(&prompt, 20))).await;
        let (reason, usage) = usage(&last);
        let got = (text, reason, usage.generated_tokens);
        assert_eq!(got, expected(&answer, 20));
        assert_eq!(usage.cached_tokens, evaluated);
        assert_eq!(usage.prefilled_tokens, prompt.len() - evaluated);
        // Of what was generated, all but the last token was evaluated.
        evaluated = prompt.len() + answer.len() - 1;
        prompt.extend(answer);
        prompt.extend(encode(&user("and then?")));
    }
}

#[tokio::test]
async fn what_is_pinned_outlasts_everything_else() {
    let token = load_candle().unwrap().info().kv_bytes_per_token;
    let preamble = encode(&format!("{SYSTEM}{}", user("Hello")));
    let (engine, _thread) = on_candle(Settings {
        prefix_cache_bytes: (preamble.len() + 60) * token,
        ..settings(None)
    })
    .await;
    let warm_up = Request {
        calls: None,
        pin: true,
        ..asks(&preamble, 1)
    };
    finish(engine.submit(warm_up)).await;
    for number in 0..4 {
        let other = encode(&user(&format!("{number} is something else")));
        finish(engine.submit(asks(&other, 3))).await;
    }
    let (_, last) = finish(engine.submit(asks(&preamble, 1))).await;
    assert_eq!(usage(&last).1.prefilled_tokens, 1);
}

#[tokio::test]
async fn what_can_never_fit_is_refused_and_the_rest_waits_its_turn() {
    let token = load_candle().unwrap().info().kv_bytes_per_token;
    let prompt = encode(PROMPT);
    let room = prompt.len() + 10;
    let (engine, _thread) = on_candle(Settings {
        kv_bytes: Some(room * token + token - 1),
        ..settings(None)
    })
    .await;
    let first = engine.submit(asks(&prompt, 10));
    let long = vec![7; room];
    let refused = engine.submit(asks(&long, 11));
    // Its answer ends where the memory does.
    let second = engine.submit(asks(&prompt, 4000));
    let (text, last) = finish(first).await;
    usage(&last);
    assert_eq!(
        finish(refused).await.1,
        Event::Failed(EngineError::ContextExceeded {
            needed: room + 1,
            limit: room,
        })
    );
    let (again, last) = finish(second).await;
    usage(&last);
    assert_eq!(again, text);
}

#[tokio::test]
async fn a_prompt_with_an_unknown_token_fails_alone() {
    let (engine, _thread) = on_candle(settings(None)).await;
    let good = engine.submit(asks(&encode(PROMPT), 3));
    let bad = engine.submit(asks(&[1, 2048], 3));
    let empty = engine.submit(asks(&[], 3));
    usage(&finish(good).await.1);
    for events in [bad, empty] {
        let last = finish(events).await.1;
        assert!(
            matches!(last, Event::Failed(EngineError::Model(_))),
            "{last:?}"
        );
    }
}

#[tokio::test]
async fn a_step_that_fails_takes_its_requests_along_and_nobody_else() {
    for overlaps in [false, true] {
        let (engine, _thread, mut steps) = stepped(settings(None), overlaps).await;
        let prompt = encode(PROMPT);
        let both = [
            engine.submit(asks(&prompt, 5)),
            engine.submit(asks(&prompt[..8], 5)),
        ];
        for leave in [true, true, false] {
            steps.about_to.recv().await.unwrap();
            steps.leave.send(leave).unwrap();
        }
        for events in both {
            let last = finish(events).await.1;
            let failed = EngineError::Model("made to fail".to_owned());
            assert_eq!(last, Event::Failed(failed));
        }
        // Every later step has leave.
        drop(steps);
        let tokens = alone(&mut *load_candle().unwrap(), &prompt, 5);
        let (text, last) = finish(engine.submit(asks(&prompt, 5))).await;
        let (reason, usage) = usage(&last);
        assert_eq!((text, reason, usage.generated_tokens), expected(&tokens, 5));
        assert_eq!(usage.cached_tokens, 0, "what the step left is not used");
    }
}
