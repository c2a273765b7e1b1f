//! Tells which of a few texts comes next, byte by byte.
//!
//! Knows nothing of what the texts mean.

use super::MAX_BLANKS;

/// Whether JSON takes the byte for whitespace.
pub(super) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// How far one of some texts, before which there may be whitespace, has come.
/// Small, and copied to look ahead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    /// The texts that begin as what was read does, a bit each.
    live: u8,
    /// The bytes of them that were read.
    matched: u8,
    blanks: u8,
}

/// What a byte came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen {
    /// It does not fit.
    Refused,
    /// None of the texts is complete.
    More,
    /// This one is.
    Done(usize),
}

impl Choice {
    pub(super) const START: Self = Self {
        live: u8::MAX,
        matched: 0,
        blanks: 0,
    };

    /// Whether one of the texts is begun.
    pub(super) fn begun(self) -> bool {
        self.matched > 0
    }

    /// Takes the next byte. None of the texts, of which there are eight at
    /// most, begins as a whole other one does or with whitespace.
    #[inline]
    pub(super) fn feed(&mut self, texts: &[Box<[u8]>], byte: u8) -> Chosen {
        if self.matched == 0 && is_blank(byte) {
            self.blanks = self.blanks.saturating_add(1);
            return match usize::from(self.blanks) <= MAX_BLANKS {
                true => Chosen::More,
                false => Chosen::Refused,
            };
        }
        let mut live = 0;
        for (at, text) in texts.iter().enumerate() {
            if self.live >> at & 1 == 1 && text.get(usize::from(self.matched)) == Some(&byte) {
                if text.len() == usize::from(self.matched) + 1 {
                    *self = Self::START;
                    return Chosen::Done(at);
                }
                live |= 1 << at;
            }
        }
        if live == 0 {
            return Chosen::Refused;
        }
        self.live = live;
        self.matched = self.matched.saturating_add(1);
        Chosen::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str], text: &str) -> Chosen {
        let texts: Vec<Box<[u8]>> = texts.iter().map(|text| text.as_bytes().into()).collect();
        let mut choice = Choice::START;
        let mut chosen = Chosen::More;
        for byte in text.bytes() {
            assert_eq!(chosen, Chosen::More, "{text}");
            chosen = choice.feed(&texts, byte);
        }
        chosen
    }

    #[test]
    fn one_of_some_texts_is_told() {
        let texts = ["<end>", "<enter>", ","];
        assert_eq!(read(&texts, " \n<end>"), Chosen::Done(0));
        assert_eq!(read(&texts, "<enter>"), Chosen::Done(1));
        assert_eq!(read(&texts, "\t,"), Chosen::Done(2));
        assert_eq!(read(&texts, "<en"), Chosen::More);
        assert_eq!(read(&texts, "<ende"), Chosen::Refused);
        assert_eq!(read(&texts, "< "), Chosen::Refused);
        assert_eq!(read(&[], "x"), Chosen::Refused);
        assert_eq!(read(&texts, &" ".repeat(MAX_BLANKS)), Chosen::More);
        assert_eq!(read(&texts, &" ".repeat(MAX_BLANKS + 1)), Chosen::Refused);
    }
}
