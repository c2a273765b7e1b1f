//! Tiny models of every family and weight format against what mlx-lm computes
//! with them, on every backend. `scripts/make-golden` writes the fixtures.

use std::path::PathBuf;

use half::f16;
use serde::Deserialize;
use tempfile::TempDir;

use super::*;

/// `golden.json` of a fixture.
#[derive(Deserialize)]
pub(super) struct Golden {
    dtype: String,
    pub(super) prompts: Vec<Case>,
    /// The largest logit, by size.
    pub(super) scale: f32,
    /// The smallest lead of a greedy token.
    margin: f32,
    /// The folder of an adapter, beside the model.
    adapter: Option<String>,
}

impl Golden {
    /// That of the fixture in a folder.
    pub(super) fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

/// The folder of a fixture.
pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) ids: Vec<u32>,
    /// After the last of them, in f32.
    pub(super) logits: Vec<f32>,
    greedy: Vec<u32>,
}

/// A fixture on a backend.
struct Subject {
    what: String,
    model: Box<dyn Model>,
    golden: Golden,
    /// How far logits may be from the reference's.
    tolerance: f32,
    /// Keeps the converted model's files.
    _folder: Option<TempDir>,
}

/// What a rounding is off by at most, relatively, and how many there are: ten
/// a layer, which add up like a random walk. Three times that is rare.
pub(super) fn tolerance(unit: f32, layers: usize, scale: f32) -> f32 {
    3.0 * unit * ((10 * layers) as f32).sqrt() * scale
}

pub(super) const BF16_UNIT: f32 = 1.0 / 512.0;
const F16_UNIT: f32 = 1.0 / 4096.0;
/// Of f32 it is 2^-25, but sums of some hundred terms are taken in another
/// order than the reference's: sqrt(256) times that.
pub(super) const F32_UNIT: f32 = 16.0 / 33_554_432.0;

/// The unit of a model in f32 on `backend`: the CPU keeps keys and values in
/// f16.
pub(super) fn unit_on(backend: BackendChoice) -> f32 {
    match backend {
        BackendChoice::Candle => F16_UNIT,
        _ => F32_UNIT,
    }
}

/// Half a 127th of the largest activation of its group, which is some three
/// times as large as the others.
const ROUNDED_UNIT: f32 = 1.0 / 128.0;

/// Every fixture on every backend: as it is stored, and where the backend
/// computes in the type of the weights, once more with those in f32, so that
/// rounding hides nothing.
fn subjects() -> Vec<Subject> {
    let mut folders: Vec<_> = std::fs::read_dir(fixture(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    assert!(folders.len() >= 38, "{folders:?}");
    let mut subjects = Vec::new();
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let read = || Golden::read(&folder);
        for &backend in BackendChoice::BUILT_IN {
            let mut add = |what: &str, path: &Path, unit: f32, kept: Option<TempDir>| {
                let mut files = ModelFiles::Folder(path.to_owned());
                if let Some(adapter) = read().adapter {
                    files = files.with_adapter(folder.join(adapter));
                }
                let model = load(&files, backend, &()).unwrap();
                let config = DecoderConfig::load(&files).unwrap();
                let golden = read();
                subjects.push(Subject {
                    what: format!("{name} {what}on {backend:?}"),
                    model,
                    tolerance: tolerance(unit, config.layers.len(), golden.scale),
                    golden,
                    _folder: kept,
                });
            };
            let own = match read().dtype.as_str() {
                "bf16" => BF16_UNIT,
                "f16" => F16_UNIT,
                "f32" => F32_UNIT,
                other => panic!("{name} is in {other}"),
            };
            match backend {
                BackendChoice::CandleF32 => {
                    add("", &folder, F32_UNIT, None);
                    continue;
                }
                BackendChoice::Candle => {
                    let golden = read();
                    let trained = golden.margin > 0.05 * golden.scale;
                    let rounded = ["-4bit", "-8bit", "-mxfp4"];
                    let rounded = rounded.iter().any(|kind| name.ends_with(kind));
                    match rounded {
                        false => add("", &folder, own.max(F16_UNIT), None),
                        true if trained => add("", &folder, ROUNDED_UNIT, None),
                        // Random models have no lead that such roundings
                        // leave.
                        true => {}
                    }
                    continue;
                }
                _ => {}
            }
            add("", &folder, own, None);
            // Scales of mxfp4 are no floats: what is unpacked is bf16.
            if own != F32_UNIT && !name.contains("mxfp4") {
                let wide = widened(&folder);
                let path = wide.path().to_owned();
                add("in f32 ", &path, F32_UNIT, Some(wide));
            }
        }
    }
    subjects
}

/// The model with its floating-point tensors in f32.
fn widened(folder: &Path) -> TempDir {
    let wide = tempfile::tempdir().unwrap();
    let config = "config.json";
    std::fs::copy(folder.join(config), wide.path().join(config)).unwrap();
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, view)| {
        let widen = |widen: fn([u8; 2]) -> f32| {
            let pairs = view.data().chunks_exact(2);
            pairs
                .flat_map(|b| widen([b[0], b[1]]).to_le_bytes())
                .collect()
        };
        let f32s = safetensors::Dtype::F32;
        let (dtype, data) = match view.dtype() {
            safetensors::Dtype::BF16 => (f32s, widen(|b| bf16::from_le_bytes(b).to_f32())),
            safetensors::Dtype::F16 => (f32s, widen(|b| f16::from_le_bytes(b).to_f32())),
            other => (other, view.data().to_vec()),
        };
        (name.to_owned(), (dtype, view.shape().to_vec(), data))
    });
    let tensors: HashMap<String, Stored> = tensors.collect();
    write(&wide.path().join("model.safetensors"), &tensors);
    wide
}

#[test]
fn logits_are_those_of_mlx_lm_however_the_prompt_is_fed() {
    for mut subject in subjects() {
        for case in &subject.golden.prompts {
            for chunk in [case.ids.len(), 5, 1] {
                let logits = logits_of(&mut *subject.model, &case.ids, chunk);
                let what = format!("{} in pieces of {chunk}", subject.what);
                assert_close(&logits, &case.logits, subject.tolerance, &what);
            }
        }
    }
}

#[test]
fn logits_are_those_of_mlx_lm_in_ragged_batches() {
    for subject in subjects() {
        let Subject {
            what,
            mut model,
            golden,
            tolerance,
            ..
        } = subject;
        let model = &mut *model;
        let [a, b, c] = [0, 1, 2].map(|i| &golden.prompts[i]);
        let [x, y, z] = [(); 3].map(|()| model.open().unwrap());
        // The longest in three unequal pieces, the others around it: one
        // whole, one begun earlier and ended later.
        let mut rows = |batch: &[Input<'_>]| -> Vec<Vec<f32>> {
            let logits = forward(model, batch);
            logits.rows().map(<[f32]>::to_vec).collect()
        };
        let none = rows(&[silent(z, &c.ids[..1]), silent(x, &a.ids[..20])]);
        assert!(none.is_empty());
        let whole = rows(&[silent(x, &a.ids[20..21]), input(y, &b.ids)]);
        let ends = rows(&[input(z, &c.ids[1..]), input(x, &a.ids[21..])]);
        for (got, case) in whole.iter().chain(&ends).zip([b, c, a]) {
            assert_close(got, &case.logits, tolerance, &what);
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_mlx_lm_alone_and_together() {
    for mut subject in subjects() {
        let model = &mut *subject.model;
        let cases = &subject.golden.prompts;
        for case in cases {
            let alone = greedy(model, &case.ids, case.greedy.len());
            assert_eq!(alone, case.greedy, "{}", subject.what);
        }
        let sequences: Vec<SequenceId> = cases.iter().map(|_| model.open().unwrap()).collect();
        let mut next: Vec<Vec<u32>> = cases.iter().map(|case| case.ids.clone()).collect();
        let mut together = vec![Vec::new(); cases.len()];
        for _ in 0..cases[0].greedy.len() {
            let batch: Vec<Input<'_>> = sequences
                .iter()
                .zip(&next)
                .map(|(&sequence, tokens)| input(sequence, tokens))
                .collect();
            let drawn = tokens_of(&*model.submit(&batch).unwrap());
            for ((tokens, next), token) in together.iter_mut().zip(&mut next).zip(drawn) {
                tokens.push(token);
                *next = vec![token];
            }
        }
        for (tokens, case) in together.iter().zip(cases) {
            assert_eq!(tokens, &case.greedy, "{} together", subject.what);
        }
    }
}
