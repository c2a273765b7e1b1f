//! What a model's `config.json` says of how its matrices are quantized, as
//! mlx-lm writes it: one way for all, and others for some by name.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::config::ConfigError;

/// How a matrix is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantization {
    /// MLX's affine quantization.
    Affine {
        /// Weights that share a scale and a bias: 32, 64 or 128.
        group_size: usize,
        /// Bits of a weight: 2, 3, 4, 5, 6 or 8.
        bits: usize,
    },
    /// MXFP4: 4-bit floats, 32 of which share an exponent.
    Mxfp4,
}

impl Quantization {
    /// Weights that share a scale.
    pub(super) fn group_size(self) -> usize {
        match self {
            Self::Affine { group_size, .. } => group_size,
            Self::Mxfp4 => 32,
        }
    }

    /// Bits of a weight.
    pub(super) fn bits(self) -> usize {
        match self {
            Self::Affine { bits, .. } => bits,
            Self::Mxfp4 => 4,
        }
    }

    /// What an object with `group_size`, `bits` and `mode` says of `what`.
    fn parse(written: &Map<String, Value>, what: &str) -> Result<Self, ConfigError> {
        let unsupported = |value: String| ConfigError::Unsupported {
            key: "quantization",
            value: format!("{value}{what}"),
            supported: "MLX's affine one, of 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128, \
                        and mxfp4",
        };
        // Other makers' quantizations share the key but not MLX's two fields.
        let field = |key| written.get(key).and_then(Value::as_u64);
        let (Some(group_size), Some(bits)) = (field("group_size"), field("bits")) else {
            let method = written.get("quant_method").and_then(Value::as_str);
            return Err(unsupported(
                method.unwrap_or("of an unknown kind").to_owned(),
            ));
        };
        let mode = written.get("mode").and_then(Value::as_str);
        match (mode.unwrap_or("affine"), group_size, bits) {
            ("affine", 32 | 64 | 128, 2..=6 | 8) => Ok(Self::Affine {
                group_size: group_size as usize,
                bits: bits as usize,
            }),
            ("mxfp4", 32, 4) => Ok(Self::Mxfp4),
            (mode, ..) => Err(unsupported(format!(
                "{mode}, {bits} bits in groups of {group_size}"
            ))),
        }
    }
}

/// How each matrix of a model is quantized, if it is stored quantized at all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Quantizations {
    default: Option<Quantization>,
    by_name: HashMap<String, Quantization>,
}

impl Quantizations {
    /// How the matrix `name` is.
    pub(super) fn of(&self, name: &str) -> Option<Quantization> {
        self.by_name.get(name).copied().or(self.default)
    }

    /// Reads the `quantization` of a `config.json`.
    pub(super) fn parse(written: &Map<String, Value>) -> Result<Self, ConfigError> {
        let by_name = written
            .iter()
            .filter_map(|(name, value)| {
                let own = value.as_object()?;
                let parsed = Quantization::parse(own, &format!(" for {name}"));
                Some(parsed.map(|parsed| (name.clone(), parsed)))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            default: Some(Quantization::parse(written, "")?),
            by_name,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<Quantizations, ConfigError> {
        Quantizations::parse(value.as_object().unwrap())
    }

    #[test]
    fn one_for_all_and_others_by_name() {
        let affine = |group_size, bits| Some(Quantization::Affine { group_size, bits });
        let read = parse(json!({
            "group_size": 64, "bits": 4, "mode": "affine",
            "lm_head": {"group_size": 32, "bits": 8}, "model.embed_tokens": false
        }))
        .unwrap();
        assert_eq!(read.of("model.layers.0.mlp.up_proj"), affine(64, 4));
        assert_eq!(read.of("lm_head"), affine(32, 8));
        // Not quantized is what has no scales: nothing needs to be known.
        assert_eq!(read.of("model.embed_tokens"), affine(64, 4));
        assert_eq!(Quantizations::default().of("lm_head"), None);
        let mxfp4 = parse(json!({"group_size": 32, "bits": 4, "mode": "mxfp4"})).unwrap();
        assert_eq!(mxfp4.of("lm_head"), Some(Quantization::Mxfp4));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (value, named) in [
            (json!({"group_size": 64, "bits": 7}), "7 bits"),
            (json!({"group_size": 64, "bits": 1}), "1 bits"),
            (json!({"group_size": 16, "bits": 4}), "groups of 16"),
            (
                json!({"group_size": 16, "bits": 4, "mode": "nvfp4"}),
                "nvfp4",
            ),
            (
                json!({"group_size": 64, "bits": 4, "mode": "mxfp4"}),
                "mxfp4, 4 bits in groups of 64",
            ),
            (json!({"quant_method": "gptq"}), "gptq"),
            (
                json!({"group_size": 64, "bits": 4, "lm_head": {"group_size": 64, "bits": 9}}),
                "for lm_head",
            ),
        ] {
            let error = parse(value.clone()).unwrap_err().to_string();
            assert!(error.contains(named), "{value}: {error}");
        }
    }
}
