//! The residual stream: what a block said is added to it, the sum is normed
//! for the next one, and the norm rounded, all on one way through the rows.

#![allow(unsafe_code)]

use std::array;
use std::ops::Range;

use pulp::Arch;

use super::GROUPS;
use super::activations::{ALONE, LANES, MOST, Round, Rounded, Source, span};
use super::shared::Shared;
use crate::backend::cpu::elementwise::Squares;
use crate::backend::threads::Threads;

/// A sum that is normed: `x + said`, `[tokens, columns]` each, by `weight`,
/// `[columns]`.
#[derive(Clone, Copy)]
pub(in super::super) struct Normed<'a> {
    pub(in super::super) x: &'a [f32],
    pub(in super::super) said: &'a [f32],
    pub(in super::super) weight: &'a [f32],
    pub(in super::super) eps: f32,
}

/// Some tokens' groups on their way: the columns of a token that are asked
/// for are made, and left where the results belong.
struct OnTheWay<'a> {
    of: Normed<'a>,
    /// What the tokens from `first` on are multiplied with.
    factors: [f32; MOST],
    first: usize,
    sum: Shared<'a, f32>,
    normed: Shared<'a, f32>,
}

impl Rounded {
    /// Rounds the norm of a sum in groups of `group_size` columns; the sum and
    /// its norm are left in arrays of their shape. Bit for bit what they are
    /// one after the other.
    ///
    /// # Panics
    ///
    /// If there are no tiles of such groups, the columns are not a whole number
    /// of them, or the shapes do not agree.
    pub(in super::super) fn round_normed(
        &mut self,
        threads: &Threads,
        of: Normed<'_>,
        [sum, normed]: [&mut [f32]; 2],
        group_size: usize,
    ) {
        let columns = of.weight.len();
        assert!(GROUPS.contains(&group_size) && columns > 0 && columns.is_multiple_of(group_size));
        assert!(of.x.len().is_multiple_of(columns));
        assert!([of.said.len(), sum.len(), normed.len()] == [of.x.len(); 3]);
        let tokens = of.x.len() / columns;
        let into = self.make_room(tokens, columns, group_size);
        let (spans, groups) = (into.spans(), columns / group_size);
        let (sum, normed) = (Shared::new(sum), Shared::new(normed));
        let round = |index, groups: Range<usize>| {
            let span = span(tokens, index);
            let rows = span.first..span.first + span.count;
            let x = OnTheWay {
                of,
                factors: of.factors(rows),
                first: span.first,
                sum,
                normed,
            };
            Round {
                x,
                into,
                span: index,
                groups,
            }
            .run();
        };
        if of.x.len() <= ALONE {
            return (0..spans).for_each(|span| round(span, 0..groups));
        }
        // The threads share few tokens' groups. Each of them adds up the
        // squares of all columns then, which is less than to wait for others'.
        let shares = match spans < 2 * threads.count() {
            true => threads.count().min(groups),
            false => 1,
        };
        let per_task = groups.div_ceil(shares);
        threads.for_each(spans * shares, |task| {
            let first = groups.min(task % shares * per_task);
            round(task / shares, first..groups.min(first + per_task));
        });
    }
}

impl Normed<'_> {
    /// What these rows of the sum, at most [`MOST`], are multiplied with.
    fn factors(&self, rows: Range<usize>) -> [f32; MOST] {
        let width = self.weight.len();
        let mut factors = [0.0; MOST];
        Arch::new().dispatch(
            #[inline(always)]
            || {
                for (factor, row) in factors.iter_mut().zip(rows) {
                    let places = row * width..(row + 1) * width;
                    let x = self.x[places.clone()].as_chunks().0;
                    let said = self.said[places].as_chunks().0;
                    let mut squares = Squares::default();
                    for (x, said) in x.iter().zip(said) {
                        squares.add(&added(x, said));
                    }
                    *factor = squares.factor(&[], width, self.eps);
                }
            },
        );
        factors
    }
}

#[inline(always)]
fn added(x: &[f32; LANES], said: &[f32; LANES]) -> [f32; LANES] {
    array::from_fn(|lane| x[lane] + said[lane])
}

impl Source for OnTheWay<'_> {
    #[inline(always)]
    unsafe fn group<const N: usize>(&self, token: usize, column: usize) -> &[[f32; LANES]; N] {
        let Normed {
            x, said, weight, ..
        } = self.of;
        let first = token * weight.len() + column;
        let places = first..first + N * LANES;
        // SAFETY: no column of a token is asked for twice, as `Source` says, and
        // nobody else writes to the sum.
        let sum = unsafe { self.sum.part(places.clone()) };
        // SAFETY: as above, of its norm.
        let normed = unsafe { self.normed.part(places.clone()) };
        let factor = self.factors[token - self.first];
        let (x, said) = (x[places.clone()].as_chunks().0, said[places].as_chunks().0);
        let weight = weight[column..][..N * LANES].as_chunks::<LANES>().0;
        let made = sum.as_chunks_mut().0.iter_mut();
        let made = made.zip(normed.as_chunks_mut::<LANES>().0);
        for (((sum, normed), (x, said)), weight) in made.zip(x.iter().zip(said)).zip(weight) {
            *sum = added(x, said);
            *normed = array::from_fn(|lane| sum[lane] * factor * weight[lane]);
        }
        let normed = normed.as_chunks().0.first_chunk();
        normed.expect("there are N times LANES columns")
    }
}
