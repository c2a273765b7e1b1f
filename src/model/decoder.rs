//! The decoder, written once over [`Backend`]: embedding, layers of attention
//! and MLP over a ragged batch, final norm, output projection.
//!
//! Knows nothing of requests, of sampling, or of where a batch comes from.

use std::collections::BTreeMap;

use super::config::DecoderConfig;
use super::files::ModelFiles;
use super::rope::inverse_frequencies;
use super::weights::Weights;
use super::{Input, Logits, Model, ModelError, ModelInfo, SequenceId};
use crate::backend::{Backend, Span};
use crate::progress::Progress;

/// A model on a backend, with the sequences it is working on.
pub(super) struct Decoder<B: Backend> {
    backend: B,
    config: DecoderConfig,
    info: ModelInfo,
    embedding: B::Matrix,
    layers: Vec<Layer<B>>,
    norm: B::Tensor,
    /// `None` where it is the embedding.
    output: Option<B::Matrix>,
    inv_freq: Vec<f32>,
    sequences: BTreeMap<SequenceId, Sequence<B>>,
    next_sequence: u64,
}

/// One sequence: how many tokens it has, and their keys and values by layer.
struct Sequence<B: Backend> {
    len: usize,
    kv: Vec<B::Kv>,
}

struct Layer<B: Backend> {
    input_norm: B::Tensor,
    q: B::Matrix,
    k: B::Matrix,
    v: B::Matrix,
    o: B::Matrix,
    /// Norms of queries and keys by head, where the family has them.
    qk_norm: Option<(B::Tensor, B::Tensor)>,
    post_norm: B::Tensor,
    gate: B::Matrix,
    up: B::Matrix,
    down: B::Matrix,
}

impl<B: Backend> Decoder<B> {
    pub(super) fn load(
        backend: B,
        config: DecoderConfig,
        files: &ModelFiles,
        progress: &dyn Progress,
    ) -> Result<Self, ModelError> {
        let weights = Weights::open(files)?;
        progress.begin(weights.total_bytes(), weights.files());
        let matrix = |prefix: &str, rows, columns| {
            let stored = weights.matrix(prefix, rows, columns, config.quantization)?;
            Ok::<_, ModelError>(backend.matrix(stored)?)
        };
        let (hidden, vocabulary) = (config.hidden_size, config.vocabulary_size);
        let embedding = matrix("model.embed_tokens", vocabulary, hidden)?;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            layers.push(Layer::load(&backend, &config, &weights, index)?);
            progress.advance("", weights.take_loaded());
        }
        let output = match config.tied_embeddings {
            true => None,
            false => Some(matrix("lm_head", vocabulary, hidden)?),
        };
        let norm = backend.parameter(&weights.parameter("model.norm.weight", &[hidden])?)?;
        progress.advance("", weights.take_loaded());
        progress.done();
        Ok(Self {
            info: info(&backend, &config),
            inv_freq: inverse_frequencies(config.rope_theta, config.head_dim),
            backend,
            config,
            embedding,
            layers,
            norm,
            output,
            sequences: BTreeMap::new(),
            next_sequence: 0,
        })
    }

    /// Refuses a step that cannot be evaluated, before anything is changed.
    fn check(&self, batch: &[Input<'_>]) -> Result<(), ModelError> {
        let refused = |reason: String| Err(ModelError::Input(reason));
        for (index, input) in batch.iter().enumerate() {
            let id = input.sequence;
            if !self.sequences.contains_key(&id) {
                return refused(format!("there is no sequence {}", id.0));
            }
            if batch[..index].iter().any(|other| other.sequence == id) {
                return refused(format!("sequence {} is twice in a step", id.0));
            }
            if input.tokens.is_empty() {
                return refused(format!("sequence {} has no tokens in the step", id.0));
            }
            if let Some(token) = input
                .tokens
                .iter()
                .find(|&&token| token as usize >= self.config.vocabulary_size)
            {
                return refused(format!("the model has no token {token}"));
            }
        }
        Ok(())
    }

    /// The hidden states `[T, hidden]` after the last layer; the sequences'
    /// keys and values are appended.
    fn hidden_states(
        &mut self,
        batch: &[Input<'_>],
        sequences: &mut [Sequence<B>],
    ) -> Result<B::Tensor, ModelError> {
        let tokens: Vec<u32> = batch
            .iter()
            .flat_map(|input| input.tokens)
            .copied()
            .collect();
        let positions: Vec<u32> = batch
            .iter()
            .zip(sequences.iter())
            .flat_map(|(input, sequence)| {
                (sequence.len..sequence.len + input.tokens.len()).map(|position| position as u32)
            })
            .collect();
        let rotation = self.backend.rotation(&positions, &self.inv_freq)?;
        let mut x = self.backend.embed(&self.embedding, &tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let mut spans: Vec<_> = batch
                .iter()
                .zip(sequences.iter_mut())
                .map(|(input, sequence)| Span {
                    tokens: input.tokens.len(),
                    kv: &mut sequence.kv[index],
                })
                .collect();
            x = layer.forward(&self.backend, &self.config, &x, &rotation, &mut spans)?;
        }
        for (input, sequence) in batch.iter().zip(sequences) {
            sequence.len += input.tokens.len();
        }
        Ok(x)
    }

    /// Logits after the last token of each input that asks for them.
    fn logits(&self, batch: &[Input<'_>], x: &B::Tensor) -> Result<Logits, ModelError> {
        let mut end = 0;
        let rows: Vec<u32> = batch
            .iter()
            .filter_map(|input| {
                end += input.tokens.len();
                input.logits.then_some(end as u32 - 1)
            })
            .collect();
        let values = if rows.is_empty() {
            Vec::new()
        } else {
            let x = self.backend.select_rows(x, &rows)?;
            let x = self
                .backend
                .rms_norm(&x, &self.norm, self.config.norm_eps)?;
            let output = self.output.as_ref().unwrap_or(&self.embedding);
            self.backend.read(&self.backend.project(&x, output)?)?
        };
        Ok(Logits {
            values,
            vocabulary_size: self.config.vocabulary_size,
        })
    }
}

impl<B: Backend> Model for Decoder<B> {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn open(&mut self) -> Result<SequenceId, ModelError> {
        let kv = (0..self.config.layers)
            .map(|_| self.backend.kv(self.config.kv_heads, self.config.head_dim))
            .collect::<Result<_, _>>()?;
        let id = SequenceId(self.next_sequence);
        self.next_sequence += 1;
        self.sequences.insert(id, Sequence { len: 0, kv });
        Ok(id)
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence);
    }

    fn forward(&mut self, batch: &[Input<'_>]) -> Result<Logits, ModelError> {
        self.check(batch)?;
        // Taken out while they are worked on, so that an error cannot leave
        // half-extended ones behind; `check` has seen that each is there.
        let mut sequences: Vec<Sequence<B>> = batch
            .iter()
            .filter_map(|input| self.sequences.remove(&input.sequence))
            .collect();
        let x = self.hidden_states(batch, &mut sequences)?;
        let logits = self.logits(batch, &x)?;
        self.sequences
            .extend(batch.iter().map(|input| input.sequence).zip(sequences));
        Ok(logits)
    }
}

impl<B: Backend> Layer<B> {
    fn load(
        backend: &B,
        config: &DecoderConfig,
        weights: &Weights,
        index: usize,
    ) -> Result<Self, ModelError> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let norm = |part: &str, size| {
            let stored = weights.parameter(&name(part), &[size])?;
            Ok::<_, ModelError>(backend.parameter(&stored)?)
        };
        let matrix = |part: &str, rows, columns| {
            let stored = weights.matrix(&name(part), rows, columns, config.quantization)?;
            Ok::<_, ModelError>(backend.matrix(stored)?)
        };
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        let qk_norm = match config.qk_norm {
            false => None,
            true => Some((
                norm("self_attn.q_norm.weight", config.head_dim)?,
                norm("self_attn.k_norm.weight", config.head_dim)?,
            )),
        };
        Ok(Self {
            input_norm: norm("input_layernorm.weight", hidden)?,
            q: matrix("self_attn.q_proj", queries, hidden)?,
            k: matrix("self_attn.k_proj", keys, hidden)?,
            v: matrix("self_attn.v_proj", keys, hidden)?,
            o: matrix("self_attn.o_proj", hidden, queries)?,
            qk_norm,
            post_norm: norm("post_attention_layernorm.weight", hidden)?,
            gate: matrix("mlp.gate_proj", intermediate, hidden)?,
            up: matrix("mlp.up_proj", intermediate, hidden)?,
            down: matrix("mlp.down_proj", hidden, intermediate)?,
        })
    }

    fn forward(
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
        let gate = backend.project(&normed, &self.gate)?;
        let up = backend.project(&normed, &self.up)?;
        let inner = backend.swiglu(&gate, &up)?;
        Ok(backend.add(&x, &backend.project(&inner, &self.down)?)?)
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
        let scale = (config.head_dim as f32).powf(-0.5);
        let attended = backend.attention(&q, &k, &v, spans, scale)?;
        Ok(backend.project(&attended, &self.o)?)
    }
}

fn info<B: Backend>(backend: &B, config: &DecoderConfig) -> ModelInfo {
    let attention = config.hidden_size * config.head_dim * 2 * (config.heads + config.kv_heads);
    let mlp = 3 * config.hidden_size * config.intermediate_size;
    let norms = 2 * config.hidden_size
        + if config.qk_norm {
            2 * config.head_dim
        } else {
            0
        };
    let tables = if config.tied_embeddings { 1 } else { 2 };
    let parameters = config.layers * (attention + mlp + norms)
        + tables * config.vocabulary_size * config.hidden_size
        + config.hidden_size;
    ModelInfo {
        family: config.family.clone(),
        backend: backend.describe(),
        parameters: parameters as u64,
        vocabulary_size: config.vocabulary_size,
        context_length: config.context_length,
        kv_bytes_per_token: 2
            * config.layers
            * config.kv_heads
            * config.head_dim
            * backend.kv_element_size(),
    }
}
