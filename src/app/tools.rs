//! `llm-server tools`: the bundled MCP server on stdin and stdout.

use super::{Failure, cli};
use crate::tools;

pub(super) async fn run(options: cli::Tools) -> Result<(), Failure> {
    let settings = tools::Settings::new(options.root);
    tools::serve_stdio(settings).await.map_err(Failure::new)
}
