//! The gated delta rule: a token each of several sequences, and the tokens of
//! one sequence a chunk at a time (Yang et al. 2024,
//! <https://arxiv.org/abs/2412.06464>, section 3.3). All of it is in f32.
//!
//! What decays is only ever multiplied by powers of e that are 0 or less:
//! nothing overflows, however strong the decay.

use std::cell::RefCell;

use mlx_rs::Array;
use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::{TryIndexMutOp, TryIndexOp};
use mlx_rs::ops::{concatenate, cumsum, eye, logaddexp, matmul, pad, select, sigmoid, stack, tri};
use mlx_rs::transforms::compile::compile;

use crate::backend::DeltaGates;

/// Tokens of a chunk at most.
const CHUNK: i32 = 64;

/// Matrices up to this many rows are inverted row by row.
const BY_ROWS: i32 = 16;

/// What the heads of a layer look like.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) key_heads: i32,
    pub(super) key_dim: i32,
    /// A multiple of `key_heads`.
    pub(super) heads: i32,
    pub(super) value_dim: i32,
}

impl Shape {
    /// That of these.
    ///
    /// # Errors
    /// If they do not fit together.
    pub(super) fn of(
        q: &Array,
        k: &Array,
        v: &Array,
        gates: &DeltaGates<'_, Array>,
    ) -> Result<Self, Exception> {
        let fits = || {
            let (&[rows, key_heads, key_dim], &[_, heads, value_dim]) = (k.shape(), v.shape())
            else {
                return None;
            };
            let fits = q.shape() == k.shape()
                && v.dim(0) == rows
                && ![key_heads, key_dim, heads, value_dim].contains(&0)
                && heads % key_heads == 0
                && [gates.a, gates.b]
                    .iter()
                    .all(|x| x.shape() == [rows, heads])
                && [gates.a_log, gates.dt_bias]
                    .iter()
                    .all(|x| x.shape() == [heads]);
            fits.then_some(Self {
                key_heads,
                key_dim,
                heads,
                value_dim,
            })
        };
        fits().ok_or_else(|| {
            Exception::custom(format!(
                "queries {:?}, keys {:?}, values {:?}, gates {:?}, {:?}, {:?} and {:?}",
                q.shape(),
                k.shape(),
                v.shape(),
                gates.a.shape(),
                gates.b.shape(),
                gates.a_log.shape(),
                gates.dt_bias.shape()
            ))
        })
    }

    /// Bytes of a sequence's state.
    pub(super) fn state_bytes(self) -> usize {
        let axes = [self.heads, self.value_dim, self.key_dim];
        let elements: usize = axes.iter().map(|&axis| axis as usize).product();
        elements * size_of::<f32>()
    }

    /// About as many bytes as `tokens` tokens of a sequence take at once,
    /// beside its state.
    pub(super) fn step_bytes(self, tokens: usize) -> usize {
        let [heads, key_dim, value_dim] =
            [self.heads, self.key_dim, self.value_dim].map(|axis| axis as usize);
        // The new state; of each token, queries, keys, values and what is made
        // of them, and its rows of half a dozen of its chunk's squares.
        let of_token = 4 * (key_dim + value_dim) + 6 * CHUNK as usize;
        self.state_bytes() + tokens * heads * of_token * size_of::<f32>()
    }
}

/// A function of arrays whose graph MLX has captured and fused.
type Compiled = Box<dyn for<'a> FnMut(&'a [Array]) -> Result<Vec<Array>, Exception>>;

/// What is done element by element, each as one kernel instead of several.
pub(in crate::backend::mlx) struct Deltas {
    gates: RefCell<Compiled>,
    learn: RefCell<Compiled>,
}

impl Deltas {
    pub(in crate::backend::mlx) fn new() -> Self {
        let fused = |function: fn(&[Array]) -> Result<Vec<Array>, Exception>| {
            RefCell::new(Box::new(compile(function, true)) as Compiled)
        };
        Self {
            gates: fused(gates),
            learn: fused(learn),
        }
    }

    /// The logarithm of what is left of each head's state at each token, 0 or
    /// less, and how much of the new is taken in, `[T, heads]` each.
    pub(super) fn gates(&self, gates: &DeltaGates<'_, Array>) -> Result<[Array; 2], Exception> {
        let inputs = [gates.a, gates.b, gates.a_log, gates.dt_bias].map(Array::clone);
        let outputs = (self.gates.borrow_mut())(&inputs)?;
        outputs.try_into().map_err(|_| not_as_many())
    }

    /// New states: of the old ones, of what they say of the keys, of what is
    /// left of them, of what is to be taken in, and of the values and keys.
    fn learn(&self, inputs: [Array; 6]) -> Result<Array, Exception> {
        let outputs = (self.learn.borrow_mut())(&inputs)?;
        outputs.into_iter().next().ok_or_else(not_as_many)
    }
}

fn not_as_many() -> Exception {
    Exception::custom("a compiled function gives not as many arrays as it was")
}

/// [`Deltas::gates`] of `a`, `b`, `a_log` and `dt_bias`.
fn gates(inputs: &[Array]) -> Result<Vec<Array>, Exception> {
    let [a, b, a_log, dt_bias] = inputs else {
        return Err(not_as_many());
    };
    let wide = |x: &Array| x.as_type::<f32>();
    let softplus = logaddexp(wide(a)?.add(wide(dt_bias)?)?, Array::from_f32(0.0))?;
    let log_decay = softplus.multiply(wide(a_log)?.exp()?.negative()?)?;
    Ok(vec![log_decay, sigmoid(wide(b)?)?])
}

/// As [`Deltas::learn`] says.
fn learn(inputs: &[Array]) -> Result<Vec<Array>, Exception> {
    let [states, known, decay, beta, v, k] = inputs else {
        return Err(not_as_many());
    };
    let new = v.subtract(known.multiply(decay)?)?.multiply(beta)?;
    Ok(vec![states.multiply(decay)?.add(new.multiply(k)?)?])
}

/// Some rows of a step.
pub(super) struct Step {
    /// `[T, key_heads, key_dim]`.
    pub(super) q: Array,
    /// `[T, key_heads, key_dim]`.
    pub(super) k: Array,
    /// `[T, heads, value_dim]`.
    pub(super) v: Array,
    /// `[T, heads]`.
    pub(super) log_decay: Array,
    /// `[T, heads]`.
    pub(super) beta: Array,
}

impl Step {
    /// Each row goes on with a state of its own of `states` `[T, heads,
    /// value_dim, key_dim]`: what is said, `[T, heads, value_dim]`, and the
    /// new states.
    pub(super) fn one_token_each(
        &self,
        shape: Shape,
        states: &Array,
        deltas: &Deltas,
    ) -> Result<(Array, Array), Exception> {
        let Shape {
            key_heads,
            key_dim,
            heads,
            value_dim,
        } = shape;
        let rows = states.dim(0);
        let group = heads / key_heads;
        // The value heads that share a key head, as one with many rows.
        let shared = [rows, key_heads, group * value_dim, key_dim];
        let of_value = [rows, key_heads, group, value_dim, 1];
        let of_head = [rows, key_heads, group, 1, 1];
        let known = states
            .reshape(&shared)?
            .matmul(self.k.expand_dims(3)?)?
            .reshape(&of_value)?;
        let states = deltas.learn([
            states.reshape(&[rows, key_heads, group, value_dim, key_dim])?,
            known,
            self.log_decay.exp()?.reshape(&of_head)?,
            self.beta.reshape(&of_head)?,
            self.v.reshape(&of_value)?,
            self.k.reshape(&[rows, key_heads, 1, 1, key_dim])?,
        ])?;
        let said = states
            .reshape(&shared)?
            .matmul(self.q.expand_dims(3)?)?
            .reshape(&[rows, heads, value_dim])?;
        Ok((said, states.reshape(&[rows, heads, value_dim, key_dim])?))
    }

    /// The rows go on, one after the other, with `state` `[1, heads,
    /// value_dim, key_dim]`: what is said, `[T, heads, value_dim]`, and the
    /// new state, `[heads, value_dim, key_dim]`.
    ///
    /// With the state `S` that a chunk begins with and `d(i, j)` for what
    /// decays from token `j` to token `i`, what the chunk's tokens take in is
    /// `n_i = beta_i (v_i - d(i, start) S k_i - sum_{j<i} d(i, j) n_j (k_j · k_i))`:
    /// a triangular system, which is solved for all chunks at once. Then one
    /// chunk after the other needs but a few products.
    pub(super) fn one_sequence(
        &self,
        shape: Shape,
        state: &Array,
    ) -> Result<(Array, Array), Exception> {
        let Shape {
            key_heads,
            key_dim,
            heads,
            value_dim,
        } = shape;
        let tokens = self.v.dim(0);
        let group = heads / key_heads;
        let chunk = match tokens {
            CHUNK.. => CHUNK,
            _ => tokens.unsigned_abs().next_power_of_two() as i32,
        };
        let chunks = (tokens + chunk - 1) / chunk;
        // Tokens that are added neither decay nor learn.
        let added = [(0, chunks * chunk - tokens), (0, 0), (0, 0)];
        // [T, a * b, width] as [a, b, chunks, chunk, width].
        let in_chunks = |x: &Array, [a, b]: [i32; 2], width: i32| -> Result<Array, Exception> {
            let x = match added[0].1 {
                0 => x.clone(),
                _ => pad(x, &added[..], None, None)?,
            };
            x.reshape(&[chunks, chunk, a, b, width])?
                .transpose_axes(&[2, 3, 0, 1, 4])
        };
        let of_key = [key_heads, 1];
        let of_value = [key_heads, group];
        let q = in_chunks(&self.q, of_key, key_dim)?;
        let k = in_chunks(&self.k, of_key, key_dim)?;
        let v = in_chunks(&self.v, of_value, value_dim)?;
        let log_decay = in_chunks(&self.log_decay.expand_dims(2)?, of_value, 1)?;
        let beta = in_chunks(&self.beta.expand_dims(2)?, of_value, 1)?;

        // [.., chunk, 1]: from before the chunk's first token on.
        let from_start = cumsum(&log_decay, -2, None, None)?.exp()?;
        // [.., chunk, chunk]: what is left at token i of what token j brought.
        // Summed for each j from there on: a difference of two sums would lose
        // what decays little after something that decays a lot.
        let before = tri::<bool>(chunk, None, Some(-1))?;
        let zero = Array::from_f32(0.0);
        let between = cumsum(select(&before, &log_decay, &zero)?, -2, None, None)?;
        let up_to = tri::<bool>(chunk, None, Some(0))?;
        let between = select(&up_to, between, Array::from_f32(f32::NEG_INFINITY))?.exp()?;
        // [.., chunk, 1]: until after its last token.
        let to_end = between
            .try_index((.., .., .., chunk - 1.., ..))?
            .swap_axes(-1, -2)?;

        let k_by_token = k.swap_axes(-1, -2)?;
        let system = matmul(&k, &k_by_token)?.multiply(&between)?;
        let system = select(&before, system, &zero)?.multiply(beta.negative()?)?;
        let solution = unit_inverse(&system.reshape(&[heads * chunks, chunk, chunk])?)?
            .reshape(&[key_heads, group, chunks, chunk, chunk])?;
        let new = solution.matmul(v.multiply(&beta)?)?;
        let known = solution.matmul(k.multiply(beta.multiply(&from_start)?)?)?;
        let scores = matmul(&q, &k_by_token)?.multiply(&between)?;
        let q = q.multiply(&from_start)?;
        let k = k.multiply(to_end)?;
        let left = from_start.try_index((.., .., .., chunk - 1.., ..))?;

        let mut state = state.reshape(&[key_heads, group, value_dim, key_dim])?;
        let mut said = Vec::with_capacity(chunks as usize);
        for index in 0..chunks {
            let of = |x: &Array| x.try_index((.., .., index, .., ..));
            let by_key = state.swap_axes(-1, -2)?;
            let new = of(&new)?.subtract(of(&known)?.matmul(&by_key)?)?;
            let old = of(&q)?.matmul(&by_key)?;
            said.push(of(&scores)?.matmul(&new)?.add(old)?);
            let learned = new.swap_axes(-1, -2)?.matmul(of(&k)?)?;
            state = state.multiply(of(&left)?)?.add(learned)?;
        }
        // [chunks, key_heads, group, chunk, value_dim].
        let said = stack(&said, 0)?
            .transpose_axes(&[0, 3, 1, 2, 4])?
            .reshape(&[chunks * chunk, heads, value_dim])?
            .try_index((..tokens, ..))?;
        Ok((said, state.reshape(&[heads, value_dim, key_dim])?))
    }
}

/// The inverses of `1 - a` for the strictly lower triangular matrices `a`
/// `[n, size, size]`, `size` a power of two.
///
/// Row by row, as one solves for them: `r_i = e_i + sum_{j<i} a_ij r_j`. The
/// two halves of large matrices by themselves, and what is between them by two
/// products with it. A series of powers of `a` would take fewer steps, but its
/// terms cancel each other where keys are alike.
fn unit_inverse(a: &Array) -> Result<Array, Exception> {
    let (count, size) = (a.dim(0), a.dim(1));
    if size > BY_ROWS {
        let half = size / 2;
        let first = a.try_index((.., ..half, ..half))?;
        let second = a.try_index((.., half.., half..))?;
        let between = a.try_index((.., half.., ..half))?;
        let inverses = unit_inverse(&concatenate(&[first, second], 0)?)?;
        let first = inverses.try_index((..count, ..))?;
        let second = inverses.try_index((count.., ..))?;
        let between = second.matmul(between)?.matmul(&first)?;
        let nothing = a.try_index((.., ..half, half..))?;
        let rows = [
            concatenate(&[first, nothing], 2)?,
            concatenate(&[between, second], 2)?,
        ];
        return concatenate(&rows, 1);
    }
    let mut inverse = a.add(eye::<f32>(size, None, None)?)?;
    for row in 2..size {
        let solved = a
            .try_index((.., row..row + 1, ..row))?
            .matmul(inverse.try_index((.., ..row, ..row))?)?;
        inverse.try_index_mut((.., row..row + 1, ..row), solved)?;
    }
    Ok(inverse)
}
