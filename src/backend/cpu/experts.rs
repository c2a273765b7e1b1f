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

/// What is to be known of a step to send its tokens, in memory that is used
/// again.
#[derive(Default)]
pub(super) struct Routing {
    likely: Vec<(usize, f32)>,
    sent: Vec<Sent>,
}

/// A row of a step is sent to an expert, whose word has a weight.
struct Sent {
    expert: usize,
    row: usize,
    weight: f32,
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
        let mut routing = cpu.routing.borrow_mut();
        let Routing { likely, sent } = &mut *routing;
        sent.clear();
        for (row, logits) in router.chunks_exact(experts).enumerate() {
            let likely = likely_experts(logits, top_k, renormalize, likely);
            sent.extend(likely.iter().map(|&(expert, weight)| Sent {
                expert,
                row,
                weight,
            }));
        }
        sent.sort_unstable_by_key(|sent| (sent.expert, sent.row));
        let mut output = cpu.pool.array([tokens, hidden]);
        output.own().fill(0.0);
        for sent in sent.chunk_by(|a, b| a.expert == b.expert) {
            let mut gathered = cpu.pool.array([sent.len(), hidden]);
            let rows = gathered.own().chunks_exact_mut(hidden);
            for (gathered, sent) in rows.zip(sent) {
                gathered.copy_from_slice(&x[sent.row * hidden..][..hidden]);
            }
            let mlp = &self.mlps[sent[0].expert];
            let said = mlp.forward(cpu, &gathered, self.activation)?;
            for (said, sent) in said.chunks_exact(hidden).zip(sent) {
                let output = &mut output.own()[sent.row * hidden..][..hidden];
                for (output, said) in output.iter_mut().zip(said) {
                    *output += sent.weight * said;
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
