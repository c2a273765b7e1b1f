//! Layers of experts: which of them a token is sent to, and what they say.

use super::weights::Matrix;
use super::{Array, Cpu, Result};
use crate::backend::{Activation, ExpertWeights, MatrixWeights, RawTensor, likely_experts};

/// The gated MLPs of a layer's experts.
pub struct Experts {
    mlps: Vec<Mlp>,
    activation: Activation,
}

struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

struct Linear {
    matrix: Matrix,
    /// `[out]`.
    bias: Option<Array>,
}

impl Experts {
    pub(super) fn load(weights: &ExpertWeights, cpu: &Cpu) -> Result<Self> {
        let mlp = |index| {
            let biases = weights.biases.as_ref();
            let part = |weights: &MatrixWeights, bias: Option<&RawTensor>| {
                let matrix = weights.expert(index);
                let matrix = matrix.ok_or_else(|| format!("there is no expert {index}"))?;
                let bias = bias.and_then(|bias| bias.entry(index));
                Ok::<_, String>(Linear {
                    matrix: Matrix::load(matrix, cpu)?,
                    bias: bias.map(|bias| cpu.stored(&bias)).transpose()?,
                })
            };
            Ok(Mlp {
                gate: part(&weights.gate, biases.map(|biases| &biases.gate))?,
                up: part(&weights.up, biases.map(|biases| &biases.up))?,
                down: part(&weights.down, biases.map(|biases| &biases.down))?,
            })
        };
        Ok(Self {
            mlps: (0..weights.count).map(mlp).collect::<Result<_>>()?,
            activation: weights.activation,
        })
    }

    /// As [`crate::backend::Backend::mix_experts`] says.
    pub(super) fn mix(
        &self,
        cpu: &Cpu,
        x: &Array,
        router: &Array,
        top_k: usize,
        renormalize: bool,
    ) -> Result<Array> {
        let (tokens, hidden) = x.rows_and_columns()?;
        let (routed, experts) = router.rows_and_columns()?;
        if routed != tokens || experts != self.mlps.len() {
            return Err(format!("{:?} routed by {:?}", x.shape(), router.shape()));
        }
        // Rows are gathered by expert, so that an expert's weights are read
        // once a step.
        let mut sent = vec![Vec::new(); experts];
        for (row, logits) in router.chunks_exact(experts).enumerate() {
            for (expert, weight) in likely_experts(logits, top_k, renormalize) {
                sent[expert].push((row, weight));
            }
        }
        let mut output = cpu.pool.array([tokens, hidden]);
        output.own().fill(0.0);
        for (mlp, sent) in self.mlps.iter().zip(sent) {
            if sent.is_empty() {
                continue;
            }
            let mut gathered = cpu.pool.array([sent.len(), hidden]);
            let rows = gathered.own().chunks_exact_mut(hidden);
            for (gathered, &(row, _)) in rows.zip(&sent) {
                gathered.copy_from_slice(&x[row * hidden..][..hidden]);
            }
            let said = mlp.forward(cpu, &gathered, self.activation)?;
            for (said, &(row, weight)) in said.chunks_exact(hidden).zip(&sent) {
                let output = &mut output.own()[row * hidden..][..hidden];
                for (output, said) in output.iter_mut().zip(said) {
                    *output += weight * said;
                }
            }
        }
        Ok(output)
    }
}

impl Mlp {
    fn forward(&self, cpu: &Cpu, x: &Array, activation: Activation) -> Result<Array> {
        let inner = match (&self.gate, &self.up) {
            (
                Linear {
                    matrix: gate,
                    bias: None,
                },
                Linear {
                    matrix: up,
                    bias: None,
                },
            ) => cpu.gated_product(x, gate, up, activation)?,
            (gate, up) => {
                let (gate, up) = (gate.project(cpu, x)?, up.project(cpu, x)?);
                cpu.gated_of(&gate, &up, activation)?
            }
        };
        self.down.project(cpu, &inner)
    }
}

impl Linear {
    fn project(&self, cpu: &Cpu, x: &Array) -> Result<Array> {
        let mut product = cpu.product(x, &self.matrix)?;
        if let Some(bias) = &self.bias {
            cpu.add_to(&mut product, bias)?;
        }
        Ok(product)
    }
}
