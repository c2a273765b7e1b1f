//! A model that computes numbers for most tokens and none for one.

use super::*;

/// The token whose embedding is not a number.
const POISON: u32 = 77;

/// A model of `tests/golden` whose embedding is not its output projection,
/// with one row of it spoilt.
fn poisoned() -> tempfile::TempDir {
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/qwen3-f16");
    let folder = tempfile::tempdir().unwrap();
    let config = "config.json";
    std::fs::copy(original.join(config), folder.path().join(config)).unwrap();
    let bytes = std::fs::read(original.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: HashMap<String, Stored> = file
        .iter()
        .map(|(name, view)| {
            let stored = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            (name.to_owned(), stored)
        })
        .collect();
    let (dtype, shape, data) = tensors.get_mut("model.embed_tokens.weight").unwrap();
    assert_eq!(*dtype, safetensors::Dtype::F16);
    let row = 2 * shape[1];
    let nan = half::f16::NAN.to_le_bytes();
    for element in data[POISON as usize * row..][..row].chunks_exact_mut(2) {
        element.copy_from_slice(&nan);
    }
    write(&folder.path().join("model.safetensors"), &tensors);
    folder
}

#[test]
fn a_sequence_without_numbers_has_no_token_and_those_beside_it_have_theirs() {
    let folder = poisoned();
    let files = ModelFiles::Folder(folder.path().to_owned());
    let prompts = [vec![5, 6, 7, 8], vec![9, 10, POISON], vec![11, 12]];
    for &backend in BackendChoice::BUILT_IN {
        let mut model = load(&files, backend, &()).unwrap();
        let model = &mut *model;
        let [first, _, third] = [0, 1, 2].map(|i| match prompts[i].contains(&POISON) {
            true => Vec::new(),
            false => greedy(model, &prompts[i], 6),
        });
        let sequences = [(); 3].map(|()| model.open().unwrap());
        let batch: Vec<Input<'_>> = sequences
            .iter()
            .zip(&prompts)
            .map(|(&sequence, prompt)| input(sequence, prompt))
            .collect();
        let mut step = model.submit(&batch).unwrap();
        // The steps after it are set off before anybody knows.
        let drawn = sequences.map(|sequence| Input {
            tokens: Tokens::Drawn,
            ..input(sequence, &[])
        });
        for round in 0..6 {
            let ahead = model.submit(&drawn).unwrap();
            let tokens = step.tokens().unwrap();
            let what = format!("round {round} on {backend:?}: {tokens:?}");
            assert_eq!(tokens[0], Some(first[round]), "{what}");
            assert_eq!(tokens[2], Some(third[round]), "{what}");
            assert!(round > 0 || tokens[1].is_none(), "{what}");
            step = ahead;
        }
    }
}
