//! Tags around raw text: nothing in the text is escaped, so that what closes it
//! may be part of it.
//!
//! A text ends at the first closing tag that is followed, blanks aside, by a tag
//! that may follow it. So a text may have any of the tags in it but for that
//! one pair.

/// The raw text that `text` begins with, and what is behind its closing tag,
/// without blanks. `None` if its end is not there, or not what follows it.
pub(super) fn raw<'a>(
    text: &'a str,
    closing: &str,
    followers: &[&str],
) -> Option<(&'a str, &'a str)> {
    text.match_indices(closing).find_map(|(at, _)| {
        let next = text[at + closing.len()..].trim_start();
        let follows = followers.iter().any(|tag| next.starts_with(tag));
        follows.then_some((&text[..at], next))
    })
}

/// How much of `text` is before its end `rest`.
pub(super) fn length_before(text: &str, rest: &str) -> usize {
    text.len() - rest.len()
}

/// The text between `opening` and the next `closing`, wherever in `text`;
/// trimmed, and `None` if it is empty.
pub(super) fn between(text: &str, opening: &str, closing: &str) -> Option<String> {
    let (_, behind) = text.split_once(opening)?;
    let (found, _) = behind.split_once(closing)?;
    let found = found.trim();
    (!found.is_empty()).then(|| found.to_owned())
}
