//! Keeps what a server's settings may hold in secret out of logs and errors.
//! Knows nothing of where the texts come from.

use super::{ServerSettings, Transport};

/// Shorter values are too likely to be part of an ordinary word.
const SHORTEST: usize = 6;

/// The values of one server that must not be shown.
#[derive(Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Header values, the user information and query of a URL, and the
    /// environment variables whose name says that they are secret.
    pub(super) fn of(settings: &ServerSettings) -> Self {
        let mut values = Vec::new();
        match &settings.transport {
            Transport::Stdio { env, .. } => values.extend(
                env.iter()
                    .filter(|(name, _)| sounds_secret(name))
                    .map(|(_, value)| value.clone()),
            ),
            Transport::Http { url, headers } => {
                for value in headers.values() {
                    // "Bearer abc": the token alone is secret as well.
                    values.extend(value.split_whitespace().last().map(str::to_owned));
                    values.push(value.clone());
                }
                values.extend(url.split_once('?').map(|(_, query)| query.to_owned()));
                if let Ok(url) = reqwest::Url::parse(url) {
                    values.extend(url.query().map(str::to_owned));
                    values.extend(url.password().map(str::to_owned));
                    values.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
                }
            }
        }
        values.retain(|value| value.len() >= SHORTEST);
        // The longest first, so that no value leaves the rest of another behind.
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        Self(values)
    }

    /// The text with every secret replaced.
    pub(super) fn hide(&self, text: &str) -> String {
        self.0
            .iter()
            .filter(|secret| !secret.is_empty())
            .fold(text.to_owned(), |text, secret| {
                if text.contains(secret.as_str()) {
                    text.replace(secret.as_str(), "***")
                } else {
                    text
                }
            })
    }
}

fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["KEY", "TOKEN", "SECRET", "PASS", "AUTH", "CREDENTIAL"]
        .iter()
        .any(|part| name.contains(part))
}

/// A URL without user information, query and fragment.
pub(super) fn bare_url(url: &str) -> String {
    match reqwest::Url::parse(url) {
        Ok(mut url) => {
            // These fail only on URLs that cannot have a user, which then have none.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.set_query(None);
            url.set_fragment(None);
            url.into()
        }
        Err(_) => "(not a URL)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(transport: Transport) -> ServerSettings {
        ServerSettings {
            name: "s".to_owned(),
            transport,
            timeout: Duration::from_secs(1),
            tools: None,
        }
    }

    fn http() -> ServerSettings {
        settings(Transport::Http {
            url: "http://user:hunter22@host/mcp?key=qqqqqq&x=y".to_owned(),
            headers: [("Authorization".to_owned(), "Bearer abcdefgh".to_owned())].into(),
        })
    }

    fn stdio() -> ServerSettings {
        settings(Transport::Stdio {
            command: "npx".to_owned(),
            args: vec!["--password=hunter22".to_owned()],
            env: [
                ("API_KEY".to_owned(), "abcdefgh".to_owned()),
                ("HOME".to_owned(), "/home/someone".to_owned()),
            ]
            .into(),
            cwd: None,
        })
    }

    #[test]
    fn debug_shows_no_secret() {
        for settings in [http(), stdio()] {
            let text = format!("{settings:?}");
            for secret in ["hunter22", "qqqqqq", "abcdefgh", "x=y"] {
                assert!(!text.contains(secret), "{text}");
            }
        }
        assert!(format!("{:?}", http()).contains("http://host/mcp"));
        assert!(format!("{:?}", stdio()).contains("API_KEY"));
    }

    #[test]
    fn texts_lose_their_secrets_and_nothing_else() {
        let hidden =
            Secrets::of(&http()).hide("sent abcdefgh and key=qqqqqq&x=y as hunter22 to host");
        assert_eq!(hidden, "sent *** and *** as *** to host");
        let hidden = Secrets::of(&stdio()).hide("in /home/someone with abcdefgh");
        assert_eq!(hidden, "in /home/someone with ***");
    }
}
