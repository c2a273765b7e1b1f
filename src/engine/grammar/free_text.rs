//! Finds the marker that opens a call in free text, in pieces cut anywhere.
//!
//! Knows nothing of what follows it.

use super::CallFormat;

/// What is looked for outside of calls.
#[derive(Debug)]
pub(super) struct Markers {
    opener: Marker,
    reasoning: Option<(Marker, Marker)>,
}

/// A text to find, byte by byte.
#[derive(Debug)]
struct Marker {
    text: Box<[u8]>,
    /// For each count of matched bytes, how many are still matched once the
    /// next one does not fit (Knuth, Morris and Pratt's table).
    resume: Box<[u8]>,
}

/// How far the text has got. Small, and copied to look ahead.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FreeText {
    reasoning: bool,
    /// Matched bytes of the opener, or of nothing inside reasoning.
    opener: u8,
    /// Matched bytes of the marker of reasoning that means something now.
    edge: u8,
}

impl Markers {
    pub(super) fn new(format: &CallFormat) -> Self {
        let reasoning = format.reasoning.as_ref();
        let reasoning = reasoning.filter(|(opens, closes)| !opens.is_empty() && !closes.is_empty());
        Self {
            opener: Marker::new(&format.opener),
            reasoning: reasoning.map(|(opens, closes)| (Marker::new(opens), Marker::new(closes))),
        }
    }
}

impl Marker {
    fn new(text: &str) -> Self {
        // A marker has no more bytes than its count can say; none comes near.
        let text = &text.as_bytes()[..text.len().min(usize::from(u8::MAX))];
        let mut resume = vec![0u8; text.len()];
        let mut matched = 0;
        for at in 1..text.len() {
            resume[at] = matched;
            while matched > 0 && text[usize::from(matched)] != text[at] {
                matched = resume[usize::from(matched)];
            }
            if text[usize::from(matched)] == text[at] {
                matched += 1;
            }
        }
        Self {
            text: text.into(),
            resume: resume.into(),
        }
    }

    /// Takes a byte. Whether the text is complete with it.
    #[inline]
    fn feed(&self, matched: &mut u8, byte: u8) -> bool {
        while *matched > 0 && self.text[usize::from(*matched)] != byte {
            *matched = self.resume[usize::from(*matched)];
        }
        if self.text[usize::from(*matched)] == byte {
            *matched += 1;
        }
        let complete = usize::from(*matched) == self.text.len();
        if complete {
            *matched = 0;
        }
        complete
    }
}

impl FreeText {
    /// The start of a turn that begins inside the model's reasoning.
    pub(super) fn in_reasoning() -> Self {
        Self {
            reasoning: true,
            ..Self::default()
        }
    }

    /// Whether the text ends in the beginning of an opener.
    pub(super) fn opening(&self) -> bool {
        self.opener > 0
    }

    /// Takes text up to an opener and returns what is behind it, if there is
    /// one.
    #[inline]
    pub(super) fn feed<'a>(&mut self, markers: &Markers, bytes: &'a [u8]) -> Option<&'a [u8]> {
        for (at, byte) in bytes.iter().enumerate() {
            if let Some((opens, closes)) = &markers.reasoning {
                let edge = if self.reasoning { closes } else { opens };
                if edge.feed(&mut self.edge, *byte) {
                    *self = Self {
                        reasoning: !self.reasoning,
                        ..Self::default()
                    };
                    continue;
                }
            }
            if !self.reasoning && markers.opener.feed(&mut self.opener, *byte) {
                return Some(&bytes[at + 1..]);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is behind the opener, fed in every way to cut the text in two.
    fn behind(text: &str) -> Option<String> {
        let markers = Markers::new(&CallFormat::hermes());
        let mut answers = (0..=text.len()).map(|cut| {
            let (one, two) = text.as_bytes().split_at(cut);
            let mut state = FreeText::default();
            let rest = match state.feed(&markers, one) {
                Some(rest) => Some([rest, two].concat()),
                None => state.feed(&markers, two).map(<[u8]>::to_vec),
            };
            rest.map(|rest| String::from_utf8_lossy(&rest).into_owned())
        });
        let first = answers.next()?;
        assert!(answers.all(|answer| answer == first));
        first
    }

    #[test]
    fn an_opener_is_found_wherever_the_text_is_cut() {
        assert_eq!(behind("a <tool_call>{").as_deref(), Some("{"));
        assert_eq!(behind("<<tool_call>").as_deref(), Some(""));
        assert_eq!(behind("<tool_<tool_call>\n").as_deref(), Some("\n"));
        assert_eq!(
            behind("<think><tool_call></think><tool_call>x").as_deref(),
            Some("x")
        );
    }

    #[test]
    fn what_only_looks_like_an_opener_is_text() {
        for text in [
            "<tool_calls>",
            "< tool_call>",
            "<tool_call",
            "</tool_call>",
            "<Tool_call>",
            "<think><tool_call>",
            "",
        ] {
            assert_eq!(behind(text), None, "{text}");
        }
    }

    #[test]
    fn a_marker_that_repeats_itself_is_found() {
        let marker = Marker::new("aabaaa");
        let mut matched = 0;
        let ends: Vec<usize> = b"aabaabaaaabaaa"
            .iter()
            .enumerate()
            .filter(|(_, byte)| marker.feed(&mut matched, **byte))
            .map(|(at, _)| at)
            .collect();
        assert_eq!(ends, [8]);
    }
}
