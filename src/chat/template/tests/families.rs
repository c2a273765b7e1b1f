//! What the README's table of models says of tools: for each family of models
//! the forms that its published templates show, and whether calls are bound.

use std::collections::BTreeMap;

use super::real::{loaded, real};
use crate::chat::formats::ToolFormat;
use crate::model::{DecoderConfig, ModelFiles};

/// The families and the templates of theirs that are among the real ones.
const FAMILIES: &[(&[&str], &[&str])] = &[
    (
        &["llama"],
        &[
            "meta-llama-Llama-3.1-8B-Instruct",
            "meta-llama-Llama-3.2-3B-Instruct",
            "meta-llama-Llama-3.3-70B-Instruct",
            "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
            "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
            "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
        ],
    ),
    (
        &["mistral"],
        &[
            "mistralai-Mistral-Nemo-Instruct-2407",
            "unsloth-mistral-Devstral-Small-2507",
        ],
    ),
    (
        &["ministral3", "mistral3"],
        &[
            "mistralai-Ministral-3-14B-Reasoning-2512",
            "Mistral-Small-3.2-24B-Instruct-2506",
        ],
    ),
    (&["mixtral"], &[]),
    (
        &["qwen2"],
        &[
            "Qwen-Qwen2.5-7B-Instruct",
            "Qwen-QwQ-32B",
            "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
        ],
    ),
    (&["qwen2_moe"], &[]),
    (&["qwen3"], &["Qwen-Qwen3-0.6B"]),
    (&["qwen3_moe"], &["Qwen-Qwen3-0.6B", "Qwen3-Coder"]),
    (&["gemma2"], &["google-gemma-2-2b-it"]),
    (&["gemma3_text", "gemma3"], &[]),
    (&["phi3"], &["microsoft-Phi-3.5-mini-instruct", "phi4_mini"]),
    (&["smollm3"], &["HuggingFaceTB-SmolLM3-3B"]),
    (&["granite"], &["ibm-granite-granite-3.3-2B-Instruct"]),
    (
        &["granitemoehybrid"],
        &["ibm-granite-granite-4.0", "ibm-granite-granite-4.1"],
    ),
    (&["olmo2"], &[]),
    (&["olmo3"], &[]),
    (&["gpt_oss"], &["openai-gpt-oss-120b"]),
    (&["qwen3_next"], &["Qwen-Qwen3-0.6B", "Qwen3-Coder"]),
    (
        &["qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"],
        &["Qwen3.5-4B"],
    ),
    (&["lfm2"], &["LFM2.5-Instruct"]),
];

/// What the README calls the form of a template's calls.
fn form(template: &crate::chat::ChatTemplate) -> &'static str {
    if !template.knows_tools() {
        return DEFAULT;
    }
    match template.tool_format() {
        ToolFormat::Hermes => "Hermes",
        ToolFormat::QwenXml => "Qwen3-Coder",
        ToolFormat::LlamaJson => "Llama 3",
        ToolFormat::Mistral => "Mistral",
        ToolFormat::Harmony => "harmony",
        ToolFormat::Granite => "Granite 3",
        ToolFormat::Phi4Mini => "Phi-4-mini",
        ToolFormat::Lfm2 => "LFM2",
        other => panic!("{other:?} has no name in the table of models"),
    }
}

const DEFAULT: &str = "default";
/// Where no template of a family is among the real ones.
const NOT_TRIED: (&str, &str) = ("not tried [*](#forms-of-tool-calls)", "not tried");

/// The names of the families that are known, as the error says them that an
/// unknown one meets.
fn known() -> Vec<String> {
    static FILES: [(&str, &[u8]); 1] = [("config.json", br#"{"model_type": "nope"}"#)];
    let error = DecoderConfig::load(&ModelFiles::Embedded(&FILES)).unwrap_err();
    let message = error.to_string();
    let (_, names) = message.split_once("supported are: ").unwrap();
    names.split(", ").map(str::to_owned).collect()
}

/// The README's cells on tools and grammar, by family.
fn cells() -> BTreeMap<String, (String, String)> {
    let readme = include_str!("../../../../README.md");
    let (_, table) = readme.split_once("| `model_type` |").unwrap();
    let rows = table.lines().skip(2);
    let mut cells = BTreeMap::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let row: Vec<&str> = row.split('|').map(str::trim).collect();
        for family in row[1].split('`').skip(1).step_by(2) {
            cells.insert(family.to_owned(), (row[4].to_owned(), row[5].to_owned()));
        }
    }
    cells
}

#[test]
fn the_readme_says_which_forms_a_family_s_templates_show() {
    let mut templates = real();
    // Phi-4-mini's is not among them; this one renders as it does.
    let phi = include_str!("../../../../tests/fixtures/templates/phi4_mini.jinja");
    templates.insert("phi4_mini".to_owned(), phi.to_owned());
    let mut expected = BTreeMap::new();
    for (families, names) in FAMILIES {
        let mut forms = Vec::new();
        let mut all_bound = true;
        for name in *names {
            let template = loaded(&templates[*name]);
            let form = form(&template);
            if !forms.contains(&form) {
                forms.push(form);
            }
            all_bound &= template.binding().is_some() && !super::written::UNBOUND.contains(name);
        }
        let mut grammar = if all_bound { "yes" } else { "in part" };
        if names.is_empty() {
            forms.push(NOT_TRIED.0);
            grammar = NOT_TRIED.1;
        }
        for family in *families {
            let cells = (forms.join(", "), grammar.to_owned());
            expected.insert((*family).to_owned(), cells);
        }
    }
    let mut known = known();
    known.sort();
    assert_eq!(known, expected.keys().cloned().collect::<Vec<_>>());
    assert_eq!(cells(), expected);
}

/// What a family's template gets of which none is among the real ones, if it
/// knows no tools.
#[test]
fn a_plain_template_gets_the_default_form() {
    let plain = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                 {% endfor %}<|im_start|>assistant\n";
    let template = loaded(plain);
    assert_eq!(form(&template), DEFAULT);
    assert_eq!(template.tool_format(), ToolFormat::Hermes);
    assert_eq!(template.binding(), ToolFormat::Hermes.binding(""));
}
