//! One layer of the decoder: attention or what stands in its place, and a
//! gated MLP or experts, each between norms and added to the residual stream.

mod attention;
mod conv;
mod delta;
mod mlp;

use super::ModelError;
use super::config::{DecoderConfig, LayerConfig, NormPlacement, OperatorConfig};
use super::linear::Loader;
use super::sequence::{Carried, State};
use crate::backend::{Backend, ShortList, StateSpan};
use attention::Attention;
pub(super) use attention::Rotations;
use conv::ShortConv;
use delta::DeltaNet;
use mlp::Mlp;

pub(super) struct Layer<B: Backend> {
    operator: Operator<B>,
    operator_norms: Norms<B>,
    mlp: Mlp<B>,
    mlp_norms: Norms<B>,
}

/// What takes a sequence's tokens together.
enum Operator<B: Backend> {
    Attention(Attention<B>),
    Delta(DeltaNet<B>),
    Conv(ShortConv<B>),
}

/// One sequence's part of a step: the next `tokens` rows of the flat batch.
pub(super) struct Part<'a, B: Backend> {
    pub(super) tokens: usize,
    /// What it carries on, of all layers.
    pub(super) carried: &'a mut Carried<B>,
}

/// The parts for an operation that carries `tensor` of the sequences' states
/// in place `slot` on.
fn state_spans<'a, B: Backend>(
    parts: &'a mut [Part<'_, B>],
    slot: usize,
    tensor: impl Fn(&mut State<B>) -> &mut Option<B::Tensor>,
) -> ShortList<StateSpan<'a, B::Tensor>> {
    let spans = parts.iter_mut().map(|part| StateSpan {
        tokens: part.tokens,
        state: tensor(&mut part.carried.states[slot]),
    });
    spans.collect()
}

/// The residual stream between two blocks. What the last one said is not added
/// yet: the sum and its norm are one operation.
pub(super) struct Residual<B: Backend> {
    x: B::Tensor,
    said: Option<B::Tensor>,
}

/// The norms before a block and behind it, where the family has them.
struct Norms<B: Backend> {
    before: Option<B::Tensor>,
    after: Option<B::Tensor>,
}

impl<B: Backend> Layer<B> {
    /// Loads layer `index`.
    pub(super) fn load(loader: &Loader<'_, B>, index: usize) -> Result<Self, ModelError> {
        let config = loader.config;
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let norms = |before: Option<&str>, after: Option<&str>| {
            let norm =
                |part: &str| loader.norm(&name(&format!("{part}.weight")), config.hidden_size);
            Ok::<_, ModelError>(Norms {
                before: before.map(norm).transpose()?,
                after: after.map(norm).transpose()?,
            })
        };
        let (operator_norm, mlp_norm) = (config.names.operator_norm, config.names.mlp_norm);
        let (behind_operator, behind_mlp) =
            ("post_attention_layernorm", "post_feedforward_layernorm");
        let (operator_norms, mlp_norms) = match config.norms {
            NormPlacement::Before => (
                norms(Some(operator_norm), None)?,
                norms(Some(mlp_norm), None)?,
            ),
            NormPlacement::After => (
                norms(None, Some(behind_operator))?,
                norms(None, Some(behind_mlp))?,
            ),
            NormPlacement::Around => (
                norms(Some(operator_norm), Some(behind_operator))?,
                norms(Some("pre_feedforward_layernorm"), Some(behind_mlp))?,
            ),
        };
        let layer = &config.layers[index];
        Ok(Self {
            operator: Operator::load(loader, index, &name(""))?,
            operator_norms,
            mlp: Mlp::load(loader, &name(""), &layer.mlp)?,
            mlp_norms,
        })
    }

    /// The stream behind the layer; the sequences carry on what they are to.
    pub(super) fn forward(
        &self,
        backend: &B,
        config: &DecoderConfig,
        stream: Residual<B>,
        rotations: &[Rotations<B>],
        parts: &mut [Part<'_, B>],
    ) -> Result<Residual<B>, ModelError> {
        let norms = &self.operator_norms;
        let stream = norms.around(backend, config, stream, |x| match &self.operator {
            Operator::Attention(attention) => {
                attention.forward(backend, config, x, rotations, parts)
            }
            Operator::Delta(net) => net.forward(backend, config, x, parts),
            Operator::Conv(conv) => conv.forward(backend, x, parts),
        })?;
        self.mlp_norms
            .around(backend, config, stream, |x| self.mlp.forward(backend, x))
    }
}

impl<B: Backend> Operator<B> {
    /// Loads that of layer `index`, the names of whose parts begin with
    /// `layer`.
    fn load(loader: &Loader<'_, B>, index: usize, layer: &str) -> Result<Self, ModelError> {
        let attends = |operator| matches!(operator, OperatorConfig::Attention { .. });
        let (before, rest) = loader.config.layers.split_at(index);
        let operator = rest[0].operator;
        // Sequences carry keys and values of layers of attention, and states
        // of the others.
        let alike = |layer: &&LayerConfig| attends(layer.operator) == attends(operator);
        let slot = before.iter().filter(alike).count();
        let name = |part: &str| format!("{layer}{part}");
        Ok(match operator {
            OperatorConfig::Attention { window, rope } => Self::Attention(Attention::load(
                loader,
                &name("self_attn"),
                (window, rope),
                slot,
            )?),
            OperatorConfig::Delta(net) => {
                Self::Delta(DeltaNet::load(loader, &name("linear_attn"), net, slot)?)
            }
            OperatorConfig::Conv(conv) => {
                Self::Conv(ShortConv::load(loader, &name("conv"), conv, slot)?)
            }
        })
    }
}

impl<B: Backend> Residual<B> {
    /// `x`, `[T, hidden]`, to which nothing was added.
    pub(super) fn new(x: B::Tensor) -> Self {
        Self { x, said: None }
    }

    /// With all that was said.
    pub(super) fn sum(self, backend: &B) -> Result<B::Tensor, ModelError> {
        match self.said {
            Some(said) => Ok(backend.add(self.x, &said)?),
            None => Ok(self.x),
        }
    }

    /// The sum, and what it is to the next block, which may have a norm.
    fn normed(
        self,
        backend: &B,
        norm: Option<&B::Tensor>,
        eps: f32,
    ) -> Result<(B::Tensor, B::Tensor), ModelError> {
        match (norm, &self.said) {
            (Some(norm), Some(said)) => Ok(backend.add_norm(self.x, said, norm, eps)?),
            (Some(norm), None) => {
                let normed = backend.rms_norm(&self.x, norm, eps)?;
                Ok((self.x, normed))
            }
            (None, _) => {
                let x = self.sum(backend)?;
                Ok((x.clone(), x))
            }
        }
    }
}

impl<B: Backend> Norms<B> {
    /// The stream, and what `block` says of it.
    fn around(
        &self,
        backend: &B,
        config: &DecoderConfig,
        stream: Residual<B>,
        block: impl FnOnce(&B::Tensor) -> Result<B::Tensor, ModelError>,
    ) -> Result<Residual<B>, ModelError> {
        let (x, given) = stream.normed(backend, self.before.as_ref(), config.norm_eps)?;
        let mut said = block(&given)?;
        if let Some(norm) = &self.after {
            said = backend.rms_norm(&said, norm, config.norm_eps)?;
        }
        if config.residual_scale != 1.0 {
            said = backend.scale(said, config.residual_scale)?;
        }
        Ok(Residual {
            x,
            said: Some(said),
        })
    }
}
