//! What a model says by itself where a conversation has a reply that can be
//! right or wrong.

use llm_server::model::{Draw, Input, Model, SequenceId, Tokenizer, Tokens};

use super::held_out::{Conversation, END};

/// Replies at once.
const WIDTH: usize = 16;

/// A reply that is longer is cut off.
const LONGEST: usize = 192;

/// How many were right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Score {
    pub(crate) replies: usize,
    pub(crate) right_replies: usize,
    pub(crate) conversations: usize,
    /// Those with all their replies right.
    pub(crate) right_conversations: usize,
}

/// Has the model say every reply, each token the likeliest, behind what should
/// have been said before it.
pub(crate) fn score(
    model: &mut dyn Model,
    tokenizer: &Tokenizer,
    conversations: &[Conversation],
) -> Score {
    let mut prompts: Vec<&[u32]> = Vec::new();
    for conversation in conversations {
        let scored = conversation.scored.iter();
        prompts.extend(scored.map(|scored| &conversation.tokens[..scored.behind]));
    }
    let end = tokenizer.token_id(END).unwrap();
    let batches = prompts.chunks(WIDTH);
    let mut replies = batches.flat_map(|prompts| say(model, prompts, end));
    let mut score = Score::default();
    for conversation in conversations {
        let mut all_right = true;
        for scored in &conversation.scored {
            let reply = tokenizer.decode(&replies.next().unwrap()).unwrap();
            let is_right = scored.is_right(&reply);
            score.replies += 1;
            score.right_replies += usize::from(is_right);
            all_right &= is_right;
        }
        score.conversations += 1;
        score.right_conversations += usize::from(all_right);
    }
    score
}

/// The likeliest tokens behind each prompt, up to `end` and without it.
fn say(model: &mut dyn Model, prompts: &[&[u32]], end: u32) -> Vec<Vec<u32>> {
    let sequences: Vec<SequenceId> = prompts.iter().map(|_| model.open().unwrap()).collect();
    let mut replies = vec![Vec::new(); prompts.len()];
    let mut speaking: Vec<usize> = (0..prompts.len()).collect();
    let mut next: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
    while !speaking.is_empty() {
        let batch: Vec<Input<'_>> = speaking
            .iter()
            .map(|&place| Input {
                sequence: sequences[place],
                tokens: Tokens::Given(&next[place]),
                draw: Some(Draw::GREEDY),
            })
            .collect();
        let drawn = model.submit(&batch).unwrap().tokens().unwrap();
        for (&place, token) in speaking.iter().zip(drawn) {
            next[place] = vec![token.unwrap()];
        }
        speaking.retain(|&place| {
            let token = next[place][0];
            let goes_on = token != end && replies[place].len() < LONGEST;
            if goes_on {
                replies[place].push(token);
            }
            goes_on
        });
    }
    for sequence in sequences {
        model.close(sequence);
    }
    replies
}
