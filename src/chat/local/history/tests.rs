//! Conversations that go on, with the bundled model's template and others.

#![allow(clippy::unwrap_used)]

mod random;

use serde_json::{Value, json};

use super::*;
use crate::chat::ids::Ids;
use crate::chat::{Arguments, ChatTemplate, ToolSpec};
use crate::model::ModelFiles;

const DEMO: &str = include_str!("../../../../models/demo/chat_template.jinja");
const QWEN3: &str = include_str!("../../../../tests/fixtures/templates/qwen3.jinja");
const STRICT: &str = include_str!("../../../../tests/fixtures/templates/strict.jinja");
/// Knows no tools: they are described in the system prompt.
const PLAIN: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                     {% endfor %}{{ '<|im_start|>assistant\n' }}";

/// What the templates that end turns with `<|im_end|>` add between a turn with
/// a call and the next, if the call's result is `{}`.
const ADDED: &str = "<|im_end|>\n<|im_start|>user\n<tool_response>\n{}\n</tool_response><|im_end|>\n\
                     <|im_start|>assistant\n";

/// A model's text side: its template, and the bundled tokenizer with `<s>` and
/// `</s>`, which puts `<s>` before texts where it is let.
struct Side {
    template: ChatTemplate,
    tokenizer: Arc<Tokenizer>,
    history: History,
}

/// A conversation and what the model is given for it.
struct Talk<'a> {
    side: &'a Side,
    tools: Vec<ToolSpec>,
    messages: Vec<Message>,
}

fn tokenizer_json() -> Value {
    let text = include_str!("../../../../models/demo/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(text).unwrap();
    for (text, id) in [("<s>", 2048), ("</s>", 2049)] {
        let token = json!({
            "id": id, "content": text, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        });
        tokenizer["added_tokens"]
            .as_array_mut()
            .unwrap()
            .push(token);
    }
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [2048], "tokens": ["<s>"]}},
    });
    tokenizer
}

impl Side {
    fn new(template: &str) -> Self {
        Self::ending_with(template, &["<|im_end|>", "<|endoftext|>", "</s>"])
    }

    fn ending_with(template: &str, ends: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("tokenizer.json", tokenizer_json().to_string()),
            ("chat_template.jinja", template.to_owned()),
            (
                "tokenizer_config.json",
                json!({"bos_token": "<s>", "eos_token": "</s>"}).to_string(),
            ),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let files = ModelFiles::Folder(folder.path().to_owned());
        let tokenizer = Arc::new(Tokenizer::load(&files).unwrap());
        let template = ChatTemplate::load(&files).unwrap();
        let ends: Vec<u32> = ends
            .iter()
            .map(|end| tokenizer.token_id(end).unwrap())
            .collect();
        Self {
            history: History::new(Arc::clone(&tokenizer), &ends, template.tool_format()),
            template,
            tokenizer,
        }
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text).unwrap()
    }

    fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids).unwrap()
    }

    fn talk(&self) -> Talk<'_> {
        Talk {
            side: self,
            tools: vec![tool("look")],
            messages: vec![Message::User("How much?".to_owned())],
        }
    }
}

fn tool(name: &str) -> ToolSpec {
    ToolSpec {
        name: name.to_owned(),
        description: "Looks.".to_owned(),
        parameters: json!({"type": "object", "properties": {"a": {"type": "integer"}}}),
    }
}

impl Talk<'_> {
    fn rendered(&self) -> String {
        let rendered = self.side.template.render(&self.messages, &self.tools);
        rendered.unwrap()
    }

    fn prompt(&self) -> Tokenized {
        let tokenized = self.side.history.tokenize(&self.messages, &self.rendered());
        tokenized.unwrap()
    }

    /// The prompt, which must be the whole conversation tokenized.
    #[track_caller]
    fn plain(&self) -> Vec<u32> {
        let prompt = self.prompt();
        assert_eq!(prompt.kept, 0);
        assert_eq!(prompt.ids, self.side.encode(&self.rendered()));
        assert_eq!(self.side.decode(&prompt.ids), self.rendered());
        prompt.ids
    }

    /// The model writes `turn` in these tokens. Gives all ids it then has.
    fn writes(&mut self, turn: &str, generated: &[u32]) -> Vec<u32> {
        let (text, ids) = (self.rendered(), self.prompt().ids);
        let written = Written::new(text, ids, turn.to_owned(), generated);
        let (content, reasoning, calls) = self.side.history.read(&written.0, turn);
        let before = written.0.ids.clone();
        let mut ids = Ids::new(self.side.history.format, &self.messages);
        self.messages.push(Message::Assistant {
            content,
            reasoning,
            tool_calls: calls.into_iter().map(|call| ids.named(call)).collect(),
            written: Some(written),
        });
        before
    }

    /// The model writes `turn` as the tokenizer would.
    fn says(&mut self, turn: &str) -> Vec<u32> {
        self.writes(turn, &self.side.encode(turn))
    }

    /// Each call of the last turn has this result.
    fn results(&mut self, content: &str) {
        let Some(Message::Assistant { tool_calls, .. }) = self.messages.last() else {
            panic!("the last message is not the model's")
        };
        let calls = tool_calls.clone();
        self.messages
            .extend(calls.into_iter().map(|call| Message::Tool {
                call_id: call.id,
                name: call.name,
                content: content.to_owned(),
            }));
    }

    /// The prompt goes on from `before` and is `added` longer.
    #[track_caller]
    fn goes_on(&self, before: &[u32], added: &str) {
        let prompt = self.prompt();
        assert_eq!(prompt.kept, before.len());
        assert_eq!(&prompt.ids[..prompt.kept], before);
        assert_eq!(prompt.ids[prompt.kept..], self.side.encode(added));
    }
}

fn added(result: &str) -> String {
    ADDED.replace("{}", result)
}

/// Calls of one tool that all say the same, none as the templates write it.
const CALLS: [&str; 5] = [
    "<tool_call>{\"name\":\"look\",\"arguments\":{\"a\":1,\"b\":\"x\"}}</tool_call>",
    "<tool_call>\n{ \"arguments\" : {\"b\": \"x\", \"a\": 1}, \"name\": \"look\" }\n</tool_call>\n",
    "\n\n<tool_call>\n{\"name\": \"look\", \"arguments\": {\"a\": 1, \"b\": \"\\u0078\"}}</tool_call>",
    "<tool_call>{\"name\": \"look\", \"parameters\": {\"a\": 1,\n  \"b\": \"x\"}}</tool_call></tool_call>",
    "<tool_call>{\"name\": \"look\", \"arguments\": \"{\\\"a\\\": 1, \\\"b\\\": \\\"x\\\"}\"}",
];

#[test]
fn a_turn_stays_as_the_model_wrote_it() {
    for template in [DEMO, QWEN3, PLAIN] {
        let side = Side::new(template);
        for turn in CALLS {
            let mut talk = side.talk();
            let before = talk.says(turn);
            talk.results("64");
            assert!(!talk.rendered().contains(turn), "{turn}");
            talk.goes_on(&before, &added("64"));
            // Without the record it is the template that says how it was.
            if let Message::Assistant { written, .. } = &mut talk.messages[1] {
                *written = None;
            }
            talk.plain();
        }
    }
}

#[test]
fn tokens_that_are_not_the_tokenizers_own_stay() {
    for template in [DEMO, QWEN3] {
        let side = Side::new(template);
        let mut talk = side.talk();
        let turn = "Let me see.\n<tool_call>\n{\"name\": \"look\", \"arguments\": {\"a\": 1}}\n</tool_call>";
        let letters: Vec<u32> = turn
            .chars()
            .flat_map(|letter| side.encode(&letter.to_string()))
            .collect();
        assert!(letters.len() > 2 * side.encode(turn).len());
        let before = talk.writes(turn, &letters);
        talk.results("64");
        talk.goes_on(&before, &added("64"));
        // The text is the same all the same.
        assert_eq!(side.decode(&talk.prompt().ids), talk.rendered());
    }
}

#[test]
fn several_rounds_only_ever_append() {
    for template in [DEMO, QWEN3, PLAIN] {
        let side = Side::new(template);
        let mut talk = side.talk();
        talk.messages
            .insert(0, Message::System("Be brief.".to_owned()));
        let mut text = talk.rendered();
        for (turn, result) in CALLS.iter().zip(["1", "<|im_end|>\n", "", "4\n4", "five"]) {
            let before = talk.says(turn);
            talk.results(result);
            talk.goes_on(&before, &added(result));
            text = format!("{text}{turn}{}", added(result));
            assert_eq!(side.decode(&talk.prompt().ids), text);
        }
        let before = talk.says("It is 5.");
        talk.messages.push(Message::User("Sure?".to_owned()));
        let next = "<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n";
        talk.goes_on(&before, next);
    }
}

#[test]
fn results_that_are_cut_afterwards_come_behind_what_stays() {
    let side = Side::new(QWEN3);
    let mut talk = side.talk();
    let before = talk.says(&CALLS[..2].concat());
    talk.results(&"long ".repeat(1000));
    assert!(talk.prompt().ids.len() > 2000);
    for message in &mut talk.messages[2..] {
        if let Message::Tool { content, .. } = message {
            *content = "cut".to_owned();
        }
    }
    let twice = added("cut\n</tool_response>\n<tool_response>\ncut");
    talk.goes_on(&before, &twice);
}

#[test]
fn reasoning_stays_for_as_long_as_the_template_shows_it() {
    let turn = "<think>\nOne or two?\n</think>\n\n<tool_call>{\"name\":\"look\",\"arguments\":{}}</tool_call>";
    let side = Side::new(QWEN3);
    let mut talk = side.talk();
    let before = talk.says(turn);
    talk.results("2");
    talk.goes_on(&before, &added("2"));
    let before = talk.says("<think>Two.</think>Two.");
    // With the next question all reasoning before it is left out.
    talk.messages.push(Message::User("Sure?".to_owned()));
    assert!(!talk.rendered().contains("think"));
    assert!(talk.prompt().ids.len() < before.len());
    talk.plain();

    // The bundled template never shows any.
    let side = Side::new(DEMO);
    let mut talk = side.talk();
    talk.says(turn);
    talk.results("2");
    talk.plain();
}

#[test]
fn reasoning_that_the_prompt_opens_stays_too() {
    let opening = QWEN3.replace(
        "{{- '<|im_start|>assistant\\n' }}",
        "{{- '<|im_start|>assistant\\n<think>\\n' }}",
    );
    let side = Side::new(&opening);
    let mut talk = side.talk();
    assert!(talk.rendered().ends_with("<think>\n"));
    let before = talk.says(&format!("One or two?</think>{}", CALLS[0]));
    talk.results("2");
    talk.goes_on(&before, &format!("{}<think>\n", added("2")));
    // A turn that never left its reasoning reads as one that did.
    let before = talk.says("Two, since");
    talk.messages.push(Message::Tool {
        call_id: "call00000".to_owned(),
        name: "look".to_owned(),
        content: "3".to_owned(),
    });
    talk.goes_on(&before, &format!("{}<think>\n", added("3")));
}

#[test]
fn a_turn_cut_by_the_limit_is_closed_by_the_template() {
    let whole = "<tool_call>{\"name\":\"look\",\"arguments\":{\"a\":1}}</tool_call>";
    for template in [DEMO, QWEN3] {
        let side = Side::new(template);
        let mut talk = side.talk();
        // In words behind a call, and in half a character.
        let before = talk.writes(
            &format!("{whole}\nNow I wi"),
            &side.encode(&format!("{whole}\nNow I wi")),
        );
        talk.results("1");
        talk.goes_on(&before, &added("1"));
        let turn = format!("{whole}ok 🗼");
        let ids = side.encode(&turn);
        let ids = &ids[..ids.len() - 1];
        let before = talk.writes(&side.decode(ids), ids);
        talk.results("1");
        talk.goes_on(&before, &added("1"));
        // A call that is cut is another in the template's words. What was
        // before it stays.
        talk.says(&format!("{whole}\n<tool_call>\n{{\"name\": \"look\", \"ar"));
        talk.results("1");
        let prompt = talk.prompt();
        assert_eq!(prompt.ids[..prompt.kept], before);
        let text = side.decode(&prompt.ids);
        assert!(text.contains("unparsed"), "{text}");
        assert!(text.ends_with("\n1\n</tool_response><|im_end|>\n<|im_start|>assistant\n"));
    }
}

#[test]
fn a_turn_that_speaks_of_its_own_end_stays_text() {
    let side = Side::new(QWEN3);
    let mut talk = side.talk();
    let turn =
        "<tool_call>{\"name\":\"look\",\"arguments\":{\"a\":\"<|im_end|></s>\"}}</tool_call>";
    // Spelled out, since the token would have been the end.
    let letters: Vec<u32> = turn
        .chars()
        .flat_map(|letter| side.encode(&letter.to_string()))
        .collect();
    let before = talk.writes(turn, &letters);
    talk.results("</s>");
    talk.goes_on(&before, &added("</s>"));
    // Escaped where the template does not: not found, and tokenized again.
    let mut talk = side.talk();
    talk.says(&turn.replace("<|im", "\\u003c|im"));
    talk.results("1");
    talk.plain();
}

#[test]
fn what_the_template_rewrites_is_tokenized_again() {
    let side = Side::new(QWEN3);
    let talk = || {
        let mut talk = side.talk();
        let before = talk.says(CALLS[0]);
        talk.results("1");
        talk.goes_on(&before, &added("1"));
        talk
    };
    let mut other_tools = talk();
    other_tools.tools = Vec::new();
    other_tools.plain();
    let mut other_question = talk();
    other_question.messages[0] = Message::User("How many?".to_owned());
    other_question.plain();
    let mut other_call = talk();
    if let Message::Assistant { tool_calls, .. } = &mut other_call.messages[1] {
        let arguments = json!({"a": 2, "b": "x"});
        tool_calls[0].arguments = Arguments::Object(arguments.as_object().unwrap().clone());
    }
    other_call.plain();
    let mut other_words = talk();
    if let Message::Assistant { content, .. } = &mut other_words.messages[1] {
        content.push('!');
    }
    other_words.plain();
    // Calls in a form of the template's own.
    let own = DEMO.replace("<tool_call>\\n", "<call>\\n");
    let side = Side::new(&own);
    let mut talk = side.talk();
    talk.says(CALLS[0]);
    talk.results("1");
    talk.plain();
}

#[test]
fn a_conversation_without_records_is_tokenized_whole() {
    for template in [DEMO, QWEN3, PLAIN] {
        let side = Side::new(template);
        let mut talk = side.talk();
        talk.plain();
        talk.messages.push(Message::Assistant {
            content: "64".to_owned(),
            reasoning: None,
            tool_calls: Vec::new(),
            written: None,
        });
        talk.messages.push(Message::User("Sure?".to_owned()));
        let ids = talk.plain();
        // Nothing is put before it.
        assert_ne!(ids[0], 2048);
    }
}

#[test]
fn a_template_with_other_ends_and_one_that_writes_none() {
    let side = Side::new(STRICT);
    let mut talk = side.talk();
    let before = talk.writes("64", &[side.encode("6"), side.encode("4")].concat());
    assert_eq!((before[0], side.decode(&before[..1])), (2048, "<s>".into()));
    talk.messages.push(Message::User("Sure?".to_owned()));
    talk.goes_on(&before, "</s>[INST] Sure? [/INST]");
    // The tokenizer's own beginning is not put in the middle.
    assert_eq!(
        talk.prompt().ids.iter().filter(|id| **id == 2048).count(),
        1
    );

    let side = Side::new("{% for m in messages %}[{{ m.content }}]{% endfor %}");
    let mut talk = side.talk();
    talk.says("64");
    talk.messages.push(Message::User("Sure?".to_owned()));
    talk.plain();
}

/// What the model wrote names the call as its result does.
#[test]
fn a_call_s_id_stays_or_the_turn_is_written_anew() {
    let side = Side::new(STRICT);
    let call = r#"[TOOL_CALLS] [{"name": "look", "arguments": {}, "id": "a1B2c3D4e"}]"#;
    let mut talk = side.talk();
    let before = talk.says(call);
    talk.results("{}");
    let result = r#"</s>[TOOL_RESULTS] {"content": {}, "call_id": "a1B2c3D4e"}[/TOOL_RESULTS]"#;
    talk.goes_on(&before, result);

    // One that no template takes: the call has another one.
    let mut talk = side.talk();
    talk.says(&call.replace("a1B2c3D4e", "1"));
    talk.results("{}");
    talk.plain();
    assert!(talk.rendered().contains(r#""call_id": "call00000""#));

    // None: the template shows ours.
    let mut talk = side.talk();
    let before = talk.says(&call.replace(", \"id\": \"a1B2c3D4e\"", ""));
    talk.results("{}");
    talk.goes_on(&before, &result.replace("a1B2c3D4e", "call00000"));
}

#[test]
fn an_end_that_is_part_of_a_longer_token_is_none() {
    let template = "{% for m in messages %}{{ m.content }}}}{% endfor %}";
    let side = Side::ending_with(template, &["}"]);
    assert_eq!(side.encode("}}").len(), 1);
    let mut talk = side.talk();
    talk.says("64");
    talk.messages.push(Message::User("Sure?".to_owned()));
    talk.plain();
    // Where it is a token of its own it will do.
    let side = Side::ending_with(&template.replace("}}}}", "}}}\n"), &["}"]);
    let mut talk = side.talk();
    let before = talk.says("64");
    talk.messages.push(Message::User("Sure?".to_owned()));
    talk.goes_on(&before, "}\nSure?}\n");
}
