//! What follows attention: one gated MLP, or experts of which each token is
//! sent to some.

use crate::backend::{Activation, Backend};
use crate::model::ModelError;
use crate::model::config::{ExpertsConfig, GatedConfig, MlpConfig};
use crate::model::linear::{Linear, Loader};
use crate::model::rows::Rows;

pub(super) enum Mlp<B: Backend> {
    Gated(Gated<B>),
    Experts(Experts<B>),
}

pub(super) struct Gated<B: Backend> {
    gate: Linear<B>,
    up: Linear<B>,
    down: Linear<B>,
    activation: Activation,
}

pub(super) struct Experts<B: Backend> {
    router: Linear<B>,
    experts: B::Experts,
    top_k: usize,
    renormalize: bool,
    /// The MLP that every token goes through, and its gate.
    shared: Option<(Gated<B>, Linear<B>)>,
}

impl<B: Backend> Mlp<B> {
    /// `layer` is what the names of the layer's parts begin with.
    pub(super) fn load(
        loader: &Loader<'_, B>,
        layer: &str,
        config: &MlpConfig,
    ) -> Result<Self, ModelError> {
        Ok(match config {
            MlpConfig::Gated(config) => Self::Gated(Gated::load(
                loader,
                &format!("{layer}{}", loader.config.names.mlp),
                config,
            )?),
            MlpConfig::Experts(config) => Self::Experts(Experts::load(loader, layer, config)?),
        })
    }

    /// `[T, hidden]` to the same.
    pub(super) fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, ModelError> {
        match self {
            Self::Gated(mlp) => mlp.forward(backend, x),
            Self::Experts(experts) => experts.forward(backend, x),
        }
    }
}

impl<B: Backend> Gated<B> {
    fn load(loader: &Loader<'_, B>, name: &str, config: &GatedConfig) -> Result<Self, ModelError> {
        let part = |part: &str| format!("{name}.{part}");
        let (hidden, width) = (loader.config.hidden_size, config.width);
        let linear =
            |name: &str, rows, columns| loader.linear(&part(name), rows, columns, config.bias);
        let [gate, up, down] = loader.config.names.projections;
        let [gate, up] = match config.fused {
            true => {
                let parts = Rows::stacked([width; 2]);
                loader.fused(&part("gate_up_proj"), &parts, hidden, config.bias)?
            }
            false => [linear(gate, width, hidden)?, linear(up, width, hidden)?],
        };
        Ok(Self {
            gate,
            up,
            down: linear(down, hidden, width)?,
            activation: config.activation,
        })
    }

    fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, ModelError> {
        let inner = match (self.gate.plain(), self.up.plain()) {
            (Some(gate), Some(up)) => backend.project_gated(x, gate, up, self.activation)?,
            _ => {
                let [gate, up] = Linear::forward_each(backend, x, [&self.gate, &self.up])?;
                backend.gated(&gate, &up, self.activation)?
            }
        };
        self.down.forward(backend, &inner)
    }
}

impl<B: Backend> Experts<B> {
    fn load(
        loader: &Loader<'_, B>,
        layer: &str,
        config: &ExpertsConfig,
    ) -> Result<Self, ModelError> {
        let hidden = loader.config.hidden_size;
        let router = format!("{layer}{}", config.router);
        let shared = match config.shared {
            None => None,
            Some(width) => {
                let gated = GatedConfig {
                    width,
                    activation: config.activation,
                    bias: false,
                    fused: false,
                };
                let name = format!("{layer}mlp.shared_expert");
                Some((
                    Gated::load(loader, &name, &gated)?,
                    loader.linear(&format!("{name}_gate"), 1, hidden, false)?,
                ))
            }
        };
        Ok(Self {
            router: loader.linear(&router, config.count, hidden, config.bias)?,
            experts: loader.experts(&format!("{layer}{}", config.experts), config)?,
            top_k: config.top_k,
            renormalize: config.renormalize,
            shared,
        })
    }

    fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor, ModelError> {
        let router = self.router.forward(backend, x)?;
        let said = backend.mix_experts(x, &router, &self.experts, self.top_k, self.renormalize)?;
        let Some((mlp, gate)) = &self.shared else {
            return Ok(said);
        };
        let shared = mlp.forward(backend, x)?;
        let gate = gate.forward(backend, x)?;
        Ok(backend.add(said, &backend.sigmoid_gate(&shared, &gate)?)?)
    }
}
