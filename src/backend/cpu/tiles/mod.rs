//! Quantized weights on the CPU for integer products: unsigned four- or
//! eight-bit weights meet activations that are rounded to eight bits. For the
//! group `g` of a row and a token,
//! `sum w x = scale_w scale_x sum(q_w q_x) + bias_w sum(x)`.
//!
//! Weights are repacked once into tiles of 16 rows, a row in each lane of a
//! vector; the file's own bytes are not needed any more.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod instructions;
mod kernel;
mod lines;
#[cfg(target_arch = "aarch64")]
mod neon;
mod normed;
mod out;
mod portable;
mod shared;

use half::{bf16, f16};

use crate::backend::threads::Threads;
pub(super) use activations::Rounded;
pub(super) use kernel::{are_fast, project, project_gated};
use lines::Lines;
pub(super) use normed::Normed;

/// Rows of a tile.
const WIDTH: usize = 16;

/// The group sizes that there are tiles of.
const GROUPS: [usize; 3] = [32, 64, 128];

/// 64 bytes: a word of each row of a tile, or scales or biases of all.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
struct Line([u32; WIDTH]);

/// A quantized matrix `[count, columns]` in tiles.
///
/// A tile is its groups one after the other: a line of scales and biases (or
/// one each, where they are `f32`), then the weights. A line of four-bit
/// weights holds eight columns, byte `j` of each word column `j` low and
/// column `4 + j` high; of eight-bit weights, four columns.
pub(super) struct Tiles {
    pub(super) count: usize,
    pub(super) columns: usize,
    bits: usize,
    pub(super) group_size: usize,
    scales: Scales,
    lines: Lines,
}

/// How scales and biases are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    Bf16,
    F16,
    F32,
}

/// The rows of one tile.
struct TileRows<'a> {
    scales: Scales,
    lines: &'a [Line],
}

impl Scales {
    /// Bytes of one.
    fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// Lines that a group's scales and biases take.
    fn lines(self) -> usize {
        self.size() / 2
    }

    /// Scale and bias of a row.
    fn get(self, head: &[Line], lane: usize) -> (f32, f32) {
        let half = |lane: usize| (head[0].0[lane / 2] >> (lane % 2 * 16)) as u16;
        match self {
            Self::Bf16 => (
                bf16::from_bits(half(lane)).to_f32(),
                bf16::from_bits(half(WIDTH + lane)).to_f32(),
            ),
            Self::F16 => (
                f16::from_bits(half(lane)).to_f32(),
                f16::from_bits(half(WIDTH + lane)).to_f32(),
            ),
            Self::F32 => (
                f32::from_bits(head[0].0[lane]),
                f32::from_bits(head[1].0[lane]),
            ),
        }
    }
}

/// A quantized matrix as it is stored, row by row.
pub(super) struct Stored<'a> {
    pub(super) count: usize,
    pub(super) columns: usize,
    pub(super) bits: usize,
    pub(super) group_size: usize,
    /// Little-endian words, the first weight of each lowest.
    pub(super) weights: &'a [u8],
    pub(super) scales_are: Scales,
    /// `[count, columns / group_size]`, as is `biases`.
    pub(super) scales: &'a [u8],
    pub(super) biases: &'a [u8],
}

impl Tiles {
    /// Repacks a matrix. `None` if there are no tiles for its kind.
    pub(super) fn new(threads: &Threads, stored: &Stored<'_>) -> Option<Self> {
        let &Stored {
            count,
            columns,
            bits,
            group_size,
            scales_are,
            ..
        } = stored;
        let known = matches!(bits, 4 | 8) && GROUPS.contains(&group_size);
        if !known || !columns.is_multiple_of(group_size) || columns == 0 {
            return None;
        }
        let mut tiles = Self {
            count,
            columns,
            bits,
            group_size,
            scales: scales_are,
            lines: Lines::zeroed(0),
        };
        let per_tile = tiles.lines_per_tile();
        tiles.lines = Lines::zeroed(tiles.tiles() * per_tile);
        threads.for_each_chunk(&mut tiles.lines, per_tile, |tile, lines| {
            let first = tile * WIDTH;
            for lane in 0..WIDTH.min(count - first) {
                stored.pack(first + lane, lane, lines);
            }
        });
        Some(tiles)
    }

    fn lines_per_group(&self) -> usize {
        self.scales.lines() + self.group_size * self.bits / 32
    }

    fn lines_per_tile(&self) -> usize {
        self.columns / self.group_size * self.lines_per_group()
    }

    /// How many tiles there are.
    fn tiles(&self) -> usize {
        self.count.div_ceil(WIDTH)
    }

    fn tile(&self, index: usize) -> TileRows<'_> {
        let per_tile = self.lines_per_tile();
        TileRows {
            scales: self.scales,
            lines: &self.lines[index * per_tile..][..per_tile],
        }
    }

    /// Row `row` as `f32` into `out`, which is `columns` long.
    pub(super) fn unpack(&self, row: usize, out: &mut [f32]) {
        let (tile, lane) = (self.tile(row / WIDTH), row % WIDTH);
        let groups = out.chunks_exact_mut(self.group_size);
        for (out, block) in groups.zip(tile.lines.chunks_exact(self.lines_per_group())) {
            let (head, weights) = block.split_at(self.scales.lines());
            let (scale, bias) = self.scales.get(head, lane);
            for (out, line) in out.chunks_exact_mut(32 / self.bits).zip(weights) {
                let bytes = line.0[lane].to_le_bytes();
                for (column, out) in out.iter_mut().enumerate() {
                    let weight = match self.bits {
                        4 => bytes[column % 4] >> (column / 4 * 4) & 15,
                        _ => bytes[column],
                    };
                    *out = f32::from(weight) * scale + bias;
                }
            }
        }
    }
}

impl Stored<'_> {
    /// Writes row `row` into lane `lane` of its tile.
    fn pack(&self, row: usize, lane: usize, lines: &mut [Line]) {
        let groups = self.columns / self.group_size;
        let row_bytes = self.columns * self.bits / 8;
        let weights = &self.weights[row * row_bytes..][..row_bytes];
        let per_group = self.group_size * self.bits / 8;
        let head = self.scales_are.lines();
        let blocks = lines.chunks_exact_mut(head + per_group / 4);
        for ((group, block), weights) in blocks.enumerate().zip(weights.chunks_exact(per_group)) {
            let place = row * groups + group;
            match self.scales_are {
                Scales::F32 => {
                    block[0].0[lane] = word(self.scales, place);
                    block[1].0[lane] = word(self.biases, place);
                }
                Scales::Bf16 | Scales::F16 => {
                    for (at, values) in [(lane, self.scales), (WIDTH + lane, self.biases)] {
                        let value = u16::from_le_bytes([values[2 * place], values[2 * place + 1]]);
                        block[0].0[at / 2] |= u32::from(value) << (at % 2 * 16);
                    }
                }
            }
            let (words, _) = weights.as_chunks::<4>();
            for (line, &bytes) in block[head..].iter_mut().zip(words) {
                line.0[lane] = match self.bits {
                    4 => paired(u32::from_le_bytes(bytes)),
                    _ => u32::from_le_bytes(bytes),
                };
            }
        }
    }
}

/// The little-endian word in place `place`.
fn word(bytes: &[u8], place: usize) -> u32 {
    bytes
        .as_chunks()
        .0
        .get(place)
        .map_or(0, |&bytes| u32::from_le_bytes(bytes))
}

/// Eight four-bit weights, the first lowest, so that byte `j` has weight `j`
/// low and weight `4 + j` high.
fn paired(word: u32) -> u32 {
    (0..4)
        .map(|j| {
            let (low, high) = (word >> (4 * j) & 15, word >> (16 + 4 * j) & 15);
            (low | high << 4) << (8 * j)
        })
        .sum()
}

#[cfg(test)]
mod tests;
