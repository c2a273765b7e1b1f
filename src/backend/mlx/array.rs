//! Stored tensors as arrays of MLX's.

use bytemuck::Pod;
use half::{bf16, f16};
use mlx_rs::{Array, ArrayElement};

use super::memory::Memory;
use crate::backend::{BackendError, Dtype, RawTensor};

/// A length as MLX counts.
///
/// # Errors
/// If it is 2^31 or more.
pub(super) fn length(length: usize, op: &'static str) -> Result<i32, BackendError> {
    i32::try_from(length).map_err(|_| BackendError {
        op,
        reason: format!("{length} is more than MLX can count to"),
    })
}

/// A copy of a stored tensor, in the type it is stored in.
pub(super) fn from_raw(raw: &RawTensor, memory: &Memory) -> Result<Array, BackendError> {
    let op = "load";
    memory.check(raw.bytes.len(), op)?;
    // mlx-rs counts elements in an i32.
    length(raw.shape.iter().product(), op)?;
    let shape = raw
        .shape
        .iter()
        .map(|&axis| length(axis, op))
        .collect::<Result<Vec<_>, _>>()?;
    let array = match raw.dtype {
        Dtype::F32 => typed(&raw.bytes, |elements: &[f32]| {
            Array::from_slice(elements, &shape)
        }),
        Dtype::F16 => typed(&raw.bytes, |elements: &[f16]| {
            Array::from_slice(elements, &shape)
        }),
        Dtype::Bf16 => typed(&raw.bytes, |elements: &[bf16]| {
            Array::from_slice(elements, &shape)
        }),
        Dtype::U32 => typed(&raw.bytes, |elements: &[u32]| {
            Array::from_slice(elements, &shape)
        }),
        Dtype::U8 => typed(&raw.bytes, |elements: &[u8]| {
            Array::from_slice(elements, &shape)
        }),
    };
    // mlx-rs gives an empty handle where MLX had no memory.
    if array.as_ptr().ctx.is_null() {
        return Err(BackendError {
            op,
            reason: format!("MLX has no {} bytes left", raw.bytes.len()),
        });
    }
    Ok(array)
}

/// What [`from_raw`] makes the same array of. The array is evaluated and
/// row-major.
pub(super) fn to_raw(array: &Array, op: &'static str) -> Result<RawTensor, BackendError> {
    fn bytes<T: ArrayElement + Pod>(
        array: &Array,
        op: &'static str,
    ) -> Result<Vec<u8>, BackendError> {
        let elements = array.to_vec_exact::<T>().map_err(|error| BackendError {
            op,
            reason: error.to_string(),
        })?;
        Ok(bytemuck::cast_slice(&elements).to_vec())
    }
    let dtype = element_type(array);
    let bytes = match dtype {
        Dtype::F16 => bytes::<f16>(array, op)?,
        Dtype::Bf16 => bytes::<bf16>(array, op)?,
        _ => bytes::<f32>(array, op)?,
    };
    Ok(RawTensor {
        dtype,
        shape: array.shape().iter().map(|&axis| axis as usize).collect(),
        bytes: bytes.into(),
    })
}

/// The type of an activation's elements.
pub(super) fn element_type(array: &Array) -> Dtype {
    match array.dtype() {
        mlx_rs::Dtype::Float16 => Dtype::F16,
        mlx_rs::Dtype::Bfloat16 => Dtype::Bf16,
        // No activation is of another type.
        _ => Dtype::F32,
    }
}

fn typed<T: Pod>(bytes: &[u8], array: impl FnOnce(&[T]) -> Array) -> Array {
    if let Ok(elements) = bytemuck::try_cast_slice(bytes) {
        return array(elements);
    }
    // A file may put a tensor where its elements are not aligned.
    let mut aligned = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    bytemuck::cast_slice_mut(&mut aligned).copy_from_slice(bytes);
    array(&aligned)
}
