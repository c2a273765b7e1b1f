//! Tokens drawn on the device, so that the next step can begin before the
//! host has seen them. What is drawn is what [`crate::backend::Sampler`] says.

use mlx_rs::error::Exception;
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis};
use mlx_rs::ops::{concatenate, minimum, select, sort_axis};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use super::failed;
use crate::backend::{BackendError, Draw, ShortList, TokenSource};

/// Token ids that a step drew.
pub struct Tokens {
    /// `[n]`, `u32`.
    ids: Array,
    /// `[n]`: whether the logits each was drawn from were numbers.
    sound: Array,
}

impl Tokens {
    /// The ids of a step, part after part: `[T]`.
    pub(super) fn gather(parts: &[TokenSource<'_, Self>]) -> Result<Array, Exception> {
        // Decoding: each sequence of the last step again, in the same order.
        if let Some(TokenSource::Drawn(all, 0)) = parts.first()
            && all.ids.dim(0) as usize == parts.len()
            && parts.iter().zip(0..).all(|(part, index)| {
                matches!(part, TokenSource::Drawn(tokens, place)
                    if std::ptr::eq(*tokens, *all) && *place == index)
            })
        {
            return Ok(all.ids.clone());
        }
        let mut ids = Vec::with_capacity(parts.len());
        for part in parts {
            ids.push(match part {
                TokenSource::Given(given) => Array::from_slice(given, &[given.len() as i32]),
                TokenSource::Drawn(tokens, place) => {
                    let place = *place as i32;
                    tokens.ids.try_index(place..place + 1)?
                }
            });
        }
        match ids.len() {
            1 => Ok(ids.swap_remove(0)),
            _ => concatenate(&ids, 0),
        }
    }

    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        [&self.ids, &self.sound].into_iter()
    }

    /// Waits for them.
    pub(super) fn read(&self) -> Result<ShortList<Option<u32>>, BackendError> {
        let op = "read_tokens";
        eval(self.arrays()).map_err(failed(op))?;
        let unreadable = |error: mlx_rs::error::ConversionError| BackendError {
            op,
            reason: error.to_string(),
        };
        let ids = self.ids.to_vec_exact::<u32>().map_err(unreadable)?;
        let sound = self.sound.to_vec_exact::<bool>().map_err(unreadable)?;
        let drawn = ids.into_iter().zip(sound);
        Ok(drawn.map(|(id, sound)| sound.then_some(id)).collect())
    }
}

/// A token from each row of `logits` `[n, vocabulary]`.
pub(super) fn sample(logits: &Array, draws: &[Draw]) -> Result<Tokens, Exception> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    let top = logits.max_axis(-1, true)?;
    let best = argmax_axis(&logits, -1, false)?;
    let sound = top.is_finite()?.squeeze_axes(&[-1])?;
    let ids = match draws.iter().all(|draw| draw.temperature == 0.0) {
        true => best,
        false => {
            let cold: Vec<bool> = draws.iter().map(|draw| draw.temperature == 0.0).collect();
            let cold = Array::from_slice(&cold, &[draws.len() as i32]);
            select(cold, best, random(&logits, &top, draws)?)?
        }
    };
    Ok(Tokens { ids, sound })
}

/// Draws at the temperatures, none of which matters where it is 0.
fn random(logits: &Array, top: &Array, draws: &[Draw]) -> Result<Array, Exception> {
    let vocabulary = logits.dim(1);
    // [n, 1] of a number a row.
    let column = |of: &dyn Fn(&Draw) -> f32| {
        let values: Vec<f32> = draws.iter().map(of).collect();
        Array::from_slice(&values, &[draws.len() as i32, 1])
    };
    let relative = logits.subtract(top)?;
    // The probabilities, but for a factor a row: 1 for the most likely.
    let shares = relative.exp()?;
    let mut kept: Option<Array> = None;
    let mut keep = |more: Array| -> Result<(), Exception> {
        kept = Some(match kept.take() {
            Some(before) => before.logical_and(&more)?,
            None => more,
        });
        Ok(())
    };
    let protects = |draw: &Draw| draw.min_p > 0.0 && draw.min_tokens_to_keep > 1;
    let has_top_p = draws.iter().any(Draw::has_top_p);
    let sorted = match has_top_p || draws.iter().any(protects) {
        true => Some(sort_axis(&shares, -1)?),
        false => None,
    };
    if let Some(sorted) = &sorted
        && has_top_p
    {
        // Rising, so that what is below a share adds up first: a share stays
        // if what is below and itself exceed what may be dropped.
        let below = sorted.cumsum(-1, false, true)?;
        let all = below.try_index((.., vocabulary - 1..))?;
        let droppable = all.multiply(column(&|draw| match draw.has_top_p() {
            true => 1.0 - draw.top_p,
            false => -1.0,
        }))?;
        let stays = below.gt(&droppable)?;
        let infinite = Array::from_slice(&[f32::INFINITY], &[1]);
        let least = select(stays, sorted, infinite)?.min_axis(-1, true)?;
        // The most likely stays whatever rounding says.
        let least = minimum(least, Array::from_slice(&[1.0f32], &[1]))?;
        keep(shares.ge(&least)?)?;
    }
    if draws.iter().any(|draw| draw.min_p > 0.0) {
        let mut least = column(&|draw| draw.min_p.max(0.0));
        if let Some(sorted) = &sorted {
            // The least likely of those that must stay.
            let places: Vec<i32> = draws
                .iter()
                .map(|draw| match protects(draw) {
                    true => (vocabulary - draw.min_tokens_to_keep.min(vocabulary as usize) as i32)
                        .max(0),
                    false => vocabulary - 1,
                })
                .collect();
            let places = Array::from_slice(&places, &[draws.len() as i32, 1]);
            least = minimum(least, sorted.take_along_axis(places, -1)?)?;
        }
        keep(shares.ge(&least)?)?;
    }
    let inverse = column(&|draw| match draw.temperature {
        0.0 => 1.0,
        temperature => temperature.recip(),
    });
    let weights = relative.multiply(inverse)?.exp()?;
    let weights = match kept {
        Some(kept) => select(kept, weights, Array::from_slice(&[0.0f32], &[1]))?,
        None => weights,
    };
    // Side by side in the order of the vocabulary: the token is the first
    // whose end is beyond the place drawn.
    let ends = weights.cumsum(-1, false, true)?;
    let all = ends.try_index((.., vocabulary - 1..))?;
    // Below the whole even if the product rounds up, so that the token is
    // one that has a part of it.
    let almost = all.multiply(Array::from_slice(&[1.0 - f32::EPSILON], &[1]))?;
    let place = minimum(all.multiply(column(&|draw| draw.uniform))?, almost)?;
    argmax_axis(ends.gt(&place)?, -1, false)
}
