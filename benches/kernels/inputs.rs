//! Random matrices as a model's file stores them, and enough of each that
//! none is in the caches when its turn comes again.

use std::collections::HashMap;
use std::fs;
use std::thread;

use llm_server::backend::{Dtype, MatrixWeights, RawTensor};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// Weights that share a scale, as in most models.
const GROUP: usize = 64;

/// Bytes a set has at least, and where the caches cannot be found out: twice
/// what processors have that do not say.
const SET: usize = 256 << 20;

/// How weights are stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Format {
    FourBits,
    EightBits,
    Bf16,
}

impl Format {
    pub(super) const ALL: [Self; 3] = [Self::FourBits, Self::EightBits, Self::Bf16];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FourBits => "4 bits",
            Self::EightBits => "8 bits",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a stored matrix.
    pub(super) fn bytes(self, rows: usize, columns: usize) -> usize {
        let weights = rows * columns;
        let scales = 2 * size_of::<u16>() * weights / GROUP;
        match self {
            Self::FourBits => weights / 2 + scales,
            Self::EightBits => weights + scales,
            Self::Bf16 => 2 * weights,
        }
    }

    /// A matrix `[rows, columns]`.
    pub(super) fn random(
        self,
        rows: usize,
        columns: usize,
        random: &mut SmallRng,
    ) -> MatrixWeights {
        let bits = match self {
            Self::FourBits => 4,
            Self::EightBits => 8,
            Self::Bf16 => return MatrixWeights::Dense(bf16s(&[rows, columns], random, 0.05)),
        };
        let mut packed = vec![0; rows * columns * bits / 8];
        random.fill_bytes(&mut packed);
        let groups = [rows, columns / GROUP];
        MatrixWeights::Affine {
            packed: RawTensor {
                dtype: Dtype::U32,
                shape: vec![rows, columns * bits / 32],
                bytes: packed.into(),
            },
            scales: bf16s(&groups, random, 0.05),
            biases: bf16s(&groups, random, 0.1),
            group_size: GROUP,
            bits,
        }
    }
}

/// Random numbers of either sign, below `limit` and not far below it.
fn bf16s(shape: &[usize], random: &mut SmallRng, limit: f32) -> RawTensor {
    // Sign and mantissa are random, the exponent is not.
    let exponent = (limit.to_bits() >> 16) as u16 & 0x7f80;
    let mut bytes = vec![0; 2 * shape.iter().product::<usize>()];
    random.fill_bytes(&mut bytes);
    for pair in bytes.chunks_exact_mut(2) {
        let number = u16::from_le_bytes([pair[0], pair[1]]) & 0x807f | exponent;
        pair.copy_from_slice(&number.to_le_bytes());
    }
    RawTensor {
        dtype: Dtype::Bf16,
        shape: shape.to_vec(),
        bytes: bytes.into(),
    }
}

/// Activations.
pub(super) fn floats(shape: &[usize], random: &mut SmallRng) -> RawTensor {
    let count = shape.iter().product();
    let values = (0..count).flat_map(|_| random.random_range(-1.0f32..1.0).to_le_bytes());
    RawTensor {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes: values.collect::<Vec<u8>>().into(),
    }
}

pub(super) fn dice() -> SmallRng {
    SmallRng::seed_from_u64(1)
}

/// How many things of `bytes` are together twice as large as the last caches.
pub(super) fn copies(bytes: usize) -> usize {
    (2 * last_caches()).max(SET).div_ceil(bytes)
}

/// Bytes of all the third-level caches, 0 where the system does not say.
fn last_caches() -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let mut caches = HashMap::new();
    for processor in 0..processors {
        let read = |name: &str| {
            let file = format!("/sys/devices/system/cpu/cpu{processor}/cache/index3/{name}");
            fs::read_to_string(file).unwrap_or_default()
        };
        let size = read("size");
        let kibibytes = size.trim().trim_end_matches('K').parse().unwrap_or(0);
        caches.insert(read("shared_cpu_list"), kibibytes << 10);
    }
    caches.values().sum()
}
