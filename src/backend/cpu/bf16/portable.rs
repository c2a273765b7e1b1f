//! The same products without special instructions, which round a little
//! otherwise: for machines that have none, and for tests.

use super::{Bf16Rows, Part, RoundedBf16, STEP};

/// Lanes of a sum.
const LANES: usize = 16;

/// Computes a part of a product.
pub(super) fn multiply(weights: &Bf16Rows, x: &RoundedBf16, part: Part) {
    for (t, token) in part.tokens.enumerate() {
        let lines = &x.lines_from(token)[..x.steps()];
        for (r, row) in part.rows.clone().enumerate() {
            let mut sums = [0.0; LANES];
            for (line, weights) in lines.iter().zip(weights.row(row).chunks(2 * STEP)) {
                let pairs = line.0.as_chunks::<2>().0.iter();
                for ((sum, weights), x) in sums.iter_mut().zip(weights.chunks(4)).zip(pairs) {
                    for (weight, x) in weights.as_chunks().0.iter().zip(x) {
                        *sum += value(u16::from_le_bytes(*weight)) * value(*x);
                    }
                }
            }
            let mut width = LANES;
            while width > 1 {
                width /= 2;
                for lane in 0..width {
                    sums[lane] += sums[lane + width];
                }
            }
            // SAFETY: a token and a row of the part, whose room is ours.
            #[allow(unsafe_code)]
            unsafe {
                *part.out.add(t * part.stride + r) = sums[0];
            }
        }
    }
}

/// What a bf16 stands for; below the normal range, 0.
fn value(bits: u16) -> f32 {
    match bits & 0x7f80 {
        0 => 0.0,
        _ => f32::from_bits(u32::from(bits) << 16),
    }
}
