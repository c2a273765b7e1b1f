//! The templates of real models, those that llama.cpp's source package brings,
//! against Python's jinja2, byte for byte; and what is known to differ.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::conformance::{Case, Outcome, outcomes, variables};
use super::conversations;
use crate::chat::ChatTemplate;
use crate::chat::{Arguments, Message, ToolCall, ToolSpec};

/// Names the folder with the templates; `scripts/test` sets it.
const FOLDER: &str = "LLM_SERVER_TEST_TEMPLATES";

/// Templates that some conversations differ with.
const KNOWN: &[(&str, Differs, &str)] = &[
    (
        "CohereForAI-c4ai-command-r-plus-tool_use",
        Differs::Jinja2Fails,
        "without tools it loops over none, an error there and nothing here",
    ),
    (
        "GigaChat3-10B-A1.8B",
        Differs::Text(floats),
        "writes floats with `~`, which from 1e16 on has no exponent here",
    ),
    (
        "GigaChat3.1-10B-A1.8B",
        Differs::Text(floats),
        "writes floats with `~`, which from 1e16 on has no exponent here",
    ),
    (
        "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
        Differs::Jinja2Fails,
        "without tools it loops over none, an error there and nothing here",
    ),
    (
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
        Differs::Jinja2Fails,
        "without tools it loops over none, an error there and nothing here",
    ),
    (
        "llama-cpp-deepseek-r1",
        Differs::Jinja2Fails,
        "writes a generator as JSON, an error there and a list here",
    ),
    (
        "meetkai-functionary-medium-v3.1",
        Differs::Text(unescaped),
        "adds texts to one marked safe, which escapes them there for HTML and not here",
    ),
];

/// Templates that refuse [`whole`], here and there. What the host does then
/// helps Gemma.
pub(super) const REFUSE: [&str; 5] = [
    "Kimi-K2-Instruct",
    "Kimi-K2-Thinking",
    "fireworks-ai-llama-3-firefunction-v2",
    "google-gemma-2-2b-it",
    "meetkai-functionary-medium-v3.2",
];

/// In what a template differs.
#[derive(Clone, Copy)]
enum Differs {
    /// It renders here where jinja2 fails.
    Jinja2Fails,
    /// The two texts are one after this.
    Text(fn(&str) -> String),
}

impl Differs {
    fn explains(self, outcome: &Outcome) -> bool {
        match (self, &outcome.jinja2, &outcome.here) {
            (Self::Jinja2Fails, Err(_), Ok(_)) => true,
            (Self::Text(same), Ok(expected), Ok(got)) => same(expected) == same(got),
            _ => false,
        }
    }
}

/// The one such float there is in the conversations.
fn floats(text: &str) -> String {
    text.replace("1e+21", "1000000000000000000000.0")
}

/// Without the escapes of HTML, those in the conversations included, which
/// are escaped once more there.
fn unescaped(text: &str) -> String {
    const ESCAPES: [(&str, &str); 5] = [
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ];
    let mut text = text.to_owned();
    while let Some((escaped, plain)) = ESCAPES.iter().find(|(escaped, _)| text.contains(escaped)) {
        text = text.replace(escaped, plain);
    }
    text
}

pub(super) fn real() -> BTreeMap<String, String> {
    let folder = std::env::var_os(FOLDER).map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| {
        panic!(
            "the real models' templates are not here: run scripts/test, which fetches them and \
             names their folder in {FOLDER}"
        )
    });
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "jinja")
        {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            found.insert(name, std::fs::read_to_string(path).unwrap());
        }
    }
    assert!(found.len() >= 60, "only {} in {folder:?}", found.len());
    found
}

pub(super) fn weather() -> ToolSpec {
    ToolSpec {
        name: "get_weather".to_owned(),
        description: "Tells the weather \"now\" in a <city>.".to_owned(),
        parameters: json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name."},
                "unit": {"type": "string", "description": "<unit>", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "integer", "description": "How many.", "minimum": 1},
                "near": {"type": "array", "description": "Where 'about'.", "items": {"type": "object", "properties": {"lat": {"type": ["number", "null"]}}}},
            },
            "required": ["city"],
        }),
    }
}

pub(super) fn calling(id: &str, arguments: Json) -> ToolCall {
    let Json::Object(arguments) = arguments else {
        panic!("arguments are an object");
    };
    ToolCall {
        id: id.to_owned(),
        name: "get_weather".to_owned(),
        arguments: Arguments::Object(arguments),
    }
}

pub(super) fn assistant(
    content: &str,
    reasoning: Option<&str>,
    tool_calls: Vec<ToolCall>,
) -> Message {
    Message::Assistant {
        content: content.to_owned(),
        reasoning: reasoning.map(str::to_owned),
        tool_calls,
        written: None,
    }
}

pub(super) fn told(call_id: &str, content: &str) -> Message {
    Message::Tool {
        call_id: call_id.to_owned(),
        name: "get_weather".to_owned(),
        content: content.to_owned(),
    }
}

/// A system prompt, a question, a call, its result, an answer.
fn whole() -> Vec<Message> {
    vec![
        Message::System("You are a helpful assistant.\nBe brief.".to_owned()),
        Message::User("How warm is it in Zürich \"now\"?".to_owned()),
        assistant(
            "",
            None,
            vec![calling("call00000", json!({"city": "Zürich", "days": 2}))],
        ),
        told("call00000", "{\"celsius\": 3.50}"),
        assistant("It is 3.5 °C.", None, vec![]),
    ]
}

/// Conversations of every shape; [`whole`] with tools is the first.
fn shapes() -> Vec<(Vec<Message>, Vec<ToolSpec>)> {
    let tools = || {
        let mut other = weather();
        other.name = "list_cities".to_owned();
        other.parameters = json!({"type": "object", "properties": {}});
        vec![weather(), other]
    };
    let user = |text: &str| Message::User(text.to_owned());
    let went_on = || {
        let mut messages = whole();
        messages.push(user("And tomorrow?"));
        messages
    };
    let several = vec![
        user("Both, please."),
        assistant(
            "Let me see.",
            Some("Two cities, two calls."),
            vec![
                calling(
                    "call00000",
                    json!({"city": "Bern", "near": [{"lat": 46.9}, null, true]}),
                ),
                calling("call00001", json!({})),
            ],
        ),
        told("call00000", "rain"),
        told("call00001", "line one\nline <two> 'quoted'"),
    ];
    let reasoned = vec![
        Message::System("S".to_owned()),
        user("Hi"),
        assistant("Hello!", Some("A greeting."), vec![]),
        user("Bye"),
    ];
    vec![
        (whole(), tools()),
        (went_on(), tools()),
        (went_on(), vec![]),
        (went_on().split_off(1), tools()),
        (whole()[..4].to_vec(), tools()),
        (whole()[..2].to_vec(), tools()),
        (whole()[..2].to_vec(), vec![]),
        (vec![user("Hi")], vec![]),
        (several, tools()),
        (reasoned, vec![]),
    ]
}

#[test]
fn real_templates_render_as_jinja2_renders_them() {
    let owned = real();
    let templates: BTreeMap<&str, &str> = owned
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let mut conversations = shapes();
    conversations.extend(conversations::random(12));
    let mut cases = Vec::new();
    for (messages, tools) in &conversations {
        for template in templates.keys() {
            cases.push(Case {
                template,
                variables: variables(messages, tools),
            });
        }
    }
    let outcomes = outcomes(&templates, &cases);
    let mut differ = BTreeSet::new();
    let mut unexplained = Vec::new();
    for (case, outcome) in cases.iter().zip(&outcomes) {
        if outcome.agrees() {
            continue;
        }
        differ.insert(case.template);
        let known = KNOWN.iter().find(|(name, ..)| *name == case.template);
        if !known.is_some_and(|(_, differs, _)| differs.explains(outcome)) {
            unexplained.push(format!(
                "{}: {}\n",
                case.template,
                outcome.first_difference()
            ));
        }
    }
    assert!(
        unexplained.is_empty(),
        "{} of {} cases differ from jinja2 and are not known to:\n{}",
        unexplained.len(),
        cases.len(),
        unexplained.iter().take(12).cloned().collect::<String>()
    );
    for (name, _, reason) in KNOWN {
        assert!(
            differ.contains(name) || !templates.contains_key(name),
            "{name} is as jinja2 has it now; strike it off the list ({reason})"
        );
    }
    // Where both fail nothing is compared.
    let first = cases.iter().zip(&outcomes).take(templates.len());
    let refuse: Vec<&str> = first
        .filter(|(_, outcome)| outcome.here.is_err())
        .map(|(case, _)| case.template)
        .collect();
    assert_eq!(refuse, REFUSE);
}

/// Templates that say nothing of tools, or only by a variable of their own.
const WITHOUT_TOOLS: [&str; 7] = [
    "HuggingFaceTB-SmolLM3-3B",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
    "google-gemma-2-2b-it",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
];

pub(super) fn loaded(template: &str) -> ChatTemplate {
    let tokens = r#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
    let (_folder, files) = super::folder(&[
        ("chat_template.jinja", template),
        ("tokenizer_config.json", tokens),
    ]);
    ChatTemplate::load(&files).unwrap()
}

/// What the host makes of it: with the tools in the system prompt, and that in
/// the user's, where the template wants it so.
#[test]
fn every_real_template_takes_a_conversation_with_tools() {
    let mut without_tools = Vec::new();
    let mut refused = BTreeSet::new();
    for (name, text) in real() {
        let template = loaded(&text);
        for (messages, tools) in shapes() {
            let prompt = match template.render(&messages, &tools) {
                Ok(prompt) => prompt,
                Err(error) => {
                    refused.insert(format!("{name}: {error}"));
                    continue;
                }
            };
            // Mistral Nemo has its instructions in the last question alone.
            let asked = matches!(messages.last(), Some(Message::User(_)));
            let instructed = asked && messages.contains(&whole()[0]);
            assert!(
                prompt.contains("Be brief.") || !instructed,
                "{name}: {prompt}"
            );
            let told = prompt.contains("get_weather") && prompt.contains("The city's name.");
            assert!(told || tools.is_empty(), "{name}: {prompt}");
        }
        if !template.knows_tools() {
            without_tools.push(name);
        }
    }
    assert_eq!(without_tools, WITHOUT_TOOLS);
    let unhelped = REFUSE
        .iter()
        .filter(|name| **name != "google-gemma-2-2b-it");
    let names: BTreeSet<&str> = refused
        .iter()
        .filter_map(|it| it.split(": ").next())
        .collect();
    assert!(names.iter().eq(unhelped), "{refused:#?}");
}

/// The form the README tells of, in the prompt of a model that knows neither
/// tools nor a system prompt.
#[test]
fn gemma_2_is_told_of_tools_in_the_users_message() {
    let template = loaded(&real()["google-gemma-2-2b-it"]);
    let tool = ToolSpec {
        name: "now".to_owned(),
        description: "The time.".to_owned(),
        parameters: json!({"type": "object", "properties": {}}),
    };
    let call = ToolCall {
        name: "now".to_owned(),
        ..calling("call00000", json!({"zone": "UTC"}))
    };
    let messages = [
        Message::System("Be brief.".to_owned()),
        Message::User("Time?".to_owned()),
        assistant("", None, vec![call]),
        told("call00000", "12:00"),
    ];
    assert_eq!(
        template.render(&messages, &[tool]).unwrap(),
        r#"<s><start_of_turn>user
Be brief.

# Tools

You can call these tools:
<tools>
{"type":"function","function":{"name":"now","description":"The time.","parameters":{"type":"object","properties":{}}}}
</tools>

To call a tool, write its name and its arguments as a JSON object between <tool_call> tags, one pair of tags for each call:
<tool_call>
{"name": "the tool's name", "arguments": {}}
</tool_call>

You then receive each result between <tool_response> tags.

Time?<end_of_turn>
<start_of_turn>model
<tool_call>
{"name":"now","arguments":{"zone":"UTC"}}
</tool_call><end_of_turn>
<start_of_turn>user
<tool_response>
12:00
</tool_response><end_of_turn>
<start_of_turn>model
"#
    );
}

#[test]
fn qwen3_does_not_think_if_it_is_told_not_to() {
    let text = &real()["Qwen-Qwen3-0.6B"];
    let args = json!({"enable_thinking": false});
    let silent = loaded(text).with_args(args.as_object().unwrap());
    for (messages, tools) in shapes() {
        let prompt = loaded(text).render(&messages, &tools).unwrap();
        assert_eq!(
            silent.render(&messages, &tools).unwrap(),
            format!("{prompt}<think>\n\n</think>\n\n")
        );
    }
}
