//! The ways to write calls, with what is known of each.

use serde_json::{Map, Value as Json};

use super::written::*;
use crate::chat::formats::ToolFormat;

/// A way to write calls. A format may have several.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) format: ToolFormat,
    /// Writes one or more calls.
    pub(super) write: fn(&[Call<'_>]) -> String,
    /// What the first call begins with: behind it, there is a call.
    pub(super) opening: &'static str,
    /// Markers that may be in a text argument.
    pub(super) closings: &'static [&'static str],
    /// Whether content may stand before the calls, and behind.
    pub(super) around: (bool, bool),
}

pub(super) type Call<'a> = (&'a str, &'a Map<String, Json>);

pub(super) const WAYS: [Way; 31] = [
    way(
        "hermes",
        ToolFormat::Hermes,
        |calls| {
            each(calls, |name, args| {
                format!(
                    "<tool_call>\n{}\n</tool_call>\n",
                    object(name, "arguments", args)
                )
            })
        },
        "<tool_call>",
        &["</tool_call>"],
    ),
    way(
        "qwen",
        ToolFormat::QwenXml,
        |calls| {
            each(calls, |name, args| {
                format!("<tool_call>\n{}\n</tool_call>\n", function(name, args))
            })
        },
        "<tool_call>",
        &[
            "</parameter>",
            "</function>",
            "</tool_call>",
            "<parameter=x>",
            "<function=y>",
        ],
    ),
    way(
        "qwen, no outer marker",
        ToolFormat::QwenXml,
        |calls| each(calls, function),
        "<function=",
        &["</function>", "</tool_call>"],
    ),
    way(
        "seed",
        ToolFormat::QwenXml,
        |calls| {
            each(calls, |name, args| {
                format!(
                    "<seed:tool_call>\n{}\n</seed:tool_call>",
                    function(name, args)
                )
            })
        },
        "<seed:tool_call>",
        &["</seed:tool_call>"],
    ),
    way(
        "functionary",
        ToolFormat::QwenXml,
        |calls| {
            each(calls, |name, args| {
                format!("<function={name}>{}</function>", json(args))
            })
        },
        "<function=",
        &["</function>"],
    ),
    Way {
        around: (false, true),
        ..way(
            "llama",
            ToolFormat::LlamaJson,
            |calls| joined(calls, "; ", |name, args| object(name, "parameters", args)),
            "{\"name\": \"",
            &["<|python_tag|>", ";", "};{"],
        )
    },
    way(
        "llama, python tag",
        ToolFormat::LlamaJson,
        |calls| {
            format!(
                "<|python_tag|>{}",
                joined(calls, ";", |name, args| object(name, "parameters", args))
            )
        },
        "<|python_tag|>",
        &["<|python_tag|>"],
    ),
    way(
        "mistral, old",
        ToolFormat::Mistral,
        |calls| {
            format!(
                "[TOOL_CALLS][{}]",
                joined(calls, ", ", |name, args| object(name, "arguments", args))
            )
        },
        "[TOOL_CALLS]",
        &["[TOOL_CALLS]", "]"],
    ),
    way(
        "mistral",
        ToolFormat::Mistral,
        |calls| {
            each(calls, |name, args| {
                format!("[TOOL_CALLS]{name}[ARGS]{}", json(args))
            })
        },
        "[TOOL_CALLS]",
        &["[TOOL_CALLS]", "[ARGS]"],
    ),
    way(
        "mistral, ids",
        ToolFormat::Mistral,
        |calls| {
            each(calls, |name, args| {
                format!("[TOOL_CALLS]{name}[CALL_ID]a1B2c3D4e[ARGS]{}", json(args))
            })
        },
        "[TOOL_CALLS]",
        &["[CALL_ID]"],
    ),
    way(
        "mistral, one marker",
        ToolFormat::Mistral,
        |calls| {
            format!(
                "[TOOL_CALLS]{}",
                each(calls, |name, args| format!("{name}[ARGS]{}", json(args)))
            )
        },
        "[TOOL_CALLS]",
        &["[TOOL_CALLS]"],
    ),
    way(
        "mistral, no ARGS",
        ToolFormat::Mistral,
        |calls| {
            each(calls, |name, args| {
                format!("[TOOL_CALLS]{name}{}", json(args))
            })
        },
        "[TOOL_CALLS]",
        &["[TOOL_CALLS]"],
    ),
    way(
        "gemma",
        ToolFormat::Gemma,
        |calls| {
            each(calls, |name, args| {
                format!(
                    "<start_function_call>call:{name}{}<end_function_call>",
                    gemma_fields(args, "<escape>")
                )
            })
        },
        "<start_function_call>",
        &["<end_function_call>", "}", "\""],
    ),
    way(
        "gemma 4",
        ToolFormat::Gemma,
        |calls| {
            each(calls, |name, args| {
                format!(
                    "<|tool_call>call:{name}{}<tool_call|>",
                    gemma_fields(args, "<|\"|>")
                )
            })
        },
        "<|tool_call>",
        &["<tool_call|>", "},", "<escape>"],
    ),
    way(
        "phi",
        ToolFormat::Phi4Mini,
        |calls| {
            format!(
                "<|tool_call|>[{}]<|/tool_call|>",
                joined(calls, ", ", |name, args| object(name, "arguments", args))
            )
        },
        "<|tool_call|>",
        &["<|/tool_call|>", "<|tool_call|>"],
    ),
    way(
        "glm",
        ToolFormat::Glm,
        |calls| {
            each(calls, |name, args| {
                format!("\n<tool_call>{name}\n{}</tool_call>", arguments(args, "\n"))
            })
        },
        "\n<tool_call>",
        &["</arg_value>", "</tool_call>", "<arg_key>", "</arg_key>"],
    ),
    way(
        "glm 4.7",
        ToolFormat::Glm,
        |calls| {
            each(calls, |name, args| {
                format!("<tool_call>{name}{}</tool_call>", arguments(args, ""))
            })
        },
        "<tool_call>",
        &["</tool_call>", "<tool_call>"],
    ),
    way(
        "granite",
        ToolFormat::Granite,
        |calls| {
            format!(
                "<|tool_call|>[{}]",
                joined(calls, ", ", |name, args| object(name, "arguments", args))
            )
        },
        "<|tool_call|>",
        &["<|tool_call|>", "</tool_call>"],
    ),
    way(
        "deepseek v3",
        ToolFormat::DeepSeek,
        |calls| {
            format!(
                "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>",
                joined(calls, "\n", |name, args| format!(
                    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{}\n```<｜tool▁call▁end｜>",
                    json(args)
                ))
            )
        },
        "<｜tool▁calls▁begin｜>",
        &["```", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"],
    ),
    way(
        "deepseek v3.1",
        ToolFormat::DeepSeek,
        |calls| {
            format!(
                "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>",
                each(calls, |name, args| format!(
                    "<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
                    json(args)
                ))
            )
        },
        "<｜tool▁calls▁begin｜>",
        &["<｜tool▁call▁end｜>", "<｜tool▁sep｜>"],
    ),
    way(
        "deepseek v3.2",
        ToolFormat::DeepSeek,
        |calls| {
            format!(
                "\n\n<｜DSML｜function_calls>\n{}</｜DSML｜function_calls>",
                each(calls, dsml)
            )
        },
        "\n\n<｜DSML｜function_calls>",
        &[
            "</｜DSML｜parameter>",
            "</｜DSML｜invoke>",
            "</｜DSML｜function_calls>",
        ],
    ),
    way(
        "kimi",
        ToolFormat::KimiK2,
        |calls| {
            format!(
                "<|tool_calls_section_begin|>{}<|tool_calls_section_end|>",
                each(calls, |name, args| format!(
                    "<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
                    json(args)
                ))
            )
        },
        "<|tool_calls_section_begin|>",
        &["<|tool_call_end|>", "<|tool_calls_section_end|>"],
    ),
    way(
        "gigachat",
        ToolFormat::GigaChat,
        |calls| {
            each(calls, |name, args| {
                format!("<|function_call|>{}", object(name, "arguments", args))
            })
        },
        "<|function_call|>",
        &["<|message_sep|>", "<|function_call|>", "}"],
    ),
    way(
        "gigachat, message",
        ToolFormat::GigaChat,
        |calls| {
            each(calls, |name, args| {
                format!(
                    "<|message_sep|>\n\nfunction call<|role_sep|>\n{}",
                    object(name, "arguments", args)
                )
            })
        },
        "<|message_sep|>\n\nfunction call<|role_sep|>",
        &["<|message_sep|>", "function call<|role_sep|>"],
    ),
    way(
        "minicpm",
        ToolFormat::MiniCpm,
        |calls| each(calls, params),
        "<function name=",
        &["</param>", "</function>", "<param name=\"x\">", "<b>"],
    ),
    way(
        "apertus",
        ToolFormat::Apertus,
        |calls| {
            format!(
                "<|tools_prefix|>[{}]<|tools_suffix|>",
                joined(calls, ", ", |name, args| format!(
                    "{{\"{name}\": {}}}",
                    json(args)
                ))
            )
        },
        "<|tools_prefix|>",
        &["<|tools_suffix|>", "<|tools_prefix|>", "]"],
    ),
    way(
        "hunyuan",
        ToolFormat::Hunyuan,
        |calls| {
            let calls = each(calls, |name, args| {
                let arguments = arguments(args, "\n");
                format!("<tool_call>{name}<tool_sep>\n{arguments}</tool_call>\n")
            });
            let calls = ["tool_call", "tool_sep", "arg_key", "arg_value"]
                .iter()
                .fold(calls, |calls, tag| {
                    calls.replace(&format!("{tag}>"), &format!("{tag}:opensource>"))
                });
            format!("<tool_calls:opensource>\n{calls}</tool_calls:opensource>")
        },
        "<tool_calls:opensource>",
        &[
            "</arg_value:opensource>",
            "</tool_call:opensource>",
            "<tool_call:opensource>",
        ],
    ),
    way(
        "cohere",
        ToolFormat::Cohere,
        |calls| {
            format!(
                "<|START_ACTION|>[\n    {}\n]<|END_ACTION|>",
                joined(calls, ",\n    ", |name, args| format!(
                    "{{\"tool_call_id\": \"0\", \"tool_name\": \"{name}\", \"parameters\": {}}}",
                    json(args)
                ))
            )
        },
        "<|START_ACTION|>",
        &["<|END_ACTION|>", "<|START_ACTION|>", "]"],
    ),
    way(
        "minimax",
        ToolFormat::MiniMax,
        |calls| {
            format!(
                "<minimax:tool_call>\n{}</minimax:tool_call>",
                each(calls, minimax)
            )
        },
        "<minimax:tool_call>",
        &["</parameter>", "</invoke>", "</minimax:tool_call>"],
    ),
    way(
        "lfm2",
        ToolFormat::Lfm2,
        |calls| {
            format!(
                "<|tool_call_start|>[{}]<|tool_call_end|>",
                joined(calls, ", ", |name, args| format!(
                    "{name}({})",
                    fields(args, ("=", ", "), python)
                ))
            )
        },
        "<|tool_call_start|>",
        &["<|tool_call_end|>", ")]", "'"],
    ),
    Way {
        around: (false, false),
        ..way(
            "json",
            ToolFormat::Json,
            |calls| {
                format!(
                    "```json\n[{}]\n```",
                    joined(calls, ",\n", |name, args| object(name, "arguments", args))
                )
            },
            "```json\n[{\"name\": \"",
            &["```", "]"],
        )
    },
];

const fn way(
    name: &'static str,
    format: ToolFormat,
    write: fn(&[Call<'_>]) -> String,
    opening: &'static str,
    closings: &'static [&'static str],
) -> Way {
    Way {
        name,
        format,
        write,
        opening,
        closings,
        around: (true, true),
    }
}
