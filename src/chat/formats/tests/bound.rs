//! What the grammar of a form lets through, its reader reads: calls written at
//! random under the grammar are calls of the tools that validate.

use super::*;
use crate::engine::grammar::{CallGrammar, Constraint, ToolSchema, Vocabulary};
use crate::model::Tokenizer;

/// Steps of a walk: enough for several calls. Few do not end by then.
const STEPS: usize = 2000;
const WALKS: u64 = 12;

/// Forms, something of a template that shows which way they are written, and
/// what opens a call.
const BOUND: [(ToolFormat, &str, &str); 33] = [
    (ToolFormat::Hermes, "", "<tool_call>"),
    (ToolFormat::QwenXml, "", "<tool_call>"),
    (ToolFormat::LlamaJson, "", "{\"name\""),
    (ToolFormat::LlamaJson, "", "<|python_tag|>"),
    (ToolFormat::Mistral, "[CALL_ID][ARGS]", "[TOOL_CALLS]"),
    (ToolFormat::Mistral, "[ARGS]", "[TOOL_CALLS]"),
    (ToolFormat::Mistral, "[TOOL_CALLS][", "[TOOL_CALLS]"),
    (ToolFormat::Mistral, "", "[TOOL_CALLS]"),
    (
        ToolFormat::Harmony,
        "",
        "<|channel|>commentary to=functions.",
    ),
    (
        ToolFormat::Gemma,
        "<start_function_call>",
        "<start_function_call>",
    ),
    (ToolFormat::Gemma, "", "<|tool_call>"),
    (ToolFormat::Phi4Mini, "", "<|tool_call|>"),
    (ToolFormat::Glm, "", "<tool_call>"),
    (ToolFormat::Granite, "", "<|tool_call|>"),
    (ToolFormat::DeepSeek, "```json", "<｜tool▁calls▁begin｜>"),
    (ToolFormat::DeepSeek, "", "<｜tool▁calls▁begin｜>"),
    (
        ToolFormat::DeepSeek,
        "｜DSML｜ function_calls>",
        "<｜DSML｜function_calls>",
    ),
    (ToolFormat::DeepSeek, "｜DSML｜", "<｜DSML｜tool_calls>"),
    (ToolFormat::QwenXml, "<seed:tool_call>", "<seed:tool_call>"),
    (ToolFormat::QwenXml, "<function=", "<function="),
    (
        ToolFormat::GigaChat,
        "<|function_call|>",
        "<|function_call|>",
    ),
    (ToolFormat::GigaChat, "", "function call<|role_sep|>"),
    (ToolFormat::MiniCpm, "", "<function name=\""),
    (ToolFormat::Apertus, "", "<|tools_prefix|>"),
    (ToolFormat::Hunyuan, "", "<tool_calls:opensource>"),
    (ToolFormat::Cohere, "", "<|START_ACTION|>"),
    (ToolFormat::Json, "", "{\"name\""),
    (ToolFormat::Json, "<TOOLCALL>", "<TOOLCALL>"),
    (ToolFormat::Json, "<tool_calls>[", "<tool_calls>"),
    (ToolFormat::Json, "<tool_calls>", "<tool_calls>"),
    (ToolFormat::KimiK2, "", "<|tool_calls_section_begin|>"),
    (ToolFormat::MiniMax, "", "<minimax:tool_call>"),
    (ToolFormat::Lfm2, "", "<|tool_call_start|>"),
];

/// Tools whose arguments leave a walk little to get lost in.
fn tools() -> Vec<ToolSpec> {
    let spec = |name: &str, parameters| ToolSpec {
        name: name.to_owned(),
        description: String::new(),
        parameters,
    };
    vec![
        spec(
            "get_weather",
            json!({
                "type": "object", "additionalProperties": false,
                "properties": {
                    "unit": {"enum": ["celsius", "fahrenheit", "1", "true"]},
                    "days": {"enum": [1, 2, 30]},
                    "exact": {"type": "boolean"}
                },
                "required": ["unit", "days"]
            }),
        ),
        spec(
            "get_time",
            json!({
                "type": "object", "additionalProperties": false,
                "properties": {"zone": {"enum": ["Europe/Zürich", "a \"b\" 'c'"]}},
                "required": ["zone"]
            }),
        ),
    ]
}

/// One turn: the opener, and tokens at random while they belong to calls.
/// `None` if it did not come to an end.
fn walk(
    grammar: &CallGrammar,
    tokenizer: &Tokenizer,
    ends: &[u32],
    opener: &str,
    dice: &mut StdRng,
) -> Option<String> {
    let mut constraint = Constraint::new(grammar);
    let mut ids = Vec::new();
    for token in tokenizer.inner().encode(opener, false).unwrap().get_ids() {
        assert!(constraint.accepts(*token), "{opener}");
        constraint.advance(*token).unwrap();
        ids.push(*token);
    }
    for _ in 0..STEPS {
        if !constraint.is_inside_call() {
            return Some(tokenizer.inner().decode(&ids, false).unwrap());
        }
        let may: Vec<u32> = constraint.mask().unwrap().tokens().collect();
        if may.iter().any(|token| ends.contains(token)) {
            return Some(tokenizer.inner().decode(&ids, false).unwrap());
        }
        // Whitespace leads nowhere, mostly.
        let blank = |token: &&u32| {
            let text = tokenizer.inner().decode(&[**token], false).unwrap();
            !text.trim().is_empty()
        };
        let solid: Vec<u32> = may.iter().filter(blank).copied().collect();
        let may = if solid.is_empty() || dice.random_bool(0.05) {
            may
        } else {
            solid
        };
        let token = *may.choose(dice).unwrap();
        constraint.advance(token).unwrap();
        ids.push(token);
    }
    None
}

#[test]
fn what_the_grammars_let_through_is_read() {
    let tokenizer = Tokenizer::load(&crate::demo::files()).unwrap();
    let ends = [2043, 2041];
    let tools = tools();
    let schemas: Vec<ToolSchema> = tools
        .iter()
        .map(|tool| ToolSchema {
            name: tool.name.clone(),
            parameters: tool.parameters.clone(),
        })
        .collect();
    for (format, template, opener) in BOUND {
        let what = format!("{format:?} {template:?} {opener:?}");
        let binding = format.binding(template).unwrap();
        let vocabulary = Vocabulary::new(tokenizer.inner(), &ends, 2100, binding).unwrap();
        let (grammar, _) = CallGrammar::compile(&vocabulary, &schemas).unwrap();
        let mut ended = 0;
        for seed in 0..WALKS {
            let mut dice = StdRng::seed_from_u64(seed);
            let Some(text) = walk(&grammar, &tokenizer, &ends, opener, &mut dice) else {
                continue;
            };
            ended += 1;
            let reading = Reading {
                tools: Some(&tools),
                ..reading(format)
            };
            let (content, _, calls) = reading.pieces(&[&text]);
            assert_eq!(content, "", "{what}: {text:?}");
            assert!(!calls.is_empty(), "{what}: {text:?}");
            for call in calls {
                let tool = tools.iter().find(|tool| tool.name == call.name);
                let tool = tool.unwrap_or_else(|| panic!("{what}: {} in {text:?}", call.name));
                let Arguments::Object(arguments) = call.arguments else {
                    panic!("{what}: {:?} in {text:?}", call.arguments);
                };
                let arguments = Json::Object(arguments);
                let valid = jsonschema::is_valid(&tool.parameters, &arguments);
                assert!(valid, "{what}: {arguments} of {text:?}");
            }
        }
        assert!(ended > WALKS / 2, "{what}: only {ended} walks ended");
    }
}
