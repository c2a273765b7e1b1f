//! Attention: queries, keys and values of a step, normed and rotated, each
//! sequence's rows over its own keys and values.

use super::Part;
use crate::backend::{AttentionSettings, Backend, ShortList, Span};
use crate::model::ModelError;
use crate::model::config::{DecoderConfig, QkNorm};
use crate::model::linear::{Linear, Loader};
use crate::model::rope::Rope;
use crate::model::rows::Rows;

pub(super) struct Attention<B: Backend> {
    q: Linear<B>,
    k: Linear<B>,
    v: Linear<B>,
    o: Linear<B>,
    /// What is said is multiplied by its sigmoid.
    gate: Option<Linear<B>>,
    /// Norms of queries and keys.
    qk_norm: Option<(B::Tensor, B::Tensor)>,
    /// `[heads]`.
    sinks: Option<B::Tensor>,
    window: Option<usize>,
    rope: Option<usize>,
    /// Which of a sequence's keys and values are its own.
    slot: usize,
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
        let rotation =
            |magnitude: &dyn Fn(u32) -> f32| backend.rotation(positions, &rope.inv_freq, magnitude);
        let plain = rotation(&|_| rope.magnitude)?;
        // Up to the first step of its growth a query is what it is elsewhere.
        let growth = rope.query_growth.as_ref().filter(|growth| {
            let grown = |&position: &u32| growth.at(position as usize) != 1.0;
            positions.iter().any(grown)
        });
        let Some(growth) = growth else {
            return Ok(Self {
                queries: plain,
                keys: None,
            });
        };
        let grown = |position: u32| rope.magnitude * growth.at(position as usize);
        Ok(Self {
            queries: rotation(&grown)?,
            keys: Some(plain),
        })
    }
}

impl<B: Backend> Attention<B> {
    pub(super) fn load(
        loader: &Loader<'_, B>,
        name: &str,
        (window, rope): (Option<usize>, Option<usize>),
        slot: usize,
    ) -> Result<Self, ModelError> {
        let config = loader.config;
        let part = |part: &str| format!("{name}.{part}");
        let (hidden, bias) = (config.hidden_size, config.attention.qkv_bias);
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        let linear = |name: &str, rows| loader.linear(&part(name), rows, hidden, bias);
        let ([q, k, v], gate) = match (config.attention.fused, config.attention.gated) {
            (true, _) => {
                let parts = Rows::stacked([queries, keys, keys]);
                (loader.fused(&part("qkv_proj"), &parts, hidden, bias)?, None)
            }
            (false, true) => {
                let parts = Rows::interleaved(config.heads, [config.head_dim; 2]);
                let [q, gate] = loader.fused(&part("q_proj"), &parts, hidden, bias)?;
                (
                    [q, linear("k_proj", keys)?, linear("v_proj", keys)?],
                    Some(gate),
                )
            }
            (false, false) => (
                [
                    linear("q_proj", queries)?,
                    linear("k_proj", keys)?,
                    linear("v_proj", keys)?,
                ],
                None,
            ),
        };
        let qk_norms = |q_width, k_width| {
            let norm = |name: &str, width| loader.norm(&part(&format!("{name}.weight")), width);
            let [q_norm, k_norm] = config.names.qk_norms;
            Ok::<_, ModelError>(Some((norm(q_norm, q_width)?, norm(k_norm, k_width)?)))
        };
        Ok(Self {
            q,
            k,
            v,
            o: loader.linear(
                &part(config.names.output),
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
            gate,
            window,
            rope,
            slot,
        })
    }

    pub(super) fn forward(
        &self,
        backend: &B,
        config: &DecoderConfig,
        x: &B::Tensor,
        rotations: &[Rotations<B>],
        parts: &mut [Part<'_, B>],
    ) -> Result<B::Tensor, ModelError> {
        let [mut q, mut k, v] = Linear::forward_each(backend, x, [&self.q, &self.k, &self.v])?;
        let full = config.attention.qk_norm == QkNorm::Full;
        let norm = |x: &B::Tensor, norm| backend.rms_norm(x, norm, config.norm_eps);
        if let (true, Some((q_norm, k_norm))) = (full, &self.qk_norm) {
            (q, k) = (norm(&q, q_norm)?, norm(&k, k_norm)?);
        }
        let q = backend.split_heads(q, config.heads)?;
        let k = backend.split_heads(k, config.kv_heads)?;
        let v = backend.split_heads(v, config.kv_heads)?;
        let norms = self.qk_norm.as_ref().filter(|_| !full);
        let norms = norms.map(|(q_norm, k_norm)| [q_norm, k_norm]);
        let rotations = self.rope.and_then(|rope| rotations.get(rope));
        let rotations = rotations
            .map(|Rotations { queries, keys }| [queries, keys.as_ref().unwrap_or(queries)]);
        let [q, k] = backend.norm_rotate([q, k], norms, config.norm_eps, rotations)?;
        let settings = AttentionSettings {
            scale: config.attention.scale,
            softcap: config.attention.softcap,
            window: self.window,
            sinks: self.sinks.as_ref(),
        };
        let mut spans: ShortList<_> = parts
            .iter_mut()
            .map(|part| Span {
                tokens: part.tokens,
                kv: &mut part.carried.kv[self.slot],
            })
            .collect();
        let mut attended = backend.attention(&q, &k, &v, &mut spans, &settings)?;
        if let Some(gate) = &self.gate {
            attended = backend.sigmoid_gate(&attended, &gate.forward(backend, x)?)?;
        }
        self.o.forward(backend, &attended)
    }
}
