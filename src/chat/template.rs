//! The model's chat template: a conversation and its tools in, the prompt's
//! text out, byte for byte what transformers would make of it.
//!
//! Does not know tokens, nor how the model's answer is read.

mod in_system;
mod jinja;
mod messages;
mod methods;
mod python;
mod source;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::{Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json, json};

use self::source::Source;
use super::formats::ToolFormat;
use super::{ChatError, Message, ToolSpec};
use crate::engine::grammar::CallFormat;
use crate::model::{FilesError, ModelFiles};

/// The engine's names of the two templates a model may have.
const DEFAULT: &str = "chat_template";
const TOOL_USE: &str = "chat_template (tool_use)";

/// The variables that are set for every conversation, beside
/// [`source::SPECIAL_TOKENS`], and the functions there are.
const VARIABLES: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];
const FUNCTIONS: [&str; 2] = ["raise_exception", "strftime_now"];

/// A model's chat template, ready to render.
pub struct ChatTemplate {
    env: Environment<'static>,
    /// What every conversation is rendered with, such as `bos_token`.
    constants: Vec<(String, Value)>,
    has_tool_use: bool,
    tools_go: ToolsGo,
    format: ToolFormat,
    /// The form its own text shows, whether or not it knows tools.
    own_format: ToolFormat,
    /// What binds the calls of that form.
    own_binding: Option<CallFormat>,
}

/// How a template is given the tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToolsGo {
    /// As its variable `tools`.
    Variable,
    /// As the system message's own.
    SystemMessage,
    /// It knows nothing of tools: they are part of the system prompt's text.
    Text,
}

/// A chat template that does not load.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The model has none.
    #[error(
        "the model has no chat template: neither chat_template.jinja nor `chat_template` in \
         tokenizer_config.json; choose an instruction-tuned model"
    )]
    Missing,
    /// A file cannot be had.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A file is not what it should be.
    #[error("the model's {file} cannot be used: {message}")]
    Config {
        /// Its name.
        file: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The template is not a template.
    #[error("the model's chat template cannot be used: {0}")]
    Invalid(String),
}

impl ChatTemplate {
    /// Loads the model's template and finds out what it can do.
    ///
    /// # Errors
    /// If the model has none, or it cannot be read or compiled.
    pub fn load(files: &ModelFiles) -> Result<Self, TemplateError> {
        Self::from_source(Source::read(files)?)
    }

    fn from_source(source: Source) -> Result<Self, TemplateError> {
        let invalid = |error: minijinja::Error| TemplateError::Invalid(error.to_string());
        let mut env = jinja::environment().map_err(invalid)?;
        let has_tool_use = source.tool_use.is_some();
        let with_tools = source.tool_use.as_ref().unwrap_or(&source.default);
        let format = ToolFormat::of_template(with_tools);
        let binding = format.binding(with_tools);
        for (name, text) in [(DEFAULT, Some(source.default)), (TOOL_USE, source.tool_use)] {
            if let Some(text) = text {
                let text = jinja::without_generation_tags(&text);
                guarded(|| env.add_template_owned(name, text)).map_err(invalid)?;
            }
        }
        let mut template = Self {
            env,
            constants: source
                .special_tokens
                .into_iter()
                .map(|(name, text)| (name.to_owned(), Value::from(text)))
                .collect(),
            has_tool_use,
            tools_go: ToolsGo::Variable,
            format,
            own_format: format,
            own_binding: binding,
        };
        template.find_out();
        Ok(template)
    }

    /// The template with `args` among its variables in every conversation,
    /// such as `enable_thinking`. A name of [`Self::is_reserved`] is ignored.
    pub fn with_args(mut self, args: &Map<String, Json>) -> Self {
        if args.is_empty() {
            return self;
        }
        let args = args.iter().filter(|(name, _)| !Self::is_reserved(name));
        let args = args.map(|(name, value)| (name.clone(), methods::from_json(value)));
        self.constants.extend(args);
        self.find_out();
        self
    }

    /// Whether the host gives templates something of this name itself.
    pub fn is_reserved(name: &str) -> bool {
        let mut taken = VARIABLES
            .iter()
            .chain(&FUNCTIONS)
            .chain(&source::SPECIAL_TOKENS);
        taken.any(|known| *known == name)
    }

    /// Whether the template has a way of its own to tell the model of tools.
    /// Without one, they are described in the system prompt.
    pub fn knows_tools(&self) -> bool {
        self.tools_go != ToolsGo::Text
    }

    /// Finds out what the template can do.
    fn find_out(&mut self) {
        // The probe gives them in this way.
        self.tools_go = ToolsGo::Variable;
        self.tools_go = if self.reacts_to_tools() {
            ToolsGo::Variable
        } else if self.own_format == ToolFormat::Phi4Mini && self.reacts_to_system_tools() {
            ToolsGo::SystemMessage
        } else {
            ToolsGo::Text
        };
        self.format = match self.knows_tools() {
            true => self.own_format,
            false => ToolFormat::Hermes,
        };
        if !self.knows_tools() {
            tracing::debug!(
                "the chat template knows no tools: they are described in the system prompt"
            );
        }
    }

    /// The form the model writes its tool calls in.
    pub fn tool_format(&self) -> ToolFormat {
        self.format
    }

    /// What binds its calls while it writes them; `None` if nothing does.
    pub(super) fn binding(&self) -> Option<CallFormat> {
        match self.knows_tools() {
            true => self.own_binding.clone(),
            false => ToolFormat::Hermes.binding(""),
        }
    }

    /// The prompt of a conversation, up to where the model's turn begins.
    ///
    /// # Errors
    /// If the template refuses the conversation or fails on it.
    pub fn render(&self, messages: &[Message], tools: &[ToolSpec]) -> Result<String, ChatError> {
        let rewritten;
        let (messages, tools) = if self.knows_tools() {
            (messages, tools)
        } else {
            rewritten = messages::tools_as_text(messages, tools);
            (rewritten.as_slice(), &[][..])
        };
        let refused = match self.render_as_is(messages, tools) {
            Ok(prompt) => return Ok(prompt),
            Err(error) => error,
        };
        // Some templates raise an exception at the system role or at several
        // calls in a turn, and none of them says so beforehand.
        let single = messages::one_call_a_turn(messages);
        let both = single.as_deref().and_then(messages::system_in_user);
        let changes = [messages::system_in_user(messages), single, both];
        let mut changes = changes.into_iter().flatten();
        match changes.find_map(|changed| self.render_as_is(&changed, tools).ok()) {
            Some(prompt) => {
                tracing::debug!(
                    error = ?refused.to_string(),
                    "the chat template refused the conversation: its system message now opens the \
                     user's, or each call has a turn of its own"
                );
                Ok(prompt)
            }
            None => Err(ChatError::Template(refused.to_string())),
        }
    }

    fn render_as_is(
        &self,
        messages: &[Message],
        tools: &[ToolSpec],
    ) -> Result<String, minijinja::Error> {
        let name = if self.has_tool_use && !tools.is_empty() {
            TOOL_USE
        } else {
            DEFAULT
        };
        match self.tools_go {
            ToolsGo::SystemMessage => {
                let messages = in_system::messages(messages, tools);
                self.render_values(name, messages, Json::Null)
            }
            ToolsGo::Variable | ToolsGo::Text => {
                let tools = messages::tools(tools);
                self.render_values(name, messages::messages(messages), tools)
            }
        }
    }

    /// Renders the template of this name as it is.
    fn render_values(
        &self,
        name: &str,
        messages: Json,
        tools: Json,
    ) -> Result<String, minijinja::Error> {
        let variables = json!({
            "messages": messages,
            "tools": tools,
            "documents": null,
            "add_generation_prompt": true,
        });
        let variables = variables
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), methods::from_json(value)));
        let constants = self
            .constants
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()));
        let context = Value::from_pairs(constants.chain(variables));
        guarded(|| self.env.get_template(name)?.render(context))
    }

    /// Whether the system message's own tools show.
    fn reacts_to_system_tools(&self) -> bool {
        let (messages, shown) = in_system::probe();
        let rendered = self.render_values(DEFAULT, messages, Json::Null);
        rendered.is_ok_and(|prompt| prompt.contains(shown))
    }

    /// Whether the prompt changes when there is a tool. A template that fails
    /// either way is taken to know tools, since its own way is then the better
    /// guess.
    fn reacts_to_tools(&self) -> bool {
        let tool = ToolSpec {
            name: "probe".to_owned(),
            description: "A probe.".to_owned(),
            parameters: json!({"type": "object", "properties": {}}),
        };
        let user = Message::User("probe".to_owned());
        let system = Message::System("probe".to_owned());
        let mut rendered_any = false;
        for messages in [vec![user.clone()], vec![system, user]] {
            if let Ok(without) = self.render_as_is(&messages, &[]) {
                rendered_any = true;
                match self.render_as_is(&messages, std::slice::from_ref(&tool)) {
                    Ok(with) if with != without => return true,
                    _ => {}
                }
            }
        }
        !rendered_any
    }
}

/// Does `work` with the template engine. It panics at some slices
/// (minijinja 3.0.5 at `''[::-1]`), which is then an error of the template's:
/// the engine keeps nothing between renderings that could be left half done.
fn guarded<T>(work: impl FnOnce() -> Result<T, minijinja::Error>) -> Result<T, minijinja::Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(minijinja::Error::new(
            ErrorKind::InvalidOperation,
            "the template engine cannot evaluate it (it panicked)",
        ))
    })
}
