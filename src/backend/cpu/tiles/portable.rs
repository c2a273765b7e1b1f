//! [`super::kernel`] in plain arithmetic: what the others are held to, and
//! what runs where they do not.

// Lanes of several arrays are walked by their indices.
#![allow(clippy::needless_range_loop)]

use super::activations::{Chunk, Factors};
use super::{TileRows, WIDTH};

/// The products of a tile's rows with `T` tokens, group by group: integer
/// products and their sums are exact, then
/// `sum += dot * (scale * x_scale)` and `sum += bias * x_sum`, each rounded
/// once.
#[inline(always)]
pub(super) fn multiply<const T: usize, const BITS: usize>(
    rows: &TileRows<'_>,
    chunks: &[[Chunk; T]],
    factors: &[[Factors; T]],
) -> [[f32; WIDTH]; T] {
    let per_group = chunks.len() / factors.len();
    let scale_lines = rows.scales.lines();
    let per_block = scale_lines + per_group * BITS / 4;
    let mut sums = [[0f32; WIDTH]; T];
    let blocks = rows.lines.chunks_exact(per_block);
    for ((block, chunks), factors) in blocks.zip(chunks.chunks_exact(per_group)).zip(factors) {
        let (head, weights) = block.split_at(scale_lines);
        let mut dots = [[0i32; WIDTH]; T];
        for (lines, chunk) in weights.chunks_exact(BITS / 4).zip(chunks) {
            for lane in 0..WIDTH {
                let (first, second) = match BITS {
                    4 => {
                        let word = lines[0].0[lane];
                        (word & 0x0f0f_0f0f, word >> 4 & 0x0f0f_0f0f)
                    }
                    _ => (lines[0].0[lane], lines[1].0[lane]),
                };
                for t in 0..T {
                    let [a, b] = chunk[t];
                    dots[t][lane] += four(first, a) + four(second, b);
                }
            }
        }
        for lane in 0..WIDTH {
            let (scale, bias) = rows.scales.get(head, lane);
            for t in 0..T {
                let sum = &mut sums[t][lane];
                *sum = (dots[t][lane] as f32).mul_add(scale * factors[t].scale, *sum);
                *sum = bias.mul_add(factors[t].sum, *sum);
            }
        }
    }
    sums
}

/// The products of four unsigned bytes with four signed ones, added up.
#[inline(always)]
fn four(weights: u32, x: i32) -> i32 {
    let (weights, x) = (weights.to_le_bytes(), x.to_le_bytes());
    (0..4)
        .map(|i| i32::from(weights[i]) * i32::from(x[i] as i8))
        .sum()
}
