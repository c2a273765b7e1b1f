//! The formats of calls whose arguments stand between tags, or whose call does,
//! as the model families' own chat templates show them.
//!
//! Knows nothing of how they are bound.

use super::CallFormat;
use super::families::{OBJECT, exactly, text, texts};
use super::format::{Form, Piece, Quiet, Tags};

impl CallFormat {
    /// `<tool_call>`, `<function=name>`, for each argument `<parameter=key>`, its
    /// value and `</parameter>`, then `</function>` and `</tool_call>`, all on
    /// lines of their own, as Qwen3-Coder and Qwen3.5 write it. Texts stand as
    /// they are, other values as JSON; so in the formats below.
    pub fn qwen_xml() -> Self {
        Self {
            head: vec![text("<function="), Piece::Name, exactly(">")],
            form: Form::Tagged(Tags {
                key_opens: "<parameter=".to_owned(),
                key_closes: ">".to_owned(),
                json_key_closes: None,
                value_opens: String::new(),
                value_closes: "</parameter>".to_owned(),
                lines: true,
            }),
            end: "</function>".to_owned(),
            ..Self::hermes()
        }
    }

    /// The same between `<seed:tool_call>` and its end and with values on the
    /// lines of their tags, as Seed-OSS writes it.
    pub fn seed() -> Self {
        Self {
            form: Form::Tagged(Tags {
                key_opens: "<parameter=".to_owned(),
                key_closes: ">".to_owned(),
                json_key_closes: None,
                value_opens: String::new(),
                value_closes: "</parameter>".to_owned(),
                lines: false,
            }),
            openers: texts(&["<seed:tool_call>"]),
            quiet: Quiet {
                opens: texts(&["<seed:think>", "<think>"]),
                closes: texts(&["</seed:think>", "</think>"]),
            },
            closer: "</seed:tool_call>".to_owned(),
            ..Self::qwen_xml()
        }
    }

    /// `<function=name>{…}</function>`, as functionary 3.1 writes it.
    pub fn functionary() -> Self {
        Self {
            openers: texts(&["<function="]),
            head: vec![Piece::Name, exactly(">")],
            form: OBJECT,
            closer: "</function>".to_owned(),
            ..Self::hermes()
        }
    }

    /// `<tool_call>name`, for each argument
    /// `<arg_key>key</arg_key><arg_value>value</arg_value>`, then
    /// `</tool_call>`, with line breaks between the tags or none, as GLM 4.5
    /// and its successors write it.
    pub fn glm() -> Self {
        Self {
            head: vec![Piece::Name],
            form: Form::Tagged(Tags {
                key_opens: "<arg_key>".to_owned(),
                key_closes: "</arg_key>".to_owned(),
                json_key_closes: None,
                value_opens: "<arg_value>".to_owned(),
                value_closes: "</arg_value>".to_owned(),
                lines: false,
            }),
            end: "</tool_call>".to_owned(),
            closer: String::new(),
            ..Self::hermes()
        }
    }

    /// `<tool_calls:opensource>`, then for each call
    /// `<tool_call:opensource>name<tool_sep:opensource>`, the arguments in GLM's
    /// manner and `</tool_call:opensource>`, then `</tool_calls:opensource>`, as
    /// Hunyuan 3 writes it.
    pub fn hunyuan() -> Self {
        Self {
            openers: texts(&["<tool_calls:opensource>"]),
            quiet: Quiet {
                opens: texts(&["<think:opensource>"]),
                closes: texts(&["</think:opensource>"]),
            },
            head: vec![
                text("<tool_call:opensource>"),
                Piece::Name,
                exactly("<tool_sep:opensource>"),
            ],
            again: 1,
            form: Form::Tagged(Tags {
                key_opens: "<arg_key:opensource>".to_owned(),
                key_closes: "</arg_key:opensource>".to_owned(),
                json_key_closes: None,
                value_opens: "<arg_value:opensource>".to_owned(),
                value_closes: "</arg_value:opensource>".to_owned(),
                lines: false,
            }),
            end: "</tool_call:opensource>".to_owned(),
            separator: "<tool_call:opensource>".to_owned(),
            closer: "</tool_calls:opensource>".to_owned(),
            ..Self::hermes()
        }
    }

    /// `<minimax:tool_call>`, then for each call `<invoke name="name">`, for
    /// each argument `<parameter name="key">value</parameter>`, and
    /// `</invoke>`, then `</minimax:tool_call>`, as MiniMax M2 writes it.
    pub fn minimax() -> Self {
        Self {
            openers: texts(&["<minimax:tool_call>"]),
            head: vec![text("<invoke name=\""), Piece::Name, exactly("\">")],
            again: 1,
            form: Form::Tagged(Tags {
                key_opens: "<parameter name=\"".to_owned(),
                key_closes: "\">".to_owned(),
                json_key_closes: None,
                value_opens: String::new(),
                value_closes: "</parameter>".to_owned(),
                lines: false,
            }),
            end: "</invoke>".to_owned(),
            separator: "<invoke name=\"".to_owned(),
            closer: "</minimax:tool_call>".to_owned(),
            ..Self::hermes()
        }
    }

    /// `<function name="name">`, for each argument
    /// `<param name="key">value</param>`, then `</function>`, as MiniCPM5
    /// writes it.
    pub fn minicpm() -> Self {
        Self {
            openers: texts(&["<function name=\""]),
            head: vec![Piece::Name, exactly("\">")],
            form: Form::Tagged(Tags {
                key_opens: "<param name=\"".to_owned(),
                key_closes: "\">".to_owned(),
                json_key_closes: None,
                value_opens: String::new(),
                value_closes: "</param>".to_owned(),
                lines: false,
            }),
            end: "</function>".to_owned(),
            closer: String::new(),
            ..Self::hermes()
        }
    }

    /// `<｜DSML｜function_calls>`, then for each call
    /// `<｜DSML｜invoke name="name">`, for each argument
    /// `<｜DSML｜parameter name="key" string="true">text</｜DSML｜parameter>`, or
    /// `string="false"` and JSON, and `</｜DSML｜invoke>`, then
    /// `</｜DSML｜function_calls>`, as DeepSeek V3.2 writes it.
    pub fn deepseek_v3_2() -> Self {
        Self {
            openers: texts(&["<｜DSML｜function_calls>"]),
            head: vec![text("<｜DSML｜invoke name=\""), Piece::Name, exactly("\">")],
            form: Form::Tagged(Tags {
                key_opens: "<｜DSML｜parameter name=\"".to_owned(),
                key_closes: "\" string=\"true\">".to_owned(),
                json_key_closes: Some("\" string=\"false\">".to_owned()),
                value_opens: String::new(),
                value_closes: "</｜DSML｜parameter>".to_owned(),
                lines: false,
            }),
            end: "</｜DSML｜invoke>".to_owned(),
            separator: "<｜DSML｜invoke name=\"".to_owned(),
            closer: "</｜DSML｜function_calls>".to_owned(),
            ..Self::minimax()
        }
    }

    /// The same between `<｜DSML｜tool_calls>` and its end, as DeepSeek V4 writes
    /// it.
    pub fn deepseek_v4() -> Self {
        Self {
            openers: texts(&["<｜DSML｜tool_calls>"]),
            closer: "</｜DSML｜tool_calls>".to_owned(),
            ..Self::deepseek_v3_2()
        }
    }
}
