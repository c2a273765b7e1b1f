//! Calls as each family's own template writes them, and calls that are wrong.

use super::*;

/// A family's format and texts of it.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) format: fn() -> CallFormat,
    /// The texts that are single tokens in the family's vocabularies.
    pub(super) special: &'static [&'static str],
    /// Turns that call `weather` and `now` in the right way.
    pub(super) right: &'static [&'static str],
    /// Turns that are right up to a byte that is not; that far, and the byte.
    pub(super) wrong: &'static [(&'static str, &'static str)],
    /// Turns in which there is no call.
    pub(super) free: &'static [&'static str],
}

/// All families.
pub(super) fn families() -> Vec<Family> {
    let mut families = json_families();
    families.extend(tagged_families());
    families.extend(literal_families());
    families
}

fn json_families() -> Vec<Family> {
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
                (r#"{"name": "weather", "parameters": {"city": "x", "days": "#, "\""),
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
                (r#"[TOOL_CALLS][{"name": "now", "arguments": {}, "id": "abc"#, "\""),
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
                "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>", "<|call|>", "<|end|>",
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
                ("<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{", "}"),
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
                "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
                "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>",
            ],
            right: &[
                "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"Oslo\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
                "<think>a</think>b<｜tool▁calls▁begin｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>\n<｜tool▁calls▁end｜>",
            ],
            wrong: &[
                ("<｜tool▁calls▁begin｜>", "function"),
                ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>", "other"),
                ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{", "}"),
                ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n", "<"),
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
                ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{", "}"),
                ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}", "<｜tool▁calls"),
            ],
            free: &["<｜tool▁sep｜>{"],
        },
        Family {
            name: "kimi_k2",
            format: CallFormat::kimi_k2,
            special: &[
                "<|tool_calls_section_begin|>", "<|tool_call_begin|>",
                "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|tool_calls_section_end|>",
            ],
            right: &[
                "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{\"city\": \"Oslo\"}<|tool_call_end|><|tool_call_begin|>functions.now:12<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
                "I look.<|tool_calls_section_begin|>\n<|tool_call_begin|>functions.now:3<|tool_call_argument_begin|> {} <|tool_call_end|>\n<|tool_calls_section_end|>",
            ],
            wrong: &[
                ("<|tool_calls_section_begin|><|tool_call_begin|>", "weather"),
                ("<|tool_calls_section_begin|><|tool_call_begin|>functions.", "other"),
                ("<|tool_calls_section_begin|><|tool_call_begin|>functions.now:", "<"),
                ("<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{", "}"),
            ],
            free: &["<|tool_call_begin|>x"],
        },
    ]
}

fn tagged_families() -> Vec<Family> {
    vec![
        Family {
            name: "qwen_xml",
            format: CallFormat::qwen_xml,
            special: &["<tool_call>", "</tool_call>"],
            right: &[
                "<tool_call>\n<function=weather>\n<parameter=city>\nOslo </para> \"x\"\n</parameter>\n<parameter=days>\n2\n</parameter>\n<parameter=unit>\nC\n</parameter>\n</function>\n</tool_call>",
                "Yes\n<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call><function=weather><parameter=city>\na\nb\n</parameter></function></tool_call> done",
            ],
            wrong: &[
                ("<tool_call>\n<function=", "other"),
                ("<tool_call>\n", "{"),
                ("<tool_call>\n<function=weather>\n<", "/function"),
                ("<tool_call>\n<function=weather>\n<parameter=", "days"),
                ("<tool_call>\n<function=weather>\n<parameter=city>\nx\n</parameter>\n<parameter=", "city"),
                ("<tool_call>\n<function=weather>\n<parameter=city>\nx\n</parameter>\n<parameter=days>\n", "two"),
                ("<tool_call>\n<function=weather>\n<parameter=city>\nx\n</parameter>\n<parameter=days>\n1", "1"),
                ("<tool_call>\n<function=weather>\n<parameter=city>\nx\n</parameter>\n<parameter=unit>\n", "K"),
            ],
            free: &["<function=weather>", "<tool_calls>", "<think><tool_call>x</think>"],
        },
        Family {
            name: "glm",
            format: CallFormat::glm,
            special: &[
                "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
            ],
            right: &[
                "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo <b></arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
                "Yes <tool_call>weather<arg_key>city</arg_key><arg_value></arg_value><arg_key>unit</arg_key><arg_value>F</arg_value></tool_call><tool_call>now</tool_call>",
                "<tool_call>now\n</tool_call>\n<tool_call>now\n</tool_call>",
            ],
            wrong: &[
                ("<tool_call>", "other"),
                ("<tool_call>weather\n<", "/"),
                ("<tool_call>weather\n<arg_key>", "days"),
                ("<tool_call>weather<arg_key>city</arg_key><arg_value>x</arg_value><arg_key>days</arg_key><arg_value>", "x"),
                ("<tool_call>weather<arg_key>city</arg_key><arg_value>x</arg_value><arg_key>unit</arg_key><arg_value>", "c"),
                ("<tool_call>now", "<arg_key>x"),
            ],
            free: &["<arg_key>x</arg_key>"],
        },
        Family {
            name: "minimax",
            format: CallFormat::minimax,
            special: &["<minimax:tool_call>", "</minimax:tool_call>"],
            right: &[
                "<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">Oslo</parameter>\n<parameter name=\"days\">2</parameter>\n</invoke>\n</minimax:tool_call>",
                "\n<minimax:tool_call>\n<invoke name=\"weather\"><parameter name=\"city\">a\nb</parameter></invoke>\n<invoke name=\"now\"></invoke>\n</minimax:tool_call>",
            ],
            wrong: &[
                ("<minimax:tool_call>\n<invoke name=\"", "other"),
                ("<minimax:tool_call>\n<invoke name=\"weather\">\n<", "/"),
                ("<minimax:tool_call>\n<invoke name=\"weather\"><parameter name=\"city\">x</parameter><parameter name=\"days\">", "x"),
                ("<minimax:tool_call>\n<invoke name=\"now\"></invoke>", "x"),
            ],
            free: &["<invoke name=\"x\">"],
        },
    ]
}

fn literal_families() -> Vec<Family> {
    vec![
        Family {
            name: "lfm2",
            format: CallFormat::lfm2,
            special: &["<|tool_call_start|>", "<|tool_call_end|>"],
            right: &[
                r#"<|tool_call_start|>[weather(city="Oslo", days=2, unit='C')]<|tool_call_end|>"#,
                r#"<|tool_call_start|>[weather(city='it\'s "x"',unit="F"), now()]<|tool_call_end|>Done."#,
                r#"Ok <|tool_call_start|>[ now( ) ]<|tool_call_end|><|tool_call_start|>[now()]<|tool_call_end|>"#,
            ],
            wrong: &[
                ("<|tool_call_start|>[", "other"),
                ("<|tool_call_start|>[weather", "s"),
                ("<|tool_call_start|>[weather(", ")"),
                ("<|tool_call_start|>[weather(", "days"),
                ("<|tool_call_start|>[weather(city=", "1"),
                ("<|tool_call_start|>[weather(city='x', ", "city"),
                ("<|tool_call_start|>[weather(city='x', days=", "'"),
                ("<|tool_call_start|>[weather(city='x', days=1", "1"),
                ("<|tool_call_start|>[weather(city='x', unit='", "K"),
                ("<|tool_call_start|>[now()", ")"),
            ],
            free: &["[weather()]", "<|tool_call_end|>"],
        },
        Family {
            name: "gemma",
            format: CallFormat::gemma,
            special: &["<start_function_call>", "<end_function_call>", "<escape>"],
            right: &[
                "<start_function_call>call:weather{city:<escape>Oslo {\"x\"}<escape>,days:2,unit:<escape>C<escape>}<end_function_call>",
                "<start_function_call>call:now{}<end_function_call><start_function_call>call:now{}<end_function_call>",
            ],
            wrong: &[
                ("<start_function_call>", "weather"),
                ("<start_function_call>call:", "other"),
                ("<start_function_call>call:weather{", "}"),
                ("<start_function_call>call:weather{city:", "\""),
                ("<start_function_call>call:weather{city:<escape>x<escape>,days:", "x"),
                ("<start_function_call>call:weather{city:<escape>x<escape>,unit:<escape>", "K"),
            ],
            free: &["call:weather{}"],
        },
        Family {
            name: "gemma4",
            format: CallFormat::gemma4,
            special: &["<|tool_call>", "<tool_call|>", "<|\"|>", "<|channel>", "<channel|>"],
            right: &[
                "<|channel>thought\n<|tool_call>x<channel|><|tool_call>call:weather{city:<|\"|>Oslo<|\"|>,days:2}<tool_call|>",
            ],
            wrong: &[("<|tool_call>call:weather{city:", "<escape>"), ("<|tool_call>", "{")],
            free: &["<tool_call|>", "<|channel>thought\n<|tool_call>x"],
        },
    ]
}

/// Words that reach across the edges of what the formats tell apart.
const WORDS: [&str; 34] = [
    "{\"", "\"}}", "\": \"", "\":", "}}", "}\n", "\n\n", "  ", ">\n", "\n</", "</", "\"name", "name", "},",
    "}]", "]<", "=\"", "\">", "weather", "now", "city", "days", "parameter", "value", "tool", "call",
    "json", "```", "true", "123", "4.5", "東京", "x</", "', ",
];

/// A model whose markers are single tokens, and one where they are not, with
/// some words more.
pub(super) fn models_of(family: &Family, words: &[&str]) -> [Model; 2] {
    let model = |special: &[&str]| {
        let more = words.iter().filter(|word| {
            !WORDS.contains(word) && !special.contains(word) && word.len() > 1
        });
        let words: Vec<&str> = WORDS.iter().chain(more).copied().collect();
        Model::of_bytes(&words, special, (family.format)())
    };
    [model(family.special), model(&[])]
}

fn tools() -> [(&'static str, Value); 2] {
    let weather = json!({
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 10},
            "unit": {"type": "string", "enum": ["C", "F"]},
        },
        "required": ["city"],
        "additionalProperties": false,
    });
    let now = json!({"type": "object", "properties": {}, "additionalProperties": false});
    [("weather", weather), ("now", now)]
}

#[test]
fn calls_as_the_templates_write_them_fit() {
    for family in families() {
        for model in models_of(&family, &[]) {
            let grammar = model.strict(&tools());
            for text in family.right {
                let mut constraint = Constraint::new(&grammar);
                let rest = model.write(&mut constraint, text);
                assert_eq!(rest, "", "{} {text}", family.name);
                assert!(!constraint.is_inside_call(), "{} {text}", family.name);
                assert!(constraint.accepts(model.end[0]), "{} {text}", family.name);
                // Bytes alone may be written too.
                let mut constraint = Constraint::new(&grammar);
                for byte in text.bytes() {
                    let token = u32::from(byte);
                    assert!(constraint.accepts(token), "{} {text}", family.name);
                    constraint.advance(token).unwrap();
                }
                assert!(!constraint.is_inside_call(), "{} {text}", family.name);
            }
        }
    }
}

#[test]
fn what_is_not_a_call_to_a_tool_is_refused() {
    for family in families() {
        for model in models_of(&family, &[]) {
            let grammar = model.strict(&tools());
            for (right, wrong) in family.wrong {
                let mut constraint = Constraint::new(&grammar);
                let rest = model.write(&mut constraint, right);
                assert_eq!(rest, "", "{} {right}", family.name);
                let rest = model.write(&mut constraint, wrong);
                assert_ne!(rest, "", "{} {right}{wrong}", family.name);
                let mask = constraint.mask().unwrap();
                assert!(mask.tokens().next().is_some(), "{} {right}", family.name);
            }
        }
    }
}

#[test]
fn all_else_is_free() {
    for family in families() {
        for model in models_of(&family, &[]) {
            let grammar = model.strict(&tools());
            for text in family.free {
                let mut constraint = Constraint::new(&grammar);
                assert_eq!(model.write(&mut constraint, text), "", "{} {text}", family.name);
                assert!(!constraint.is_inside_call(), "{} {text}", family.name);
                assert!(constraint.accepts(model.end[0]), "{} {text}", family.name);
                assert!(constraint.accepts(u32::from(b'\xFE')), "{} {text}", family.name);
            }
        }
    }
}

#[test]
fn a_call_is_not_left_by_the_end_of_the_turn() {
    for family in families() {
        for model in models_of(&family, &[]) {
            let grammar = model.strict(&tools());
            for text in family.right {
                let mut constraint = Constraint::new(&grammar);
                for token in model.tokens(text) {
                    let end = constraint.accepts(model.end[0]);
                    assert_eq!(end, !constraint.is_inside_call(), "{} {text}", family.name);
                    constraint.advance(token).unwrap();
                }
            }
        }
    }
}
