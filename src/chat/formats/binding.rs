//! Which grammar binds the calls of a form: where a form is written in more
//! than one way, the chat template shows which.

use super::ToolFormat;
use crate::engine::grammar::CallFormat;

/// How a model with this template writes its calls, for the grammar to bind
/// them; `None` for those that no grammar is for.
pub(super) fn binding(format: ToolFormat, template: &str) -> Option<CallFormat> {
    let shows = |text| template.contains(text);
    Some(match format {
        ToolFormat::Hermes => CallFormat::hermes(),
        ToolFormat::QwenXml if shows("<seed:tool_call>") => CallFormat::seed(),
        ToolFormat::QwenXml if shows("<function=") && !shows("<parameter=") => {
            CallFormat::functionary()
        }
        ToolFormat::QwenXml => CallFormat::qwen_xml(),
        ToolFormat::LlamaJson => CallFormat::llama_json(),
        ToolFormat::Mistral if shows("[CALL_ID]") => CallFormat::mistral_call_id(),
        ToolFormat::Mistral if shows("[ARGS]") => CallFormat::mistral_args(),
        ToolFormat::Mistral if shows("[TOOL_CALLS][") || shows("[TOOL_CALLS] [") => {
            CallFormat::mistral_array()
        }
        ToolFormat::Mistral => CallFormat::mistral_bare_args(),
        ToolFormat::Harmony => CallFormat::harmony(),
        ToolFormat::Gemma if shows("<start_function_call>") => CallFormat::gemma(),
        ToolFormat::Gemma => CallFormat::gemma4(),
        ToolFormat::Phi4Mini => CallFormat::phi4_mini(),
        ToolFormat::Glm => CallFormat::glm(),
        ToolFormat::Granite => CallFormat::granite(),
        ToolFormat::DeepSeek if shows("｜DSML｜") && shows("function_calls>") => {
            CallFormat::deepseek_v3_2()
        }
        ToolFormat::DeepSeek if shows("｜DSML｜") => CallFormat::deepseek_v4(),
        ToolFormat::DeepSeek if shows("```json") => CallFormat::deepseek_v3(),
        ToolFormat::DeepSeek => CallFormat::deepseek_v3_1(),
        ToolFormat::KimiK2 => CallFormat::kimi_k2(),
        ToolFormat::MiniMax => CallFormat::minimax(),
        ToolFormat::Lfm2 => CallFormat::lfm2(),
        ToolFormat::GigaChat if shows("<|function_call|>") => CallFormat::gigachat(),
        ToolFormat::GigaChat => CallFormat::gigachat_message(),
        ToolFormat::MiniCpm => CallFormat::minicpm(),
        ToolFormat::Apertus => CallFormat::apertus(),
        ToolFormat::Hunyuan => CallFormat::hunyuan(),
        ToolFormat::Cohere => CallFormat::cohere(),
        ToolFormat::Json if shows("<TOOLCALL>") => CallFormat::nemotron(),
        ToolFormat::Json if shows("<tool_calls>[") => CallFormat::apriel(),
        ToolFormat::Json if shows("<tool_calls>") => CallFormat::minimax_m1(),
        ToolFormat::Json => CallFormat::json(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_show_which_way_a_form_is_written() {
        for (format, template, expected) in [
            (
                ToolFormat::Mistral,
                "'[TOOL_CALLS]' + name + '[ARGS]'",
                Some(CallFormat::mistral_args()),
            ),
            (
                ToolFormat::Mistral,
                "'[TOOL_CALLS]' + name + '[CALL_ID]' + id + '[ARGS]'",
                Some(CallFormat::mistral_call_id()),
            ),
            (
                ToolFormat::Mistral,
                "{{- \"[TOOL_CALLS][\" }}",
                Some(CallFormat::mistral_array()),
            ),
            (
                ToolFormat::Mistral,
                "'[TOOL_CALLS]' + name",
                Some(CallFormat::mistral_bare_args()),
            ),
            (
                ToolFormat::DeepSeek,
                "'<｜tool▁sep｜>' + name + '\\n```json'",
                Some(CallFormat::deepseek_v3()),
            ),
            (
                ToolFormat::DeepSeek,
                "name + '<｜tool▁sep｜>'",
                Some(CallFormat::deepseek_v3_1()),
            ),
            (
                ToolFormat::DeepSeek,
                "'<' + dsml_token + 'function_calls>' and '｜DSML｜'",
                Some(CallFormat::deepseek_v3_2()),
            ),
            (
                ToolFormat::DeepSeek,
                "'<' + dsml_token + 'tool_calls>' and '｜DSML｜'",
                Some(CallFormat::deepseek_v4()),
            ),
            (
                ToolFormat::Gemma,
                "<start_function_call>",
                Some(CallFormat::gemma()),
            ),
            (
                ToolFormat::Gemma,
                "<|tool_call>",
                Some(CallFormat::gemma4()),
            ),
        ] {
            assert_eq!(
                binding(format, template),
                expected,
                "{format:?}: {template}"
            );
        }
    }
}
