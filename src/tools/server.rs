//! The tools behind the protocol: what they are (the list the bundled model
//! was trained with, word for word), whether a call's arguments are right,
//! and which function answers it. Knows of each tool only its name.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rmcp::ErrorData;
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
    JsonObject, ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::Deserialize;
use serde_json::Value;

use super::calculate::Calculator;
use super::files::Files;
use super::weather::Weather;
use super::{Settings, ToolsError, system, time};

/// The tools as the bundled model was told of them.
const DEFINITIONS: &str = include_str!("../../models/demo/tools.json");

/// A file on a network that is gone, for instance.
const TIMEOUT: Duration = Duration::from_secs(25);

/// What went wrong, in words for the model and its user: lower case, no full
/// stop, no new line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure(String);

impl Failure {
    pub(super) fn new(message: impl fmt::Display) -> Self {
        Self(message.to_string())
    }

    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.0
    }
}

/// What a tool gives: a short text or a failure.
pub(super) type Outcome = Result<String, Failure>;

/// The server of one client.
pub(super) struct Server {
    tools: Vec<Tool>,
    calculator: Calculator,
    files: Files,
    weather: Weather,
}

#[derive(Deserialize)]
struct Definition {
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    description: String,
    parameters: JsonObject,
}

impl Server {
    /// Opens the folder; nothing else can fail.
    pub(super) fn new(settings: Settings) -> Result<Self, ToolsError> {
        Ok(Self {
            tools: definitions().map_err(ToolsError::Definitions)?,
            calculator: Calculator::new(),
            files: Files::open(settings.root)?,
            weather: Weather::new(settings.geocoding_url, settings.forecast_url),
        })
    }

    /// Runs a tool that exists, with arguments that fit its schema.
    async fn run(&self, name: &str, arguments: &JsonObject) -> Outcome {
        let text = |key| arguments.get(key).and_then(Value::as_str).unwrap_or("");
        match name {
            "get_current_time" => time::current(text("timezone"), Timestamp::now()),
            "convert_time" => time::convert(
                text("time"),
                text("source_timezone"),
                text("target_timezone"),
                Timestamp::now(),
            ),
            "calculate" => self.calculator.calculate(text("expression")).await,
            "list_directory" => self.files.list(text("path")).await,
            "read_file" => self.files.read(text("path")).await,
            "get_temperature" => self.weather.temperature(text("city")).await,
            "system_info" => system::info().await,
            _ => Err(Failure::new("this tool is listed but not there")),
        }
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build()).with_server_info(
            Implementation::new("llm-server-tools", env!("CARGO_PKG_VERSION")),
        )
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.clone()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tools.iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = self.tools.iter().find(|tool| tool.name == request.name) else {
            let message = format!("there is no tool named {:?}", short(&request.name));
            return Err(ErrorData::invalid_params(message, None));
        };
        let arguments = request.arguments.unwrap_or_default();
        let outcome = match check(tool, &arguments) {
            Ok(()) => tokio::select! {
                outcome = self.run(&tool.name, &arguments) => outcome,
                () = context.ct.cancelled() => Err(Failure::new("the call was cancelled")),
                () = tokio::time::sleep(TIMEOUT) => {
                    Err(Failure::new(format_args!("timeout after {} seconds", TIMEOUT.as_secs())))
                }
            },
            Err(failure) => Err(failure),
        };
        let result = match outcome {
            Ok(text) => CallToolResult::success(vec![ContentBlock::text(text)]),
            Err(Failure(message)) => {
                CallToolResult::error(vec![ContentBlock::text(format!("Error: {message}"))])
            }
        };
        Ok(result.into())
    }
}

fn definitions() -> Result<Vec<Tool>, serde_json::Error> {
    let definitions: Vec<Definition> = serde_json::from_str(DEFINITIONS)?;
    Ok(definitions
        .into_iter()
        .map(|Definition { function }| {
            Tool::new(function.name, function.description, function.parameters)
        })
        .collect())
}

/// Whether the arguments are those the tool's schema asks for. All
/// parameters of these tools are strings.
fn check(tool: &Tool, arguments: &JsonObject) -> Result<(), Failure> {
    let name = &tool.name;
    let empty = JsonObject::new();
    let properties = tool
        .input_schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let wanted = match properties.len() {
        0 => "takes no arguments".to_owned(),
        _ => {
            let keys: Vec<&str> = properties.keys().map(String::as_str).collect();
            format!("takes {}, each a string", keys.join(", "))
        }
    };
    if let Some(unknown) = arguments.keys().find(|key| !properties.contains_key(*key)) {
        let unknown = short(unknown);
        return Err(Failure::new(format_args!(
            "unknown argument {unknown:?}; {name} {wanted}"
        )));
    }
    for key in properties.keys() {
        match arguments.get(key) {
            Some(Value::String(_)) => {}
            Some(_) => {
                return Err(Failure::new(format_args!(
                    "{key} is not a string; {name} {wanted}"
                )));
            }
            None => {
                return Err(Failure::new(format_args!(
                    "{key} is missing; {name} {wanted}"
                )));
            }
        }
    }
    Ok(())
}

/// A text from the client on one line and not too long, for a message.
pub(super) fn short(text: &str) -> String {
    const LENGTH: usize = 80;
    let mut shown: String = text
        .chars()
        .take(LENGTH)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(LENGTH).is_some() {
        shown.push('…');
    }
    shown
}
