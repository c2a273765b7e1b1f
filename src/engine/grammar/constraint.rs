//! The state of one generation: free text, or somewhere inside a call.
//!
//! Knows nothing of schemas and of how tokens are sampled.

use llguidance::toktrie::SimpleVob;

use super::arguments::{Arguments, Fit};
use super::choice::{Choice, Chosen};
use super::compile::CallGrammar;
use super::format::After;
use super::free_text::FreeText;
use super::head::{Head, Step};
use super::outline::Ending;

/// Binds one generation to a [`CallGrammar`].
///
/// For each position: sample; if [`accepts`](Self::accepts) refuses the token,
/// sample again among the [`mask`](Self::mask); then [`advance`](Self::advance).
pub struct Constraint {
    grammar: CallGrammar,
    state: State,
    /// The token that was accepted last and is not advanced over yet, so that
    /// it is not looked at twice.
    accepted: Option<u32>,
    /// What went wrong in [`accepts`](Self::accepts), for `advance` to say.
    failed: Option<String>,
    mask: Mask,
}

enum State {
    Free(FreeText),
    Head(Head),
    Arguments { tool: usize, call: Box<Arguments> },
    Behind(Behind),
}

/// Behind a call, where nothing follows but the end of the turn or, if
/// `texts`, one of the texts that may.
#[derive(Debug, Clone, Copy)]
struct Behind {
    texts: bool,
    choice: Choice,
}

/// The tokens that may come next, a bit each.
#[derive(Debug, Clone, Default)]
pub struct Mask {
    bits: Vec<u32>,
}

/// Why a token cannot be taken, or not be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The token was not accepted. Nothing has changed.
    #[error("the grammar does not allow the token {0} here")]
    Refused(u32),
    /// The call has become too much for its grammar. The rest of it is free,
    /// and the next call is bound again.
    #[error("the rest of the tool call is not bound to its grammar: {0}")]
    Released(String),
}

impl Mask {
    /// Whether `token` may come next.
    pub fn allows(&self, token: u32) -> bool {
        let word = self.bits.get(token as usize / 32);
        word.is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// The bits, 32 tokens a word, the lowest first.
    pub fn words(&self) -> &[u32] {
        &self.bits
    }

    /// The tokens that may come next, in ascending order.
    pub fn tokens(&self) -> impl Iterator<Item = u32> + '_ {
        let words = self.bits.iter().zip((0u32..).step_by(32));
        words.flat_map(|(word, first)| {
            (0..32)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| first + bit)
        })
    }

    fn fill(&mut self, size: usize, mut allows: impl FnMut(u32) -> bool) {
        self.bits.clear();
        self.bits.resize(size.div_ceil(32), 0);
        for (token, at) in (0u32..).zip(0..size) {
            if allows(token) {
                self.bits[at / 32] |= 1 << (at % 32);
            }
        }
    }

    fn copy(&mut self, size: usize, bits: &SimpleVob) {
        self.bits.clear();
        self.bits.extend_from_slice(bits.as_slice());
        self.bits.resize(size.div_ceil(32), 0);
    }
}

impl Constraint {
    /// The start of a turn.
    pub fn new(grammar: &CallGrammar) -> Self {
        Self::start(grammar, FreeText::start(grammar.markers(), grammar.head()))
    }

    /// The start of a turn that begins inside the model's reasoning, because
    /// the prompt ends with the text that opens it.
    pub fn in_reasoning(grammar: &CallGrammar) -> Self {
        Self::start(grammar, FreeText::in_reasoning())
    }

    fn start(grammar: &CallGrammar, text: FreeText) -> Self {
        Self {
            grammar: grammar.clone(),
            state: State::Free(text),
            accepted: None,
            failed: None,
            mask: Mask::default(),
        }
    }

    /// Whether the next token belongs to a call. Between the tokens of an
    /// opener it does not.
    pub fn is_inside_call(&self) -> bool {
        match &self.state {
            State::Free(_) => false,
            State::Head(_) | State::Arguments { .. } => true,
            State::Behind(behind) => behind.choice.begun(),
        }
    }

    /// Whether any token at all may come next: free text, no opener begun.
    pub fn is_free(&self) -> bool {
        matches!(self.state, State::Free(text) if !text.opening(self.grammar.markers()))
    }

    /// Whether `token` may come next. Free text may be anything, but a token
    /// that ends an opener and goes on must go on as a call does.
    pub fn accepts(&mut self, token: u32) -> bool {
        let accepts = self.failed.is_some() || self.judge(token);
        self.accepted = accepts.then_some(token);
        accepts
    }

    /// [`accepts`](Self::accepts), for a look ahead.
    fn judge(&mut self, token: u32) -> bool {
        let bytes = self.grammar.vocabulary().bytes(token);
        match &mut self.state {
            State::Free(text) => free_fits(&self.grammar, *text, bytes),
            State::Behind(behind) if !behind.choice.begun() && self.grammar.ends(token) => true,
            // Without bytes, it is the end of the sequence or no token at all.
            _ if bytes.is_empty() => false,
            State::Head(head) => head_fits(&self.grammar, *head, bytes),
            State::Behind(behind) => behind_fits(&self.grammar, *behind, bytes),
            State::Arguments { call, .. } => match arguments_fit(&self.grammar, call, bytes) {
                Ok(fits) => fits,
                Err(reason) => {
                    self.failed = Some(reason);
                    true
                }
            },
        }
    }

    /// The tokens that may come next. Costs a look at each token of the
    /// vocabulary; a token that ends a call and goes on behind it is accepted,
    /// but not in the mask.
    ///
    /// # Errors
    /// [`ConstraintError::Released`] if the call's grammar fails. All tokens
    /// may come next.
    pub fn mask(&mut self) -> Result<&Mask, ConstraintError> {
        let size = self.grammar.vocabulary().size();
        if let Some(reason) = self.failed.take() {
            return Err(self.release(reason));
        }
        let mut mask = std::mem::take(&mut self.mask);
        if let State::Arguments { call, .. } = &mut self.state {
            match call.mask(self.grammar.vocabulary()) {
                Ok(bits) => mask.copy(size, &bits),
                Err(reason) => return Err(self.release(reason)),
            }
        } else {
            mask.fill(size, |token| self.judge(token));
            if mask.words().iter().all(|word| *word == 0) {
                return Err(self.release("no token fits".to_owned()));
            }
        }
        self.mask = mask;
        Ok(&self.mask)
    }

    /// Takes the next token, which was accepted.
    ///
    /// # Errors
    /// [`ConstraintError::Refused`] if it was not, and
    /// [`ConstraintError::Released`] if it was taken, but the call's grammar
    /// has failed.
    pub fn advance(&mut self, token: u32) -> Result<(), ConstraintError> {
        let known = self.accepted.take() == Some(token);
        if !known && self.failed.is_none() && !self.judge(token) {
            return Err(ConstraintError::Refused(token));
        }
        if let Some(reason) = self.failed.take() {
            return Err(self.release(reason));
        }
        let grammar = self.grammar.clone();
        let mut bytes = grammar.vocabulary().bytes(token);
        while !bytes.is_empty() {
            bytes = match self.step(&grammar, token, bytes) {
                Ok(rest) => rest,
                Err(reason) => return Err(self.release(reason)),
            };
        }
        Ok(())
    }

    /// Takes the bytes that belong to the state, and returns those behind it.
    fn step<'a>(
        &mut self,
        grammar: &CallGrammar,
        token: u32,
        bytes: &'a [u8],
    ) -> Result<&'a [u8], String> {
        match &mut self.state {
            State::Free(text) => match text.feed(grammar.markers(), grammar.head(), bytes) {
                Some((head, rest)) => {
                    self.state = State::Head(head);
                    Ok(rest)
                }
                None => Ok(&[]),
            },
            State::Head(head) => {
                for (at, byte) in bytes.iter().enumerate() {
                    let (tool, rest) = match head.feed(grammar.head(), *byte) {
                        Step::More => continue,
                        Step::Complete(tool) => (tool, at + 1),
                        Step::Before(tool) => (tool, at),
                        Step::Refused => return Err("an accepted token does not fit".to_owned()),
                    };
                    let call = Box::new(grammar.arguments(tool).start());
                    self.state = State::Arguments { tool, call };
                    return Ok(&bytes[rest..]);
                }
                Ok(&[])
            }
            State::Arguments { call, .. } => {
                if let Some((length, ending)) = call.end(bytes) {
                    self.state = behind(grammar, ending);
                    return Ok(&bytes[length..]);
                }
                call.take(grammar.vocabulary(), token, bytes)?;
                Ok(&[])
            }
            State::Behind(behind) => {
                for (at, byte) in bytes.iter().enumerate() {
                    if let Some(state) = behind.feed(grammar, *byte)? {
                        self.state = state;
                        return Ok(&bytes[at + 1..]);
                    }
                }
                Ok(&[])
            }
        }
    }

    /// Lets the rest of a call go, whose grammar has failed.
    fn release(&mut self, reason: String) -> ConstraintError {
        if let State::Arguments { tool, .. } = self.state {
            let arguments = self.grammar.arguments(tool);
            arguments.mend(self.grammar.vocabulary());
        }
        self.state = State::Free(FreeText::default());
        ConstraintError::Released(reason)
    }
}

impl Behind {
    /// Takes a byte. What comes behind it, if a text is complete with it.
    fn feed(&mut self, grammar: &CallGrammar, byte: u8) -> Result<Option<State>, String> {
        let (texts, endings) = grammar.behind();
        let texts = if self.texts { texts } else { &[] };
        match self.choice.feed(texts, byte) {
            Chosen::More => Ok(None),
            Chosen::Refused => Err("an accepted token does not fit".to_owned()),
            Chosen::Done(text) => Ok(Some(match endings[text] {
                Ending::Another => State::Head(Head::again(grammar.head())),
                Ending::Over => State::Free(FreeText::default()),
            })),
        }
    }
}

/// What comes behind a call.
fn behind(grammar: &CallGrammar, ending: Ending) -> State {
    let after = grammar.vocabulary().format().after;
    match (ending, after) {
        (Ending::Another, _) => State::Head(Head::again(grammar.head())),
        (Ending::Over, After::End | After::Turn) if grammar.has_ends() => State::Behind(Behind {
            texts: after == After::Turn,
            choice: Choice::START,
        }),
        (Ending::Over, _) => State::Free(FreeText::default()),
    }
}

/// Whether free text may go on with the bytes.
fn free_fits(grammar: &CallGrammar, mut text: FreeText, bytes: &[u8]) -> bool {
    match text.feed(grammar.markers(), grammar.head(), bytes) {
        Some((head, rest)) => head_fits(grammar, head, rest),
        None => true,
    }
}

/// Whether a head may go on with the bytes.
fn head_fits(grammar: &CallGrammar, mut head: Head, bytes: &[u8]) -> bool {
    for (at, byte) in bytes.iter().enumerate() {
        let (tool, rest) = match head.feed(grammar.head(), *byte) {
            Step::Refused => return false,
            Step::More => continue,
            Step::Complete(tool) => (tool, &bytes[at + 1..]),
            Step::Before(tool) => (tool, &bytes[at..]),
        };
        // One token that reaches from the head into the arguments.
        return rest.is_empty()
            || arguments_fit(grammar, &mut grammar.arguments(tool).start(), rest).unwrap_or(false);
    }
    true
}

/// Whether arguments may go on with the bytes.
fn arguments_fit(
    grammar: &CallGrammar,
    call: &mut Arguments,
    bytes: &[u8],
) -> Result<bool, String> {
    Ok(match call.fit(bytes)? {
        Fit::Refused => false,
        Fit::Fits => true,
        Fit::Ends(length, ending) => state_fits(grammar, behind(grammar, ending), &bytes[length..]),
    })
}

/// Whether what comes behind a call may go on with the bytes.
fn behind_fits(grammar: &CallGrammar, mut behind: Behind, bytes: &[u8]) -> bool {
    for (at, byte) in bytes.iter().enumerate() {
        match behind.feed(grammar, *byte) {
            Ok(None) => {}
            Ok(Some(state)) => return state_fits(grammar, state, &bytes[at + 1..]),
            Err(_) => return false,
        }
    }
    true
}

/// Whether a state that bytes have led to may go on with those behind them.
fn state_fits(grammar: &CallGrammar, state: State, bytes: &[u8]) -> bool {
    match state {
        State::Free(text) => free_fits(grammar, text, bytes),
        State::Head(head) => head_fits(grammar, head, bytes),
        State::Behind(behind) => behind_fits(grammar, behind, bytes),
        State::Arguments { mut call, .. } => {
            arguments_fit(grammar, &mut call, bytes).unwrap_or(false)
        }
    }
}
