//! What is done element by element: the activations of gated MLPs, and the cap
//! of logits.

use candle_core::{Result, Tensor};
use candle_nn::ops;

use crate::backend::Activation;

/// As [`crate::backend::Backend::gated`] says.
pub(super) fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => ops::silu(gate)?.mul(up),
        Activation::GeluTanh => gate.gelu()?.mul(up),
        Activation::ClampedSilu => {
            let limit = Activation::LIMIT;
            let gate = gate.minimum(limit)?;
            let up = (up.clamp(-limit, limit)? + 1.0)?;
            let share = ops::sigmoid(&(&gate * f64::from(Activation::ALPHA))?)?;
            gate.mul(&share)?.mul(&up)
        }
    }
}

/// As [`crate::backend::Backend::softcap`] says.
pub(super) fn softcap(x: &Tensor, cap: f32) -> Result<Tensor> {
    let cap = f64::from(cap);
    (x / cap)?.tanh()? * cap
}
