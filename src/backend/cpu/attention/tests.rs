//! Attention by all instructions there are against the same in `f64`, and
//! that a row gets the same to the last bit in whatever company.

#![allow(clippy::unwrap_used)]

use std::num::NonZero;
use std::sync::Arc;

use half::f16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::paged::PAGE;
use super::step::attention_by;
use super::vectors::{Instructions, Machine, Work};
use super::*;
use crate::backend::threads::Threads;
use crate::backend::{Dtype, Span};

/// Heads, key-value heads and the size of a head.
type Shape = (usize, usize, usize);

const ELEMENTS: [KvElement; 2] = [KvElement::F16, KvElement::F32];

const PLAIN: Settings<'_> = Settings {
    scale: 0.125,
    softcap: None,
    window: None,
    sinks: None,
};

fn random(dice: &mut StdRng, count: usize) -> Vec<f32> {
    (0..count).map(|_| dice.random_range(-2.0..2.0)).collect()
}

/// Queries, keys and values of some rows.
#[derive(Clone)]
struct Rows {
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Rows {
    fn random(dice: &mut StdRng, n: usize, shape: Shape) -> Self {
        let (heads, kv_heads, dim) = shape;
        Self {
            shape,
            q: random(dice, n * heads * dim),
            k: random(dice, n * kv_heads * dim),
            v: random(dice, n * kv_heads * dim),
        }
    }

    fn len(&self) -> usize {
        self.q.len() / (self.shape.0 * self.shape.2)
    }

    fn part(&self, start: usize, n: usize) -> Self {
        let (heads, kv_heads, dim) = self.shape;
        let part = |x: &[f32], heads: usize| {
            let width = heads * dim;
            x[start * width..(start + n) * width].to_vec()
        };
        Self {
            shape: self.shape,
            q: part(&self.q, heads),
            k: part(&self.k, kv_heads),
            v: part(&self.v, kv_heads),
        }
    }

    fn concat(parts: &[Self]) -> Self {
        let mut all = parts[0].part(0, 0);
        for part in parts {
            all.q.extend(&part.q);
            all.k.extend(&part.k);
            all.v.extend(&part.v);
        }
        all
    }

    /// The attention of these rows, of which each of `kvs` gets as many as
    /// are named.
    fn attend(
        &self,
        machine: &mut Computer,
        kvs: &mut [(usize, &mut Kv)],
        settings: &Settings<'_>,
    ) -> Vec<f32> {
        let mut spans: Vec<Span<'_, Kv>> = kvs
            .iter_mut()
            .map(|(tokens, kv)| Span {
                tokens: *tokens,
                kv: &mut **kv,
            })
            .collect();
        let (heads, _, dim) = self.shape;
        let mut out = vec![f32::NAN; self.q.len()];
        attention_by(
            machine.by,
            &machine.threads,
            &mut machine.scratch,
            (&self.q, &self.k, &self.v),
            (heads, dim),
            &mut spans,
            settings,
            &mut out,
        );
        out
    }
}

/// What attention is computed with.
struct Computer {
    by: Instructions,
    threads: Threads,
    scratch: Scratch,
}

impl Computer {
    fn new(by: Instructions, threads: usize) -> Self {
        Self {
            by,
            threads: Threads::new(NonZero::new(threads).unwrap()),
            scratch: Scratch::default(),
        }
    }
}

fn stored(element: KvElement, x: f32) -> f64 {
    f64::from(match element {
        KvElement::F16 => f16::from_f32(x).to_f32(),
        KvElement::F32 => x,
    })
}

/// Of `query` `[dim]` of head `head` at the last of `positions` positions, the
/// attention in `f64`, and how far off `f32` may be.
fn expected(
    all: &Rows,
    (element, position, head): (KvElement, usize, usize),
    settings: &Settings<'_>,
) -> (Vec<f64>, f64) {
    let (heads, kv_heads, dim) = all.shape;
    let kv_head = head / (heads / kv_heads);
    let query = &all.q[(position * heads + head) * dim..][..dim];
    let of = |x: &[f32], at: usize| -> Vec<f64> {
        let row = &x[(at * kv_heads + kv_head) * dim..][..dim];
        row.iter().map(|&x| stored(element, x)).collect()
    };
    let window = settings.window.unwrap_or(usize::MAX);
    let seen = (position + 1).saturating_sub(window)..position + 1;
    let mut largest: f64 = 0.0;
    let scores: Vec<f64> = seen
        .clone()
        .map(|at| {
            let products = query.iter().zip(of(&all.k, at));
            let products: Vec<f64> = products.map(|(&q, k)| f64::from(q) * k).collect();
            let scale = f64::from(settings.scale);
            let size: f64 = products.iter().map(|x| x.abs()).sum();
            largest = largest.max(size * scale);
            let score = products.iter().sum::<f64>() * scale;
            match settings.softcap.map(f64::from) {
                Some(cap) => cap * (score / cap).tanh(),
                None => score,
            }
        })
        .collect();
    let sink = settings.sinks.map(|sinks| f64::from(sinks[head]));
    let top = scores.iter().copied().chain(sink).fold(f64::MIN, f64::max);
    let mut total = sink.map_or(0.0, |sink| (sink - top).exp());
    let mut sum = vec![0.0; dim];
    for (score, at) in scores.iter().zip(seen.clone()) {
        let weight = (score - top).exp();
        total += weight;
        for (sum, v) in sum.iter_mut().zip(of(&all.v, at)) {
            *sum += weight * v;
        }
    }
    // In units of half of an `f32`'s last place, a score is off by as many as
    // there are products, the factor's two and the difference from the top's
    // two, times what is summed up; a capped one by ten of the cap. A weight
    // is off as much, and by sixteen of exp2; a sum of them by one for each
    // it has and each page's factor. Values are up to 2, and a mean of them
    // moves by what weights do times their distance from it, up to 4.
    let units = (dim + 4) as f64 * largest
        + settings.softcap.map_or(0.0, |cap| 10.0 * f64::from(cap))
        + sink.map_or(0.0, f64::abs)
        + 16.0
        + 3.0 * seen.len() as f64;
    let bound = 4.0 * units * f64::from(f32::EPSILON) / 2.0;
    (sum.iter().map(|sum| sum / total).collect(), bound)
}

#[test]
fn it_is_what_f64_makes_in_chunks_with_windows_sinks_and_caps() {
    let dice = &mut StdRng::seed_from_u64(1);
    let chunks = [1, 29, 2, 70, 1, 3];
    for (index, shape) in [
        (4, 2, 64),
        (3, 3, 16),
        (8, 1, 80),
        (6, 2, 12),
        (2, 1, 128),
        (2, 2, 8),
        (10, 2, 40),
        (16, 1, 96),
        (3, 1, 256),
    ]
    .into_iter()
    .enumerate()
    {
        let (heads, kv_heads, dim) = shape;
        let sinks = random(dice, heads);
        let all = Rows::random(dice, chunks.iter().sum(), shape);
        for (window, sinks, softcap) in [
            (None, None, None),
            (Some(1), Some(&sinks[..]), None),
            (Some(20), None, Some(0.7)),
            (Some(32), Some(&sinks[..]), Some(2.0)),
            (Some(100), None, None),
            (None, Some(&sinks[..]), None),
        ] {
            let settings = Settings {
                scale: (dim as f32).sqrt().recip(),
                softcap,
                window,
                sinks,
            };
            for element in ELEMENTS {
                let rows: Vec<Vec<f32>> = Instructions::all()
                    .into_iter()
                    .map(|by| {
                        let computer = &mut Computer::new(by, 1 + index % 3);
                        let mut kv = Kv::new(kv_heads, dim, element);
                        let mut got = Vec::new();
                        for n in chunks {
                            let rows = all.part(got.len() / (heads * dim), n);
                            got.extend(rows.attend(computer, &mut [(n, &mut kv)], &settings));
                        }
                        got
                    })
                    .collect();
                for place in 0..all.len() * heads {
                    let of = (element, place / heads, place % heads);
                    let (expected, bound) = expected(&all, of, &settings);
                    for (by, got) in Instructions::all().into_iter().zip(&rows) {
                        let got = &got[place * dim..][..dim];
                        for (got, expected) in got.iter().zip(&expected) {
                            let error = (f64::from(*got) - expected).abs();
                            assert!(
                                error <= bound,
                                "{by:?}, {shape:?}, {settings:?}, {of:?}: {got} is not {expected} \
                                 to within {bound}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_gets_the_same_bits_in_chunks_forked_and_in_company() {
    for by in Instructions::all() {
        for element in ELEMENTS {
            for (seed, shape) in [(6, 2, 32), (2, 2, 24), (12, 1, 16), (4, 2, 128)]
                .into_iter()
                .cycle()
                .take(12)
                .enumerate()
            {
                in_company(by, element, shape, seed);
            }
        }
    }
}

/// A random round of two sequences with a common beginning.
fn in_company(by: Instructions, element: KvElement, shape: Shape, seed: usize) {
    let dice = &mut StdRng::seed_from_u64(seed as u64);
    let (heads, kv_heads, dim) = shape;
    let row = heads * dim;
    let paged = || Kv::new(kv_heads, dim, element);
    let sinks = random(dice, heads);
    let settings = Settings {
        window: [None, Some(40)][seed % 2],
        sinks: [None, Some(&sinks[..])][seed / 2 % 2],
        ..PLAIN
    };
    let (lonely, others) = (&mut Computer::new(by, 1), &mut Computer::new(by, 3));
    // What the two get alone, at once.
    let common = dice.random_range(1..100);
    let beginning = Rows::random(dice, common, shape);
    let alone: Vec<(Rows, Vec<f32>)> = (0..2)
        .map(|_| {
            let n = dice.random_range(1..80);
            let own = Rows::random(dice, n, shape);
            let all = Rows::concat(&[beginning.clone(), own.clone()]);
            let got = all.attend(lonely, &mut [(common + n, &mut paged())], &settings);
            (own, got)
        })
        .collect();
    // The same in chunks and from one evaluation of the beginning, which went
    // on for a while before it was forked.
    let mut first = paged();
    let mut start = 0;
    while start < common {
        let n = dice.random_range(1..=common - start);
        let part = beginning.part(start, n);
        let got = part.attend(others, &mut [(n, &mut first)], &settings);
        assert_eq!(got, alone[0].1[start * row..(start + n) * row]);
        start += n;
    }
    let further = Rows::random(dice, 40, shape);
    further.attend(others, &mut [(40, &mut first)], &settings);
    let mut forks = [first.fork(common), first.fork(common)];
    let mut done = [0, 0];
    loop {
        let counts: Vec<usize> = (0..2)
            .map(|i| dice.random_range(0..=(alone[i].0.len() - done[i]).min(20)))
            .collect();
        let rows: Vec<Rows> = (0..2)
            .map(|i| alone[i].0.part(done[i], counts[i]))
            .collect();
        let mut kvs: Vec<(usize, &mut Kv)> = forks
            .iter_mut()
            .zip(&counts)
            .map(|(kv, &count)| (count, kv))
            .filter(|(count, _)| *count > 0)
            .collect();
        let mut got = &Rows::concat(&rows).attend(others, &mut kvs, &settings)[..];
        for i in 0..2 {
            let (own, rest) = got.split_at(counts[i] * row);
            let from = (common + done[i]) * row;
            assert_eq!(own, &alone[i].1[from..from + own.len()]);
            done[i] += counts[i];
            got = rest;
        }
        if done.iter().zip(&alone).all(|(&n, (own, _))| n == own.len()) {
            break;
        }
    }
    // And the one they come from goes on as if nothing had been.
    let last = Rows::random(dice, 3, shape);
    let got = last.attend(others, &mut [(3, &mut first)], &settings);
    let all = Rows::concat(&[beginning, further, last]);
    let n = common + 43;
    let expected = all.attend(lonely, &mut [(n, &mut paged())], &settings);
    assert_eq!(got, expected[(n - 3) * row..]);
}

#[test]
fn forks_share_their_whole_pages_until_they_differ() {
    let dice = &mut StdRng::seed_from_u64(3);
    let computer = &mut Computer::new(Instructions::best(), 2);
    let shape = (2, 2, 16);
    let mut original = Kv::new(2, 16, KvElement::F16);
    let n = 3 * PAGE + 5;
    Rows::random(dice, n, shape).attend(computer, &mut [(n, &mut original)], &PLAIN);
    let before = original.export(n).unwrap();
    let mut fork = original.fork(3 * PAGE + 2);
    Rows::random(dice, 1, shape).attend(computer, &mut [(1, &mut fork)], &PLAIN);
    let shared = |page: usize| Arc::ptr_eq(original.page(page), fork.page(page));
    assert_eq!([0, 1, 2, 3].map(shared), [true, true, true, false]);
    let after = original.export(n).unwrap();
    assert_eq!(before.keys.bytes[..], after.keys.bytes[..]);
    assert_eq!(before.values.bytes[..], after.values.bytes[..]);
}

#[test]
fn what_a_row_does_not_see_does_not_reach_it() {
    let dice = &mut StdRng::seed_from_u64(4);
    let shape = (4, 2, 16);
    for by in Instructions::all() {
        let computer = &mut Computer::new(by, 2);
        for element in ELEMENTS {
            for (n, broken) in [(40, 20), (100, 63), (5, 4)] {
                let mut rows = Rows::random(dice, n, shape);
                let expected =
                    rows.attend(computer, &mut [(n, &mut Kv::new(2, 16, element))], &PLAIN);
                // The values of one row, then its keys, are not numbers.
                for keys in [false, true] {
                    let all = if keys { &mut rows.k } else { &mut rows.v };
                    let kept = all.clone();
                    all[broken * 32..(broken + 1) * 32].fill(f32::NAN);
                    let mut kv = Kv::new(2, 16, element);
                    let got = rows.attend(computer, &mut [(n, &mut kv)], &PLAIN);
                    assert_eq!(got[..broken * 64], expected[..broken * 64]);
                    assert!(got[broken * 64..].iter().all(|x| x.is_nan()));
                    // Nor one that went on from before it.
                    let mut fork = kv.fork(broken);
                    *if keys { &mut rows.k } else { &mut rows.v } = kept;
                    let rest = rows.part(broken, n - broken);
                    let got = rest.attend(computer, &mut [(n - broken, &mut fork)], &PLAIN);
                    assert_eq!(got, expected[broken * 64..]);
                }
            }
        }
    }
}

#[test]
fn sixteen_bits_hold_the_nearest_number_and_never_infinity() {
    let given = [
        1.0,
        -2.5,
        1.0 / 3.0,
        65_504.0,
        65_520.0,
        1e30,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        6e-8,
        1e-9,
        -0.0,
    ];
    for by in Instructions::all() {
        let computer = &mut Computer::new(by, 1);
        for n in [1, 33, 70] {
            let mut rows = Rows::random(&mut StdRng::seed_from_u64(5), n, (1, 1, 12));
            let last = (n - 1) * 12;
            rows.k[last..].copy_from_slice(&given);
            rows.v[last..].copy_from_slice(&given);
            let mut kv = Kv::new(1, 12, KvElement::F16);
            rows.attend(computer, &mut [(n, &mut kv)], &PLAIN);
            let raw = kv.export(n).unwrap();
            assert_eq!(raw.keys.shape, [n, 1, 12]);
            for (raw, given) in [(raw.keys, &rows.k), (raw.values, &rows.v)] {
                assert_eq!(raw.dtype, Dtype::F16);
                let bits: Vec<u16> = raw
                    .bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&b| u16::from_le_bytes(b))
                    .collect();
                for (&bits, &given) in bits.iter().zip(given) {
                    let got = f16::from_bits(bits);
                    let expected = f16::from_f32(given.clamp(-65_504.0, 65_504.0));
                    assert!(
                        got.to_bits() == expected.to_bits() || got.is_nan() && given.is_nan(),
                        "{by:?}: {given} became {got}"
                    );
                }
            }
        }
    }
}

struct Widen(f16);

impl Work for Widen {
    type Output = f32;

    #[inline(always)]
    fn run<M: Machine>(self, m: M) -> f32 {
        let mut out = [0.0; 16];
        m.store(&mut out, m.widen(&[self.0; 16]));
        out[M::LANES - 1]
    }
}

#[test]
fn all_halves_are_widened_alike() {
    for by in Instructions::all() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            let (got, expected) = (by.run(Widen(half)), half.to_f32());
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan());
        }
    }
}

#[test]
fn exported_rows_go_on_elsewhere_and_others_are_refused() {
    let dice = &mut StdRng::seed_from_u64(6);
    let computer = &mut Computer::new(Instructions::best(), 2);
    let shape = (4, 2, 12);
    for element in ELEMENTS {
        let n = PAGE + 9;
        let mut original = Kv::new(2, 12, element);
        Rows::random(dice, n, shape).attend(computer, &mut [(n, &mut original)], &PLAIN);
        let raw = original.export(n - 2).unwrap();
        assert!(original.export(n + 1).unwrap_err().contains("positions"));
        let mut copy = Kv::new(2, 12, element);
        copy.import(&raw).unwrap();
        let again = copy.export(n - 2).unwrap();
        assert_eq!(raw.keys.bytes[..], again.keys.bytes[..]);
        assert_eq!(raw.values.bytes[..], again.values.bytes[..]);
        let rows = Rows::random(dice, 40, shape);
        let mut fork = original.fork(n - 2);
        assert_eq!(
            rows.attend(computer, &mut [(40, &mut copy)], &PLAIN),
            rows.attend(computer, &mut [(40, &mut fork)], &PLAIN)
        );
        // Onto a sequence that others share.
        let mut longer = fork.fork(3);
        longer.import(&raw).unwrap();
        let both = longer.export(n + 1).unwrap();
        let row = 24 * raw.keys.dtype.size();
        assert_eq!(both.keys.bytes[..3 * row], raw.keys.bytes[..3 * row]);
        assert_eq!(both.keys.bytes[3 * row..], raw.keys.bytes[..]);
        assert_eq!(
            fork.export(9).unwrap().keys.bytes[..],
            raw.keys.bytes[..9 * row]
        );
        let other = match element {
            KvElement::F16 => KvElement::F32,
            KvElement::F32 => KvElement::F16,
        };
        for mut wrong in [
            Kv::new(2, 12, other),
            Kv::new(1, 24, element),
            Kv::new(2, 16, element),
        ] {
            assert!(wrong.import(&raw).unwrap_err().starts_with("keys"));
            assert_eq!(wrong.len(), 0);
        }
    }
}
