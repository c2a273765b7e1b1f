//! What tells the parts of a call apart in a format.
//!
//! Knows nothing of how far a call has come.

use std::collections::HashSet;

use super::CallFormat;
use super::format::{After, Form};
use super::search::Search;

/// What tells the parts of a call to one tool apart, from its arguments on.
#[derive(Debug)]
pub(super) struct Outline {
    pub(super) texts: Texts,
    /// Brackets that are open before the arguments.
    pub(super) depth: u32,
    /// What ends the call, if a text does.
    pub(super) end: Vec<Box<[u8]>>,
    /// What may follow, and what each of it means.
    pub(super) next: Vec<Box<[u8]>>,
    pub(super) endings: Vec<Ending>,
}

/// How texts stand in the arguments.
#[derive(Debug)]
pub(super) enum Texts {
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
        /// The second text, if there is one, says that the value is JSON, and
        /// the first that it is plain text.
        key_closes: Search,
        typed: bool,
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

/// Tells texts apart (FNV-1a).
#[derive(Debug, Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) const START: Self = Self(0xcbf2_9ce4_8422_2325);

    /// Stands for all texts.
    pub(super) const ALL: u64 = Self::START.0;

    /// The hash of a text.
    pub(super) fn of(text: &str) -> u64 {
        let mut hash = Self::START;
        text.bytes().for_each(|byte| hash.feed(byte));
        hash.0
    }

    pub(super) fn is_in(self, hashes: &HashSet<u64>) -> bool {
        hashes.contains(&self.0) || hashes.contains(&Self::ALL)
    }

    pub(super) fn feed(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
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
                    key_closes: match &tags.json_key_closes {
                        Some(json) => Search::new(&[&tags.key_closes, json]),
                        None => Search::new(&[&tags.key_closes]),
                    },
                    typed: tags.json_key_closes.is_some(),
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
