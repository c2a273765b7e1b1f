//! The CPU, by kernels of our own: the backend for machines without a GPU.
//!
//! Activations are `f32`. Four- and eight-bit weights are repacked for integer
//! products (`tiles`), with activations rounded to eight bits; others stay
//! where the file was mapped, bf16 ones for products with activations of their
//! type (`bf16`), the rest packed (`product`). Keys and values are kept in
//! pages that sequences share (`attention`). What several operations would read
//! and write one after the other is done on one way through: a sum, its norm
//! and the rounding of it (`linear`), the norms and rotations of heads
//! (`heads`). What a step's operations need is used again by the next ones
//! (`array`), and all threads work on one operation at a time
//! (`super::threads`).

mod array;
mod attention;
mod bf16;
mod elementwise;
mod experts;
mod heads;
mod linear;
mod memory;
mod product;
mod states;
mod tiles;
mod weights;

use std::cell::RefCell;
use std::num::NonZero;
use std::ops::Range;
use std::rc::Rc;

use super::samplers::{self, Samplers};
use super::threads::{self, Threads};
use super::{
    Activation, AttentionSettings, Backend, BackendError, DeltaGates, Draw, Dtype, ExpertWeights,
    MatrixWeights, MemoryUse, RawKv, RawTensor, ShortList, Span, StateSpan, TokenSource,
};
pub use array::Array;
use array::{Pool, Shape};
pub use attention::Kv;
use attention::KvElement;
pub use experts::Experts;
pub use heads::Rotation;
pub use weights::Matrix;

/// What comes of an operation, or why it cannot be done.
type Result<T, E = String> = std::result::Result<T, E>;

/// How four- and eight-bit weights and bf16 ones meet activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// Activations are rounded to eight bits, a scale for each group, or to
    /// bf16, where the machine has instructions that gain by it.
    Rounded,
    /// Weights are unpacked to `f32`.
    F32,
}

/// The CPU.
pub struct Cpu {
    products: Products,
    threads: Threads,
    pool: Rc<Pool>,
    scratch: RefCell<weights::Scratch>,
    attention: RefCell<attention::Scratch>,
    routing: RefCell<experts::Routing>,
    /// The token ids of a step.
    fed: RefCell<Vec<u32>>,
    samplers: RefCell<Samplers>,
}

/// Names the operation in an error.
fn failed(op: &'static str) -> impl Fn(String) -> BackendError {
    move |reason| BackendError { op, reason }
}

/// Whether both have the same shape.
fn same_shape(a: &Array, b: &Array) -> Result<()> {
    match a.shape() == b.shape() {
        true => Ok(()),
        false => Err(format!("{:?} beside {:?}", a.shape(), b.shape())),
    }
}

impl Cpu {
    /// The CPU with so many threads; without a number as many as the machine
    /// has cores.
    pub fn start(products: Products, threads: Option<NonZero<usize>>) -> Self {
        Self {
            products,
            threads: Threads::new(threads.unwrap_or_else(threads::of_machine)),
            pool: Rc::default(),
            scratch: RefCell::default(),
            attention: RefCell::default(),
            routing: RefCell::default(),
            fed: RefCell::default(),
            samplers: RefCell::default(),
        }
    }

    /// What keys and values are kept in.
    fn kv_element(&self) -> KvElement {
        match self.products {
            Products::Rounded => KvElement::F16,
            Products::F32 => KvElement::F32,
        }
    }

    /// A stored floating-point tensor.
    fn stored(&self, raw: &RawTensor) -> Result<Array> {
        Ok(self.pool.filled(Shape::new(&raw.shape)?, &raw.to_f32()?))
    }

    fn gated_of(&self, gate: &Array, up: &Array, activation: Activation) -> Result<Array> {
        same_shape(gate, up)?;
        let mut out = self.pool.array(Shape::new(gate.shape())?);
        elementwise::gated(&self.threads, gate, up, activation, out.own());
        Ok(out)
    }

    /// `a += b`, `b` of its shape or one row.
    fn add_to(&self, a: &mut Array, b: &Array) -> Result<()> {
        if a.shape() == b.shape() {
            elementwise::add(&self.threads, a.own(), b);
        } else if b.shape().len() == 1 && a.shape().last() == b.shape().last() {
            elementwise::add_row(&self.threads, a.own(), b);
        } else {
            same_shape(a, b)?;
        }
        Ok(())
    }
}

impl Backend for Cpu {
    type Tensor = Array;
    type Matrix = Matrix;
    type Experts = Experts;
    type Tokens = ShortList<u32>;
    type Rotation = Rotation;
    type Kv = Kv;

    const OVERLAPS: bool = false;

    fn name(&self) -> &'static str {
        match self.products {
            Products::Rounded => "cpu",
            Products::F32 => "cpu-f32",
        }
    }

    fn describe(&self) -> String {
        match self.threads.count() {
            1 => "the CPU, 1 thread".to_owned(),
            count => format!("the CPU, {count} threads"),
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

    fn element_type(&self, _: &Array) -> Dtype {
        Dtype::F32
    }

    fn kv_type(&self, _: &Array) -> Dtype {
        match self.kv_element() {
            KvElement::F16 => Dtype::F16,
            KvElement::F32 => Dtype::F32,
        }
    }

    fn parameter(&self, raw: &RawTensor) -> Result<Array, BackendError> {
        self.stored(raw).map_err(failed("parameter"))
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
    ) -> Result<Array, BackendError> {
        let mut fed = self.fed.borrow_mut();
        samplers::fed_on(ids, &mut fed);
        let ids = fed.as_slice();
        let (count, columns) = (table.count(), table.columns());
        if let Some(id) = ids.iter().find(|&&id| id as usize >= count) {
            return Err(failed("embed")(format!("row {id} of a table of {count}")));
        }
        let mut rows = self.pool.array([ids.len(), columns]);
        self.threads
            .for_each_chunk(rows.own(), columns, |place, out| {
                table.unpack(ids[place] as usize, out);
            });
        Ok(rows)
    }

    fn project(&self, x: &Array, weight: &Matrix) -> Result<Array, BackendError> {
        self.product(x, weight).map_err(failed("project"))
    }

    fn project_each<const N: usize>(
        &self,
        x: &Array,
        weights: [&Matrix; N],
    ) -> Result<[Array; N], BackendError> {
        self.products_of(x, weights).map_err(failed("project_each"))
    }

    fn project_gated(
        &self,
        x: &Array,
        gate: &Matrix,
        up: &Matrix,
        activation: Activation,
    ) -> Result<Array, BackendError> {
        self.gated_product(x, gate, up, activation)
            .map_err(failed("project_gated"))
    }

    fn rms_norm(&self, x: &Array, weight: &Array, eps: f32) -> Result<Array, BackendError> {
        let norm = || {
            if x.shape().last() != weight.shape().last() || weight.shape().len() != 1 {
                same_shape(x, weight)?;
            }
            let mut out = self.pool.array(Shape::new(x.shape())?);
            elementwise::rms_norm(&self.threads, x, weight, eps, out.own());
            Ok(out)
        };
        norm().map_err(failed("rms_norm"))
    }

    fn add_norm(
        &self,
        x: Array,
        said: &Array,
        weight: &Array,
        eps: f32,
    ) -> Result<(Array, Array), BackendError> {
        let rounded = self.add_norm_rounded(&x, said, weight, eps);
        if let Some(both) = rounded.map_err(failed("add_norm"))? {
            return Ok(both);
        }
        let sum = self.add(x, said)?;
        let normed = self.rms_norm(&sum, weight, eps)?;
        Ok((sum, normed))
    }

    fn split_heads(&self, x: Array, heads: usize) -> Result<Array, BackendError> {
        let split = || {
            let (tokens, width) = x.rows_and_columns()?;
            x.reshaped([tokens, heads, width / heads])
        };
        split().map_err(failed("split_heads"))
    }

    fn merge_heads(&self, x: Array) -> Result<Array, BackendError> {
        let merge = || {
            let (tokens, heads, width) = x.heads()?;
            x.reshaped([tokens, heads * width])
        };
        merge().map_err(failed("merge_heads"))
    }

    fn rotation(
        &self,
        positions: &[u32],
        inv_freq: &[f32],
        magnitude: impl Fn(u32) -> f32,
    ) -> Result<Rotation, BackendError> {
        Ok(Rotation::new(self, positions, inv_freq, magnitude))
    }

    fn rotate(&self, x: Array, rotation: &Rotation) -> Result<Array, BackendError> {
        let ready = self.ready([x], [None], 0.0, [Some(rotation)]);
        let [x] = ready.map_err(failed("rotate"))?;
        Ok(x)
    }

    fn norm_rotate(
        &self,
        heads: [Array; 2],
        norms: Option<[&Array; 2]>,
        eps: f32,
        rotations: Option<[&Rotation; 2]>,
    ) -> Result<[Array; 2], BackendError> {
        let norms = norms.map_or([None; 2], |norms| norms.map(Some));
        let rotations = rotations.map_or([None; 2], |rotations| rotations.map(Some));
        self.ready(heads, norms, eps, rotations)
            .map_err(failed("norm_rotate"))
    }

    fn kv(&self, kv_heads: usize, head_dim: usize) -> Result<Kv, BackendError> {
        Ok(Kv::new(kv_heads, head_dim, self.kv_element()))
    }

    fn fork_kv(&self, kv: &Kv, len: usize) -> Result<Kv, BackendError> {
        Ok(kv.fork(len))
    }

    fn read_kv(&self, kv: &Kv, len: usize) -> Result<RawKv, BackendError> {
        kv.export(len).map_err(failed("read_kv"))
    }

    fn write_kv(&self, kv: &mut Kv, raw: &RawKv) -> Result<(), BackendError> {
        kv.import(raw).map_err(failed("write_kv"))
    }

    fn attention(
        &self,
        q: &Array,
        k: &Array,
        v: &Array,
        spans: &mut [Span<'_, Kv>],
        settings: &AttentionSettings<'_, Array>,
    ) -> Result<Array, BackendError> {
        let mut attend = || {
            let (tokens, heads, head_dim) = q.heads()?;
            let (_, kv_heads, _) = k.heads()?;
            let spanned: usize = spans.iter().map(|span| span.tokens).sum();
            let fits = k.shape() == [tokens, kv_heads, head_dim]
                && v.shape() == k.shape()
                && kv_heads > 0
                && heads % kv_heads == 0
                && spanned == tokens;
            if !fits {
                return Err(format!(
                    "queries {:?}, keys {:?} and values {:?} for {spanned} rows",
                    q.shape(),
                    k.shape(),
                    v.shape()
                ));
            }
            let mut out = self.pool.array([tokens, heads * head_dim]);
            let settings = attention::Settings {
                scale: settings.scale,
                softcap: settings.softcap,
                window: settings.window,
                sinks: settings.sinks.map(|sinks| &**sinks),
            };
            attention::attention(
                &self.threads,
                &mut self.attention.borrow_mut(),
                (q, k, v),
                (heads, head_dim),
                spans,
                &settings,
                out.own(),
            );
            Ok(out)
        };
        attend().map_err(failed("attention"))
    }

    fn causal_conv(
        &self,
        x: &Array,
        weight: &Array,
        silu: bool,
        spans: &mut [StateSpan<'_, Array>],
    ) -> Result<Array, BackendError> {
        states::causal_conv(self, x, weight, silu, spans).map_err(failed("causal_conv"))
    }

    fn gated_delta(
        &self,
        q: &Array,
        k: &Array,
        v: &Array,
        gates: &DeltaGates<'_, Array>,
        spans: &mut [StateSpan<'_, Array>],
    ) -> Result<Array, BackendError> {
        states::gated_delta(self, q, k, v, gates, spans).map_err(failed("gated_delta"))
    }

    fn columns(&self, x: &Array, range: Range<usize>) -> Result<Array, BackendError> {
        let columns = || {
            let (rows, width) = x.rows_and_columns()?;
            if range.is_empty() || range.end > width {
                return Err(format!("columns {range:?} of {width}"));
            }
            let mut out = self.pool.array([rows, range.len()]);
            let parts = out.own().chunks_exact_mut(range.len());
            for (out, row) in parts.zip(x.chunks_exact(width)) {
                out.copy_from_slice(&row[range.clone()]);
            }
            Ok(out)
        };
        columns().map_err(failed("columns"))
    }

    fn multiply(&self, a: &Array, b: &Array) -> Result<Array, BackendError> {
        same_shape(a, b).map_err(failed("multiply"))?;
        let shape = Shape::new(a.shape()).map_err(failed("multiply"))?;
        let mut out = self.pool.array(shape);
        elementwise::multiply(&self.threads, a, b, out.own());
        Ok(out)
    }

    fn add(&self, mut a: Array, b: &Array) -> Result<Array, BackendError> {
        self.add_to(&mut a, b).map_err(failed("add"))?;
        Ok(a)
    }

    fn shift(&self, mut x: Array, offset: f32) -> Result<Array, BackendError> {
        elementwise::map(&self.threads, x.own(), |x| x + offset);
        Ok(x)
    }

    fn scale(&self, mut x: Array, factor: f32) -> Result<Array, BackendError> {
        elementwise::map(&self.threads, x.own(), |x| x * factor);
        Ok(x)
    }

    fn softcap(&self, mut x: Array, cap: f32) -> Result<Array, BackendError> {
        elementwise::map(&self.threads, x.own(), |x| elementwise::capped(x, cap));
        Ok(x)
    }

    fn gated(
        &self,
        gate: &Array,
        up: &Array,
        activation: Activation,
    ) -> Result<Array, BackendError> {
        self.gated_of(gate, up, activation).map_err(failed("gated"))
    }

    fn sigmoid_gate(&self, x: &Array, gate: &Array) -> Result<Array, BackendError> {
        let gated = || {
            let (rows, width) = x.rows_and_columns()?;
            if gate.shape() != [rows, 1] {
                same_shape(x, gate)?;
            }
            let mut out = self.pool.array([rows, width]);
            elementwise::sigmoid_gate(&self.threads, x, gate, width, out.own());
            Ok(out)
        };
        gated().map_err(failed("sigmoid_gate"))
    }

    fn mix_experts(
        &self,
        x: &Array,
        router: &Array,
        experts: &Experts,
        top_k: usize,
        renormalize: bool,
    ) -> Result<Array, BackendError> {
        experts
            .mix(self, x, router, top_k, renormalize)
            .map_err(failed("mix_experts"))
    }

    fn select_rows(&self, x: &Array, rows: &[u32]) -> Result<Array, BackendError> {
        let select = || {
            let (count, width) = x.rows_and_columns()?;
            let mut out = self.pool.array([rows.len(), width]);
            let parts = out.own().chunks_exact_mut(width);
            for (out, &row) in parts.zip(rows) {
                if row as usize >= count {
                    return Err(format!("row {row} of {count}"));
                }
                out.copy_from_slice(&x[row as usize * width..][..width]);
            }
            Ok(out)
        };
        select().map_err(failed("select_rows"))
    }

    fn sample(&self, logits: &Array, draws: &[Draw]) -> Result<ShortList<u32>, BackendError> {
        let sample = || {
            let (_, vocabulary) = logits.rows_and_columns()?;
            let mut samplers = self.samplers.borrow_mut();
            samplers.sample(&self.threads, logits, vocabulary, draws)
        };
        sample().map_err(failed("sample"))
    }

    fn start(&self, _: &[&Array], _: &[&ShortList<u32>]) -> Result<(), BackendError> {
        Ok(())
    }

    fn wait(&self, _: &Array) -> Result<(), BackendError> {
        Ok(())
    }

    fn read(&self, x: &Array) -> Result<Vec<f32>, BackendError> {
        Ok(x.to_vec())
    }

    fn read_tokens(&self, tokens: &ShortList<u32>) -> Result<ShortList<Option<u32>>, BackendError> {
        Ok(samplers::drawn(tokens))
    }
}
