//! The formats of calls, as the model families' own chat templates show them;
//! those whose arguments stand between tags are in `tag_families`.
//!
//! Knows nothing of how they are bound.

use super::CallFormat;
use super::format::{After, Form, Piece, Quiet};

impl CallFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as the Hermes
    /// and Qwen models write it, with reasoning in `<think>`.
    pub fn hermes() -> Self {
        Self {
            openers: texts(&["<tool_call>"]),
            at_start: 0,
            quiet: thoughts(),
            head: json_head("arguments"),
            again: 0,
            form: MEMBER,
            end: String::new(),
            separator: String::new(),
            closer: "</tool_call>".to_owned(),
            after: After::Text,
        }
    }

    /// `{"name": …, "parameters": {…}}` as the whole turn or behind
    /// `<|python_tag|>`, as Llama 3.1 and its successors write it, and behind
    /// `;` another one. Without the tag only a turn that begins with
    /// `{"name"` is a call.
    pub fn llama_json() -> Self {
        Self {
            openers: texts(&["<|python_tag|>"]),
            separator: ";".to_owned(),
            head: json_head("parameters"),
            ..Self::json()
        }
    }

    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]` and the end of the
    /// turn, as Mistral's models up to 2024 write it. Behind the arguments
    /// there may be `"id": "…"` with nine letters and digits.
    pub fn mistral_array() -> Self {
        Self {
            openers: texts(&["[TOOL_CALLS]"]),
            quiet: mistral_thoughts(),
            form: Form::Json {
                member: true,
                id: true,
            },
            after: After::End,
            ..Self::json_array()
        }
    }

    /// `[TOOL_CALLS]name[ARGS]{…}`, repeated, and the end of the turn, as
    /// Mistral's models since 2025 write it.
    pub fn mistral_args() -> Self {
        Self {
            head: vec![Piece::Name, exactly("[ARGS]")],
            ..Self::mistral_bare_args()
        }
    }

    /// `[TOOL_CALLS]name[CALL_ID]a1B2c3D4e[ARGS]{…}`, repeated, and the end of
    /// the turn, as Mistral Small 3.2 writes it, with nine letters and digits.
    pub fn mistral_call_id() -> Self {
        Self {
            head: vec![
                Piece::Name,
                exactly("[CALL_ID]"),
                Piece::Id(9),
                exactly("[ARGS]"),
            ],
            ..Self::mistral_bare_args()
        }
    }

    /// `[TOOL_CALLS]name{…}`, repeated, and the end of the turn: what those of
    /// Mistral's models write that have no `[ARGS]`.
    pub fn mistral_bare_args() -> Self {
        Self {
            openers: texts(&["[TOOL_CALLS]"]),
            at_start: 0,
            quiet: mistral_thoughts(),
            head: vec![Piece::Name],
            form: OBJECT,
            separator: "[TOOL_CALLS]".to_owned(),
            ..Self::json()
        }
    }

    /// `<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}`
    /// and `<|call|>` or the end of the turn, as gpt-oss writes it; also
    /// `<|start|>assistant to=functions.name<|channel|>commentary json<|message|>{…}`.
    /// Bound from ` to=functions.` on, which counts between `<|start|>` or
    /// `<|channel|>` and `<|message|>` only.
    pub fn harmony() -> Self {
        let channel = "<|channel|>commentary";
        let content = [" <|constrain|>json", "<|constrain|>json", " json", ""];
        let headers = ["", channel]
            .into_iter()
            .flat_map(|channel| content.map(|content| format!("{channel}{content}<|message|>")));
        Self {
            openers: texts(&[" to=functions."]),
            at_start: 0,
            quiet: Quiet {
                opens: texts(&["<|message|>"]),
                closes: texts(&["<|start|>", "<|channel|>"]),
            },
            head: vec![Piece::Name, Piece::OneOf(headers.collect())],
            again: 0,
            form: OBJECT,
            end: String::new(),
            separator: String::new(),
            closer: "<|call|>".to_owned(),
            after: After::Turn,
        }
    }

    /// `<|tool_call|>[{"name": …, "arguments": {…}}, …]<|/tool_call|>`, as
    /// Phi-4-mini writes it.
    pub fn phi4_mini() -> Self {
        Self {
            openers: texts(&["<|tool_call|>"]),
            closer: "]<|/tool_call|>".to_owned(),
            ..Self::json_array()
        }
    }

    /// `<TOOLCALL>[{"name": …, "arguments": {…}}, …]</TOOLCALL>`, as Nemotron
    /// Nano 2 writes it.
    pub fn nemotron() -> Self {
        Self {
            openers: texts(&["<TOOLCALL>"]),
            closer: "]</TOOLCALL>".to_owned(),
            ..Self::json_array()
        }
    }

    /// `<tool_calls>[{"name": …, "arguments": {…}, "id": "…"}, …]</tool_calls>`,
    /// as Apriel writes it, with an id of nine letters and digits or without.
    pub fn apriel() -> Self {
        Self {
            openers: texts(&["<tool_calls>"]),
            form: Form::Json {
                member: true,
                id: true,
            },
            closer: "]</tool_calls>".to_owned(),
            ..Self::json_array()
        }
    }

    /// `<tool_calls>`, for each call `{"name": …, "arguments": {…}}`, and
    /// `</tool_calls>`, as MiniMax M1 writes it.
    pub fn minimax_m1() -> Self {
        Self {
            openers: texts(&["<tool_calls>"]),
            again: 1,
            separator: "{".to_owned(),
            closer: "</tool_calls>".to_owned(),
            ..Self::hermes()
        }
    }

    /// `<|tool_call|>[{"name": …, "arguments": {…}}, …]` or the same behind
    /// `<tool_call>`, and the end of the turn, as Granite 3 writes it.
    pub fn granite() -> Self {
        Self {
            openers: texts(&["<|tool_call|>", "<tool_call>"]),
            after: After::End,
            ..Self::json_array()
        }
    }

    /// `<｜tool▁calls▁begin｜>`, then for each call
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name`, a line with three
    /// backquotes and `json`, `{…}`, a line with three backquotes and
    /// `<｜tool▁call▁end｜>`, then `<｜tool▁calls▁end｜>`, as DeepSeek V3 and R1
    /// write it.
    pub fn deepseek_v3() -> Self {
        Self {
            head: vec![
                text("<｜tool▁call▁begin｜>"),
                exactly("function<｜tool▁sep｜>"),
                Piece::Name,
                exactly("\n```json"),
            ],
            end: "```<｜tool▁call▁end｜>".to_owned(),
            ..Self::deepseek_v3_1()
        }
    }

    /// `<｜tool▁calls▁begin｜>`, then for each call
    /// `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`, then
    /// `<｜tool▁calls▁end｜>`, as DeepSeek V3.1 writes it.
    pub fn deepseek_v3_1() -> Self {
        Self {
            openers: texts(&["<｜tool▁calls▁begin｜>"]),
            head: vec![
                text("<｜tool▁call▁begin｜>"),
                Piece::Name,
                exactly("<｜tool▁sep｜>"),
            ],
            again: 1,
            form: OBJECT,
            end: "<｜tool▁call▁end｜>".to_owned(),
            separator: "<｜tool▁call▁begin｜>".to_owned(),
            closer: "<｜tool▁calls▁end｜>".to_owned(),
            ..Self::hermes()
        }
    }

    /// `<|tool_calls_section_begin|>`, then for each call
    /// `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`
    /// with any number, then `<|tool_calls_section_end|>`, as Kimi K2 writes
    /// it.
    pub fn kimi_k2() -> Self {
        Self {
            openers: texts(&["<|tool_calls_section_begin|>"]),
            head: vec![
                text("<|tool_call_begin|>"),
                exactly("functions."),
                Piece::Name,
                exactly(":"),
                Piece::Number,
                exactly("<|tool_call_argument_begin|>"),
            ],
            again: 1,
            form: OBJECT,
            end: "<|tool_call_end|>".to_owned(),
            separator: "<|tool_call_begin|>".to_owned(),
            closer: "<|tool_calls_section_end|>".to_owned(),
            ..Self::hermes()
        }
    }

    /// `<|START_ACTION|>[{"tool_call_id": "0", "tool_name": …, "parameters": {…}}, …]<|END_ACTION|>`,
    /// as Cohere's Command R7B and A write it, behind `<|START_THINKING|>`.
    pub fn cohere() -> Self {
        let object = [text("{"), text("\"tool_call_id\""), text(":"), text("\"")];
        let id = [Piece::Number, exactly("\""), text(",")];
        let mut name = json_head("parameters").split_off(2);
        name.insert(0, text("\"tool_name\""));
        let head = [text("[")].into_iter().chain(object).chain(id).chain(name);
        Self {
            openers: texts(&["<|START_ACTION|>"]),
            quiet: Quiet {
                opens: texts(&["<|START_THINKING|>", "<think>"]),
                closes: texts(&["<|END_THINKING|>", "</think>"]),
            },
            head: head.collect(),
            closer: "]<|END_ACTION|>".to_owned(),
            ..Self::json_array()
        }
    }

    /// `<|tool_call_start|>[name(key="text", other=1, third=True), …]<|tool_call_end|>`
    /// with Python's literals, as LFM2 writes it.
    pub fn lfm2() -> Self {
        Self {
            openers: texts(&["<|tool_call_start|>"]),
            head: vec![text("["), Piece::SpacedName, exactly("(")],
            again: 1,
            form: Form::Python,
            separator: ",".to_owned(),
            closer: "]<|tool_call_end|>".to_owned(),
            ..Self::hermes()
        }
    }

    /// `<start_function_call>call:name{key:<escape>text<escape>,other:1}<end_function_call>`,
    /// as FunctionGemma writes it.
    pub fn gemma() -> Self {
        Self {
            openers: texts(&["<start_function_call>"]),
            head: vec![text("call:"), Piece::Name, exactly("{")],
            form: Form::Marked {
                mark: "<escape>".to_owned(),
            },
            closer: "<end_function_call>".to_owned(),
            ..Self::hermes()
        }
    }

    /// `<|tool_call>call:name{key:<|"|>text<|"|>,other:1}<tool_call|>`, as
    /// Gemma 4 writes it, with reasoning in `<|channel>`.
    pub fn gemma4() -> Self {
        Self {
            openers: texts(&["<|tool_call>"]),
            quiet: Quiet {
                opens: texts(&["<|channel>"]),
                closes: texts(&["<channel|>"]),
            },
            form: Form::Marked {
                mark: "<|\"|>".to_owned(),
            },
            closer: "<tool_call|>".to_owned(),
            ..Self::gemma()
        }
    }

    /// `{"name": …, "arguments": {…}}` as the whole turn. Only a turn that
    /// begins with `{"name"` is a call.
    pub fn json() -> Self {
        Self {
            openers: Vec::new(),
            at_start: 2,
            closer: String::new(),
            after: After::Turn,
            ..Self::hermes()
        }
    }

    /// `<|tools_prefix|>[{"name of the tool": {…}}, …]<|tools_suffix|>`, as
    /// Apertus writes it.
    pub fn apertus() -> Self {
        Self {
            openers: texts(&["<|tools_prefix|>"]),
            quiet: Quiet {
                opens: texts(&["<|inner_prefix|>", "<think>"]),
                closes: texts(&["<|inner_suffix|>", "</think>"]),
            },
            head: vec![text("["), text("{"), Piece::QuotedName, text(":")],
            closer: "]<|tools_suffix|>".to_owned(),
            ..Self::json_array()
        }
    }

    /// `<|function_call|>{"name": …, "arguments": {…}}` and
    /// `<|message_sep|>` or the end of the turn, as GigaChat 3.1 writes it.
    pub fn gigachat() -> Self {
        Self {
            openers: texts(&["<|function_call|>"]),
            at_start: 0,
            closer: "<|message_sep|>".to_owned(),
            ..Self::json()
        }
    }

    /// The same in a message of the role `function call`, as GigaChat 3 writes
    /// it.
    pub fn gigachat_message() -> Self {
        Self {
            openers: texts(&["function call<|role_sep|>"]),
            ..Self::gigachat()
        }
    }

    /// `[{"name": …, "arguments": {…}}, …]`.
    fn json_array() -> Self {
        let mut head = json_head("arguments");
        head.insert(0, text("["));
        Self {
            head,
            again: 1,
            separator: ",".to_owned(),
            closer: "]".to_owned(),
            ..Self::hermes()
        }
    }
}

/// Arguments that are a member of the call's object.
const MEMBER: Form = Form::Json {
    member: true,
    id: false,
};

/// Arguments that are an object of their own.
pub(super) const OBJECT: Form = Form::Json {
    member: false,
    id: false,
};

pub(super) fn text(text: &str) -> Piece {
    Piece::Text(text.to_owned())
}

pub(super) fn exactly(text: &str) -> Piece {
    Piece::OneOf(vec![text.to_owned()])
}

pub(super) fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// An object's start up to the value of its second member.
fn json_head(arguments: &str) -> Vec<Piece> {
    vec![
        text("{"),
        text("\"name\""),
        text(":"),
        Piece::QuotedName,
        text(","),
        Piece::Text(format!("\"{arguments}\"")),
        text(":"),
    ]
}

fn thoughts() -> Quiet {
    Quiet {
        opens: texts(&["<think>"]),
        closes: texts(&["</think>"]),
    }
}

fn mistral_thoughts() -> Quiet {
    Quiet {
        opens: texts(&["[THINK]", "<think>"]),
        closes: texts(&["[/THINK]", "</think>"]),
    }
}
