//! `inspect`: what a model is, its logits, its prompts, what its replies say.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Finished, Setup, repository};

fn said(finished: &Finished) -> Value {
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stderr, "");
    assert_eq!(finished.stdout.lines().count(), 1, "{}", finished.stdout);
    serde_json::from_str(&finished.stdout).unwrap()
}

/// Runs without a config; the command fails and says why.
#[track_caller]
fn refused(setup: Setup, arguments: &[&str]) -> String {
    let (finished, _) = setup.without_config().run(arguments);
    assert_eq!(finished.code, Some(1), "{arguments:?}: {finished:?}");
    assert_eq!(finished.stdout, "", "{arguments:?}");
    finished.stderr
}

/// The folder of one of the tiny models that mlx-lm computed.
fn golden(name: &str) -> String {
    let folder = repository("tests/golden").join(name);
    folder.to_str().unwrap().to_owned()
}

/// A folder `qwen3` with a template like Qwen3's and nothing else.
fn with_qwen3(setup: Setup) -> Setup {
    let template = fs::read(repository("tests/fixtures/templates/qwen3.jinja")).unwrap();
    setup.file("qwen3/chat_template.jinja", template)
}

#[test]
fn the_bundled_model_is_described() {
    let (finished, _) = Setup::new()
        .without_config()
        .run(&["inspect", "demo", "--json"]);
    let about = said(&finished);
    assert_eq!(about["family"], "qwen3");
    assert_eq!(about["tool_format"], "hermes");
    assert_eq!(about["knows_tools"], true);
    assert_eq!(about["fits"], true);
    assert_eq!(about["problems"], json!([]));
    let stored = fs::metadata(repository("models/demo/model.safetensors"))
        .unwrap()
        .len();
    let weights = about["memory"]["weights_bytes"].as_u64().unwrap();
    // The rest of the file is its header.
    assert!((stored - 65_536..stored).contains(&weights), "{weights}");
    let bits = weights as f64 * 8.0 / about["parameters"].as_f64().unwrap();
    assert!((about["bits_per_weight"].as_f64().unwrap() - bits).abs() < 0.001);
    let context = about["context_length"].as_u64().unwrap();
    let kv = about["memory"]["kv_bytes"].as_u64().unwrap();
    assert_eq!(kv, context * about["kv_bytes_per_token"].as_u64().unwrap());
    assert_eq!(about["memory"]["expected_bytes"], weights + kv);
}

#[test]
fn the_configurations_model_is_described_if_none_is_named() {
    let (finished, _) = Setup::new().set("context_length", 100).run(&["inspect"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for part in [
        "model         demo",
        "family        qwen3",
        "of 100 tokens",
        "fits          yes",
    ] {
        assert!(finished.stdout.contains(part), "{}", finished.stdout);
    }
    let (finished, _) = Setup::new().set("listening_port", 0).run(&["inspect"]);
    assert_eq!(finished.code, Some(78));
    assert!(
        finished.stderr.contains("listening_port"),
        "{}",
        finished.stderr
    );
}

#[test]
fn a_model_that_cannot_be_talked_to_is_described_all_the_same() {
    let (finished, _) =
        Setup::new()
            .without_config()
            .run(&["inspect", &golden("qwen3-moe-4bit"), "--json"]);
    let about = said(&finished);
    assert_eq!(about["family"], "qwen3_moe");
    assert_eq!(about["tool_format"], Value::Null);
    let problems = about["problems"].to_string();
    assert!(problems.contains("tokenizer.json"), "{problems}");
    assert!(problems.contains("no chat template"), "{problems}");
    let bits = about["bits_per_weight"].as_f64().unwrap();
    assert!((4.0..16.0).contains(&bits), "{bits}");
}

#[test]
fn an_unknown_family_is_one_sentence() {
    let config = r#"{"model_type": "mystery", "hidden_size": "?"}"#;
    for arguments in [
        &["inspect", "m"][..],
        &["inspect", "m", "--json"],
        &["inspect", "m", "--tokens", "1"],
    ] {
        let stderr = refused(Setup::new().file("m/config.json", config), arguments);
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(
            stderr.starts_with(
                "llm-server: models of type \"mystery\" are not supported; supported are: "
            ),
            "{stderr}"
        );
        assert!(stderr.contains("qwen3_moe"), "{stderr}");
    }
}

#[test]
fn damaged_files_are_named() {
    let stderr = refused(Setup::new().file("m/config.json", "{"), &["inspect", "m"]);
    assert!(stderr.contains("config.json cannot be read"), "{stderr}");
    let stderr = refused(Setup::new().file("m/x", ""), &["inspect", "m"]);
    assert!(stderr.contains("no config.json"), "{stderr}");
    let setup = Setup::new();
    let folder = setup.model_folder();
    let weights = folder.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let stderr = refused(setup, &["inspect", "model"]);
    assert!(
        stderr.contains("model.safetensors is damaged or incomplete"),
        "{stderr}"
    );
    let stderr = refused(Setup::new(), &["inspect", "./nowhere"]);
    assert!(stderr.contains("nowhere"), "{stderr}");
}

#[test]
fn the_adapter_of_the_configuration_is_applied() {
    let folder = golden("llama-lora-4bit");
    let text = fs::read_to_string(Path::new(&folder).join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let case = &golden["prompts"][0];
    let ids: Vec<String> = case["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    let greedy = |setup: Setup| {
        let setup = setup.set("model_name", folder.as_str());
        let (tokens, count) = (ids.join(" "), "12");
        let arguments = [
            "inspect",
            "--backend",
            "candle",
            "--tokens",
            &tokens,
            "--greedy",
            count,
        ];
        said(&setup.run(&arguments).0)["greedy"].clone()
    };
    let expected = &case["greedy"].as_array().unwrap()[..12];
    let adapter = format!("{folder}/adapter");
    let adapted = greedy(Setup::new().set("adapter_path", adapter.as_str()));
    assert_eq!(adapted.as_array().unwrap(), expected);
    let plain = greedy(Setup::new());
    assert_ne!(plain.as_array().unwrap(), expected);
}

#[test]
fn an_adapter_that_is_none_is_refused() {
    let setup = Setup::new()
        .set("model_name", golden("llama-lora-4bit").as_str())
        .set("adapter_path", "nothing");
    let (finished, _) = setup.run(&["inspect", "--tokens", "1"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("/nothing: "), "{finished:?}");
}

/// As mlx-lm computes it, whatever the weights' format.
#[test]
fn logits_and_greedy_tokens_are_mlx_lms() {
    for name in [
        "qwen3-4bit",
        "llama-window-bf16",
        "qwen3-moe-4bit",
        "gemma3-nested-bf16",
        "phi3-longrope-bf16",
    ] {
        let folder = golden(name);
        let text = fs::read_to_string(Path::new(&folder).join("golden.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let scale = golden["scale"].as_f64().unwrap();
        for case in golden["prompts"].as_array().unwrap() {
            let ids = case["ids"].as_array().unwrap();
            let ids: Vec<String> = ids.iter().map(Value::to_string).collect();
            let (finished, _) = Setup::new().without_config().run(&[
                "inspect",
                &folder,
                "--backend",
                "candle-f32",
                "--tokens",
                &ids.join(" "),
                "--greedy",
                "12",
            ]);
            let line = said(&finished);
            let greedy = line["greedy"].as_array().unwrap();
            assert_eq!(
                greedy[..],
                case["greedy"].as_array().unwrap()[..12],
                "{name}"
            );
            let logits: Vec<f64> = case["logits"]
                .as_array()
                .unwrap()
                .iter()
                .map(|l| l.as_f64().unwrap())
                .collect();
            let mut best = logits.clone();
            best.sort_by(|a, b| b.total_cmp(a));
            let top = line["top"].as_array().unwrap();
            assert_eq!(top.len(), 20);
            for (entry, best) in top.iter().zip(best) {
                let (id, logit) = (
                    entry[0].as_u64().unwrap() as usize,
                    entry[1].as_f64().unwrap(),
                );
                assert!(
                    (logit - logits[id]).abs() < 1e-4 * scale,
                    "{name}: {entry} {}",
                    logits[id]
                );
                assert!(
                    (logit - best).abs() < 1e-4 * scale,
                    "{name}: {entry} {best}"
                );
            }
            assert_eq!(top[0][0], greedy[0]);
        }
    }
}

#[test]
fn tokens_alone_are_followed_by_nothing() {
    let (finished, _) = Setup::new()
        .without_config()
        .run(&["inspect", "demo", "--tokens", "1,2, 3"]);
    let line = said(&finished);
    assert_eq!(line["greedy"], json!([]));
    assert_eq!(line["top"].as_array().unwrap().len(), 20);
}

/// A prompt of several steps, against the same one token by token.
#[test]
fn a_long_prompt_is_evaluated_as_one() {
    let ids: Vec<String> = (0..700).map(|n| (n * 7 % 900).to_string()).collect();
    let run = |ids: &[String], greedy: &str| {
        let (finished, _) = Setup::new().without_config().run(&[
            "inspect",
            "demo",
            "--backend",
            "candle",
            "--tokens",
            &ids.join(" "),
            "--greedy",
            greedy,
        ]);
        said(&finished)
    };
    let line = run(&ids, "3");
    let mut longer = ids.clone();
    longer.push(line["greedy"][0].to_string());
    let next = run(&longer, "2");
    assert_eq!(next["greedy"][0], line["greedy"][1]);
    assert_eq!(next["greedy"][1], line["greedy"][2]);
    assert_eq!(next["top"][0][0], line["greedy"][1]);
}

#[test]
fn tokens_that_cannot_be_are_refused() {
    let stderr = refused(Setup::new(), &["inspect", "demo", "--tokens", "1 999999"]);
    assert!(stderr.contains("no token 999999"), "{stderr}");
    let stderr = refused(
        Setup::new(),
        &["inspect", "demo", "--tokens", "1", "--greedy", "1000000"],
    );
    assert!(stderr.contains("context"), "{stderr}");
    for arguments in [
        &["inspect", "demo", "--tokens", "one"][..],
        &["inspect", "demo", "--tokens", ""],
        &["inspect", "demo", "--greedy", "3"],
        &["inspect", "demo", "--tokens", "1", "--render", "x"],
        &["inspect", "demo", "--render", "x", "--parse", "y"],
        &["inspect", "demo", "--json", "--parse", "y"],
    ] {
        let (finished, _) = Setup::new().without_config().run(arguments);
        assert_eq!(finished.code, Some(2), "{arguments:?}: {}", finished.stderr);
    }
}

const WEATHER: &str = r#"{
  "messages": [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Weather in Oslo?"}]},
    {"role": "assistant", "content": null, "tool_calls": [
      {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "3 °C"},
    {"role": "assistant", "content": "It is 3 °C."},
    {"role": "user", "content": "Thanks"}
  ],
  "tools": [{"type": "function", "function": {"name": "weather", "description": "Tells <it>.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
}"#;

/// What jinja2 makes of it.
const WEATHER_PROMPT: &str = "<|im_start|>system\nBe brief.\n\n# Tools\n\nThe functions you may call, one JSON signature a line:\n<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"description\": \"Tells <it>.\", \"parameters\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}}}}\n</tools>\n\nAnswer with\n<tool_call>\n{\"name\": <name>, \"arguments\": <object>}\n</tool_call><|im_end|>\n<|im_start|>user\nWeather in Oslo?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n3 °C\n</tool_response><|im_end|>\n<|im_start|>assistant\nIt is 3 °C.<|im_end|>\n<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n";

#[test]
fn a_conversation_becomes_the_templates_prompt() {
    let setup = with_qwen3(Setup::new())
        .without_config()
        .file("c.json", WEATHER);
    let (finished, _) = setup.run(&["inspect", "qwen3", "--render", "c.json"]);
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stdout, WEATHER_PROMPT);
}

#[test]
fn the_configurations_template_arguments_are_honoured() {
    let args = json!({"enable_thinking": false});
    let setup = with_qwen3(Setup::new())
        .set("chat_template_args", args)
        .file("c.json", WEATHER);
    let folder = setup.path().join("qwen3");
    let (finished, setup) = setup.run(&["inspect", "qwen3", "--render", "c.json"]);
    let silent = format!("{WEATHER_PROMPT}<think>\n\n</think>\n\n");
    assert_eq!(finished.stdout, silent, "{}", finished.stderr);
    // The same model by the configuration, and by another configuration.
    let setup = setup.without_config();
    let config = fs::read_to_string(setup.path().join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["model_name"] = folder.to_str().unwrap().into();
    let setup = setup
        .file("config.json", "{}")
        .file("other.json", config.to_string());
    let (finished, setup) = setup.run(&["--config", "other.json", "inspect", "--render", "c.json"]);
    assert_eq!(finished.stdout, silent, "{}", finished.stderr);
    let (finished, setup) = setup.run(&[
        "--config",
        "none.json",
        "inspect",
        "qwen3",
        "--render",
        "c.json",
    ]);
    assert_eq!(finished.code, Some(78), "{}", finished.stderr);
    // In a model's own folder config.json is the model's.
    let setup = setup.file(
        "chat_template.jinja",
        fs::read(folder.join("chat_template.jinja")).unwrap(),
    );
    let (finished, _) = setup.run(&["inspect", ".", "--render", "c.json"]);
    assert_eq!(finished.stdout, WEATHER_PROMPT, "{}", finished.stderr);
}

#[test]
fn a_conversation_that_is_none_is_refused_with_the_place() {
    for (text, said) in [
        ("", "c.json is not JSON"),
        ("[]", "c.json: the conversation is a list; write an object"),
        (
            r#"{"messages": [{"role": "user", "content": 5}]}"#,
            "c.json: messages[0].content is a number",
        ),
    ] {
        let setup = with_qwen3(Setup::new()).file("c.json", text);
        let stderr = refused(setup, &["inspect", "qwen3", "--render", "c.json"]);
        assert!(stderr.contains(said), "{stderr}");
    }
    let stderr = refused(
        with_qwen3(Setup::new()),
        &["inspect", "qwen3", "--render", "c.json"],
    );
    assert!(stderr.contains("cannot read c.json"), "{stderr}");
    let refusing = Setup::new()
        .file(
            "m/chat_template.jinja",
            "{{ raise_exception('not like this') }}",
        )
        .file("c.json", WEATHER);
    let stderr = refused(refusing, &["inspect", "m", "--render", "c.json"]);
    assert!(stderr.contains("not like this"), "{stderr}");
}

#[test]
fn a_reply_is_taken_apart() {
    let reply = "<think>\nOslo, then.\n</think>\n\nLet me see.\n<tool_call>\n{\"name\": \"weather\", \
         \"arguments\": {\"city\": \"Oslo \\\"</tool_call>\\\"\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"f\", \
         \"arguments\": {\"a\": 1\n</tool_call>";
    let setup = with_qwen3(Setup::new())
        .without_config()
        .file("r.txt", reply);
    let (finished, _) = setup.run(&["inspect", "qwen3", "--parse", "r.txt"]);
    let line = said(&finished);
    assert_eq!(line["content"], "Let me see.");
    assert_eq!(line["reasoning"], "Oslo, then.");
    let [weather, broken] = &line["tool_calls"].as_array().unwrap()[..] else {
        panic!("{line}");
    };
    assert_eq!(
        weather,
        &json!({"id": "call00000", "name": "weather", "arguments": {"city": "Oslo \"</tool_call>\""}})
    );
    assert_eq!(broken["id"], "call00001");
    assert!(broken.get("arguments").is_none(), "{line}");
    assert!(broken["malformed"]["reason"].is_string(), "{line}");
    assert!(
        broken["malformed"]["text"]
            .as_str()
            .unwrap()
            .contains("\"a\": 1"),
        "{line}"
    );
}

#[test]
fn a_reply_without_anything_is_all_content() {
    let setup = with_qwen3(Setup::new())
        .without_config()
        .file("r.txt", "  Hello!\n");
    let (finished, _) = setup.run(&["inspect", "qwen3", "--parse", "r.txt"]);
    assert_eq!(
        said(&finished),
        json!({"content": "Hello!", "reasoning": null, "tool_calls": []})
    );
}

/// Where the template opens the reasoning, a reply begins inside.
#[test]
fn a_reply_behind_opened_reasoning_begins_inside() {
    let setup = Setup::new()
        .without_config()
        .file(
            "m/chat_template.jinja",
            "{{ messages[-1].content }}{{ tools }}<think>\n",
        )
        .file("r.txt", "cut in the middle");
    let (finished, _) = setup.run(&["inspect", "m", "--parse", "r.txt"]);
    assert_eq!(
        said(&finished),
        json!({"content": "", "reasoning": "cut in the middle", "tool_calls": []})
    );
}
