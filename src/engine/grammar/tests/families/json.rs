//! Families whose arguments are JSON.

use super::*;

pub(super) fn families() -> Vec<Family> {
    vec![
        Family {
            name: "llama_json",
            format: CallFormat::llama_json,
            special: &["<|python_tag|>"],
            right: &[
                r#"{"name": "weather", "parameters": {"city": "Oslo", "days": 2}}"#,
                r#" {"name":"weather","parameters":{"city":"Oslo"}}"#,
                "<|python_tag|>{\"name\": \"now\", \"parameters\": {}}",
                r#"<|python_tag|>{"name": "now", "parameters": {}}; {"name": "weather", "parameters": {"city": ""}}"#,
                "Well. <|python_tag|>{\n  \"name\": \"now\",\n  \"parameters\": {}\n}\n",
            ],
            wrong: &[
                (r#"{"name": "#, "1"),
                (r#"{"name": "#, "\"other"),
                (r#"{"name": "weather", "#, "\"arguments"),
                (r#"{"name": "weather", "parameters": {"#, "}"),
                (r#"{"name": "weather", "parameters": {"city": "#, "1"),
                (
                    r#"{"name": "weather", "parameters": {"city": "x", "days": "#,
                    "\"",
                ),
                (r#"{"name": "now", "parameters": {}} "#, "x"),
                ("<|python_tag|>", "print"),
            ],
            free: &[
                r#"{"names": 1}"#,
                r#"Use {"name": "other"}"#,
                "{}",
                "{\"a\": {\"name\": 1}}",
            ],
        },
        Family {
            name: "json",
            format: CallFormat::json,
            special: &["<think>", "</think>"],
            right: &[
                r#"{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}"#,
                "\n{\"name\":\"now\",\"arguments\":{}}\n",
                "<think>{\"name\": 1}</think>\n\n{\"name\": \"now\", \"arguments\": {}}",
            ],
            wrong: &[
                (r#"{"name": "#, "\"other"),
                (r#"{"name": "weather", "arguments": {"#, "}"),
                (r#"{"name": "now", "arguments": {}}"#, ";"),
                (r#"<think>x</think>{"name": "#, "1"),
            ],
            free: &[
                "Hello",
                "[{\"name\": 1}]",
                "Call {\"name\": 1}",
                "<think>{\"name\": 1}</think> No. {\"name\": 1}",
            ],
        },
        Family {
            name: "mistral_array",
            format: CallFormat::mistral_array,
            special: &["[TOOL_CALLS]", "[THINK]", "[/THINK]"],
            right: &[
                r#"[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Oslo"}, "id": "abcdEF123"}, {"name": "now", "arguments": {}, "id": "123456789"}]"#,
                r#"[TOOL_CALLS] [{"name":"weather","arguments":{"city":"Oslo"}}]"#,
                "[THINK][TOOL_CALLS]x[/THINK]So[TOOL_CALLS][\n{\"name\": \"now\", \"arguments\": {}}\n]",
            ],
            wrong: &[
                ("[TOOL_CALLS]", "now"),
                (r#"[TOOL_CALLS][{"name": "#, "\"other"),
                (r#"[TOOL_CALLS][{"name": "weather", "arguments": {"#, "}"),
                (
                    r#"[TOOL_CALLS][{"name": "now", "arguments": {}, "id": "abc"#,
                    "\"",
                ),
                (r#"[TOOL_CALLS][{"name": "now", "arguments": {}}, "#, "]"),
                (r#"[TOOL_CALLS][{"name": "now", "arguments": {}}]"#, " x"),
            ],
            free: &["[TOOL_RESULTS][{]", "[TOOL_CALL]", "[{\"name\": 1}]"],
        },
        Family {
            name: "mistral_args",
            format: CallFormat::mistral_args,
            special: &["[TOOL_CALLS]", "[ARGS]"],
            right: &[
                r#"[TOOL_CALLS]weather[ARGS]{"city": "Oslo", "days": 10}"#,
                r#"Yes.[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]now[ARGS]{}"#,
            ],
            wrong: &[
                ("[TOOL_CALLS]", "other"),
                ("[TOOL_CALLS]weather", "s"),
                ("[TOOL_CALLS]weather", "{"),
                ("[TOOL_CALLS]weather[ARGS]{", "}"),
                ("[TOOL_CALLS]now[ARGS]{}", "x"),
                ("[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]", "["),
            ],
            free: &["weather[ARGS]{}", "[ARGS]"],
        },
        Family {
            name: "mistral_call_id",
            format: CallFormat::mistral_call_id,
            special: &["[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"],
            right: &[
                r#"[TOOL_CALLS]weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "Oslo", "days": 10}"#,
                r#"[TOOL_CALLS]now[CALL_ID]call00000[ARGS]{}[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}"#,
            ],
            wrong: &[
                ("[TOOL_CALLS]weather", "[A"),
                ("[TOOL_CALLS]weather[CALL_ID]", "_"),
                ("[TOOL_CALLS]weather[CALL_ID]a1B2c3D4", "["),
                ("[TOOL_CALLS]weather[CALL_ID]a1B2c3D4e", "f"),
                ("[TOOL_CALLS]weather[CALL_ID]a1B2c3D4e[ARGS]{", "}"),
            ],
            free: &["weather[CALL_ID]a1B2c3D4e[ARGS]{}"],
        },
        Family {
            name: "mistral_bare_args",
            format: CallFormat::mistral_bare_args,
            special: &["[TOOL_CALLS]"],
            right: &[
                r#"[TOOL_CALLS]weather{"city": "Oslo"}[TOOL_CALLS]now{}"#,
                "[TOOL_CALLS]now {\n}",
            ],
            wrong: &[("[TOOL_CALLS]now", "["), ("[TOOL_CALLS]weather{", "}")],
            free: &["weather{}"],
        },
        Family {
            name: "harmony",
            format: CallFormat::harmony,
            special: &[
                "<|channel|>",
                "<|message|>",
                "<|start|>",
                "<|constrain|>",
                "<|call|>",
                "<|end|>",
            ],
            right: &[
                r#"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>"#,
                r#"<|channel|>analysis<|message|>I use to=functions.nowhere now.<|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}"#,
                r#"<|channel|>commentary<|message|>Let me see.<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{"city": "Oslo", "days": 3}<|call|>"#,
                r#"<|channel|>commentary to=functions.now<|message|>{}"#,
            ],
            wrong: &[
                ("<|channel|>commentary to=functions.", "other"),
                ("<|channel|>commentary to=functions.weather", "s"),
                ("<|channel|>commentary to=functions.weather ", "xml"),
                (
                    "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{",
                    "}",
                ),
                ("<|channel|>commentary to=functions.now<|message|>{} ", "{"),
                ("<|message|>x<|start|>assistant to=functions.", "x"),
            ],
            free: &[
                "<|channel|>final<|message|>Write to=functions.nothing",
                "<|channel|>commentary to=browser.x<|message|>y",
            ],
        },
        Family {
            name: "phi4_mini",
            format: CallFormat::phi4_mini,
            special: &["<|tool_call|>", "<|/tool_call|>"],
            right: &[
                r#"<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>"#,
                r#"So: <|tool_call|>[{"name":"now","arguments":{}},{"name":"now","arguments":{}}]<|/tool_call|> and more"#,
            ],
            wrong: &[
                ("<|tool_call|>", "{"),
                (r#"<|tool_call|>[{"name": "#, "\"other"),
                (r#"<|tool_call|>[{"name": "weather", "arguments": {"#, "}"),
                (r#"<|tool_call|>[{"name": "now", "arguments": {}}]"#, "x"),
            ],
            free: &["<tool_call>[", "<|/tool_call|>"],
        },
        Family {
            name: "granite",
            format: CallFormat::granite,
            special: &["<|tool_call|>"],
            right: &[
                r#"<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}]"#,
                r#"<tool_call>[{"name": "now", "arguments": {}}, {"name": "now", "arguments": {}}]"#,
            ],
            wrong: &[
                ("<tool_call>", "{"),
                (r#"<|tool_call|>[{"name": "#, "\"other"),
                (r#"<|tool_call|>[{"name": "weather", "arguments": {"#, "}"),
                (r#"<|tool_call|>[{"name": "now", "arguments": {}}]"#, "x"),
            ],
            free: &["[{\"name\": 1}]"],
        },
        Family {
            name: "deepseek_v3",
            format: CallFormat::deepseek_v3,
            special: &[
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁call▁begin｜>",
                "<｜tool▁sep｜>",
                "<｜tool▁call▁end｜>",
                "<｜tool▁calls▁end｜>",
            ],
            right: &[
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"Oslo\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
                "<think>a</think>b<｜tool▁calls▁begin｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>\n<｜tool▁calls▁end｜>",
            ],
            wrong: &[
                ("<｜tool▁calls▁begin｜>", "function"),
                (
                    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
                    "other",
                ),
                (
                    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{",
                    "}",
                ),
                (
                    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n",
                    "<",
                ),
            ],
            free: &["<｜tool▁call▁begin｜>x"],
        },
        Family {
            name: "deepseek_v3_1",
            format: CallFormat::deepseek_v3_1,
            special: &["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"],
            right: &[
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Oslo\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            ],
            wrong: &[
                ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", "other"),
                (
                    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{",
                    "}",
                ),
                (
                    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}",
                    "<｜tool▁calls",
                ),
            ],
            free: &["<｜tool▁sep｜>{"],
        },
        Family {
            name: "kimi_k2",
            format: CallFormat::kimi_k2,
            special: &[
                "<|tool_calls_section_begin|>",
                "<|tool_call_begin|>",
                "<|tool_call_argument_begin|>",
                "<|tool_call_end|>",
                "<|tool_calls_section_end|>",
            ],
            right: &[
                "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{\"city\": \"Oslo\"}<|tool_call_end|><|tool_call_begin|>functions.now:12<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
                "I look.<|tool_calls_section_begin|>\n<|tool_call_begin|>functions.now:3<|tool_call_argument_begin|> {} <|tool_call_end|>\n<|tool_calls_section_end|>",
            ],
            wrong: &[
                ("<|tool_calls_section_begin|><|tool_call_begin|>", "weather"),
                (
                    "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
                    "other",
                ),
                (
                    "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:",
                    "<",
                ),
                (
                    "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{",
                    "}",
                ),
            ],
            free: &["<|tool_call_begin|>x"],
        },
    ]
}
