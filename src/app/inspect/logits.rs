//! Logits and greedy tokens behind a prompt of token ids, for comparison with
//! other implementations. Knows no text.

use serde::Serialize;

use super::super::Failure;
use crate::backend::BackendSettings;
use crate::model::{self, Draw, Input, Model, ModelError, ModelFiles, SequenceId, Step, Tokens};

/// How many of the likeliest tokens are told.
const TOP: usize = 20;

/// Tokens of the prompt in one step: bounds what a long one takes in memory.
const CHUNK: usize = 512;

#[derive(Serialize)]
struct Line {
    /// The likeliest tokens after the prompt and their logits, best first.
    top: Vec<(u32, f32)>,
    /// The tokens after the prompt, each the likeliest. Nothing ends them.
    greedy: Vec<u32>,
}

/// Loads the model and evaluates `prompt` and `greedy` tokens behind it: a
/// line of JSON. `prompt` is not empty.
pub(super) fn line(
    files: &ModelFiles,
    backend: BackendSettings,
    prompt: &[u32],
    greedy: usize,
) -> Result<String, Failure> {
    let mut model = model::load(files, backend, &()).map_err(Failure::new)?;
    let context = model.info().context_length;
    if prompt.len().saturating_add(greedy) > context {
        return Err(Failure::new(format_args!(
            "{} tokens and {greedy} behind them are more than the {context} of the model's context",
            prompt.len()
        )));
    }
    let line = evaluate(model.as_mut(), prompt, greedy).map_err(Failure::new)?;
    serde_json::to_string(&line).map_err(Failure::new)
}

fn evaluate(model: &mut dyn Model, prompt: &[u32], greedy: usize) -> Result<Line, ModelError> {
    let sequence = model.open()?;
    let (begin, end) = prompt.split_at((prompt.len() - 1) / CHUNK * CHUNK);
    for tokens in begin.chunks(CHUNK) {
        let input = input(sequence, tokens, None);
        model.submit(&[input])?.wait()?;
    }
    let step = model.submit(&[input(sequence, end, Some(Draw::GREEDY))])?;
    let logits = step.row(0)?;
    let mut next = drawn(&*step)?;
    let mut tokens = Vec::with_capacity(greedy);
    while tokens.len() < greedy {
        tokens.push(next);
        if tokens.len() < greedy {
            let step = model.submit(&[input(sequence, &[next], Some(Draw::GREEDY))])?;
            next = drawn(&*step)?;
        }
    }
    model.close(sequence);
    Ok(Line {
        top: top(&logits),
        greedy: tokens,
    })
}

/// The token that a step of one sequence drew.
fn drawn(step: &dyn Step) -> Result<u32, ModelError> {
    let token = step.tokens()?.into_iter().next().flatten();
    token.ok_or_else(|| {
        ModelError::Input(
            "the logits are not numbers: the weights are damaged, or too large for what the \
             backend computes in"
                .to_owned(),
        )
    })
}

fn input(sequence: SequenceId, tokens: &[u32], draw: Option<Draw>) -> Input<'_> {
    Input {
        sequence,
        tokens: Tokens::Given(tokens),
        draw,
    }
}

/// The largest logits with their tokens, the largest first; of equal ones the
/// lower id.
fn top(logits: &[f32]) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(TOP);
    all
}
