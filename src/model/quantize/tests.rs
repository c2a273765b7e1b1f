//! Against what `mx.quantize` makes of the same weights, and what
//! `mlx_lm.convert -q` makes of the same models: see `scripts/make-quantized`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::*;
use crate::model::ModelFiles;
use crate::model::weights::Weights;

#[derive(Deserialize)]
struct Reference {
    groups: BTreeMap<String, Groups>,
    models: BTreeMap<String, BTreeMap<usize, Model>>,
}

/// Weights, and for each number of bits codes, scales and biases.
#[derive(Deserialize)]
struct Groups {
    weights: String,
    #[serde(flatten)]
    made: BTreeMap<String, [String; 3]>,
}

#[derive(Deserialize)]
struct Model {
    matrices: BTreeMap<String, String>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../../../tests/fixtures/quantized.json")).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    let byte = |digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16);
    digits.map(|digits| byte(digits).unwrap()).collect()
}

/// Codes, scales and biases as they lie in memory.
fn parts(weights: &MatrixWeights) -> [&[u8]; 3] {
    let MatrixWeights::Affine {
        packed,
        scales,
        biases,
        group_size: GROUP,
        ..
    } = weights
    else {
        panic!("{weights:?} is not quantized");
    };
    [&packed.bytes, &scales.bytes, &biases.bytes]
}

fn matrix(dtype: Dtype, columns: usize, bytes: Vec<u8>) -> RawTensor {
    RawTensor {
        dtype,
        shape: vec![bytes.len() / columns / dtype.size(), columns],
        bytes: bytes.into(),
    }
}

const DTYPES: [(&str, Dtype); 3] = [
    ("bf16", Dtype::Bf16),
    ("f16", Dtype::F16),
    ("f32", Dtype::F32),
];

#[test]
fn groups_are_quantized_as_mlx_does() {
    let reference = reference();
    for (name, dtype) in DTYPES {
        let groups = &reference.groups[name];
        let raw = matrix(dtype, GROUP, hex(&groups.weights));
        for (bits, made) in &groups.made {
            let expected = made.each_ref().map(|part| hex(part));
            let got = quantized(&raw, bits.parse().unwrap());
            for (part, (got, expected)) in parts(&got).iter().zip(&expected).enumerate() {
                let off = got.iter().zip(expected).position(|(a, b)| a != b);
                assert_eq!(off, None, "{name}, {bits} bits, part {part}");
                assert_eq!(got.len(), expected.len());
            }
        }
    }
}

/// More groups than a thread takes at once, and rows of several.
#[test]
fn tasks_do_not_show() {
    let (columns, rows) = (5 * GROUP, 2 * TASK / 5 + 3);
    let weight = |at: usize| bf16::from_f32(((at * 7919) % 1009) as f32 / 500.0 - 1.0);
    let bytes: Vec<u8> = (0..rows * columns)
        .flat_map(|at| weight(at).to_le_bytes())
        .collect();
    let whole = quantized(&matrix(Dtype::Bf16, columns, bytes.clone()), 4);
    let MatrixWeights::Affine { packed, scales, .. } = &whole else {
        panic!("not quantized");
    };
    assert_eq!(packed.shape, [rows, columns / 8]);
    assert_eq!(scales.shape, [rows, 5]);
    let [mut codes, mut all_scales, mut all_biases] = [const { Vec::new() }; 3];
    for group in bytes.chunks_exact(2 * GROUP) {
        let one = quantized(&matrix(Dtype::Bf16, GROUP, group.to_vec()), 4);
        let [packed, scale, bias] = parts(&one);
        codes.extend_from_slice(packed);
        all_scales.extend_from_slice(scale);
        all_biases.extend_from_slice(bias);
    }
    let [a, b, c] = parts(&whole);
    assert!(a == codes && b == all_scales && c == all_biases);
}

#[test]
fn weights_that_are_no_numbers_are_still_seen() {
    for (dtype, wrong) in [
        (Dtype::F32, f32::NAN),
        (Dtype::F32, f32::INFINITY),
        (Dtype::Bf16, f32::NEG_INFINITY),
        (Dtype::F16, f32::NAN),
    ] {
        let mut bytes = vec![0; GROUP * dtype.size()];
        write(dtype, wrong, &mut bytes[5 * dtype.size()..][..dtype.size()]);
        let made = quantized(&matrix(dtype, GROUP, bytes), 8);
        let mut scale = [0.0; GROUP];
        read(dtype, &parts(&made)[1].repeat(GROUP), &mut scale);
        assert!(scale[0].is_nan(), "{dtype:?} {wrong}");
    }
}

fn quantizer(asked: Quantize, folder: &Path) -> (Quantizer, DecoderConfig, Weights) {
    let files = ModelFiles::Folder(folder.to_owned());
    let config = DecoderConfig::load(&files).unwrap();
    let weights = Weights::open(&files).unwrap();
    (Quantizer::new(asked, &config), config, weights)
}

fn fixture(name: &str) -> std::path::PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/golden").join(name)
}

/// The same matrices, the others left alone, and every byte as mlx-lm makes it.
#[test]
fn models_are_quantized_as_mlx_lm_does() {
    for (name, by_bits) in reference().models {
        for (bits, reference) in by_bits {
            let asked = Quantize::of_bits(bits as u64).unwrap();
            let (quantizer, config, weights) = quantizer(asked, &fixture(&name));
            let mut bytes = 0;
            let mut made = BTreeMap::new();
            for name in weights.names() {
                let shape = weights.shape(name).unwrap().to_vec();
                let path = name.strip_suffix(".weight").unwrap_or(name);
                if path == name || shape.len() < 2 || path.contains("conv1d") {
                    continue;
                }
                let dense = weights.matrix(path, &shape, &config.quantizations).unwrap();
                let MatrixWeights::Dense(raw) = dense.clone() else {
                    panic!("{name} is quantized");
                };
                let matrix = quantizer.matrix(path, dense);
                if matches!(matrix, MatrixWeights::Affine { .. }) {
                    let whole = parts(&matrix).concat();
                    assert_eq!(quantizer.bytes(path, &raw), Some(whole.len() as u64));
                    bytes += whole.len();
                    let hash = Sha256::digest(&whole);
                    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
                    made.insert(path.to_owned(), hash);
                } else {
                    assert_eq!(quantizer.bytes(path, &raw), None);
                    bytes += raw.bytes.len();
                }
            }
            assert_eq!(made, reference.matrices, "{name}, {bits} bits");
            assert_eq!(quantizer.quantized.get(), made.len());
            let footprint = weights.footprint(&config, Some(&quantizer));
            let small = footprint.bytes - bytes as u64;
            assert!(small < 20_000, "{name}: {small} bytes of norms");
        }
    }
}

/// mlx-lm writes into `config.json` which matrices it gave how many bits.
#[test]
fn what_mlx_lm_gives_more_bits_gets_them() {
    for name in ["granite-4bit", "qwen3-moe-4bit", "qwen3-next-4bit"] {
        let (quantizer, config, weights) = quantizer(Quantize::Four, &fixture(name));
        let (mut fours, mut eights) = (0, 0);
        for path in weights
            .names()
            .filter_map(|name| name.strip_suffix(".scales"))
        {
            let stored = config.quantizations.of(path).unwrap().bits();
            let dense = matrix(Dtype::F32, GROUP, vec![0; 4 * GROUP]);
            assert_eq!(quantizer.bits(path, &dense), Some(stored), "{name}: {path}");
            match stored {
                4 => fours += 1,
                _ => eights += 1,
            }
        }
        assert!(fours > 0 && eights > 0, "{name}: {fours}, {eights}");
    }
}
