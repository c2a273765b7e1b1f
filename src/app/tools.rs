//! `llm-server tools`: the bundled MCP server on stdin and stdout.

use super::{Failure, cli};
use crate::tools;

/// Stands for `--weather-url`.
const WEATHER_URL: &str = "LLM_SERVER_WEATHER_URL";

pub(super) async fn run(options: cli::Tools) -> Result<(), Failure> {
    let mut settings = tools::Settings::new(options.root);
    let from_environment = || std::env::var(WEATHER_URL).ok();
    if let Some(url) = options.weather_url.or_else(from_environment) {
        settings = settings.with_weather_url(&url);
    }
    tools::serve_stdio(settings).await.map_err(Failure::new)
}
