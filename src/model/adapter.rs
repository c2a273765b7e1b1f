//! LoRA adapters as mlx-lm's `lora` command saves them: a low-rank addition to
//! some projections (Hu et al. 2021, <https://arxiv.org/abs/2106.09685>),
//! which leaves the base's weights, quantized or not, as they are.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::Value;

use super::ModelError;
use super::files::ModelFiles;
use super::weights::Weights;
use crate::backend::RawTensor;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapters.safetensors";
/// What PEFT calls its own.
const PEFT: &str = "adapter_model.safetensors";

/// An adapter's weights, by the projections they are for.
pub(super) struct Adapter {
    weights: Weights,
    scale: f32,
    /// Tensors that nobody has asked for yet.
    unused: RefCell<BTreeSet<String>>,
}

/// The addition to one projection: `scale * up(down(x))`.
pub(super) struct LowRank {
    /// `[rank, in]`.
    pub(super) down: RawTensor,
    /// `[out, rank]`.
    pub(super) up: RawTensor,
    /// What it is multiplied by.
    pub(super) scale: f32,
}

fn refused(reason: impl Into<String>) -> ModelError {
    ModelError::Adapter(reason.into())
}

impl Adapter {
    /// Reads the adapter's two files.
    ///
    /// # Errors
    /// If one of them is missing or damaged, or it is an adapter of another
    /// kind.
    pub(super) fn open(files: &ModelFiles) -> Result<Self, ModelError> {
        let names = files.names()?;
        let has = |name: &str| names.iter().any(|known| known == name);
        if !has(WEIGHTS) && has(PEFT) {
            return Err(refused(format!(
                "{PEFT} is PEFT's format; convert it to mlx-lm's ({WEIGHTS})"
            )));
        }
        let Some(text) = files.text(CONFIG)? else {
            return Err(refused(format!("there is no {CONFIG}")));
        };
        let config: Value = serde_json::from_str(&text)
            .map_err(|error| refused(format!("{CONFIG} is not JSON: {error}")))?;
        match config["fine_tune_type"].as_str() {
            None | Some("lora") => {}
            Some(other) => {
                return Err(refused(format!(
                    "it is of the type \"{other}\"; supported is \"lora\" (mlx_lm.fuse makes a \
                     model of the others)"
                )));
            }
        }
        let Some(scale) = config["lora_parameters"]["scale"].as_f64() else {
            return Err(refused(format!(
                "{CONFIG} has no number at lora_parameters.scale"
            )));
        };
        let weights = Weights::of_files(files, vec![WEIGHTS.to_owned()])?;
        Ok(Self {
            scale: scale as f32,
            unused: RefCell::new(weights.names().map(str::to_owned).collect()),
            weights,
        })
    }

    /// The addition to the projection `name`, of `columns` to `rows`, if it
    /// has any.
    ///
    /// # Errors
    /// If it is not of that shape.
    pub(super) fn take(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Option<LowRank>, ModelError> {
        let (a, b) = (format!("{name}.lora_a"), format!("{name}.lora_b"));
        if !self.weights.has(&a) && !self.weights.has(&b) {
            return Ok(None);
        }
        let rank = self.weights.shape(&a).and_then(|shape| shape.get(1));
        let rank = *rank.ok_or_else(|| refused(format!("{a} is missing or no matrix")))?;
        let down = self.weights.parameter(&a, &[columns, rank])?;
        let up = self.weights.parameter(&b, &[rank, rows])?;
        let mut unused = self.unused.borrow_mut();
        unused.remove(&a);
        unused.remove(&b);
        Ok(Some(LowRank {
            down: down.transposed(),
            up: up.transposed(),
            scale: self.scale,
        }))
    }

    /// Refuses an adapter of which a part was left out.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        match self.unused.borrow().first() {
            None => Ok(()),
            Some(name) => Err(refused(format!(
                "{name} fits no projection of this model (those of embeddings and experts are \
                 not supported)"
            ))),
        }
    }
}
