//! One layer of the decoder: attention and a gated MLP or experts, each
//! between norms and added to the residual stream.

use super::ModelError;
use super::config::{
    DecoderConfig, ExpertsConfig, GatedConfig, LayerConfig, MlpConfig, NormPlacement, QkNorm,
};
use super::linear::{Linear, Loader};
use super::rope::Rope;
use crate::backend::{Activation, AttentionSettings, Backend, Span};

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

struct Attention<B: Backend> {
    q: Linear<B>,
    k: Linear<B>,
    v: Linear<B>,
    o: Linear<B>,
    /// Norms of queries and keys.
    qk_norm: Option<(B::Tensor, B::Tensor)>,
    /// `[heads]`.
    sinks: Option<B::Tensor>,
    window: Option<usize>,
    rope: Option<usize>,
}

enum Mlp<B: Backend> {
    Gated(Gated<B>),
    Experts(Experts<B>),
}

struct Gated<B: Backend> {
    gate: Linear<B>,
    up: Linear<B>,
    down: Linear<B>,
    activation: Activation,
}

struct Experts<B: Backend> {
    router: Linear<B>,
    experts: B::Experts,
    top_k: usize,
    renormalize: bool,
    /// The MLP that every token goes through, and its gate.
    shared: Option<(Gated<B>, Linear<B>)>,
}

/// The angles of a step by one of the ropes.
pub(super) struct Rotations<B: Backend> {
    queries: B::Rotation,
    /// Where they are not the queries'.
    keys: Option<B::Rotation>,
}

impl<B: Backend> Rotations<B> {
    pub(super) fn new(backend: &B, rope: &Rope, positions: &[u32]) -> Result<Self, ModelError> {
        let plain = vec![rope.magnitude; positions.len()];
        let grown = rope.query_growth.map(|growth| {
            let grown = |&position: &u32| rope.magnitude * growth.at(position as usize);
            positions.iter().map(grown).collect::<Vec<f32>>()
        });
        let rotation = |magnitudes: &[f32]| backend.rotation(positions, &rope.inv_freq, magnitudes);
        // Up to the first step of its growth a query is what it is elsewhere.
        Ok(match grown.filter(|grown| *grown != plain) {
            Some(grown) => Self {
                queries: rotation(&grown)?,
                keys: Some(rotation(&plain)?),
            },
            None => Self {
                queries: rotation(&plain)?,
                keys: None,
            },
        })
    }
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
            mlp: match &layer.mlp {
                MlpConfig::Gated(config) => Mlp::Gated(Gated::load(loader, &name("mlp"), config)?),
                MlpConfig::Experts(config) => {
                    Mlp::Experts(Experts::load(loader, &name(""), config)?)
                }
            },
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
            .around(backend, config, &x, |x| match &self.mlp {
                Mlp::Gated(mlp) => mlp.forward(backend, x),
                Mlp::Experts(experts) => experts.forward(backend, x),
            })
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

impl<B: Backend> Attention<B> {
    fn load(loader: &Loader<'_, B>, name: &str, layer: &LayerConfig) -> Result<Self, ModelError> {
        let config = loader.config;
        let part = |part: &str| format!("{name}.{part}");
        let hidden = config.hidden_size;
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        let [q, k, v] = match config.attention.fused {
            true => loader.fused(&part("qkv_proj"), [queries, keys, keys], hidden)?,
            false => {
                let linear = |name: &str, rows| {
                    loader.linear(&part(name), rows, hidden, config.attention.qkv_bias)
                };
                [
                    linear("q_proj", queries)?,
                    linear("k_proj", keys)?,
                    linear("v_proj", keys)?,
                ]
            }
        };
        let qk_norms = |q_width, k_width| {
            let norm = |name: &str, width| loader.norm(&part(name), width);
            Ok::<_, ModelError>(Some((
                norm("q_norm.weight", q_width)?,
                norm("k_norm.weight", k_width)?,
            )))
        };
        Ok(Self {
            q,
            k,
            v,
            o: loader.linear(
                &part("o_proj"),
                hidden,
                queries,
                config.attention.output_bias,
            )?,
            qk_norm: match config.attention.qk_norm {
                QkNorm::None => None,
                QkNorm::Head => qk_norms(config.head_dim, config.head_dim)?,
                QkNorm::Full => qk_norms(queries, keys)?,
            },
            sinks: match config.attention.sinks {
                true => Some(loader.parameter(&part("sinks"), config.heads)?),
                false => None,
            },
            window: layer.window,
            rope: layer.rope,
        })
    }

    fn forward(
        &self,
        backend: &B,
        config: &DecoderConfig,
        x: &B::Tensor,
        rotations: &[Rotations<B>],
        spans: &mut [Span<'_, B::Kv>],
    ) -> Result<B::Tensor, ModelError> {
        let mut q = self.q.forward(backend, x)?;
        let mut k = self.k.forward(backend, x)?;
        let v = self.v.forward(backend, x)?;
        let full = config.attention.qk_norm == QkNorm::Full;
        let norm = |x: &B::Tensor, norm| backend.rms_norm(x, norm, config.norm_eps);
        if let (true, Some((q_norm, k_norm))) = (full, &self.qk_norm) {
            (q, k) = (norm(&q, q_norm)?, norm(&k, k_norm)?);
        }
        let mut q = backend.split_heads(&q, config.heads)?;
        let mut k = backend.split_heads(&k, config.kv_heads)?;
        let v = backend.split_heads(&v, config.kv_heads)?;
        if let (false, Some((q_norm, k_norm))) = (full, &self.qk_norm) {
            (q, k) = (norm(&q, q_norm)?, norm(&k, k_norm)?);
        }
        if let Some(rotations) = self.rope.and_then(|rope| rotations.get(rope)) {
            let keys = rotations.keys.as_ref().unwrap_or(&rotations.queries);
            q = backend.rotate(&q, &rotations.queries)?;
            k = backend.rotate(&k, keys)?;
        }
        let settings = AttentionSettings {
            scale: config.attention.scale,
            softcap: config.attention.softcap,
            window: self.window,
            sinks: self.sinks.as_ref(),
        };
        let attended = backend.attention(&q, &k, &v, spans, &settings)?;
        self.o.forward(backend, &attended)
    }
}

impl<B: Backend> Gated<B> {
    fn load(loader: &Loader<'_, B>, name: &str, config: &GatedConfig) -> Result<Self, ModelError> {
        let part = |part: &str| format!("{name}.{part}");
        let (hidden, width) = (loader.config.hidden_size, config.width);
        let linear =
            |name: &str, rows, columns| loader.linear(&part(name), rows, columns, config.bias);
        let [gate, up] = match config.fused {
            true => loader.fused(&part("gate_up_proj"), [width, width], hidden)?,
            false => [
                linear("gate_proj", width, hidden)?,
                linear("up_proj", width, hidden)?,
            ],
        };
        Ok(Self {
            gate,
            up,
            down: linear("down_proj", hidden, width)?,
            activation: config.activation,
        })
    }

    fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, ModelError> {
        let gate = self.gate.forward(backend, x)?;
        let up = self.up.forward(backend, x)?;
        let inner = backend.gated(&gate, &up, self.activation)?;
        self.down.forward(backend, &inner)
    }
}

impl<B: Backend> Experts<B> {
    /// `layer` is what the names of the layer's parts begin with.
    fn load(
        loader: &Loader<'_, B>,
        layer: &str,
        config: &ExpertsConfig,
    ) -> Result<Self, ModelError> {
        let hidden = loader.config.hidden_size;
        let router = format!("{layer}{}", config.router);
        let shared = match config.shared {
            None => None,
            Some(width) => {
                let gated = GatedConfig {
                    width,
                    activation: config.activation,
                    bias: false,
                    fused: false,
                };
                let name = format!("{layer}mlp.shared_expert");
                Some((
                    Gated::load(loader, &name, &gated)?,
                    loader.linear(&format!("{name}_gate"), 1, hidden, false)?,
                ))
            }
        };
        Ok(Self {
            router: loader.linear(&router, config.count, hidden, config.bias)?,
            experts: loader.experts(&format!("{layer}{}", config.experts), config)?,
            top_k: config.top_k,
            renormalize: config.renormalize,
            shared,
        })
    }

    fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, ModelError> {
        let router = self.router.forward(backend, x)?;
        let said = backend.mix_experts(x, &router, &self.experts, self.top_k, self.renormalize)?;
        let Some((mlp, gate)) = &self.shared else {
            return Ok(said);
        };
        let shared = mlp.forward(backend, x)?;
        let gate = gate.forward(backend, x)?;
        Ok(backend.add(&said, &backend.sigmoid_gate(&shared, &gate)?)?)
    }
}
