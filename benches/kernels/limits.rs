//! What the machine can do at most: bytes read from memory and products
//! summed up, a second, on all threads at once. Knows no kernel of the
//! program's.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// A measurement is the best of so many, each about as long as this.
const ROUNDS: usize = 5;
const LONG: Duration = Duration::from_millis(30);

/// Read for the bandwidth: more than the caches of any machine.
const STREAMED: usize = 512 << 20;

/// The limits that were measured.
pub(super) struct Limits {
    /// Threads that measured together: as many as there are processors.
    pub(super) threads: usize,
    /// Bytes a second.
    pub(super) bandwidth: f64,
    /// Products of 8-bit integers.
    pub(super) int8: Peak,
    /// Products of bf16, or of f32 where the processor has none of bf16.
    pub(super) bf16: Peak,
    /// Products of f32.
    pub(super) f32: Peak,
}

/// Products that are added up.
#[derive(Clone, Copy)]
pub(super) struct Peak {
    /// Multiply-accumulates a second.
    pub(super) rate: f64,
    /// The instruction.
    pub(super) by: &'static str,
}

/// Independent operations: `run(n)` does `n * macs` of them. It may only be
/// called where the processor has the instruction it is named by.
pub(super) struct Loop {
    pub(super) by: &'static str,
    pub(super) macs: u64,
    pub(super) run: unsafe fn(u64),
}

impl Limits {
    pub(super) fn measure() -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let peak = |found: Loop| Peak {
            rate: products(threads, &found),
            by: found.by,
        };
        Self {
            threads,
            bandwidth: bandwidth(threads),
            int8: peak(super::loops::int8()),
            bf16: peak(super::loops::bf16()),
            f32: peak(super::loops::f32()),
        }
    }

    /// The better of each of two measurements: what slowed one of them down is
    /// no limit.
    pub(super) fn or_better(self, other: Self) -> Self {
        let better = |a: Peak, b: Peak| if a.rate > b.rate { a } else { b };
        Self {
            threads: self.threads,
            bandwidth: self.bandwidth.max(other.bandwidth),
            int8: better(self.int8, other.int8),
            bf16: better(self.bf16, other.bf16),
            f32: better(self.f32, other.f32),
        }
    }
}

/// How long `work` takes on all threads at once, each told its number: the
/// shortest of a few.
fn together(threads: usize, work: impl Fn(usize) + Sync) -> Duration {
    let once = || {
        let barrier = Barrier::new(threads + 1);
        thread::scope(|scope| {
            for number in 0..threads {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    work(number);
                    barrier.wait();
                });
            }
            barrier.wait();
            let began = Instant::now();
            barrier.wait();
            began.elapsed()
        })
    };
    (0..ROUNDS).map(|_| once()).min().unwrap_or_default()
}

fn products(threads: usize, found: &Loop) -> f64 {
    let mut count = 1 << 10;
    loop {
        let took = together(threads, |_| {
            // SAFETY: `loops` gives a loop only where it has detected the
            // instructions that its function is compiled for.
            #[allow(unsafe_code)]
            unsafe {
                (found.run)(count);
            }
        });
        if took >= LONG {
            return (threads as u64 * count * found.macs) as f64 / took.as_secs_f64();
        }
        count *= 2;
    }
}

/// How far ahead of a read memory is asked for, in words: what the
/// processor's own guesses are far from on some machines.
const AHEAD: usize = 80 * 8;

fn bandwidth(threads: usize) -> f64 {
    // Not zero: zeroed pages may all be one.
    let bytes: Vec<u64> = (1..=(STREAMED / 8) as u64).collect();
    let share = bytes.len().div_ceil(threads);
    let read = |asked: bool| {
        together(threads, |number| {
            let part = bytes.chunks(share).nth(number).unwrap_or_default();
            let mut sums = [0u64; 32];
            for piece in part.chunks_exact(sums.len()) {
                if asked {
                    for line in piece.chunks(8) {
                        super::loops::ask(line.as_ptr().wrapping_add(AHEAD));
                    }
                }
                for (sum, word) in sums.iter_mut().zip(piece) {
                    *sum = sum.wrapping_add(*word);
                }
            }
            black_box(sums);
        })
    };
    size_of_val(&*bytes) as f64 / read(false).min(read(true)).as_secs_f64()
}
