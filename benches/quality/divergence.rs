//! How far the next-token distributions of two models are from each other,
//! after every token of some sequences, and how likely each finds what follows.

use llm_server::model::{Draw, Input, Model, SequenceId, Tokens};

/// Sequences at once.
const WIDTH: usize = 32;

/// Two models of the same weights, the first the reference.
pub(crate) struct Pair {
    pub(crate) reference: Box<dyn Model>,
    pub(crate) other: Box<dyn Model>,
}

/// After one token of a sequence.
pub(crate) struct Position {
    /// Which sequence, and how many of its tokens are known.
    pub(crate) sequence: usize,
    pub(crate) known: usize,
    /// KL(reference || other), in nats.
    pub(crate) divergence: f64,
    /// Whether the likeliest token is another one.
    pub(crate) differs: bool,
    /// -ln p of the token that follows, by the reference and the other; `None`
    /// after the last token.
    pub(crate) surprise: Option<[f64; 2]>,
}

impl Pair {
    /// Every position of all sequences. Each step is of one token of many
    /// sequences.
    pub(crate) fn compare(&mut self, sequences: &[Vec<u32>]) -> Vec<Position> {
        let mut positions = Vec::new();
        for first in (0..sequences.len()).step_by(WIDTH) {
            let group = &sequences[first..sequences.len().min(first + WIDTH)];
            let a = open(self.reference.as_mut(), group.len());
            let b = open(self.other.as_mut(), group.len());
            let longest = group.iter().map(Vec::len).max().unwrap_or(0);
            for known in 1..=longest {
                let going = || (0..group.len()).filter(|&place| group[place].len() >= known);
                let rows = |model: &mut dyn Model, ids: &[SequenceId]| {
                    let batch: Vec<Input<'_>> = going()
                        .map(|place| Input {
                            sequence: ids[place],
                            tokens: Tokens::Given(&group[place][known - 1..known]),
                            draw: Some(Draw::GREEDY),
                        })
                        .collect();
                    model.submit(&batch).unwrap().logits().unwrap()
                };
                let (a, b) = (
                    rows(self.reference.as_mut(), &a),
                    rows(self.other.as_mut(), &b),
                );
                for (place, (a, b)) in going().zip(a.rows().zip(b.rows())) {
                    let next = group[place].get(known).copied();
                    positions.push(position(first + place, known, a, b, next));
                }
            }
            close(self.reference.as_mut(), a);
            close(self.other.as_mut(), b);
        }
        positions
    }
}

fn open(model: &mut dyn Model, count: usize) -> Vec<SequenceId> {
    (0..count).map(|_| model.open().unwrap()).collect()
}

fn close(model: &mut dyn Model, sequences: Vec<SequenceId>) {
    for sequence in sequences {
        model.close(sequence);
    }
}

fn position(sequence: usize, known: usize, a: &[f32], b: &[f32], next: Option<u32>) -> Position {
    let (total_a, total_b) = (log_total(a), log_total(b));
    let divergence = a.iter().zip(b).map(|(&a, &b)| {
        let (a, b) = (f64::from(a) - total_a, f64::from(b) - total_b);
        a.exp() * (a - b)
    });
    let surprise = next.map(|token| {
        let token = token as usize;
        [total_a - f64::from(a[token]), total_b - f64::from(b[token])]
    });
    Position {
        sequence,
        known,
        // Of equal distributions rounding leaves some -1e-16.
        divergence: divergence.sum::<f64>().max(0.0),
        differs: likeliest(a) != likeliest(b),
        surprise,
    }
}

/// The logarithm of the sum of exponentials.
fn log_total(row: &[f32]) -> f64 {
    let top = row.iter().fold(f32::NEG_INFINITY, |top, &x| top.max(x));
    let top = f64::from(top);
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - top).exp()).sum();
    top + sum.ln()
}

/// The first of the largest.
fn likeliest(row: &[f32]) -> Option<usize> {
    let best = row.iter().enumerate().rev();
    best.max_by(|a, b| a.1.total_cmp(b.1))
        .map(|(place, _)| place)
}
