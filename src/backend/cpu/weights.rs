//! Weight matrices on the CPU: products with activations, and rows of the
//! table that embeds tokens.
//!
//! Four- and eight-bit weights are repacked into tiles for integer products.
//! Others stay where the file was mapped and rows are unpacked on the way into
//! a product. Either way a model takes the memory of its file.

use super::elementwise::activate;
use super::tiles::{self, Rounded, Scales, Stored, Tiles};
use super::{Array, Cpu, Products, Result, product};
use crate::backend::packed::PackedRows;
use crate::backend::threads::Threads;
use crate::backend::{Activation, Dtype, MatrixWeights};

/// A weight matrix `[out, in]`.
pub struct Matrix(Rows);

enum Rows {
    /// For integer products.
    Tiles(Tiles),
    /// As it is stored.
    Packed(PackedRows),
}

impl Matrix {
    pub(super) fn load(weights: MatrixWeights, cpu: &Cpu) -> Result<Self> {
        let tiles = match cpu.products {
            Products::Rounded if tiles::are_fast() => in_tiles(&weights, &cpu.threads),
            _ => None,
        };
        Ok(Self(match tiles {
            Some(tiles) => Rows::Tiles(tiles),
            None => Rows::Packed(PackedRows::new(weights)?),
        }))
    }

    /// `out`.
    pub(super) fn count(&self) -> usize {
        match &self.0 {
            Rows::Tiles(tiles) => tiles.count,
            Rows::Packed(rows) => rows.count,
        }
    }

    /// `in`.
    pub(super) fn columns(&self) -> usize {
        match &self.0 {
            Rows::Tiles(tiles) => tiles.columns,
            Rows::Packed(rows) => rows.columns,
        }
    }

    /// Row `row` into `out`, which is as long as there are columns. There is
    /// such a row.
    pub(super) fn unpack(&self, row: usize, out: &mut [f32]) {
        match &self.0 {
            Rows::Tiles(tiles) => tiles.unpack(row, out),
            Rows::Packed(rows) => rows.unpack(row, out),
        }
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
        for (matrix, out) in matrices.into_iter().zip(outs) {
            match &matrix.0 {
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
    /// into `out`, if both are in tiles. Whether they are.
    pub(super) fn project_gated(
        &mut self,
        threads: &Threads,
        x: &Array,
        [gate, up]: [&Matrix; 2],
        activation: Activation,
        out: &mut [f32],
    ) -> bool {
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
        if self.holds != holds {
            let columns = x.shape()[x.shape().len() - 1];
            self.rounded.round(threads, x, columns, group_size);
            self.holds = holds;
        }
        &self.rounded
    }
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
