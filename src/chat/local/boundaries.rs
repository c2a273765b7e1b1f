//! Where other prompts are likely to part from one. Asked for only where a
//! model's sequences cannot be gone on from anywhere: a snapshot of them has to
//! be taken there in time.

use super::TextSide;
use crate::chat::{Message, ToolSpec};

impl TextSide {
    /// How many tokens of a prompt the next prompt of its conversation begins
    /// with, whatever the model says and even if its thoughts are left out
    /// then; and if it is a `preamble` with some user's words, how many all
    /// prompts behind it begin with. `tokens` is the prompt of `messages`, the
    /// last of which is left to be evaluated: so the same prompt can come
    /// again.
    pub(super) fn boundaries(
        &self,
        messages: &[Message],
        tools: &[ToolSpec],
        tokens: &[u32],
        preamble: bool,
    ) -> Vec<usize> {
        let answer = Message::Assistant {
            content: "Yes.".to_owned(),
            reasoning: None,
            tool_calls: Vec::new(),
            written: None,
        };
        let mut next = messages.to_vec();
        next.extend([answer, Message::User("Go on.".to_owned())]);
        let mut others = vec![next];
        if preamble && let Some((Message::User(words), before)) = messages.split_last() {
            // No token of the two is the same from the first character on.
            let other = if words.starts_with('1') { "A" } else { "1" };
            let mut another = before.to_vec();
            another.push(Message::User(other.to_owned()));
            others.push(another);
        }
        let shared = others
            .iter()
            .filter_map(|other| self.shared(other, tools, tokens));
        shared.collect()
    }

    /// How many tokens the prompt of another conversation begins with in
    /// common, if the template writes that.
    fn shared(&self, other: &[Message], tools: &[ToolSpec], tokens: &[u32]) -> Option<usize> {
        let text = self.template.render(other, tools).ok()?;
        let other = self.history.tokenize(other, &text).ok()?;
        let pairs = tokens.iter().zip(&other.ids);
        let shared = pairs.take_while(|(a, b)| a == b).count();
        Some(shared.min(tokens.len().saturating_sub(1)))
    }
}
