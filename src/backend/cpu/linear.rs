//! Products of a step's activations, and the norm before them.

use super::array::Shape;
use super::tiles::Normed;
use super::{Array, Cpu, Matrix, Result};
use crate::backend::Activation;

impl Cpu {
    /// `x` `[T, in]` times the transposed `matrix`: `[T, out]`.
    pub(super) fn product(&self, x: &Array, matrix: &Matrix) -> Result<Array> {
        let [product] = self.products_of(x, [matrix])?;
        Ok(product)
    }

    /// The products of `x` with several matrices.
    pub(super) fn products_of<const N: usize>(
        &self,
        x: &Array,
        matrices: [&Matrix; N],
    ) -> Result<[Array; N]> {
        let (tokens, columns) = x.rows_and_columns()?;
        for matrix in matrices {
            if matrix.columns() != columns {
                return Err(format!(
                    "{columns} columns meet weights of {}",
                    matrix.columns()
                ));
            }
        }
        let mut outs = matrices.map(|matrix| self.pool.array([tokens, matrix.count()]));
        let mut scratch = self.scratch.borrow_mut();
        scratch.project(&self.threads, x, matrices, outs.each_mut().map(Array::own));
        Ok(outs)
    }

    /// The activation of the product with `gate`, times the product with `up`.
    pub(super) fn gated_product(
        &self,
        x: &Array,
        gate: &Matrix,
        up: &Matrix,
        activation: Activation,
    ) -> Result<Array> {
        let (tokens, columns) = x.rows_and_columns()?;
        if columns == gate.columns() && columns == up.columns() && gate.count() == up.count() {
            let mut out = self.pool.array([tokens, gate.count()]);
            let mut scratch = self.scratch.borrow_mut();
            let both = [gate, up];
            if scratch.project_gated(&self.threads, x, both, activation, out.own()) {
                return Ok(out);
            }
        }
        let [gate, up] = self.products_of(x, [gate, up])?;
        self.gated_of(&gate, &up, activation)
    }

    /// `x + said`, of one shape, and its norm, rounded for the products that
    /// come next; `None` where they do not take it rounded.
    pub(super) fn add_norm_rounded(
        &self,
        x: &Array,
        said: &Array,
        weight: &Array,
        eps: f32,
    ) -> Result<Option<(Array, Array)>> {
        if x.shape() != said.shape() || x.shape().last() != Some(&weight.len()) {
            return Ok(None);
        }
        let shape = Shape::new(x.shape())?;
        let (mut sum, mut normed) = (self.pool.array(shape), self.pool.array(shape));
        let of = Normed {
            x,
            said,
            weight,
            eps,
        };
        let mut scratch = self.scratch.borrow_mut();
        let made = scratch.add_norm(&self.threads, of, [&mut sum, &mut normed]);
        Ok(made.then_some((sum, normed)))
    }
}
