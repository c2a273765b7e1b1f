//! The bundled demonstration model, embedded in the binary: what it is
//! is told in `models/demo/README.md`.

use crate::model::ModelFiles;

/// The value of `model_name` that stands for the bundled model.
pub const MODEL_NAME: &str = "demo";

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../models/demo/", $name)))),*]
    };
}

/// The bundled model's files.
pub fn files() -> ModelFiles {
    ModelFiles::Embedded(embedded![
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ])
}
