//! Chooses the next token from logits on the CPU. The definitions are those of
//! mlx-lm's `sample_utils` (<https://github.com/ml-explore/mlx-lm>): `top_p`,
//! then `min_p`, both on the probabilities at temperature 1; the temperature
//! enters with the draw.

use pulp::Arch;

/// How many of the most likely tokens `top_p` looks at first; it goes on in
/// larger portions only where they do not suffice.
const FIRST_PORTION: usize = 64;

/// How one token is drawn from its logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// 0 takes the most likely token; larger is more random.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps
    /// all, and so does 0.
    pub top_p: f32,
    /// Drop tokens less likely than this times the most likely; 0 drops none.
    pub min_p: f32,
    /// `min_p` never leaves fewer tokens than this.
    pub min_tokens_to_keep: usize,
    /// Which of the tokens that are left: where it falls, from 0 to below 1,
    /// when they are laid side by side by their probability.
    pub uniform: f32,
}

impl Draw {
    /// The most likely token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        min_p: 0.0,
        min_tokens_to_keep: 1,
        uniform: 0.0,
    };

    /// Whether `top_p` drops anything.
    pub(super) fn has_top_p(&self) -> bool {
        self.top_p > 0.0 && self.top_p < 1.0
    }
}

/// Draws tokens, keeping its memory between them.
#[derive(Default)]
pub struct Sampler {
    /// `(logit, token)` of the tokens still in the draw.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A token drawn by `logits`, or `None` if no logit is a finite number.
    pub fn sample(&mut self, logits: &[f32], draw: &Draw) -> Option<u32> {
        let (best, top) = most_likely(logits)?;
        if draw.temperature == 0.0 {
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
        if draw.has_top_p() {
            self.keep_top_p(top, draw);
        }
        if draw.min_p > 0.0 {
            self.keep_min_p(top, draw);
        }
        Some(self.draw(top, draw).unwrap_or(best))
    }

    /// Keeps the most likely tokens, as few as have `top_p` of the mass;
    /// those as likely as the last of them stay too.
    fn keep_top_p(&mut self, top: f32, draw: &Draw) {
        let mass = |logit: f32| f64::from((logit - top).exp());
        let total: f64 = self.candidates.iter().map(|&(logit, _)| mass(logit)).sum();
        let enough = f64::from(draw.top_p) * total;
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
    fn keep_min_p(&mut self, top: f32, draw: &Draw) {
        let keep = draw.min_tokens_to_keep.max(1);
        if keep > 1 {
            if self.candidates.len() <= keep {
                return;
            }
            self.candidates
                .select_nth_unstable_by(keep - 1, |a, b| b.0.total_cmp(&a.0));
        }
        let threshold = top + draw.min_p.ln();
        let mut index = 0;
        self.candidates.retain(|&(logit, _)| {
            index += 1;
            logit >= threshold || (keep > 1 && index <= keep)
        });
    }

    /// Draws by probability at the temperature. `None` if rounding let the
    /// draw pass every candidate.
    fn draw(&self, top: f32, draw: &Draw) -> Option<u32> {
        let temperature = f64::from(draw.temperature);
        let weight = |logit: f32| (f64::from(logit - top) / temperature).exp();
        let total: f64 = self
            .candidates
            .iter()
            .map(|&(logit, _)| weight(logit))
            .sum();
        let mut left = f64::from(draw.uniform) * total;
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
    let place = Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut best = (0, f32::NEG_INFINITY);
            for (chunk, first) in logits.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
                // In lanes, and again in order only where there is a new top.
                let top = top_of(chunk);
                if top > best.1 {
                    let offset = chunk.iter().position(|&logit| logit == top);
                    best = (first + offset.unwrap_or(0), top);
                }
            }
            best
        },
    );
    (place.1 > f32::NEG_INFINITY).then_some((place.0 as u32, place.1))
}

/// Logits that are looked through at a time.
const CHUNK: usize = 512;

/// The largest finite logit, or minus infinity.
#[inline(always)]
fn top_of(logits: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut tops = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let larger = |logit: f32, top: f32| {
        let is_larger = logit > top && logit < f32::INFINITY;
        if is_larger { logit } else { top }
    };
    for logits in chunks {
        for (top, &logit) in tops.iter_mut().zip(logits) {
            *top = larger(logit, *top);
        }
    }
    let all = tops.iter().chain(rest);
    all.fold(f32::NEG_INFINITY, |top, &logit| larger(logit, top))
}

#[cfg(test)]
mod tests;
