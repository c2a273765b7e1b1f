//! A gated short convolution, as LFM2 has it: three projections of a token, of
//! which one gates what goes into the convolution and one what comes out.

use super::{Part, state_spans};
use crate::backend::Backend;
use crate::model::ModelError;
use crate::model::config::ConvConfig;
use crate::model::linear::{Linear, Loader};
use crate::model::rows::Rows;

pub(super) struct ShortConv<B: Backend> {
    gate_in: Linear<B>,
    gate_out: Linear<B>,
    x: Linear<B>,
    /// `[hidden, kernel]`.
    conv: B::Tensor,
    /// `[hidden]`.
    bias: Option<B::Tensor>,
    out: Linear<B>,
    /// Which of a sequence's states is its own.
    slot: usize,
}

impl<B: Backend> ShortConv<B> {
    pub(super) fn load(
        loader: &Loader<'_, B>,
        name: &str,
        config: ConvConfig,
        slot: usize,
    ) -> Result<Self, ModelError> {
        let part = |part: &str| format!("{name}.{part}");
        let hidden = loader.config.hidden_size;
        let parts = Rows::stacked([hidden; 3]);
        let [gate_in, gate_out, x] = loader.fused(&part("in_proj"), &parts, hidden, config.bias)?;
        loader.has_bias(&part("conv"), config.bias)?;
        Ok(Self {
            gate_in,
            gate_out,
            x,
            conv: loader.convolution(&part("conv"), hidden, config.kernel)?,
            bias: match config.bias {
                true => Some(loader.parameter(&part("conv.bias"), hidden)?),
                false => None,
            },
            out: loader.linear(&part("out_proj"), hidden, hidden, config.bias)?,
            slot,
        })
    }

    pub(super) fn forward(
        &self,
        backend: &B,
        x: &B::Tensor,
        parts: &mut [Part<'_, B>],
    ) -> Result<B::Tensor, ModelError> {
        let gate_in = self.gate_in.forward(backend, x)?;
        let gated = backend.multiply(&gate_in, &self.x.forward(backend, x)?)?;
        let mut spans = state_spans(parts, self.slot, |state| &mut state.conv);
        let mut said = backend.causal_conv(&gated, &self.conv, false, &mut spans)?;
        if let Some(bias) = &self.bias {
            said = backend.add(said, bias)?;
        }
        let gate_out = self.gate_out.forward(backend, x)?;
        self.out
            .forward(backend, &backend.multiply(&gate_out, &said)?)
    }
}
