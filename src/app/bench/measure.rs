//! The measurements. Each is the median of a few repetitions; the engine does
//! nothing else meanwhile.

use std::time::{Duration, Instant};

use futures::future::join_all;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sysinfo::{ProcessesToUpdate, System};

use super::super::{Failure, cli};
use super::overhead::overhead;
use crate::chat::LocalModel;
use crate::engine::{Engine, Event, Request, Sampling};

/// The shared preamble of the times to the first token, and what each client
/// adds to it.
const PREAMBLE: usize = 1024;
const OWN: usize = 16;
/// Tokens of a prompt that is under way while others come in.
const AHEAD: usize = 64;

/// Clients at once behind a preamble.
const CLIENTS: usize = 8;

/// Repetitions, fewer where one takes long.
const REPETITIONS: usize = 5;
const LONG: Duration = Duration::from_secs(5);

const GREEDY: Sampling = Sampling {
    temperature: 0.0,
    top_p: 1.0,
    min_p: 0.0,
    min_tokens_to_keep: 1,
    seed: 0,
};

/// What was measured.
pub(super) struct Measured {
    pub(super) family: String,
    pub(super) parameters: u64,
    pub(super) backend: String,
    pub(super) threads: usize,
    /// Tokens a second by length of the prompt.
    pub(super) prefill: Vec<(usize, f64)>,
    /// Tokens a second of all streams together by their number.
    pub(super) decode: Vec<(usize, f64)>,
    /// Unless it was not asked for.
    pub(super) latency: Option<Latency>,
    /// Bytes of memory the process has.
    pub(super) resident: u64,
}

/// What is measured beside rates.
pub(super) struct Latency {
    /// To the first token: behind a preamble nobody has sent before, behind
    /// one that is known, and for the last of several clients that come at
    /// once with a new one.
    pub(super) cold: Duration,
    pub(super) warm: Duration,
    pub(super) shared: Duration,
    /// Tokens of that preamble.
    pub(super) preamble: usize,
    /// A request over HTTP less the engine's part of it.
    pub(super) overhead: Duration,
}

impl Measured {
    /// Measures what `options` ask for. `say` is told what is being measured.
    pub(super) async fn take(
        engine: &Engine,
        model: LocalModel,
        options: &cli::Bench,
        say: &dyn Fn(&str),
    ) -> Result<Self, Failure> {
        let mut bench = Bench {
            engine,
            random: SmallRng::seed_from_u64(1),
        };
        let room = engine.context_length();
        say("warming up …");
        let longest = options.prompts.iter().copied().max().unwrap_or(0);
        bench.request(longest.clamp(1, room - 2), 2).await?;

        let prompts = options.prompts.iter().copied();
        let prompts: Vec<_> = prompts.filter(|length| length + 2 <= room).collect();
        say(&format!(
            "prefill of {} tokens by turns …",
            listed(&prompts)
        ));
        let prefill = by_turns(&prompts, async |length| {
            Ok(bench.request(length, 1).await?.first)
        });
        let prefill = rates(prefill.await?, |length| length);
        let generated = options.generated.min(room - OWN - 1);
        let streams = listed(&options.streams);
        say(&format!("decode of {streams} streams by turns …"));
        let decode = by_turns(&options.streams, async |streams| {
            bench.decode(streams, generated).await
        });
        let decode = rates(decode.await?, |streams| streams * (generated - 1));
        let latency = match options.rates_only {
            true => None,
            false => Some(Latency::take(&mut bench, model, say).await?),
        };
        let info = engine.info();
        Ok(Self {
            family: info.family.clone(),
            parameters: info.parameters,
            backend: info.backend.clone(),
            threads: info.threads,
            prefill,
            decode,
            latency,
            resident: resident(),
        })
    }
}

impl Latency {
    async fn take(
        bench: &mut Bench<'_>,
        model: LocalModel,
        say: &dyn Fn(&str),
    ) -> Result<Self, Failure> {
        let preamble = PREAMBLE.min(bench.engine.context_length() / 2);
        say(&format!("first tokens behind {preamble} shared ones …"));
        let mut shared = bench.tokens(preamble);
        let cold = repeat(async || {
            shared = bench.tokens(preamble);
            bench.behind(&shared, 1).await
        })
        .await?;
        let warm = repeat(async || bench.behind(&shared, 1).await).await?;
        let together = repeat(async || {
            let shared = bench.tokens(preamble);
            bench.behind(&shared, CLIENTS).await
        })
        .await?;
        say("the host's own time …");
        Ok(Self {
            cold,
            warm,
            shared: together,
            preamble,
            overhead: overhead(model).await?,
        })
    }
}

/// The median of a few runs.
async fn repeat(
    mut run: impl AsyncFnMut() -> Result<Duration, Failure>,
) -> Result<Duration, Failure> {
    let medians = by_turns(&[0], async |_| run().await).await?;
    Ok(medians
        .first()
        .map_or(Duration::ZERO, |&(_, median)| median))
}

/// The median of a few runs of each, by turns: where a machine is faster for a
/// while, it is so for all of them.
async fn by_turns(
    all: &[usize],
    mut run: impl AsyncFnMut(usize) -> Result<Duration, Failure>,
) -> Result<Vec<(usize, Duration)>, Failure> {
    let mut times = vec![Vec::new(); all.len()];
    for _ in 0..REPETITIONS {
        for (&one, times) in all.iter().zip(&mut times) {
            if times.iter().sum::<Duration>() < LONG {
                times.push(run(one).await?);
            }
        }
    }
    Ok(all
        .iter()
        .copied()
        .zip(times.into_iter().map(median))
        .collect())
}

/// `1, 2, 4`.
fn listed(all: &[usize]) -> String {
    let all: Vec<_> = all.iter().map(usize::to_string).collect();
    all.join(", ")
}

/// Tokens a second, of as many tokens as each is of.
fn rates(times: Vec<(usize, Duration)>, tokens: impl Fn(usize) -> usize) -> Vec<(usize, f64)> {
    times
        .into_iter()
        .map(|(one, time)| (one, tokens(one) as f64 / time.as_secs_f64()))
        .collect()
}

pub(super) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// An engine, and prompts nobody has sent before.
struct Bench<'a> {
    engine: &'a Engine,
    random: SmallRng,
}

/// When a request's first token came after its submission, and the request's
/// beginning and end.
struct Times {
    first: Duration,
    submitted: Instant,
    ended: Instant,
}

impl Bench<'_> {
    fn tokens(&mut self, count: usize) -> Vec<u32> {
        let vocabulary = self.engine.info().vocabulary_size as u32;
        (0..count)
            .map(|_| self.random.random_range(0..vocabulary))
            .collect()
    }

    /// One request with a new prompt.
    async fn request(&mut self, length: usize, generated: usize) -> Result<Times, Failure> {
        let prompt = self.tokens(length);
        self.submit(prompt, generated).await
    }

    /// Submits now; the future is the request's end.
    fn submit(
        &self,
        prompt: Vec<u32>,
        max_tokens: usize,
    ) -> impl Future<Output = Result<Times, Failure>> + use<> {
        let submitted = Instant::now();
        let mut events = self.engine.submit(Request {
            prompt,
            max_tokens,
            sampling: GREEDY,
            calls: None,
            pin: false,
            boundaries: Vec::new(),
        });
        async move {
            loop {
                match events.next().await {
                    Some(Event::Text(_)) => {}
                    Some(Event::Finished { usage, .. }) => {
                        return Ok(Times {
                            first: usage.time_to_first_token,
                            submitted,
                            ended: Instant::now(),
                        });
                    }
                    Some(Event::Failed(error)) => return Err(Failure::new(error)),
                    None => return Err(Failure::new("the engine gave no end")),
                }
            }
        }
    }

    /// How long streams of `generated` tokens take from the first token of
    /// the first of them to the end of the last.
    async fn decode(&mut self, streams: usize, generated: usize) -> Result<Duration, Failure> {
        let prompts: Vec<_> = (0..streams).map(|_| self.tokens(OWN)).collect();
        // While this one's step is under way all streams come in, and begin
        // with the next: no prompt of theirs is evaluated between their
        // tokens.
        let ahead = self.tokens(AHEAD.min(self.engine.context_length() / 2));
        let ahead = self.submit(ahead, 1);
        let all = prompts
            .into_iter()
            .map(|prompt| self.submit(prompt, generated));
        let all: Vec<_> = all.collect();
        ahead.await?;
        let times: Vec<Times> = join_all(all).await.into_iter().collect::<Result<_, _>>()?;
        let began = times
            .iter()
            .map(|times| times.submitted + times.first)
            .min();
        let ended = times.iter().map(|times| times.ended).max();
        Ok(began
            .zip(ended)
            .map_or(Duration::ZERO, |(began, ended)| ended - began))
    }

    /// The time to the last of the first tokens of clients that come at once
    /// with `shared` and something of their own.
    async fn behind(&mut self, shared: &[u32], clients: usize) -> Result<Duration, Failure> {
        let prompts: Vec<_> = (0..clients)
            .map(|_| [shared, &self.tokens(OWN)].concat())
            .collect();
        let all = prompts.into_iter().map(|prompt| self.submit(prompt, 1));
        let all: Vec<_> = all.collect();
        let times: Vec<Times> = join_all(all).await.into_iter().collect::<Result<_, _>>()?;
        Ok(times
            .iter()
            .map(|times| times.first)
            .max()
            .unwrap_or_default())
    }
}

/// Bytes of memory this process has.
fn resident() -> u64 {
    let Ok(pid) = sysinfo::get_current_pid() else {
        return 0;
    };
    let mut system = System::new();
    system.refresh_processes(ProcessesToUpdate::Some(&[pid]), true);
    system.process(pid).map_or(0, |process| process.memory())
}
