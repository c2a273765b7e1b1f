//! Layers of experts: which of them a token is sent to, and what they say.

use candle_core::{Result, Tensor};
use candle_nn::ops;

use super::Candle;
use super::weights::Matrix;
use crate::backend::ExpertWeights;

/// The gated MLPs of a layer's experts.
pub struct Experts {
    mlps: Vec<Mlp>,
}

struct Mlp {
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

impl Experts {
    pub(super) fn load(weights: &ExpertWeights, candle: &Candle) -> Result<Self> {
        let mlp = |index| {
            let part = |weights: &crate::backend::MatrixWeights| match weights.expert(index) {
                Some(weights) => Matrix::load(weights, &candle.device, candle.dtype),
                None => candle_core::bail!("there is no expert {index}"),
            };
            Ok(Mlp {
                gate: part(&weights.gate)?,
                up: part(&weights.up)?,
                down: part(&weights.down)?,
            })
        };
        Ok(Self {
            mlps: (0..weights.count).map(mlp).collect::<Result<_>>()?,
        })
    }

    /// As [`crate::backend::Backend::mix_experts`] says.
    pub(super) fn mix(
        &self,
        x: &Tensor,
        router: &Tensor,
        top_k: usize,
        renormalize: bool,
    ) -> Result<Tensor> {
        // Rows are gathered by expert, so that an expert's weights are read
        // once a step.
        let mut rows = vec![Vec::new(); self.mlps.len()];
        let mut weights = vec![Vec::new(); self.mlps.len()];
        let logits: Vec<Vec<f32>> = router.to_dtype(candle_core::DType::F32)?.to_vec2()?;
        for (row, logits) in logits.iter().enumerate() {
            for (expert, weight) in chosen(logits, top_k, renormalize) {
                rows[expert].push(row as u32);
                weights[expert].push(weight);
            }
        }
        let mut output = x.zeros_like()?;
        for ((mlp, rows), weights) in self.mlps.iter().zip(rows).zip(weights) {
            if rows.is_empty() {
                continue;
            }
            let count = rows.len();
            let rows = Tensor::from_vec(rows, count, x.device())?;
            let weights = Tensor::from_vec(weights, (count, 1), x.device())?.to_dtype(x.dtype())?;
            let y = mlp.forward(&x.index_select(&rows, 0)?)?;
            output = output.index_add(&rows, &y.broadcast_mul(&weights)?, 0)?;
        }
        Ok(output)
    }
}

impl Mlp {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let inner = ops::silu(&self.gate.project(x)?)?.mul(&self.up.project(x)?)?;
        self.down.project(&inner)
    }
}

/// The `top_k` most likely experts and their weights.
fn chosen(logits: &[f32], top_k: usize, renormalize: bool) -> Vec<(usize, f32)> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut experts: Vec<(usize, f32)> = logits
        .iter()
        .map(|logit| (logit - top).exp())
        .enumerate()
        .collect();
    let all: f32 = experts.iter().map(|(_, weight)| weight).sum();
    experts.sort_by(|a, b| b.1.total_cmp(&a.1));
    experts.truncate(top_k);
    let total = match renormalize {
        true => experts.iter().map(|(_, weight)| weight).sum(),
        false => all,
    };
    for (_, weight) in &mut experts {
        *weight /= total;
    }
    experts
}
