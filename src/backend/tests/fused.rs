//! Operations that are several in one: bit for bit what those are one after
//! the other.

use super::matrices::every_format;
use super::*;

on_every_backend! {
    fn a_sum_and_its_norm_are_what_they_are_one_after_the_other(backend: &B) {
        let mut dice = Dice::new(21);
        let columns = 256;
        let weight = tensor(backend, &[columns], &dice.floats(columns));
        for (what, matrix, _) in every_format(&mut dice, &[40, columns]) {
            let matrix = backend.matrix(matrix).unwrap();
            let project = |x: &B::Tensor| backend.read(&backend.project(x, &matrix).unwrap()).unwrap();
            // Of the first ones nobody knows yet what will be asked of them.
            for tokens in [1, 3, 8, 20, 61, 3] {
                let [x, said] = [(); 2].map(|()| dice.floats(tokens * columns));
                let x = || tensor(backend, &[tokens, columns], &x);
                let said = tensor(backend, &[tokens, columns], &said);
                let sum = backend.add(x(), &said).unwrap();
                let normed = backend.rms_norm(&sum, &weight, 1e-5).unwrap();
                let expected = [&sum, &normed].map(|x| backend.read(x).unwrap());
                let products = project(&normed);
                let (sum, normed) = backend.add_norm(x(), &said, &weight, 1e-5).unwrap();
                let got = [&sum, &normed].map(|x| backend.read(x).unwrap());
                assert!(got == expected, "{what}, {tokens} tokens");
                assert!(project(&normed) == products, "{what}, {tokens} tokens");
                assert!(project(&sum) != products, "{what}, {tokens} tokens");
            }
        }
    }

    fn heads_are_normed_and_rotated_as_they_are_one_after_the_other(backend: &B) {
        let mut dice = Dice::new(22);
        let (heads, kv_heads, head_dim) = (6, 2, 64);
        for tokens in [1, 5, 40] {
            let positions: Vec<u32> = (3..).take(tokens).collect();
            let inv_freq: Vec<f32> = (0..24).map(|i| 0.5f32.powi(i)).collect();
            let rotation = |magnitude| {
                backend.rotation(&positions, &inv_freq, |_| magnitude).unwrap()
            };
            let rotations = [rotation(1.0), rotation(0.75)];
            let norms = [(); 2].map(|()| tensor(backend, &[head_dim], &dice.floats(head_dim)));
            let given = [heads, kv_heads].map(|heads| {
                let count = tokens * heads * head_dim;
                (vec![tokens, heads, head_dim], dice.floats(count))
            });
            let given = || given.each_ref().map(|(shape, x)| tensor(backend, shape, x));
            for (normed, rotated) in [(true, true), (true, false), (false, true), (false, false)] {
                let mut expected = given();
                for ((x, norm), rotation) in expected.iter_mut().zip(&norms).zip(&rotations) {
                    if normed {
                        *x = backend.rms_norm(x, norm, 1e-6).unwrap();
                    }
                    if rotated {
                        *x = backend.rotate(x.clone(), rotation).unwrap();
                    }
                }
                let norms = normed.then(|| norms.each_ref());
                let rotations = rotated.then(|| rotations.each_ref());
                let got = backend.norm_rotate(given(), norms, 1e-6, rotations).unwrap();
                let read = |x: [B::Tensor; 2]| x.map(|x| backend.read(&x).unwrap());
                assert!(read(got) == read(expected), "{tokens} tokens, {normed}, {rotated}");
            }
        }
    }
}

#[test]
fn heads_of_other_shapes_are_refused() {
    struct Work;
    impl WithBackend for Work {
        type Output = ();
        fn with<B: Backend>(self, backend: B) {
            let heads = |tokens, head_dim| {
                tensor(
                    &backend,
                    &[tokens, 1, head_dim],
                    &vec![1.0; tokens * head_dim],
                )
            };
            let rotation = backend.rotation(&[0, 1], &[1.0; 8], |_| 1.0).unwrap();
            let norm = tensor(&backend, &[16], &[1.0; 16]);
            let go =
                |q, k| backend.norm_rotate([q, k], Some([&norm; 2]), 1e-6, Some([&rotation; 2]));
            assert!(go(heads(2, 16), heads(2, 16)).is_ok());
            assert!(go(heads(2, 16), heads(3, 16)).is_err());
            assert!(go(heads(2, 16), heads(2, 32)).is_err());
            assert!(go(heads(3, 16), heads(3, 16)).is_err());
            let (x, said) = (
                tensor(&backend, &[2, 16], &[1.0; 32]),
                tensor(&backend, &[3, 16], &[1.0; 48]),
            );
            assert!(backend.add_norm(x, &said, &norm, 1e-6).is_err());
        }
    }
    start(BackendChoice::Candle, Work).unwrap();
}
