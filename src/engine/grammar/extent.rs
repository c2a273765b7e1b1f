//! Where a call ends, and how long its numbers get.
//!
//! Relies on llguidance for the text to be JSON, then the closer, and only
//! counts.

use super::head::is_blank;

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
    /// Objects and arrays that are open, the call's own object included.
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// Matched bytes of the closer.
    closing: u8,
    number: Number,
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
    pub(super) fn new() -> Self {
        Self {
            depth: 1,
            in_string: false,
            escaped: false,
            closing: 0,
            number: Number::default(),
        }
    }

    /// Takes the next byte. Whether the call is closed with it.
    #[inline]
    pub(super) fn feed(&mut self, closer: &[u8], byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        if self.depth == 0 {
            if self.closing > 0 || !is_blank(byte) {
                self.closing = self.closing.saturating_add(1);
            }
            return usize::from(self.closing) == closer.len();
        }
        self.number.feed(byte);
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        false
    }

    /// Whether `byte` would make a number longer than it has to be, if it can
    /// end here.
    #[inline]
    pub(super) fn overlong(&self, byte: u8) -> bool {
        if self.in_string || !byte.is_ascii_digit() {
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

    const CLOSER: &[u8] = b"</tool_call>";

    #[test]
    fn a_call_ends_with_the_closer_behind_its_object() {
        let text = r#" {"a": ["}}</tool_call>", "\"}", {"b": 1}]}} </tool_call>"#;
        let mut extent = Extent::new();
        let ends: Vec<usize> = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| extent.feed(CLOSER, *byte))
            .map(|(at, _)| at)
            .collect();
        assert_eq!(ends, [text.len() - 1]);
    }

    #[test]
    fn only_digits_too_many_are_overlong() {
        let overlong = |text: &str, byte: u8| {
            let mut extent = Extent::new();
            text.bytes().for_each(|byte| {
                extent.feed(CLOSER, byte);
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
