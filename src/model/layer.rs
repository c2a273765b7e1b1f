//! One layer of the decoder: attention and a gated MLP or experts, each
//! behind a norm and added to the residual stream.

use super::ModelError;
use super::config::{DecoderConfig, LayerConfig};
use super::weights::Weights;
use crate::backend::{AttentionSettings, Backend, ExpertWeights, Span};

/// Finds weights by name and makes them ready.
pub(super) struct Loader<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) weights: &'a Weights,
    pub(super) config: &'a DecoderConfig,
}

impl<B: Backend> Loader<'_, B> {
    pub(super) fn norm(&self, name: &str, size: usize) -> Result<B::Tensor, ModelError> {
        let stored = self.weights.parameter(name, &[size])?;
        Ok(self.backend.parameter(&stored)?)
    }

    pub(super) fn matrix(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<B::Matrix, ModelError> {
        let quantizations = &self.config.quantizations;
        let stored = self.weights.matrix(name, &[rows, columns], quantizations)?;
        Ok(self.backend.matrix(stored)?)
    }

    /// The experts of a layer, stacked as mlx-lm stores them.
    fn experts(&self, name: &str, count: usize, inner: usize) -> Result<B::Experts, ModelError> {
        let hidden = self.config.hidden_size;
        let stacked = |part: &str, rows, columns| {
            let name = format!("{name}.{part}");
            let shape = [count, rows, columns];
            self.weights
                .matrix(&name, &shape, &self.config.quantizations)
        };
        Ok(self.backend.experts(ExpertWeights {
            gate: stacked("gate_proj", inner, hidden)?,
            up: stacked("up_proj", inner, hidden)?,
            down: stacked("down_proj", hidden, inner)?,
            count,
        })?)
    }
}

pub(super) struct Layer<B: Backend> {
    input_norm: B::Tensor,
    q: B::Matrix,
    k: B::Matrix,
    v: B::Matrix,
    o: B::Matrix,
    /// Norms of queries and keys by head, where the family has them.
    qk_norm: Option<(B::Tensor, B::Tensor)>,
    window: Option<usize>,
    post_norm: B::Tensor,
    mlp: Mlp<B>,
}

enum Mlp<B: Backend> {
    Gated {
        gate: B::Matrix,
        up: B::Matrix,
        down: B::Matrix,
    },
    Experts {
        router: B::Matrix,
        experts: B::Experts,
        top_k: usize,
        renormalize: bool,
    },
}

impl<B: Backend> Layer<B> {
    /// Loads layer `index`, which is as `layer` says.
    pub(super) fn load(
        loader: &Loader<'_, B>,
        index: usize,
        layer: &LayerConfig,
    ) -> Result<Self, ModelError> {
        let config = loader.config;
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let norm = |part: &str, size| loader.norm(&name(part), size);
        let matrix = |part: &str, rows, columns| loader.matrix(&name(part), rows, columns);
        let hidden = config.hidden_size;
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        let qk_norm = match config.qk_norm {
            false => None,
            true => Some((
                norm("self_attn.q_norm.weight", config.head_dim)?,
                norm("self_attn.k_norm.weight", config.head_dim)?,
            )),
        };
        let mlp = match &layer.experts {
            None => Mlp::Gated {
                gate: matrix("mlp.gate_proj", config.intermediate_size, hidden)?,
                up: matrix("mlp.up_proj", config.intermediate_size, hidden)?,
                down: matrix("mlp.down_proj", hidden, config.intermediate_size)?,
            },
            Some(experts) => Mlp::Experts {
                router: matrix("mlp.gate", experts.count, hidden)?,
                experts: loader.experts(
                    &name("mlp.switch_mlp"),
                    experts.count,
                    experts.intermediate_size,
                )?,
                top_k: experts.top_k,
                renormalize: experts.renormalize,
            },
        };
        Ok(Self {
            input_norm: norm("input_layernorm.weight", hidden)?,
            q: matrix("self_attn.q_proj", queries, hidden)?,
            k: matrix("self_attn.k_proj", keys, hidden)?,
            v: matrix("self_attn.v_proj", keys, hidden)?,
            o: matrix("self_attn.o_proj", hidden, queries)?,
            qk_norm,
            window: layer.window,
            post_norm: norm("post_attention_layernorm.weight", hidden)?,
            mlp,
        })
    }

    /// `[T, hidden]` to the same; the spans' keys and values are appended.
    pub(super) fn forward(
        &self,
        backend: &B,
        config: &DecoderConfig,
        x: &B::Tensor,
        rotation: &B::Rotation,
        spans: &mut [Span<'_, B::Kv>],
    ) -> Result<B::Tensor, ModelError> {
        let normed = backend.rms_norm(x, &self.input_norm, config.norm_eps)?;
        let attended = self.attention(backend, config, &normed, rotation, spans)?;
        let x = backend.add(x, &attended)?;
        let normed = backend.rms_norm(&x, &self.post_norm, config.norm_eps)?;
        Ok(backend.add(&x, &self.mlp.forward(backend, &normed)?)?)
    }

    fn attention(
        &self,
        backend: &B,
        config: &DecoderConfig,
        x: &B::Tensor,
        rotation: &B::Rotation,
        spans: &mut [Span<'_, B::Kv>],
    ) -> Result<B::Tensor, ModelError> {
        let heads = |matrix, count| backend.split_heads(&backend.project(x, matrix)?, count);
        let mut q = heads(&self.q, config.heads)?;
        let mut k = heads(&self.k, config.kv_heads)?;
        let v = heads(&self.v, config.kv_heads)?;
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            q = backend.rms_norm(&q, q_norm, config.norm_eps)?;
            k = backend.rms_norm(&k, k_norm, config.norm_eps)?;
        }
        let q = backend.rotate(&q, rotation)?;
        let k = backend.rotate(&k, rotation)?;
        let settings = AttentionSettings {
            scale: (config.head_dim as f32).powf(-0.5),
            window: self.window,
            sinks: None,
        };
        let attended = backend.attention(&q, &k, &v, spans, &settings)?;
        Ok(backend.project(&attended, &self.o)?)
    }
}

impl<B: Backend> Mlp<B> {
    fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, ModelError> {
        match self {
            Self::Gated { gate, up, down } => {
                let gate = backend.project(x, gate)?;
                let up = backend.project(x, up)?;
                Ok(backend.project(&backend.swiglu(&gate, &up)?, down)?)
            }
            Self::Experts {
                router,
                experts,
                top_k,
                renormalize,
            } => {
                let router = backend.project(x, router)?;
                Ok(backend.mix_experts(x, &router, experts, *top_k, *renormalize)?)
            }
        }
    }
}
