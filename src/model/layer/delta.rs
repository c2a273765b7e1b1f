//! A gated delta net (Yang et al. 2024, <https://arxiv.org/abs/2412.06464>) as
//! Qwen3-Next and Qwen3.5 have it: queries, keys and values go through a short
//! convolution, a state a head learns and forgets values by keys, and what it
//! says of the queries is normed and gated.

use half::{bf16, f16};

use super::{Part, state_spans};
use crate::backend::{Activation, Backend, DeltaGates, Dtype, RawTensor};
use crate::model::ModelError;
use crate::model::config::{DecoderConfig, DeltaConfig};
use crate::model::linear::{Linear, Loader};
use crate::model::rows::Rows;

/// Added to the sum of squares by which queries and keys are divided.
const LENGTH_EPS: f32 = 1e-6;

pub(super) struct DeltaNet<B: Backend> {
    config: DeltaConfig,
    /// Queries, keys and values, in the order of the convolution's channels.
    qkv: Linear<B>,
    /// The gates of what is said.
    z: Linear<B>,
    /// See [`DeltaGates`].
    b: Linear<B>,
    a: Linear<B>,
    a_log: B::Tensor,
    dt_bias: B::Tensor,
    /// `[channels, kernel]`.
    conv: B::Tensor,
    /// `[key_dim]` each: what makes a norm by the root of the mean square into
    /// one by the length, and into one whose products are scaled besides.
    k_length: B::Tensor,
    q_length: B::Tensor,
    /// `[value_dim]`.
    norm: B::Tensor,
    out: Linear<B>,
    /// Which of a sequence's states is its own.
    slot: usize,
}

impl<B: Backend> DeltaNet<B> {
    pub(super) fn load(
        loader: &Loader<'_, B>,
        name: &str,
        config: DeltaConfig,
        slot: usize,
    ) -> Result<Self, ModelError> {
        let part = |part: &str| format!("{name}.{part}");
        let hidden = loader.config.hidden_size;
        let heads = config.value_heads;
        let linear = |name: &str, rows, columns| loader.linear(&part(name), rows, columns, false);
        let [qkv, z, b, a] = match config.fused {
            true => {
                // Each key head's, and its share of the heads of values.
                let share = heads / config.key_heads;
                let (keys, values) = (config.key_dim, share * config.value_dim);
                let counts = [keys, keys, values, values];
                let [q, k, v, z] = Rows::interleaved(config.key_heads, counts);
                let parts = [q.then(k).then(v), z];
                let [qkv, z] = loader.fused(&part("in_proj_qkvz"), &parts, hidden, false)?;
                let parts = Rows::interleaved(config.key_heads, [share, share]);
                let [b, a] = loader.fused(&part("in_proj_ba"), &parts, hidden, false)?;
                [qkv, z, b, a]
            }
            false => [
                linear("in_proj_qkv", config.channels(), hidden)?,
                linear("in_proj_z", config.values(), hidden)?,
                linear("in_proj_b", heads, hidden)?,
                linear("in_proj_a", heads, hidden)?,
            ],
        };
        let norm = loader.stored_parameter(&part("norm.weight"), config.value_dim)?;
        let filled = |value: f32| {
            let raw = filled(norm.dtype, config.key_dim, value);
            loader.backend.parameter(&raw)
        };
        let root = (config.key_dim as f32).sqrt();
        Ok(Self {
            config,
            qkv,
            z,
            b,
            a,
            a_log: loader.parameter(&part("A_log"), heads)?,
            dt_bias: loader.parameter(&part("dt_bias"), heads)?,
            conv: loader.convolution(&part("conv1d"), config.channels(), config.kernel)?,
            k_length: filled(root.recip())?,
            q_length: filled((root * root).recip())?,
            norm: loader.backend.parameter(&norm)?,
            out: linear("out_proj", hidden, config.values())?,
            slot,
        })
    }

    pub(super) fn forward(
        &self,
        backend: &B,
        config: &DecoderConfig,
        x: &B::Tensor,
        parts: &mut [Part<'_, B>],
    ) -> Result<B::Tensor, ModelError> {
        let own = &self.config;
        let qkv = self.qkv.forward(backend, x)?;
        let convolved = |spans: &mut [_]| backend.causal_conv(&qkv, &self.conv, true, spans);
        let qkv = convolved(&mut state_spans(parts, self.slot, |state| &mut state.conv))?;
        let heads = |columns, heads| {
            let columns = backend.columns(&qkv, columns)?;
            backend.split_heads(columns, heads)
        };
        let keys = own.keys();
        let q = heads(0..keys, own.key_heads)?;
        let k = heads(keys..2 * keys, own.key_heads)?;
        let v = heads(2 * keys..own.channels(), own.value_heads)?;
        let eps = LENGTH_EPS / own.key_dim as f32;
        let q = backend.rms_norm(&q, &self.q_length, eps)?;
        let k = backend.rms_norm(&k, &self.k_length, eps)?;

        let gates = DeltaGates {
            a: &self.a.forward(backend, x)?,
            b: &self.b.forward(backend, x)?,
            a_log: &self.a_log,
            dt_bias: &self.dt_bias,
        };
        let spans = &mut state_spans(parts, self.slot, |state| &mut state.delta);
        let said = backend.gated_delta(&q, &k, &v, &gates, spans)?;
        let said = backend.rms_norm(&said, &self.norm, config.norm_eps)?;
        let said = backend.merge_heads(said)?;
        let z = self.z.forward(backend, x)?;
        let said = backend.gated(&z, &said, Activation::Silu)?;
        self.out.forward(backend, &said)
    }
}

/// `[size]` times `value`, in the type that other weights are stored in.
fn filled(dtype: Dtype, size: usize, value: f32) -> RawTensor {
    let (dtype, bytes) = match dtype {
        Dtype::F16 => (dtype, f16::from_f32(value).to_le_bytes().repeat(size)),
        Dtype::Bf16 => (dtype, bf16::from_f32(value).to_le_bytes().repeat(size)),
        _ => (Dtype::F32, value.to_le_bytes().repeat(size)),
    };
    RawTensor {
        dtype,
        shape: vec![size],
        bytes: bytes.into(),
    }
}
