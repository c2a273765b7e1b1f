//! The forms models write tool calls in, one small file each: the texts that
//! open and close a call, and a reader that is fed what follows the opening.
//! `ToolFormat::of_template` finds the form in a model's chat template.
//!
//! What the forms share is here too: JSON's extents (`json`), JSON between
//! markers (`json_block`), calls step by step (`steps`), tags around raw
//! text (`tags`, `invoke`), marked sections (`sections`), Python's
//! literals (`python`), and what a raw text means as an argument (`values`).
//!
//! Knows nothing of what surrounds a call: `super::turn` finds the opening
//! text and keeps content and reasoning apart. Harmony alone has no text
//! outside of its markers, and `harmony` reads whole turns. Results of calls are written
//! by the chat templates; the one that needs help with it, Phi-4-mini's, has it
//! in `super::template`.

mod apertus;
mod bare;
mod binding;
mod choice;
mod cohere;
mod deepseek;
mod gemma;
mod gigachat;
mod glm;
mod granite;
pub(super) mod harmony;
mod hermes;
mod hunyuan;
mod invoke;
mod json;
mod json_block;
mod kimi_k2;
mod lfm2;
mod llama_json;
mod minicpm;
mod minimax;
mod mistral;
pub(super) mod phi4_mini;
mod python;
mod qwen_xml;
mod sections;
mod steps;
mod tags;
#[cfg(test)]
mod tests;
mod values;

use super::Arguments;
use crate::engine::grammar::CallFormat;
pub(super) use values::Tools;

/// The form a model writes its tool calls in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// JSON between `<tool_call>` and `</tool_call>`: Hermes, Qwen, Granite 4
    /// and many others, and what models are asked for whose template knows no
    /// tools.
    Hermes,
    /// `<function=name><parameter=key>value</parameter></function>`, in
    /// `<tool_call>` or bare: Qwen3-Coder and Qwen3.5, Nemotron 3, Seed-OSS.
    QwenXml,
    /// JSON with `"parameters"` as the whole turn, or behind
    /// `<|python_tag|>`: Llama 3.
    LlamaJson,
    /// `[TOOL_CALLS]` and a JSON array, or `name[ARGS]{…}`: Mistral.
    Mistral,
    /// Channels: gpt-oss.
    Harmony,
    /// `call:name{key:value}`: FunctionGemma and Gemma 4.
    Gemma,
    /// A JSON array between `<|tool_call|>` and `<|/tool_call|>`: Phi-4-mini.
    Phi4Mini,
    /// A name, `<arg_key>` and `<arg_value>` in `<tool_call>`: GLM 4.x.
    Glm,
    /// A JSON array behind `<|tool_call|>`: Granite 3.
    Granite,
    /// `<｜tool▁sep｜>` between names and arguments: DeepSeek V3, R1 and V3.1;
    /// DSML's tags: V3.2 and V4.
    DeepSeek,
    /// `<|tool_call_begin|>functions.name:0`: Kimi K2.
    KimiK2,
    /// `<invoke name="…">` in `<minimax:tool_call>`: MiniMax M2.
    MiniMax,
    /// Python's calls between `<|tool_call_start|>` and `<|tool_call_end|>`:
    /// LFM2.
    Lfm2,
    /// A JSON array with `"tool_name"` and `"parameters"` between
    /// `<|START_ACTION|>` and `<|END_ACTION|>`: Cohere's Command R7B and A.
    Cohere,
    /// JSON behind `<|function_call|>`: GigaChat 3.
    GigaChat,
    /// `<function name="…"><param name="…">`: MiniCPM5.
    MiniCpm,
    /// A JSON array of `{"name": {…}}` between `<|tools_prefix|>` and
    /// `<|tools_suffix|>`: Apertus.
    Apertus,
    /// GLM's form with other tags: Hunyuan 3.
    Hunyuan,
    /// Bare JSON as the whole turn: the last resort, for templates that know
    /// tools and show no form of calls that is known here.
    Json,
}

/// A call as its text says, before it has an id.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedCall {
    /// The tool's name; empty if none could be read.
    pub name: String,
    /// The arguments.
    pub arguments: Arguments,
    /// The id that the model wrote with it, as it wrote it.
    pub id: Option<String>,
}

/// Reads one block of calls, fed the text behind the opening marker in pieces
/// cut anywhere. How it was cut makes no difference to what is read.
pub(super) trait CallReader: Send {
    /// Takes the next piece. `None` asks for more; otherwise the block is over
    /// and the answer is what it came to.
    fn feed(&mut self, text: &str) -> Option<Block>;

    /// Takes the end of the model's turn, in the middle of a block.
    fn finish(&mut self) -> Block;
}

/// What a block came to.
#[derive(Debug, PartialEq)]
pub(super) struct Block {
    /// Its calls, in order.
    pub(super) calls: Vec<ParsedCall>,
    /// What was fed and does not belong to it.
    pub(super) rest: String,
}

/// A form whose calls stand between texts that open and close them.
pub(super) struct Form {
    /// The texts that open a block of calls.
    pub(super) openings: &'static [&'static str],
    /// The texts that close one, which models sometimes write once too often,
    /// and what else they write behind calls that is no content.
    pub(super) closings: &'static [&'static str],
    /// The pairs of texts that stand around reasoning; the first is the usual.
    pub(super) reasoning: &'static [(&'static str, &'static str)],
    /// The pairs of texts that may stand around all of the content.
    pub(super) answer: &'static [(&'static str, &'static str)],
    /// A reader for the block that one of the openings opens.
    pub(super) reader: fn(&'static str, &Tools) -> Box<dyn CallReader>,
    /// How calls look that nothing opens, but that they begin the turn's
    /// content.
    pub(super) bare: Option<bare::Bare>,
}

/// The markers of reasoning that most models write.
const THINK: (&str, &str) = ("<think>", "</think>");

impl ToolFormat {
    /// The form that a template's own markers show.
    pub(super) fn of_template(template: &str) -> Self {
        choice::of_template(template)
    }

    /// What binds the calls of a model with this template while it writes
    /// them; `None` if nothing does.
    pub(super) fn binding(self, template: &str) -> Option<CallFormat> {
        binding::binding(self, template)
    }

    /// The pairs of texts that open and close reasoning; the first pair is the
    /// usual one. They may be longer than one token.
    pub(super) fn reasoning(self) -> &'static [(&'static str, &'static str)] {
        self.form()
            .map_or(&harmony::REASONING, |form| form.reasoning)
    }

    /// The form, unless it is Harmony, whose turns [`harmony::Reader`] reads.
    pub(super) fn form(self) -> Option<&'static Form> {
        Some(match self {
            Self::Hermes => &hermes::FORM,
            Self::QwenXml => &qwen_xml::FORM,
            Self::LlamaJson => &llama_json::FORM,
            Self::Mistral => &mistral::FORM,
            Self::Harmony => return None,
            Self::Gemma => &gemma::FORM,
            Self::Phi4Mini => &phi4_mini::FORM,
            Self::Glm => &glm::FORM,
            Self::Granite => &granite::FORM,
            Self::DeepSeek => &deepseek::FORM,
            Self::KimiK2 => &kimi_k2::FORM,
            Self::MiniMax => &minimax::FORM,
            Self::Lfm2 => &lfm2::FORM,
            Self::Cohere => &cohere::FORM,
            Self::GigaChat => &gigachat::FORM,
            Self::MiniCpm => &minicpm::FORM,
            Self::Apertus => &apertus::FORM,
            Self::Hunyuan => &hunyuan::FORM,
            Self::Json => &bare::FORM,
        })
    }
}
