//! Models whose sequences carry states beside keys and values: where they can
//! be forked, what they take, and files as they are before mlx-lm converts
//! them.

use tempfile::TempDir;

use super::golden::{BF16_UNIT, F32_UNIT, Golden, fixture, tolerance, unit_on};
use super::*;
use crate::backend::{Backend, WithBackend, start};
use crate::model::decoder::Decoder;

/// The fixtures with states.
const STATEFUL: [&str; 6] = [
    "lfm2-bias-f32",
    "lfm2-f32",
    "qwen3-next-4bit",
    "qwen3-next-f32",
    "qwen3.5-f32",
    "qwen3.5-moe-f32",
];

fn files(name: &str) -> ModelFiles {
    ModelFiles::Folder(fixture(name))
}

/// Each of them on each backend, and the longest of its prompts.
fn models() -> impl Iterator<Item = (String, Box<dyn Model>, Vec<u32>)> {
    let of_name = |name: &'static str| {
        let on = move |&backend: &BackendChoice| {
            let model = load(&files(name), backend, &()).unwrap();
            let prompt = Golden::read(&fixture(name)).prompts[0].ids.clone();
            (format!("{name} on {backend:?}"), model, prompt)
        };
        BackendChoice::BUILT_IN.iter().map(on)
    };
    STATEFUL.into_iter().flat_map(of_name)
}

/// The logits after the last of `tokens`, which are the sequence's next.
fn next(model: &mut dyn Model, sequence: SequenceId, tokens: &[u32]) -> Vec<f32> {
    let logits = forward(model, &[input(sequence, tokens)]);
    logits.rows().next().unwrap().to_vec()
}

#[test]
fn a_fork_at_a_snapshot_goes_on_as_the_original_did() {
    for (what, mut model, prompt) in models() {
        let model = &mut *model;
        assert!(model.info().state_bytes > 0, "{what}");
        let original = model.open().unwrap();
        let (head, rest) = prompt.split_at(20);
        let (middle, end) = rest.split_at(10);
        forward(model, &[silent(original, head)]);
        model.snapshot(original).unwrap();
        let after_middle = next(model, original, middle);
        model.snapshot(original).unwrap();
        let after_end = next(model, original, end);

        let fork = model.fork(original, 20).unwrap();
        // Off the path the original took first: it must not show in others.
        let astray = model.fork(original, 20).unwrap();
        let after_other = next(model, astray, &[5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
        assert_ne!(after_other, after_middle, "{what}");
        assert_eq!(next(model, fork, middle), after_middle, "{what}");
        assert_eq!(next(model, fork, end), after_end, "{what}");
        let second = model.fork(original, 30).unwrap();
        assert_eq!(next(model, second, end), after_end, "{what}");

        // A fork has the snapshots of its part, and goes on without the original.
        let drawn = model.fork(original, prompt.len()).unwrap();
        let expected = next(model, original, &[7]);
        model.close(original);
        assert_eq!(next(model, drawn, &[7]), expected, "{what}");
        for (fork, len) in [(second, 20), (astray, 20), (drawn, 20), (drawn, 30)] {
            let again = model.fork(fork, len).unwrap();
            if len == 20 {
                assert_eq!(next(model, again, middle), after_middle, "{what}");
            }
            assert_eq!(next(model, again, end), after_end, "{what}");
        }
        next(model, astray, &[7]);
        let refused = model.fork(astray, 30);
        assert!(matches!(refused, Err(ModelError::Input(_))), "{what}");
    }
}

#[test]
fn a_fork_elsewhere_is_refused() {
    for (what, mut model, prompt) in models() {
        let model = &mut *model;
        let sequence = model.open().unwrap();
        forward(model, &[silent(sequence, &prompt[..20])]);
        model.snapshot(sequence).unwrap();
        forward(model, &[silent(sequence, &prompt[20..30])]);
        for len in [0, 1, 19, 21, 29] {
            let error = model.fork(sequence, len).unwrap_err();
            assert!(matches!(error, ModelError::Input(_)), "{what}: {error}");
            let error = error.to_string();
            assert!(error.contains("no snapshot at"), "{what}: {error}");
        }
        let longer = model.fork(sequence, 31).unwrap_err().to_string();
        assert!(longer.contains("30 tokens, not 31"), "{what}: {longer}");
        // What was refused has changed nothing.
        let rest = next(model, sequence, &prompt[30..]);
        let fork = model.fork(sequence, 20).unwrap();
        forward(model, &[silent(fork, &prompt[20..30])]);
        assert_eq!(next(model, fork, &prompt[30..]), rest, "{what}");
        model.close(sequence);
        assert!(model.snapshot(sequence).is_err());
    }
}

#[test]
fn what_has_states_is_neither_exported_nor_imported() {
    for (what, mut model, prompt) in models() {
        let sequence = model.open().unwrap();
        forward(&mut *model, &[silent(sequence, &prompt)]);
        let exported = model.export(sequence, 0, 1).unwrap_err().to_string();
        assert!(exported.contains("carry states"), "{what}: {exported}");
        let imported = model.import(1, &mut std::iter::empty());
        let imported = imported.unwrap_err().to_string();
        assert!(imported.contains("carry states"), "{what}: {imported}");
    }
}

/// Bytes of the states of a sequence, and of its keys and values of a token,
/// as the backend holds them.
struct Held(ModelFiles);

impl WithBackend for Held {
    type Output = (usize, usize, ModelInfo);

    fn with<B: Backend>(self, backend: B) -> Self::Output {
        let config = DecoderConfig::load(&self.0).unwrap();
        let mut decoder = Decoder::load(backend, config, &self.0, &()).unwrap();
        let id = decoder.open().unwrap();
        // One token is less than a convolution sees.
        forward(&mut decoder, &[silent(id, &[1])]);
        let (backend, sequence) = decoder.parts(id).unwrap();
        let bytes = |x: &B::Tensor| backend.read(x).unwrap().len() * backend.element_type(x).size();
        let states = sequence.carried.states.iter();
        let states = states.flat_map(|state| state.conv.iter().chain(&state.delta));
        let states = states.map(bytes).sum();
        let kv = sequence.carried.kv.iter().map(|kv| {
            let raw = backend.read_kv(kv, 1).unwrap();
            raw.keys.bytes.len() + raw.values.bytes.len()
        });
        let kv = kv.sum();
        let info = decoder.info().clone();
        (states, kv, info)
    }
}

/// A fixture with its tensors changed by `edit`.
pub(super) fn edited(name: &str, edit: impl FnOnce(&mut HashMap<String, Stored>)) -> TempDir {
    let (from, to) = (fixture(name), tempfile::tempdir().unwrap());
    std::fs::copy(from.join("config.json"), to.path().join("config.json")).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let tensors = file
        .iter()
        .map(|(name, view)| (name.to_owned(), stored(view)));
    let mut tensors: HashMap<String, Stored> = tensors.collect();
    edit(&mut tensors);
    write(&to.path().join("model.safetensors"), &tensors);
    to
}

pub(super) fn of_folder(folder: &TempDir) -> ModelFiles {
    ModelFiles::Folder(folder.path().to_owned())
}

/// f32s in bf16, but for what mlx-lm keeps in f32.
fn halve(tensors: &mut HashMap<String, Stored>) {
    for (name, (dtype, _, data)) in tensors {
        if *dtype == safetensors::Dtype::F32 && !name.ends_with("A_log") {
            *dtype = safetensors::Dtype::BF16;
            *data = floats(data)
                .flat_map(|x| bf16::from_f32(x).to_le_bytes())
                .collect();
        }
    }
}

pub(super) fn floats(data: &[u8]) -> impl Iterator<Item = f32> + '_ {
    data.chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[test]
fn the_bytes_of_the_states_are_those_the_backend_holds() {
    for name in STATEFUL {
        let half = edited(name, halve);
        for &backend in BackendChoice::BUILT_IN {
            for (kind, files) in [("f32", files(name)), ("bf16", of_folder(&half))] {
                let (states, kv, info) = start(backend, Held(files)).unwrap();
                let what = format!("{name} in {kind} on {backend:?}");
                assert_eq!(info.state_bytes, states, "{what}");
                assert_eq!(info.kv_bytes_per_token, kv, "{what}");
            }
        }
    }
}

/// The logits of a fixture's prompts are what they are to be, read from other
/// files.
fn compare(name: &str, files: &ModelFiles) {
    let golden = Golden::read(&fixture(name));
    let layers = DecoderConfig::load(files).unwrap().layers.len();
    for &backend in BackendChoice::BUILT_IN {
        let tolerance = tolerance(unit_on(backend), layers, golden.scale);
        let mut model = load(files, backend, &()).unwrap();
        for case in &golden.prompts {
            for chunk in [case.ids.len(), 3] {
                let logits = logits_of(&mut *model, &case.ids, chunk);
                let what = format!("{name} on {backend:?} in pieces of {chunk}");
                assert_close(&logits, &case.logits, tolerance, &what);
            }
        }
    }
}

/// How much more than [`tolerance`] random models make of roundings: mlx-lm's
/// own logits in bf16 are off by up to 1.6 times that here.
const AMPLIFIED: f32 = 2.5;

/// The fixtures are in f32, and so is all that is computed without rounding:
/// here is what a backend computes in the type of the weights, or rounds to it,
/// if they are in less. Without experts, for rounding sends tokens to others of them.
#[test]
fn in_half_the_precision_logits_are_near_those_in_f32() {
    for name in ["lfm2-bias-f32", "lfm2-f32", "qwen3.5-f32"] {
        let files = edited(name, halve);
        let files = of_folder(&files);
        let Golden { prompts, scale, .. } = Golden::read(&fixture(name));
        let layers = DecoderConfig::load(&files).unwrap().layers.len();
        let mut wide = load(&files, BackendChoice::CandleF32, &()).unwrap();
        for &backend in BackendChoice::BUILT_IN {
            let mut model = load(&files, backend, &()).unwrap();
            let unit = match backend {
                BackendChoice::CandleF32 => F32_UNIT,
                _ => AMPLIFIED * BF16_UNIT,
            };
            for case in &prompts {
                let expected = logits_of(&mut *wide, &case.ids, case.ids.len());
                let logits = logits_of(&mut *model, &case.ids, 3);
                let what = format!("{name} on {backend:?}");
                assert_close(&logits, &expected, tolerance(unit, layers, scale), &what);
            }
        }
    }
}

/// `[a, b, c]` as `[a, c, b]`, where one of the last two is 1.
fn turn(tensor: &mut Stored) {
    tensor.1.swap(1, 2);
}

#[test]
fn files_that_mlx_lm_has_not_converted_are_read_as_they_are_meant() {
    let lfm2 = edited("lfm2-f32", |tensors| {
        for (_, tensor) in tensors
            .iter_mut()
            .filter(|(name, _)| name.contains("conv.conv"))
        {
            turn(tensor);
        }
    });
    compare("lfm2-f32", &of_folder(&lfm2));

    let qwen = edited("qwen3.5-f32", |tensors| {
        for (name, mut tensor) in std::mem::take(tensors) {
            let of_values = name.ends_with("linear_attn.norm.weight");
            if name.ends_with("norm.weight") && !of_values {
                let less = floats(&tensor.2).flat_map(|x| (x - 1.0).to_le_bytes());
                tensor.2 = less.collect();
            } else if name.contains("conv1d") {
                turn(&mut tensor);
            }
            let name = match name.strip_prefix("language_model.") {
                Some(head) if head.starts_with("lm_head") => head.to_owned(),
                Some(rest) => format!("model.language_model.{}", &rest["model.".len()..]),
                None => panic!("{name}"),
            };
            tensors.insert(name, tensor);
        }
        // What the text does not need is left alone.
        let other = (safetensors::Dtype::F32, vec![1], vec![0; 4]);
        tensors.insert("model.visual.patch_embed.weight".to_owned(), other.clone());
        tensors.insert("mtp.norm.weight".to_owned(), other);
    });
    compare("qwen3.5-f32", &of_folder(&qwen));
}

#[test]
fn experts_that_are_not_stacked_are_refused() {
    let apart = edited("qwen3.5-moe-f32", |tensors| {
        tensors.retain(|name, _| !name.contains("switch_mlp"));
    });
    let error = load_files(&of_folder(&apart)).err().unwrap().to_string();
    assert!(error.contains("mlx_lm.convert"), "{error}");
}
