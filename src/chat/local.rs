//! The model in this process: renders the conversation, tokenizes it, has the
//! engine generate and reads what it wrote.
//!
//! Knows nothing of tensors, and nothing of what the tools do.

mod boundaries;
mod history;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, TryFutureExt, stream};
use serde_json::{Map, Value};

use super::ids::Ids;
use super::template::ChatTemplate;
use super::turn::{Turn, TurnReader};
use super::{ChatError, ChatModel, ChatRequest, Message, Reply, Usage};
use super::{ToolSpec, reasoning};
use crate::engine::grammar::{CallFormat, CallGrammar, GrammarError, ToolSchema, Vocabulary};
use crate::engine::{Calls, Engine, EngineError, Event, Request, Sampling};
use crate::model::Tokenizer;
pub use history::Written;
use history::{History, Tokenized};

/// How the model is talked to. The first four fields are those of [`Sampling`].
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// 0 takes the most likely token; larger is more random.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps
    /// all, and so does 0.
    pub top_p: f32,
    /// Drop tokens less likely than this times the most likely; 0 drops none.
    pub min_p: f32,
    /// `min_p` never leaves fewer tokens than this.
    pub min_tokens_to_keep: usize,
    /// The most tokens one turn may have.
    pub max_tokens: usize,
    /// With a seed the same request gets the same answer; without one, each
    /// request has a random seed of its own.
    pub seed: Option<u64>,
    /// Variables of the chat template, such as `enable_thinking`.
    pub template_args: Map<String, Value>,
}

/// A [`ChatModel`] over the engine.
pub struct LocalModel {
    engine: Engine,
    /// Shared with the blocking threads that render.
    text: Arc<TextSide>,
    settings: Settings,
}

struct TextSide {
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    history: History,
    end_of_sequence: Vec<u32>,
    vocabulary_size: usize,
    grammars: Mutex<Grammars>,
}

/// What tool calls may look like, made when it is first needed.
#[derive(Default)]
struct Grammars {
    /// `None` before the first tools; an error is said once and stays.
    vocabulary: Option<Result<Vocabulary, GrammarError>>,
    /// The last tools and their grammar. All requests have the same ones
    /// unless a server comes or goes.
    last: Option<(Vec<ToolSpec>, Option<CallGrammar>)>,
}

/// A conversation as the engine takes it.
#[derive(Debug)]
struct Prompt {
    text: String,
    tokens: Vec<u32>,
    calls: Option<Calls>,
    /// See [`Request::boundaries`].
    boundaries: Vec<usize>,
}

impl LocalModel {
    /// A model that talks through `template` and `tokenizer` to `engine`. The
    /// template has its arguments already.
    pub fn new(
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        template: ChatTemplate,
        settings: Settings,
    ) -> Self {
        let end_of_sequence = engine.end_of_sequence().to_vec();
        let history = History::new(
            Arc::clone(&tokenizer),
            &end_of_sequence,
            template.tool_format(),
        );
        Self {
            text: Arc::new(TextSide {
                tokenizer,
                template,
                history,
                end_of_sequence,
                vocabulary_size: engine.info().vocabulary_size,
                grammars: Mutex::default(),
            }),
            engine,
            settings,
        }
    }

    async fn answer(
        &self,
        request: ChatRequest<'_>,
        max_tokens: usize,
        pin: bool,
    ) -> Result<Reply, ChatError> {
        let prompt = self.prompt(request, pin).await?;
        let format = self.text.template.tool_format();
        let reader = TurnReader::new(format, &prompt.text).with_tools(request.tools);
        let ids = Ids::new(format, request.messages);
        let events = self.engine.submit(Request {
            prompt: prompt.tokens.clone(),
            max_tokens,
            sampling: self.settings.sampling(),
            calls: prompt.calls,
            pin,
            boundaries: prompt.boundaries,
        });
        let events = stream::unfold(events, async |mut events| {
            let event = events.next().await?;
            Some((event, events))
        });
        let record =
            |turn, generated: &[u32]| Written::new(prompt.text, prompt.tokens, turn, generated);
        read_reply(events, reader, ids, record).await
    }

    /// Renders and tokenizes on a blocking thread: a prompt may have megabytes,
    /// and tokenizing those takes seconds that other requests' sockets should
    /// not wait for. The copy of the conversation that this takes is cheap
    /// beside the rendering. Dropped midway, the thread finishes this prompt
    /// and nobody hears of it.
    async fn prompt(&self, request: ChatRequest<'_>, preamble: bool) -> Result<Prompt, ChatError> {
        let text = Arc::clone(&self.text);
        let messages = request.messages.to_vec();
        let tools = request.tools.to_vec();
        let span = tracing::Span::current();
        let parts = self.engine.info().state_bytes > 0;
        let render = move || {
            let mut prompt = text.prompt(&messages, &tools)?;
            if parts {
                prompt.boundaries = text.boundaries(&messages, &tools, &prompt.tokens, preamble);
            }
            Ok(prompt)
        };
        let render = move || span.in_scope(render);
        match tokio::task::spawn_blocking(render).await {
            Ok(prompt) => prompt,
            Err(error) => Err(ChatError::Template(format!(
                "rendering did not finish: {error}"
            ))),
        }
    }
}

impl ChatModel for LocalModel {
    fn reply<'a>(&'a self, request: ChatRequest<'a>) -> BoxFuture<'a, Result<Reply, ChatError>> {
        self.answer(request, self.settings.max_tokens, false)
            .boxed()
    }

    fn warm_up<'a>(&'a self, request: ChatRequest<'a>) -> BoxFuture<'a, Result<Usage, ChatError>> {
        let reply = self.answer(request, 1, true);
        reply.map_ok(|reply| reply.usage).boxed()
    }
}

impl Settings {
    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            min_p: self.min_p,
            min_tokens_to_keep: self.min_tokens_to_keep,
            seed: self.seed.unwrap_or_else(rand::random),
        }
    }
}

impl TextSide {
    fn prompt(&self, messages: &[Message], tools: &[super::ToolSpec]) -> Result<Prompt, ChatError> {
        let started = Instant::now();
        let text = self.template.render(messages, tools)?;
        let tokenized = self.history.tokenize(messages, &text);
        let Tokenized { ids: tokens, kept } =
            tokenized.map_err(|error| ChatError::Template(error.to_string()))?;
        if tokens.is_empty() {
            return Err(ChatError::Template("the prompt is empty".to_owned()));
        }
        tracing::debug!(
            characters = text.chars().count(),
            tokens = tokens.len(),
            kept_tokens = kept,
            milliseconds = started.elapsed().as_millis(),
            "rendered the prompt"
        );
        // Where ids were kept, the text is what the template would write.
        tracing::trace!(prompt = ?text, "the prompt");
        let calls = self.grammar(tools).map(|grammar| Calls {
            grammar,
            in_reasoning: reasoning::opened_by(&text, self.template.tool_format().reasoning()),
        });
        Ok(Prompt {
            text,
            tokens,
            calls,
            boundaries: Vec::new(),
        })
    }

    /// The grammar of calls to `tools`. A failure leaves calls free, which is
    /// said in the log and not to the request: most calls come out well.
    fn grammar(&self, tools: &[ToolSpec]) -> Option<CallGrammar> {
        let format = self.template.binding().filter(|_| !tools.is_empty())?;
        let mut grammars = self.grammars.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, grammar)) = &grammars.last
            && last == tools
        {
            return grammar.clone();
        }
        let grammar = self.compile(&mut grammars, tools, format);
        if let Err(reason) = &grammar {
            tracing::warn!(%reason, "tool calls are not bound to the tools' schemas");
        }
        let grammar = grammar.ok();
        grammars.last = Some((tools.to_vec(), grammar.clone()));
        grammar
    }

    fn compile(
        &self,
        grammars: &mut Grammars,
        tools: &[ToolSpec],
        format: CallFormat,
    ) -> Result<CallGrammar, GrammarError> {
        let began = Instant::now();
        let vocabulary = grammars.vocabulary.get_or_insert_with(|| {
            let tokenizer = self.tokenizer.inner();
            Vocabulary::new(
                tokenizer,
                &self.end_of_sequence,
                self.vocabulary_size,
                format,
            )
        });
        let vocabulary = vocabulary.as_ref().map_err(Clone::clone)?;
        let schemas: Vec<ToolSchema> = tools
            .iter()
            .map(|tool| ToolSchema {
                name: tool.name.clone(),
                parameters: tool.parameters.clone(),
            })
            .collect();
        let (grammar, fallbacks) = CallGrammar::compile(vocabulary, &schemas)?;
        for fallback in fallbacks {
            tracing::warn!(
                tool = fallback.tool,
                loss = ?fallback.loss,
                reason = fallback.reason,
                "a tool's schema binds its calls in part only"
            );
        }
        tracing::debug!(
            tools = tools.len(),
            milliseconds = began.elapsed().as_millis() as u64,
            "compiled the grammar of the tools' calls"
        );
        Ok(grammar)
    }
}

/// Reads a turn to its end. The calls are named by `ids`, and `record` is made
/// of the turn's text and ids.
async fn read_reply(
    events: impl Stream<Item = Event>,
    mut reader: TurnReader,
    mut ids: Ids,
    record: impl FnOnce(String, &[u32]) -> Written,
) -> Result<Reply, ChatError> {
    let mut events = pin!(events);
    let mut turn = Turn::default();
    let mut written = String::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Text(text) => {
                turn.extend(reader.feed(&text));
                written.push_str(&text);
            }
            Event::Finished {
                reason,
                usage,
                tokens,
            } => {
                turn.extend(reader.finish());
                let (content, reasoning, calls) = turn.into_parts();
                return Ok(Reply {
                    content,
                    reasoning,
                    tool_calls: calls.into_iter().map(|call| ids.named(call)).collect(),
                    finish: reason,
                    usage,
                    written: Some(record(written, &tokens)),
                });
            }
            Event::Failed(EngineError::ContextExceeded { needed, limit }) => {
                return Err(ChatError::ContextExceeded { needed, limit });
            }
            Event::Failed(error) => return Err(ChatError::Engine(error.to_string())),
        }
    }
    Err(ChatError::Engine(EngineError::Stopped.to_string()))
}
