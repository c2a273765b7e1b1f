//! What is done element by element: the activations of gated MLPs, the cap of
//! logits, and factors. All of it stays in the type of its first argument.

use std::cell::RefCell;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::ops::{clip, concatenate, minimum, sigmoid, tanh};
use mlx_rs::transforms::compile::compile;

use crate::backend::Activation;

/// A function of two arrays whose graph MLX has captured and fused.
type Compiled2 = Box<dyn for<'a> FnMut((&'a Array, &'a Array)) -> Result<Array, Exception>>;

/// The activations, each as one kernel instead of several.
pub(super) struct Activations {
    silu: RefCell<Compiled2>,
    gelu: RefCell<Compiled2>,
    clamped: RefCell<Compiled2>,
}

impl Activations {
    pub(super) fn new() -> Self {
        let fused = |function: fn((&Array, &Array)) -> Result<Array, Exception>| {
            RefCell::new(Box::new(compile(function, true)) as Compiled2)
        };
        Self {
            silu: fused(|(gate, up)| gate.multiply(sigmoid(gate)?)?.multiply(up)),
            gelu: fused(|(gate, up)| gelu(gate)?.multiply(up)),
            clamped: fused(|(gate, up)| clamped(gate, up)),
        }
    }

    /// As [`crate::backend::Backend::gated`] says.
    pub(super) fn gated(
        &self,
        gate: &Array,
        up: &Array,
        activation: Activation,
    ) -> Result<Array, Exception> {
        let function = match activation {
            Activation::Silu => &self.silu,
            Activation::GeluTanh => &self.gelu,
            Activation::ClampedSilu => &self.clamped,
        };
        (function.borrow_mut())((gate, up))
    }
}

/// `value` in the type of `x`, so that a product of the two is of it.
fn like(value: f32, x: &Array) -> Result<Array, Exception> {
    Array::from_f32(value).as_dtype(x.dtype())
}

fn gelu(x: &Array) -> Result<Array, Exception> {
    let cube = x.multiply(x)?.multiply(x)?;
    let inner = x.add(cube.multiply(like(Activation::GELU_CUBE, x)?)?)?;
    let tanh = tanh(inner.multiply(like(Activation::GELU_SCALE, x)?)?)?;
    x.multiply(like(0.5, x)?)?
        .multiply(tanh.add(like(1.0, x)?)?)
}

fn clamped(gate: &Array, up: &Array) -> Result<Array, Exception> {
    let limit = like(Activation::LIMIT, gate)?;
    let gate = minimum(gate, &limit)?;
    let up = clip(up, (limit.negative()?, limit))?;
    let share = sigmoid(gate.multiply(like(Activation::ALPHA, &gate)?)?)?;
    up.add(like(1.0, &up)?)?.multiply(gate.multiply(share)?)
}

/// `x + offset`.
pub(super) fn shift(x: &Array, offset: f32) -> Result<Array, Exception> {
    x.add(like(offset, x)?)
}

/// `x * factor`.
pub(super) fn scale(x: &Array, factor: f32) -> Result<Array, Exception> {
    x.multiply(like(factor, x)?)
}

/// As [`crate::backend::Backend::softcap`] says.
pub(super) fn softcap(x: &Array, cap: f32) -> Result<Array, Exception> {
    let cap = like(cap, x)?;
    tanh(x.divide(&cap)?)?.multiply(cap)
}

/// The first `count` elements of each head of `x` `[T, heads, head_dim]` times
/// the row's factor, one of `factors` `[T, 1, 1]`.
pub(super) fn multiply_first(x: &Array, count: i32, factors: &Array) -> Result<Array, Exception> {
    let factors = factors.as_dtype(x.dtype())?;
    if count == x.dim(2) {
        return x.multiply(factors);
    }
    let first = x.try_index((.., .., ..count))?.multiply(factors)?;
    concatenate(&[first, x.try_index((.., .., count..))?], -1)
}
