//! `llm-server demo`: the bundled model with the bundled tools, served with
//! nothing configured.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Map;

use super::{Failure, cli, print, serve, with_log};
use crate::backend::BackendChoice;
use crate::chat;
use crate::config::{Config, Host, Limits, Listen, ModelChoice, ModelName};
use crate::demo::MODEL_NAME;
use crate::logging::{self, Level};
use crate::mcp::{ServerSettings, Transport};
use crate::model;
use crate::session;

/// Where the search for a free port begins, and how far it goes.
const FIRST_PORT: u16 = 8080;
const PORTS: u16 = 20;

/// The bundled model was trained to this many tokens of context; a result
/// of this many characters leaves room for the rest.
const TOOL_RESULT_LIMIT: usize = 1000;

pub(super) async fn run(options: cli::Demo) -> Result<(), Failure> {
    let port = match options.port {
        Some(port) => port,
        None => serve::free_port(FIRST_PORT, PORTS).await.ok_or_else(|| {
            Failure::new(format_args!(
                "no port from {FIRST_PORT} on is free; name one with --port"
            ))
        })?,
    };
    let config = config(port, &options.tools)?;
    let greeting = |address: SocketAddr| greet(address, &config);
    with_log(
        &config.log,
        &[],
        serve::serve(&config, model::load, greeting),
    )
    .await
}

/// The same configuration a file would give.
fn config(port: u16, tools: &cli::Tools) -> Result<Config, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format_args!("cannot find this program: {error}")))?;
    let root = tools.root.canonicalize().map_err(|error| {
        Failure::new(format_args!(
            "cannot use the folder {}: {error}",
            tools.root.display()
        ))
    })?;
    let mut args = vec![
        "tools".to_owned(),
        "--root".to_owned(),
        root.to_string_lossy().into_owned(),
    ];
    if let Some(url) = &tools.weather_url {
        args.extend(["--weather-url".to_owned(), url.clone()]);
    }
    let log = format!("llm-server-demo-{}.log", std::process::id());
    Ok(Config {
        model: ModelChoice {
            model_name: ModelName::Repository(MODEL_NAME.to_owned()),
            revision: None,
            backend: BackendChoice::Auto,
            context_length: None,
            prefix_cache_bytes: None,
            prefix_cache_dir: None,
            adapter_path: None,
            quantize: None,
            threads: None,
        },
        chat: chat::Settings {
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            min_tokens_to_keep: 1,
            max_tokens: 256,
            seed: None,
            template_args: Map::new(),
        },
        session: session::Settings {
            system_prompt: String::new(),
            max_tool_rounds: 6,
            tool_result_limit: TOOL_RESULT_LIMIT,
        },
        servers: vec![ServerSettings {
            name: "tools".to_owned(),
            transport: Transport::Stdio {
                command: program.to_string_lossy().into_owned(),
                args,
                env: BTreeMap::new(),
                cwd: None,
            },
            timeout: Duration::from_secs(30),
            tools: None,
        }],
        listen: Listen {
            host: Host::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port,
        },
        limits: Limits {
            request_timeout: Duration::from_secs(120),
            shutdown_grace: Duration::from_secs(10),
            max_concurrent_requests: 8,
            max_queued_requests: 64,
        },
        log: logging::Settings {
            level: Level::Info,
            file: std::env::temp_dir().join(log),
            to_stderr: Some(Level::Warning),
        },
        secrets: Vec::new(),
    })
}

/// What to do now.
fn greet(address: SocketAddr, config: &Config) -> Result<(), Failure> {
    let log = config.log.file.display();
    print(format_args!(
        "\
llm-server demo: a model of 4 million parameters that knows how to call tools, and little else.
Listening on http://{address} (log: {log}). Ctrl-C ends it. Try, in another terminal:

  curl -d '{{\"prompt\": \"what time is it in Tokyo?\"}}' http://{address}
  curl -d '{{\"prompt\": \"what is 17 * 23?\"}}' http://{address}
  curl -d '{{\"prompt\": \"what is 17 * 23 and what time is it in Tokyo?\"}}' http://{address}
"
    ))
}
