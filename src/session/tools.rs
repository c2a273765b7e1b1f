//! One tool call of the model: find the tool, run it, log it, and turn
//! whatever happens into a result the model can read. Does not know how many
//! calls run beside it or what becomes of the result.

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use serde_json::{Map, Value};
use tracing::{debug, info, warn};

use super::results::ToolResult;
use crate::chat::{Arguments, ToolCall, ToolSpec};
use crate::excerpt::logged;
use crate::mcp::{CallOutcome, Registry, Tool};

/// Where tools come from: the MCP servers, and in tests a double.
pub trait ToolSource: Send + Sync {
    /// The tools that can be called now.
    fn tools(&self) -> Arc<[Tool]>;

    /// Calls a tool by the name it is offered under, within the time-out of
    /// its server. Dropping the future cancels the call.
    fn call<'a>(
        &'a self,
        name: &'a str,
        arguments: Map<String, Value>,
    ) -> BoxFuture<'a, CallOutcome>;
}

impl ToolSource for Registry {
    fn tools(&self) -> Arc<[Tool]> {
        Registry::tools(self)
    }

    fn call<'a>(
        &'a self,
        name: &'a str,
        arguments: Map<String, Value>,
    ) -> BoxFuture<'a, CallOutcome> {
        Box::pin(Registry::call(self, name, arguments))
    }
}

/// Runs one call. `offered` is what the model was told of.
pub(super) async fn run(
    source: &dyn ToolSource,
    offered: &[ToolSpec],
    call: &ToolCall,
) -> ToolResult {
    let arguments = match &call.arguments {
        Arguments::Object(arguments) => arguments,
        Arguments::Malformed { text, reason } => {
            warn!(tool = ?call.name, text = ?logged(text), reason, "malformed tool call");
            return ToolResult::error(reason.clone());
        }
    };
    if !offered.iter().any(|tool| tool.name == call.name) {
        warn!(tool = ?call.name, "unknown tool called");
        return ToolResult::error(unknown(&call.name, offered));
    }
    let written = Value::Object(arguments.clone()).to_string();
    let started = Instant::now();
    let outcome = source.call(&call.name, arguments.clone()).await;
    info!(
        tool = %call.name,
        arguments = ?logged(&written),
        ok = !outcome.is_error,
        ms = started.elapsed().as_millis(),
        length = outcome.text.chars().count(),
        "tool call"
    );
    debug!(tool = %call.name, result = ?logged(&outcome.text), "tool result");
    if outcome.is_error {
        ToolResult::error(outcome.text)
    } else {
        ToolResult::ok(outcome.text)
    }
}

/// What the model reads when it calls a tool that there is not.
fn unknown(name: &str, offered: &[ToolSpec]) -> String {
    let missing = match name {
        "" => "the call names no tool".to_owned(),
        name => format!("there is no tool named {:?}", logged(name)),
    };
    if offered.is_empty() {
        return format!("{missing}; there are no tools, so answer without them.");
    }
    let names: Vec<&str> = offered.iter().map(|tool| tool.name.as_str()).collect();
    format!("{missing}; the tools are: {}.", names.join(", "))
}
