
// --- Added to mlx-sys by llm-server's scripts/mlx/cargo ---------------------
// What mlx-rs expects of MLX on a Mac and the Linux build does not have.

/// mlx-c leaves the accessors of 16-bit floats out where the compiler has no
/// such type; their bits are those of a `u16`.
#[cfg(not(target_arch = "aarch64"))]
mod half_floats {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default)]
    pub struct float16_t(pub u16);
    pub type bfloat16_t = u16;

    pub unsafe fn mlx_array_item_float16(res: *mut float16_t, arr: mlx_array) -> i32 {
        unsafe { mlx_array_item_uint16(res.cast(), arr) }
    }
    pub unsafe fn mlx_array_item_bfloat16(res: *mut bfloat16_t, arr: mlx_array) -> i32 {
        unsafe { mlx_array_item_uint16(res, arr) }
    }
    pub unsafe fn mlx_array_data_float16(arr: mlx_array) -> *const float16_t {
        unsafe { mlx_array_data_uint16(arr).cast() }
    }
    pub unsafe fn mlx_array_data_bfloat16(arr: mlx_array) -> *const bfloat16_t {
        unsafe { mlx_array_data_uint16(arr) }
    }
}
#[cfg(not(target_arch = "aarch64"))]
pub use half_floats::*;

/// The clock that mlx-rs seeds its random state from.
#[no_mangle]
pub extern "C" fn mach_approximate_time() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64)
}
