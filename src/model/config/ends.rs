//! Which tokens end a turn, gathered from the files that may say so.

use serde_json::Value;

use super::ConfigError;
use crate::model::files::ModelFiles;

/// The ids that end a turn: those that `generation_config.json` and
/// `config.json` list, and the one `tokenizer_config.json` names, whose id
/// `token_id` knows. Models are published with any of the three left behind.
///
/// # Errors
/// If one of the files is there and cannot be read.
pub fn end_of_sequence_ids(
    files: &ModelFiles,
    token_id: impl Fn(&str) -> Option<u32>,
) -> Result<Vec<u32>, ConfigError> {
    let mut ids: Vec<u32> = Vec::new();
    for name in [
        "generation_config.json",
        "config.json",
        "tokenizer_config.json",
    ] {
        let Some(text) = files.text(name)? else {
            continue;
        };
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| ConfigError::Invalid(format!("{name}: {error}")))?;
        let named = value["eos_token"]
            .as_str()
            .or_else(|| value["eos_token"]["content"].as_str());
        ids.extend(named.and_then(&token_id));
        let listed = match &value["eos_token_id"] {
            Value::Array(ids) => ids.as_slice(),
            other => std::slice::from_ref(other),
        };
        ids.extend(
            listed
                .iter()
                .filter_map(Value::as_u64)
                .filter_map(|id| u32::try_from(id).ok()),
        );
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
