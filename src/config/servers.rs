//! The entries of `servers`, in the schema of mcp.json.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::resolve::{expand_home, timeout};
use super::section::{Context, Key, Section, optional};
use crate::mcp::{ServerSettings, Transport};

/// The keys of an entry.
pub(super) const KEYS: &[Key] = &[
    optional("type"),
    optional("command"),
    optional("args"),
    optional("env"),
    optional("cwd"),
    optional("url"),
    optional("headers"),
    optional("timeout_seconds"),
    optional("tools"),
    optional("disabled"),
];

/// Which keys belong to which type.
const OF_STDIO: [&str; 4] = ["command", "args", "env", "cwd"];
const OF_HTTP: [&str; 2] = ["url", "headers"];

/// The values of `type`, apart from `sse`, which is refused with advice.
pub(super) const STDIO: &str = "stdio";
pub(super) const HTTP: [&str; 3] = ["http", "streamable-http", "streamableHttp"];

/// How servers without `timeout_seconds` are timed out.
const TIMEOUT_SECONDS: u64 = 60;

#[derive(Clone, Copy, PartialEq)]
enum Type {
    Stdio,
    Http,
}

/// All servers that are not disabled, in the order written.
pub(super) fn servers(
    c: &mut Context<'_>,
    value: Option<&Value>,
    folder: &Path,
) -> Vec<ServerSettings> {
    let Some(value) = value else {
        return Vec::new();
    };
    let Value::Object(entries) = value else {
        c.wrong_type("servers", value, "an object of entries by name, or {}");
        return Vec::new();
    };
    let servers: Vec<_> = entries
        .iter()
        .filter(|(_, entry)| !is_disabled(entry))
        .filter_map(|(name, entry)| server(c, name, entry, folder))
        .collect();
    refuse_names_too_alike(c, &servers);
    servers
}

/// A disabled entry is not looked at any further, so that it needs no
/// secrets and may be half finished.
fn is_disabled(entry: &Value) -> bool {
    entry.get("disabled") == Some(&Value::Bool(true))
}

/// Tools of the same name get their server's name before theirs, so two
/// servers must differ in more than capitals and punctuation.
fn refuse_names_too_alike(c: &mut Context<'_>, servers: &[ServerSettings]) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for ServerSettings { name, .. } in servers {
        let plain = name.to_lowercase();
        let plain = plain.replace(|c: char| !c.is_alphanumeric(), "_");
        match seen.get(&plain) {
            None => {
                seen.insert(plain, name);
            }
            Some(other) => c.fault(
                format!("servers.{name}"),
                format!("is too much like \"{other}\" to tell their tools apart"),
                "give one of them another name",
            ),
        }
    }
}

fn server(c: &mut Context<'_>, name: &str, entry: &Value, folder: &Path) -> Option<ServerSettings> {
    let key = format!("servers.{name}");
    if name.trim().is_empty() || name.chars().any(char::is_control) || name.len() > 64 {
        c.fault(
            "servers",
            "has an entry whose name is empty, too long or not plain text",
            "name each server with 1 to 64 letters, digits, - or _",
        );
        return None;
    }
    let Value::Object(object) = entry else {
        c.wrong_type(&key, entry, "an object with \"command\" or \"url\"");
        return None;
    };
    let section = Section::new(c, format!("{key}."), object, KEYS, &[]);
    section.flag(c, "disabled");
    let timeout = timeout(c, &section, "timeout_seconds", TIMEOUT_SECONDS);
    let tools = section.texts(c, "tools");
    let transport = match type_of(c, &key, &section)? {
        Type::Stdio => stdio(c, &section, folder),
        Type::Http => http(c, &section),
    };
    Some(ServerSettings {
        name: name.to_owned(),
        transport: transport?,
        timeout,
        tools,
    })
}

/// The type as written, or as the other keys tell it.
fn type_of(c: &mut Context<'_>, key: &str, section: &Section<'_>) -> Option<Type> {
    let has = |name: &&str| section.get(name).is_some();
    let kind = match section.get("type") {
        Some(_) => written_type(c, section)?,
        None => match (has(&"command"), has(&"url")) {
            (true, false) => Type::Stdio,
            (false, true) => Type::Http,
            (true, true) => {
                c.fault(
                    key,
                    "has both \"command\" and \"url\"",
                    "keep \"command\" for a program or \"url\" for a server on the network",
                );
                return None;
            }
            (false, false) => {
                c.fault(
                    key,
                    "has neither \"command\" nor \"url\"",
                    "add \"command\" (a program) or \"url\" (a server on the network)",
                );
                return None;
            }
        },
    };
    let (needed, foreign, name): (_, &[&str], _) = match kind {
        Type::Stdio => ("command", &OF_HTTP, STDIO),
        Type::Http => ("url", &OF_STDIO, HTTP[0]),
    };
    for foreign in foreign.iter().filter(|name| has(name)) {
        c.fault(
            section.key(foreign),
            format!("has no meaning for a server of type {name}"),
            "remove it or change \"type\"",
        );
    }
    if !has(&needed) {
        c.fault(
            section.key(needed),
            format!("is missing, and a server of type {name} needs it"),
            "add it",
        );
        return None;
    }
    Some(kind)
}

fn written_type(c: &mut Context<'_>, section: &Section<'_>) -> Option<Type> {
    let written = section.text(c, "type")?;
    let (problem, mend) = match written.as_str() {
        STDIO => return Some(Type::Stdio),
        kind if HTTP.contains(&kind) => return Some(Type::Http),
        "sse" => (
            "is the old SSE transport, which is not supported",
            "write \"http\" and the server's streamable HTTP address \
             (most servers have one, often at /mcp instead of /sse)",
        ),
        _ => (
            "is not a type of server",
            "write \"stdio\" for a program or \"http\" for a server on the network",
        ),
    };
    c.fault(section.key("type"), problem, mend);
    None
}

fn stdio(c: &mut Context<'_>, section: &Section<'_>, folder: &Path) -> Option<Transport> {
    let command = section.filled(c, "command");
    let args = section.texts(c, "args").unwrap_or_default();
    let env = pairs(c, section, "env");
    for name in env.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            c.fault(
                section.key("env"),
                "has a name that is empty or holds = or NUL",
                "name each variable with letters, digits and _",
            );
        }
    }
    let cwd = section.filled(c, "cwd").and_then(|written| {
        let path: PathBuf = expand_home(c, &section.key("cwd"), &written)?;
        Some(folder.join(path))
    });
    Some(Transport::Stdio {
        command: command?,
        args,
        env,
        cwd,
    })
}

fn http(c: &mut Context<'_>, section: &Section<'_>) -> Option<Transport> {
    let url = section.text(c, "url");
    let is_http = |url: &String| {
        reqwest::Url::parse(url)
            .is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
    };
    if url.as_ref().is_some_and(|url| !is_http(url)) {
        c.fault(
            section.key("url"),
            "is not an http or https address",
            "write it in full, for example http://localhost:3000/mcp",
        );
    }
    let headers = pairs(c, section, "headers");
    for (name, value) in &headers {
        if HeaderName::from_bytes(name.as_bytes()).is_err() {
            c.fault(
                section.key("headers"),
                format!("has a name that no header can have: {name:?}"),
                "name it with letters, digits and -",
            );
        }
        if HeaderValue::from_str(value).is_err() {
            c.fault(
                section.key(&format!("headers.{name}")),
                "has a value that no header can have",
                "remove line breaks and other control characters from it",
            );
        }
    }
    Some(Transport::Http { url: url?, headers })
}

/// An object of texts.
fn pairs(c: &mut Context<'_>, section: &Section<'_>, name: &str) -> BTreeMap<String, String> {
    let key = section.key(name);
    match section.get(name) {
        None => BTreeMap::new(),
        Some(Value::Object(object)) => texts_by_name(c, &key, object),
        Some(value) => {
            c.wrong_type(&key, value, "an object of texts: {\"NAME\": \"value\"}");
            BTreeMap::new()
        }
    }
}

fn texts_by_name(
    c: &mut Context<'_>,
    key: &str,
    object: &Map<String, Value>,
) -> BTreeMap<String, String> {
    object
        .iter()
        .filter_map(|(name, value)| {
            let text = c.text(&format!("{key}.{name}"), value)?;
            Some((name.clone(), text))
        })
        .collect()
}
