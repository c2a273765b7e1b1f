//! Token ids to text as they come, never half a character.

use crate::model::{Tokenizer, TokenizerError};

/// What a decoder writes in place of bytes that are not (yet) a character.
const INCOMPLETE: char = '\u{FFFD}';

/// The text of one sequence of tokens.
///
/// A token's text may depend on the ones before it (a leading space) and may
/// be part of a character, so the ids since the last clean cut are decoded
/// again together with those before the cut, and what is new is the
/// difference. The windows stay a few tokens long.
pub(super) struct Detokenizer<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids whose text was given out, kept as context, then the ones whose
    /// text was not.
    ids: Vec<u32>,
    /// How many of `ids` are context.
    context: usize,
}

impl<'a> Detokenizer<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            ids: Vec::new(),
            context: 0,
        }
    }

    /// Takes the next token; the text that is now certain.
    pub(super) fn push(&mut self, token: u32) -> Result<String, TokenizerError> {
        self.ids.push(token);
        let text = self.pending()?;
        if text.ends_with(INCOMPLETE) {
            return Ok(String::new());
        }
        self.ids.drain(..self.context);
        self.context = self.ids.len();
        Ok(text)
    }

    /// The rest of the text: bytes that never became a character are shown
    /// as the replacement character.
    pub(super) fn finish(&mut self) -> Result<String, TokenizerError> {
        let text = self.pending()?;
        self.ids.clear();
        self.context = 0;
        Ok(text)
    }

    /// The text of the ids after the context.
    fn pending(&self) -> Result<String, TokenizerError> {
        if self.context == self.ids.len() {
            return Ok(String::new());
        }
        let context = self.tokenizer.decode(&self.ids[..self.context])?;
        let whole = self.tokenizer.decode(&self.ids)?;
        Ok(match whole.strip_prefix(&context) {
            Some(new) => new.to_owned(),
            // A decoder that rewrites what it wrote before: show the new part
            // by itself.
            None => self.tokenizer.decode(&self.ids[self.context..])?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::load(&crate::demo::files()).unwrap()
    }

    fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(tokenizer);
        let mut pieces: Vec<String> = ids
            .iter()
            .map(|&id| detokenizer.push(id).unwrap())
            .collect();
        pieces.push(detokenizer.finish().unwrap());
        pieces
    }

    #[test]
    fn pieces_add_up_to_the_text() {
        let tokenizer = tokenizer();
        for text in [
            "The time in Tokyo is 12:30.",
            "<tool_call>\n{\"name\": \"calculate\"}\n</tool_call>",
            "naïve 東京 🗼 a\u{301} 👩‍👩‍👧 end",
            "   spaces\n\n\nand lines\t",
        ] {
            let ids = tokenizer.encode(text).unwrap();
            let pieces = pieces(&tokenizer, &ids);
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|piece| !piece.contains(INCOMPLETE)));
        }
    }

    #[test]
    fn a_character_cut_off_by_the_end_is_replaced_once() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("ok 🗼").unwrap();
        let pieces = pieces(&tokenizer, &ids[..ids.len() - 1]);
        let text = pieces.concat();
        assert!(text.starts_with("ok "), "{text:?}");
        assert!(
            text.trim_start_matches("ok ")
                .chars()
                .all(|c| c == INCOMPLETE)
        );
        assert!(text.ends_with(INCOMPLETE));
    }
}
