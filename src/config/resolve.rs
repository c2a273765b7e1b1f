//! The top level of the configuration: what each key means and which values
//! it may have.

use std::net::IpAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::secrets::Secrets;
use super::section::{Context, Key, Section, optional, required};
use super::servers;
use super::{
    BackendChoice, Config, Environment, Faults, Host, Limits, Listen, ModelChoice, ModelName,
};
use crate::chat::ChatTemplate;
use crate::model::Quantize;
use crate::{chat, logging, session};

/// The keys of the top level.
pub(super) const KEYS: &[Key] = &[
    required("model_name", "\"mlx-community/Qwen3-4B-4bit\""),
    required("listening_port", "8080"),
    required("servers", "{}"),
    required("system_prompt", "\"You are a helpful assistant.\""),
    required("temperature", "0.7"),
    required("top_p", "0.8"),
    required("min_p", "0.0"),
    required("min_tokens_to_keep", "1"),
    required("log_level", "\"info\""),
    required("log_filename", "\"~/Library/Logs/llm-server.log\""),
    optional("host"),
    optional("backend"),
    optional("revision"),
    optional("max_tokens"),
    optional("context_length"),
    optional("prefix_cache_bytes"),
    optional("prefix_cache_dir"),
    optional("adapter_path"),
    optional("quantize"),
    optional("threads"),
    optional("max_tool_rounds"),
    optional("tool_result_limit"),
    optional("request_timeout_seconds"),
    optional("shutdown_grace_seconds"),
    optional("max_concurrent_requests"),
    optional("max_queued_requests"),
    optional("seed"),
    optional("chat_template_args"),
    // For editors; ignored.
    optional("$schema"),
];

/// Further spellings.
pub(super) const ALIASES: &[(&str, &str)] = &[("mcpServers", "servers")];

/// The most of anything that is counted; keeps sums of counts in range.
const MANY: u64 = 1_000_000_000;

/// The most bytes that can be set: a petabyte.
const MOST_BYTES: u64 = 1_000_000_000_000_000;

/// The most threads that can be set.
const MOST_THREADS: u64 = 1024;

/// The longest time that can be set: a year.
pub(super) const LONGEST_SECONDS: f64 = 31_536_000.0;

/// Checks the document and builds the configuration from it. `folder` is
/// where the file lies.
pub(super) fn resolve(
    document: &Map<String, Value>,
    folder: &Path,
    environment: Environment<'_>,
) -> Result<Config, Faults> {
    let mut faults = Vec::new();
    let secrets = Secrets::new(folder, environment, &mut faults);
    let mut context = Context { secrets, faults };
    let c = &mut context;
    let top = Section::new(c, String::new(), document, KEYS, ALIASES);

    // Where a key is faulty its default, or anything, stands in: nothing is
    // made of it, since a configuration with faults is not returned.
    let log = log(c, &top);
    let model = model(c, &top, folder);
    let chat = chat(c, &top);
    let session = session::Settings {
        system_prompt: top.text(c, "system_prompt").unwrap_or_default(),
        max_tool_rounds: count(c, &top, "max_tool_rounds", 0).unwrap_or(16),
        tool_result_limit: count(c, &top, "tool_result_limit", 1).unwrap_or(20_000),
    };
    let servers = servers::servers(c, top.get("servers"), folder);
    let listen = listen(c, &top);
    let limits = limits(c, &top);

    let Context { secrets, faults } = context;
    match log {
        Some(log) if faults.is_empty() => Ok(Config {
            model,
            chat,
            session,
            servers,
            listen,
            limits,
            log,
            secrets: secrets.into_given(),
        }),
        log => Err(Faults { faults, log }),
    }
}

fn count(c: &mut Context<'_>, top: &Section<'_>, name: &str, least: u64) -> Option<usize> {
    let count = top.whole(c, name, least..=MANY)?;
    usize::try_from(count).ok()
}

/// The log's settings if level and file are both fine.
fn log(c: &mut Context<'_>, top: &Section<'_>) -> Option<logging::Settings> {
    let level = top.text(c, "log_level").and_then(|name| {
        let level = name.parse().ok();
        if level.is_none() {
            let names = logging::Level::NAMES.join(", ");
            c.fault(
                "log_level",
                "is not a level",
                format!("write one of {names}"),
            );
        }
        level
    });
    let file = top.filled(c, "log_filename").and_then(|written| {
        let file = expand_home(c, "log_filename", &written)?;
        let names_a_file = file.file_name().is_some() && !written.ends_with('/');
        if !file.is_absolute() || !names_a_file {
            c.fault(
                "log_filename",
                "is not the full path of a file",
                "write a path that begins with / or ~/ and ends with the file's name",
            );
            return None;
        }
        Some(file)
    });
    Some(logging::Settings {
        level: level?,
        file: file?,
        to_stderr: None,
    })
}

fn model(c: &mut Context<'_>, top: &Section<'_>, folder: &Path) -> ModelChoice {
    let model_name = top
        .filled(c, "model_name")
        .and_then(|written| model_name(c, &written, folder));
    let backend = top.text(c, "backend").and_then(|name| {
        let choice = BackendChoice::NAMES
            .iter()
            .find(|(known, _)| *known == name);
        if choice.is_none() {
            let names = BackendChoice::NAMES.map(|(name, _)| name).join(", ");
            c.fault(
                "backend",
                "is not a backend",
                format!("write one of {names}"),
            );
        }
        choice.map(|(_, choice)| *choice)
    });
    ModelChoice {
        model_name: model_name.unwrap_or_else(|| ModelName::Repository(String::new())),
        revision: top.filled(c, "revision"),
        backend: backend.unwrap_or(BackendChoice::Auto),
        context_length: count(c, top, "context_length", 1),
        prefix_cache_bytes: top
            .whole(c, "prefix_cache_bytes", 0..=MOST_BYTES)
            .and_then(|bytes| usize::try_from(bytes).ok()),
        prefix_cache_dir: path(c, top, "prefix_cache_dir", folder),
        adapter_path: path(c, top, "adapter_path", folder),
        quantize: quantize(c, top),
        threads: top
            .whole(c, "threads", 1..=MOST_THREADS)
            .and_then(|count| NonZero::new(count as usize)),
    }
}

fn quantize(c: &mut Context<'_>, top: &Section<'_>) -> Option<Quantize> {
    let bits = top.number(
        c,
        "quantize",
        "4 or 8, the bits of a weight, or leave it out",
        |bits| bits == 4.0 || bits == 8.0,
    )?;
    Quantize::of_bits(bits as u64)
}

/// The path at `key`, where relative ones are `folder`'s.
fn path(
    c: &mut Context<'_>,
    top: &Section<'_>,
    key: &'static str,
    folder: &Path,
) -> Option<PathBuf> {
    let written = top.filled(c, key)?;
    Some(folder.join(expand_home(c, key, &written)?))
}

fn model_name(c: &mut Context<'_>, written: &str, folder: &Path) -> Option<ModelName> {
    let is_folder = [".", ".."].contains(&written)
        || ["/", "./", "../", "~"]
            .iter()
            .any(|s| written.starts_with(s));
    if is_folder {
        let path = expand_home(c, "model_name", written)?;
        return Some(ModelName::Folder(folder.join(path)));
    }
    let is_part = |part: &str| {
        !part.is_empty()
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let parts: Vec<_> = written.split('/').collect();
    if parts.len() > 2 || !parts.iter().all(|part| is_part(part)) {
        c.fault(
            "model_name",
            "is neither a Hugging Face repository nor a folder",
            "write owner/name, without an address before it or a revision after it, \
             or a folder that begins with /, ./, ../ or ~/",
        );
        return None;
    }
    Some(ModelName::Repository(written.to_owned()))
}

fn chat(c: &mut Context<'_>, top: &Section<'_>) -> chat::Settings {
    // Checked as the f32 that is used: 1e-60 is 0 then, and 1e60 infinite.
    let mut number = |name, wanted, accepts: fn(f32) -> bool| {
        top.number(c, name, wanted, |n| accepts(n as f32))
            .unwrap_or_default() as f32
    };
    let temperature = number(
        "temperature",
        "a number, 0 (always the likeliest token) or more",
        |n| n >= 0.0 && n.is_finite(),
    );
    let top_p = number("top_p", "a number from 0 to 1 (either keeps all)", |n| {
        (0.0..=1.0).contains(&n)
    });
    let min_p = number("min_p", "a number from 0 (which keeps all) to 1", |n| {
        (0.0..=1.0).contains(&n)
    });
    chat::Settings {
        temperature,
        top_p,
        min_p,
        min_tokens_to_keep: count(c, top, "min_tokens_to_keep", 1).unwrap_or(1),
        max_tokens: count(c, top, "max_tokens", 1).unwrap_or(4096),
        seed: top.whole(c, "seed", 0..=u64::MAX),
        template_args: template_args(c, top),
    }
}

/// The chat template's variables, by name.
fn template_args(c: &mut Context<'_>, top: &Section<'_>) -> Map<String, Value> {
    const KEY: &str = "chat_template_args";
    let mut args = Map::new();
    let Some(value) = top.get(KEY) else {
        return args;
    };
    let Value::Object(written) = value else {
        let wanted = "an object of variables, such as {\"enable_thinking\": false}";
        c.wrong_type(KEY, value, wanted);
        return args;
    };
    for (name, value) in written {
        let key = format!("{KEY}.{name}");
        let starts_well = name.starts_with(|first: char| !first.is_ascii_digit());
        let is_name = name
            .chars()
            .all(|each| each.is_ascii_alphanumeric() || each == '_');
        if !starts_well || !is_name {
            let mend = "write letters, digits and _, not beginning with a digit";
            c.fault(key, "is no variable's name", mend);
        } else if ChatTemplate::is_reserved(name) {
            c.fault(key, "is set by this program", "remove it");
        } else if let Some(value) = substituted(c, &key, value) {
            args.insert(name.clone(), value);
        }
    }
    args
}

/// A value with `${NAME}` substituted in all its texts; `None` after a fault.
fn substituted(c: &mut Context<'_>, key: &str, value: &Value) -> Option<Value> {
    match value {
        Value::String(_) => c.text(key, value).map(Value::String),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| substituted(c, &format!("{key}[{index}]"), item))
            .collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, member)| {
                let member = substituted(c, &format!("{key}.{name}"), member)?;
                Some((name.clone(), member))
            })
            .collect(),
        other => Some(other.clone()),
    }
}

fn listen(c: &mut Context<'_>, top: &Section<'_>) -> Listen {
    let port = top.whole(c, "listening_port", 1..=u16::MAX.into());
    let host = top.filled(c, "host").and_then(|written| {
        let host = host(&written);
        if host.is_none() {
            c.fault(
                "host",
                "is neither an address nor a host name",
                "write 127.0.0.1 for this machine alone or 0.0.0.0 for all networks; \
                 the port has a key of its own",
            );
        }
        host
    });
    Listen {
        host: host.unwrap_or(Host::Address(IpAddr::from([127, 0, 0, 1]))),
        port: port.and_then(|port| port.try_into().ok()).unwrap_or(0),
    }
}

fn host(written: &str) -> Option<Host> {
    let bare = written
        .strip_prefix('[')
        .and_then(|inside| inside.strip_suffix(']'))
        .unwrap_or(written);
    if let Ok(address) = bare.parse() {
        return Some(Host::Address(address));
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    // A last part of digits alone is an address with a mistake in it.
    let looks_numeric = written
        .rsplit('.')
        .next()
        .is_some_and(|last| last.chars().all(|c| c.is_ascii_digit()));
    let is_name = written.split('.').all(is_label) && !looks_numeric;
    is_name.then(|| Host::Name(written.to_owned()))
}

fn limits(c: &mut Context<'_>, top: &Section<'_>) -> Limits {
    let grace = top.number(
        c,
        "shutdown_grace_seconds",
        "a number of seconds, 0 or more, at most a year",
        |n| (0.0..=LONGEST_SECONDS).contains(&n),
    );
    Limits {
        request_timeout: timeout(c, top, "request_timeout_seconds", 600),
        shutdown_grace: grace.map_or(Duration::from_secs(30), Duration::from_secs_f64),
        max_concurrent_requests: count(c, top, "max_concurrent_requests", 1).unwrap_or(8),
        max_queued_requests: count(c, top, "max_queued_requests", 0).unwrap_or(64),
    }
}

/// A time-out in seconds: above 0, at most a year.
pub(super) fn timeout(
    c: &mut Context<'_>,
    section: &Section<'_>,
    name: &str,
    default: u64,
) -> Duration {
    let wanted = "a number of seconds above 0, at most a year";
    section
        .number(c, name, wanted, |n| {
            // Less than a nanosecond would be a time-out of nothing.
            (1e-9..=LONGEST_SECONDS).contains(&n)
        })
        .map_or(Duration::from_secs(default), Duration::from_secs_f64)
}

/// A path with `~` at its beginning replaced by the home folder.
pub(super) fn expand_home(c: &mut Context<'_>, key: &str, written: &str) -> Option<PathBuf> {
    let Some(inside) = written.strip_prefix('~') else {
        return Some(PathBuf::from(written));
    };
    if !inside.is_empty() && !inside.starts_with('/') {
        c.fault(
            key,
            "names another user's home",
            "write the path out, from /",
        );
        return None;
    }
    match c
        .secrets
        .environment("HOME")
        .filter(|home| !home.is_empty())
    {
        Some(home) => Some(Path::new(&home).join(inside.trim_start_matches('/'))),
        None => {
            c.fault(
                key,
                "begins with ~ but HOME is not set",
                "write the path out, from /",
            );
            None
        }
    }
}
