//! What mlx-rs leaves out of MLX: mxfp4 weights, arrays that are evaluated with
//! others, and what the device says of itself. The only file of this backend that calls MLX's C interface.
//!
//! By the time anything here is called, mlx-rs has evaluated something and
//! thereby replaced MLX's error handler, which would end the process, by one
//! that keeps the message to itself: what went wrong in a call made here is
//! known by its status alone.

#![allow(unsafe_code)]

use mlx_rs::error::Exception;
use mlx_rs::{Array, Stream};

/// Bits of an mxfp4 weight and weights that share an exponent.
const BITS: i32 = 4;
const GROUP_SIZE: i32 = 32;

fn given(value: i32) -> mlx_sys::mlx_optional_int {
    mlx_sys::mlx_optional_int {
        value,
        has_value: true,
    }
}

/// The array that `operation` writes, on the stream it is handed.
fn result(
    what: &str,
    operation: impl FnOnce(*mut mlx_sys::mlx_array, mlx_sys::mlx_stream) -> i32,
) -> Result<Array, Exception> {
    let stream = Stream::thread_local_or_default();
    // SAFETY: makes an empty handle and can do nothing else.
    let mut written = unsafe { mlx_sys::mlx_array_new() };
    let status = operation(&mut written, stream.as_ptr());
    // SAFETY: the handle is valid whatever the status, nobody else has it, and
    // the array frees it.
    let array = unsafe { Array::from_ptr(written) };
    match status {
        0 => Ok(array),
        _ => Err(Exception::custom(format!("{what} of mxfp4 weights failed"))),
    }
}

/// No array, where MLX takes one or none.
fn none() -> mlx_sys::mlx_array {
    // SAFETY: makes an empty handle, which owns nothing and need not be freed.
    unsafe { mlx_sys::mlx_array_new() }
}

/// `x` `[…, in]` times the transposed mxfp4 matrix: `[…, out]`.
pub(super) fn mxfp4_matmul(x: &Array, packed: &Array, scales: &Array) -> Result<Array, Exception> {
    result("the product", |written, stream| {
        // SAFETY: every handle is borrowed from an array that outlives the
        // call, or empty where MLX takes none; the mode ends in a NUL.
        unsafe {
            mlx_sys::mlx_quantized_matmul(
                written,
                x.as_ptr(),
                packed.as_ptr(),
                scales.as_ptr(),
                none(),
                true,
                given(GROUP_SIZE),
                given(BITS),
                c"mxfp4".as_ptr(),
                stream,
            )
        }
    })
}

/// `x` `[n, 1, in]`, each row times the transposed mxfp4 matrix that `experts`
/// `[n]` names: `[n, 1, out]`.
pub(super) fn mxfp4_gather_matmul(
    x: &Array,
    packed: &Array,
    scales: &Array,
    experts: &Array,
    sorted: bool,
) -> Result<Array, Exception> {
    result("the gathered product", |written, stream| {
        // SAFETY: as in `mxfp4_matmul`.
        unsafe {
            mlx_sys::mlx_gather_qmm(
                written,
                x.as_ptr(),
                packed.as_ptr(),
                scales.as_ptr(),
                none(),
                none(),
                experts.as_ptr(),
                true,
                given(GROUP_SIZE),
                given(BITS),
                c"mxfp4".as_ptr(),
                sorted,
                stream,
            )
        }
    })
}

/// The mxfp4 weights in bf16.
pub(super) fn mxfp4_dequantize(packed: &Array, scales: &Array) -> Result<Array, Exception> {
    let dtype = mlx_sys::mlx_optional_dtype {
        value: mlx_sys::mlx_dtype__MLX_BFLOAT16,
        has_value: true,
    };
    result("the unpacking", |written, stream| {
        // SAFETY: as in `mxfp4_matmul`.
        unsafe {
            mlx_sys::mlx_dequantize(
                written,
                packed.as_ptr(),
                scales.as_ptr(),
                none(),
                given(GROUP_SIZE),
                given(BITS),
                c"mxfp4".as_ptr(),
                none(),
                dtype,
                stream,
            )
        }
    })
}

/// `x`, whose evaluation also evaluates `others`.
pub(super) fn depends(x: &Array, others: &[Array]) -> Result<Array, Exception> {
    let others: Vec<mlx_sys::mlx_array> = others.iter().map(Array::as_ptr).collect();
    // SAFETY: the vectors are made here and freed once; they hold on to the
    // arrays they are made of, which outlive the calls. The array that is read
    // is in an empty handle made here, nobody else has it, and the array
    // returned frees it.
    unsafe {
        let inputs = mlx_sys::mlx_vector_array_new_value(x.as_ptr());
        let others = mlx_sys::mlx_vector_array_new_data(others.as_ptr(), others.len());
        let mut both = mlx_sys::mlx_vector_array_new();
        let mut read = mlx_sys::mlx_array_new();
        let done = mlx_sys::mlx_depends(&mut both, inputs, others) == 0
            && mlx_sys::mlx_vector_array_get(&mut read, both, 0) == 0;
        for vector in [inputs, others, both] {
            mlx_sys::mlx_vector_array_free(vector);
        }
        let read = Array::from_ptr(read);
        match done {
            true => Ok(read),
            false => Err(Exception::custom("the dependence on a state failed")),
        }
    }
}

/// Bytes the default device works well with, if it says so.
pub(super) fn recommended_working_set() -> Option<usize> {
    // SAFETY: each handle is made here, written by the call that is given its
    // address, and freed once; the key ends in a NUL.
    unsafe {
        let mut device = mlx_sys::mlx_device_new();
        let mut info = mlx_sys::mlx_device_info_new();
        let mut size = 0;
        let found = mlx_sys::mlx_get_default_device(&mut device) == 0
            && mlx_sys::mlx_device_info_get(&mut info, device) == 0
            && mlx_sys::mlx_device_info_get_size(
                &mut size,
                info,
                c"max_recommended_working_set_size".as_ptr(),
            ) == 0;
        mlx_sys::mlx_device_info_free(info);
        mlx_sys::mlx_device_free(device);
        found.then_some(size)
    }
}
