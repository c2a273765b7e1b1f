//! The head of a call: from its opener to its arguments, with the name of one
//! of the tools.
//!
//! Knows nothing of the arguments.

use super::choice::is_blank;
use super::format::Piece;
use super::{CallFormat, MAX_BLANKS};

/// The heads of calls to some tools.
#[derive(Debug)]
pub(super) struct HeadGrammar {
    parts: Box<[Part]>,
    /// The part with which the head of a further call begins.
    again: u8,
    /// How many parts open a block by themselves.
    opening: u8,
}

/// A text, and its tool if it is a name.
type Text = (Box<[u8]>, Option<usize>);

/// A piece, for these tools.
#[derive(Debug)]
enum Part {
    /// One of these texts, which are sorted. If one is the start of another,
    /// the longest that fits counts.
    Texts { blanks: bool, texts: Box<[Text]> },
    /// A whole number.
    Number,
    /// So many letters and digits.
    Id(u8),
}

/// How far a head has got. Small, and copied to look ahead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// The part that is being matched.
    part: u8,
    /// Matched bytes of the part.
    matched: u32,
    /// Whitespace before the part.
    blanks: u8,
    /// The texts that begin as the text does: this one up to, and without,
    /// that one.
    first: u32,
    end: u32,
    /// The tool whose name was read.
    tool: u32,
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
    /// The head was complete before the byte, and this tool is called.
    Before(usize),
}

/// What a byte came to within a part.
enum Taken {
    Refused,
    More,
    /// The part is complete with it.
    Complete,
    /// The part was complete before it.
    Before,
}

/// Digits a number may have.
const MAX_DIGITS: u32 = 9;

impl HeadGrammar {
    /// `names` are the tools' names, in their order.
    pub(super) fn new<'a>(format: &CallFormat, names: impl Iterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = names.collect();
        let parts = format.head.iter().map(|piece| Part::new(piece, &names));
        Self {
            parts: parts.collect(),
            // Formats have a handful of pieces.
            again: u8::try_from(format.again).unwrap_or(u8::MAX),
            opening: u8::try_from(format.at_start).unwrap_or(u8::MAX),
        }
    }
}

impl Part {
    fn new(piece: &Piece, names: &[&str]) -> Self {
        let bytes = |text: &str| text.as_bytes().into();
        let (blanks, mut texts): (bool, Vec<Text>) = match piece {
            Piece::Number => return Self::Number,
            Piece::Id(length) => return Self::Id(*length),
            Piece::Text(text) => (true, vec![(bytes(text), None)]),
            Piece::OneOf(texts) => {
                let texts = texts.iter().map(|text| (bytes(text), None));
                (false, texts.collect())
            }
            Piece::Name | Piece::SpacedName => {
                let names = names.iter().zip(0..);
                let texts = names.map(|(name, tool)| (bytes(name), Some(tool)));
                (*piece == Piece::SpacedName, texts.collect())
            }
            Piece::QuotedName => {
                let names = names.iter().zip(0..);
                let texts = names.map(|(name, tool)| (json_string(name), Some(tool)));
                (true, texts.collect())
            }
        };
        texts.sort_unstable();
        let texts = texts.into();
        Self::Texts { blanks, texts }
    }
}

impl Head {
    /// The head of a block's first call.
    pub(super) fn new(grammar: &HeadGrammar) -> Self {
        Self::at(grammar, 0)
    }

    /// The head of a further call.
    pub(super) fn again(grammar: &HeadGrammar) -> Self {
        Self::at(grammar, grammar.again)
    }

    fn at(grammar: &HeadGrammar, part: u8) -> Self {
        let texts = match grammar.parts.get(usize::from(part)) {
            Some(Part::Texts { texts, .. }) => texts.len(),
            Some(Part::Number | Part::Id(_)) | None => 0,
        };
        Self {
            part,
            matched: 0,
            blanks: 0,
            first: 0,
            end: u32::try_from(texts).unwrap_or(u32::MAX),
            tool: 0,
        }
    }

    /// Whether more than whitespace was read.
    pub(super) fn begun(&self) -> bool {
        self.part > 0 || self.matched > 0
    }

    /// Whether what was read opens a block by itself.
    pub(super) fn opens(&self, grammar: &HeadGrammar) -> bool {
        self.part >= grammar.opening
    }

    /// Takes the next byte. After a refusal the state means nothing.
    pub(super) fn feed(&mut self, grammar: &HeadGrammar, byte: u8) -> Step {
        loop {
            let Some(part) = grammar.parts.get(usize::from(self.part)) else {
                return Step::Refused;
            };
            let before = match self.take(part, byte) {
                Taken::Refused => return Step::Refused,
                Taken::More => return Step::More,
                Taken::Complete => false,
                Taken::Before => true,
            };
            let tool = self.tool;
            *self = Self {
                tool,
                ..Self::at(grammar, self.part + 1)
            };
            let complete = usize::from(self.part) == grammar.parts.len();
            match (complete, before) {
                (true, false) => return Step::Complete(tool as usize),
                (true, true) => return Step::Before(tool as usize),
                (false, false) => return Step::More,
                (false, true) => {}
            }
        }
    }

    fn take(&mut self, part: &Part, byte: u8) -> Taken {
        let (blanks, texts) = match part {
            Part::Texts { blanks, texts } => (blanks, texts),
            Part::Number => return self.take_digit(byte),
            Part::Id(length) => return self.take_of_id(*length, byte),
        };
        if *blanks && self.matched == 0 && is_blank(byte) {
            self.blanks += 1;
            return match usize::from(self.blanks) <= MAX_BLANKS {
                true => Taken::More,
                false => Taken::Refused,
            };
        }
        self.take_text(texts, byte).unwrap_or(Taken::Refused)
    }

    fn take_digit(&mut self, byte: u8) -> Taken {
        match byte.is_ascii_digit() && self.matched < MAX_DIGITS {
            true => {
                self.matched += 1;
                Taken::More
            }
            false if self.matched > 0 => Taken::Before,
            false => Taken::Refused,
        }
    }

    fn take_of_id(&mut self, length: u8, byte: u8) -> Taken {
        if !byte.is_ascii_alphanumeric() {
            return Taken::Refused;
        }
        self.matched += 1;
        match self.matched < u32::from(length) {
            true => Taken::More,
            false => Taken::Complete,
        }
    }

    fn take_text(&mut self, texts: &[Text], byte: u8) -> Option<Taken> {
        let matched = self.matched as usize;
        let candidates = texts.get(self.first as usize..self.end as usize)?;
        let next = |text: &[u8]| text.get(matched).copied();
        let skip = candidates.partition_point(|(text, _)| next(text) < Some(byte));
        let take = candidates.partition_point(|(text, _)| next(text) <= Some(byte));
        let Some((text, tool)) = candidates.get(skip..take)?.first() else {
            let (text, tool) = candidates.first()?;
            let complete = matched > 0 && text.len() == matched;
            self.called(*tool);
            return complete.then_some(Taken::Before);
        };
        self.end = self.first + u32::try_from(take).ok()?;
        self.first += u32::try_from(skip).ok()?;
        self.matched += 1;
        if text.len() == matched + 1 && take == skip + 1 {
            self.called(*tool);
            return Some(Taken::Complete);
        }
        Some(Taken::More)
    }

    fn called(&mut self, tool: Option<usize>) {
        if let Some(tool) = tool.and_then(|tool| u32::try_from(tool).ok()) {
            self.tool = tool;
        }
    }
}

/// `text` as JSON writes it.
fn json_string(text: &str) -> Box<[u8]> {
    serde_json::Value::from(text)
        .to_string()
        .into_bytes()
        .into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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

    #[test]
    fn bare_names_end_where_no_other_goes_on() {
        let format = CallFormat {
            head: vec![
                Piece::Text("f.".to_owned()),
                Piece::Name,
                Piece::Text(":".to_owned()),
                Piece::Number,
                Piece::OneOf(vec!["<a>".to_owned(), " <b>".to_owned()]),
                Piece::Name,
            ],
            ..CallFormat::hermes()
        };
        let grammar = HeadGrammar::new(&format, ["read", "read_file"].into_iter());
        let read = |text: &str| {
            let mut head = Head::new(&grammar);
            let steps = text.bytes().map(|byte| head.feed(&grammar, byte));
            let steps: Vec<Step> = steps.collect();
            let (last, others) = steps.split_last().unwrap();
            assert!(others.iter().all(|step| *step == Step::More), "{text}");
            *last
        };
        assert_eq!(read("f.read_file:0<a>read_file"), Step::Complete(1));
        assert_eq!(read(" f.read :12 <b>read("), Step::Before(0));
        assert_eq!(read("f.read:1<b"), Step::Refused);
        assert_eq!(read("f.rea:"), Step::Refused);
        assert_eq!(read("f.read_:"), Step::Refused);
        assert_eq!(read("f. "), Step::Refused);
        assert_eq!(read("f.read:<"), Step::Refused);
    }

    #[test]
    fn ids_have_their_length() {
        let grammar = HeadGrammar::new(&CallFormat::mistral_call_id(), ["read"].into_iter());
        let read = |text: &str| {
            let mut head = Head::new(&grammar);
            let steps = text.bytes().map(|byte| head.feed(&grammar, byte));
            steps.last().unwrap()
        };
        assert_eq!(read("read[CALL_ID]a1B2c3D4e[ARGS]"), Step::Complete(0));
        assert_eq!(read("read[CALL_ID]a1B2c3D4e"), Step::More);
        for text in [
            "read[CALL_ID]a1B2c3D4[",
            "read[CALL_ID]a1B2c3D4ef",
            "read[CALL_ID]a1B2c3D4\u{e9}",
            "read[CALL_ID]a1B2c3D-",
            "read[ARGS]",
        ] {
            assert_eq!(read(text), Step::Refused, "{text}");
        }
    }
}
