//! The activations of gated MLPs. Knows no tensor library.

/// What a gated MLP makes of its gate `g` and the projection `u` beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `silu(g) * u`, `silu(x)` being `x * sigmoid(x)` (Elfwing et al. 2017,
    /// <https://arxiv.org/abs/1702.03118>).
    Silu,
    /// `gelu(g) * u`, by the approximation with a hyperbolic tangent
    /// (Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>).
    GeluTanh,
    /// gpt-oss's: `g * sigmoid(ALPHA * g) * (u + 1)`, with `g` at most
    /// [`LIMIT`](Self::LIMIT) and `u` no further from 0.
    ClampedSilu,
}

impl Activation {
    /// Of [`Activation::ClampedSilu`].
    pub const ALPHA: f32 = 1.702;
    /// Of [`Activation::ClampedSilu`].
    pub const LIMIT: f32 = 7.0;
    /// `sqrt(2 / pi)`, of [`Activation::GeluTanh`]: `gelu(x)` is
    /// `x / 2 * (1 + tanh(GELU_SCALE * (x + GELU_CUBE * x^3)))`.
    pub const GELU_SCALE: f32 = 0.797_884_6;
    /// Of [`Activation::GeluTanh`].
    pub const GELU_CUBE: f32 = 0.044_715;
}
