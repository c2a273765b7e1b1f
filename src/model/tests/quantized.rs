//! Models in floating point that are quantized at load, against what mlx-lm
//! computes with the same models once it has converted them.

use super::golden::{BF16_UNIT, F16_UNIT, F32_UNIT, Golden, ROUNDED_UNIT, fixture, tolerance};
use super::*;

fn reference() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/quantized.json")).unwrap()
}

#[test]
fn logits_are_those_of_a_converted_model() {
    for (name, by_bits) in reference()["models"].as_object().unwrap() {
        let golden = Golden::read(&fixture(name));
        for bits in [4, 8] {
            let reference = &by_bits[bits.to_string()];
            let quantize = Quantize::of_bits(bits).unwrap();
            let files = ModelFiles::Folder(fixture(name)).quantized(quantize);
            let layers = DecoderConfig::load(&files).unwrap().layers.len();
            for &backend in BackendChoice::BUILT_IN {
                let own = match name.rsplit_once('-').unwrap().1 {
                    "bf16" => BF16_UNIT,
                    "f16" => F16_UNIT,
                    _ => F32_UNIT,
                };
                let (unit, logits) = match backend {
                    BackendChoice::CandleF32 => (F32_UNIT, "logits"),
                    // Random models have no lead that roundings leave.
                    BackendChoice::Candle if own == F32_UNIT => continue,
                    BackendChoice::Candle => (ROUNDED_UNIT, "logits"),
                    _ if own == F32_UNIT => (F32_UNIT, "logits"),
                    // MLX computes in the type of the weights; on a CPU it
                    // takes the sums of quantized products in it, too, which
                    // is no small rounding: 3 % of a sum of 512 in bf16.
                    _ => (own, "own"),
                };
                let expected = reference[logits].clone();
                let expected: Vec<Vec<f32>> = serde_json::from_value(expected).unwrap();
                let mut model = load(&files, backend, &()).unwrap();
                for (case, expected) in golden.prompts.iter().zip(&expected) {
                    let logits = logits_of(&mut *model, &case.ids, 16);
                    let scale = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
                    let off = tolerance(unit, layers, scale);
                    let what = format!("{name}, {bits} bits on {backend:?}");
                    assert_close(&logits, expected, off, &what);
                }
            }
        }
    }
}

/// The adapter is added to what the base says, quantized or not.
#[test]
fn an_adapter_stays_beside_a_quantized_base() {
    let name = "qwen3-bf16";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("adapter_config.json"),
        r#"{"lora_parameters": {"rank": 1, "scale": 1.0}}"#,
    )
    .unwrap();
    let stored = |shape: [usize; 2], value: f32| -> Stored {
        let bytes = value.to_le_bytes().repeat(shape[0] * shape[1]);
        (safetensors::Dtype::F32, shape.to_vec(), bytes)
    };
    let path = "model.layers.1.self_attn.o_proj";
    let tensors = HashMap::from([
        (format!("{path}.lora_a"), stored([64, 1], 0.25)),
        (format!("{path}.lora_b"), stored([1, 64], 0.5)),
    ]);
    write(&folder.path().join("adapters.safetensors"), &tensors);
    let plain = ModelFiles::Folder(fixture(name));
    let prompt = &Golden::read(&fixture(name)).prompts[1].ids;
    let adapter = folder.path().to_owned();
    let both = [
        plain
            .clone()
            .quantized(Quantize::Eight)
            .with_adapter(adapter.clone()),
        plain
            .clone()
            .with_adapter(adapter.clone())
            .quantized(Quantize::Eight),
    ];
    let of = |files: &ModelFiles| {
        let mut model = load(files, BackendChoice::CandleF32, &()).unwrap();
        logits_of(&mut *model, prompt, 16)
    };
    let most_apart = |a: &[f32], b: &[f32]| {
        let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        apart.fold(0f32, f32::max)
    };
    let adapted = of(&plain.clone().with_adapter(adapter));
    let quantized = both.each_ref().map(of);
    assert_eq!(quantized[0], quantized[1]);
    let rounding = most_apart(&quantized[0], &adapted);
    assert!(rounding > 0.0, "nothing was quantized");
    let added = most_apart(&quantized[0], &of(&plain.quantized(Quantize::Eight)));
    assert!(added > 10.0 * rounding, "{added} against {rounding}");
}
