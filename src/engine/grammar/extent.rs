//! Where a call ends, and how long its numbers get.
//!
//! Relies on llguidance for the text to be of the format's form, and only
//! counts.

use std::collections::HashSet;

use super::CallFormat;
use super::choice::{Choice, Chosen};
use super::format::{After, Form};
use super::search::Search;

/// Digits a whole number may have: those of the largest 64-bit one. Beyond
/// it, and beyond the others below, a number may only go on where the schema
/// leaves it no other way: JSON of any length is a number to the grammar, but
/// not to those who read it.
const WHOLE_DIGITS: u8 = 20;
/// Digits a number with a fraction may have. With more, it may be rounded
/// across a limit that it keeps as written.
const FRACTION_DIGITS: u8 = 15;
/// Digits an exponent may have. With more, there may be no such number.
const EXPONENT_DIGITS: u8 = 2;

/// What tells the parts of a call to one tool apart, from its arguments on.
#[derive(Debug)]
pub(super) struct Outline {
    texts: Texts,
    /// Brackets that are open before the arguments.
    depth: u32,
    /// What ends the call, if a text does.
    end: Vec<Box<[u8]>>,
    /// What may follow, and what each of it means.
    next: Vec<Box<[u8]>>,
    endings: Vec<Ending>,
}

/// How texts stand in the arguments.
#[derive(Debug)]
enum Texts {
    /// Between double quotes.
    Json,
    /// Between double or single quotes.
    Python,
    /// Between two of these marks.
    Marked(Search),
    /// All of them between tags.
    Tagged {
        /// What ends the call, and what begins a key.
        edges: [Box<[u8]>; 2],
        key_closes: Search,
        /// What begins a value, unless the key's end does.
        value_opens: Option<[Box<[u8]>; 1]>,
        value_closes: Search,
        /// The [hashes](Hash) of the keys, with their closing tag, whose
        /// values are plain text; or [all](Hash::ALL). All others are JSON.
        plain: HashSet<u64>,
    },
}

/// What a call ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With the block.
    Over,
    /// With what leads to another call.
    Another,
}

/// The state of a call from its arguments on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    part: Part,
    /// Objects and arrays that are open, the call's own object included.
    depth: u32,
    /// What ends the text that is being written; 0 outside of texts.
    quote: u8,
    escaped: bool,
    /// The state of the search for a tag or a mark.
    search: u16,
    choice: Choice,
    key: Hash,
    number: Number,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Arguments,
    /// Between arguments in tags.
    Between,
    Key,
    /// Between a key and its value.
    Opening,
    Value {
        plain: bool,
    },
    /// Behind the arguments, before what ends the call.
    End,
    /// Behind what ends the call.
    Next,
}

/// Tells texts apart (FNV-1a).
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    const START: Self = Self(0xcbf2_9ce4_8422_2325);

    /// Stands for all texts.
    pub(super) const ALL: u64 = Self::START.0;

    /// The hash of a text.
    pub(super) fn of(text: &str) -> u64 {
        let mut hash = Self::START;
        text.bytes().for_each(|byte| hash.feed(byte));
        hash.0
    }

    fn is_in(self, hashes: &HashSet<u64>) -> bool {
        hashes.contains(&self.0) || hashes.contains(&Self::ALL)
    }

    fn feed(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
}

/// The number that is being written, if any.
#[derive(Debug, Clone, Copy, Default)]
struct Number {
    /// Digits before any exponent.
    digits: u8,
    fraction: bool,
    /// Digits of the exponent, if there is one.
    exponent: Option<u8>,
}

impl Outline {
    /// `plain` are the hashes of the keys, with their closing tag, whose
    /// values are plain text.
    pub(super) fn new(format: &CallFormat, plain: HashSet<u64>) -> Self {
        let bytes = |text: &str| -> Box<[u8]> { text.as_bytes().into() };
        let (texts, depth) = match &format.form {
            Form::Json { member, .. } => (Texts::Json, u32::from(*member)),
            Form::Python => (Texts::Python, 1),
            Form::Marked { mark } => (Texts::Marked(Search::new(&[mark])), 1),
            Form::Tagged(tags) => {
                let opens = &tags.value_opens;
                let texts = Texts::Tagged {
                    edges: [bytes(&format.end), bytes(&tags.key_opens)],
                    key_closes: Search::new(&[&tags.key_closes]),
                    value_opens: (!opens.is_empty()).then(|| [bytes(opens)]),
                    value_closes: Search::new(&[&tags.value_closes]),
                    plain,
                };
                (texts, 0)
            }
        };
        let next = match format.after {
            After::Turn => Vec::new(),
            After::Text | After::End => vec![
                (&format.closer, Ending::Over),
                (&format.separator, Ending::Another),
            ],
        };
        let next = next.into_iter().filter(|(text, _)| !text.is_empty());
        let (next, endings) = next.map(|(text, ending)| (bytes(text), ending)).unzip();
        let end = [&format.end].into_iter().filter(|text| !text.is_empty());
        Self {
            texts,
            depth,
            end: end.map(|text| bytes(text)).collect(),
            next,
            endings,
        }
    }

    /// Bytes of which one may follow any number that may end.
    pub(super) fn behind_numbers(&self) -> &'static [u8] {
        match self.texts {
            Texts::Json => b",}]",
            Texts::Python | Texts::Marked(_) => b",}])",
            Texts::Tagged { .. } => b"<\n,}]",
        }
    }
}

impl Extent {
    /// The state behind the head.
    pub(super) fn new(outline: &Outline) -> Self {
        Self {
            part: match outline.texts {
                Texts::Tagged { .. } => Part::Between,
                _ => Part::Arguments,
            },
            depth: outline.depth,
            quote: 0,
            escaped: false,
            search: 0,
            choice: Choice::START,
            key: Hash::START,
            number: Number::default(),
        }
    }

    /// Takes the next byte. What the call ended with, if it did.
    #[inline]
    pub(super) fn feed(&mut self, outline: &Outline, byte: u8) -> Option<Ending> {
        match self.part {
            Part::Arguments => {
                if self.feed_arguments(outline, byte) {
                    self.part = Part::End;
                    if outline.end.is_empty() {
                        return self.ended(outline);
                    }
                }
                None
            }
            Part::End => match self.choice.feed(&outline.end, byte) {
                Chosen::Done(_) => self.ended(outline),
                Chosen::More | Chosen::Refused => None,
            },
            Part::Next => match self.choice.feed(&outline.next, byte) {
                Chosen::Done(text) => outline.endings.get(text).copied(),
                Chosen::More | Chosen::Refused => None,
            },
            _ => self.feed_tagged(outline, byte),
        }
    }

    /// The call itself has ended.
    fn ended(&mut self, outline: &Outline) -> Option<Ending> {
        self.part = Part::Next;
        outline.next.is_empty().then_some(Ending::Over)
    }

    /// Whether the arguments are complete.
    #[inline]
    fn feed_arguments(&mut self, outline: &Outline, byte: u8) -> bool {
        if let Texts::Marked(mark) = &outline.texts {
            let found = mark.feed(&mut self.search, byte).is_some();
            if found {
                self.search = 0;
                self.quote ^= 1;
            }
            if found || self.quote > 0 {
                return false;
            }
        } else if self.in_quotes(byte) {
            return false;
        }
        self.number.feed(byte);
        match (byte, &outline.texts) {
            (b'"', Texts::Json | Texts::Python) | (b'\'', Texts::Python) => self.quote = byte,
            (b'{' | b'[', _) | (b'(', Texts::Python) => self.depth += 1,
            (b'}' | b']', _) | (b')', Texts::Python) => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    /// Whether the byte belongs to a text in quotes, with backslashes.
    #[inline]
    fn in_quotes(&mut self, byte: u8) -> bool {
        if self.quote == 0 {
            return false;
        }
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            _ if byte == self.quote => self.quote = 0,
            _ => {}
        }
        true
    }

    fn feed_tagged(&mut self, outline: &Outline, byte: u8) -> Option<Ending> {
        let Texts::Tagged {
            edges,
            key_closes,
            value_opens,
            value_closes,
            plain,
        } = &outline.texts
        else {
            return None;
        };
        match self.part {
            Part::Between => match self.choice.feed(edges, byte) {
                Chosen::Done(0) => return self.ended(outline),
                Chosen::Done(_) => {
                    self.key = Hash::START;
                    self.begin(Part::Key);
                }
                Chosen::More | Chosen::Refused => {}
            },
            Part::Key => {
                self.key.feed(byte);
                if key_closes.feed(&mut self.search, byte).is_some() {
                    let plain = self.key.is_in(plain);
                    self.begin(match value_opens {
                        Some(_) => Part::Opening,
                        None => Part::Value { plain },
                    });
                }
            }
            Part::Opening => {
                let opens = value_opens.as_ref().map_or(&[][..], |opens| opens);
                if let Chosen::Done(_) = self.choice.feed(opens, byte) {
                    let plain = self.key.is_in(plain);
                    self.begin(Part::Value { plain });
                }
            }
            Part::Value { plain } => {
                let closed = value_closes.feed(&mut self.search, byte).is_some();
                if !plain && !self.in_quotes(byte) {
                    self.number.feed(byte);
                    if byte == b'"' {
                        self.quote = byte;
                    }
                }
                if closed {
                    self.begin(Part::Between);
                }
            }
            Part::Arguments | Part::End | Part::Next => {}
        }
        None
    }

    fn begin(&mut self, part: Part) {
        self.part = part;
        self.search = 0;
        self.quote = 0;
        self.escaped = false;
        self.number = Number::default();
    }

    /// Whether `byte` would complete the tag that closes a value within a
    /// text of the value's JSON, where those who read the call would take it
    /// for the value's end.
    #[inline]
    pub(super) fn cuts(&self, outline: &Outline, byte: u8) -> bool {
        let Texts::Tagged { value_closes, .. } = &outline.texts else {
            return false;
        };
        let mut search = self.search;
        self.part == Part::Value { plain: false }
            && self.quote > 0
            && value_closes.feed(&mut search, byte).is_some()
    }

    /// Whether `byte` would make a number longer than it has to be, if it can
    /// end here.
    #[inline]
    pub(super) fn overlong(&self, byte: u8) -> bool {
        if self.quote > 0 || !byte.is_ascii_digit() {
            return false;
        }
        match self.number.exponent {
            Some(digits) => digits >= EXPONENT_DIGITS,
            None if self.number.fraction => self.number.digits >= FRACTION_DIGITS,
            None => self.number.digits >= WHOLE_DIGITS,
        }
    }
}

impl Number {
    fn feed(&mut self, byte: u8) {
        match (byte, &mut self.exponent) {
            (b'0'..=b'9', Some(digits)) => *digits = digits.saturating_add(1),
            (b'0'..=b'9', None) => self.digits = self.digits.saturating_add(1),
            (b'.', None) if self.digits > 0 => self.fraction = true,
            (b'e' | b'E', None) if self.digits > 0 => self.exponent = Some(0),
            (b'+' | b'-', Some(0)) => {}
            _ => *self = Self::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hermes() -> Outline {
        Outline::new(&CallFormat::hermes(), HashSet::new())
    }

    #[test]
    fn a_call_ends_with_the_closer_behind_its_object() {
        let text = r#" {"a": ["}}</tool_call>", "\"}", {"b": 1}]}} </tool_call>"#;
        let outline = hermes();
        let mut extent = Extent::new(&outline);
        let ends: Vec<usize> = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| extent.feed(&outline, *byte).is_some())
            .map(|(at, _)| at)
            .collect();
        assert_eq!(ends, [text.len() - 1]);
    }

    #[test]
    fn only_digits_too_many_are_overlong() {
        let overlong = |text: &str, byte: u8| {
            let outline = hermes();
            let mut extent = Extent::new(&outline);
            text.bytes().for_each(|byte| {
                extent.feed(&outline, byte);
            });
            extent.overlong(byte)
        };
        assert!(!overlong("[1234567890123456789", b'0'));
        assert!(overlong("[12345678901234567890", b'0'));
        assert!(!overlong("[12345678901234567890", b','));
        assert!(!overlong("[1.2345678901234", b'0'));
        assert!(overlong("[-1.23456789012345", b'0'));
        assert!(!overlong("[1e-2", b'0'));
        assert!(overlong("[1e-20", b'0'));
        assert!(!overlong("[\"12345678901234567890", b'0'));
        assert!(!overlong("[12345678901234567890, ", b'0'));
    }
}
