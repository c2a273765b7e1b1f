//! Where a call ends, and how long its numbers get.
//!
//! Relies on llguidance for the text to be of the format's form, and only
//! counts.

use super::choice::{Choice, Chosen};
use super::outline::{Ending, Hash, Outline, Texts};

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

/// The number that is being written, if any.
#[derive(Debug, Clone, Copy, Default)]
struct Number {
    /// Digits before any exponent.
    digits: u8,
    fraction: bool,
    /// Digits of the exponent, if there is one.
    exponent: Option<u8>,
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
            typed,
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
                if let Some(tag) = key_closes.feed(&mut self.search, byte) {
                    let plain = match typed {
                        true => tag == 0,
                        false => self.key.is_in(plain),
                    };
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
    use std::collections::HashSet;

    use super::*;
    use crate::engine::grammar::CallFormat;

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

    /// Where the key's tag tells, quotes count in JSON alone.
    #[test]
    fn a_key_s_tag_says_what_its_value_is() {
        let cuts = |is_text: &str| {
            let start = format!("<｜DSML｜parameter name=\"a\" string=\"{is_text}\">");
            let outline = Outline::new(&CallFormat::deepseek_v3_2(), HashSet::new());
            let mut extent = Extent::new(&outline);
            for byte in format!("{start}[\"</｜DSML｜parameter").bytes() {
                assert_eq!(extent.feed(&outline, byte), None);
            }
            extent.cuts(&outline, b'>')
        };
        assert!(cuts("false"));
        assert!(!cuts("true"));
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
