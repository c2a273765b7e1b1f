//! What the process's environment says about the hub, read once. The
//! variables and their order of precedence are those of Python's
//! `huggingface_hub`, so that both programs share one cache and one login.
//! Does not touch the network, nor the cache.

use std::path::{Path, PathBuf};

/// Where the hub is when nobody says otherwise.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// The hub, the cache, and how to behave. Not `Debug`: it holds a token.
#[derive(Clone)]
pub struct HubEnv {
    /// Where repositories are cached, one folder each.
    pub cache: PathBuf,
    /// The hub's base address, without a slash at its end.
    pub endpoint: String,
    /// The user's access token.
    pub token: Option<String>,
    /// Never use the network.
    pub offline: bool,
}

impl HubEnv {
    /// The settings of this process.
    pub fn from_process() -> Self {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// The settings that `variable` gives. An empty variable counts as unset.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let user_home = get("HOME").map(PathBuf::from);
        let path = |name: &str| get(name).map(|value| expand(&value, user_home.as_deref()));

        let home = path("HF_HOME").unwrap_or_else(|| {
            path("XDG_CACHE_HOME")
                .unwrap_or_else(|| expand("~/.cache", user_home.as_deref()))
                .join("huggingface")
        });
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .unwrap_or_else(|| home.join("hub"));
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let token = (!is_true(get("HF_HUB_DISABLE_IMPLICIT_TOKEN")))
            .then(|| {
                get("HF_TOKEN").or_else(|| {
                    let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
                    std::fs::read_to_string(file).ok()
                })
            })
            .flatten()
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        Self {
            cache,
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token,
            offline: is_true(get("HF_HUB_OFFLINE")) || is_true(get("TRANSFORMERS_OFFLINE")),
        }
    }
}

/// What Python's `huggingface_hub` takes for yes.
fn is_true(value: Option<String>) -> bool {
    value.is_some_and(|value| {
        let value = value.trim().to_ascii_uppercase();
        ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
    })
}

/// The path with a leading `~` replaced by the user's home.
pub(super) fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_owned(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(rest.trim_matches('/')),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn env(variables: &[(&str, &str)]) -> HubEnv {
        HubEnv::from_variables(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables: &[(&str, &str)]| env(variables).cache.display().to_string();
        let home = ("HOME", "/h");
        assert_eq!(cache(&[home]), "/h/.cache/huggingface/hub");
        assert_eq!(
            cache(&[home, ("XDG_CACHE_HOME", "/x")]),
            "/x/huggingface/hub"
        );
        assert_eq!(cache(&[home, ("HF_HOME", "~/hf")]), "/h/hf/hub");
        assert_eq!(
            cache(&[home, ("HF_HOME", "/a"), ("HUGGINGFACE_HUB_CACHE", "/b")]),
            "/b"
        );
        assert_eq!(
            cache(&[
                home,
                ("HUGGINGFACE_HUB_CACHE", "/b"),
                ("HF_HUB_CACHE", "/c")
            ]),
            "/c"
        );
        assert_eq!(
            cache(&[home, ("HF_HUB_CACHE", "")]),
            "/h/.cache/huggingface/hub"
        );
    }

    #[test]
    fn the_token_comes_from_the_variable_then_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(env(&[("HF_HOME", home)]).token, None);
        std::fs::write(folder.path().join("token"), "from-home\n").unwrap();
        let other = folder.path().join("other");
        std::fs::write(&other, "from-path").unwrap();
        let at_home = ("HF_HOME", home);
        let at_path = ("HF_TOKEN_PATH", other.to_str().unwrap());
        let token = |variables: &[(&str, &str)]| env(variables).token.unwrap_or_default();
        assert_eq!(token(&[at_home]), "from-home");
        assert_eq!(token(&[at_home, at_path]), "from-path");
        assert_eq!(
            token(&[at_home, at_path, ("HF_TOKEN", "direct\n")]),
            "direct"
        );
        assert_eq!(
            token(&[at_home, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]),
            ""
        );
    }

    #[test]
    fn endpoint_and_offline() {
        assert_eq!(env(&[]).endpoint, "https://huggingface.co");
        assert_eq!(
            env(&[("HF_ENDPOINT", "http://mirror:1/x/")]).endpoint,
            "http://mirror:1/x"
        );
        assert!(!env(&[]).offline);
        assert!(!env(&[("HF_HUB_OFFLINE", "0")]).offline);
        for yes in ["1", "true", "ON", "Yes"] {
            assert!(env(&[("HF_HUB_OFFLINE", yes)]).offline, "{yes}");
        }
    }
}
