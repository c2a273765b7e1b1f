//! One life of one server: the handshake, the list of its tools, calls, and
//! the end. Does not know what comes after the end.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientRequest, ErrorCode, ListToolsRequest,
    PaginatedRequestParams, ServerResult,
};
use rmcp::service::{
    ClientInitializeError, Peer, QuitReason, RoleClient, RunningService, ServiceError, ServiceExt,
};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::child::{self, Child};
use super::handler::Handler;
use super::secrets::Secrets;
use super::stdio::StdioTransport;
use super::{CallOutcome, ServerSettings, Transport, content, http, stderr};

/// The most pages of `tools/list` that are asked for.
const PAGES: usize = 1000;
/// The longest reason or error text that is passed on, in characters.
const LONGEST: usize = 500;
/// What a child that has exited may still have in its pipes must be read
/// within this.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long `rmcp` may take to take its leave: over HTTP it ends the session.
const FAREWELL: Duration = Duration::from_secs(2);

/// That a connection has ended, and why. Set once.
#[derive(Default)]
pub(super) struct Gone {
    reason: OnceLock<String>,
    token: CancellationToken,
}

impl Gone {
    pub(super) fn set(&self, reason: String) {
        // The first reason is the cause, what follows are its consequences.
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    pub(super) async fn wait(&self) -> String {
        self.token.cancelled().await;
        self.reason.get().cloned().unwrap_or_default()
    }

    pub(super) fn is_set(&self) -> bool {
        self.token.is_cancelled()
    }
}

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
        let Some(child) = &mut self.child else {
            return gone.wait().await;
        };
        tokio::select! {
            reason = gone.wait() => match tokio::time::timeout(LAST_WORDS, child.exited()).await {
                Ok(exit) => exit,
                Err(_) => reason,
            },
            exit = child.exited() => {
                // Its last answer may still be in the pipe.
                let _ = tokio::time::timeout(LAST_WORDS, gone.wait()).await;
                gone.set(exit.clone());
                exit
            }
        }
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
        self.connection.gone.set("it was closed".to_owned());
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
    gone.set(reason);
}

impl Connection {
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_set()
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
            reason = self.gone.wait() => {
                return failure(format!("The tool's server ended during the call: {reason}."));
            }
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
            Err(error) => {
                let reason = self.secrets.hide(&describe_request(&error));
                let ends = match &error {
                    ServiceError::TransportClosed => true,
                    ServiceError::TransportSend(error) => http::ends_connection(&*error.error),
                    _ => false,
                };
                debug!(server, tool, reason, ends, "a call failed");
                if ends {
                    self.broken.notify_one();
                }
                failure(format!("The tool's server cannot be reached: {reason}"))
            }
        }
    }
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

fn cannot_start(settings: &ServerSettings, error: &io::Error) -> String {
    let Transport::Stdio { command, cwd, .. } = &settings.transport else {
        return error.to_string();
    };
    if let Some(cwd) = cwd.as_deref().filter(|cwd| !cwd.is_dir()) {
        return format!("its `cwd` {} is not a folder", cwd.display());
    }
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("its `command` {command:?} was not found; install it, or give its full path")
        }
        io::ErrorKind::PermissionDenied => {
            format!("its `command` {command:?} may not be executed; check its permissions")
        }
        _ => format!("its `command` {command:?} cannot be started: {error}"),
    }
}

/// Why a child did not shake hands: what it did says more than the transport.
async fn no_handshake(error: &ClientInitializeError, gone: &Gone, child: &mut Child) -> String {
    if !gone.is_set() {
        return describe_start(error);
    }
    match tokio::time::timeout(LAST_WORDS, child.exited()).await {
        Ok(exit) => format!("{exit} before it was ready; its stderr is in this log"),
        Err(_) => gone.wait().await,
    }
}

/// Why there was no handshake.
fn describe_start(error: &ClientInitializeError) -> String {
    match error {
        ClientInitializeError::TransportError { error, .. } => describe(&*error.error),
        ClientInitializeError::JsonRpcError(error) => {
            cut(&format!("it refused the handshake: {}", error.message))
        }
        error => describe(error),
    }
}

/// Why a request was not answered.
fn describe_request(error: &ServiceError) -> String {
    match error {
        // Its own text begins with the name of a Rust type.
        ServiceError::TransportSend(error) => describe(&*error.error),
        error => describe(error),
    }
}

/// An error with its causes in one line.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    if http::is_unauthorized(error) {
        text = format!("it refuses our credentials, check its `headers` ({text})");
    }
    cut(&text)
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}
