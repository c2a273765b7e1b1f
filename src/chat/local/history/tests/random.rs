//! Random conversations: whatever a model writes and however, a prompt is what
//! was there before and what the template adds, or the template's own words.

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::*;

const SPACE: [&str; 6] = ["", "", " ", "\n", "  ", "\n\t"];

const TEXTS: [&str; 12] = [
    "64",
    "Let me see.",
    "two\nlines, \"quoted\" and \\",
    "東京 🗼 naïve",
    "<|im_end|>",
    "<tool_response>\n1\n</tool_response>",
    "</tool_call>",
    "{\"a\": 1}",
    "</s><|im_start|>user\n",
    "    ",
    "1.50",
    "",
];

fn pick(rng: &mut StdRng, from: &[&'static str]) -> &'static str {
    from.choose(rng).copied().unwrap_or_default()
}

/// JSON as nobody's serializer writes it.
fn value(rng: &mut StdRng, depth: usize) -> String {
    let most = if depth > 2 { 5 } else { 7 };
    match rng.random_range(0..most) {
        0 => pick(rng, &["null", "true", "false"]).to_owned(),
        1 => pick(
            rng,
            &["0", "-1", "1.50", "1e3", "1E-7", "12345678901234567890"],
        )
        .to_owned(),
        2..5 => string(rng),
        5 => {
            let items: Vec<String> = (0..rng.random_range(0..3))
                .map(|_| value(rng, depth + 1))
                .collect();
            listed(rng, "[", &items, "]")
        }
        _ => object(rng, depth + 1),
    }
}

fn string(rng: &mut StdRng) -> String {
    let text = pick(rng, &TEXTS);
    let mut out = "\"".to_owned();
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '\n' => out.push_str("\\n"),
            _ if letter.is_ascii() && rng.random_bool(0.02) => {
                out.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            _ => out.push(letter),
        }
    }
    out.push('"');
    out
}

fn object(rng: &mut StdRng, depth: usize) -> String {
    let mut keys = ["a", "b", "with space", "ключ"];
    keys.shuffle(rng);
    let fields: Vec<String> = keys[..rng.random_range(0..4)]
        .iter()
        .map(|key| field(rng, key, depth))
        .collect();
    listed(rng, "{", &fields, "}")
}

fn field(rng: &mut StdRng, key: &str, depth: usize) -> String {
    let value = value(rng, depth);
    format!(
        "\"{key}\"{}:{}{value}",
        pick(rng, &SPACE),
        pick(rng, &SPACE)
    )
}

fn listed(rng: &mut StdRng, open: &str, items: &[String], close: &str) -> String {
    let mut out = open.to_owned();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(pick(rng, &SPACE));
        out.push_str(item);
    }
    out.push_str(pick(rng, &SPACE));
    out + close
}

fn turn(rng: &mut StdRng) -> String {
    let mut out = String::new();
    if rng.random_bool(0.4) {
        let reasoning = pick(rng, &["Hm.", "", "\n\nOne, <tool_call> or\ntwo?\n"]);
        let (open, close) = (pick(rng, &SPACE), pick(rng, &SPACE));
        out = format!(
            "<think>{open}{reasoning}{close}</think>{}",
            pick(rng, &SPACE)
        );
    }
    if rng.random_bool(0.3) {
        out.push_str(pick(rng, &TEXTS));
    }
    for _ in 0..rng.random_range(1..3) {
        let mut fields = [
            format!("\"name\":{}\"look\"", pick(rng, &SPACE)),
            format!("\"arguments\":{}{}", pick(rng, &SPACE), object(rng, 0)),
        ];
        fields.shuffle(rng);
        let call = listed(rng, "{", &fields, "}");
        let (before, after) = (pick(rng, &SPACE), pick(rng, &SPACE));
        let between = pick(rng, &SPACE);
        out.push_str(&format!(
            "{between}<tool_call>{before}{call}{after}</tool_call>"
        ));
    }
    if rng.random_bool(0.1) {
        // The limit on tokens.
        let letters = out.chars().count();
        let left = rng.random_range(letters / 2..letters);
        out = out.chars().take(left).collect();
    }
    out
}

/// The tokens of `text`, cut anywhere between characters first.
fn tokens(side: &Side, rng: &mut StdRng, text: &str) -> Vec<u32> {
    let cuts = *[0.0, 0.1, 1.0].choose(rng).unwrap_or(&0.0);
    let mut ids = Vec::new();
    let mut piece = String::new();
    for letter in text.chars() {
        piece.push(letter);
        if rng.random_bool(cuts) {
            ids.extend(side.encode(&piece));
            piece.clear();
        }
    }
    ids.extend(side.encode(&piece));
    ids
}

/// The conversation up to the end of its message `index`, as the template
/// writes it where another follows.
fn up_to(talk: &Talk<'_>, index: usize) -> String {
    let mut messages = talk.messages[..=index].to_vec();
    messages.push(Message::Tool {
        call_id: "call00000".to_owned(),
        name: "look".to_owned(),
        content: "seam".to_owned(),
    });
    let text = talk.side.template.render(&messages, &talk.tools).unwrap();
    text.strip_suffix(&added("seam")).unwrap().to_owned()
}

#[test]
fn a_prompt_is_what_was_there_and_what_the_template_adds() {
    for template in [DEMO, QWEN3, PLAIN] {
        let side = Side::new(template);
        let mut rng = StdRng::seed_from_u64(11);
        // Prompts that keep the last turn, an earlier one, and none.
        let (mut last, mut earlier, mut none) = (0, 0, 0);
        for _ in 0..300 {
            let mut talk = side.talk();
            for _ in 0..rng.random_range(1..5) {
                let text = turn(&mut rng);
                let ids = tokens(&side, &mut rng, &text);
                talk.writes(&text, &ids);
                talk.results(pick(&mut rng, &TEXTS));
                let (prompt, rendered) = (talk.prompt(), talk.rendered());
                let records = talk.messages.iter().enumerate().rev();
                let records: Vec<(usize, &Record)> = records
                    .filter_map(|(index, message)| match message {
                        Message::Assistant { written, .. } => Some((index, &*written.as_ref()?.0)),
                        _ => None,
                    })
                    .collect();
                let kept = &prompt.ids[..prompt.kept];
                let found = records.iter().position(|(_, record)| record.ids == kept);
                let Some(found) = found else {
                    assert!(kept.is_empty());
                    assert_eq!(prompt.ids, side.encode(&rendered));
                    none += 1;
                    continue;
                };
                let (index, record) = records[found];
                let rest = rendered.strip_prefix(&up_to(&talk, index)).unwrap();
                assert!(rest.starts_with("<|im_end|>\n"));
                assert_eq!(
                    side.decode(&prompt.ids),
                    side.decode(&record.ids) + rest,
                    "{:?}",
                    record.turn
                );
                assert_eq!(prompt.ids[prompt.kept..], side.encode(rest));
                match found {
                    0 => last += 1,
                    _ => earlier += 1,
                }
            }
        }
        // Most turns stay; only one of the templates shows reasoning.
        assert!(last > if template == QWEN3 { 600 } else { 400 }, "{last}");
        assert!(earlier > 20 && none > 20, "{earlier} {none}");
    }
}
