//! `llm-server inspect`: what a model is and whether it fits here, and what
//! its parts make of an input: logits and greedy tokens of token ids, the
//! prompt of a conversation, the meaning of a reply.
//!
//! Everything but the logits is had without loading the weights.

mod about;
mod logits;

use std::path::Path;

use serde_json::{Map, Value, json};

use super::host::{as_chosen, is_bundled, model_files, named};
use super::{Failure, cli, load_config, print, print_exactly};
use crate::chat::{Arguments, ChatTemplate, Message, ToolCall, WholeReply};
use crate::config::{ModelChoice, ModelName};
use crate::http::openai_messages::Conversation;
use crate::model::{self, ModelFiles};
use about::About;

pub(super) async fn run(config: &Path, options: cli::Inspect) -> Result<(), Failure> {
    let (choice, template_args) = subject(config, &options).await?;
    let files = files(&choice).await?;
    if let Some(tokens) = options.tokens {
        let backend = choice.backend_settings();
        let line = on_own_thread(move || logits::line(&files, backend, &tokens.0, options.greedy));
        return print(line.await?);
    }
    if let Some(path) = &options.render {
        let prompt = render(&template(&files, &template_args)?, path)?;
        return print_exactly(&prompt);
    }
    if let Some(path) = &options.parse {
        return print(parse(&template(&files, &template_args)?, path)?);
    }
    let template = ChatTemplate::load(&files).map(|loaded| loaded.with_args(&template_args));
    let backend = choice.backend_settings();
    let described = on_own_thread({
        let files = files.clone();
        move || model::describe(&files, backend).map_err(Failure::new)
    });
    let about = About::new(&choice, &files, described.await?, template);
    print(match options.json {
        true => about.json(),
        false => about.table(),
    })
}

/// The model that is meant, and the configuration's variables of its template.
async fn subject(
    config: &Path,
    options: &cli::Inspect,
) -> Result<(ModelChoice, Map<String, Value>), Failure> {
    let (mut choice, args) = match &options.model {
        None => {
            let config = load_config(config).await?;
            (config.model, config.chat.template_args)
        }
        Some(name) => {
            let choice = named(name);
            let args = match applies(config, &choice, options) {
                true => load_config(config).await?.chat.template_args,
                false => Map::new(),
            };
            (choice, args)
        }
    };
    if let Some(backend) = options.backend {
        choice.backend = backend;
    }
    if let Some(quantize) = options.quantize {
        choice.quantize = Some(quantize);
    }
    Ok((choice, args))
}

/// Whether the configuration counts though the model is named: for its
/// `chat_template_args`, where it was asked for or is there. In a model's own
/// folder the file of that name is the model's.
fn applies(config: &Path, choice: &ModelChoice, options: &cli::Inspect) -> bool {
    let asked_for = config != Path::new(cli::CONFIG);
    let renders = options.render.is_some() || options.parse.is_some();
    let is_the_models = match (&choice.model_name, config.canonicalize()) {
        (ModelName::Folder(folder), Ok(path)) => path.parent() == Some(folder),
        _ => false,
    };
    renders && (asked_for || config.exists()) && !is_the_models
}

/// A folder is taken as it is: what is not needed may be missing.
async fn files(choice: &ModelChoice) -> Result<ModelFiles, Failure> {
    match &choice.model_name {
        ModelName::Folder(folder) if folder.is_dir() && !is_bundled(choice) => {
            Ok(as_chosen(ModelFiles::Folder(folder.clone()), choice))
        }
        _ => model_files(choice).await,
    }
}

fn template(files: &ModelFiles, args: &Map<String, Value>) -> Result<ChatTemplate, Failure> {
    let template = ChatTemplate::load(files).map_err(Failure::new)?;
    Ok(template.with_args(args))
}

/// Does `work` where it may take as long as it likes, all of it on one thread,
/// since a backend belongs to one.
async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::new(error)))
}

fn text_of(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format_args!("cannot read {}: {error}", path.display())))
}

/// The prompt of the conversation in a file.
fn render(template: &ChatTemplate, path: &Path) -> Result<String, Failure> {
    let text = text_of(path)?;
    let document: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::new(format_args!("{} is not JSON: {error}", path.display())))?;
    let conversation = Conversation::read(&document)
        .map_err(|error| Failure::new(format_args!("{}: {error}", path.display())))?;
    let prompt = template.render(&conversation.messages, &conversation.tools);
    prompt.map_err(Failure::new)
}

/// What the reply in a file says, as a line of JSON. The template may open the
/// model's reasoning at the end of any prompt, so the reply is read as one to
/// a short prompt.
fn parse(template: &ChatTemplate, path: &Path) -> Result<String, Failure> {
    let text = text_of(path)?;
    let question = Message::User("Hello".to_owned());
    // One that fails here fails in every conversation: it opens nothing.
    let prompt = template.render(&[question], &[]).unwrap_or_default();
    let reply = WholeReply::read(template.tool_format(), &prompt, &text);
    let calls: Vec<Value> = reply.tool_calls.iter().map(call).collect();
    let line = json!({
        "content": reply.content,
        "reasoning": reply.reasoning,
        "tool_calls": calls,
    });
    Ok(line.to_string())
}

fn call(call: &ToolCall) -> Value {
    match &call.arguments {
        Arguments::Object(arguments) => {
            json!({"id": call.id, "name": call.name, "arguments": arguments})
        }
        Arguments::Malformed { text, reason } => json!({
            "id": call.id,
            "name": call.name,
            "malformed": {"text": text, "reason": reason},
        }),
    }
}
