//! Regular expressions as llguidance's grammars have them.
//!
//! Knows nothing of schemas and formats.

use super::MAX_BLANKS;

/// Whitespace that may stand between two tags.
pub(super) fn optional_blanks() -> String {
    format!(r"[ \t\r\n]{{0,{MAX_BLANKS}}}")
}

/// An expression between slashes for a text that `pattern`, a JSON schema's,
/// is found in; none where that is not plain to see.
pub(super) fn whole(pattern: &str) -> Option<String> {
    let begins = pattern.strip_prefix('^');
    let inner = begins.unwrap_or(pattern);
    let ends = inner.strip_suffix('$').filter(|rest| !rest.ends_with('\\'));
    let inner = ends.unwrap_or(inner);
    // An anchor or a choice elsewhere may mean something else.
    let (mut in_class, mut depth) = (false, 0usize);
    let mut characters = inner.chars();
    let mut text = String::new();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                // These are of ASCII in a schema, and of Unicode here.
                match (characters.next()?, in_class) {
                    ('d', true) => text.push_str("0-9"),
                    ('d', false) => text.push_str("[0-9]"),
                    ('w', true) => text.push_str("A-Za-z0-9_"),
                    ('w', false) => text.push_str("[A-Za-z0-9_]"),
                    ('D' | 'W' | 'b' | 'B', _) => return None,
                    (escaped, _) => text.extend(['\\', escaped]),
                }
                continue;
            }
            '[' if !in_class => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth = depth.checked_sub(1)?,
            '|' if !in_class && depth == 0 => return None,
            '^' if !in_class => return None,
            '$' if !in_class => return None,
            '/' => text.push('\\'),
            '\n' => {
                text.push_str("\\n");
                continue;
            }
            _ => {}
        }
        text.push(character);
    }
    let before = if begins.is_some() { "" } else { "(?s:.*)" };
    let behind = if ends.is_some() { "" } else { "(?s:.*)" };
    Some(format!("/{before}({text}){behind}/"))
}

/// An expression for just this text, to stand between slashes.
pub(super) fn pattern(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\n' => pattern.push_str("\\n"),
            '\r' => pattern.push_str("\\r"),
            '\t' => pattern.push_str("\\t"),
            // Escaped, these two are edges of words.
            '<' | '>' => pattern.push(character),
            _ if character.is_ascii_punctuation() => pattern.extend(['\\', character]),
            _ if character.is_control() => pattern += &format!("\\x{{{:x}}}", u32::from(character)),
            _ => pattern.push(character),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_anywhere_unless_they_are_anchored() {
        for (found, expected) in [
            ("^a+$", Some("/(a+)/")),
            ("a/b", Some("/(?s:.*)(a\\/b)(?s:.*)/")),
            ("^\\d[\\w/]", Some("/([0-9][A-Za-z0-9_\\/])(?s:.*)/")),
            ("^(a|b)$", Some("/((a|b))/")),
            ("a\\$", Some("/(?s:.*)(a\\$)(?s:.*)/")),
            ("^a|b$", None),
            ("a^", None),
            ("a$b", None),
            ("\\bword", None),
            ("a)(", None),
            ("[\\D]", None),
        ] {
            assert_eq!(whole(found).as_deref(), expected, "{found}");
        }
    }

    #[test]
    fn a_text_is_escaped() {
        assert_eq!(pattern("<a/b>.\n東"), "<a\\/b>\\.\\n東");
    }
}
