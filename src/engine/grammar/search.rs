//! Finds any of some texts in a text that comes in pieces (Aho and Corasick's
//! automaton).
//!
//! Knows nothing of what the texts mean.

/// The automaton. Its states are numbers, and 0 is the start.
#[derive(Debug)]
pub(super) struct Search {
    states: Box<[State]>,
}

#[derive(Debug)]
struct State {
    /// The state after each byte.
    next: [u16; 256],
    /// The text that ends here.
    found: Option<usize>,
    /// Which texts are begun here, a bit each.
    begun: u8,
}

/// Longer texts are cut; no marker comes near.
const MAX_BYTES: usize = 255;

impl Search {
    /// Looks for `texts`, of which the bits of `begun` can tell the first
    /// eight.
    pub(super) fn new(texts: &[&str]) -> Self {
        let mut states = vec![State::new()];
        for (at, text) in texts.iter().enumerate() {
            let mut state = 0;
            for byte in text.bytes().take(MAX_BYTES) {
                if states[state].next[usize::from(byte)] == 0 {
                    // 255 bytes of a few texts do not fill 16 bits.
                    states[state].next[usize::from(byte)] =
                        u16::try_from(states.len()).unwrap_or(u16::MAX);
                    states.push(State::new());
                }
                state = usize::from(states[state].next[usize::from(byte)]);
                if at < 8 {
                    states[state].begun |= 1 << at;
                }
            }
            if state > 0 {
                states[state].found.get_or_insert(at);
            }
        }
        Self::link(&mut states);
        Self {
            states: states.into(),
        }
    }

    /// Leads the bytes that no text goes on with to the longest end of what was
    /// read that begins a text.
    fn link(states: &mut [State]) {
        // The states in order of their depth, each with that longest end.
        let mut order: Vec<(usize, usize)> = states[0]
            .next
            .iter()
            .filter(|next| **next > 0)
            .map(|next| (usize::from(*next), 0))
            .collect();
        let mut next = 0;
        while let Some((state, shorter)) = order.get(next).copied() {
            next += 1;
            states[state].found = states[state].found.or(states[shorter].found);
            states[state].begun |= states[shorter].begun;
            for byte in 0..256 {
                let aside = states[shorter].next[byte];
                match states[state].next[byte] {
                    0 => states[state].next[byte] = aside,
                    deeper => order.push((usize::from(deeper), usize::from(aside))),
                }
            }
        }
    }

    /// Takes a byte. Which text is complete with it, if one is.
    #[inline]
    pub(super) fn feed(&self, state: &mut u16, byte: u8) -> Option<usize> {
        *state = self.states[usize::from(*state)].next[usize::from(byte)];
        self.states[usize::from(*state)].found
    }

    /// Which texts are begun, a bit each.
    pub(super) fn begun(&self, state: u16) -> u8 {
        self.states[usize::from(state)].begun
    }
}

impl State {
    fn new() -> Self {
        Self {
            next: [0; 256],
            found: None,
            begun: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(texts: &[&str], text: &str) -> Vec<(usize, usize)> {
        let search = Search::new(texts);
        let mut state = 0;
        text.bytes()
            .enumerate()
            .filter_map(|(at, byte)| Some((at, search.feed(&mut state, byte)?)))
            .collect()
    }

    #[test]
    fn texts_that_share_parts_are_found() {
        assert_eq!(ends(&["aabaaa"], "aabaabaaaabaaa"), [(8, 0), (13, 0)]);
        assert_eq!(
            ends(&["abcd", "bc", "c"], "abcabcd"),
            [(2, 1), (5, 1), (6, 0)]
        );
        assert_eq!(
            ends(&["<think>", "<tool>"], "<t<tool><think>"),
            [(7, 1), (14, 0)]
        );
        assert_eq!(ends(&[], "abc"), []);
    }

    #[test]
    fn what_is_begun_is_told() {
        let search = Search::new(&["xy", "ax"]);
        let mut state = 0;
        assert_eq!(search.begun(state), 0);
        search.feed(&mut state, b'a');
        assert_eq!(search.begun(state), 0b10);
        search.feed(&mut state, b'x');
        assert_eq!(search.begun(state), 0b11);
        search.feed(&mut state, b'z');
        assert_eq!(search.begun(state), 0);
    }
}
