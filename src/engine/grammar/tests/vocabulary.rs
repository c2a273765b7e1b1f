//! The bytes of tokens, by all kinds of decoders.

use super::*;

/// A tokenizer of these entries, with this decoder and these added tokens.
fn tokenizer(entries: &[&str], decoder: Value, added: &[(&str, bool)]) -> tokenizers::Tokenizer {
    let vocabulary: serde_json::Map<String, Value> = entries
        .iter()
        .zip(0u32..)
        .map(|(entry, id)| ((*entry).to_owned(), id.into()))
        .collect();
    let added: Vec<Value> = added
        .iter()
        .zip(entries.len()..)
        .map(|((content, special), id)| {
            json!({
                "id": id, "content": content, "special": special, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let description = json!({
        "version": "1.0", "added_tokens": added, "decoder": decoder,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    tokenizers::Tokenizer::from_bytes(description.to_string().as_bytes()).unwrap()
}

fn words(tokenizer: &tokenizers::Tokenizer, end: &[u32], size: usize) -> Vec<Vec<u8>> {
    let vocabulary = Vocabulary::new(tokenizer, end, size, CallFormat::hermes()).unwrap();
    let ids = 0..vocabulary.size() as u32;
    ids.map(|id| vocabulary.bytes(id).to_vec()).collect()
}

#[test]
fn the_bytes_of_the_bundled_model_s_tokens_are_their_text() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/tokenizer.json");
    let tokenizer = tokenizers::Tokenizer::from_file(file).unwrap();
    let mut compared = 0;
    for id in 0..tokenizer.get_vocab_size(true) as u32 {
        let bytes = demo().vocabulary.bytes(id);
        let text = tokenizer.decode(&[id], false).unwrap();
        if text.starts_with("<|") && text.len() > 2 {
            assert!(bytes.is_empty(), "{text}");
        } else if !text.contains('\u{FFFD}') {
            assert_eq!(bytes, text.as_bytes());
            compared += 1;
        }
    }
    assert!(compared > 1800, "{compared}");
    let single: Vec<&[u8]> = (0..2048).map(|id| demo().vocabulary.bytes(id)).collect();
    // All bytes but 0xFF, which no text has, and which llguidance marks by.
    assert!((0..=0xFEu8).all(|byte| single.contains(&&[byte][..])));
}

#[test]
fn entries_with_byte_fallback_and_a_sign_for_the_space() {
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]});
    let entries = ["<0x0A>", "<0xE6>", "▁the", "▁▁", "<0xzz>", "東"];
    let added = [
        ("</s>", true),
        ("<tool_call>", true),
        ("[x]", false),
        ("[y]", true),
    ];
    let tokenizer = tokenizer(&entries, decoder, &added);
    let expected: [&[u8]; 12] = [
        b"\n",
        b"\xE6",
        b" the",
        b"  ",
        b"<0xzz>",
        "東".as_bytes(),
        b"",
        b"<tool_call>",
        b"[x]",
        b"",
        b"",
        b"",
    ];
    assert_eq!(words(&tokenizer, &[6], 12), expected);
}

#[test]
fn a_metaspace_is_a_space() {
    let decoder = json!({
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true,
    });
    let tokenizer = tokenizer(&["▁a", "b"], decoder, &[]);
    assert_eq!(words(&tokenizer, &[1], 2), [&b" a"[..], b""]);
}

#[test]
fn what_cannot_be_told_is_an_error() {
    let vocabulary = |tokenizer: &tokenizers::Tokenizer, size, format| {
        Vocabulary::new(tokenizer, &[], size, format).err()
    };
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
    });
    let known = tokenizer(&["a", "b"], byte_level, &[]);
    let unknown = tokenizer(&["a"], json!({"type": "Fuse"}), &[]);
    let undecoded = tokenizer(&["a"], Value::Null, &[]);
    for tokenizer in [unknown, undecoded] {
        let error = vocabulary(&tokenizer, 8, CallFormat::hermes());
        assert!(
            matches!(error, Some(GrammarError::Tokenizer(_))),
            "{error:?}"
        );
    }
    assert_eq!(
        vocabulary(&known, 1, CallFormat::hermes()),
        Some(GrammarError::Width { logits: 1, ids: 2 })
    );
    let without_closer = CallFormat {
        closer: String::new(),
        ..CallFormat::hermes()
    };
    assert_eq!(
        vocabulary(&known, 2, without_closer),
        Some(GrammarError::Format)
    );
}

#[test]
fn a_marker_may_be_a_special_token() {
    let bytes = byte_characters();
    let entries: Vec<String> = bytes.iter().map(char::to_string).collect();
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    let decoder = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
    });
    let added = [
        ("<tool_call>", true),
        ("</tool_call>", true),
        ("<|x|>", true),
    ];
    let tokenizer = tokenizer(&entries, decoder, &added);
    let model = Model::new(tokenizer, &[258], 259);
    let grammar = model.strict(&[("t", Value::Null)]);
    let call = "<tool_call>\n{\"name\": \"t\", \"arguments\": {}}\n</tool_call>";
    assert_eq!(model.tokens(call).first(), Some(&256));
    assert_eq!(model.tokens(call).last(), Some(&257));
    assert!(model.writes(&grammar, "t", "{\"a\": \"b\"}"));
    assert!(!model.writes(&grammar, "t", "{\"a\": b}"));
}

#[test]
fn grammars_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Vocabulary>();
    shared::<CallGrammar>();
    sent::<Constraint>();
}
