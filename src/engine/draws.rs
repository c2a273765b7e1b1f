//! The draws of one request: how its tokens are chosen, and the random
//! numbers that choose them.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Sampling;
use crate::model::Draw;

/// One draw after the other, the same ones for the same seed.
pub(super) struct Draws {
    draw: Draw,
    random: SmallRng,
}

impl Draws {
    pub(super) fn new(sampling: Sampling) -> Self {
        Self {
            draw: Draw {
                temperature: sampling.temperature,
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                min_tokens_to_keep: sampling.min_tokens_to_keep,
                uniform: 0.0,
            },
            random: SmallRng::seed_from_u64(sampling.seed),
        }
    }

    /// How the next token is drawn.
    pub(super) fn next(&mut self) -> Draw {
        Draw {
            uniform: self.random.random(),
            ..self.draw
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_another_does_not() {
        let draws = |seed| {
            let mut draws = Draws::new(Sampling {
                temperature: 0.5,
                top_p: 0.9,
                min_p: 0.1,
                min_tokens_to_keep: 3,
                seed,
            });
            std::iter::repeat_with(|| draws.next())
                .take(20)
                .collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        for draw in draws(1) {
            assert!((0.0..1.0).contains(&draw.uniform));
            assert_eq!(
                draw,
                Draw {
                    temperature: 0.5,
                    top_p: 0.9,
                    min_p: 0.1,
                    min_tokens_to_keep: 3,
                    uniform: draw.uniform
                }
            );
        }
    }
}
