//! Weight matrices on the CPU: products with activations, and rows of the
//! table that embeds tokens.
//!
//! Four- and eight-bit weights are repacked into tiles for integer products.
//! Others stay where the file was mapped: bf16 ones meet activations of their
//! own type where the processor multiplies such numbers, and rows of the rest
//! are unpacked on the way into a product. Either way a model takes the memory
//! of its file.

use super::bf16::{self, Bf16Rows, RoundedBf16};
use super::elementwise::activate;
use super::tiles::{self, Normed, Rounded, Scales, Stored, Tiles};
use super::{Array, Cpu, Products, Result, product};
use crate::backend::packed::PackedRows;
use crate::backend::threads::Threads;
use crate::backend::{Activation, Dtype, MatrixWeights};

/// A weight matrix `[out, in]`.
pub struct Matrix(Rows);

enum Rows {
    /// For integer products.
    Tiles(Tiles),
    /// For products of bf16.
    Bf16(Bf16Rows),
    /// As it is stored.
    Packed(PackedRows),
}

impl Matrix {
    pub(super) fn load(weights: MatrixWeights, cpu: &Cpu) -> Result<Self> {
        let tiles = match cpu.products {
            Products::Rounded if tiles::are_fast() => in_tiles(&weights, &cpu.threads),
            _ => None,
        };
        if let (Products::Rounded, true) = (cpu.products, bf16::are_fast())
            && let Some(rows) = in_bf16(&weights)
        {
            return Ok(Self(Rows::Bf16(rows)));
        }
        Ok(Self(match tiles {
            Some(tiles) => Rows::Tiles(tiles),
            None => Rows::Packed(PackedRows::new(weights)?),
        }))
    }

    /// `out`.
    pub(super) fn count(&self) -> usize {
        match &self.0 {
            Rows::Tiles(tiles) => tiles.count,
            Rows::Bf16(rows) => rows.count(),
            Rows::Packed(rows) => rows.count,
        }
    }

    /// `in`.
    pub(super) fn columns(&self) -> usize {
        match &self.0 {
            Rows::Tiles(tiles) => tiles.columns,
            Rows::Bf16(rows) => rows.columns(),
            Rows::Packed(rows) => rows.columns,
        }
    }

    /// Row `row` into `out`, which is as long as there are columns. There is
    /// such a row.
    pub(super) fn unpack(&self, row: usize, out: &mut [f32]) {
        match &self.0 {
            Rows::Tiles(tiles) => tiles.unpack(row, out),
            Rows::Bf16(rows) => rows.unpack(row, out),
            Rows::Packed(rows) => rows.unpack(row, out),
        }
    }
}

/// The weights for products of bf16, if they are of that type.
fn in_bf16(weights: &MatrixWeights) -> Option<Bf16Rows> {
    match weights {
        MatrixWeights::Dense(raw) if raw.dtype == Dtype::Bf16 => match raw.shape[..] {
            [count, columns] => Bf16Rows::new(count, columns, raw.bytes.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// The weights in tiles, where there are such for their kind.
fn in_tiles(weights: &MatrixWeights, threads: &Threads) -> Option<Tiles> {
    let MatrixWeights::Affine {
        packed,
        scales,
        biases,
        group_size,
        bits,
    } = weights
    else {
        return None;
    };
    let scales_are = match (scales.dtype, biases.dtype) {
        (Dtype::Bf16, Dtype::Bf16) => Scales::Bf16,
        (Dtype::F16, Dtype::F16) => Scales::F16,
        (Dtype::F32, Dtype::F32) => Scales::F32,
        _ => return None,
    };
    let [count, words] = packed.shape[..] else {
        return None;
    };
    let stored = Stored {
        count,
        columns: words * 32 / bits,
        bits: *bits,
        group_size: *group_size,
        weights: &packed.bytes,
        scales_are,
        scales: &scales.bytes,
        biases: &biases.bytes,
    };
    Tiles::new(threads, &stored)
}

/// What products need besides, kept from one to the next.
#[derive(Default)]
pub(super) struct Scratch {
    rounded: Rounded,
    /// Which content was rounded last, in groups of so many columns.
    holds: Option<(u64, usize)>,
    /// The groups that were last asked for: the next ones will be such, too.
    group_size: Option<usize>,
    halves: RoundedBf16,
    /// Which content was rounded to bf16 last.
    halves_hold: Option<u64>,
    packed: product::Scratch,
}

impl Scratch {
    /// `x` `[T, in]` times each of the transposed matrices, all of `in`
    /// columns, into `outs`, `[T, out]` each.
    pub(super) fn project<const N: usize>(
        &mut self,
        threads: &Threads,
        x: &Array,
        matrices: [&Matrix; N],
        mut outs: [&mut [f32]; N],
    ) {
        if let Some((tiles, group_size)) = all_in_tiles(matrices) {
            let rounded = self.round(threads, x, group_size);
            tiles::project(threads, &tiles, rounded, &mut outs);
            return;
        }
        if let Some(rows) = all_in_bf16(matrices) {
            let x = self.halve(threads, x);
            bf16::project(threads, rows, x, outs);
            return;
        }
        for (matrix, out) in matrices.into_iter().zip(outs) {
            match &matrix.0 {
                Rows::Bf16(rows) => {
                    let x = self.halve(threads, x);
                    bf16::project(threads, [rows], x, [out]);
                }
                Rows::Tiles(tiles) => {
                    let rounded = self.round(threads, x, tiles.group_size);
                    tiles::project(threads, &[tiles], rounded, &mut [out]);
                }
                Rows::Packed(rows) => {
                    product::project(threads, &mut self.packed, rows, x, out);
                }
            }
        }
    }

    /// The activation of `x`'s product with `gate`, times the one with `up`,
    /// into `out`, if both are in tiles or in bf16. Whether they are.
    pub(super) fn project_gated(
        &mut self,
        threads: &Threads,
        x: &Array,
        [gate, up]: [&Matrix; 2],
        activation: Activation,
        out: &mut [f32],
    ) -> bool {
        if let Some([gate, up]) = all_in_bf16([gate, up]) {
            let x = self.halve(threads, x);
            match activation {
                Activation::Silu => bf16::project_gated(
                    threads,
                    [gate, up],
                    x,
                    out,
                    #[inline(always)]
                    |gate, up| activate(Activation::Silu, gate, up),
                ),
                Activation::GeluTanh => bf16::project_gated(
                    threads,
                    [gate, up],
                    x,
                    out,
                    #[inline(always)]
                    |gate, up| activate(Activation::GeluTanh, gate, up),
                ),
                Activation::ClampedSilu => bf16::project_gated(
                    threads,
                    [gate, up],
                    x,
                    out,
                    #[inline(always)]
                    |gate, up| activate(Activation::ClampedSilu, gate, up),
                ),
            }
            return true;
        }
        let Some(([gate, up], group_size)) = all_in_tiles([gate, up]) else {
            return false;
        };
        let x = self.round(threads, x, group_size);
        // Decided once, so that the loops are plain ones.
        match activation {
            Activation::Silu => {
                let act = lanes(
                    #[inline(always)]
                    |gate, up| activate(Activation::Silu, gate, up),
                );
                tiles::project_gated(threads, gate, up, x, out, act);
            }
            Activation::GeluTanh => {
                let act = lanes(
                    #[inline(always)]
                    |gate, up| activate(Activation::GeluTanh, gate, up),
                );
                tiles::project_gated(threads, gate, up, x, out, act);
            }
            Activation::ClampedSilu => {
                let act = lanes(
                    #[inline(always)]
                    |gate, up| activate(Activation::ClampedSilu, gate, up),
                );
                tiles::project_gated(threads, gate, up, x, out, act);
            }
        }
        true
    }

    /// `x` rounded in groups of `group_size` columns, which its rows are whole
    /// numbers of. Done once for several products of the same activations.
    fn round(&mut self, threads: &Threads, x: &Array, group_size: usize) -> &Rounded {
        let holds = Some((x.content(), group_size));
        self.group_size = Some(group_size);
        if self.holds != holds {
            let columns = x.shape()[x.shape().len() - 1];
            self.rounded.round(threads, x, columns, group_size);
            self.holds = holds;
        }
        &self.rounded
    }

    /// A sum and its norm into `sum` and `normed`, `[T, in]` each, if products
    /// will ask for the norm rounded, for which it is then. Whether they were
    /// made.
    pub(super) fn add_norm(
        &mut self,
        threads: &Threads,
        of: Normed<'_>,
        [sum, normed]: [&mut Array; 2],
    ) -> bool {
        let Some(group_size) = self.group_size else {
            return false;
        };
        if !of.weight.len().is_multiple_of(group_size) {
            return false;
        }
        let outs = [sum.own(), normed.own()];
        self.rounded.round_normed(threads, of, outs, group_size);
        self.holds = Some((normed.content(), group_size));
        true
    }

    /// `x` rounded to bf16, once for several products of the same activations.
    fn halve(&mut self, threads: &Threads, x: &Array) -> &RoundedBf16 {
        let holds = Some(x.content());
        if self.halves_hold != holds {
            let columns = x.shape()[x.shape().len() - 1];
            self.halves.round(threads, x, columns);
            self.halves_hold = holds;
        }
        &self.halves
    }
}

/// The matrices' rows, if all are in bf16.
fn all_in_bf16<const N: usize>(matrices: [&Matrix; N]) -> Option<[&Bf16Rows; N]> {
    let Rows::Bf16(first) = &matrices.first()?.0 else {
        return None;
    };
    let mut all = [first; N];
    for (all, matrix) in all.iter_mut().zip(matrices) {
        match &matrix.0 {
            Rows::Bf16(rows) => *all = rows,
            _ => return None,
        }
    }
    Some(all)
}

/// The matrices' tiles and the size of their groups, if all have such and of
/// one size.
fn all_in_tiles<const N: usize>(matrices: [&Matrix; N]) -> Option<([&Tiles; N], usize)> {
    let Rows::Tiles(first) = &matrices.first()?.0 else {
        return None;
    };
    let mut all = [first; N];
    for (all, matrix) in all.iter_mut().zip(matrices) {
        match &matrix.0 {
            Rows::Tiles(tiles) if tiles.group_size == first.group_size => *all = tiles,
            _ => return None,
        }
    }
    Some((all, first.group_size))
}

/// `f` of gates and what is beside them, in the gates' place.
fn lanes<const WIDTH: usize>(
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> impl Fn(&mut [f32; WIDTH], &[f32; WIDTH]) + Sync {
    #[inline(always)]
    move |gate, up| {
        for (gate, &up) in gate.iter_mut().zip(up) {
            *gate = f(*gate, up);
        }
    }
}

#[cfg(test)]
mod tests;
