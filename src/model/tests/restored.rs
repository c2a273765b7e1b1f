//! Keys and values that were read out of a model and put into another one.

use half::f16;

use super::*;

/// All layers of the first `len` tokens.
fn exported(model: &dyn Model, sequence: SequenceId, len: usize) -> Vec<RawKv> {
    (0..model.info().kv.layers)
        .map(|layer| model.export(sequence, layer, len).unwrap())
        .collect()
}

fn on(backend: BackendChoice) -> Box<dyn Model> {
    load(&crate::demo::files(), backend, &()).unwrap()
}

#[test]
fn a_model_started_anew_goes_on_with_exactly_the_same_logits() {
    for &backend in BackendChoice::BUILT_IN {
        let mut model = on(backend);
        let prompt = ids(&golden()[0]["ids"]);
        let original = model.open().unwrap();
        forward(&mut *model, &[input(original, &prompt)]);
        let mut other = on(backend);
        assert_eq!(other.info().kv, model.info().kv);
        for len in [1, 50, prompt.len() - 1, prompt.len()] {
            let layers = exported(&*model, original, len);
            let bytes: usize = layers
                .iter()
                .map(|layer| layer.keys.bytes.len() + layer.values.bytes.len())
                .sum();
            assert_eq!(bytes, len * model.info().kv_bytes_per_token);
            let imported = other.import(len, &mut layers.into_iter()).unwrap();
            // A piece of prompt, then one token after the other.
            let fork = model.fork(original, len).unwrap();
            let rest = [&prompt[len..], &[7, 8, 9]].concat();
            for tokens in [&rest[..], &[10], &[11]] {
                let expected = forward(&mut *model, &[input(fork, tokens)]);
                let got = forward(&mut *other, &[input(imported, tokens)]);
                assert_eq!(got, expected, "{backend:?}, {len} tokens");
            }
            // What was put in can be read out again, and forked.
            let again = exported(&*other, imported, len);
            let first = exported(&*model, original, len);
            for (again, first) in again.iter().zip(&first) {
                assert_eq!(*again.keys.bytes, *first.keys.bytes);
                assert_eq!(*again.values.bytes, *first.values.bytes);
            }
            let forks = (
                model.fork(original, len).unwrap(),
                other.fork(imported, len).unwrap(),
            );
            let expected = forward(&mut *model, &[input(forks.0, &rest)]);
            assert_eq!(forward(&mut *other, &[input(forks.1, &rest)]), expected);
        }
    }
}

#[test]
fn what_is_not_there_is_not_exported() {
    for (mut model, _) in demos() {
        let sequence = model.open().unwrap();
        let layers = model.info().kv.layers;
        assert!(model.export(sequence, 0, 1).is_err());
        forward(&mut *model, &[input(sequence, &[1, 2, 3])]);
        model.export(sequence, layers - 1, 3).unwrap();
        for (layer, len) in [(0, 0), (0, 4), (layers, 3)] {
            let refused = model.export(sequence, layer, len);
            assert!(
                matches!(refused, Err(ModelError::Input(_))),
                "{layer} {len}"
            );
        }
        model.close(sequence);
        assert!(model.export(sequence, 0, 1).is_err());
    }
}

#[test]
fn what_is_not_the_models_is_not_imported_and_nothing_is_left_of_it() {
    for (mut model, tolerance) in demos() {
        let sequence = model.open().unwrap();
        forward(&mut *model, &[input(sequence, &[1, 2, 3])]);
        let layers = exported(&*model, sequence, 3);
        let mut import =
            |len, layers: Vec<RawKv>| model.import(len, &mut layers.into_iter()).map(drop);
        let missing = import(3, layers[..layers.len() - 1].to_vec()).unwrap_err();
        assert!(
            missing.to_string().contains("layer 5 are missing"),
            "{missing}"
        );
        assert!(import(0, layers.clone()).is_err());
        assert!(import(2, layers.clone()).is_err());
        assert!(import(4, layers.clone()).is_err());
        let mut swapped = layers.clone();
        swapped[2].values.shape = vec![3, 1, 128];
        let refused = import(3, swapped).unwrap_err();
        assert!(
            refused.to_string().contains("layer 2 are of another"),
            "{refused}"
        );
        import(3, layers).unwrap();
        let logits = forward(&mut *model, &[input(sequence, &[4])]);
        let alone = logits_of(&mut *model, &[1, 2, 3, 4], 4);
        let row = logits.rows().next().unwrap();
        assert_close(row, &alone, tolerance, "beside all that");
    }
}

/// candle's steps would fail on them.
#[test]
fn candle_takes_no_keys_of_another_type() {
    let mut model = demo();
    let sequence = model.open().unwrap();
    forward(&mut *model, &[input(sequence, &[1])]);
    let mut layers = exported(&*model, sequence, 1);
    let halves: Vec<u8> = (0..128).flat_map(|_| f16::ONE.to_le_bytes()).collect();
    layers[1].keys.dtype = crate::backend::Dtype::F16;
    layers[1].keys.bytes = halves.into();
    let refused = model.import(1, &mut layers.into_iter());
    assert!(matches!(refused, Err(ModelError::Backend(_))));
}
