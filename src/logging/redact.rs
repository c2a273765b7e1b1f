//! Replaces the values of secrets in text. Knows nothing of where the text
//! comes from or goes to.

use std::borrow::Cow;

/// What stands where a secret was.
const MASK: &str = "***";

/// Shorter values are left alone: `on`, `1` or `de` would be found inside
/// ordinary words and make the log unreadable, and hide nothing, since what
/// was masked could be read off the gaps.
const SHORTEST: usize = 4;

/// Replaces secrets by `***`.
#[derive(Default)]
pub struct Redactor {
    /// What is looked for, longest first, so that a secret which contains
    /// another one is replaced as a whole.
    needles: Vec<String>,
}

impl Redactor {
    /// A redactor for these values, each also in the forms it takes inside a
    /// quoted string (once and twice), a JSON string and a URL. Each line of
    /// a value of several lines is looked for too, as it may be logged alone.
    pub fn new<S: AsRef<str>>(secrets: impl IntoIterator<Item = S>) -> Self {
        let mut needles = Vec::new();
        for secret in secrets {
            let secret = secret.as_ref();
            for part in std::iter::once(secret).chain(secret.lines()) {
                if part.chars().count() >= SHORTEST {
                    needles.extend(forms(part));
                }
            }
        }
        needles.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        needles.dedup();
        Self { needles }
    }

    /// The text without the secrets.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for needle in &self.needles {
            if text.contains(needle.as_str()) {
                text = Cow::Owned(text.replace(needle.as_str(), MASK));
            }
        }
        text
    }
}

fn forms(secret: &str) -> [String; 5] {
    let quoted = inside_quotes(format!("{secret:?}"));
    [
        secret.to_owned(),
        inside_quotes(format!("{quoted:?}")),
        inside_quotes(serde_json::Value::from(secret).to_string()),
        percent_encoded(secret),
        quoted,
    ]
}

fn inside_quotes(quoted: String) -> String {
    quoted[1..quoted.len() - 1].to_owned()
}

fn percent_encoded(secret: &str) -> String {
    let mut encoded = String::with_capacity(secret.len());
    for byte in secret.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_masked() {
        let secret = "p\"q\\r s\nsecond line";
        let redactor = Redactor::new([secret]);
        for text in [
            format!("raw {secret}."),
            format!("debug {secret:?}."),
            format!("twice {:?}.", format!("{secret:?}")),
            format!("json {}.", serde_json::json!({ "k": secret })),
            "url http://h/?k=p%22q%5Cr%20s%0Asecond%20line.".to_owned(),
            "one line alone: second line.".to_owned(),
        ] {
            let clean = redactor.redact(&text);
            assert!(clean.contains(MASK), "{clean}");
            assert!(!clean.contains("second"), "{clean}");
        }
    }

    #[test]
    fn the_longer_secret_goes_first() {
        let redactor = Redactor::new(["token", "token-and-more"]);
        assert_eq!(
            redactor.redact("a token-and-more b token c"),
            "a *** b *** c"
        );
    }

    #[test]
    fn short_and_empty_values_are_left_alone() {
        let redactor = Redactor::new(["", "1", "abc"]);
        assert_eq!(redactor.redact("abc 1"), "abc 1");
    }

    #[test]
    fn text_without_secrets_is_not_copied() {
        let redactor = Redactor::new(["hidden"]);
        assert!(matches!(redactor.redact("plain"), Cow::Borrowed("plain")));
    }
}
