//! What a model is, without its weights: from its configuration and the
//! headers of its files. Knows nothing of this machine's memory.

use super::config::DecoderConfig;
use super::decoder::info;
use super::files::ModelFiles;
use super::linear::Loader;
use super::weights::Weights;
use super::{ModelError, ModelInfo};
use crate::backend::{self, Backend, BackendChoice, WithBackend};

/// What a model is and how much of it there is.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// What it would be, loaded.
    pub info: ModelInfo,
    /// Bytes of its weights as they are stored, which is what they take in
    /// memory wherever the backend computes with them as they are.
    pub stored_bytes: u64,
}

impl Description {
    /// Bits a weight is stored in, with its share of the scales.
    pub fn bits_per_weight(&self) -> f64 {
        self.stored_bytes as f64 * 8.0 / self.info.parameters as f64
    }
}

/// Describes a model as it would run on `backend`, which is started and given
/// nothing but one norm, since what it computes in depends on the weights'
/// type.
///
/// # Errors
/// As [`super::load`], but for weights that are missing or of the wrong shape.
pub fn describe(files: &ModelFiles, backend: BackendChoice) -> Result<Description, ModelError> {
    let config = DecoderConfig::load(files)?;
    let weights = Weights::open(files)?;
    backend::start(backend, Describe { config, weights })?
}

struct Describe {
    config: DecoderConfig,
    weights: Weights,
}

impl WithBackend for Describe {
    type Output = Result<Description, ModelError>;

    fn with<B: Backend>(self, backend: B) -> Self::Output {
        let Self { config, weights } = self;
        let loader = Loader {
            backend: &backend,
            weights: &weights,
            config: &config,
            adapter: None,
        };
        let norm = loader.last_norm()?;
        let (parameters, stored_bytes) = weights.footprint(&config);
        Ok(Description {
            info: info(&backend, &config, &norm, parameters),
            stored_bytes,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{demo, model};

    /// Whatever the weights' format, on every backend.
    #[test]
    fn the_description_is_that_of_the_loaded_model() {
        let golden = |name: &str| {
            let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/");
            ModelFiles::Folder(format!("{root}{name}").into())
        };
        let all = [
            demo::files(),
            golden("qwen3-moe-4bit"),
            golden("qwen3-f16"),
            golden("llama-window-bf16"),
            golden("qwen3-next-4bit"),
            golden("qwen3.5-moe-f32"),
            golden("lfm2-f32"),
        ];
        for files in all {
            for &backend in BackendChoice::BUILT_IN {
                let described = describe(&files, backend).unwrap();
                let loaded = model::load(&files, backend, &()).unwrap();
                assert_eq!(&described.info, loaded.info());
            }
        }
        let bits = |name| describe(&golden(name), BackendChoice::Candle).unwrap();
        assert_eq!(bits("qwen3-bf16").bits_per_weight(), 16.0);
    }
}
