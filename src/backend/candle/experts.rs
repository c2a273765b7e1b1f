//! Layers of experts: which of them a token is sent to, and what they say.

use candle_core::{Result, Tensor};

use super::weights::Matrix;
use super::{Candle, activation, dense};
use crate::backend::{Activation, ExpertWeights, MatrixWeights, RawTensor, likely_experts};

/// The gated MLPs of a layer's experts.
pub struct Experts {
    mlps: Vec<Mlp>,
    activation: Activation,
}

struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

struct Linear {
    matrix: Matrix,
    /// `[out]`.
    bias: Option<Tensor>,
}

impl Experts {
    pub(super) fn load(weights: &ExpertWeights, candle: &Candle) -> Result<Self> {
        let mlp = |index| {
            let biases = weights.biases.as_ref();
            let part = |weights: &MatrixWeights, bias: Option<&RawTensor>| {
                let Some(matrix) = weights.expert(index) else {
                    candle_core::bail!("there is no expert {index}");
                };
                let bias = bias.and_then(|bias| bias.entry(index));
                Ok(Linear {
                    matrix: Matrix::load(matrix, candle)?,
                    bias: match bias {
                        Some(bias) => Some(dense(&bias, &candle.device)?.to_dtype(candle.dtype)?),
                        None => None,
                    },
                })
            };
            Ok(Mlp {
                gate: part(&weights.gate, biases.map(|biases| &biases.gate))?,
                up: part(&weights.up, biases.map(|biases| &biases.up))?,
                down: part(&weights.down, biases.map(|biases| &biases.down))?,
            })
        };
        Ok(Self {
            mlps: (0..weights.count).map(mlp).collect::<Result<_>>()?,
            activation: weights.activation,
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
        let mut likely = Vec::new();
        for (row, logits) in logits.iter().enumerate() {
            for &(expert, weight) in likely_experts(logits, top_k, renormalize, &mut likely) {
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
            let y = mlp.forward(&x.index_select(&rows, 0)?, self.activation)?;
            output = output.index_add(&rows, &y.broadcast_mul(&weights)?, 0)?;
        }
        Ok(output)
    }
}

impl Mlp {
    fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let (gate, up) = (self.gate.project(x)?, self.up.project(x)?);
        self.down
            .project(&activation::gated(&gate, &up, activation)?)
    }
}

impl Linear {
    fn project(&self, x: &Tensor) -> Result<Tensor> {
        let product = self.matrix.project(x)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}
