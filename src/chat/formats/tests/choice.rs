//! The form chosen from templates: the real and the written ones in the
//! repository, and the lines that matter of others.

use crate::chat::formats::ToolFormat;

#[test]
fn a_templates_own_markers_choose_its_form() {
    let cases = [
        (
            include_str!("../../../../models/demo/chat_template.jinja"),
            ToolFormat::Hermes,
        ),
        (
            include_str!("../../../../tests/fixtures/templates/qwen3.jinja"),
            ToolFormat::Hermes,
        ),
        (
            include_str!("../../../../tests/fixtures/templates/strict.jinja"),
            ToolFormat::Mistral,
        ),
        (
            include_str!("../../../../tests/fixtures/templates/indented.jinja"),
            ToolFormat::Json,
        ),
        (
            include_str!("../../../../tests/fixtures/templates/python.jinja"),
            ToolFormat::Json,
        ),
        (
            "<|start|>assistant<|channel|>final<|message|>",
            ToolFormat::Harmony,
        ),
        (
            "<tool_call>\\n<function=' + tool_call.name + '>",
            ToolFormat::QwenXml,
        ),
        ("<seed:tool_call>\\n<function=x>", ToolFormat::QwenXml),
        (
            "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>",
            ToolFormat::Glm,
        ),
        ("'[TOOL_CALLS]' + name + '[ARGS]'", ToolFormat::Mistral),
        ("<start_function_call>call:", ToolFormat::Gemma),
        (
            "'<|tool_call>call:' + name + '{' + '}<tool_call|>'",
            ToolFormat::Gemma,
        ),
        (
            "'<|tool|>' + message['tools'] + '<|/tool|>'",
            ToolFormat::Phi4Mini,
        ),
        (
            "respond only with <|tool_call|> followed by a JSON list",
            ToolFormat::Granite,
        ),
        (
            "'<｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>'",
            ToolFormat::DeepSeek,
        ),
        ("{%- set dsml_token = '｜DSML｜' -%}", ToolFormat::DeepSeek),
        ("<|tool_calls_section_begin|>", ToolFormat::KimiK2),
        (
            "<minimax:tool_call>\n<invoke name=\"tool-name-1\">",
            ToolFormat::MiniMax,
        ),
        ("List of tools: <|tool_list_start|>[", ToolFormat::Lfm2),
        ("system_prompt + \"List of tools: [\" -%}", ToolFormat::Lfm2),
        (
            "'<|tool_call_start|>[' + calls + ']<|tool_call_end|>'",
            ToolFormat::Lfm2,
        ),
        ("<|python_tag|>", ToolFormat::LlamaJson),
        ("':opensource' and '<arg_key{}>'", ToolFormat::Hunyuan),
        ("set token = '<|tools_prefix|>'", ToolFormat::Apertus),
        (
            "'<|role_sep|>' and '<|function_call|>'",
            ToolFormat::GigaChat,
        ),
        (
            "'role': 'function call' and '<|role_sep|>'",
            ToolFormat::GigaChat,
        ),
        (
            "<function name=\"f\"><param name=\"k\">v</param></function>",
            ToolFormat::MiniCpm,
        ),
        (
            "write <|START_ACTION|> followed by a list",
            ToolFormat::Cohere,
        ),
        (
            "'<tool_call> tags: <tool_calls>[{\"name\": ' ",
            ToolFormat::Json,
        ),
        ("<TOOLCALL>[", ToolFormat::Json),
        ("{{ tools | tojson }}", ToolFormat::Json),
    ];
    for (template, format) in cases {
        let start: String = template.chars().take(80).collect();
        assert_eq!(ToolFormat::of_template(template), format, "{start:?}");
    }
}
