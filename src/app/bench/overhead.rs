//! The host's own time: what a request over HTTP takes beyond the engine's
//! part of it. Templates, tokenizing and all that is between are the host's.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::super::Failure;
use super::measure::median;
use crate::chat::{ChatError, ChatModel, ChatRequest, LocalModel, Reply, Usage};
use crate::http;
use crate::mcp::Registry;
use crate::session::{self, ToolLoop};

/// Requests, one after the other.
const REQUESTS: usize = 50;

/// A model, and how long the engine took for its last reply, which has one
/// token: the time to the first one is the engine's whole part.
struct Timed {
    model: LocalModel,
    engine: Arc<Mutex<Duration>>,
}

impl ChatModel for Timed {
    fn reply<'a>(&'a self, request: ChatRequest<'a>) -> BoxFuture<'a, Result<Reply, ChatError>> {
        async move {
            let reply = self.model.reply(request).await?;
            let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            *engine = reply.usage.time_to_first_token;
            Ok(reply)
        }
        .boxed()
    }

    fn warm_up<'a>(&'a self, request: ChatRequest<'a>) -> BoxFuture<'a, Result<Usage, ChatError>> {
        self.model.warm_up(request)
    }
}

/// The median over requests to a server on the loopback interface.
pub(super) async fn overhead(model: LocalModel) -> Result<Duration, Failure> {
    let engine = Arc::new(Mutex::new(Duration::ZERO));
    let model = Timed {
        model,
        engine: Arc::clone(&engine),
    };
    let settings = session::Settings {
        system_prompt: String::new(),
        max_tool_rounds: 1,
        tool_result_limit: 0,
    };
    let tools = Arc::new(Registry::start(Vec::new()).await);
    let sessions = Arc::new(ToolLoop::new(Arc::new(model), tools, settings));
    let cannot = |error: std::io::Error| Failure::new(format_args!("cannot listen: {error}"));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let settings = http::Settings {
        max_concurrent_requests: 1,
        max_queued_requests: 1,
        request_timeout: Duration::from_secs(600),
        shutdown_grace: Duration::ZERO,
        limits: http::Limits::default(),
    };
    let server = tokio::spawn(http::serve(
        listener,
        sessions,
        settings,
        stopped.map(|_| ()),
    ));
    let client = reqwest::Client::builder().no_proxy().build();
    let client = client.map_err(Failure::new)?;
    let mut times = Vec::with_capacity(REQUESTS);
    for number in 0..REQUESTS {
        let body = serde_json::json!({"prompt": format!("Request {number}")});
        let began = Instant::now();
        let sent = client.post(format!("http://{address}")).json(&body).send();
        let answered = sent.await.and_then(reqwest::Response::error_for_status);
        let response = answered.map_err(Failure::new)?;
        response.bytes().await.map_err(Failure::new)?;
        let engine = *engine.lock().unwrap_or_else(PoisonError::into_inner);
        times.push(began.elapsed().saturating_sub(engine));
    }
    drop(stop);
    server.await.map_err(Failure::new)?;
    Ok(median(times))
}
