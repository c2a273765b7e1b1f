//! Rotary embeddings: the frequencies of each kind that `config.json` may ask
//! for (Su et al. 2021, <https://arxiv.org/abs/2104.09864>). Knows no tensors.
//!
//! Frequencies are those of mlx-lm's `rope_utils`: longrope's are the long
//! ones at any length, so that what is in the KV cache stays right as a
//! sequence grows, and `dynamic` is the plain kind, for it sets in behind the
//! context's end.

use std::f64::consts::PI;

use serde_json::{Map, Value};

use super::config::ConfigError;

/// How queries and keys are rotated by their positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Inverse frequencies of the rotated pairs: half as many as dimensions
    /// are rotated, the first ones of each head.
    pub inv_freq: Vec<f32>,
    /// What the rotated dimensions are multiplied by.
    pub magnitude: f32,
    /// What queries are multiplied by besides, where that is not 1.
    pub query_growth: Option<QueryGrowth>,
}

/// Queries far behind the length a model was first trained on are scaled up
/// (Llama 4, Ministral 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryGrowth {
    /// `llama_4_scaling_beta`.
    pub beta: f32,
    /// `original_max_position_embeddings`.
    pub every: usize,
}

impl QueryGrowth {
    /// The factor at a position: `1 + beta * ln(1 + floor(position / every))`.
    pub fn at(self, position: usize) -> f32 {
        let times = (position / self.every.max(1)) as f32;
        1.0 + self.beta * times.ln_1p()
    }
}

/// What a [`Rope`] is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct RopeSettings<'a> {
    /// `rope_theta`, the base of the frequencies.
    pub(super) theta: f64,
    /// Dimensions rotated, an even number.
    pub(super) dims: usize,
    /// `max_position_embeddings`.
    pub(super) context_length: usize,
    /// `original_max_position_embeddings` where it stands outside of
    /// `scaling`.
    pub(super) original_length: Option<usize>,
    /// `rope_scaling` or `rope_parameters`.
    pub(super) scaling: Option<&'a Map<String, Value>>,
}

impl Rope {
    /// The rope that the settings ask for.
    ///
    /// # Errors
    /// If its kind is not known, or a number it needs is missing.
    pub(super) fn new(settings: RopeSettings<'_>) -> Result<Self, ConfigError> {
        let RopeSettings { theta, dims, .. } = settings;
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(ConfigError::Invalid(format!("rope_theta is {theta}")));
        }
        if dims == 0 || !dims.is_multiple_of(2) {
            return Err(ConfigError::Invalid(format!(
                "{dims} dimensions of a head are to be rotated, which is not an even number"
            )));
        }
        // Wave numbers: the inverses of the frequencies.
        let plain: Vec<f64> = (0..dims / 2)
            .map(|pair| theta.powf(2.0 * pair as f64 / dims as f64))
            .collect();
        let scaling = Scaling(settings.scaling);
        let (scaled, magnitude) = match scaling.kind() {
            // The axes that mrope turns by are all the same for text.
            "default" | "dynamic" | "mrope" => (plain, 1.0),
            "linear" => {
                let factor = scaling.positive("factor")?;
                (plain.iter().map(|wave| wave * factor).collect(), 1.0)
            }
            "llama3" => (scaling.llama3(&plain)?, 1.0),
            "yarn" => scaling.yarn(&plain, settings)?,
            "longrope" | "su" => scaling.longrope(&plain, settings)?,
            other => {
                return Err(ConfigError::Unsupported {
                    key: "rope type",
                    value: other.to_owned(),
                    supported: "default, linear, dynamic, llama3, yarn, longrope, mrope",
                });
            }
        };
        let query_growth = match scaling.number("llama_4_scaling_beta") {
            None => None,
            Some(beta) => Some(QueryGrowth {
                beta: beta as f32,
                every: scaling.positive("original_max_position_embeddings")? as usize,
            }),
        };
        Ok(Self {
            inv_freq: scaled.iter().map(|wave| (1.0 / wave) as f32).collect(),
            magnitude: magnitude as f32,
            query_growth,
        })
    }
}

/// The object that says how frequencies are scaled, if there is one.
#[derive(Clone, Copy)]
struct Scaling<'a>(Option<&'a Map<String, Value>>);

impl Scaling<'_> {
    fn kind(&self) -> &str {
        let text = |key| self.0?.get(key)?.as_str();
        text("rope_type")
            .or_else(|| text("type"))
            .unwrap_or("default")
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.0?.get(key)?.as_f64()
    }

    fn positive(&self, key: &str) -> Result<f64, ConfigError> {
        match self.number(key) {
            Some(number) if number > 0.0 => Ok(number),
            Some(number) => Err(self.fault(&format!("the {key} {number}"))),
            None => Err(self.fault(&format!("no {key}"))),
        }
    }

    fn fault(&self, what: &str) -> ConfigError {
        ConfigError::Invalid(format!("its rope of type {} has {what}", self.kind()))
    }

    /// Long waves grow by the factor, short ones not, those between in part
    /// (Llama 3.1, <https://arxiv.org/abs/2407.21783>).
    fn llama3(&self, plain: &[f64]) -> Result<Vec<f64>, ConfigError> {
        let factor = self.positive("factor")?;
        let low = self.number("low_freq_factor").unwrap_or(1.0);
        let high = self.number("high_freq_factor").unwrap_or(4.0);
        let original = self
            .number("original_max_position_embeddings")
            .unwrap_or(8192.0);
        let scaled = plain.iter().map(|wave| {
            let length = 2.0 * PI * wave;
            if length > original / low {
                wave * factor
            } else if length > original / high {
                let smooth = (original / length - low) / (high - low);
                wave / ((1.0 - smooth) / factor + smooth)
            } else {
                *wave
            }
        });
        Ok(scaled.collect())
    }

    /// YaRN (Peng et al. 2023, <https://arxiv.org/abs/2309.00071>): waves, and
    /// what stands in for the temperature of the softmax.
    fn yarn(
        &self,
        plain: &[f64],
        settings: RopeSettings<'_>,
    ) -> Result<(Vec<f64>, f64), ConfigError> {
        let RopeSettings { theta, dims, .. } = settings;
        let factor = self.positive("factor")?;
        let or = |key, other| self.number(key).unwrap_or(other);
        let original = or("original_max_position_embeddings", 4096.0);
        // The pair whose wave turns so many times within the original length.
        let pair =
            |turns: f64| dims as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let low = pair(or("beta_fast", 32.0)).floor().max(0.0);
        let high = pair(or("beta_slow", 1.0)).ceil().min(dims as f64 - 1.0);
        let width = if low == high { 0.001 } else { high - low };
        let waves = plain.iter().enumerate().map(|(pair, wave)| {
            let scaled = ((pair as f64 - low) / width).clamp(0.0, 1.0);
            1.0 / (scaled / (factor * wave) + (1.0 - scaled) / wave)
        });
        let temperature = |mscale: f64| match factor <= 1.0 {
            true => 1.0,
            false => 0.1 * mscale * factor.ln() + 1.0,
        };
        let magnitude = self.number("attention_factor").unwrap_or_else(|| {
            temperature(or("mscale", 1.0)) / temperature(or("mscale_all_dim", 0.0))
        });
        Ok((waves.collect(), magnitude))
    }

    /// LongRoPE (Ding et al. 2024, <https://arxiv.org/abs/2402.13753>): a
    /// factor for each pair.
    fn longrope(
        &self,
        plain: &[f64],
        settings: RopeSettings<'_>,
    ) -> Result<(Vec<f64>, f64), ConfigError> {
        let factors = self.0.and_then(|map| map.get("long_factor")?.as_array());
        let factors: Option<Vec<f64>> =
            factors.and_then(|factors| factors.iter().map(Value::as_f64).collect());
        let Some(factors) = factors.filter(|factors| factors.len() == plain.len()) else {
            return Err(self.fault(&format!("no long_factor of {} numbers", plain.len())));
        };
        let original = match settings.original_length {
            Some(length) => length as f64,
            None => self
                .number("original_max_position_embeddings")
                .unwrap_or(4096.0),
        };
        let growth = settings.context_length as f64 / original;
        let magnitude = match growth <= 1.0 {
            true => 1.0,
            false => (1.0 + growth.ln() / original.ln()).sqrt(),
        };
        let waves = plain
            .iter()
            .zip(factors)
            .map(|(wave, factor)| wave * factor);
        Ok((waves.collect(), magnitude))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rope(scaling: Value) -> Result<Rope, ConfigError> {
        Rope::new(RopeSettings {
            theta: 10_000.0,
            dims: 4,
            context_length: 512,
            original_length: None,
            scaling: scaling.as_object(),
        })
    }

    #[test]
    fn frequencies_fall_from_one_towards_one_over_theta() {
        assert_eq!(rope(json!(null)).unwrap().inv_freq, [1.0, 0.01]);
        let long = Rope::new(RopeSettings {
            theta: 1e6,
            dims: 128,
            context_length: 512,
            original_length: None,
            scaling: None,
        })
        .unwrap();
        assert_eq!((long.inv_freq.len(), long.magnitude), (64, 1.0));
        assert!(long.inv_freq.windows(2).all(|pair| pair[1] < pair[0]));
        assert!(long.inv_freq[63] > 1e-6);
    }

    #[test]
    fn each_kind_scales_as_its_paper_says() {
        let linear = rope(json!({"type": "linear", "factor": 4})).unwrap();
        assert_eq!(linear.inv_freq, [0.25, 0.0025]);
        let dynamic = rope(json!({"type": "dynamic", "factor": 4})).unwrap();
        assert_eq!(dynamic.inv_freq, [1.0, 0.01]);
        // Waves of 6.3 and 628 positions, the first shorter than 8192 / 4.
        let llama = rope(json!({
            "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 256
        }));
        assert_eq!(llama.unwrap().inv_freq, [1.0, 0.00125]);
        // The first pair turns 81 times in 512 positions, the second 0.8.
        let yarn = rope(json!({
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512
        }))
        .unwrap();
        assert_eq!(yarn.inv_freq, [1.0, 0.0025]);
        assert!((f64::from(yarn.magnitude) - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-7);
        let long = rope(json!({
            "type": "longrope", "long_factor": [2.0, 5.0], "short_factor": [1.0, 1.0],
            "original_max_position_embeddings": 64
        }))
        .unwrap();
        assert_eq!(long.inv_freq, [0.5, 0.002]);
        assert!((f64::from(long.magnitude) - (1.0 + 0.5f64).sqrt()).abs() < 1e-7);
    }

    #[test]
    fn queries_grow_in_steps() {
        let growth = rope(json!({
            "rope_type": "default", "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 16
        }))
        .unwrap()
        .query_growth
        .unwrap();
        assert_eq!((growth.at(0), growth.at(15)), (1.0, 1.0));
        assert!((growth.at(47) - (1.0 + 0.1 * 3f32.ln())).abs() < 1e-6);
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        for (scaling, named) in [
            (json!({"type": "ntk"}), "ntk"),
            (json!({"type": "linear"}), "no factor"),
            (json!({"type": "llama3", "factor": 0}), "factor 0"),
            (
                json!({"type": "longrope", "long_factor": [1.0]}),
                "2 numbers",
            ),
            (
                json!({"type": "default", "llama_4_scaling_beta": 0.1}),
                "original_max_position_embeddings",
            ),
        ] {
            let error = rope(scaling.clone()).unwrap_err().to_string();
            assert!(error.contains(named), "{scaling}: {error}");
        }
    }
}
