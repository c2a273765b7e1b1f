//! Attention over pages against the same out of plain products, and that a
//! row gets the same to the last bit in whatever company.

#![allow(clippy::unwrap_used)]

use candle_core::Device;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::backend::candle::attention::plain::{self, PlainKv};

type Shape = (usize, usize, usize);

fn random(dice: &mut StdRng, shape: Shape) -> Tensor {
    let values: Vec<f32> = (0..shape.0 * shape.1 * shape.2)
        .map(|_| dice.random_range(-2.0..2.0))
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn elements(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Queries, keys and values of some rows.
struct Rows {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

impl Rows {
    fn random(dice: &mut StdRng, n: usize, heads: usize, kv_heads: usize, dim: usize) -> Self {
        Self {
            q: random(dice, (n, heads, dim)),
            k: random(dice, (n, kv_heads, dim)),
            v: random(dice, (n, kv_heads, dim)),
        }
    }

    fn part(&self, start: usize, n: usize) -> Self {
        let part = |x: &Tensor| x.narrow(0, start, n).unwrap();
        Self {
            q: part(&self.q),
            k: part(&self.k),
            v: part(&self.v),
        }
    }

    fn concat(parts: &[Self]) -> Self {
        let concat = |x: fn(&Self) -> &Tensor| {
            Tensor::cat(&parts.iter().map(x).collect::<Vec<_>>(), 0).unwrap()
        };
        Self {
            q: concat(|rows| &rows.q),
            k: concat(|rows| &rows.k),
            v: concat(|rows| &rows.v),
        }
    }

    /// The attention of these rows, of which each of `kvs` gets as many as
    /// are named.
    fn attend(
        &self,
        kvs: &mut [(usize, &mut Kv)],
        settings: &AttentionSettings<'_, Tensor>,
    ) -> Vec<f32> {
        let mut spans: Vec<Span<'_, Kv>> = kvs
            .iter_mut()
            .map(|(tokens, kv)| Span {
                tokens: *tokens,
                kv: &mut **kv,
            })
            .collect();
        let is_paged = matches!(spans[0].kv, Kv::Paged(_));
        let attention = if is_paged {
            attention
        } else {
            plain::attention
        };
        elements(&attention(&self.q, &self.k, &self.v, &mut spans, settings).unwrap())
    }
}

fn paged(kv_heads: usize, dim: usize) -> Kv {
    Kv::Paged(PagedKv::new(kv_heads, dim))
}

const PLAIN: AttentionSettings<'_, Tensor> = AttentionSettings {
    scale: 0.125,
    softcap: None,
    window: None,
    sinks: None,
};

#[test]
fn it_is_what_plain_products_make_in_chunks_with_windows_and_sinks() {
    let dice = &mut StdRng::seed_from_u64(1);
    for (heads, kv_heads, dim) in [(4, 2, 64), (3, 3, 16), (8, 1, 80), (6, 2, 12), (2, 1, 128)] {
        let sinks = random(dice, (1, 1, heads)).flatten_all().unwrap();
        for window in [None, Some(1), Some(20), Some(32), Some(100)] {
            for (sinks, softcap) in [
                (None, None),
                (Some(&sinks), None),
                (Some(&sinks), Some(0.7)),
            ] {
                let settings = AttentionSettings {
                    scale: 0.3,
                    softcap,
                    window,
                    sinks,
                };
                let mut ours = paged(kv_heads, dim);
                let mut theirs = Kv::Plain(PlainKv::new(kv_heads, dim));
                for n in [1, 1, 29, 1, 1, 70, 3, 64, 1] {
                    let rows = Rows::random(dice, n, heads, kv_heads, dim);
                    let got = rows.attend(&mut [(n, &mut ours)], &settings);
                    let expected = rows.attend(&mut [(n, &mut theirs)], &settings);
                    assert_eq!(got.len(), expected.len());
                    for (got, expected) in got.iter().zip(&expected) {
                        assert!(
                            (got - expected).abs() < 2e-5,
                            "{heads}/{kv_heads}×{dim}, {settings:?}: {got} is not {expected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_gets_the_same_bits_in_chunks_forked_and_in_company() {
    let dice = &mut StdRng::seed_from_u64(2);
    let (heads, kv_heads, dim) = (6, 2, 32);
    let row = heads * dim;
    for seed in 0..20 {
        let window = [None, Some(40)][seed % 2];
        let settings = AttentionSettings { window, ..PLAIN };
        // What two sequences with a common beginning get alone, at once.
        let common = dice.random_range(1..100);
        let beginning = Rows::random(dice, common, heads, kv_heads, dim);
        let alone: Vec<(Rows, Vec<f32>)> = (0..2)
            .map(|_| {
                let n = dice.random_range(1..80);
                let own = Rows::random(dice, n, heads, kv_heads, dim);
                let all = Rows::concat(&[beginning.part(0, common), own.part(0, n)]);
                let got = all.attend(&mut [(common + n, &mut paged(kv_heads, dim))], &settings);
                (own, got)
            })
            .collect();
        // The same in chunks and from one evaluation of the beginning, which
        // went on for a while before it was forked.
        let mut first = paged(kv_heads, dim);
        let mut start = 0;
        while start < common {
            let n = dice.random_range(1..=common - start);
            let got = beginning
                .part(start, n)
                .attend(&mut [(n, &mut first)], &settings);
            assert_eq!(got, alone[0].1[start * row..(start + n) * row]);
            start += n;
        }
        let further = Rows::random(dice, 40, heads, kv_heads, dim);
        further.attend(&mut [(40, &mut first)], &settings);
        let mut forks = [first.fork(common).unwrap(), first.fork(common).unwrap()];
        let rest: Vec<usize> = alone.iter().map(|(own, _)| own.q.dim(0).unwrap()).collect();
        let mut done = [0, 0];
        while done[0] < rest[0] || done[1] < rest[1] {
            let counts: Vec<usize> = (0..2)
                .map(|i| dice.random_range(0..=(rest[i] - done[i]).min(7)))
                .collect();
            let members: Vec<usize> = (0..2).filter(|&i| counts[i] > 0).collect();
            if members.is_empty() {
                continue;
            }
            let rows = Rows::concat(
                &members
                    .iter()
                    .map(|&i| alone[i].0.part(done[i], counts[i]))
                    .collect::<Vec<_>>(),
            );
            let mut kvs: Vec<(usize, &mut Kv)> = forks
                .iter_mut()
                .enumerate()
                .filter(|(i, _)| counts[*i] > 0)
                .map(|(i, kv)| (counts[i], kv))
                .collect();
            let mut got = &rows.attend(&mut kvs, &settings)[..];
            for i in members {
                let (own, others) = got.split_at(counts[i] * row);
                let from = (common + done[i]) * row;
                assert_eq!(own, &alone[i].1[from..from + own.len()]);
                done[i] += counts[i];
                got = others;
            }
        }
        // And the one they come from goes on as if nothing had been.
        let last = Rows::random(dice, 3, heads, kv_heads, dim);
        let got = last.attend(&mut [(3, &mut first)], &settings);
        let all = Rows::concat(&[beginning, further, last]);
        let n = common + 43;
        let expected = all.attend(&mut [(n, &mut paged(kv_heads, dim))], &settings);
        assert_eq!(got, expected[(n - 3) * row..]);
    }
}

#[test]
fn forks_share_their_whole_pages_until_they_differ() {
    let dice = &mut StdRng::seed_from_u64(3);
    let mut original = paged(2, 16);
    let rows = Rows::random(dice, 3 * PAGE + 5, 2, 2, 16);
    rows.attend(&mut [(3 * PAGE + 5, &mut original)], &PLAIN);
    let mut fork = original.fork(3 * PAGE + 2).unwrap();
    let more = Rows::random(dice, 1, 2, 2, 16);
    more.attend(&mut [(1, &mut fork)], &PLAIN);
    let (Kv::Paged(original), Kv::Paged(fork)) = (original, fork) else {
        panic!("not paged");
    };
    let shared: Vec<bool> = original
        .pages
        .iter()
        .zip(&fork.pages)
        .map(|(a, b)| Arc::ptr_eq(a, b))
        .collect();
    assert_eq!(shared, [true, true, true, false]);
}
