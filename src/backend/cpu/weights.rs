//! Weight matrices on the CPU: products with activations, and rows of the
//! table that embeds tokens.
//!
//! Four- and eight-bit weights are repacked into tiles for integer products.
//! Others stay where the file was mapped and rows are unpacked on the way into
//! a product. Either way a model takes the memory of its file.

use super::tiles::{self, Scales, Stored, Tiles};
use super::{Array, Products, Result, product};
use crate::backend::packed::PackedRows;
use crate::backend::threads::Threads;
use crate::backend::{Dtype, MatrixWeights};

/// A weight matrix `[out, in]`.
pub struct Matrix(Rows);

enum Rows {
    /// For integer products.
    Tiles(Tiles),
    /// As it is stored.
    Packed(PackedRows),
}

impl Matrix {
    pub(super) fn load(weights: MatrixWeights, products: Products) -> Result<Self> {
        let tiles = match products {
            Products::Rounded if tiles::are_fast() => in_tiles(&weights),
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
fn in_tiles(weights: &MatrixWeights) -> Option<Tiles> {
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
    Tiles::new(&Stored {
        count,
        columns: words * 32 / bits,
        bits: *bits,
        group_size: *group_size,
        weights: &packed.bytes,
        scales_are,
        scales: &scales.bytes,
        biases: &biases.bytes,
    })
}

/// What products need besides, kept from one to the next.
#[derive(Default)]
pub(super) struct Scratch {
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
        outs: [&mut [f32]; N],
    ) {
        for (matrix, out) in matrices.into_iter().zip(outs) {
            match &matrix.0 {
                Rows::Tiles(tiles) => out.copy_from_slice(&tiles::project(tiles, x)),
                Rows::Packed(rows) => {
                    product::project(threads, &mut self.packed, rows, x, out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
