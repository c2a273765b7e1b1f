//! Tokens drawn on the host from a whole batch of logits: on the CPU where
//! they lie, from a GPU after one copy. What is drawn is what [`Sampler`]
//! says; knows nothing of why.

use candle_core::{DType, Storage, Tensor};
use rayon::prelude::*;

use crate::backend::{Draw, Sampler};

/// Stands for the token of a row whose logits are not numbers. No vocabulary
/// is as large.
pub(super) const NONE: u32 = u32::MAX;

/// From this many logits on, the rows are shared among the threads. The most
/// likely of fewer is found sooner than a thread is woken.
const WORTH_SHARING: usize = 1 << 15;

/// A sampler for each row there has been in a step at once. They stay, so
/// that all a draw allocates is the list of its tokens.
#[derive(Default)]
pub(super) struct Samplers(Vec<Sampler>);

impl Samplers {
    /// A token from each row of `logits` `[n, vocabulary]` as the `n` draws
    /// say, or [`NONE`].
    pub(super) fn sample(
        &mut self,
        logits: &Tensor,
        draws: &[Draw],
    ) -> candle_core::Result<Vec<u32>> {
        let (_, vocabulary) = logits.dims2()?;
        let logits = logits.to_dtype(DType::F32)?.contiguous()?;
        let (storage, layout) = logits.storage_and_layout();
        if let (Storage::Cpu(all), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
            return Ok(self.draw(&all.as_slice::<f32>()?[start..end], vocabulary, draws));
        }
        drop(storage);
        let copy: Vec<f32> = logits.flatten_all()?.to_vec1()?;
        Ok(self.draw(&copy, vocabulary, draws))
    }

    fn draw(&mut self, logits: &[f32], vocabulary: usize, draws: &[Draw]) -> Vec<u32> {
        debug_assert_eq!(logits.len(), vocabulary * draws.len());
        if self.0.len() < draws.len() {
            self.0.resize_with(draws.len(), Sampler::default);
        }
        let samplers = &mut self.0[..draws.len()];
        let draw = |((sampler, draw), row): ((&mut Sampler, &Draw), &[f32])| {
            sampler.sample(row, draw).unwrap_or(NONE)
        };
        if draws.len() == 1 || logits.len() < WORTH_SHARING {
            let rows = logits.chunks_exact(vocabulary);
            return samplers.iter_mut().zip(draws).zip(rows).map(draw).collect();
        }
        let rows = logits.par_chunks_exact(vocabulary);
        let all = samplers.par_iter_mut().zip(draws).zip(rows);
        all.map(draw).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn logits_are_read_where_they_lie_and_as_they_lie() {
        let all: Vec<f32> = vec![9., 1., 2., 3., 1., 2., 9., 3., 1., 9., 2., 3.];
        let all = Tensor::from_vec(all, (3, 4), &Device::Cpu).unwrap();
        let drawn = |logits: &Tensor| {
            let draws = vec![Draw::GREEDY; logits.dims()[0]];
            Samplers::default().sample(logits, &draws).unwrap()
        };
        assert_eq!(drawn(&all), [0, 2, 1]);
        assert_eq!(drawn(&all.narrow(0, 1, 2).unwrap()), [2, 1]);
        assert_eq!(drawn(&all.narrow(1, 1, 3).unwrap()), [2, 1, 0]);
        assert_eq!(drawn(&all.t().unwrap()), [0, 2, 1, 0]);
        let half = all.to_dtype(DType::F16).unwrap();
        assert_eq!(drawn(&half), [0, 2, 1]);
    }

    #[test]
    fn samplers_stay_and_serve_steps_of_any_size() {
        let mut samplers = Samplers::default();
        for rows in [2, 16, 1, 16] {
            let logits = Tensor::zeros((rows, 3_000), DType::F32, &Device::Cpu).unwrap();
            let draw = Draw {
                temperature: 1.0,
                uniform: 0.5,
                ..Draw::GREEDY
            };
            let drawn = samplers.sample(&logits, &vec![draw; rows]).unwrap();
            assert_eq!(drawn, vec![1_500; rows]);
        }
        assert_eq!(samplers.0.len(), 16);
    }
}
