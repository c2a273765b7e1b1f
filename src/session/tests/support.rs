//! A scripted model, and tools that are closures.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use crate::chat::{
    Arguments, ChatError, ChatModel, ChatRequest, Finish, Message, Reply, ToolCall, ToolSpec, Usage,
};
use crate::mcp::{CallOutcome, Tool};
use crate::session::{Answer, SessionError, Settings, ToolLoop, ToolSource};

pub(super) type Asked = (Vec<Message>, Vec<ToolSpec>);

/// A model that says what it is told to, turn by turn.
#[derive(Default)]
pub(super) struct Script {
    pub(super) turns: Mutex<VecDeque<Result<Reply, ChatError>>>,
    asked: Mutex<Vec<Asked>>,
    /// The context's size, in characters of the messages.
    room: Option<usize>,
}

impl Script {
    pub(super) fn new(turns: impl IntoIterator<Item = Reply>) -> Self {
        Self {
            turns: Mutex::new(turns.into_iter().map(Ok).collect()),
            ..Self::default()
        }
    }

    pub(super) fn with_room(room: usize, turns: impl IntoIterator<Item = Reply>) -> Self {
        Self {
            room: Some(room),
            ..Self::new(turns)
        }
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl ChatModel for Script {
    fn reply<'a>(&'a self, request: ChatRequest<'a>) -> BoxFuture<'a, Result<Reply, ChatError>> {
        let asked = (request.messages.to_vec(), request.tools.to_vec());
        self.asked.lock().unwrap().push(asked);
        let needed: usize = request.messages.iter().map(characters).sum();
        if let Some(limit) = self.room.filter(|room| needed > *room) {
            return async move { Err(ChatError::ContextExceeded { needed, limit }) }.boxed();
        }
        let turn = self.turns.lock().unwrap().pop_front();
        async move { turn.expect("the script has no more turns") }.boxed()
    }

    fn warm_up<'a>(&'a self, request: ChatRequest<'a>) -> BoxFuture<'a, Result<Usage, ChatError>> {
        Box::pin(async move { Ok(self.reply(request).await?.usage) })
    }
}

pub(super) fn characters(message: &Message) -> usize {
    match message {
        Message::System(text) | Message::User(text) => text.chars().count(),
        Message::Assistant { content, .. } => content.chars().count(),
        Message::Tool { content, .. } => content.chars().count(),
    }
}

type Handler = dyn Fn(&str, Map<String, Value>) -> BoxFuture<'static, CallOutcome> + Send + Sync;

/// Tools that are one closure.
pub(super) struct Closure {
    pub(super) names: Arc<Mutex<Vec<&'static str>>>,
    pub(super) handler: Box<Handler>,
}

impl ToolSource for Closure {
    fn tools(&self) -> Arc<[Tool]> {
        let names = self.names.lock().unwrap();
        let tools = names.iter().map(|name| Tool {
            name: (*name).to_owned(),
            description: format!("does {name}"),
            input_schema: json!({"type": "object"}),
            server: "test".to_owned(),
        });
        tools.collect()
    }

    fn call<'a>(
        &'a self,
        name: &'a str,
        arguments: Map<String, Value>,
    ) -> BoxFuture<'a, CallOutcome> {
        (self.handler)(name, arguments)
    }
}

pub(super) fn tools<F>(names: &[&'static str], handler: F) -> Arc<Closure>
where
    F: Fn(&str, Map<String, Value>) -> BoxFuture<'static, CallOutcome> + Send + Sync + 'static,
{
    Arc::new(Closure {
        names: Arc::new(Mutex::new(names.to_vec())),
        handler: Box::new(handler),
    })
}

pub(super) fn no_tools() -> Arc<Closure> {
    tools(&[], |_, _| panic!("there is no tool to call"))
}

/// A tool named `t` whose results are always `text`.
pub(super) fn always(text: &str, is_error: bool) -> Arc<Closure> {
    let text = text.to_owned();
    tools(&["t"], move |_, _| outcome(text.clone(), is_error))
}

pub(super) fn outcome(text: impl Into<String>, is_error: bool) -> BoxFuture<'static, CallOutcome> {
    let text = text.into();
    async move { CallOutcome { text, is_error } }.boxed()
}

pub(super) fn says(content: &str) -> Reply {
    Reply {
        content: content.to_owned(),
        reasoning: None,
        tool_calls: Vec::new(),
        finish: Finish::Stop,
        usage: Usage {
            prompt_tokens: 10,
            cached_tokens: 6,
            prefilled_tokens: 4,
            generated_tokens: 3,
            time_to_first_token: Duration::from_millis(7),
        },
        written: None,
    }
}

pub(super) fn calls(names: &[&str]) -> Reply {
    let mut reply = says("");
    reply.tool_calls = names
        .iter()
        .enumerate()
        .map(|(index, name)| ToolCall {
            id: format!("call-{index}"),
            name: (*name).to_owned(),
            arguments: Arguments::Object(Map::new()),
        })
        .collect();
    reply
}

pub(super) fn settings() -> Settings {
    Settings {
        system_prompt: "Be brief.".to_owned(),
        max_tool_rounds: 4,
        tool_result_limit: 1000,
    }
}

pub(super) async fn answer(
    model: &Arc<Script>,
    tools: Arc<Closure>,
    settings: Settings,
) -> Result<Answer, SessionError> {
    let model: Arc<dyn ChatModel> = model.clone();
    let answer = ToolLoop::new(model, tools, settings);
    let answer = answer.answer("How much?");
    tokio::time::timeout(Duration::from_secs(10), answer)
        .await
        .expect("the loop hangs")
}

/// The texts of the tool results in the last question to the model.
pub(super) fn results(model: &Script) -> Vec<String> {
    let (messages, _) = model.asked().pop().unwrap();
    let results = messages.into_iter().filter_map(|message| match message {
        Message::Tool { content, .. } => Some(content),
        _ => None,
    });
    results.collect()
}
