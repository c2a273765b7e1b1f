//! The kernels that a step spends its time in, as a model calls them through
//! the seam to the tensor library, beside what the machine can do at most:
//! products of matrices of Qwen3-0.6B's shapes and attention with its heads.
//!
//! ```sh
//! cargo bench --bench kernels                        # all: some minutes
//! cargo bench --bench kernels -- 'product/4 bits'    # those with this in their name
//! ```
//!
//! criterion says how they compare with the run before; the table at the end
//! says what share of the machine's limit each of them has. Matrices, keys and
//! values come from memory, not from a cache, as they do in a model.

#![allow(missing_docs)]
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod inputs;
mod limits;
mod loops;
mod report;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use llm_server::backend::{
    self, Activation, AttentionSettings, Backend, BackendChoice, BackendError, RawKv, Span,
    WithBackend,
};

use inputs::{Format, copies, dice, floats};
use limits::Limits;
use report::{Measured, Numbers};

/// Qwen3-0.6B: `[out, in]` of its matrices, and their names. Those of queries
/// and keys are of the shapes of others.
const MATRICES: [(&str, usize, usize); 4] = [
    ("gate", 3072, 1024),
    ("down", 1024, 3072),
    ("out", 1024, 2048),
    ("head", 151_936, 1024),
];
const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;

/// Tokens of a step. The last projection is for rows that are sampled: of as
/// many as there are streams.
const TOKENS: [usize; 6] = [1, 2, 4, 8, 64, 512];
const STREAMS: usize = 8;

/// Tokens by which the sequences of [`decode`] grow before they are made anew.
const GROWTH: usize = 8;

/// criterion's samples, its least.
const SAMPLES: usize = 10;

fn main() {
    let limits = Limits::measure();
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .configure_from_args();
    let mut kernels = Kernels {
        criterion: &mut criterion,
        choice: BackendChoice::Candle,
        measured: Vec::new(),
    };
    let rounded = backend::start(BackendChoice::Candle, &mut kernels).unwrap();
    kernels.choice = BackendChoice::CandleF32;
    let wide = backend::start(BackendChoice::CandleF32, &mut kernels).unwrap();
    let measured = kernels.measured;
    criterion.final_summary();
    // Nothing was to be measured: names were listed, or none of them matched.
    if measured.is_empty() {
        return;
    }
    let limits = limits.or_better(Limits::measure());
    let backends = [format!("candle: {rounded}"), format!("candle-f32: {wide}")];
    println!("\n{}", report::table(&backends, &limits, &measured));
}

/// The kernels of a backend; says what it runs on.
struct Kernels<'a> {
    criterion: &'a mut Criterion,
    choice: BackendChoice,
    measured: Vec<Measured>,
}

impl WithBackend for &mut Kernels<'_> {
    type Output = String;

    fn with<B: Backend>(self, backend: B) -> String {
        match self.choice {
            BackendChoice::CandleF32 => {
                self.products(&backend, Format::FourBits, MATRICES[0]);
            }
            _ => {
                for format in Format::ALL {
                    for matrix in MATRICES {
                        self.products(&backend, format, matrix);
                    }
                    self.gated(&backend, format);
                }
                for tokens in [512, 2048] {
                    self.prefill(&backend, tokens);
                }
                for (sequences, context) in [(1, 100), (1, 1000), (8, 100), (8, 1000)] {
                    self.decode(&backend, sequences, context);
                }
            }
        }
        backend.describe()
    }
}

/// A kernel's name and what a call of it has to do.
struct Call {
    group: String,
    name: String,
    numbers: Numbers,
    macs: usize,
    bytes: usize,
}

impl Kernels<'_> {
    /// Products with a matrix.
    fn products<B: Backend>(&mut self, backend: &B, format: Format, matrix: (&str, usize, usize)) {
        self.calls(backend, "product", format, matrix, |x, [weight]| {
            backend.project(x, weight)
        });
    }

    /// The first half of a gated MLP.
    fn gated<B: Backend>(&mut self, backend: &B, format: Format) {
        let (_, rows, columns) = MATRICES[0];
        let matrix = ("gate and up", rows, columns);
        self.calls(backend, "gated", format, matrix, |x, [gate, up]| {
            backend.project_gated(x, gate, up, Activation::Silu)
        });
    }

    /// What is done with [`TOKENS`] rows and `N` matrices of a shape, each
    /// time with the next ones of a set.
    fn calls<B: Backend, const N: usize>(
        &mut self,
        backend: &B,
        what: &str,
        format: Format,
        (name, rows, columns): (&str, usize, usize),
        act: impl Fn(&B::Tensor, [&B::Matrix; N]) -> Result<B::Tensor, BackendError>,
    ) {
        let mut set = Vec::new();
        let (prefix, numbers) = match (self.choice, format) {
            (BackendChoice::CandleF32, _) => ("f32 ", Numbers::F32),
            (_, Format::Bf16) => ("", Numbers::Bf16),
            _ => ("", Numbers::Int8),
        };
        let most = if name == "head" { STREAMS } else { usize::MAX };
        for tokens in TOKENS.into_iter().filter(|&tokens| tokens <= most) {
            let bytes = N * format.bytes(rows, columns);
            let call = Call {
                group: format!("{prefix}{what}/{}", format.name()),
                name: format!("{name} [{rows}, {columns}]/{tokens}"),
                numbers,
                macs: N * tokens * rows * columns,
                bytes,
            };
            let (set, act) = (&mut set, &act);
            self.measure(call, move || {
                let mut random = dice();
                while set.len() < copies(bytes) {
                    set.push([(); N].map(|()| {
                        let weights = format.random(rows, columns, &mut random);
                        backend.matrix(weights).unwrap()
                    }));
                }
                let x = floats(&[tokens, columns], &mut random);
                let x = backend.parameter(&x).unwrap();
                let mut next = set.iter().cycle();
                move |calls| {
                    let began = Instant::now();
                    for matrices in next.by_ref().take(calls) {
                        let result = act(&x, matrices.each_ref()).unwrap();
                        backend.wait(&result).unwrap();
                    }
                    began.elapsed()
                }
            });
        }
    }

    /// Attention over a prompt that nothing was cached of.
    fn prefill<B: Backend>(&mut self, backend: &B, tokens: usize) {
        let seen = tokens * (tokens + 1) / 2;
        let call = Call {
            group: "attention".to_owned(),
            name: format!("prefill/{tokens}"),
            numbers: Numbers::F32,
            macs: 2 * seen * HEADS * HEAD_DIM,
            bytes: 0,
        };
        self.measure(call, || {
            let [q, k, v] = rows(backend, tokens);
            move |calls| {
                let mut took = Duration::ZERO;
                for _ in 0..calls {
                    let mut kv = backend.kv(KV_HEADS, HEAD_DIM).unwrap();
                    let began = Instant::now();
                    attend(backend, [&q, &k, &v], &mut [&mut kv], tokens);
                    took += began.elapsed();
                }
                took
            }
        });
    }

    /// Attention of one new token of each of `sequences`, which have `context`
    /// tokens, or up to [`GROWTH`] more.
    fn decode<B: Backend>(&mut self, backend: &B, sequences: usize, context: usize) {
        let element = context_of(backend, 1).keys.dtype.size();
        // Half of them are keys.
        let values = 2 * sequences * (context + GROWTH / 2) * KV_HEADS * HEAD_DIM;
        let call = Call {
            group: "attention".to_owned(),
            name: format!("decode of {sequences}/{context}"),
            numbers: Numbers::F32,
            macs: values * HEADS / KV_HEADS,
            bytes: values * element,
        };
        let bytes = call.bytes;
        self.measure(call, || {
            let [q, k, v] = rows(backend, sequences);
            let raw = context_of(backend, context);
            let fresh = move || {
                let mut kv = backend.kv(KV_HEADS, HEAD_DIM).unwrap();
                backend.write_kv(&mut kv, &raw).unwrap();
                kv
            };
            let batch = move || (0..sequences).map(|_| fresh()).collect::<Vec<_>>();
            let mut set: Vec<_> = (0..copies(bytes)).map(|_| batch()).collect();
            let mut turn = 0;
            move |calls| {
                let mut took = Duration::ZERO;
                for _ in 0..calls {
                    if turn == set.len() * GROWTH {
                        set.iter_mut().for_each(|kvs| *kvs = batch());
                        turn = 0;
                    }
                    let place = turn % set.len();
                    let mut kvs: Vec<_> = set[place].iter_mut().collect();
                    let began = Instant::now();
                    attend(backend, [&q, &k, &v], &mut kvs, 1);
                    took += began.elapsed();
                    turn += 1;
                }
                took
            }
        });
    }

    /// Has criterion measure, unless its filter leaves the call out: only then
    /// is it prepared. What `prepare` gives makes so many calls and says how
    /// long they took.
    fn measure<R: FnMut(usize) -> Duration>(&mut self, call: Call, prepare: impl FnOnce() -> R) {
        let mut samples = Vec::new();
        let (mut prepare, mut ready) = (Some(prepare), None);
        let mut group = self.criterion.benchmark_group(call.group.as_str());
        group.throughput(Throughput::ElementsAndBytes {
            elements: call.macs as u64,
            bytes: call.bytes as u64,
        });
        group.bench_function(call.name.as_str(), |bencher| {
            if let Some(prepare) = prepare.take() {
                ready = Some(prepare());
            }
            let calls = ready.as_mut().unwrap();
            bencher.iter_custom(|count| {
                let took = calls(count as usize);
                samples.push(took.as_secs_f64() / count as f64);
                took
            });
        });
        group.finish();
        // Those before are the warm-up's.
        let mut last = samples[samples.len().saturating_sub(SAMPLES)..].to_vec();
        last.sort_unstable_by(f64::total_cmp);
        let Some(&seconds) = last.get(last.len() / 2) else {
            return;
        };
        self.measured.push(Measured {
            what: format!("{}/{}", call.group, call.name),
            numbers: call.numbers,
            macs: call.macs as f64,
            bytes: call.bytes as f64,
            seconds,
        });
    }
}

/// Queries, keys and values of `tokens`.
fn rows<B: Backend>(backend: &B, tokens: usize) -> [B::Tensor; 3] {
    let mut random = dice();
    [HEADS, KV_HEADS, KV_HEADS].map(|heads| {
        let raw = floats(&[tokens, heads, HEAD_DIM], &mut random);
        backend.parameter(&raw).unwrap()
    })
}

/// Keys and values of `tokens`, in the type that the backend keeps them in.
fn context_of<B: Backend>(backend: &B, tokens: usize) -> RawKv {
    let mut kv = backend.kv(KV_HEADS, HEAD_DIM).unwrap();
    let [q, k, v] = rows(backend, tokens);
    attend(backend, [&q, &k, &v], &mut [&mut kv], tokens);
    backend.read_kv(&kv, tokens).unwrap()
}

/// Attention of `tokens` new tokens of each sequence.
fn attend<B: Backend>(
    backend: &B,
    [q, k, v]: [&B::Tensor; 3],
    kvs: &mut [&mut B::Kv],
    tokens: usize,
) {
    let spans = kvs.iter_mut().map(|kv| Span {
        tokens,
        kv: &mut **kv,
    });
    let mut spans: Vec<_> = spans.collect();
    let settings = AttentionSettings {
        scale: (HEAD_DIM as f32).sqrt().recip(),
        softcap: None,
        window: None,
        sinks: None,
    };
    let result = backend.attention(q, k, v, &mut spans, &settings).unwrap();
    backend.wait(&result).unwrap();
}
