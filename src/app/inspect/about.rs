//! What a model is and whether it fits into this computer's memory, for people
//! and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::super::host::Memory;
use crate::chat::ChatTemplate;
use crate::chat::formats::ToolFormat;
use crate::chat::template::TemplateError;
use crate::config::ModelChoice;
use crate::model::{Description, Dtype, ModelFiles, Quantized, Tokenizer};

/// Everything that is told of a model.
pub(super) struct About {
    name: String,
    description: Description,
    /// Whether it is to be quantized at load.
    quantizes: bool,
    /// Tokens of context that one conversation may have here.
    context: usize,
    memory: Option<Memory>,
    template: Option<Template>,
    /// Why it could not be talked to.
    problems: Vec<String>,
}

struct Template {
    format: String,
    knows_tools: bool,
}

/// Whether it fits.
#[derive(Clone, Copy)]
enum Fit {
    Whole,
    /// With a context of so many tokens.
    Shorter(usize),
    No,
}

impl About {
    pub(super) fn new(
        choice: &ModelChoice,
        files: &ModelFiles,
        description: Description,
        template: Result<ChatTemplate, TemplateError>,
    ) -> Self {
        let mut problems = Vec::new();
        if let Err(error) = Tokenizer::load(files) {
            problems.push(error.to_string());
        }
        let template = match template {
            Ok(template) => Some(Template {
                format: name_of(template.tool_format()),
                knows_tools: template.knows_tools(),
            }),
            Err(error) => {
                problems.push(error.to_string());
                None
            }
        };
        let made_for = description.info.context_length;
        Self {
            name: choice.model_name.to_string(),
            quantizes: choice.quantize.is_some(),
            context: choice
                .context_length
                .map_or(made_for, |asked| asked.min(made_for)),
            description,
            memory: Memory::now(),
            template,
            problems,
        }
    }

    /// Bytes of keys and values of one conversation of the whole context.
    fn kv_bytes(&self) -> u64 {
        (self.context as u64).saturating_mul(self.description.info.kv_bytes_per_token as u64)
    }

    /// Bytes of what it carries beside them, however long it is.
    fn state_bytes(&self) -> u64 {
        self.description.info.state_bytes as u64
    }

    fn conversation_bytes(&self) -> u64 {
        self.kv_bytes().saturating_add(self.state_bytes())
    }

    fn expected_bytes(&self) -> u64 {
        self.description
            .stored_bytes
            .saturating_add(self.conversation_bytes())
    }

    fn fit(&self) -> Option<Fit> {
        let memory = self.memory.as_ref()?;
        let Some(rest) = memory.available.checked_sub(self.description.stored_bytes) else {
            return Some(Fit::No);
        };
        let room = rest.min(memory.for_kv());
        if self.conversation_bytes() <= room {
            return Some(Fit::Whole);
        }
        let room = room.saturating_sub(self.state_bytes());
        let tokens = room.checked_div(self.description.info.kv_bytes_per_token as u64);
        Some(match usize::try_from(tokens.unwrap_or(0)) {
            Ok(0) | Err(_) => Fit::No,
            Ok(tokens) => Fit::Shorter(tokens),
        })
    }

    /// What is added to a line on the bits of its weights.
    fn at_load(&self) -> String {
        match (self.quantizes, self.description.quantized) {
            (_, Some(Quantized { from, bits })) => {
                format!("; {}, quantized to {bits} bits at load", type_name(from))
            }
            (true, None) => "; nothing is left to quantize at load".to_owned(),
            (false, None) => String::new(),
        }
    }

    /// One line of JSON.
    pub(super) fn json(&self) -> String {
        let info = &self.description.info;
        let (fits, context_that_fits) = match self.fit() {
            Some(Fit::Whole) => (json!(true), json!(self.context)),
            Some(Fit::Shorter(tokens)) => (json!(false), json!(tokens)),
            Some(Fit::No) => (json!(false), json!(0)),
            None => (Value::Null, Value::Null),
        };
        let bits = (self.description.bits_per_weight() * 1000.0).round() / 1000.0;
        json!({
            "model": self.name,
            "family": info.family,
            "parameters": info.parameters,
            "bits_per_weight": bits,
            "quantized_at_load": self.description.quantized.map(|quantized| json!({
                "from": type_name(quantized.from),
                "bits": quantized.bits,
            })),
            "context_length": info.context_length,
            "backend": info.backend,
            "tool_format": self.template.as_ref().map(|template| &template.format),
            "knows_tools": self.template.as_ref().map(|template| template.knows_tools),
            "kv_bytes_per_token": info.kv_bytes_per_token,
            "state_bytes": info.state_bytes,
            "memory": {
                "weights_bytes": self.description.stored_bytes,
                "kv_bytes": self.kv_bytes(),
                "expected_bytes": self.expected_bytes(),
                "computer_bytes": self.memory.as_ref().map(|memory| memory.total),
                "available_bytes": self.memory.as_ref().map(|memory| memory.available),
            },
            "fits": fits,
            "context_that_fits": context_that_fits,
            "problems": self.problems,
        })
        .to_string()
    }

    /// A table, without a newline at its end.
    pub(super) fn table(&self) -> String {
        let info = &self.description.info;
        let weights = self.description.stored_bytes;
        let mut out = String::new();
        let mut row = |what: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(out, "{what:<14}{value}");
        };
        row("model", self.name.clone());
        row("family", info.family.clone());
        row("parameters", count(info.parameters));
        let bits = self.description.bits_per_weight();
        let at_load = self.at_load();
        row(
            "bits",
            format!("{bits:.2} a weight, scales included{at_load}"),
        );
        row("context", format!("{} tokens", info.context_length));
        row("backend", info.backend.clone());
        if let Some(template) = &self.template {
            row("tool calls", template.format.clone());
            let tools = match template.knows_tools {
                true => "knows tools",
                false => "knows no tools: they are described in the system prompt",
            };
            row("template", tools.to_owned());
        }
        let kv = info.kv_bytes_per_token;
        let states = match info.state_bytes {
            0 => String::new(),
            bytes => format!(" + {bytes} bytes of states a conversation"),
        };
        row("KV cache", format!("{kv} bytes a token{states}"));
        let parts = format!(
            "{} of weights + {} of keys and values of {} tokens{}",
            size(weights),
            size(self.kv_bytes()),
            self.context,
            match self.state_bytes() {
                0 => String::new(),
                bytes => format!(" + {} of states", size(bytes)),
            }
        );
        let expected = size(self.expected_bytes());
        row("memory", format!("{expected}: {parts}"));
        if let Some(memory) = &self.memory {
            let (total, available) = (size(memory.total), size(memory.available));
            row(
                "this computer",
                format!("{total}, {available} of it available now"),
            );
        }
        let fits = match self.fit() {
            Some(Fit::Whole) => "yes".to_owned(),
            Some(Fit::Shorter(tokens)) => {
                format!("now with a context of {tokens} tokens at most")
            }
            Some(Fit::No) => "no".to_owned(),
            None => "unknown: the memory of this computer cannot be found out".to_owned(),
        };
        row("fits", fits);
        for problem in &self.problems {
            row("problem", problem.clone());
        }
        out.truncate(out.trim_end().len());
        out
    }
}

/// What a type of weights is called.
fn type_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::F16 => "f16",
        Dtype::Bf16 => "bf16",
        Dtype::U32 => "u32",
        Dtype::U8 => "u8",
    }
}

/// A form's name, as in `qwen3-coder`.
fn name_of(format: ToolFormat) -> String {
    let mut name = String::new();
    for letter in format!("{format:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// A number of parameters, for people.
fn count(parameters: u64) -> String {
    match parameters {
        1_000_000_000.. => format!("{:.2} billion", parameters as f64 / 1e9),
        1_000_000.. => format!("{:.2} million", parameters as f64 / 1e6),
        _ => parameters.to_string(),
    }
}

/// A number of bytes, for people.
fn size(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.2} GB", bytes as f64 / 1e9),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BackendChoice;
    use crate::{demo, model};

    /// The bundled model, 4096 tokens of context, where so much memory is
    /// available.
    fn about(available: u64) -> About {
        let described = model::describe(&demo::files(), BackendChoice::Candle);
        About {
            name: "demo".to_owned(),
            quantizes: false,
            description: described.expect("the bundled model can be described"),
            context: 4096,
            memory: (available > 0).then_some(Memory {
                total: available,
                available,
            }),
            template: None,
            problems: Vec::new(),
        }
    }

    fn said(available: u64) -> (Value, Value) {
        fits(&about(available))
    }

    fn fits(about: &About) -> (Value, Value) {
        let json: Value = serde_json::from_str(&about.json()).expect("it is a line of JSON");
        (json["fits"].clone(), json["context_that_fits"].clone())
    }

    #[test]
    fn states_take_their_room_once() {
        let mut about = about(1);
        let token = about.description.info.kv_bytes_per_token as u64;
        about.description.info.state_bytes = 3 * token as usize;
        about.description.stored_bytes = 0;
        let mut with = |room: u64| {
            let available = 2 * room;
            about.memory = Some(Memory {
                total: available,
                available,
            });
            fits(&about)
        };
        assert_eq!(with(4099 * token), (json!(true), json!(4096)));
        assert_eq!(with(4099 * token - 1), (json!(false), json!(4095)));
        assert_eq!(with(5 * token), (json!(false), json!(2)));
        assert_eq!(with(3 * token), (json!(false), json!(0)));
        let table = about.table();
        assert!(table.contains("bytes of states a conversation"), "{table}");
    }

    #[test]
    fn what_fits_depends_on_the_memory() {
        let kv = about(1).kv_bytes();
        let weights = about(1).description.stored_bytes;
        // Keys and values may have half.
        assert_eq!(said(2 * kv), (json!(true), json!(4096)));
        assert_eq!(said(2 * kv - 2), (json!(false), json!(4095)));
        // And what the weights leave.
        let ten = 10 * kv / 4096;
        assert_eq!(said(weights + ten / 2), (json!(false), json!(5)));
        assert_eq!(said(weights), (json!(false), json!(0)));
        assert_eq!(said(weights - 1), (json!(false), json!(0)));
        assert_eq!(said(0), (Value::Null, Value::Null));
        assert!(about(2 * kv - 2).table().contains("context of 4095 tokens"));
    }
}
