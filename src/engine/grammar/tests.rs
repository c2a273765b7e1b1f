//! Calls written token by token, with the bundled model's tokenizer and with
//! one in which the markers are ordinary tokens.
#![allow(clippy::unwrap_used)]

/// Schemas that make no sense, and what binds instead.
mod absurd;
/// Calls that are right and wrong in ways worth a name.
mod calls;
/// Calls as each family's own template writes them.
mod families;
/// How schemas bind in all families.
mod family_schemas;
/// Random walks through the grammars of all families.
mod family_walks;
/// A reader of literals.
mod literals;
/// Openers, whole, in pieces, and what only looks like one.
mod openers;
/// Random JSON schemas.
mod schemas;
/// The bytes of tokens.
mod vocabulary;
/// Random walks through the grammars of random schemas.
mod walks;

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::*;

/// The bundled model's: its markers are tokens.
fn demo() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/tokenizer.json");
        let tokenizer = tokenizers::Tokenizer::from_file(file).unwrap();
        Model::new(tokenizer, &[2043, 2041], 2100)
    })
}

/// One whose markers are ordinary tokens, with tokens across their edges.
fn plain() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let words = [
            "tool_call",
            "<tool",
            "_call",
            ">{\"",
            ">\n",
            "\"}}",
            "\"}}\n",
            "}}\n",
            "</",
            "{\"",
            "\": \"",
            "\", \"",
            "\":{\"",
            "name",
            "arguments",
            "read",
            "read_file",
            "123",
            "4.5",
            "true",
            "null",
            "é",
            "東京",
            "\\\"",
            "\\u",
            "think",
            "<think>",
            " <",
            "}}</",
            ">a",
        ];
        Model::of_bytes(&words, &[], CallFormat::hermes())
    })
}

/// A tokenizer of all bytes, these words and these special tokens, which come
/// behind the one that ends a turn; and that one's id.
fn byte_tokenizer(words: &[&str], special: &[&str]) -> (tokenizers::Tokenizer, usize) {
    let characters = byte_characters();
    let bytes = (0..=255u8).map(|byte| characters[usize::from(byte)].to_string());
    let words = words.iter().map(|word| {
        let characters = word.bytes().map(|byte| characters[usize::from(byte)]);
        characters.collect::<String>()
    });
    let entries: serde_json::Map<String, Value> = bytes
        .chain(words)
        .zip(0u32..)
        .map(|(entry, id)| (entry, id.into()))
        .collect();
    let end = entries.len();
    let added: Vec<Value> = ["<|end|>"]
        .iter()
        .chain(special)
        .zip(end..)
        .map(|(content, id)| {
            json!({
                "id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let description = json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        },
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        },
        "model": {"type": "BPE", "vocab": entries, "merges": []},
    });
    let description = description.to_string();
    let tokenizer = tokenizers::Tokenizer::from_bytes(description.as_bytes()).unwrap();
    (tokenizer, end)
}

/// The characters byte-level vocabularies write for the bytes, written down
/// another way than the code does.
fn byte_characters() -> Vec<char> {
    let mut next = 0;
    (0..=255u32)
        .map(|byte| match byte {
            0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => char::from_u32(byte).unwrap(),
            _ => {
                next += 1;
                char::from_u32(0xFF + next).unwrap()
            }
        })
        .collect()
}

/// A tokenizer and its vocabulary.
struct Model {
    vocabulary: Vocabulary,
    end: Vec<u32>,
}

impl Model {
    fn new(tokenizer: tokenizers::Tokenizer, end: &[u32], size: usize) -> Self {
        Self::with(&tokenizer, end, size, CallFormat::hermes())
    }

    fn with(
        tokenizer: &tokenizers::Tokenizer,
        end: &[u32],
        size: usize,
        format: CallFormat,
    ) -> Self {
        let vocabulary = Vocabulary::new(tokenizer, end, size, format).unwrap();
        Self {
            vocabulary,
            end: end.to_vec(),
        }
    }

    /// One whose tokens are all bytes, these words and these special tokens.
    fn of_bytes(words: &[&str], special: &[&str], format: CallFormat) -> Self {
        let (tokenizer, end) = byte_tokenizer(words, special);
        let size = end + special.len() + 40;
        Self::with(&tokenizer, &[end as u32], size, format)
    }

    fn grammar(&self, tools: &[(&str, Value)]) -> (CallGrammar, Vec<Fallback>) {
        let tools: Vec<ToolSchema> = tools
            .iter()
            .map(|(name, parameters)| ToolSchema {
                name: (*name).to_owned(),
                parameters: parameters.clone(),
            })
            .collect();
        CallGrammar::compile(&self.vocabulary, &tools).unwrap()
    }

    /// A grammar of which nothing was lost.
    fn strict(&self, tools: &[(&str, Value)]) -> CallGrammar {
        let (grammar, fallbacks) = self.grammar(tools);
        assert_eq!(fallbacks, []);
        grammar
    }

    /// The token with exactly these bytes.
    fn token(&self, text: &str) -> u32 {
        (0..self.vocabulary.size() as u32)
            .find(|id| self.vocabulary.bytes(*id) == text.as_bytes())
            .unwrap_or_else(|| panic!("no token {text:?}"))
    }

    /// Tokens that make up `text`, the longest that fits first.
    fn tokens(&self, text: &str) -> Vec<u32> {
        let mut rest = text.as_bytes();
        let mut tokens = Vec::new();
        while !rest.is_empty() {
            let token = (0..self.vocabulary.size() as u32)
                .filter(|id| {
                    let bytes = self.vocabulary.bytes(*id);
                    !bytes.is_empty() && rest.starts_with(bytes)
                })
                .max_by_key(|id| self.vocabulary.bytes(*id).len())
                .unwrap();
            rest = &rest[self.vocabulary.bytes(token).len()..];
            tokens.push(token);
        }
        tokens
    }

    /// Writes `text` as far as it is accepted, and returns what is not.
    fn write(&self, constraint: &mut Constraint, text: &str) -> String {
        let tokens = self.tokens(text);
        for (at, token) in tokens.iter().enumerate() {
            if !constraint.accepts(*token) {
                let rest = tokens[at..].iter();
                let rest = rest.flat_map(|token| self.vocabulary.bytes(*token).to_vec());
                return String::from_utf8_lossy(&rest.collect::<Vec<u8>>()).into_owned();
            }
            constraint.advance(*token).unwrap();
        }
        String::new()
    }

    /// Whether a call with these arguments can be written from its opener to
    /// its end.
    fn writes(&self, grammar: &CallGrammar, tool: &str, arguments: &str) -> bool {
        let mut constraint = Constraint::new(grammar);
        let name = Value::from(tool);
        let call =
            format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>");
        self.write(&mut constraint, &call).is_empty() && !constraint.is_inside_call()
    }
}

/// Both models.
fn models() -> [&'static Model; 2] {
    [demo(), plain()]
}
