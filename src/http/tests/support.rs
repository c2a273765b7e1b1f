//! A server on a port of its own, a model that obeys, and a client that
//! speaks HTTP byte by byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::chat::{ChatError, ChatModel, ChatRequest, Finish, Message, Reply, Usage};
use crate::http::{Limits, Settings, serve};
use crate::mcp::{CallOutcome, Tool};
use crate::session::{self, ToolLoop, ToolSource};

/// Longer than anything here takes that does not hang.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What the model is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Doings {
    /// Replies that wait for the test.
    pub(super) waiting: usize,
    /// Replies that were dropped while they waited.
    pub(super) cancelled: usize,
    /// Replies asked for in all.
    pub(super) asked: usize,
}

/// A model that does what the prompt's first word says.
pub(super) struct Obedient {
    doings: watch::Sender<Doings>,
    /// A permit lets one waiting reply go on.
    go: Semaphore,
    pub(super) prompts: Mutex<Vec<String>>,
}

impl ChatModel for Obedient {
    fn reply<'a>(&'a self, request: ChatRequest<'a>) -> BoxFuture<'a, Result<Reply, ChatError>> {
        let Some(Message::User(prompt)) = request.messages.last() else {
            panic!("there are no tools here");
        };
        self.prompts.lock().unwrap().push(prompt.clone());
        self.doings.send_modify(|doings| doings.asked += 1);
        async move {
            match prompt.split_whitespace().next() {
                Some("wait") => self.wait().await,
                Some("panic") => panic!("as the prompt says"),
                Some("fail") => {
                    let path = "cannot open /secret/model".to_owned();
                    return Err(ChatError::Engine(path));
                }
                Some("overflow") => {
                    return Err(ChatError::ContextExceeded {
                        needed: 5000,
                        limit: 4096,
                    });
                }
                Some("flood") => return Ok(says("x".repeat(32 * 1024 * 1024))),
                _ => {}
            }
            Ok(says(format!("You said: {prompt}")))
        }
        .boxed()
    }

    fn warm_up<'a>(&'a self, request: ChatRequest<'a>) -> BoxFuture<'a, Result<Usage, ChatError>> {
        Box::pin(async move { Ok(self.reply(request).await?.usage) })
    }
}

impl Obedient {
    async fn wait(&self) {
        let mut waiting = Waiting {
            doings: &self.doings,
            done: false,
        };
        self.doings.send_modify(|doings| doings.waiting += 1);
        self.go.acquire().await.unwrap().forget();
        waiting.done = true;
    }
}

struct Waiting<'a> {
    doings: &'a watch::Sender<Doings>,
    done: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.doings.send_modify(|doings| {
            doings.waiting -= 1;
            doings.cancelled += usize::from(!self.done);
        });
    }
}

fn says(content: String) -> Reply {
    Reply {
        content,
        reasoning: None,
        tool_calls: Vec::new(),
        finish: Finish::Stop,
        usage: Usage::default(),
        written: None,
    }
}

struct NoTools;

impl ToolSource for NoTools {
    fn tools(&self) -> Arc<[Tool]> {
        Arc::new([])
    }

    fn call<'a>(&'a self, _: &'a str, _: Map<String, Value>) -> BoxFuture<'a, CallOutcome> {
        panic!("there are no tools here")
    }
}

/// A server under test.
pub(super) struct Fixture {
    pub(super) address: SocketAddr,
    pub(super) model: Arc<Obedient>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

pub(super) fn settings() -> Settings {
    Settings {
        max_concurrent_requests: 8,
        max_queued_requests: 8,
        request_timeout: PATIENCE,
        shutdown_grace: PATIENCE,
        limits: Limits::default(),
    }
}

impl Fixture {
    pub(super) async fn start(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let model = Arc::new(Obedient {
            doings: watch::Sender::default(),
            go: Semaphore::new(0),
            prompts: Mutex::default(),
        });
        let told = session::Settings {
            system_prompt: String::new(),
            max_tool_rounds: 1,
            tool_result_limit: 100,
        };
        let sessions = ToolLoop::new(model.clone(), Arc::new(NoTools), told);
        let (stop, stopped) = oneshot::channel();
        let stopped = stopped.map(|_| ());
        let served = tokio::spawn(serve(listener, Arc::new(sessions), settings, stopped));
        Self {
            address,
            model,
            stop: Some(stop),
            served,
        }
    }

    pub(super) async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends a prompt on a connection of its own.
    pub(super) async fn send(&self, prompt: &str) -> Client {
        let mut client = self.connect().await;
        client
            .send(&post(json!({"prompt": prompt}).to_string()))
            .await;
        client
    }

    /// Sends `body` to `POST /` and reads the response.
    pub(super) async fn post(&self, body: impl AsRef<[u8]>) -> Response {
        let mut client = self.connect().await;
        client.send(&post(body)).await;
        client.response().await
    }

    /// Waits until the model's doings are as they should be.
    pub(super) async fn until(&self, expected: impl Fn(&Doings) -> bool) {
        let mut doings = self.model.doings.subscribe();
        let seen = timeout(PATIENCE, doings.wait_for(expected)).await.is_ok();
        assert!(seen, "the model does {:?}", *self.model.doings.borrow());
    }

    /// Lets `count` waiting replies go on.
    pub(super) fn release(&self, count: usize) {
        self.model.go.add_permits(count);
    }

    /// Tells the server to stop.
    pub(super) fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Waits for the server's end.
    pub(super) async fn ended(self) {
        timeout(PATIENCE, self.served)
            .await
            .expect("the server does not end")
            .unwrap();
    }

    pub(super) fn is_running(&self) -> bool {
        !self.served.is_finished()
    }
}

/// A request to `POST /` with a body.
pub(super) fn post(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// One connection.
pub(super) struct Client(pub(super) TcpStream);

/// A response as it was read.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Client {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.0.write_all(bytes))
            .await
            .unwrap()
            .unwrap();
    }

    /// Reads a head, up to its empty line.
    pub(super) async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, self.0.read_u8())
                .await
                .expect("no response");
            let so_far = String::from_utf8_lossy(&head);
            head.push(byte.unwrap_or_else(|error| panic!("{error} after {so_far:?}")));
        }
        String::from_utf8(head).unwrap()
    }

    /// Reads one response, and not a byte more.
    pub(super) async fn response(&mut self) -> Response {
        let head = self.head().await;
        let status = head[9..12].parse().unwrap();
        let mut response = Response {
            status,
            head,
            body: String::new(),
        };
        let length = response.header("content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        timeout(PATIENCE, self.0.read_exact(&mut body))
            .await
            .unwrap()
            .unwrap();
        response.body = String::from_utf8(body).unwrap();
        response
    }

    /// Whether the server has closed its side, all having been read. A reset
    /// is not a close.
    pub(super) async fn is_closed(&mut self) -> bool {
        let read = timeout(PATIENCE, self.0.read(&mut [0])).await;
        matches!(read.expect("the connection stays open"), Ok(0))
    }
}

impl Response {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The answer of a 200.
    pub(super) fn answer(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.only("response")
    }

    /// The sentence of an error.
    pub(super) fn error(&self) -> String {
        assert!(self.status >= 400, "{self:?}");
        self.only("Error")
    }

    fn only(&self, key: &str) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{self:?}"
        );
        let body: Map<String, Value> = serde_json::from_str(&self.body).unwrap();
        assert_eq!(body.len(), 1, "{self:?}");
        body[key].as_str().unwrap().to_owned()
    }
}
