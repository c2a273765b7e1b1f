//! The parts that answer prompts, built in start-up order and taken down in
//! drain order. What is told to whom is decided here and nowhere else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use sysinfo::System;
use tracing::{info, warn};

use super::Failure;
use crate::backend::{BackendChoice, BackendSettings};
use crate::chat::{self, ChatError, ChatTemplate, LocalModel};
use crate::config::{Config, ModelChoice, ModelName};
use crate::demo;
use crate::engine::{self, Engine, EngineThread, PreambleFolder};
use crate::hub;
use crate::mcp::Registry;
use crate::model::{self, Model, ModelError, ModelFiles, Tokenizer};
use crate::progress::{Progress, Reporter};
use crate::session::{SessionError, ToolLoop};

/// What loads a model onto the engine's thread: [`model::load`], or what a
/// test has in its place.
pub(super) type Load =
    fn(&ModelFiles, BackendSettings, &dyn Progress) -> Result<Box<dyn Model>, ModelError>;

/// Everything that answers a prompt.
pub(super) struct Host {
    pub(super) sessions: Arc<ToolLoop>,
    pub(super) engine: EngineThread,
    registry: Arc<Registry>,
}

impl Host {
    /// Starts the MCP servers, then the model, then warms it up. `stop` cuts
    /// the start short: then there is no host, and nothing is left running.
    pub(super) async fn start(
        config: &Config,
        load: Load,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<Self>, Failure> {
        tokio::pin!(stop);
        let registry = tokio::select! {
            registry = Registry::start(config.servers.clone()) => Arc::new(registry),
            () = &mut stop => return Ok(None),
        };
        let started = tokio::select! {
            started = start_model(config, load, &registry) => started.map(Some),
            () = &mut stop => Ok(None),
        };
        match started {
            Ok(Some((sessions, engine))) => Ok(Some(Self {
                sessions,
                engine,
                registry,
            })),
            Ok(None) => {
                registry.close().await;
                Ok(None)
            }
            Err(failure) => {
                registry.close().await;
                Err(failure)
            }
        }
    }

    /// Ends the MCP servers, then the engine. The sessions must be over.
    pub(super) async fn close(self) -> Result<(), Failure> {
        self.registry.close().await;
        drop(self.sessions);
        let joined = tokio::task::spawn_blocking(move || self.engine.join()).await;
        match joined {
            Ok(true) => Ok(()),
            _ => Err(Failure::new("the engine has failed; the log says why")),
        }
    }
}

async fn start_model(
    config: &Config,
    load: Load,
    registry: &Arc<Registry>,
) -> Result<(Arc<ToolLoop>, EngineThread), Failure> {
    let began = Instant::now();
    let files = model_files(&config.model).await?;
    let (engine, thread, model) =
        load_model(load, &config.model, files, config.chat.clone(), true).await?;
    let tools = Arc::clone(registry);
    let sessions = ToolLoop::new(Arc::new(model), tools, config.session.clone());
    warm_up(&sessions, &engine).await?;
    info!(ms = began.elapsed().as_millis() as u64, "model ready");
    Ok((Arc::new(sessions), thread))
}

/// Where the model is told to come from.
pub(super) fn hub_settings(model: &ModelChoice) -> hub::Settings {
    hub::Settings {
        model_name: model.model_name.to_string(),
        revision: model.revision.clone(),
    }
}

/// The model that the command line names: a folder if there is one of that
/// name, else a repository.
pub(super) fn named(name: &str) -> ModelChoice {
    let model_name = match PathBuf::from(name).canonicalize() {
        Ok(folder) if folder.is_dir() => ModelName::Folder(folder),
        _ => ModelName::Repository(name.to_owned()),
    };
    ModelChoice {
        model_name,
        revision: None,
        backend: BackendChoice::Auto,
        context_length: None,
        prefix_cache_bytes: None,
        prefix_cache_dir: None,
        adapter_path: None,
        quantize: None,
        threads: None,
    }
}

/// Whether the bundled model is meant.
pub(super) fn is_bundled(model: &ModelChoice) -> bool {
    model.model_name.to_string() == demo::MODEL_NAME
}

/// The model's files, as [`as_chosen`].
pub(super) async fn model_files(model: &ModelChoice) -> Result<ModelFiles, Failure> {
    Ok(as_chosen(own_files(model).await?, model))
}

/// `files`, with those of the model's adapter, if it has one, and quantized at
/// load, if that is wanted.
pub(super) fn as_chosen(files: ModelFiles, model: &ModelChoice) -> ModelFiles {
    let files = match model.quantize {
        Some(quantize) => files.quantized(quantize),
        None => files,
    };
    match &model.adapter_path {
        Some(adapter) => files.with_adapter(adapter.clone()),
        None => files,
    }
}

async fn own_files(model: &ModelChoice) -> Result<ModelFiles, Failure> {
    if is_bundled(model) {
        return Ok(demo::files());
    }
    let progress = Reporter::new("downloading", model.model_name.to_string());
    let folder: PathBuf = hub::fetch(&hub_settings(model), &progress)
        .await
        .map_err(|error| Failure::new(format_args!("no model: {error}")))?;
    Ok(ModelFiles::Folder(folder))
}

/// Loads a model and what turns text into tokens for it. `end_of_sequence`
/// says whether turns end where the model ends them.
pub(super) async fn load_model(
    load: Load,
    choice: &ModelChoice,
    files: ModelFiles,
    settings: chat::Settings,
    end_of_sequence: bool,
) -> Result<(Engine, EngineThread, LocalModel), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format_args!(
            "the model {} does not load: {error}",
            choice.model_name
        ))
    };
    // The small files first: what is wrong with them shows at once.
    let tokenizer = Arc::new(Tokenizer::load(&files).map_err(|error| failed(&error))?);
    let template = ChatTemplate::load(&files).map_err(|error| failed(&error))?;
    let template = template.with_args(&settings.template_args);
    let ends = match end_of_sequence {
        true => model::end_of_sequence_ids(&files, |token| tokenizer.token_id(token))
            .map_err(|error| failed(&error))?,
        false => Vec::new(),
    };
    if end_of_sequence && ends.is_empty() {
        warn!("the model names no end-of-sequence token; answers end at max_tokens");
    }
    let backend = choice.backend_settings();
    let engine_settings = engine::Settings {
        preambles: preambles(choice, &files),
        ..room(choice, ends)
    };
    let progress = Reporter::new("loading", choice.model_name.to_string());
    let load = move || load(&files, backend, &progress);
    let (engine, thread) = engine::start(load, Arc::clone(&tokenizer), engine_settings)
        .await
        .map_err(|error| failed(&error))?;
    let info = engine.info();
    info!(
        model = %choice.model_name,
        family = info.family,
        parameters = info.parameters,
        backend = info.backend,
        context_length = engine.context_length(),
        kv_bytes_per_token = info.kv_bytes_per_token,
        "model loaded"
    );
    if let Some(asked) = choice.context_length
        && asked > engine.context_length()
    {
        warn!(
            asked,
            made_for = engine.context_length(),
            "context_length is more than the model was made for"
        );
    }
    let model = LocalModel::new(engine.clone(), tokenizer, template, settings);
    Ok((engine, thread, model))
}

/// Where preambles are kept over a restart, if anywhere.
fn preambles(choice: &ModelChoice, files: &ModelFiles) -> Option<PreambleFolder> {
    let path = choice.prefix_cache_dir.clone()?;
    match files.fingerprint() {
        Ok(model) => Some(PreambleFolder { path, model }),
        Err(error) => {
            warn!(%error, "the model is not told from others; prefix_cache_dir is not used");
            None
        }
    }
}

/// This computer's memory, in bytes.
pub(super) struct Memory {
    pub(super) total: u64,
    /// Free, or free as soon as somebody asks for it.
    pub(super) available: u64,
}

impl Memory {
    /// The memory now; `None` where it cannot be found out.
    pub(super) fn now() -> Option<Self> {
        let mut system = System::new();
        system.refresh_memory();
        let (total, available) = (system.total_memory(), system.available_memory());
        (available > 0).then_some(Self { total, available })
    }

    /// What keys and values may have of it before the model is loaded: half,
    /// which leaves the other half to the weights, to what is computed, and to
    /// other programs.
    pub(super) fn for_kv(&self) -> u64 {
        self.available / 2
    }
}

/// How much the engine may take on.
fn room(choice: &ModelChoice, end_of_sequence: Vec<u32>) -> engine::Settings {
    let kv_bytes = Memory::now().map(|memory| memory.for_kv());
    let kv_bytes = kv_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let defaults = engine::Settings::default();
    let quarter = kv_bytes.map_or(usize::MAX, |bytes| bytes / 4);
    engine::Settings {
        context_length: choice.context_length,
        end_of_sequence,
        kv_bytes,
        prefix_cache_bytes: choice
            .prefix_cache_bytes
            .unwrap_or(defaults.prefix_cache_bytes.min(quarter)),
        ..defaults
    }
}

/// Evaluates what every request begins with, so that what cannot work shows
/// now and the first request finds everything in place.
async fn warm_up(sessions: &ToolLoop, engine: &Engine) -> Result<(), Failure> {
    match sessions.warm_up().await {
        Ok(usage) => {
            let tokens = usage.prompt_tokens;
            let ms = usage.time_to_first_token.as_millis() as u64;
            info!(
                preamble_tokens = tokens,
                cached_tokens = usage.cached_tokens,
                ms,
                "warmed up"
            );
            if tokens * 4 > engine.context_length() * 3 {
                warn!(
                    preamble_tokens = tokens,
                    context_length = engine.context_length(),
                    "the system prompt and the tools take most of the context; allow fewer tools with `tools` in the servers' entries"
                );
            }
            Ok(())
        }
        Err(SessionError::PromptTooLong { needed, limit }) => Err(Failure::new(format_args!(
            "the system prompt and the tools alone need {needed} tokens but the context holds {limit}; \
             shorten system_prompt or allow fewer tools with `tools` in the servers' entries"
        ))),
        Err(SessionError::Model(error @ ChatError::Template(_))) => Err(Failure::new(
            format_args!("the model cannot be talked to: {error}"),
        )),
        Err(error) => Err(Failure::new(format_args!(
            "the model fails at work: {error}"
        ))),
    }
}
