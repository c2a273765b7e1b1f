//! The gated delta rule against its definition, token by token in f64.
//!
//! The rounding of f32 is 2^-24. A token rounds each element of a state and of
//! what is said some times, and keys that are not longer than 1 do not let
//! what was rounded before grow: over the few hundred tokens of these tests it
//! adds up to hundreds of roundings of either sign, which [`TOLERANCE`] has
//! room for.

use super::*;

/// Heads of the gated delta rule.
#[derive(Debug, Clone, Copy)]
struct Heads {
    key_heads: usize,
    heads: usize,
    key_dim: usize,
    value_dim: usize,
}

/// What the heads of a layer have learned.
struct Layer {
    shape: Heads,
    a_log: Vec<f32>,
    dt_bias: Vec<f32>,
}

/// Tokens as they come to the heads.
#[derive(Clone, Default)]
struct Tokens {
    count: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Tokens {
    fn of(dice: &mut Dice, shape: Heads, count: usize) -> Self {
        let Heads {
            key_heads,
            heads,
            key_dim,
            value_dim,
        } = shape;
        let unit = |dice: &mut Dice| -> Vec<f32> {
            let all = dice.floats(count * key_heads * key_dim);
            let unit = all.chunks(key_dim).flat_map(|x| {
                let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-3);
                x.iter().map(move |x| x / norm)
            });
            unit.collect()
        };
        let times = |x: Vec<f32>, factor: f32| x.iter().map(|x| x * factor).collect();
        Self {
            count,
            q: unit(dice),
            k: unit(dice),
            v: dice.floats(count * heads * value_dim),
            a: times(dice.floats(count * heads), 4.0),
            b: times(dice.floats(count * heads), 4.0),
        }
    }

    /// All of `parts`, one after the other.
    fn joined(parts: &[Self]) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.count += part.count;
            all.q.extend(&part.q);
            all.k.extend(&part.k);
            all.v.extend(&part.v);
            all.a.extend(&part.a);
            all.b.extend(&part.b);
        }
        all
    }

    /// Rounded to what bf16 holds.
    fn short(mut self) -> Self {
        for x in [
            &mut self.q,
            &mut self.k,
            &mut self.v,
            &mut self.a,
            &mut self.b,
        ] {
            short(x);
        }
        self
    }
}

pub(super) fn short(values: &mut [f32]) {
    for x in values {
        *x = half::bf16::from_f32(*x).to_f32();
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Layer {
    fn of(dice: &mut Dice, shape: Heads) -> Self {
        Self {
            shape,
            a_log: dice.floats(shape.heads).iter().map(|x| x * 3.0).collect(),
            dt_bias: dice.floats(shape.heads),
        }
    }

    fn state(&self) -> Vec<f64> {
        vec![0.0; self.shape.heads * self.shape.value_dim * self.shape.key_dim]
    }

    /// What the heads say, by the definition.
    fn expected(&self, tokens: &Tokens, state: &mut [f64]) -> Vec<f64> {
        let Heads {
            key_heads,
            heads,
            key_dim,
            value_dim,
        } = self.shape;
        let mut said = Vec::new();
        for token in 0..tokens.count {
            for head in 0..heads {
                let key_head = token * key_heads + head / (heads / key_heads);
                let k = wide(&tokens.k[key_head * key_dim..][..key_dim]);
                let q = wide(&tokens.q[key_head * key_dim..][..key_dim]);
                let place = token * heads + head;
                let x = f64::from(tokens.a[place]) + f64::from(self.dt_bias[head]);
                let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
                let g = (-f64::from(self.a_log[head]).exp() * softplus).exp();
                let beta = sigmoid(f64::from(tokens.b[place]));
                for row in 0..value_dim {
                    let s = &mut state[(head * value_dim + row) * key_dim..][..key_dim];
                    s.iter_mut().for_each(|s| *s *= g);
                    let known: f64 = s.iter().zip(&k).map(|(s, k)| s * k).sum();
                    let v = f64::from(tokens.v[place * value_dim + row]);
                    let new = beta * (v - known);
                    s.iter_mut().zip(&k).for_each(|(s, k)| *s += new * k);
                    said.push(s.iter().zip(&q).map(|(s, q)| s * q).sum());
                }
            }
        }
        said
    }

    /// What the heads say of the sequences' tokens, on `backend`; inputs as
    /// `make` makes tensors.
    fn said<B: Backend>(
        &self,
        backend: &B,
        make: impl Fn(&[usize], &[f32]) -> B::Tensor,
        parts: &[Tokens],
        states: &mut [Option<B::Tensor>],
    ) -> Vec<f32> {
        let all = Tokens::joined(parts);
        let Heads {
            key_heads,
            heads,
            key_dim,
            value_dim,
        } = self.shape;
        let of_key = [all.count, key_heads, key_dim];
        let mut spans = spans(parts.iter().map(|part| part.count), states);
        let said = backend.gated_delta(
            &make(&of_key, &all.q),
            &make(&of_key, &all.k),
            &make(&[all.count, heads, value_dim], &all.v),
            &DeltaGates {
                a: &make(&[all.count, heads], &all.a),
                b: &make(&[all.count, heads], &all.b),
                a_log: &tensor(backend, &[heads], &self.a_log),
                dt_bias: &make(&[heads], &self.dt_bias),
            },
            &mut spans,
        );
        backend.read(&said.unwrap()).unwrap()
    }
}

pub(super) fn spans<'a, T>(
    counts: impl Iterator<Item = usize>,
    states: &'a mut [Option<T>],
) -> Vec<StateSpan<'a, T>> {
    counts
        .zip(states)
        .map(|(tokens, state)| StateSpan { tokens, state })
        .collect()
}

/// Sequences that are fed step after step, each with its state on the backend
/// and in f64.
struct Run<T> {
    states: Vec<Option<T>>,
    expected: Vec<Vec<f64>>,
}

impl<T: Clone> Run<T> {
    fn new(sequences: usize, layer: &Layer) -> Self {
        Self {
            states: vec![None; sequences],
            expected: vec![layer.state(); sequences],
        }
    }

    /// The next tokens of each sequence, and how far off is what is said and
    /// left behind.
    fn go_on<B: Backend<Tensor = T>>(&mut self, backend: &B, layer: &Layer, parts: &[Tokens]) {
        let make = |shape: &[usize], values: &[f32]| tensor(backend, shape, values);
        let got = layer.said(backend, make, parts, &mut self.states);
        let counts: Vec<usize> = parts.iter().map(|part| part.count).collect();
        let what = format!("{:?} {counts:?}", layer.shape);
        let pairs = parts.iter().zip(&mut self.expected);
        let expected = pairs.flat_map(|(part, state)| layer.expected(part, state));
        assert_close(&got, &expected.collect::<Vec<_>>(), &what);
        self.check(backend, &what);
    }

    fn check<B: Backend<Tensor = T>>(&self, backend: &B, what: &str) {
        for (state, expected) in self.states.iter().zip(&self.expected) {
            match state {
                Some(state) => assert_close(&backend.read(state).unwrap(), expected, what),
                None => assert!(expected.iter().all(|&x| x == 0.0), "{what}"),
            }
        }
    }
}

const SHAPES: [Heads; 6] = [
    heads(1, 1, 16, 16),
    heads(1, 2, 8, 24),
    heads(2, 4, 33, 5),
    heads(2, 8, 7, 13),
    heads(3, 3, 1, 1),
    heads(2, 4, 128, 128),
];

const fn heads(key_heads: usize, heads: usize, key_dim: usize, value_dim: usize) -> Heads {
    Heads {
        key_heads,
        heads,
        key_dim,
        value_dim,
    }
}

on_every_backend! {
    fn the_delta_rule_is_what_it_says_over_ragged_steps(backend: &B) {
        let mut dice = Dice::new(21);
        for shape in SHAPES {
            let layer = Layer::of(&mut dice, shape);
            let mut run = Run::new(4, &layer);
            for step in [
                [70, 0, 1, 0],
                [1, 3, 1, 0],
                [1, 1, 1, 1],
                [130, 1, 1, 2],
                [1, 64, 65, 0],
                [2, 17, 1, 33],
                [0, 1, 0, 1],
            ] {
                let parts = step.map(|count| Tokens::of(&mut dice, shape, count));
                run.go_on(backend, &layer, &parts);
            }
        }
    }

    fn a_sequence_in_pieces_is_the_sequence(backend: &B) {
        let mut dice = Dice::new(22);
        for shape in [heads(1, 4, 32, 16), heads(2, 2, 12, 20)] {
            let layer = Layer::of(&mut dice, shape);
            let tokens: Vec<Tokens> =
                (0..200).map(|_| Tokens::of(&mut dice, shape, 1)).collect();
            for pieces in [vec![200], vec![1; 200], vec![64, 64, 64, 8], vec![63, 1, 65, 71]] {
                let mut run = Run::new(1, &layer);
                let mut rest = &tokens[..];
                for count in pieces {
                    let (piece, after) = rest.split_at(count);
                    run.go_on(backend, &layer, &[Tokens::joined(piece)]);
                    rest = after;
                }
            }
        }
    }

    fn decay_from_all_to_nothing_loses_no_digits(backend: &B) {
        let mut dice = Dice::new(23);
        let shape = heads(1, 4, 16, 16);
        let layer = Layer {
            shape,
            a_log: vec![-8.0, 0.0, 3.0, 5.0],
            dt_bias: vec![0.0; 4],
        };
        // Mostly next to no decay, at times nothing is left, at times nothing
        // at all is lost.
        let kinds = [-8.0, -40.0, -8.0, 0.5, -8.0, -9.0, 200.0, -8.0, 40.0, -7.0, -12.0];
        for period in [3, 7, 11] {
            let mut tokens = Tokens::of(&mut dice, shape, 300);
            for (index, a) in tokens.a.iter_mut().enumerate() {
                *a = kinds[index / 4 % period];
            }
            let mut run = Run::new(2, &layer);
            run.go_on(backend, &layer, &[tokens.clone(), Tokens::of(&mut dice, shape, 1)]);
            run.go_on(backend, &layer, &[Tokens::of(&mut dice, shape, 1), tokens]);
        }
    }

    fn keys_that_are_all_alike_cancel_nothing(backend: &B) {
        let mut dice = Dice::new(24);
        let shape = heads(2, 4, 16, 8);
        let layer = Layer { shape, a_log: vec![0.0; 4], dt_bias: vec![0.0; 4] };
        // Nothing decays, and each value replaces the one before.
        for (a, b) in [(-40.0, 40.0), (-40.0, 2.0), (-3.0, 40.0)] {
            let mut tokens = Tokens::of(&mut dice, shape, 200);
            let key = tokens.k[..32].to_vec();
            tokens.k = key.repeat(200);
            tokens.a.fill(a);
            tokens.b.fill(b);
            let mut run = Run::new(1, &layer);
            run.go_on(backend, &layer, &[tokens.clone()]);
            run.go_on(backend, &layer, &[tokens]);
        }
    }

    fn a_state_that_was_kept_stays_what_it_was(backend: &B) {
        let mut dice = Dice::new(25);
        let shape = heads(1, 2, 16, 16);
        let layer = Layer::of(&mut dice, shape);
        for first in [1, 3, 80] {
            let mut run = Run::new(2, &layer);
            let [a, b] = [first, 1].map(|count| Tokens::of(&mut dice, shape, count));
            run.go_on(backend, &layer, &[a, b]);
            let kept = Run { states: run.states.clone(), expected: run.expected.clone() };
            for counts in [[1, 1], [70, 1], [1, 2]] {
                let parts = counts.map(|count| Tokens::of(&mut dice, shape, count));
                run.go_on(backend, &layer, &parts);
            }
            kept.check(backend, "kept");
            drop(run);
            let mut kept = kept;
            let parts = [5, 1].map(|count| Tokens::of(&mut dice, shape, count));
            kept.go_on(backend, &layer, &parts);
        }
    }

    fn a_span_of_no_rows_leaves_its_state_as_it_is(backend: &B) {
        let mut dice = Dice::new(26);
        let shape = heads(1, 2, 4, 4);
        let layer = Layer::of(&mut dice, shape);
        let mut run = Run::new(3, &layer);
        for step in [[0, 1, 0], [0, 0, 5], [0, 1, 1], [0, 0, 1]] {
            let parts = step.map(|count| Tokens::of(&mut dice, shape, count));
            run.go_on(backend, &layer, &parts);
            assert!(run.states[0].is_none());
        }
    }

    fn what_is_kept_in_bf16_is_computed_in_f32(backend: &B) {
        let mut dice = Dice::new(28);
        let shape = heads(2, 4, 24, 16);
        let mut layer = Layer::of(&mut dice, shape);
        short(&mut layer.dt_bias);
        let make = |shape: &[usize], values: &[f32]| {
            let bytes = values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes());
            backend.parameter(&raw(Dtype::Bf16, shape, bytes.collect())).unwrap()
        };
        let mut states = vec![None; 3];
        let mut expected = vec![layer.state(); 3];
        for step in [[100, 1, 1], [1, 1, 1], [1, 70, 5]] {
            let parts = step.map(|count| Tokens::of(&mut dice, shape, count).short());
            let got = layer.said(backend, make, &parts, &mut states);
            let pairs = parts.iter().zip(&mut expected);
            let said: Vec<f64> = pairs.flat_map(|(part, state)| layer.expected(part, state)).collect();
            for (got, said) in got.iter().zip(&said) {
                // Rounded once, to 8 bits.
                let error = (f64::from(*got) - said).abs();
                assert!(error <= said.abs() / 256.0 + 1e-5, "{got} {said}");
            }
            for (state, expected) in states.iter().zip(&expected) {
                let state = state.as_ref().unwrap();
                assert_eq!(backend.element_type(state), Dtype::F32);
                assert_close(&backend.read(state).unwrap(), expected, "bf16");
            }
        }
    }

    fn heads_states_and_spans_that_do_not_fit_are_errors(backend: &B) {
        let zeros = |shape: &[usize]| tensor(backend, shape, &vec![0.0; shape.iter().product()]);
        let delta = |key_heads, heads, gated, tokens, state: Option<B::Tensor>| {
            let state = &mut { state };
            let (k, gate) = (zeros(&[3, key_heads, 4]), zeros(&[3, gated]));
            let (v, per_head) = (zeros(&[3, heads, 5]), zeros(&[gated]));
            let gates = DeltaGates { a: &gate, b: &gate, a_log: &per_head, dt_bias: &per_head };
            let spans = &mut [StateSpan { tokens, state }];
            backend.gated_delta(&k, &k, &v, &gates, spans).map(drop)
        };
        delta(2, 4, 4, 3, None).unwrap();
        delta(2, 4, 4, 3, Some(zeros(&[4, 5, 4]))).unwrap();
        for error in [
            delta(2, 3, 3, 3, None),
            delta(2, 4, 2, 3, None),
            delta(2, 4, 4, 2, None),
            delta(2, 4, 4, 3, Some(zeros(&[4, 4, 5]))),
        ] {
            assert_eq!(error.unwrap_err().op, "gated_delta");
        }
    }
}
