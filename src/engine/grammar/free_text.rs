//! Finds what opens a call in free text, in pieces cut anywhere: an opener, or
//! the first of a call's head at the very start of a turn.
//!
//! Knows nothing of what follows it.

use super::CallFormat;
use super::head::{Head, HeadGrammar, Step};
use super::search::Search;

/// What is looked for outside of calls.
#[derive(Debug)]
pub(super) struct Markers {
    /// The openers, then the texts that begin quiet text.
    loud: Search,
    openers: usize,
    /// The texts that end quiet text.
    quiet: Search,
    /// Whether a turn may start with a call that has no opener.
    at_start: bool,
}

/// How far the text has got. Small, and copied to look ahead.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FreeText {
    /// Inside text in which a call is not a call.
    quiet: bool,
    /// The state of the search.
    state: u16,
    /// The head of a call, as long as the turn is nothing else.
    start: Option<Head>,
}

impl Markers {
    pub(super) fn new(format: &CallFormat) -> Self {
        let quiet = &format.quiet;
        let texts = |texts: &mut dyn Iterator<Item = &String>| {
            Search::new(&texts.map(String::as_str).collect::<Vec<&str>>())
        };
        // Text that could not be left again must not begin.
        let usable = !quiet.closes.iter().all(String::is_empty);
        let opens = quiet.opens.iter().filter(|_| usable);
        Self {
            loud: texts(&mut format.openers.iter().chain(opens)),
            openers: format.openers.len(),
            quiet: texts(&mut quiet.closes.iter()),
            at_start: format.at_start > 0,
        }
    }
}

impl FreeText {
    /// The start of a turn.
    pub(super) fn start(markers: &Markers, head: &HeadGrammar) -> Self {
        Self {
            start: markers.at_start.then(|| Head::new(head)),
            ..Self::default()
        }
    }

    /// The start of a turn that begins inside the model's reasoning.
    pub(super) fn in_reasoning() -> Self {
        Self {
            quiet: true,
            ..Self::default()
        }
    }

    /// Whether the text ends in the beginning of what opens a call.
    pub(super) fn opening(&self, markers: &Markers) -> bool {
        let openers = (1u32 << markers.openers.min(8)) - 1;
        self.start.is_some_and(|head| head.begun())
            || !self.quiet && u32::from(markers.loud.begun(self.state)) & openers > 0
    }

    /// Takes text up to where a call is opened, if one is, and returns its
    /// head as far as it was read, and what is behind that.
    #[inline]
    pub(super) fn feed<'a>(
        &mut self,
        markers: &Markers,
        head: &HeadGrammar,
        bytes: &'a [u8],
    ) -> Option<(Head, &'a [u8])> {
        for (at, byte) in bytes.iter().enumerate() {
            if let Some(start) = &mut self.start {
                match start.feed(head, *byte) {
                    Step::More if start.opens(head) => return Some((*start, &bytes[at + 1..])),
                    Step::More => {}
                    _ => self.start = None,
                }
            }
            if self.quiet {
                if markers.quiet.feed(&mut self.state, *byte).is_some() {
                    *self = Self::start(markers, head);
                }
                continue;
            }
            match markers.loud.feed(&mut self.state, *byte) {
                Some(text) if text < markers.openers => {
                    return Some((Head::new(head), &bytes[at + 1..]));
                }
                Some(_) => *self = Self::in_reasoning(),
                None => {}
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
        behind_in(&CallFormat::hermes(), text)
    }

    fn behind_in(format: &CallFormat, text: &str) -> Option<String> {
        let markers = Markers::new(format);
        let head = HeadGrammar::new(format, ["read"].into_iter());
        let mut answers = (0..=text.len()).map(|cut| {
            let (one, two) = text.as_bytes().split_at(cut);
            let mut state = FreeText::start(&markers, &head);
            let rest = match state.feed(&markers, &head, one) {
                Some((_, rest)) => Some([rest, two].concat()),
                None => state
                    .feed(&markers, &head, two)
                    .map(|(_, rest)| rest.to_vec()),
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
    fn a_head_opens_a_call_at_the_start_of_a_turn_only() {
        let json = CallFormat::json();
        for (text, rest) in [
            ("{\"name\": 1", Some(": 1")),
            ("\n { \"name\"x", Some("x")),
            ("<think>{\"name\"</think>\n{\"name\":", Some(":")),
            ("{\"names\"", None),
            ("a {\"name\":", None),
            ("{} {\"name\":", None),
        ] {
            assert_eq!(behind_in(&json, text).as_deref(), rest, "{text}");
        }
    }

    #[test]
    fn harmony_s_openers_count_in_headers_only() {
        let harmony = CallFormat::harmony();
        for (text, rest) in [
            ("<|channel|>commentary to=functions.a", Some("a")),
            ("<|message|>to to=functions.a<|end|>", None),
            ("<|message|>x<|start|>assistant to=functions.", Some("")),
        ] {
            assert_eq!(behind_in(&harmony, text).as_deref(), rest, "{text}");
        }
    }
}
