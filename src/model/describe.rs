//! What a model is, without its weights: from its configuration and the
//! headers of its files. Knows nothing of this machine's memory.

use super::config::DecoderConfig;
use super::decoder::info;
use super::files::ModelFiles;
use super::linear::Loader;
use super::quantize::Quantizer;
use super::weights::Weights;
use super::{ModelError, ModelInfo};
use crate::backend::{self, Backend, BackendSettings, Dtype, WithBackend};

/// What a model is and how much of it there is.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// What it would be, loaded.
    pub info: ModelInfo,
    /// Bytes of its weights as they are stored or as they are quantized at
    /// load, which is what they take in memory wherever the backend computes
    /// with them as they are.
    pub stored_bytes: u64,
    /// What is quantized at load, if anything is.
    pub quantized: Option<Quantized>,
}

/// Quantization at load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantized {
    /// The type that the largest matrix is stored in.
    pub from: Dtype,
    /// Bits that most of them get.
    pub bits: usize,
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
pub fn describe(
    files: &ModelFiles,
    backend: impl Into<BackendSettings>,
) -> Result<Description, ModelError> {
    let config = DecoderConfig::load(files)?;
    let weights = Weights::open(files)?;
    let quantizer = files.quantize().map(|bits| Quantizer::new(bits, &config));
    let work = Describe {
        config,
        weights,
        quantizer,
    };
    backend::start(backend, work)?
}

struct Describe {
    config: DecoderConfig,
    weights: Weights,
    quantizer: Option<Quantizer>,
}

impl WithBackend for Describe {
    type Output = Result<Description, ModelError>;

    fn with<B: Backend>(self, backend: B) -> Self::Output {
        let Self {
            config,
            weights,
            quantizer,
        } = self;
        let loader = Loader {
            backend: &backend,
            weights: &weights,
            config: &config,
            adapter: None,
            quantizer: None,
        };
        let norm = loader.last_norm()?;
        let footprint = weights.footprint(&config, quantizer.as_ref());
        let quantized = footprint.quantized.zip(quantizer);
        Ok(Description {
            info: info(&backend, &config, &norm, footprint.parameters),
            stored_bytes: footprint.bytes,
            quantized: quantized.map(|(from, quantizer)| Quantized {
                from,
                bits: quantizer.asked().bits(),
            }),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::BackendChoice;
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
        // Quantized at load, every weight is counted and bytes are fewer.
        let dense = golden("llama-window-bf16");
        let files = dense.clone().quantized(model::Quantize::Four);
        let described = describe(&files, BackendChoice::Candle).unwrap();
        let loaded = model::load(&files, BackendChoice::Candle, &()).unwrap();
        assert_eq!(&described.info, loaded.info());
        let quantized = Quantized {
            from: Dtype::Bf16,
            bits: 4,
        };
        assert_eq!(described.quantized, Some(quantized));
        let bits = described.bits_per_weight();
        assert!((4.5..6.0).contains(&bits), "{bits}");
        let stored = describe(&dense, BackendChoice::Candle).unwrap();
        assert_eq!((stored.quantized, stored.bits_per_weight()), (None, 16.0));
        let bits = |name| describe(&golden(name), BackendChoice::Candle).unwrap();
        assert_eq!(bits("qwen3-bf16").bits_per_weight(), 16.0);
    }
}
