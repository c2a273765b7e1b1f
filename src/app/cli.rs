//! The command line, as typed. Knows nothing of what the commands do.

use std::num::NonZero;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::backend::BackendChoice;
use crate::model::Quantize;

/// The configuration if none is named.
pub(super) const CONFIG: &str = "config.json";

/// Answers prompts with a local model that may call MCP tools.
///
/// Reads config.json in the current folder, starts the MCP servers it lists,
/// loads the model it names (downloading it the first time) and answers
///
///   curl -d '{"prompt": "…"}' http://127.0.0.1:8080
///
/// with {"response": "…"}.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = false,
    after_help = "\
Try it with nothing configured:
  llm-server demo

First steps with a model of your own:
  cp config.json.example config.json     edit it: model, port, servers, log file
  llm-server check                       says what is wrong or missing, if anything
  llm-server                             serves until SIGTERM or Ctrl-C

Exit codes: 0 ended as asked, 78 the configuration is wrong, 1 anything else."
)]
pub(super) struct Cli {
    /// The configuration.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = CONFIG
    )]
    pub(super) config: PathBuf,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Checks the configuration, starts the MCP servers, lists their tools and
    /// says whether the model is there.
    ///
    /// Exit codes: 0 everything is ready, 78 the configuration is wrong, 1 a
    /// server does not start or the model is not (completely) there.
    Check,
    /// Answers one prompt on stdout, with the same model and tools as the
    /// server.
    Ask {
        /// The prompt.
        prompt: String,
    },
    /// Measures how fast a model is on this computer: prefill, decoding, the
    /// time to the first token, the host's own time.
    Bench(Bench),
    /// Serves the small bundled model with the bundled tools: no
    /// configuration, no download.
    Demo(Demo),
    /// Says what a model is and whether it will fit into this computer's
    /// memory, without loading it. With --tokens, --render or --parse: what its
    /// decoder, its chat template or its replies' reader make of an input.
    Inspect(Inspect),
    /// Runs the bundled tools as an MCP server on stdin and stdout, for the
    /// `servers` of a configuration: time, arithmetic, files below one folder,
    /// temperature, this computer.
    Tools(Tools),
}

#[derive(Debug, Args)]
pub(super) struct Bench {
    /// A Hugging Face repository, a folder, or demo; the configuration's model
    /// if not given.
    #[arg(value_name = "MODEL")]
    pub(super) model: Option<String>,

    /// What runs the model, as in the configuration.
    #[arg(long, value_name = "BACKEND", value_parser = backend)]
    pub(super) backend: Option<BackendChoice>,

    /// 4 or 8: quantizes the model's floating-point matrices to so many bits at
    /// load, as in the configuration.
    #[arg(long, value_name = "BITS", value_parser = quantize)]
    pub(super) quantize: Option<Quantize>,

    /// How many threads compute on the CPU, as in the configuration.
    #[arg(long, value_name = "THREADS")]
    pub(super) threads: Option<NonZero<usize>>,

    /// Lengths of the prompts that prefill is measured with.
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [128, 512, 2048],
          value_parser = at_least::<1>)]
    pub(super) prompts: Vec<usize>,

    /// Numbers of streams that decode together.
    #[arg(long, value_name = "STREAMS", value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16],
          value_parser = at_least::<1>)]
    pub(super) streams: Vec<usize>,

    /// Tokens that each stream generates.
    #[arg(long, value_name = "TOKENS", default_value_t = 48, value_parser = at_least::<2>)]
    pub(super) generated: usize,

    /// Prefill and decoding alone, with nothing kept of the prompts: not the
    /// time to the first token and the host's own time.
    #[arg(long)]
    pub(super) rates_only: bool,

    /// One line of JSON instead of a table.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A Hugging Face repository (downloaded if it is not cached), a folder, or
    /// demo; the configuration's model if not given.
    #[arg(value_name = "MODEL")]
    pub(super) model: Option<String>,

    /// What runs the model, as in the configuration.
    #[arg(long, value_name = "BACKEND", value_parser = backend)]
    pub(super) backend: Option<BackendChoice>,

    /// 4 or 8: quantizes the model's floating-point matrices to so many bits at
    /// load, as in the configuration.
    #[arg(long, value_name = "BITS", value_parser = quantize)]
    pub(super) quantize: Option<Quantize>,

    /// One line of JSON instead of a table.
    #[arg(long)]
    pub(super) json: bool,

    /// Loads the model and prints, as a line of JSON, the 20 likeliest tokens
    /// after these token ids with their logits.
    #[arg(long, value_name = "IDS", value_parser = token_ids, conflicts_with_all = ["render", "parse", "json"])]
    pub(super) tokens: Option<TokenIds>,

    /// How many tokens the model goes on with behind those ids, always the
    /// likeliest.
    #[arg(long, value_name = "COUNT", requires = "tokens", default_value_t = 0)]
    pub(super) greedy: usize,

    /// Prints the prompt that the chat template makes of a conversation:
    /// {"messages": […], "tools": […]} in the shapes of OpenAI's API.
    #[arg(long, value_name = "CONVERSATION.json", conflicts_with_all = ["parse", "json"])]
    pub(super) render: Option<PathBuf>,

    /// Prints, as a line of JSON, what the model's reply in a text file says:
    /// content, reasoning, tool calls.
    #[arg(long, value_name = "TEXT_FILE", conflicts_with = "json")]
    pub(super) parse: Option<PathBuf>,
}

/// Token ids; at least one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TokenIds(pub(super) Vec<u32>);

fn token_ids(written: &str) -> Result<TokenIds, String> {
    let ids = written.split(|c: char| c.is_whitespace() || c == ',');
    let ids: Vec<u32> = ids
        .filter(|id| !id.is_empty())
        .map(|id| id.parse().map_err(|_| format!("{id:?} is no token id")))
        .collect::<Result<_, _>>()?;
    match ids.is_empty() {
        true => Err("write at least one token id, such as \"1 2 3\"".to_owned()),
        false => Ok(TokenIds(ids)),
    }
}

fn backend(name: &str) -> Result<BackendChoice, String> {
    let names = BackendChoice::NAMES;
    let known = names.iter().find(|(known, _)| *known == name);
    known.map(|(_, choice)| *choice).ok_or_else(|| {
        let names = names.map(|(name, _)| name).join(", ");
        format!("write one of {names}")
    })
}

fn quantize(bits: &str) -> Result<Quantize, String> {
    let quantize = bits.parse().ok().and_then(Quantize::of_bits);
    quantize.ok_or_else(|| "write 4 or 8".to_owned())
}

fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number >= LEAST);
    number.ok_or_else(|| format!("write a number, {LEAST} or more"))
}

#[derive(Debug, Args)]
pub(super) struct Demo {
    /// The port; the first free one from 8080 on if not given.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) port: Option<u16>,

    #[command(flatten)]
    pub(super) tools: Tools,
}

#[derive(Debug, Args)]
pub(super) struct Tools {
    /// The folder whose files the tools may list and read.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(super) root: PathBuf,

    /// The weather service for get_temperature, one with Open-Meteo's API
    /// (https://open-meteo.com, the default). The environment's
    /// LLM_SERVER_WEATHER_URL does the same.
    #[arg(long, value_name = "URL")]
    pub(super) weather_url: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_may_be_named_before_or_after_the_command() {
        for arguments in [
            ["llm-server", "--config", "a.json", "check"],
            ["llm-server", "check", "--config", "a.json"],
        ] {
            let cli = Cli::try_parse_from(arguments).expect("both orders are fine");
            assert_eq!(cli.config, PathBuf::from("a.json"));
            assert!(matches!(cli.command, Some(Command::Check)));
        }
    }

    #[test]
    fn weights_get_four_bits_or_eight() {
        assert_eq!(quantize("4"), Ok(Quantize::Four));
        assert_eq!(quantize("8"), Ok(Quantize::Eight));
        for wrong in ["", "5", "4.0", "four"] {
            assert!(quantize(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn token_ids_stand_between_blanks_or_commas() {
        assert_eq!(token_ids(" 1 2,3,\n4 "), Ok(TokenIds(vec![1, 2, 3, 4])));
        for wrong in ["", " ", "1 x", "-1", "4294967296"] {
            assert!(token_ids(wrong).is_err(), "{wrong:?}");
        }
    }
}
