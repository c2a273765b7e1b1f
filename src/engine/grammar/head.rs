//! The head of a call: from its opener to the colon before its arguments, with
//! the name of one of the tools.
//!
//! Knows nothing of the arguments.

use super::{CallFormat, MAX_BLANKS};

/// The heads of calls to some tools.
#[derive(Debug)]
pub(super) struct HeadGrammar {
    /// What stands before the name, in pieces between which there may be
    /// whitespace; then the name, then what stands behind it.
    before: [Box<[u8]>; 3],
    behind: [Box<[u8]>; 3],
    /// The names as JSON strings, sorted, each with its tool. None is the
    /// start of another, since each ends with its quote.
    names: Box<[(Box<[u8]>, usize)]>,
}

/// How far a head has got. Small, and copied to look ahead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// The piece that is being matched; the name is the fourth.
    piece: u8,
    /// Matched bytes of the piece.
    matched: u32,
    /// Whitespace before the piece.
    blanks: u8,
    /// The names that begin as the text does: this one up to, and without,
    /// that one.
    first: u32,
    end: u32,
}

/// What a byte came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It does not fit.
    Refused,
    /// The head goes on.
    More,
    /// The head is complete, and this tool is called.
    Complete(usize),
}

/// The piece that is the name.
const NAME: u8 = 3;
/// How many pieces there are.
const PIECES: u8 = 7;

impl HeadGrammar {
    /// `names` are the tools' names, in their order.
    pub(super) fn new<'a>(format: &CallFormat, names: impl Iterator<Item = &'a str>) -> Self {
        let mut names: Vec<(Box<[u8]>, usize)> = names
            .enumerate()
            .map(|(tool, name)| (json_string(name), tool))
            .collect();
        names.sort_unstable();
        let text = |text: &[u8]| text.into();
        Self {
            before: [text(b"{"), json_string(&format.name_key), text(b":")],
            behind: [text(b","), json_string(&format.arguments_key), text(b":")],
            names: names.into(),
        }
    }

    fn piece(&self, piece: u8) -> Option<&[u8]> {
        let pieces = if piece < NAME {
            self.before.get(usize::from(piece))
        } else {
            self.behind.get(usize::from(piece - NAME - 1))
        };
        pieces.map(AsRef::as_ref)
    }
}

impl Head {
    pub(super) fn new(grammar: &HeadGrammar) -> Self {
        Self {
            piece: 0,
            matched: 0,
            blanks: 0,
            first: 0,
            end: u32::try_from(grammar.names.len()).unwrap_or(u32::MAX),
        }
    }

    /// Takes the next byte. After a refusal the state means nothing.
    pub(super) fn feed(&mut self, grammar: &HeadGrammar, byte: u8) -> Step {
        if self.matched == 0 && is_blank(byte) {
            self.blanks += 1;
            return if usize::from(self.blanks) <= MAX_BLANKS {
                Step::More
            } else {
                Step::Refused
            };
        }
        let complete = if self.piece == NAME {
            self.feed_name(grammar, byte)
        } else {
            grammar.piece(self.piece).and_then(|piece| {
                let matched = self.matched as usize;
                (piece.get(matched) == Some(&byte)).then(|| matched + 1 == piece.len())
            })
        };
        match complete {
            None => Step::Refused,
            Some(false) => {
                self.matched += 1;
                Step::More
            }
            Some(true) => {
                self.piece += 1;
                self.matched = 0;
                self.blanks = 0;
                if self.piece < PIECES {
                    return Step::More;
                }
                match grammar.names.get(self.first as usize) {
                    Some((_, tool)) => Step::Complete(*tool),
                    None => Step::Refused,
                }
            }
        }
    }

    /// Whether the name is complete, if the byte fits.
    fn feed_name(&mut self, grammar: &HeadGrammar, byte: u8) -> Option<bool> {
        let matched = self.matched as usize;
        let candidates = grammar.names.get(self.first as usize..self.end as usize)?;
        let next = |name: &[u8]| name.get(matched).copied();
        let skip = candidates.partition_point(|(name, _)| next(name) < Some(byte));
        let take = candidates.partition_point(|(name, _)| next(name) <= Some(byte));
        let (name, _) = candidates.get(skip..take)?.first()?;
        self.end = self.first + u32::try_from(take).ok()?;
        self.first += u32::try_from(skip).ok()?;
        Some(matched + 1 == name.len())
    }
}

/// Whether JSON takes the byte for whitespace.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// `text` as JSON writes it.
fn json_string(text: &str) -> Box<[u8]> {
    serde_json::Value::from(text)
        .to_string()
        .into_bytes()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(names: &[&str], text: &str) -> Step {
        let grammar = HeadGrammar::new(&CallFormat::hermes(), names.iter().copied());
        let mut head = Head::new(&grammar);
        let mut step = Step::More;
        for byte in text.bytes() {
            assert_eq!(step, Step::More, "the head was complete before {text}");
            step = head.feed(&grammar, byte);
            if step == Step::Refused {
                break;
            }
        }
        step
    }

    #[test]
    fn names_are_told_apart_whatever_they_share() {
        let names = ["read_file", "read", "write", "read_files"];
        for (tool, name) in names.iter().enumerate() {
            for text in [
                format!("{{\"name\": \"{name}\", \"arguments\":"),
                format!("{{\"name\":\"{name}\",\"arguments\":"),
                format!("\n\t{{\r\n  \"name\" : \"{name}\" , \"arguments\" :"),
            ] {
                assert_eq!(read(&names, &text), Step::Complete(tool), "{text}");
                for cut in 0..text.len() {
                    assert_eq!(read(&names, &text[..cut]), Step::More, "{text}");
                }
            }
        }
    }

    #[test]
    fn other_names_and_other_shapes_are_refused() {
        for text in [
            "{\"name\": \"rea\"",
            "{\"name\": \"reads",
            "{\"name\": \" read\"",
            "{\"arguments\"",
            "[",
            "{\"name\": \"read\"}",
            "{\"name\": \"read\", \"name\"",
            "{\"name\"\u{a0}",
            &" ".repeat(MAX_BLANKS + 1),
        ] {
            assert_eq!(read(&["read", "write"], text), Step::Refused, "{text:?}");
        }
    }
}
