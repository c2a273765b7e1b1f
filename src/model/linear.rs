//! A projection: a weight matrix, and what is added to its product.

use smallvec::SmallVec;

use super::ModelError;
use super::adapter::Adapter;
use super::config::{DecoderConfig, ExpertsConfig, OperatorConfig};
use super::quantize::Quantizer;
use super::rows::Rows;
use super::weights::Weights;
use crate::backend::{Backend, ExpertBiases, ExpertWeights, MatrixWeights, RawTensor};

/// Finds weights by name and makes them ready.
pub(super) struct Loader<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) weights: &'a Weights,
    pub(super) config: &'a DecoderConfig,
    pub(super) adapter: Option<&'a Adapter>,
    /// What becomes of matrices that are stored in floating point.
    pub(super) quantizer: Option<&'a Quantizer>,
}

/// `[T, in]` to `[T, out]`.
pub(super) struct Linear<B: Backend> {
    matrix: B::Matrix,
    /// `[out]`.
    bias: Option<B::Tensor>,
    adapter: Option<LowRank<B>>,
}

/// An adapter's addition to a projection.
struct LowRank<B: Backend> {
    /// `[rank, in]`.
    down: B::Matrix,
    /// `[out, rank]`.
    up: B::Matrix,
    scale: f32,
}

impl<B: Backend> Linear<B> {
    pub(super) fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, ModelError> {
        let product = backend.project(x, &self.matrix)?;
        self.complete(backend, x, product)
    }

    /// What each of `linears` makes of `x`.
    pub(super) fn forward_each<const N: usize>(
        backend: &B,
        x: &B::Tensor,
        linears: [&Self; N],
    ) -> Result<[B::Tensor; N], ModelError> {
        let products = backend.project_each(x, linears.map(|linear| &linear.matrix))?;
        let completed = linears
            .into_iter()
            .zip(products)
            .map(|(linear, product)| linear.complete(backend, x, product));
        let completed = completed.collect::<Result<SmallVec<[_; N]>, _>>()?;
        // There are N.
        let missing = |_| ModelError::Weights("a projection is missing".to_owned());
        completed.into_inner().map_err(missing)
    }

    /// The matrix, if nothing is added to its product.
    pub(super) fn plain(&self) -> Option<&B::Matrix> {
        (self.bias.is_none() && self.adapter.is_none()).then_some(&self.matrix)
    }

    /// The product of `x` with the matrix, and what is added to it.
    fn complete(
        &self,
        backend: &B,
        x: &B::Tensor,
        mut product: B::Tensor,
    ) -> Result<B::Tensor, ModelError> {
        if let Some(bias) = &self.bias {
            product = backend.add(product, bias)?;
        }
        if let Some(LowRank { down, up, scale }) = &self.adapter {
            let added = backend.project(&backend.project(x, down)?, up)?;
            product = backend.add(product, &backend.scale(added, *scale)?)?;
        }
        Ok(product)
    }
}

impl<B: Backend> Loader<'_, B> {
    /// What the weights call the part `name`.
    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.config.prefix)
    }

    /// A norm's weights, `[size]`.
    pub(super) fn norm(&self, name: &str, size: usize) -> Result<B::Tensor, ModelError> {
        let weight = self.parameter(name, size)?;
        Ok(match self.norm_offset() {
            0.0 => weight,
            offset => self.backend.shift(weight, offset)?,
        })
    }

    /// The norm after the last layer.
    pub(super) fn last_norm(&self) -> Result<B::Tensor, ModelError> {
        let name = format!("{}.weight", self.config.names.last_norm);
        self.norm(&name, self.config.hidden_size)
    }

    /// What is added to the stored weights of norms. mlx-lm adds the 1 of
    /// delta nets' families when it converts a model; whether it was, shows in
    /// how convolutions are stored.
    fn norm_offset(&self) -> f32 {
        let mut nets = self.config.layers.iter().enumerate();
        let net = nets.find_map(|(index, layer)| match layer.operator {
            OperatorConfig::Delta(delta) => Some((index, delta)),
            _ => None,
        });
        match net {
            Some((index, delta)) => {
                let name = format!("model.layers.{index}.linear_attn.conv1d.weight");
                let made = [delta.channels(), 1, delta.kernel];
                let as_made = self.weights.shape(&self.full(&name)) == Some(&made);
                if as_made && delta.kernel > 1 {
                    1.0
                } else {
                    0.0
                }
            }
            None => self.config.norm_offset,
        }
    }

    /// A parameter `[size]`.
    pub(super) fn parameter(&self, name: &str, size: usize) -> Result<B::Tensor, ModelError> {
        let stored = self.stored_parameter(name, size)?;
        Ok(self.backend.parameter(&stored)?)
    }

    /// The same as it is stored.
    pub(super) fn stored_parameter(
        &self,
        name: &str,
        size: usize,
    ) -> Result<RawTensor, ModelError> {
        self.weights.parameter(&self.full(name), &[size])
    }

    /// The weights of a convolution of every channel by itself,
    /// `[channels, kernel]`. mlx-lm stores them with a last axis of one more
    /// entry; before it has converted them they have one in the middle.
    pub(super) fn convolution(
        &self,
        name: &str,
        channels: usize,
        kernel: usize,
    ) -> Result<B::Tensor, ModelError> {
        let name = self.full(&format!("{name}.weight"));
        let made = [channels, 1, kernel];
        let stored = match self.weights.shape(&name) == Some(&made) {
            true => self.weights.parameter(&name, &made)?,
            false => self.weights.parameter(&name, &[channels, kernel, 1])?,
        };
        let flat = RawTensor {
            shape: vec![channels, kernel],
            ..stored
        };
        Ok(self.backend.parameter(&flat)?)
    }

    /// A matrix `[rows, columns]` that nothing is added to.
    pub(super) fn matrix(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<B::Matrix, ModelError> {
        Ok(self.backend.matrix(self.stored(name, &[rows, columns])?)?)
    }

    /// A matrix as it is stored, or quantized, if that is wanted.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<MatrixWeights, ModelError> {
        let quantizations = &self.config.quantizations;
        let name = self.full(name);
        let stored = self.weights.matrix(&name, shape, quantizations)?;
        Ok(match self.quantizer {
            Some(quantizer) => quantizer.matrix(&name, stored),
            None => stored,
        })
    }

    /// A projection `[columns]` to `[rows]`.
    pub(super) fn linear(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
        bias: bool,
    ) -> Result<Linear<B>, ModelError> {
        self.has_bias(name, bias)?;
        Ok(Linear {
            matrix: self.matrix(name, rows, columns)?,
            bias: match bias {
                true => Some(self.parameter(&format!("{name}.bias"), rows)?),
                false => None,
            },
            adapter: self.low_rank(name, rows, columns, &Rows::first(rows))?,
        })
    }

    /// What the adapter adds to the rows `part` of the projection `name`.
    fn low_rank(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
        part: &Rows,
    ) -> Result<Option<LowRank<B>>, ModelError> {
        let Some(adapter) = self.adapter else {
            return Ok(None);
        };
        let Some(found) = adapter.take(&self.full(name), rows, columns)? else {
            return Ok(None);
        };
        let up = part.of(&found.up);
        let up = up.ok_or_else(|| ModelError::Adapter(format!("{name} has fewer rows")))?;
        Ok(Some(LowRank {
            down: self.backend.matrix(MatrixWeights::Dense(found.down))?,
            up: self.backend.matrix(MatrixWeights::Dense(up))?,
            scale: found.scale,
        }))
    }

    /// Several projections of one input that are stored as one matrix, which
    /// has these rows of each and no others.
    pub(super) fn fused<const N: usize>(
        &self,
        name: &str,
        parts: &[Rows; N],
        columns: usize,
        bias: bool,
    ) -> Result<[Linear<B>; N], ModelError> {
        self.has_bias(name, bias)?;
        let all = parts.iter().map(Rows::count).sum();
        let stored = self.stored(name, &[all, columns])?;
        let biases = match bias {
            true => Some(self.stored_parameter(&format!("{name}.bias"), all)?),
            false => None,
        };
        let fewer = || ModelError::Weights(format!("{name} has fewer rows than it should"));
        let mut linears = Vec::with_capacity(N);
        for rows in parts {
            let matrix = rows.of_matrix(&stored).ok_or_else(fewer)?;
            let bias = biases.as_ref().map(|bias| rows.of(bias).ok_or_else(fewer));
            let bias = bias.transpose()?.map(|bias| self.backend.parameter(&bias));
            linears.push(Linear {
                matrix: self.backend.matrix(matrix)?,
                bias: bias.transpose()?,
                adapter: self.low_rank(name, all, columns, rows)?,
            });
        }
        linears
            .try_into()
            .map_err(|_| ModelError::Weights(format!("{name} does not come apart")))
    }

    /// The experts of a layer, stacked as mlx-lm stores them.
    pub(super) fn experts(
        &self,
        name: &str,
        config: &ExpertsConfig,
    ) -> Result<B::Experts, ModelError> {
        let (hidden, width, count) = (self.config.hidden_size, config.width, config.count);
        let stacked = |part: &str, rows, columns| {
            let name = format!("{name}.{part}");
            if !self.weights.has(&self.full(&format!("{name}.weight"))) {
                return Err(ModelError::Weights(format!(
                    "{name}.weight is missing; experts have to be stacked as mlx-lm stores them: \
                     take the model from mlx-community, or convert it with mlx_lm.convert"
                )));
            }
            self.has_bias(&name, config.bias)?;
            self.stored(&name, &[count, rows, columns])
        };
        let bias = |part: &str, rows| {
            let name = self.full(&format!("{name}.{part}.bias"));
            self.weights.parameter(&name, &[count, rows])
        };
        Ok(self.backend.experts(ExpertWeights {
            gate: stacked("gate_proj", width, hidden)?,
            up: stacked("up_proj", width, hidden)?,
            down: stacked("down_proj", hidden, width)?,
            biases: match config.bias {
                true => Some(ExpertBiases {
                    gate: bias("gate_proj", width)?,
                    up: bias("up_proj", width)?,
                    down: bias("down_proj", hidden)?,
                }),
                false => None,
            },
            activation: config.activation,
            count,
        })?)
    }

    /// Refuses a bias that would be left out. One that is missing shows when
    /// it is looked for.
    pub(super) fn has_bias(&self, name: &str, expected: bool) -> Result<(), ModelError> {
        match !expected && self.weights.has(&self.full(&format!("{name}.bias"))) {
            true => Err(ModelError::Weights(format!(
                "{name} has a bias, which config.json says nothing of"
            ))),
            false => Ok(()),
        }
    }
}
