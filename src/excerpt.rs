//! The beginning of a text from outside, for a line of the log or a prompt
//! with a limit. Knows nothing of what the text is.

/// How much of a text from outside goes into one line of the log.
const LOGGED_CHARACTERS: usize = 2000;

/// The first `limit` characters of `text`.
pub(crate) fn head(text: &str, limit: usize) -> &str {
    match text.char_indices().nth(limit) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// The beginning of `text`, as long as a line of the log may be.
pub(crate) fn logged(text: &str) -> &str {
    head(text, LOGGED_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::{head, logged};

    #[test]
    fn a_head_is_cut_between_characters() {
        assert_eq!(head("naïve 🗼!", 3), "naï");
        assert_eq!(head("naïve 🗼!", 7), "naïve 🗼");
        assert_eq!(head("naïve", 5), "naïve");
        assert_eq!(head("", 0), "");
        assert_eq!(logged(&"é".repeat(3000)).chars().count(), 2000);
    }
}
