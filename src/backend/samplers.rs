//! Tokens drawn on the host from a whole batch of logits. What is drawn is
//! what [`Sampler`] says; knows nothing of why.

use super::threads::Threads;
use super::{Draw, Sampler, ShortList, TokenSource};

/// Stands for the token of a row whose logits are not numbers. No vocabulary
/// is as large.
pub(super) const NONE: u32 = u32::MAX;

/// From this many logits on, the rows are shared among the threads. The most
/// likely of fewer is found sooner than a thread is woken.
const WORTH_SHARING: usize = 1 << 15;

/// A sampler for each row there has been in a step at once. They stay, so
/// that a draw allocates nothing.
#[derive(Default)]
pub(super) struct Samplers(Vec<Row>);

#[derive(Default)]
struct Row {
    sampler: Sampler,
    drawn: u32,
}

impl Samplers {
    /// A token from each row of `logits` `[n, vocabulary]` as the `n` draws
    /// say, or [`NONE`].
    ///
    /// # Errors
    /// If there are not as many rows as draws.
    pub(super) fn sample(
        &mut self,
        threads: &Threads,
        logits: &[f32],
        vocabulary: usize,
        draws: &[Draw],
    ) -> Result<ShortList<u32>, String> {
        if logits.len() != vocabulary * draws.len() {
            return Err(format!(
                "{} logits for {} draws from {vocabulary} tokens",
                logits.len(),
                draws.len()
            ));
        }
        if self.0.len() < draws.len() {
            self.0.resize_with(draws.len(), Row::default);
        }
        let rows = &mut self.0[..draws.len()];
        let at_once = match logits.len() {
            ..WORTH_SHARING => rows.len().max(1),
            _ => 1,
        };
        threads.for_each_chunk(rows, at_once, |chunk, rows| {
            for (offset, row) in rows.iter_mut().enumerate() {
                let index = chunk * at_once + offset;
                let logits = &logits[index * vocabulary..][..vocabulary];
                let drawn = row.sampler.sample(logits, &draws[index]);
                row.drawn = drawn.unwrap_or(NONE);
            }
        });
        Ok(rows.iter().map(|row| row.drawn).collect())
    }
}

/// The ids a step is fed, as [`super::Backend::embed`] says, of those that
/// [`Samplers::sample`] gave; `into` holds nothing else then.
pub(super) fn fed_on(parts: &[TokenSource<'_, ShortList<u32>>], into: &mut Vec<u32>) {
    let parts = parts.iter().map(|part| match part {
        TokenSource::Given(ids) => *ids,
        TokenSource::Drawn(ids, place) => &ids[*place..=*place],
    });
    // What is fed on is an id of the vocabulary.
    let id = |&id: &u32| if id == NONE { 0 } else { id };
    into.clear();
    into.extend(parts.flatten().map(id));
}

/// As [`super::Backend::read_tokens`] says, of ids that [`Samplers::sample`]
/// gave.
pub(super) fn drawn(tokens: &[u32]) -> ShortList<Option<u32>> {
    let token = |&token: &u32| (token != NONE).then_some(token);
    tokens.iter().map(token).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::num::NonZero;

    use super::*;

    #[test]
    fn samplers_stay_and_serve_steps_of_any_size() {
        let threads = Threads::new(NonZero::new(2).unwrap());
        let mut samplers = Samplers::default();
        for rows in [2, 16, 1, 16, 0] {
            let logits = vec![0.0; rows * 3_000];
            let draw = Draw {
                temperature: 1.0,
                uniform: 0.5,
                ..Draw::GREEDY
            };
            let drawn = samplers.sample(&threads, &logits, 3_000, &vec![draw; rows]);
            assert_eq!(drawn.unwrap().as_slice(), vec![1_500; rows]);
        }
        assert_eq!(samplers.0.len(), 16);
    }

    #[test]
    fn logits_that_do_not_fit_are_refused() {
        let threads = Threads::new(NonZero::<usize>::MIN);
        let drawn = Samplers::default().sample(&threads, &[0.0; 5], 3, &[Draw::GREEDY; 2]);
        assert!(drawn.unwrap_err().contains("5 logits"));
    }
}
