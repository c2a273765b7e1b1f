//! MLX: on Metal on Apple Silicon, and on the CPU where MLX's CPU build is
//! linked. Everything is computed in the type the model's weights are stored
//! in, on MLX's fused kernels.
//!
//! MLX is lazy: operations build a graph, [`Backend::start`] sets it off in
//! the background, and the host waits once a step, in
//! [`Backend::read_tokens`]. A stream of MLX's belongs to the thread that
//! made it, so a backend is started, loaded and used on one thread.
//!
//! Arrays of mlx-rs have operators that panic; nothing here uses them, only
//! the methods that return what went wrong.

mod activation;
mod array;
mod attention;
mod experts;
mod memory;
mod sampling;
mod states;
mod sys;
mod weights;

use std::ops::Range;

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::{TryIndexOp, take_axis};
use mlx_rs::transforms::{async_eval, eval};
use mlx_rs::{Array, Device, DeviceType, fast, ops};

use super::{
    Activation, AttentionSettings, Backend, BackendError, DeltaGates, Draw, Dtype, ExpertWeights,
    MatrixWeights, MemoryUse, RawKv, RawTensor, ShortList, Span, StateSpan, TokenSource,
};
use activation::Activations;
use array::{element_type, from_raw, length, to_raw};
use attention::Kv;
use experts::Experts;
use memory::Memory;
use sampling::Tokens;
use states::Deltas;
use weights::Matrix;

/// MLX on its default device.
pub struct Mlx {
    device: DeviceType,
    memory: Memory,
    activations: Activations,
    deltas: Deltas,
}

/// The angles of a step: what they are computed from, for `rope_dynamic`
/// computes them on the way.
pub struct Rotation {
    /// `[T]`, the positions.
    offsets: Array,
    /// `[rotated / 2]`: the inverses of the inverse frequencies.
    frequencies: Array,
    /// Dimensions rotated.
    dimensions: i32,
    /// `[T, 1, 1]`: what the rotated dimensions are multiplied by, where that
    /// is not 1.
    magnitudes: Option<Array>,
}

impl Mlx {
    /// MLX on the best device there is.
    ///
    /// # Errors
    /// If MLX does not evaluate anything there.
    pub fn start() -> Result<Self, BackendError> {
        let start = || {
            let device = Device::try_default()?.get_type()?;
            // Whether the device really works shows in the first evaluation.
            let one = Array::from_slice(&[1.0f32], &[1]);
            eval([&one.add(&one)?])?;
            Ok((device, Memory::of(device)?))
        };
        let (device, memory) = start().map_err(failed("start"))?;
        Ok(Self {
            device,
            memory,
            activations: Activations::new(),
            deltas: Deltas::new(),
        })
    }
}

/// Names the operation in an exception of MLX's.
fn failed(op: &'static str) -> impl Fn(Exception) -> BackendError {
    move |exception| BackendError {
        op,
        // MLX adds where in its own source it was.
        reason: match exception.what().rsplit_once(" at ") {
            Some((reason, _)) => reason.to_owned(),
            None => exception.what().to_owned(),
        },
    }
}

impl Backend for Mlx {
    type Tensor = Array;
    type Matrix = Matrix;
    type Experts = Experts;
    type Tokens = Tokens;
    type Rotation = Rotation;
    type Kv = Kv;

    const OVERLAPS: bool = true;

    fn name(&self) -> &'static str {
        "mlx"
    }

    fn describe(&self) -> String {
        match self.device {
            DeviceType::Cpu => "MLX on the CPU".to_owned(),
            DeviceType::Gpu => "MLX on the GPU".to_owned(),
        }
    }

    fn threads(&self) -> usize {
        1
    }

    fn loaded(&self) -> Result<(), BackendError> {
        self.memory.loaded().map_err(failed("loaded"))
    }

    fn memory(&self) -> Option<MemoryUse> {
        self.memory.used().ok()
    }

    fn element_type(&self, x: &Array) -> Dtype {
        element_type(x)
    }

    fn parameter(&self, raw: &RawTensor) -> Result<Array, BackendError> {
        from_raw(raw, &self.memory)
    }

    fn matrix(&self, weights: MatrixWeights) -> Result<Matrix, BackendError> {
        Matrix::load(&weights, &self.memory)
    }

    fn experts(&self, weights: ExpertWeights) -> Result<Experts, BackendError> {
        Experts::load(&weights, &self.memory)
    }

    fn embed(
        &self,
        table: &Matrix,
        ids: &[TokenSource<'_, Tokens>],
    ) -> Result<Array, BackendError> {
        let rows = || table.rows(&Tokens::gather(ids)?);
        rows().map_err(failed("embed"))
    }

    fn project(&self, x: &Array, weight: &Matrix) -> Result<Array, BackendError> {
        weight.project(x).map_err(failed("project"))
    }

    fn rms_norm(&self, x: &Array, weight: &Array, eps: f32) -> Result<Array, BackendError> {
        fast::rms_norm(x, Some(weight), eps).map_err(failed("rms_norm"))
    }

    fn split_heads(&self, x: Array, heads: usize) -> Result<Array, BackendError> {
        let (tokens, heads) = (x.dim(0), length(heads, "split_heads")?);
        x.reshape(&[tokens, heads, x.dim(1) / heads])
            .map_err(failed("split_heads"))
    }

    fn merge_heads(&self, x: Array) -> Result<Array, BackendError> {
        x.reshape(&[x.dim(0), x.dim(1) * x.dim(2)])
            .map_err(failed("merge_heads"))
    }

    fn rotation(
        &self,
        positions: &[u32],
        inv_freq: &[f32],
        magnitude: impl Fn(u32) -> f32,
    ) -> Result<Rotation, BackendError> {
        let dimensions = length(2 * inv_freq.len(), "rotation")?;
        let offsets: Vec<i32> = positions.iter().map(|&position| position as i32).collect();
        let frequencies: Vec<f32> = inv_freq.iter().map(|freq| 1.0 / freq).collect();
        let tokens = length(offsets.len(), "rotation")?;
        let magnitudes: Vec<f32> = positions
            .iter()
            .map(|&position| magnitude(position))
            .collect();
        let plain = magnitudes.iter().all(|&magnitude| magnitude == 1.0);
        Ok(Rotation {
            offsets: Array::from_slice(&offsets, &[tokens]),
            frequencies: Array::from_slice(&frequencies, &[dimensions / 2]),
            dimensions,
            magnitudes: (!plain).then(|| Array::from_slice(&magnitudes, &[tokens, 1, 1])),
        })
    }

    fn rotate(&self, x: Array, rotation: &Rotation) -> Result<Array, BackendError> {
        let rotate = || {
            let grown;
            let x = match &rotation.magnitudes {
                None => &x,
                Some(magnitudes) => {
                    grown = activation::multiply_first(&x, rotation.dimensions, magnitudes)?;
                    &grown
                }
            };
            // Each token as a sequence of its own, one long: its offset is
            // its position. [T, heads, 1, head_dim].
            let rotated = fast::rope_dynamic(
                x.expand_dims(2)?,
                rotation.dimensions,
                false,
                None,
                1.0,
                &rotation.offsets,
                &rotation.frequencies,
            )?;
            rotated.squeeze_axes(&[2])
        };
        rotate().map_err(failed("rotate"))
    }

    fn kv(&self, kv_heads: usize, head_dim: usize) -> Result<Kv, BackendError> {
        Ok(Kv::new(length(kv_heads, "kv")?, length(head_dim, "kv")?))
    }

    fn fork_kv(&self, kv: &Kv, len: usize) -> Result<Kv, BackendError> {
        let fork = kv.fork(length(len, "fork_kv")?, &self.memory)?;
        // At once, so that the copy does not hold on to the buffers that the
        // original is to write into in place.
        let started = async_eval(fork.arrays());
        self.memory.evaluated();
        started.map_err(failed("fork_kv"))?;
        Ok(fork)
    }

    fn read_kv(&self, kv: &Kv, len: usize) -> Result<RawKv, BackendError> {
        let rows = kv.export(length(len, "read_kv")?, &self.memory);
        let evaluated = rows.and_then(|(keys, values)| {
            eval([&keys, &values]).map_err(failed("read_kv"))?;
            Ok((keys, values))
        });
        self.memory.evaluated();
        let (keys, values) = evaluated?;
        Ok(RawKv {
            keys: to_raw(&keys, "read_kv")?,
            values: to_raw(&values, "read_kv")?,
        })
    }

    fn write_kv(&self, kv: &mut Kv, raw: &RawKv) -> Result<(), BackendError> {
        let keys = from_raw(&raw.keys, &self.memory)?;
        let values = from_raw(&raw.values, &self.memory)?;
        let appended = kv.import(&keys, &values, &self.memory);
        // At once, so that what was read is not held on to beside its copy.
        let written = appended.and_then(|()| eval(kv.arrays()).map_err(failed("write_kv")));
        self.memory.evaluated();
        written
    }

    fn attention(
        &self,
        q: &Array,
        k: &Array,
        v: &Array,
        spans: &mut [Span<'_, Kv>],
        settings: &AttentionSettings<'_, Array>,
    ) -> Result<Array, BackendError> {
        attention::ragged(q, k, v, spans, settings, &self.memory)
    }

    fn causal_conv(
        &self,
        x: &Array,
        weight: &Array,
        silu: bool,
        spans: &mut [StateSpan<'_, Array>],
    ) -> Result<Array, BackendError> {
        states::causal_conv(x, weight, silu, spans).map_err(failed("causal_conv"))
    }

    fn gated_delta(
        &self,
        q: &Array,
        k: &Array,
        v: &Array,
        gates: &DeltaGates<'_, Array>,
        spans: &mut [StateSpan<'_, Array>],
    ) -> Result<Array, BackendError> {
        states::gated_delta(q, k, v, gates, spans, &self.deltas, &self.memory)
    }

    fn columns(&self, x: &Array, range: Range<usize>) -> Result<Array, BackendError> {
        states::columns(x, range).map_err(failed("columns"))
    }

    fn multiply(&self, a: &Array, b: &Array) -> Result<Array, BackendError> {
        a.multiply(b).map_err(failed("multiply"))
    }

    fn add(&self, a: Array, b: &Array) -> Result<Array, BackendError> {
        // An adapter's products are of its own type.
        b.as_dtype(a.dtype())
            .and_then(|b| a.add(b))
            .map_err(failed("add"))
    }

    fn shift(&self, x: Array, offset: f32) -> Result<Array, BackendError> {
        activation::shift(&x, offset).map_err(failed("shift"))
    }

    fn scale(&self, x: Array, factor: f32) -> Result<Array, BackendError> {
        activation::scale(&x, factor).map_err(failed("scale"))
    }

    fn softcap(&self, x: Array, cap: f32) -> Result<Array, BackendError> {
        activation::softcap(&x, cap).map_err(failed("softcap"))
    }

    fn gated(
        &self,
        gate: &Array,
        up: &Array,
        activation: Activation,
    ) -> Result<Array, BackendError> {
        self.activations
            .gated(gate, up, activation)
            .map_err(failed("gated"))
    }

    fn sigmoid_gate(&self, x: &Array, gate: &Array) -> Result<Array, BackendError> {
        ops::sigmoid(gate)
            .and_then(|gate| x.multiply(gate))
            .map_err(failed("sigmoid_gate"))
    }

    fn mix_experts(
        &self,
        x: &Array,
        router: &Array,
        experts: &Experts,
        top_k: usize,
        renormalize: bool,
    ) -> Result<Array, BackendError> {
        let top_k = length(top_k, "mix_experts")?;
        experts
            .mix(x, router, top_k, renormalize, &self.activations)
            .map_err(failed("mix_experts"))
    }

    fn select_rows(&self, x: &Array, rows: &[u32]) -> Result<Array, BackendError> {
        let count = length(rows.len(), "select_rows")?;
        let select = || match rows {
            // Decoding: every row, as they are.
            _ if rows.len() == x.dim(0) as usize && rows.iter().zip(0..).all(|(a, b)| *a == b) => {
                Ok(x.clone())
            }
            &[row] => x.try_index((row as i32..row as i32 + 1, ..)),
            rows => take_axis(x, Array::from_slice(rows, &[count]), 0),
        };
        select().map_err(failed("select_rows"))
    }

    fn sample(&self, logits: &Array, draws: &[Draw]) -> Result<Tokens, BackendError> {
        sampling::sample(logits, draws).map_err(failed("sample"))
    }

    fn start(&self, tensors: &[&Array], tokens: &[&Tokens]) -> Result<(), BackendError> {
        let tokens = tokens.iter().flat_map(|tokens| tokens.arrays());
        let started = async_eval(tensors.iter().copied().chain(tokens));
        self.memory.evaluated();
        started.map_err(failed("start"))
    }

    fn wait(&self, x: &Array) -> Result<(), BackendError> {
        eval([x]).map_err(failed("wait"))
    }

    fn read(&self, x: &Array) -> Result<Vec<f32>, BackendError> {
        let read = || {
            let x = x.as_type::<f32>()?.contiguous()?;
            eval([&x])?;
            Ok(x)
        };
        let x = read().map_err(failed("read"))?;
        x.to_vec_exact::<f32>().map_err(|error| BackendError {
            op: "read",
            reason: error.to_string(),
        })
    }

    fn read_tokens(&self, tokens: &Tokens) -> Result<ShortList<Option<u32>>, BackendError> {
        tokens.read()
    }
}

#[cfg(test)]
mod tests;
