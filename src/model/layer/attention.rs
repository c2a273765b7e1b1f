//! Attention: queries, keys and values of a step, normed and rotated, each
//! sequence's rows over its own keys and values.

use crate::backend::{AttentionSettings, Backend, Span};
use crate::model::ModelError;
use crate::model::config::{DecoderConfig, LayerConfig, QkNorm};
use crate::model::linear::{Linear, Loader};
use crate::model::rope::Rope;

pub(super) struct Attention<B: Backend> {
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

/// The angles of a step by one of the ropes.
pub(in crate::model) struct Rotations<B: Backend> {
    queries: B::Rotation,
    /// Where they are not the queries'.
    keys: Option<B::Rotation>,
}

impl<B: Backend> Rotations<B> {
    pub(in crate::model) fn new(
        backend: &B,
        rope: &Rope,
        positions: &[u32],
    ) -> Result<Self, ModelError> {
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

impl<B: Backend> Attention<B> {
    pub(super) fn load(
        loader: &Loader<'_, B>,
        name: &str,
        layer: &LayerConfig,
    ) -> Result<Self, ModelError> {
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

    pub(super) fn forward(
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
