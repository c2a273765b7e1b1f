//! A sequence: its keys and values, what it carries on beside them, and the
//! places where it can be forked. Knows nothing of how they are computed.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::ModelError;
use super::config::{DecoderConfig, OperatorConfig};
use super::evaluation::Evaluation;
use crate::backend::{Backend, RawKv, RawTensor};

/// One sequence: how many tokens it has, and what it carries on.
pub(super) struct Sequence<B: Backend> {
    pub(super) len: usize,
    pub(super) carried: Carried<B>,
    /// What its last step drew, if it drew: a place among that step's tokens.
    pub(super) drawn: Option<(Rc<Evaluation<B>>, usize)>,
    /// The states it had, by how many tokens it had then.
    snapshots: BTreeMap<usize, Rc<[State<B>]>>,
}

/// What a sequence carries on from step to step.
pub(super) struct Carried<B: Backend> {
    /// Keys and values, one for each layer of attention.
    pub(super) kv: Vec<B::Kv>,
    /// One for each of the other layers.
    pub(super) states: Vec<State<B>>,
}

/// What a layer without keys and values carries on, `None` before the first
/// token. The tensors are replaced and never written to, so that a copy of the
/// handles stays what it is.
pub(super) struct State<B: Backend> {
    /// The last rows that the convolution saw.
    pub(super) conv: Option<B::Tensor>,
    /// The state of a delta net.
    pub(super) delta: Option<B::Tensor>,
}

impl<B: Backend> Clone for State<B> {
    fn clone(&self) -> Self {
        Self {
            conv: self.conv.clone(),
            delta: self.delta.clone(),
        }
    }
}

impl<B: Backend> State<B> {
    const NONE: Self = Self {
        conv: None,
        delta: None,
    };
}

fn refused(reason: String) -> ModelError {
    ModelError::Input(reason)
}

impl<B: Backend> Sequence<B> {
    /// One without tokens.
    pub(super) fn new(backend: &B, config: &DecoderConfig) -> Result<Self, ModelError> {
        let (mut kv, mut states) = (Vec::new(), Vec::new());
        for layer in &config.layers {
            match layer.operator {
                OperatorConfig::Attention { .. } => {
                    kv.push(backend.kv(config.kv_heads, config.head_dim)?);
                }
                OperatorConfig::Delta(_) | OperatorConfig::Conv(_) => states.push(State::NONE),
            }
        }
        Ok(Self::of(0, Carried { kv, states }))
    }

    fn of(len: usize, carried: Carried<B>) -> Self {
        Self {
            len,
            carried,
            drawn: None,
            snapshots: BTreeMap::new(),
        }
    }

    /// Makes it possible to fork it here though it goes on.
    pub(super) fn snapshot(&mut self) {
        if !self.carried.states.is_empty() {
            let states = self.carried.states.as_slice().into();
            self.snapshots.insert(self.len, states);
        }
    }

    /// A copy of its first `len` tokens, for which no token was drawn.
    pub(super) fn fork(&self, backend: &B, len: usize) -> Result<Self, ModelError> {
        if len > self.len {
            return Err(refused(format!("it has {} tokens, not {len}", self.len)));
        }
        let states = match self.snapshots.get(&len) {
            _ if len == self.len => self.carried.states.clone(),
            Some(snapshot) => snapshot.to_vec(),
            None if self.carried.states.is_empty() => Vec::new(),
            None => {
                return Err(refused(format!(
                    "it has {} tokens and no snapshot at {len}, and its states cannot be cut",
                    self.len
                )));
            }
        };
        let copies = self.carried.kv.iter().map(|kv| backend.fork_kv(kv, len));
        let kv = copies.collect::<Result<_, _>>()?;
        let kept = self.snapshots.range(..=len);
        Ok(Self {
            snapshots: kept
                .map(|(&len, states)| (len, Rc::clone(states)))
                .collect(),
            ..Self::of(len, Carried { kv, states })
        })
    }

    /// The first `len` tokens' keys and values in the layer of attention
    /// `layer`.
    pub(super) fn export(
        &self,
        backend: &B,
        layer: usize,
        len: usize,
    ) -> Result<RawKv, ModelError> {
        if !self.carried.states.is_empty() {
            return Err(stateful());
        }
        if len == 0 || len > self.len {
            return Err(refused(format!("it has {} tokens, not {len}", self.len)));
        }
        match self.carried.kv.get(layer) {
            Some(kv) => Ok(backend.read_kv(kv, len)?),
            None => Err(refused(format!("the model has no layer {layer}"))),
        }
    }

    /// One of `len` tokens, whose keys and values are `layers`.
    pub(super) fn import(
        backend: &B,
        config: &DecoderConfig,
        len: usize,
        layers: &mut dyn Iterator<Item = RawKv>,
    ) -> Result<Self, ModelError> {
        let mut sequence = Self::new(backend, config)?;
        if !sequence.carried.states.is_empty() {
            return Err(stateful());
        }
        for (layer, kv) in sequence.carried.kv.iter_mut().enumerate() {
            let refused = |what: &str| {
                let reason = format!("the keys and values of layer {layer} {what}");
                Err(refused(reason))
            };
            let Some(raw) = layers.next() else {
                return refused("are missing");
            };
            let fits = |raw: &RawTensor| raw.shape == [len, config.kv_heads, config.head_dim];
            if len == 0 || !fits(&raw.keys) || !fits(&raw.values) {
                return refused("are of another shape");
            }
            backend.write_kv(kv, &raw)?;
        }
        sequence.len = len;
        Ok(sequence)
    }
}

fn stateful() -> ModelError {
    refused(
        "the model's sequences carry states beside their keys and values, which cannot be \
         written or read"
            .to_owned(),
    )
}
