//! What a step has come to, for whoever reads it and for the sequences that go
//! on from what it drew. Knows nothing of how it was computed.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Logits, ModelError, ShortList, Step};
use crate::backend::Backend;

/// What a step gives.
pub(super) struct Evaluation<B: Backend> {
    pub(super) backend: Rc<B>,
    pub(super) vocabulary_size: usize,
    /// `None` once nobody reads it any more: the sequences only need
    /// `tokens`.
    pub(super) output: RefCell<Option<Output<B>>>,
    /// One for each input that asked; `None` if no input did.
    pub(super) tokens: Option<B::Tokens>,
}

/// What there is to wait for.
pub(super) enum Output<B: Backend> {
    /// A row for each input that asked for one.
    Rows {
        /// `[n, vocabulary]`.
        logits: B::Tensor,
        /// `n`.
        count: usize,
    },
    /// No input asked: the hidden states `[T, hidden]`.
    Hidden(B::Tensor),
}

/// The evaluations there were, so that a step need not ask for memory for its
/// own: as many as are in use at once.
pub(super) struct Evaluations<B: Backend>(Vec<Rc<Evaluation<B>>>);

impl<B: Backend> Evaluations<B> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// `evaluation`, in the place of one that nobody has any more.
    pub(super) fn put(&mut self, evaluation: Evaluation<B>) -> Rc<Evaluation<B>> {
        for kept in &mut self.0 {
            if let Some(place) = Rc::get_mut(kept) {
                *place = evaluation;
                return Rc::clone(kept);
            }
        }
        let made = Rc::new(evaluation);
        self.0.push(Rc::clone(&made));
        made
    }
}

impl<B: Backend> Step for Evaluation<B> {
    fn wait(&self) -> Result<(), ModelError> {
        match &*self.output.borrow() {
            Some(Output::Rows { logits: last, .. } | Output::Hidden(last)) => {
                Ok(self.backend.wait(last)?)
            }
            None => Ok(()),
        }
    }

    fn tokens(&self) -> Result<ShortList<Option<u32>>, ModelError> {
        match &self.tokens {
            Some(tokens) => Ok(self.backend.read_tokens(tokens)?),
            None => Ok(ShortList::new()),
        }
    }

    fn logits(&self) -> Result<Logits, ModelError> {
        let values = match &*self.output.borrow() {
            Some(Output::Rows { logits, .. }) => self.backend.read(logits)?,
            Some(Output::Hidden(_)) | None => Vec::new(),
        };
        Ok(Logits {
            values,
            vocabulary_size: self.vocabulary_size,
        })
    }

    fn row(&self, place: usize) -> Result<Vec<f32>, ModelError> {
        match &*self.output.borrow() {
            Some(Output::Rows { logits, count }) if place < *count => {
                let row = self.backend.select_rows(logits, &[place as u32])?;
                Ok(self.backend.read(&row)?)
            }
            _ => Err(ModelError::Input(format!("the step drew no token {place}"))),
        }
    }

    fn forget(&self) {
        self.output.take();
    }
}
