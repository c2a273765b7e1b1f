//! Finds a model's chat template and the texts of its special tokens among the
//! model's files. Does not know what a template says.

use serde_json::{Map, Value as Json};

use super::TemplateError;
use crate::model::ModelFiles;

/// The special tokens a template may name, as transformers passes them.
pub(super) const SPECIAL_TOKENS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// A model's template as its files give it.
pub(super) struct Source {
    /// The template for conversations without tools, and with them if there
    /// is no other.
    pub(super) default: String,
    /// The template for conversations with tools, where the model has two.
    pub(super) tool_use: Option<String>,
    /// The special tokens that are set, by name.
    pub(super) special_tokens: Vec<(&'static str, String)>,
}

impl Source {
    /// Reads `chat_template.jinja`, else `chat_template` of
    /// `tokenizer_config.json`, else `chat_template.json`.
    ///
    /// # Errors
    /// If none of them has a template or one cannot be read.
    pub(super) fn read(files: &ModelFiles) -> Result<Self, TemplateError> {
        let config = object(files, "tokenizer_config.json")?;
        let special_tokens_map = object(files, "special_tokens_map.json")?;
        let special_tokens = SPECIAL_TOKENS
            .iter()
            .filter_map(|name| {
                let text = token_text(config.get(*name))
                    .or_else(|| token_text(special_tokens_map.get(*name)))?;
                Some((*name, text))
            })
            .collect();
        let (default, tool_use) = match files.text("chat_template.jinja")? {
            Some(text) => (text, None),
            None => match config.get("chat_template") {
                Some(Json::Null) | None => {
                    let file = object(files, "chat_template.json")?;
                    templates("chat_template.json", file.get("chat_template"))?
                }
                found => templates("tokenizer_config.json", found)?,
            },
        };
        Ok(Self {
            default,
            tool_use,
            special_tokens,
        })
    }
}

/// The default template and the one for tools, from the value of `chat_template`:
/// one text, or a list of `{"name": …, "template": …}`.
fn templates(
    file: &'static str,
    value: Option<&Json>,
) -> Result<(String, Option<String>), TemplateError> {
    let invalid = |what: &str| TemplateError::Config {
        file,
        message: what.to_owned(),
    };
    match value {
        None | Some(Json::Null) => Err(TemplateError::Missing),
        Some(Json::String(text)) => Ok((text.clone(), None)),
        Some(Json::Array(entries)) => {
            let named = |wanted: &str| {
                let entry = entries
                    .iter()
                    .find(|entry| entry.get("name").and_then(Json::as_str) == Some(wanted))?;
                entry.get("template")?.as_str().map(str::to_owned)
            };
            let tool_use = named("tool_use");
            match named("default").or_else(|| tool_use.clone()) {
                Some(default) => Ok((default, tool_use)),
                None => Err(invalid(
                    "chat_template is a list with no template named \"default\"",
                )),
            }
        }
        Some(_) => Err(invalid("chat_template is neither a text nor a list")),
    }
}

/// A token's text: a string, or an object whose `content` it is.
fn token_text(value: Option<&Json>) -> Option<String> {
    let value = value?;
    let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
    Some(text.to_owned())
}

/// A file's JSON object; an empty one if there is no such file.
fn object(files: &ModelFiles, file: &'static str) -> Result<Map<String, Json>, TemplateError> {
    let Some(text) = files.text(file)? else {
        return Ok(Map::new());
    };
    serde_json::from_str(&text).map_err(|error| TemplateError::Config {
        file,
        message: error.to_string(),
    })
}
