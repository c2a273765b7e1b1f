//! One life of one server: the handshake, the list of its tools, calls, and
//! the end. Does not know what comes after the end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientRequest, ErrorCode, ListToolsRequest,
    PaginatedRequestParams, ServerResult,
};
use rmcp::service::{Peer, QuitReason, RoleClient, RunningService, ServiceError, ServiceExt};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::child::{self, Child};
use super::gone::Gone;
use super::handler::Handler;
use super::reasons::{
    LAST_WORDS, cannot_start, cut, describe_request, describe_start, no_handshake,
};
use super::secrets::Secrets;
use super::stdio::StdioTransport;
use super::{CallOutcome, ServerSettings, Transport, content, http, stderr};

/// The most pages of `tools/list` that are asked for.
const PAGES: usize = 1000;
/// How long `rmcp` may take to take its leave: over HTTP it ends the session.
const FAREWELL: Duration = Duration::from_secs(2);

/// A tool as its server lists it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ListedTool {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) input_schema: Value,
}

/// What callers share of a connection.
pub(super) struct Connection {
    peer: Peer<RoleClient>,
    gone: Arc<Gone>,
    /// Told when a call fails in a way that leaves no hope for the next one.
    pub(super) broken: Notify,
    secrets: Arc<Secrets>,
    /// What the server calls itself, with its version.
    pub(super) implementation: Option<String>,
}

/// What the owner of a connection holds. Dropping it ends the connection and
/// kills the child.
pub(super) struct Live {
    pub(super) connection: Arc<Connection>,
    /// Told when the server says that its tools changed.
    pub(super) tools_changed: Arc<Notify>,
    child: Option<Child>,
    service: JoinHandle<()>,
    cancel: DropGuard,
}

impl Live {
    /// Starts or reaches the server and shakes hands. The error is a sentence
    /// without secrets.
    pub(super) async fn open(settings: &ServerSettings) -> Result<Self, String> {
        let server: Arc<str> = settings.name.as_str().into();
        let secrets = Arc::new(Secrets::of(settings));
        let gone = Arc::new(Gone::default());
        let tools_changed = Arc::new(Notify::new());
        let handler = Handler::new(
            Arc::clone(&server),
            Arc::clone(&secrets),
            Arc::clone(&tools_changed),
        );
        let token = CancellationToken::new();
        let cancel = token.clone().drop_guard();

        let mut child = None;
        let service = match &settings.transport {
            Transport::Stdio {
                command,
                args,
                env,
                cwd,
            } => {
                let (started, pipes) = Child::spawn(command, args, env, cwd.as_deref())
                    .map_err(|error| cannot_start(settings, &error))?;
                let child = child.insert(started);
                tokio::spawn(stderr::log(
                    Arc::clone(&server),
                    Arc::clone(&secrets),
                    pipes.stderr,
                ));
                let transport =
                    StdioTransport::new(server, pipes.stdout, pipes.stdin, Arc::clone(&gone));
                match handler.serve_with_ct(transport, token).await {
                    Ok(service) => service,
                    Err(error) => {
                        return Err(secrets.hide(&no_handshake(&error, &gone, child).await));
                    }
                }
            }
            Transport::Http { url, headers } => {
                let transport = http::transport(url, headers, settings.timeout)?;
                handler
                    .serve_with_ct(transport, token)
                    .await
                    .map_err(|error| secrets.hide(&describe_start(&error)))?
            }
        };
        let implementation = service
            .peer_info()
            .and_then(|info| info.server_info.clone())
            .map(|info| format!("{} {}", info.name, info.version));
        let connection = Arc::new(Connection {
            peer: service.peer().clone(),
            gone: Arc::clone(&gone),
            broken: Notify::new(),
            secrets,
            implementation,
        });
        Ok(Self {
            connection,
            tools_changed,
            child,
            service: tokio::spawn(watch(service, gone)),
            cancel,
        })
    }

    /// Waits for the end of the connection or its child and says why.
    pub(super) async fn ended(&mut self) -> String {
        let gone = &self.connection.gone;
        let reason = match &mut self.child {
            None => gone.hinted().await,
            Some(child) => tokio::select! {
                symptom = gone.hinted() => {
                    match tokio::time::timeout(LAST_WORDS, child.exited()).await {
                        Ok(exit) => format!("{symptom} and {exit}"),
                        Err(_) => symptom,
                    }
                }
                exit = child.exited() => {
                    // Its last answer may still be in the pipe.
                    let _ = tokio::time::timeout(LAST_WORDS, gone.hinted()).await;
                    format!("it {exit}")
                }
            },
        };
        gone.tell(reason.clone());
        reason
    }

    /// Ends what is left of a connection that broke.
    pub(super) async fn bury(self) {
        self.end(Duration::ZERO).await;
    }

    /// Ends the connection in good order: stdin is closed and the child has a
    /// moment to leave before it is made to.
    pub(super) async fn close(self) {
        self.end(child::LEAVE).await;
    }

    async fn end(self, leave: Duration) {
        self.connection.gone.tell("it was closed".to_owned());
        drop(self.cancel);
        let _ = tokio::time::timeout(FAREWELL, self.service).await;
        if let Some(child) = self.child {
            child.end(leave).await;
        }
    }
}

/// Notices the end of a connection that `rmcp` notices first.
async fn watch(service: RunningService<RoleClient, Handler>, gone: Arc<Gone>) {
    let reason = match service.waiting().await {
        Ok(QuitReason::Closed) => "the connection was closed".to_owned(),
        Ok(QuitReason::Cancelled) => "it was closed".to_owned(),
        Ok(other) => format!("the connection failed: {other:?}"),
        Err(error) => format!("the connection failed: {error}"),
    };
    gone.hint(reason);
}

impl Connection {
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_hinted()
    }

    /// All pages of the server's tools, one of each name.
    pub(super) async fn list_tools(&self, server: &str) -> Result<Vec<ListedTool>, String> {
        let mut tools = Vec::new();
        let mut names = HashSet::new();
        let mut cursors = HashSet::new();
        let mut cursor: Option<String> = None;
        loop {
            let (page, next) = match self.list_page(cursor).await {
                Ok(page) => page,
                Err(ServiceError::McpError(error))
                    if error.code == ErrorCode::METHOD_NOT_FOUND && tools.is_empty() =>
                {
                    warn!(server, "the server offers no tools");
                    return Ok(tools);
                }
                Err(error) => {
                    let reason = self.secrets.hide(&describe_request(&error));
                    return Err(format!("its tools cannot be listed: {reason}"));
                }
            };
            for tool in page {
                let Some(tool) = listed(&tool) else {
                    warn!(server, tool = ?cut(&tool.to_string()), "left out a tool without a name");
                    continue;
                };
                if names.insert(tool.name.clone()) {
                    tools.push(tool);
                } else {
                    warn!(server, tool = ?tool.name, "left out the second tool of this name");
                }
            }
            match next {
                None => return Ok(tools),
                Some(next) if cursors.len() < PAGES && cursors.insert(next.clone()) => {
                    cursor = Some(next);
                }
                Some(_) => return Err("its list of tools has no end".to_owned()),
            }
        }
    }

    /// One page, as JSON: a single tool that `rmcp`'s types do not take must
    /// not cost all the others.
    async fn list_page(
        &self,
        cursor: Option<String>,
    ) -> Result<(Vec<Value>, Option<String>), ServiceError> {
        let params = PaginatedRequestParams::default().with_cursor(cursor);
        let request = ClientRequest::ListToolsRequest(ListToolsRequest::with_param(params));
        let page = match self.peer.send_request(request).await? {
            ServerResult::ListToolsResult(page) => serde_json::to_value(page),
            ServerResult::CustomResult(page) => Ok(page.0),
            _ => return Err(ServiceError::UnexpectedResponse),
        };
        let Ok(Value::Object(mut page)) = page else {
            return Err(ServiceError::UnexpectedResponse);
        };
        let Some(Value::Array(tools)) = page.remove("tools") else {
            return Err(ServiceError::UnexpectedResponse);
        };
        let next = match page.remove("nextCursor") {
            Some(Value::String(next)) if !next.is_empty() => Some(next),
            _ => None,
        };
        Ok((tools, next))
    }

    /// Calls a tool. Ends as soon as the connection does. Dropping the future
    /// or running into `limit` cancels the call at the server.
    pub(super) async fn call(
        &self,
        server: &str,
        tool: &str,
        arguments: Map<String, Value>,
        limit: Duration,
    ) -> CallOutcome {
        let request = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let call = tokio::time::timeout(limit, self.peer.call_tool_once(request));
        let answer = tokio::select! {
            // An answer that arrived just before the end counts.
            biased;
            answer = call => answer,
            reason = self.gone.told() => return ended(&reason),
        };
        let Ok(answer) = answer else {
            return failure(format!(
                "The tool did not answer within {} seconds.",
                limit.as_secs_f32()
            ));
        };
        match answer {
            Ok(CallToolResponse::Complete(result)) => content::outcome(result),
            Ok(_) => failure(
                "The tool wants something this host does not support: \
                 more input or to go on in the background."
                    .to_owned(),
            ),
            Err(ServiceError::McpError(error)) => {
                failure(format!("The server refused the call: {}", error.message))
            }
            Err(ServiceError::UnexpectedResponse) => {
                failure("The server's answer is not a tool's result.".to_owned())
            }
            Err(error) => self.unreachable(server, tool, &error).await,
        }
    }

    /// What a call that got no answer comes to.
    async fn unreachable(&self, server: &str, tool: &str, error: &ServiceError) -> CallOutcome {
        // Where the server has ended, its owner is about to say why.
        if self.is_gone()
            && let Ok(reason) = tokio::time::timeout(2 * LAST_WORDS, self.gone.told()).await
        {
            return ended(&reason);
        }
        let reason = self.secrets.hide(&describe_request(error));
        let hopeless = match error {
            ServiceError::TransportClosed => true,
            ServiceError::TransportSend(error) => http::ends_connection(&*error.error),
            _ => false,
        };
        debug!(server, tool, reason, hopeless, "a call failed");
        if hopeless {
            self.broken.notify_one();
        }
        failure(format!("The tool's server cannot be reached: {reason}."))
    }
}

fn ended(reason: &str) -> CallOutcome {
    failure(format!(
        "The tool's server ended during the call: {reason}."
    ))
}

/// An outcome that says what went wrong.
pub(super) fn failure(text: String) -> CallOutcome {
    CallOutcome {
        text,
        is_error: true,
    }
}

/// The tool in an entry of the list; `None` if it has no name.
fn listed(tool: &Value) -> Option<ListedTool> {
    let text = |key| tool.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = text("name");
    if name.trim().is_empty() {
        return None;
    }
    Some(ListedTool {
        name: name.to_owned(),
        description: text("description").to_owned(),
        input_schema: match tool.get("inputSchema") {
            Some(schema @ Value::Object(_)) => schema.clone(),
            // A tool that says nothing of its arguments takes any.
            _ => serde_json::json!({"type": "object"}),
        },
    })
}
