//! Chooses the next token from logits. The definitions are those of mlx-lm's
//! `sample_utils` (<https://github.com/ml-explore/mlx-lm>): `top_p`, then
//! `min_p`, both on the probabilities at temperature 1; the temperature
//! enters with the draw.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Sampling;

/// How many of the most likely tokens `top_p` looks at first; it goes on in
/// larger portions only where they do not suffice.
const FIRST_PORTION: usize = 64;

/// The sampler of one request.
pub(super) struct Sampler {
    sampling: Sampling,
    random: SmallRng,
    /// `(logit, token)` of the tokens still in the draw. Kept between tokens
    /// so that its memory is.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    pub(super) fn new(sampling: Sampling) -> Self {
        Self {
            sampling,
            random: SmallRng::seed_from_u64(sampling.seed),
            candidates: Vec::new(),
        }
    }

    /// A token drawn by `logits`, or `None` if no logit is a finite number.
    pub(super) fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        let (best, top) = most_likely(logits)?;
        if self.sampling.temperature == 0.0 {
            return Some(best);
        }
        self.candidates.clear();
        self.candidates.extend(
            logits
                .iter()
                .zip(0..)
                // Neither NaN nor infinity can be weighed.
                .filter(|(logit, _)| **logit < f32::INFINITY)
                .map(|(&logit, token)| (logit, token)),
        );
        if self.sampling.top_p > 0.0 && self.sampling.top_p < 1.0 {
            self.keep_top_p(top);
        }
        if self.sampling.min_p > 0.0 {
            self.keep_min_p(top);
        }
        Some(self.draw(top).unwrap_or(best))
    }

    /// Keeps the most likely tokens, as few as have `top_p` of the mass;
    /// those as likely as the last of them stay too.
    fn keep_top_p(&mut self, top: f32) {
        let mass = |logit: f32| f64::from((logit - top).exp());
        let total: f64 = self.candidates.iter().map(|&(logit, _)| mass(logit)).sum();
        let enough = f64::from(self.sampling.top_p) * total;
        let mut above = 0.0;
        let mut sorted = 0;
        let mut portion = FIRST_PORTION;
        while sorted < self.candidates.len() {
            let rest = &mut self.candidates[sorted..];
            let portion_len = portion.min(rest.len());
            if portion_len < rest.len() {
                rest.select_nth_unstable_by(portion_len, |a, b| b.0.total_cmp(&a.0));
            }
            rest[..portion_len].sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
            for index in sorted..sorted + portion_len {
                above += mass(self.candidates[index].0);
                if above >= enough {
                    let threshold = self.candidates[index].0;
                    self.candidates.retain(|&(logit, _)| logit >= threshold);
                    return;
                }
            }
            sorted += portion_len;
            portion *= 8;
        }
    }

    /// Drops tokens less likely than `min_p` times the most likely, but never
    /// so many that fewer than `min_tokens_to_keep` stay.
    fn keep_min_p(&mut self, top: f32) {
        let keep = self.sampling.min_tokens_to_keep.max(1);
        if keep > 1 {
            if self.candidates.len() <= keep {
                return;
            }
            self.candidates
                .select_nth_unstable_by(keep - 1, |a, b| b.0.total_cmp(&a.0));
        }
        let threshold = top + self.sampling.min_p.ln();
        let mut index = 0;
        self.candidates.retain(|&(logit, _)| {
            index += 1;
            logit >= threshold || (keep > 1 && index <= keep)
        });
    }

    /// Draws by probability at the temperature. `None` if rounding let the
    /// draw pass every candidate.
    fn draw(&mut self, top: f32) -> Option<u32> {
        let temperature = f64::from(self.sampling.temperature);
        let weight = |logit: f32| (f64::from(logit - top) / temperature).exp();
        let total: f64 = self
            .candidates
            .iter()
            .map(|&(logit, _)| weight(logit))
            .sum();
        let mut left = self.random.random::<f64>() * total;
        for &(logit, token) in &self.candidates {
            left -= weight(logit);
            if left < 0.0 {
                return Some(token);
            }
        }
        None
    }
}

/// The first of the most likely tokens and its logit; `None` if no logit is
/// a finite number.
fn most_likely(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best: Option<(u32, f32)> = None;
    for (&logit, token) in logits.iter().zip(0..) {
        if logit.is_finite() && best.is_none_or(|(_, top)| logit > top) {
            best = Some((token, logit));
        }
    }
    best
}

#[cfg(test)]
mod tests;
