//! Memory that begins at the beginning of a cache line, so that a vector is
//! in one line. Knows nothing of what is in it.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Bytes that are kept for the next page at most.
const KEPT: usize = 64 << 20;

/// Memory of pages that nobody has any more: fresh memory of the system's
/// takes longer to come by than to fill.
static FREE: Mutex<Free> = Mutex::new(Free {
    bytes: 0,
    by_lines: BTreeMap::new(),
});

struct Free {
    /// At most [`KEPT`].
    bytes: usize,
    /// By their number of lines.
    by_lines: BTreeMap<usize, Vec<Vec<Line>>>,
}

impl Free {
    fn take(&mut self, lines: usize) -> Option<Vec<Line>> {
        let found = self.by_lines.get_mut(&lines)?.pop()?;
        self.bytes -= size_of_val(&found[..]);
        Some(found)
    }

    fn give(&mut self, lines: Vec<Line>) {
        let bytes = size_of_val(&lines[..]);
        if bytes > 0 && self.bytes + bytes <= KEPT {
            self.bytes += bytes;
            self.by_lines.entry(lines.len()).or_default().push(lines);
        }
    }
}

fn free() -> MutexGuard<'static, Free> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory of a page. A clone is a copy.
#[derive(Default)]
pub(super) struct Lines(Vec<Line>);

impl Lines {
    /// Room for at least `len` elements, whatever they are.
    pub(super) fn of<T: Pod>(len: usize) -> Self {
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        let kept = free().take(lines);
        Self(kept.unwrap_or_else(|| vec![Line::zeroed(); lines]))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get<T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.0)
    }

    pub(super) fn get_mut<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl Clone for Lines {
    fn clone(&self) -> Self {
        let mut copy = Self::of::<Line>(self.0.len());
        copy.0.copy_from_slice(&self.0);
        copy
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.0);
        free().give(lines);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_size_is_used_again() {
        // A size that no other test has.
        let first = Lines::of::<u8>(64 * 12_345);
        let place = first.get::<u8>().as_ptr();
        drop(first);
        let mut second = Lines::of::<f32>(16 * 12_345);
        assert_eq!(second.get::<u8>().as_ptr(), place);
        second.get_mut::<f32>().fill(2.0);
        let copy = second.clone();
        assert_ne!(copy.get::<u8>().as_ptr(), place);
        assert_eq!(copy.get::<f32>(), second.get::<f32>());
    }

    #[test]
    fn so_much_is_kept_and_no_more() {
        let mut free = Free {
            bytes: 0,
            by_lines: BTreeMap::new(),
        };
        let lines = KEPT / size_of::<Line>() / 2;
        let some = || vec![Line::zeroed(); lines];
        free.give(some());
        free.give(some());
        free.give(some());
        free.give(Vec::new());
        assert_eq!(free.bytes, KEPT);
        assert!(free.take(1).is_none());
        assert!(free.take(lines).is_some());
        assert!(free.take(lines).is_some());
        assert!(free.take(lines).is_none());
        assert_eq!(free.bytes, 0);
    }
}
