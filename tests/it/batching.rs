//! Requests that share what their prompts have in common, and the benchmark.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{Setup, repository};

/// The numbers of each line `the model replied` by the request's id, in the
/// order of its rounds.
fn rounds(log: &str) -> BTreeMap<String, Vec<BTreeMap<String, usize>>> {
    let mut rounds: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for line in log
        .lines()
        .filter(|line| line.contains("the model replied"))
    {
        let id = line.split("id=").nth(1).unwrap();
        let id = id.split('}').next().unwrap().to_owned();
        let numbers = line.split_whitespace().filter_map(|word| {
            let (key, value) = word.split_once('=')?;
            Some((key.to_owned(), value.parse().ok()?))
        });
        rounds.entry(id).or_default().push(numbers.collect());
    }
    rounds
}

#[test]
fn the_preamble_is_evaluated_once_and_a_round_costs_its_new_tokens() {
    let program = Setup::with_tools().start();
    // One after the other, then eight at once.
    assert!(program.ask("what is 17 * 23?").contains("391"));
    std::thread::scope(|scope| {
        for number in 1..=8 {
            let program = &program;
            scope.spawn(move || {
                let answer = program.ask(&format!("what is {number} * 11?"));
                let product = (number * 11).to_string();
                assert!(answer.contains(&product), "{answer:?}");
            });
        }
    });
    let log = program.stop().log();
    // Once for all of them: they have the same tools.
    let compiled = log.matches("compiled the grammar of the tools' calls");
    assert_eq!(compiled.count(), 1, "{log}");
    let warmed = log.lines().find(|line| line.contains("warmed up"));
    let preamble = warmed.unwrap().split("preamble_tokens=").nth(1).unwrap();
    let preamble: usize = preamble.split(' ').next().unwrap().parse().unwrap();
    let rounds = rounds(&log);
    assert_eq!(rounds.len(), 9, "{log}");
    for rounds in rounds.values() {
        let [first, second] = rounds.as_slice() else {
            panic!("{rounds:?}")
        };
        for round in rounds {
            assert_eq!(
                round["cached_tokens"] + round["prefilled_tokens"],
                round["prompt_tokens"]
            );
        }
        // All that is before the user's words, of which the warm-up's "Hello"
        // and the end of its turn are the last.
        assert!(first["cached_tokens"] + 10 >= preamble, "{first:?}");
        // The first round's prompt and what was generated but for its last
        // token are there: evaluated is what the template adds.
        let before = first["prompt_tokens"] + first["generated_tokens"] - 1;
        let products = (1..=8).map(|number| number * 11).chain([17 * 23]);
        let added = products.map(|product| added(&product.to_string()));
        let added: Vec<usize> = added.collect();
        assert!(added.contains(&(second["prompt_tokens"] - before)));
        assert!(
            (before..=before + ahead(&log)).contains(&second["cached_tokens"]),
            "{rounds:?}"
        );
    }
}

/// How many tokens the bundled template adds between two rounds, where the
/// first one's call came to `result`.
fn added(result: &str) -> usize {
    let tokenizer = repository("models/demo/tokenizer.json");
    let tokenizer = tokenizers::Tokenizer::from_file(tokenizer).unwrap();
    let text = format!(
        "<|im_end|>\n<|im_start|>user\n<tool_response>\n{result}\n</tool_response><|im_end|>\n\
         <|im_start|>assistant\n"
    );
    tokenizer.encode(text, false).unwrap().len()
}

/// The log and the rounds of a request that reads an expression from a file and calculates
/// it, with the bundled model and its template changed: what `from` is there
/// is `to`; and how many tokens it adds after each of the two calls.
fn two_calls(from: &str, to: &str) -> (String, Vec<BTreeMap<String, usize>>, [usize; 2]) {
    let setup = Setup::with_tools().file("files/sum.txt", "17 * 23");
    let folder = setup.model_folder();
    let template = std::fs::read_to_string(folder.join("chat_template.jinja")).unwrap();
    assert!(template.contains(from));
    let template = template.replace(from, to);
    std::fs::write(folder.join("chat_template.jinja"), template).unwrap();
    let program = setup.set("model_name", folder.to_str().unwrap()).start();
    let answer = program.ask("read sum.txt and calculate the expression in it");
    assert!(answer.contains("391"), "{answer:?}");
    let log = program.stop().log();
    let rounds = rounds(&log).into_values().next().unwrap();
    assert_eq!(rounds.len(), 3, "{rounds:?}");
    (log, rounds, [added("17 * 23"), added("391")])
}

/// How many tokens behind what was generated may be there: on MLX steps
/// overlap, and the one ahead may have evaluated a turn's end.
fn ahead(log: &str) -> usize {
    usize::from(log.contains("backend=\"MLX"))
}

#[test]
fn a_round_evaluates_what_the_template_adds_and_no_token_more() {
    // As the model writes its calls, and with other white space.
    for (from, to) in [
        ("<tool_call>\\n{\"name\": \"", "<tool_call>\\n{\"name\": \""),
        (
            "<tool_call>\\n{\"name\": \"",
            "<tool_call>\\n\\n{ \"name\":\"",
        ),
        ("'}\\n</tool_call>'", "' }</tool_call>'"),
    ] {
        let (log, rounds, added) = two_calls(from, to);
        for (pair, added) in rounds.windows(2).zip(added) {
            // All that was generated but for the turn's end.
            let before = pair[0]["prompt_tokens"] + pair[0]["generated_tokens"] - 1;
            let next = &pair[1];
            assert_eq!(next["prompt_tokens"], before + added, "{rounds:?}");
            let prefilled = next["prefilled_tokens"];
            assert!(
                (added - ahead(&log)..=added).contains(&prefilled),
                "{rounds:?}"
            );
            assert_eq!(next["cached_tokens"], next["prompt_tokens"] - prefilled);
        }
    }
}

#[test]
fn where_the_template_rewrites_the_turn_the_longest_common_prefix_counts() {
    // A tool of another name was called, the template says.
    let (_, rounds, added) = two_calls("{\"name\": \"' + f.name", "{\"name\": \"x_' + f.name");
    for (pair, added) in rounds.windows(2).zip(added) {
        assert!(pair[1]["prefilled_tokens"] > added + 5, "{rounds:?}");
        // All up to the name.
        assert!(
            pair[1]["cached_tokens"] >= pair[0]["prompt_tokens"],
            "{rounds:?}"
        );
    }
}

#[test]
fn without_a_prefix_cache_every_prompt_is_evaluated_whole() {
    let program = Setup::with_tools().set("prefix_cache_bytes", 0).start();
    assert!(program.ask("what is 17 * 23?").contains("391"));
    for rounds in rounds(&program.stop().log()).values() {
        for round in rounds {
            assert_eq!(round["cached_tokens"], 0);
        }
    }
}

#[test]
fn the_benchmark_prints_a_table_or_one_line_of_json() {
    let (table, setup) = Setup::new().without_config().run(&["bench", "demo"]);
    assert_eq!(table.code, Some(0), "{table:?}");
    for row in [
        "qwen3, 4.1 M parameters; ",
        "prefill, 512 tokens",
        "decode, 16 streams together",
        "cold, 8 clients",
        "host's own time a request",
    ] {
        assert!(table.stdout.contains(row), "{row:?} is not in {table:?}");
    }
    let (line, setup) = setup.run(&["bench", "demo", "--json", "--backend", "candle"]);
    assert_eq!(line.code, Some(0), "{line:?}");
    let line: Value = serde_json::from_str(line.stdout.trim()).unwrap();
    let positive = |pointer: &str| {
        let number = line.pointer(pointer).and_then(Value::as_f64);
        assert!(
            number.is_some_and(|number| number > 0.0),
            "{pointer}: {line}"
        );
    };
    for pointer in [
        "/prefill_tok_s/128",
        "/prefill_tok_s/512",
        "/decode_tok_s/1",
        "/decode_tok_s/2",
        "/decode_tok_s/4",
        "/decode_tok_s/8",
        "/decode_tok_s/16",
        "/ttft_ms/cold",
        "/ttft_ms/warm",
        "/ttft_ms/shared8",
        "/overhead_ms",
        "/resident_mb",
        "/threads",
    ] {
        positive(pointer);
    }
    assert!(line["backend"].as_str().unwrap().starts_with("the CPU, "));

    let less = [
        "--prompts",
        "16,9",
        "--streams",
        "3",
        "--generated",
        "5",
        "--rates-only",
    ];
    let (line, setup) = setup.run(&[&["bench", "demo", "--json"][..], &less].concat());
    assert_eq!(line.code, Some(0), "{line:?}");
    let line: Value = serde_json::from_str(line.stdout.trim()).unwrap();
    let keys = |field: &str| line[field].as_object().unwrap().keys().collect::<Vec<_>>();
    assert_eq!(keys("prefill_tok_s"), ["16", "9"], "{line}");
    assert_eq!(keys("decode_tok_s"), ["3"], "{line}");
    assert_eq!(line["ttft_ms"], Value::Null, "{line}");

    let (few, setup) = setup.run(&["bench", "demo", "--generated", "1"]);
    assert_ne!(few.code, Some(0));
    assert!(few.stderr.contains("write a number, 2 or more"), "{few:?}");
    let (unknown, _) = setup.run(&["bench", "demo", "--backend", "cuda"]);
    assert_ne!(unknown.code, Some(0));
    assert!(
        unknown.stderr.contains("write one of auto, mlx, candle"),
        "{unknown:?}"
    );
}
