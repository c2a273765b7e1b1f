//! Rows of a stored matrix that belong to one of the projections it was made
//! of. Rows of quantized matrices are independent of one another, so that they
//! come apart as those of others do.

use std::ops::Range;

use crate::backend::{MatrixWeights, RawTensor};

/// Ranges of rows, in the order they are taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rows(Vec<Range<usize>>);

impl Rows {
    /// The first `count` rows.
    pub(super) fn first(count: usize) -> Self {
        let [all] = Self::stacked([count]);
        all
    }

    /// The rows of several projections one after the other, of `counts` rows.
    pub(super) fn stacked<const N: usize>(counts: [usize; N]) -> [Self; N] {
        Self::interleaved(1, counts)
    }

    /// The same where that comes `groups` times, a part of each projection in
    /// every group.
    pub(super) fn interleaved<const N: usize>(groups: usize, counts: [usize; N]) -> [Self; N] {
        let group: usize = counts.iter().sum();
        std::array::from_fn(|part| {
            let before: usize = counts[..part].iter().sum();
            let starts = (0..groups).map(|index| index * group + before);
            Self(starts.map(|start| start..start + counts[part]).collect())
        })
    }

    /// These, then `others`.
    pub(super) fn then(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }

    /// These entries of a tensor's first axis, `None` if it has not all of
    /// them. One range stays where it is stored.
    pub(super) fn of(&self, raw: &RawTensor) -> Option<RawTensor> {
        if let [range] = self.0.as_slice() {
            return raw.entries(range.clone());
        }
        let mut bytes = Vec::new();
        for range in &self.0 {
            bytes.extend_from_slice(&raw.entries(range.clone())?.bytes);
        }
        let (_, rest) = raw.shape.split_first()?;
        Some(RawTensor {
            dtype: raw.dtype,
            shape: [&[self.count()], rest].concat(),
            bytes: bytes.into(),
        })
    }

    /// These rows of a matrix `[out, in]`, `None` if it has not all of them.
    pub(super) fn of_matrix(&self, weights: &MatrixWeights) -> Option<MatrixWeights> {
        Some(match weights {
            MatrixWeights::Dense(raw) => MatrixWeights::Dense(self.of(raw)?),
            MatrixWeights::Affine {
                packed,
                scales,
                biases,
                group_size,
                bits,
            } => MatrixWeights::Affine {
                packed: self.of(packed)?,
                scales: self.of(scales)?,
                biases: self.of(biases)?,
                group_size: *group_size,
                bits: *bits,
            },
            MatrixWeights::Mxfp4 { packed, scales } => MatrixWeights::Mxfp4 {
                packed: self.of(packed)?,
                scales: self.of(scales)?,
            },
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::Dtype;

    #[test]
    fn interleaved_rows_come_apart_and_none_is_left() {
        let [q, k] = Rows::interleaved(3, [2, 1]);
        assert_eq!(q, Rows(vec![0..2, 3..5, 6..8]));
        assert_eq!(k, Rows(vec![2..3, 5..6, 8..9]));
        let both = k.clone().then(q);
        assert_eq!(both.count(), 9);
        let raw = RawTensor {
            dtype: Dtype::U8,
            shape: vec![9, 1],
            bytes: (0..9).collect::<Vec<u8>>().into(),
        };
        let taken = both.of(&raw).unwrap();
        assert_eq!(*taken.bytes, [2, 5, 8, 0, 1, 3, 4, 6, 7]);
        assert_eq!(taken.shape, [9, 1]);
        assert_eq!(*k.of(&raw).unwrap().bytes, [2, 5, 8]);
        assert!(Rows::first(10).of(&raw).is_none());
        let [_, beyond] = Rows::stacked([9, 1]);
        assert!(both.then(beyond).of(&raw).is_none());
    }
}
