//! Which form of calls a chat template shows, from the markers in its text.
//!
//! Does not render the template and knows no forms beyond their markers.

use super::ToolFormat;

/// The markers of a form: it is that form if the template has all texts of one
/// of the lists.
struct Signs {
    format: ToolFormat,
    any: &'static [&'static [&'static str]],
}

/// The most specific first: `<tool_call>` alone is Hermes', but GLM and
/// Qwen3-Coder write it too, and `<|tool_call|>` is in two families.
const SIGNS: [Signs; 19] = [
    Signs {
        format: ToolFormat::Harmony,
        any: &[&["<|channel|>", "<|message|>"]],
    },
    Signs {
        format: ToolFormat::DeepSeek,
        any: &[
            &["<｜tool▁sep｜>"],
            &["<｜tool▁call▁begin｜>"],
            &["｜DSML｜"],
        ],
    },
    Signs {
        format: ToolFormat::KimiK2,
        any: &[&["<|tool_calls_section_begin|>"]],
    },
    Signs {
        format: ToolFormat::Cohere,
        any: &[&["<|START_ACTION|>"]],
    },
    Signs {
        format: ToolFormat::Apertus,
        any: &[&["<|tools_prefix|>"]],
    },
    // Its template puts the tags' ends in.
    Signs {
        format: ToolFormat::Hunyuan,
        any: &[&["<arg_key{}>", ":opensource"], &["<arg_key:opensource>"]],
    },
    Signs {
        format: ToolFormat::GigaChat,
        any: &[
            &["<|function_call|>", "<|role_sep|>"],
            &["'function call'", "<|role_sep|>"],
        ],
    },
    Signs {
        format: ToolFormat::MiniCpm,
        any: &[&["<function name=\"", "<param name=\""]],
    },
    Signs {
        format: ToolFormat::MiniMax,
        any: &[&["<minimax:tool_call>"]],
    },
    Signs {
        format: ToolFormat::Gemma,
        any: &[
            &["<start_function_call>"],
            &["<|tool_call>", "<tool_call|>"],
        ],
    },
    // Most of LFM2's templates show how tools are listed, not how they are
    // called.
    Signs {
        format: ToolFormat::Lfm2,
        any: &[
            &["<|tool_call_start|>"],
            &["<|tool_list_start|>"],
            &["\"List of tools: [\""],
        ],
    },
    Signs {
        format: ToolFormat::Glm,
        any: &[&["<arg_key>"]],
    },
    Signs {
        format: ToolFormat::QwenXml,
        any: &[&["<function="]],
    },
    Signs {
        format: ToolFormat::Mistral,
        any: &[&["[TOOL_CALLS]"]],
    },
    Signs {
        format: ToolFormat::Phi4Mini,
        any: &[&["<|/tool_call|>"], &["<|tool|>", "<|/tool|>"]],
    },
    Signs {
        format: ToolFormat::Granite,
        any: &[&["<|tool_call|>"]],
    },
    // JSON between markers of their own, which the last resort knows.
    Signs {
        format: ToolFormat::Json,
        any: &[&["<tool_calls>"], &["<TOOLCALL>"]],
    },
    Signs {
        format: ToolFormat::Hermes,
        any: &[&["<tool_call>"]],
    },
    // Llama 3.2 has no `<|python_tag|>` in its template, but the role that
    // results come in.
    Signs {
        format: ToolFormat::LlamaJson,
        any: &[&["<|python_tag|>"], &["<|start_header_id|>", "ipython"]],
    },
];

/// The form that the template's own markers show, or bare JSON.
pub(super) fn of_template(template: &str) -> ToolFormat {
    let shows = |signs: &&Signs| {
        let mut lists = signs.any.iter();
        lists.any(|list| list.iter().all(|sign| template.contains(sign)))
    };
    SIGNS
        .iter()
        .find(shows)
        .map_or(ToolFormat::Json, |signs| signs.format)
}
