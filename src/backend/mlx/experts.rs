//! Layers of experts on gathered products, after mlx-lm's `switch_layers`
//! (<https://github.com/ml-explore/mlx-lm>).

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::{TryIndexOp, take_axis};
use mlx_rs::ops::{argpartition_axis, argsort_axis, softmax_axis};

use super::activation::Activations;
use super::array::from_raw;
use super::memory::Memory;
use super::weights::Matrix;
use crate::backend::{Activation, BackendError, ExpertWeights, MatrixWeights, RawTensor};

/// From this many rows on they are sorted by expert: the kernels then read an
/// expert's weights once. For fewer, sorting costs more.
const SORTED_FROM: i32 = 64;

/// The gated MLPs of a layer's experts.
pub struct Experts {
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
}

struct Linear {
    matrix: Matrix,
    /// `[experts, out]`.
    bias: Option<Array>,
}

impl Experts {
    pub(super) fn load(weights: &ExpertWeights, memory: &Memory) -> Result<Self, BackendError> {
        let biases = weights.biases.as_ref();
        let linear = |weights: &MatrixWeights, bias: Option<&RawTensor>| {
            Ok(Linear {
                matrix: Matrix::load_experts(weights, memory)?,
                bias: bias.map(|bias| from_raw(bias, memory)).transpose()?,
            })
        };
        Ok(Self {
            gate: linear(&weights.gate, biases.map(|biases| &biases.gate))?,
            up: linear(&weights.up, biases.map(|biases| &biases.up))?,
            down: linear(&weights.down, biases.map(|biases| &biases.down))?,
            activation: weights.activation,
        })
    }

    /// As [`crate::backend::Backend::mix_experts`] says.
    pub(super) fn mix(
        &self,
        x: &Array,
        router: &Array,
        top_k: i32,
        renormalize: bool,
        activations: &Activations,
    ) -> Result<Array, Exception> {
        let (tokens, hidden) = (x.dim(0), x.dim(1));
        let shares = softmax_axis(router, -1, true)?;
        let chosen =
            argpartition_axis(shares.negative()?, top_k - 1, -1)?.try_index((.., ..top_k))?;
        let mut shares = shares.take_along_axis(&chosen, -1)?;
        if renormalize {
            shares = shares.divide(shares.sum_axis(-1, true)?)?;
        }
        // One row for each token and expert of its.
        let rows = tokens * top_k;
        let chosen = chosen.reshape(&[rows])?;
        let sorted = rows >= SORTED_FROM;
        let (experts, row_tokens, back) = if sorted {
            let order = argsort_axis(&chosen, 0)?;
            let experts = take_axis(&chosen, &order, 0)?;
            let row_tokens = order.floor_divide(Array::from_slice(&[top_k as u32], &[1]))?;
            (experts, row_tokens, Some(argsort_axis(&order, 0)?))
        } else {
            let row_tokens: Vec<i32> = (0..rows).map(|row| row / top_k).collect();
            (chosen, Array::from_slice(&row_tokens, &[rows]), None)
        };
        let rows_of_x = take_axis(x, &row_tokens, 0)?.reshape(&[rows, 1, hidden])?;
        let gate = self.gate.project_by(&rows_of_x, &experts, sorted)?;
        let up = self.up.project_by(&rows_of_x, &experts, sorted)?;
        let inner = activations.gated(&gate, &up, self.activation)?;
        let mut said = self.down.project_by(&inner, &experts, sorted)?;
        if let Some(back) = back {
            said = take_axis(&said, &back, 0)?;
        }
        said.reshape(&[tokens, top_k, hidden])?
            .multiply(shares.expand_dims(-1)?)?
            .sum_axis(1, false)?
            .as_dtype(x.dtype())
    }
}

impl Linear {
    /// As [`Matrix::project_by`].
    fn project_by(&self, x: &Array, experts: &Array, sorted: bool) -> Result<Array, Exception> {
        let product = self.matrix.project_by(x, experts, sorted)?;
        match &self.bias {
            // [n, 1, out].
            Some(bias) => product.add(take_axis(bias, experts, 0)?.expand_dims(1)?),
            None => Ok(product),
        }
    }
}
