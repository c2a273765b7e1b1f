//! The decoder, written once over [`Backend`]: embedding, layers over a ragged
//! batch, final norm, output projection.
//!
//! Knows nothing of requests, of why a token is drawn as it is, or of where a
//! batch comes from.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::adapter::Adapter;
use super::config::DecoderConfig;
use super::evaluation::{Evaluation, Evaluations, Output};
use super::files::ModelFiles;
use super::layer::{Layer, Part, Residual, Rotations};
use super::linear::{Linear, Loader};
use super::quantize::Quantizer;
use super::sequence::Sequence;
use super::weights::Weights;
use super::{
    Input, KvLayout, Model, ModelError, ModelInfo, SequenceId, ShortList, Submitted, Tokens,
};
use crate::backend::{Backend, Draw, MemoryUse, RawKv, TokenSource};
use crate::progress::Progress;

/// A model on a backend, with the sequences it is working on.
pub(super) struct Decoder<B: Backend> {
    config: DecoderConfig,
    info: ModelInfo,
    embedding: B::Matrix,
    layers: Vec<Layer<B>>,
    norm: B::Tensor,
    /// `None` where it is the embedding.
    output: Option<Linear<B>>,
    /// `None` while a step works on it, and when that came to nothing.
    sequences: BTreeMap<SequenceId, Option<Sequence<B>>>,
    next_sequence: u64,
    evaluations: Evaluations<B>,
    /// Those of a step's tokens, one sequence's after the other's.
    positions: Vec<u32>,
    /// Shared with the steps that are not over. The last field: everything it
    /// made is gone when it goes.
    backend: Rc<B>,
}

impl<B: Backend> Decoder<B> {
    pub(super) fn load(
        backend: B,
        config: DecoderConfig,
        files: &ModelFiles,
        progress: &dyn Progress,
    ) -> Result<Self, ModelError> {
        let weights = Weights::open(files)?;
        let adapter = match files.adapter() {
            Some(files) => Some(Adapter::open(&files)?),
            None => None,
        };
        let quantizer = files.quantize().map(|bits| Quantizer::new(bits, &config));
        progress.begin(weights.total_bytes(), weights.files());
        let loader = Loader {
            backend: &backend,
            weights: &weights,
            config: &config,
            adapter: adapter.as_ref(),
            quantizer: quantizer.as_ref(),
        };
        let (hidden, vocabulary) = (config.hidden_size, config.vocabulary_size);
        let embedding = loader.matrix("model.embed_tokens", vocabulary, hidden)?;
        let mut layers = Vec::with_capacity(config.layers.len());
        for index in 0..config.layers.len() {
            layers.push(Layer::load(&loader, index)?);
            progress.advance("", weights.take_loaded());
        }
        let tied = match config.tied_embeddings {
            Some(tied) => tied,
            None => !weights.has(&format!("{}lm_head.weight", config.prefix)),
        };
        let output = match tied {
            true => None,
            false => Some(loader.linear("lm_head", vocabulary, hidden, false)?),
        };
        let norm = loader.last_norm()?;
        if let Some(adapter) = &adapter {
            adapter.check()?;
        }
        progress.advance("", weights.take_loaded());
        progress.done();
        if let Some(quantizer) = &quantizer {
            quantizer.report();
        }
        backend.loaded()?;
        Ok(Self {
            info: info(&backend, &config, &norm, weights.parameters()),
            config,
            embedding,
            layers,
            norm,
            output,
            sequences: BTreeMap::new(),
            next_sequence: 0,
            evaluations: Evaluations::new(),
            positions: Vec::new(),
            backend: Rc::new(backend),
        })
    }

    /// Takes in a sequence.
    fn begin(&mut self, sequence: Sequence<B>) -> SequenceId {
        let id = SequenceId(self.next_sequence);
        self.next_sequence += 1;
        self.sequences.insert(id, Some(sequence));
        id
    }

    fn sequence(&self, id: SequenceId) -> Result<&Sequence<B>, ModelError> {
        let found = self.sequences.get(&id).and_then(Option::as_ref);
        found.ok_or_else(|| unknown(id))
    }

    /// What a sequence is made of.
    #[cfg(test)]
    pub(super) fn parts(&self, id: SequenceId) -> Result<(&B, &Sequence<B>), ModelError> {
        Ok((&*self.backend, self.sequence(id)?))
    }

    /// Refuses a step that cannot be evaluated, before anything is changed.
    fn check(&self, batch: &[Input<'_>]) -> Result<(), ModelError> {
        let refused = |reason: String| Err(ModelError::Input(reason));
        for (index, input) in batch.iter().enumerate() {
            let id = input.sequence;
            let sequence = self.sequence(id)?;
            if batch[..index].iter().any(|other| other.sequence == id) {
                return refused(format!("sequence {} is twice in a step", id.0));
            }
            match input.tokens {
                Tokens::Drawn if sequence.drawn.is_none() => {
                    return refused(format!("no token was drawn for sequence {}", id.0));
                }
                Tokens::Given([]) => {
                    return refused(format!("sequence {} has no tokens in the step", id.0));
                }
                Tokens::Drawn => {}
                Tokens::Given(tokens) => {
                    let unknown = |&&token: &&u32| token as usize >= self.config.vocabulary_size;
                    if let Some(token) = tokens.iter().find(unknown) {
                        return refused(format!("the model has no token {token}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// The embeddings of the step's tokens, `[T, hidden]`.
    fn embedded(
        &self,
        batch: &[Input<'_>],
        sequences: &[Sequence<B>],
    ) -> Result<B::Tensor, ModelError> {
        let sources: ShortList<_> = batch
            .iter()
            .zip(sequences)
            .filter_map(|(input, sequence)| match input.tokens {
                Tokens::Given(tokens) => Some(TokenSource::Given(tokens)),
                // `check` has seen that something was drawn.
                Tokens::Drawn => {
                    let (step, place) = sequence.drawn.as_ref()?;
                    Some(TokenSource::Drawn(step.tokens.as_ref()?, *place))
                }
            })
            .collect();
        let x = self.backend.embed(&self.embedding, &sources)?;
        match self.config.embedding_scale {
            1.0 => Ok(x),
            scale => Ok(self.backend.scale(x, scale)?),
        }
    }

    /// The hidden states `[T, hidden]` after the last layer; the sequences
    /// carry on what they are to.
    fn hidden_states(
        &mut self,
        batch: &[Input<'_>],
        sequences: &mut [Sequence<B>],
    ) -> Result<B::Tensor, ModelError> {
        self.positions.clear();
        for (input, sequence) in batch.iter().zip(sequences.iter()) {
            let positions = sequence.len..sequence.len + input.tokens.count();
            self.positions
                .extend(positions.map(|position| position as u32));
        }
        let rotations = self
            .config
            .ropes
            .iter()
            .map(|rope| Rotations::new(&*self.backend, rope, &self.positions))
            .collect::<Result<ShortList<_>, _>>()?;
        let embedded = self.embedded(batch, sequences)?;
        let mut parts: ShortList<_> = batch
            .iter()
            .zip(sequences.iter_mut())
            .map(|(input, sequence)| Part {
                tokens: input.tokens.count(),
                carried: &mut sequence.carried,
            })
            .collect();
        let mut stream = Residual::new(embedded);
        for layer in &self.layers {
            stream = layer.forward(&self.backend, &self.config, stream, &rotations, &mut parts)?;
        }
        drop(parts);
        for (input, sequence) in batch.iter().zip(sequences) {
            sequence.len += input.tokens.count();
            sequence.drawn = None;
        }
        stream.sum(&self.backend)
    }

    /// Logits and tokens after the last token of each input that asks.
    fn evaluation(&self, batch: &[Input<'_>], x: B::Tensor) -> Result<Evaluation<B>, ModelError> {
        let evaluation = |output, tokens| Evaluation {
            backend: Rc::clone(&self.backend),
            vocabulary_size: self.config.vocabulary_size,
            output: RefCell::new(Some(output)),
            tokens,
        };
        let mut end = 0;
        let (rows, draws): (ShortList<u32>, ShortList<Draw>) = batch
            .iter()
            .filter_map(|input| {
                end += input.tokens.count();
                Some((end as u32 - 1, input.draw?))
            })
            .unzip();
        if rows.is_empty() {
            self.backend.start(&[&x], &[])?;
            return Ok(evaluation(Output::Hidden(x), None));
        }
        let x = self.backend.select_rows(&x, &rows)?;
        let x = self
            .backend
            .rms_norm(&x, &self.norm, self.config.norm_eps)?;
        let mut logits = match &self.output {
            Some(output) => output.forward(&self.backend, &x)?,
            None => self.backend.project(&x, &self.embedding)?,
        };
        if self.config.logits_scale != 1.0 {
            logits = self.backend.scale(logits, self.config.logits_scale)?;
        }
        if let Some(cap) = self.config.logits_softcap {
            logits = self.backend.softcap(logits, cap)?;
        }
        let tokens = self.backend.sample(&logits, &draws)?;
        self.backend.start(&[&logits], &[&tokens])?;
        let count = draws.len();
        Ok(evaluation(Output::Rows { logits, count }, Some(tokens)))
    }
}

impl<B: Backend> Model for Decoder<B> {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn memory(&self) -> Option<MemoryUse> {
        self.backend.memory()
    }

    fn open(&mut self) -> Result<SequenceId, ModelError> {
        let sequence = Sequence::new(&*self.backend, &self.config)?;
        Ok(self.begin(sequence))
    }

    fn fork(&mut self, sequence: SequenceId, len: usize) -> Result<SequenceId, ModelError> {
        let original = self.sequence(sequence)?;
        let fork = original.fork(&*self.backend, len);
        let fork = fork.map_err(|error| of_sequence(sequence, error))?;
        Ok(self.begin(fork))
    }

    fn snapshot(&mut self, sequence: SequenceId) -> Result<(), ModelError> {
        let found = self.sequences.get_mut(&sequence).and_then(Option::as_mut);
        found.ok_or_else(|| unknown(sequence))?.snapshot();
        Ok(())
    }

    fn export(&self, sequence: SequenceId, layer: usize, len: usize) -> Result<RawKv, ModelError> {
        let found = self.sequence(sequence)?;
        let kv = found.export(&*self.backend, layer, len);
        kv.map_err(|error| of_sequence(sequence, error))
    }

    fn import(
        &mut self,
        len: usize,
        layers: &mut dyn Iterator<Item = RawKv>,
    ) -> Result<SequenceId, ModelError> {
        let sequence = Sequence::import(&*self.backend, &self.config, len, layers)?;
        Ok(self.begin(sequence))
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence);
    }

    fn submit(&mut self, batch: &[Input<'_>]) -> Result<Submitted, ModelError> {
        self.check(batch)?;
        // Taken out while they are worked on, so that an error cannot leave
        // half-extended ones behind; `check` has seen that each is there.
        let mut sequences: ShortList<Sequence<B>> = batch
            .iter()
            .filter_map(|input| self.sequences.get_mut(&input.sequence)?.take())
            .collect();
        let hidden = self.hidden_states(batch, &mut sequences)?;
        let evaluation = self.evaluation(batch, hidden)?;
        let step = self.evaluations.put(evaluation);
        let drawing = batch.iter().zip(&mut sequences);
        let drawing = drawing.filter(|(input, _)| input.draw.is_some());
        for (place, (_, sequence)) in drawing.enumerate() {
            sequence.drawn = Some((Rc::clone(&step), place));
        }
        for (input, sequence) in batch.iter().zip(sequences) {
            if let Some(place) = self.sequences.get_mut(&input.sequence) {
                *place = Some(sequence);
            }
        }
        Ok(Submitted::new(step))
    }
}

fn unknown(id: SequenceId) -> ModelError {
    ModelError::Input(format!("there is no sequence {}", id.0))
}

/// Says which sequence cannot be worked on as it was asked for.
fn of_sequence(id: SequenceId, error: ModelError) -> ModelError {
    match error {
        ModelError::Input(reason) => ModelError::Input(format!("sequence {}: {reason}", id.0)),
        other => other,
    }
}

pub(super) fn info<B: Backend>(
    backend: &B,
    config: &DecoderConfig,
    activation: &B::Tensor,
    parameters: u64,
) -> ModelInfo {
    let kv = KvLayout {
        backend: backend.name(),
        layers: config.kv_layers(),
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        dtype: backend.kv_type(activation),
    };
    ModelInfo {
        family: config.family.clone(),
        backend: backend.describe(),
        threads: backend.threads(),
        parameters,
        vocabulary_size: config.vocabulary_size,
        context_length: config.context_length,
        kv_bytes_per_token: kv.bytes_per_token(),
        state_bytes: config.state_bytes(backend.element_type(activation).size()),
        kv,
        overlaps: B::OVERLAPS,
    }
}
