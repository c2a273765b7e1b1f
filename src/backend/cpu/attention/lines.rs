//! Memory that begins at the beginning of a cache line, so that a vector is
//! in one line. Knows nothing of what is in it.

#![allow(unsafe_code)]

use bytemuck::{Pod, Zeroable};

/// A line of the cache.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Line([f32; 16]);

// SAFETY: 64 bytes of floats, aligned to 64 bytes: no padding, and zeros are
// floats.
unsafe impl Zeroable for Line {}
// SAFETY: as above, and any bits are floats.
unsafe impl Pod for Line {}

/// Room for at least `len` elements, zeros.
pub(super) fn zeros<T: Pod>(len: usize) -> Vec<Line> {
    vec![Line::zeroed(); (len * size_of::<T>()).div_ceil(size_of::<Line>())]
}

/// Memory that is used again and again.
#[derive(Default)]
pub(super) struct Room(Vec<Line>);

impl Room {
    /// `len` elements, whatever they are.
    pub(super) fn get(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line::zeroed());
        }
        &mut bytemuck::cast_slice_mut(&mut self.0)[..len]
    }
}
