//! One layer of the decoder: attention and a gated MLP or experts, each
//! between norms and added to the residual stream.

mod attention;
mod mlp;

use super::ModelError;
use super::config::{DecoderConfig, LayerConfig, NormPlacement};
use super::linear::Loader;
use crate::backend::{Backend, Span};
use attention::Attention;
pub(super) use attention::Rotations;
use mlp::Mlp;

pub(super) struct Layer<B: Backend> {
    attention: Attention<B>,
    attention_norms: Norms<B>,
    mlp: Mlp<B>,
    mlp_norms: Norms<B>,
}

/// The norms before a block and behind it, where the family has them.
struct Norms<B: Backend> {
    before: Option<B::Tensor>,
    after: Option<B::Tensor>,
}

impl<B: Backend> Layer<B> {
    /// Loads layer `index`, which is as `layer` says.
    pub(super) fn load(
        loader: &Loader<'_, B>,
        index: usize,
        layer: &LayerConfig,
    ) -> Result<Self, ModelError> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let norms = |before: Option<&str>, after: Option<&str>| {
            let norm = |part: &str| {
                let name = name(&format!("{part}_layernorm.weight"));
                loader.norm(&name, loader.config.hidden_size)
            };
            Ok::<_, ModelError>(Norms {
                before: before.map(norm).transpose()?,
                after: after.map(norm).transpose()?,
            })
        };
        let (attention_norms, mlp_norms) = match loader.config.norms {
            NormPlacement::Before => (
                norms(Some("input"), None)?,
                norms(Some("post_attention"), None)?,
            ),
            NormPlacement::After => (
                norms(None, Some("post_attention"))?,
                norms(None, Some("post_feedforward"))?,
            ),
            NormPlacement::Around => (
                norms(Some("input"), Some("post_attention"))?,
                norms(Some("pre_feedforward"), Some("post_feedforward"))?,
            ),
        };
        Ok(Self {
            attention: Attention::load(loader, &name("self_attn"), layer)?,
            attention_norms,
            mlp: Mlp::load(loader, &name(""), &layer.mlp)?,
            mlp_norms,
        })
    }

    /// `[T, hidden]` to the same; the spans' keys and values are appended.
    pub(super) fn forward(
        &self,
        backend: &B,
        config: &DecoderConfig,
        x: &B::Tensor,
        rotations: &[Rotations<B>],
        spans: &mut [Span<'_, B::Kv>],
    ) -> Result<B::Tensor, ModelError> {
        let x = self.attention_norms.around(backend, config, x, |x| {
            self.attention.forward(backend, config, x, rotations, spans)
        })?;
        self.mlp_norms
            .around(backend, config, &x, |x| self.mlp.forward(backend, x))
    }
}

impl<B: Backend> Norms<B> {
    /// `x` and what `block` says of it.
    fn around(
        &self,
        backend: &B,
        config: &DecoderConfig,
        x: &B::Tensor,
        block: impl FnOnce(&B::Tensor) -> Result<B::Tensor, ModelError>,
    ) -> Result<B::Tensor, ModelError> {
        let mut said = match &self.before {
            Some(norm) => block(&backend.rms_norm(x, norm, config.norm_eps)?)?,
            None => block(x)?,
        };
        if let Some(norm) = &self.after {
            said = backend.rms_norm(&said, norm, config.norm_eps)?;
        }
        if config.residual_scale != 1.0 {
            said = backend.scale(&said, config.residual_scale)?;
        }
        Ok(backend.add(x, &said)?)
    }
}
