//! candle: the backend for GPUs where there is no MLX, out of candle's tensor
//! operations. Weights become candle tensors in the device's own type. It
//! would run on the CPU as well, and does in tests; programs have
//! `super::cpu` there.

mod activation;
mod attention;
mod experts;
mod states;
mod weights;

use std::cell::RefCell;
use std::num::NonZero;
use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use candle_nn::ops;
use half::{bf16, f16};

use super::samplers::{self, Samplers};
use super::threads::{self, Threads};
use super::{
    Activation, AttentionSettings, Backend, BackendError, DeltaGates, Draw, Dtype, ExpertWeights,
    MatrixWeights, MemoryUse, RawKv, RawTensor, ShortList, Span, StateSpan, TokenSource,
};
use attention::Kv;
use experts::Experts;
use weights::Matrix;

/// candle on one device.
pub struct Candle {
    device: Device,
    /// The type of activations and of the KV cache.
    dtype: DType,
    /// Of the host, for what is done there.
    threads: Threads,
    samplers: RefCell<Samplers>,
}

/// The cosines and sines of a step's tokens, `[T, rotated / 2]` each.
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Candle {
    /// The GPU this build knows: CUDA or Metal where the features of the same
    /// names are compiled in, or `None`. So many threads do the host's part;
    /// without a number as many as the machine has cores.
    ///
    /// # Errors
    /// If a GPU that is compiled in cannot be opened.
    pub fn on_gpu(threads: Option<NonZero<usize>>) -> Result<Option<Self>, BackendError> {
        let device = if candle_core::utils::cuda_is_available() {
            Device::new_cuda(0).map_err(failed("start"))?
        } else if candle_core::utils::metal_is_available() {
            Device::new_metal(0).map_err(failed("start"))?
        } else {
            return Ok(None);
        };
        let threads = threads.unwrap_or_else(threads::of_machine);
        Ok(Some(Self::on(device, DType::F16, threads)))
    }

    /// candle on `device`.
    pub(super) fn on(device: Device, dtype: DType, threads: NonZero<usize>) -> Self {
        Self {
            device,
            dtype,
            threads: Threads::new(threads),
            samplers: RefCell::default(),
        }
    }
}

/// Names the operation in an error of candle's.
fn failed(op: &'static str) -> impl Fn(candle_core::Error) -> BackendError {
    move |error| BackendError {
        op,
        reason: error.to_string(),
    }
}

/// A stored floating-point tensor on `device`, in the type it is stored in.
fn dense(raw: &RawTensor, device: &Device) -> candle_core::Result<Tensor> {
    let dtype = match raw.dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::BF16,
        Dtype::U32 => DType::U32,
        Dtype::U8 => DType::U8,
    };
    Tensor::from_raw_buffer(&raw.bytes, dtype, &raw.shape, device)
}

/// What [`dense`] makes the same tensor of.
fn stored(tensor: &Tensor) -> candle_core::Result<RawTensor> {
    fn bytes<T: candle_core::WithDType + bytemuck::Pod>(
        tensor: &Tensor,
    ) -> candle_core::Result<Vec<u8>> {
        let elements = tensor.flatten_all()?.to_vec1::<T>()?;
        Ok(bytemuck::cast_slice(&elements).to_vec())
    }
    let (dtype, bytes) = match tensor.dtype() {
        DType::F32 => (Dtype::F32, bytes::<f32>(tensor)?),
        DType::F16 => (Dtype::F16, bytes::<f16>(tensor)?),
        DType::BF16 => (Dtype::Bf16, bytes::<bf16>(tensor)?),
        other => candle_core::bail!("elements of type {other:?} are not stored"),
    };
    Ok(RawTensor {
        dtype,
        shape: tensor.dims().to_vec(),
        bytes: bytes.into(),
    })
}

impl Backend for Candle {
    type Tensor = Tensor;
    type Matrix = Matrix;
    type Experts = Experts;
    type Tokens = ShortList<u32>;
    type Rotation = Rotation;
    type Kv = Kv;

    /// On a GPU operations do run in the background, but tokens are drawn on
    /// the CPU, so that no step can begin before the one before it is over.
    const OVERLAPS: bool = false;

    fn name(&self) -> &'static str {
        "candle"
    }

    fn describe(&self) -> String {
        match &self.device {
            Device::Cpu => "candle on the CPU".to_owned(),
            Device::Cuda(_) => "candle on CUDA".to_owned(),
            Device::Metal(_) => "candle on Metal".to_owned(),
        }
    }

    fn threads(&self) -> usize {
        self.threads.count()
    }

    fn loaded(&self) -> Result<(), BackendError> {
        Ok(())
    }

    fn memory(&self) -> Option<MemoryUse> {
        None
    }

    fn element_type(&self, x: &Tensor) -> Dtype {
        match x.dtype() {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::Bf16,
            // No activation is of another type.
            _ => Dtype::F32,
        }
    }

    fn parameter(&self, raw: &RawTensor) -> Result<Tensor, BackendError> {
        dense(raw, &self.device)
            .and_then(|tensor| tensor.to_dtype(self.dtype))
            .map_err(failed("parameter"))
    }

    fn matrix(&self, weights: MatrixWeights) -> Result<Matrix, BackendError> {
        Matrix::load(weights, self).map_err(failed("matrix"))
    }

    fn experts(&self, weights: ExpertWeights) -> Result<Experts, BackendError> {
        Experts::load(&weights, self).map_err(failed("experts"))
    }

    fn embed(
        &self,
        table: &Matrix,
        ids: &[TokenSource<'_, ShortList<u32>>],
    ) -> Result<Tensor, BackendError> {
        let mut fed = Vec::new();
        samplers::fed_on(ids, &mut fed);
        table
            .rows(&fed, &self.device, self.dtype)
            .map_err(failed("embed"))
    }

    fn project(&self, x: &Tensor, weight: &Matrix) -> Result<Tensor, BackendError> {
        weight.project(x).map_err(failed("project"))
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor, BackendError> {
        ops::rms_norm(x, weight, eps).map_err(failed("rms_norm"))
    }

    fn split_heads(&self, x: Tensor, heads: usize) -> Result<Tensor, BackendError> {
        let split = || {
            let (tokens, width) = x.dims2()?;
            x.reshape((tokens, heads, width / heads))
        };
        split().map_err(failed("split_heads"))
    }

    fn merge_heads(&self, x: Tensor) -> Result<Tensor, BackendError> {
        x.flatten_from(1).map_err(failed("merge_heads"))
    }

    fn rotation(
        &self,
        positions: &[u32],
        inv_freq: &[f32],
        magnitude: impl Fn(u32) -> f32,
    ) -> Result<Rotation, BackendError> {
        // In f64 and in one pass: at long positions an f32 product of
        // position and frequency is off by more than the angle's own step.
        let angles = |f: fn(f64) -> f64| {
            let values: Vec<f32> = positions
                .iter()
                .flat_map(|&position| {
                    let magnitude = f64::from(magnitude(position));
                    let position = f64::from(position);
                    inv_freq
                        .iter()
                        .map(move |&freq| (f(position * f64::from(freq)) * magnitude) as f32)
                })
                .collect();
            Tensor::from_vec(values, (positions.len(), inv_freq.len()), &self.device)?
                .to_dtype(self.dtype)
        };
        let both = || {
            Ok(Rotation {
                cos: angles(f64::cos)?,
                sin: angles(f64::sin)?,
            })
        };
        both().map_err(failed("rotation"))
    }

    fn rotate(&self, x: Tensor, rotation: &Rotation) -> Result<Tensor, BackendError> {
        let rotate = || {
            let (rotated, width) = (2 * rotation.cos.dim(1)?, x.dim(2)?);
            let first = x.narrow(2, 0, rotated)?.contiguous()?.unsqueeze(0)?;
            let first = candle_nn::rotary_emb::rope_thd(&first, &rotation.cos, &rotation.sin)?
                .squeeze(0)?;
            match width - rotated {
                0 => Ok(first),
                rest => Tensor::cat(&[&first, &x.narrow(2, rotated, rest)?], 2),
            }
        };
        rotate().map_err(failed("rotate"))
    }

    fn kv(&self, kv_heads: usize, head_dim: usize) -> Result<Kv, BackendError> {
        Ok(Kv::new(kv_heads, head_dim))
    }

    fn fork_kv(&self, kv: &Kv, len: usize) -> Result<Kv, BackendError> {
        kv.fork(len).map_err(failed("fork_kv"))
    }

    fn read_kv(&self, kv: &Kv, len: usize) -> Result<RawKv, BackendError> {
        let read = || {
            let (keys, values) = kv.export(len)?;
            Ok(RawKv {
                keys: stored(&keys)?,
                values: stored(&values)?,
            })
        };
        read().map_err(failed("read_kv"))
    }

    fn write_kv(&self, kv: &mut Kv, raw: &RawKv) -> Result<(), BackendError> {
        let tensor = |raw: &RawTensor| {
            let tensor = dense(raw, &self.device)?;
            if tensor.dtype() != self.dtype {
                candle_core::bail!("{:?} where {:?} is kept", tensor.dtype(), self.dtype);
            }
            Ok(tensor)
        };
        let mut write = || kv.import(&tensor(&raw.keys)?, &tensor(&raw.values)?);
        write().map_err(failed("write_kv"))
    }

    fn attention(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spans: &mut [Span<'_, Kv>],
        settings: &AttentionSettings<'_, Tensor>,
    ) -> Result<Tensor, BackendError> {
        attention::attention(q, k, v, spans, settings).map_err(failed("attention"))
    }

    fn causal_conv(
        &self,
        x: &Tensor,
        weight: &Tensor,
        silu: bool,
        spans: &mut [StateSpan<'_, Tensor>],
    ) -> Result<Tensor, BackendError> {
        states::causal_conv(x, weight, silu, spans).map_err(failed("causal_conv"))
    }

    fn gated_delta(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        gates: &DeltaGates<'_, Tensor>,
        spans: &mut [StateSpan<'_, Tensor>],
    ) -> Result<Tensor, BackendError> {
        states::gated_delta(q, k, v, gates, spans).map_err(failed("gated_delta"))
    }

    fn columns(&self, x: &Tensor, range: Range<usize>) -> Result<Tensor, BackendError> {
        states::columns(x, range).map_err(failed("columns"))
    }

    fn multiply(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, BackendError> {
        a.mul(b).map_err(failed("multiply"))
    }

    fn add(&self, a: Tensor, b: &Tensor) -> Result<Tensor, BackendError> {
        let sum = match b.rank() {
            1 => a.broadcast_add(b),
            _ => a.add(b),
        };
        sum.map_err(failed("add"))
    }

    fn shift(&self, x: Tensor, offset: f32) -> Result<Tensor, BackendError> {
        (x + f64::from(offset)).map_err(failed("shift"))
    }

    fn scale(&self, x: Tensor, factor: f32) -> Result<Tensor, BackendError> {
        (x * f64::from(factor)).map_err(failed("scale"))
    }

    fn softcap(&self, x: Tensor, cap: f32) -> Result<Tensor, BackendError> {
        activation::softcap(&x, cap).map_err(failed("softcap"))
    }

    fn gated(
        &self,
        gate: &Tensor,
        up: &Tensor,
        activation: Activation,
    ) -> Result<Tensor, BackendError> {
        activation::gated(gate, up, activation).map_err(failed("gated"))
    }

    fn sigmoid_gate(&self, x: &Tensor, gate: &Tensor) -> Result<Tensor, BackendError> {
        ops::sigmoid(gate)
            .and_then(|gate| x.broadcast_mul(&gate))
            .map_err(failed("sigmoid_gate"))
    }

    fn mix_experts(
        &self,
        x: &Tensor,
        router: &Tensor,
        experts: &Experts,
        top_k: usize,
        renormalize: bool,
    ) -> Result<Tensor, BackendError> {
        experts
            .mix(x, router, top_k, renormalize)
            .map_err(failed("mix_experts"))
    }

    fn select_rows(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor, BackendError> {
        Tensor::new(rows, &self.device)
            .and_then(|rows| x.index_select(&rows, 0))
            .map_err(failed("select_rows"))
    }

    fn sample(&self, logits: &Tensor, draws: &[Draw]) -> Result<ShortList<u32>, BackendError> {
        let sample = || {
            let (_, vocabulary) = logits.dims2()?;
            let logits: Vec<f32> = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
            let mut samplers = self.samplers.borrow_mut();
            samplers
                .sample(&self.threads, &logits, vocabulary, draws)
                .map_err(candle_core::Error::msg)
        };
        sample().map_err(failed("sample"))
    }

    fn start(&self, _: &[&Tensor], _: &[&ShortList<u32>]) -> Result<(), BackendError> {
        Ok(())
    }

    fn wait(&self, _: &Tensor) -> Result<(), BackendError> {
        self.device.synchronize().map_err(failed("wait"))
    }

    fn read_tokens(&self, tokens: &ShortList<u32>) -> Result<ShortList<Option<u32>>, BackendError> {
        Ok(samplers::drawn(tokens))
    }

    fn read(&self, x: &Tensor) -> Result<Vec<f32>, BackendError> {
        x.to_dtype(DType::F32)
            .and_then(|x| x.flatten_all()?.to_vec1())
            .map_err(failed("read"))
    }
}
