//! A step of a model: what goes into it, and what comes of it.

use std::ops::Deref;
use std::rc::Rc;

use super::{Draw, ModelError, SequenceId, ShortList};

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its next tokens.
    pub tokens: Tokens<'a>,
    /// How the token after the last of them is drawn, if one is wanted.
    pub draw: Option<Draw>,
}

/// The next tokens of a sequence.
#[derive(Debug, Clone, Copy)]
pub enum Tokens<'a> {
    /// These, at least one.
    Given(&'a [u32]),
    /// The one that the sequence's last step drew, which need not be known
    /// yet.
    Drawn,
}

impl Tokens<'_> {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Given(tokens) => tokens.len(),
            Self::Drawn => 1,
        }
    }
}

/// A step that was set off, for whoever reads it. Dropping it forgets its
/// results; its sequences have their tokens all the same.
pub struct Submitted(Rc<dyn Step>);

impl Submitted {
    /// Hands a step out.
    pub fn new(step: Rc<dyn Step>) -> Self {
        Self(step)
    }
}

impl Deref for Submitted {
    type Target = dyn Step;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        self.0.forget();
    }
}

/// What can be read of a step.
pub trait Step {
    /// Waits until it is evaluated.
    ///
    /// # Errors
    /// If the backend failed.
    fn wait(&self) -> Result<(), ModelError>;

    /// The tokens drawn, one for each input that asked, in the order of the
    /// batch; `None` for a sequence whose logits are not numbers, which says
    /// nothing of the others. Waits for them.
    ///
    /// # Errors
    /// If the backend failed.
    fn tokens(&self) -> Result<ShortList<Option<u32>>, ModelError>;

    /// The logits they were drawn from, in the same order. Waits for them.
    ///
    /// # Errors
    /// If the backend failed.
    fn logits(&self) -> Result<Logits, ModelError>;

    /// Those of one of the tokens, by its place among them. Waits for them.
    ///
    /// # Errors
    /// If there is no such token or the backend failed.
    fn row(&self, place: usize) -> Result<Vec<f32>, ModelError>;

    /// Frees what nobody reads any more. [`Submitted`] says so.
    fn forget(&self);
}

/// Rows of logits, one for each input of a step that asked for a token.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    pub(super) values: Vec<f32>,
    pub(super) vocabulary_size: usize,
}

impl Logits {
    /// The rows, each as long as the vocabulary.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocabulary_size)
    }
}
