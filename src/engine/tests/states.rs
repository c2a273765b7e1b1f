//! The bundled model as one with states: it can be forked where a snapshot was
//! taken, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use super::batching::{
    MOST, SYSTEM, Steps, alone, asks, encode, expected, load_candle, pool, sixteen_interleavings,
    stepped_with, usage, user,
};
use super::*;

/// What a state takes, in tokens.
const STATE: usize = 20;

/// The bundled model, which refuses a fork where there is no snapshot.
struct Stateful {
    info: ModelInfo,
    inner: Box<dyn Model>,
    /// How many tokens each sequence has, and where snapshots of it were taken.
    sequences: BTreeMap<SequenceId, (usize, BTreeSet<usize>)>,
    /// The next snapshots that fail.
    failing: usize,
    told: Told,
}

/// What a model was asked for.
#[derive(Clone, Default)]
struct Told {
    snapshots: Arc<AtomicUsize>,
    forks: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    /// The most that the sequences took, in tokens.
    most: Arc<AtomicUsize>,
}

impl Stateful {
    /// Loads it, with `token` bytes of keys and values for each token if that
    /// is said.
    fn load(
        told: Told,
        failing: usize,
        token: Option<usize>,
    ) -> Result<Box<dyn Model>, ModelError> {
        let inner = load_candle()?;
        let kv_bytes_per_token = token.unwrap_or(inner.info().kv_bytes_per_token);
        let info = ModelInfo {
            kv_bytes_per_token,
            // One token more than so many, if only just.
            state_bytes: (STATE - 1) * kv_bytes_per_token + 1,
            ..inner.info().clone()
        };
        Ok(Box::new(Self {
            info,
            inner,
            sequences: BTreeMap::new(),
            failing,
            told,
        }))
    }

    fn count(&self) {
        let taken = self.sequences.values();
        let taken = taken.map(|(len, snapshots)| len + STATE * (1 + snapshots.len()));
        self.told.most.fetch_max(taken.sum(), Ordering::SeqCst);
    }
}

impl Model for Stateful {
    fn info(&self) -> &ModelInfo {
        &self.info
    }
    fn open(&mut self) -> Result<SequenceId, ModelError> {
        let new = self.inner.open()?;
        self.sequences.insert(new, (0, BTreeSet::new()));
        Ok(new)
    }
    fn fork(&mut self, sequence: SequenceId, len: usize) -> Result<SequenceId, ModelError> {
        let (whole, snapshots) = &self.sequences[&sequence];
        if len != *whole && !snapshots.contains(&len) {
            self.told.refused.fetch_add(1, Ordering::SeqCst);
            return Err(ModelError::Input("there is no snapshot".to_owned()));
        }
        let copied = snapshots.range(..=len).copied().collect();
        let new = self.inner.fork(sequence, len)?;
        self.sequences.insert(new, (len, copied));
        self.told.forks.fetch_add(1, Ordering::SeqCst);
        self.count();
        Ok(new)
    }
    fn snapshot(&mut self, sequence: SequenceId) -> Result<(), ModelError> {
        if self.failing > 0 {
            self.failing -= 1;
            return Err(ModelError::Input("made to fail".to_owned()));
        }
        let (len, snapshots) = self.sequences.get_mut(&sequence).unwrap();
        assert!(snapshots.insert(*len), "there is one already");
        self.told.snapshots.fetch_add(1, Ordering::SeqCst);
        self.count();
        Ok(())
    }
    fn export(&self, _: SequenceId, _: usize, _: usize) -> Result<RawKv, ModelError> {
        panic!("there is more to a sequence than keys and values")
    }
    fn import(
        &mut self,
        _: usize,
        _: &mut dyn Iterator<Item = RawKv>,
    ) -> Result<SequenceId, ModelError> {
        panic!("there is more to a sequence than keys and values")
    }
    fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence);
        self.inner.close(sequence);
    }
    fn memory(&self) -> Option<MemoryUse> {
        self.inner.memory()
    }
    fn submit(&mut self, batch: &[Input<'_>]) -> Result<Submitted, ModelError> {
        for input in batch {
            let (len, _) = self.sequences.get_mut(&input.sequence).unwrap();
            *len += match input.tokens {
                Tokens::Given(tokens) => tokens.len(),
                Tokens::Drawn => 1,
            };
        }
        self.count();
        self.inner.submit(batch)
    }
}

/// An engine on it, whose steps wait for leave.
async fn stateful(told: &Told, failing: usize) -> (Engine, EngineThread, Steps) {
    let told = told.clone();
    let load = move || Stateful::load(told, failing, None);
    stepped_with(load, settings(None), false).await
}

/// Submits all at once: a request before them is in a step meanwhile.
async fn at_once(
    engine: &Engine,
    mut steps: Steps,
    requests: Vec<Request>,
) -> Vec<(String, Event)> {
    let before = engine.submit(asks(&encode("x"), 1));
    steps.about_to.recv().await.unwrap();
    let all: Vec<Events> = requests.into_iter().map(|one| engine.submit(one)).collect();
    // From here on every step has leave.
    drop(steps);
    finish(before).await;
    let mut results = Vec::new();
    for events in all {
        results.push(finish(events).await);
    }
    results
}

/// The preamble of eight clients, and their prompts behind it.
fn clients() -> (Vec<u32>, Vec<Vec<u32>>) {
    let preamble = encode(&SYSTEM.repeat(12));
    let own = |client| user(&format!("{client} is my number, and yours?"));
    let prompt = |client: u32| [&preamble[..], &encode(&own(client))].concat();
    let prompts = (0..8).map(prompt).collect();
    (preamble, prompts)
}

#[tokio::test]
async fn in_any_company_a_request_gets_what_it_gets_alone() {
    let told = Told::default();
    let loads = told.clone();
    let load = move || Stateful::load(loads.clone(), 0, None);
    let pool = pool(BackendChoice::Candle, SYSTEM, 80);
    let cached = sixteen_interleavings(load, 12, &pool).await;
    let [snapshots, forks, refused] =
        [told.snapshots, told.forks, told.refused].map(|count| count.load(Ordering::SeqCst));
    assert_eq!(refused, 0);
    let counts = format!("{snapshots} snapshots, {forks} forks, {cached} tokens cached");
    assert!(snapshots > 20 && forks > 50 && cached > 1_000, "{counts}");
}

#[tokio::test]
async fn eight_clients_at_once_pay_for_their_preamble_once() {
    let told = Told::default();
    let (engine, _thread, steps) = stateful(&told, 0).await;
    let (preamble, prompts) = clients();
    let requests = prompts.iter().map(|prompt| asks(prompt, 4)).collect();
    let mut prefilled = 0;
    let mut model = load_candle().unwrap();
    for ((text, last), prompt) in at_once(&engine, steps, requests).await.iter().zip(&prompts) {
        let (reason, usage) = usage(last);
        let tokens = alone(&mut *model, prompt, 4);
        let got = (text.clone(), reason, usage.generated_tokens);
        assert_eq!(got, expected(&tokens, 4));
        prefilled += usage.prefilled_tokens;
    }
    let common = in_common(&prompts);
    assert!(common >= preamble.len() - 1);
    let needed = common + prompts.iter().map(|own| own.len() - common).sum::<usize>();
    assert_eq!(prefilled, needed);
    assert_eq!(told.snapshots.load(Ordering::SeqCst), 1);
}

/// How many tokens all of them begin with.
fn in_common(prompts: &[Vec<u32>]) -> usize {
    let same = |place: &usize| {
        prompts
            .iter()
            .all(|prompt| prompt[*place] == prompts[0][*place])
    };
    (0..prompts[0].len()).take_while(same).count()
}

#[tokio::test]
async fn a_snapshot_that_fails_fails_its_request_alone() {
    let told = Told::default();
    let (engine, _thread, steps) = stateful(&told, 1).await;
    let (_, prompts) = clients();
    let requests = prompts.iter().map(|prompt| asks(prompt, 4)).collect();
    let mut results = at_once(&engine, steps, requests).await.into_iter();
    let failed = EngineError::Model("made to fail".to_owned());
    assert_eq!(results.next().unwrap().1, Event::Failed(failed));
    let mut model = load_candle().unwrap();
    for ((text, last), prompt) in results.zip(&prompts[1..]) {
        let (reason, usage) = usage(&last);
        let tokens = alone(&mut *model, prompt, 4);
        let got = (text, reason, usage.generated_tokens);
        assert_eq!(got, expected(&tokens, 4));
    }
    // None of the copies is believed to have it.
    for prompt in &prompts {
        let changed = [&prompt[..prompt.len() - 8], &[7, 7]].concat();
        usage(&finish(engine.submit(asks(&changed, 2))).await.1);
    }
    assert_eq!(told.refused.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_pinned_is_forked_at_its_boundary() {
    let told = Told::default();
    let (engine, _thread, steps) = stateful(&told, 0).await;
    drop(steps);
    let (_, prompts) = clients();
    let common = in_common(&prompts);
    let warm_up = Request {
        pin: true,
        boundaries: vec![common],
        ..asks(&[&prompts[0][..common], &[7; 20]].concat(), 1)
    };
    finish(engine.submit(warm_up)).await;
    for prompt in &prompts {
        let (_, last) = finish(engine.submit(asks(prompt, 4))).await;
        assert_eq!(usage(&last).1.prefilled_tokens, prompt.len() - common);
    }
    assert_eq!(told.snapshots.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_round_that_adds_to_the_last_costs_what_it_adds() {
    let told = Told::default();
    let (engine, _thread, steps) = stateful(&told, 0).await;
    drop(steps);
    let mut model = load_candle().unwrap();
    let mut prompt = encode(&format!("{SYSTEM}{}", user("hello there")));
    let mut evaluated = 0;
    for _ in 0..4 {
        let answer = alone(&mut *model, &prompt, MOST);
        let asked = Request {
            boundaries: vec![prompt.len() - 5],
            ..asks(&prompt, MOST)
        };
        let (text, last) = finish(engine.submit(asked)).await;
        let (reason, usage) = usage(&last);
        let got = (text, reason, usage.generated_tokens);
        assert_eq!(got, expected(&answer, MOST));
        assert_eq!(usage.prefilled_tokens, prompt.len() - evaluated);
        evaluated = prompt.len() + answer.len() - 1;
        prompt.extend(answer);
        prompt.extend(encode(&user("and then?")));
    }
    assert_eq!(told.forks.load(Ordering::SeqCst), 0);
    assert!(told.snapshots.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn states_are_counted_even_where_there_are_no_keys_and_values() {
    // Memory is counted in bytes then: one a token, of which a state takes 1.
    let told = Told::default();
    let loads = told.clone();
    let load = move || Stateful::load(loads, 0, Some(0));
    let prompt = encode(PROMPT);
    let room = prompt.len() + 6;
    let limited = Settings {
        kv_bytes: Some(room),
        prefix_cache_bytes: room,
        ..settings(None)
    };
    let (engine, _thread) = start(load, tokenizer(), limited).await.unwrap();
    let (_, last) = finish(engine.submit(asks(&prompt, 4000))).await;
    // One for its state, and two for snapshots there might have been.
    assert_eq!(usage(&last).1.generated_tokens, 3);
    let (_, last) = finish(engine.submit(asks(&vec![7; room - 1], 1))).await;
    let refused = EngineError::ContextExceeded {
        needed: room,
        limit: room - 1,
    };
    assert_eq!(last, Event::Failed(refused));
}

#[tokio::test]
async fn memory_is_never_used_that_was_not_there() {
    let (_, prompts) = clients();
    let token = load_candle().unwrap().info().kv_bytes_per_token;
    let longest = prompts.iter().map(Vec::len).max().unwrap();
    for states in [1, 2, 3, 5, 9, 20] {
        let told = Told::default();
        let loads = told.clone();
        let load = move || Stateful::load(loads, 0, None);
        // Not quite room for so many: states counted as less would fit.
        let room = longest + 4 + states * STATE - 2;
        let limited = Settings {
            kv_bytes: Some(room * token),
            prefix_cache_bytes: room * token,
            ..settings(None)
        };
        let (engine, _thread) = start(load, tokenizer(), limited).await.unwrap();
        let ask = |prompt: &Vec<u32>| Request {
            boundaries: vec![100, 200, prompt.len() - 4],
            ..asks(prompt, 4)
        };
        let all: Vec<Events> = prompts
            .iter()
            .map(|prompt| engine.submit(ask(prompt)))
            .collect();
        for events in all {
            usage(&finish(events).await.1);
        }
        let most = told.most.load(Ordering::SeqCst);
        assert!(most <= room, "{most} tokens of {room}");
        assert_eq!(told.refused.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn a_preamble_with_a_state_is_not_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("preambles");
    let kept = Settings {
        preambles: Some(PreambleFolder {
            path: path.clone(),
            model: crate::demo::files().fingerprint().unwrap(),
        }),
        ..settings(None)
    };
    let load = || Stateful::load(Told::default(), 0, None);
    let (engine, thread) = start(load, tokenizer(), kept).await.unwrap();
    let warm_up = Request {
        pin: true,
        ..request(PROMPT, 1)
    };
    usage(&finish(engine.submit(warm_up)).await.1);
    drop(engine);
    assert!(thread.join());
    assert!(!path.exists());
}
