//! Memory in large pages, where the system has such: what is read once a step
//! from end to end takes fewer addresses to look up, and memory that is new to
//! the process comes in fewer, larger pieces. Knows nothing of what is in it.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// A large page, of x86 and of most ARM.
pub(super) const PAGE: usize = 2 << 20;

/// `MADV_HUGEPAGE` of Linux. Named here, as `libc` has it there alone.
const HUGE_PAGES: libc::c_int = 14;

/// Memory for one owner.
pub(super) struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it is memory that the block alone frees, and of itself it gives
// nothing to read or write.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// At least `size` bytes, whatever is in them: whole large pages that
    /// begin at a multiple of `align`, a power of two, and of [`PAGE`].
    ///
    /// # Panics
    /// If `size` is zero, or more than can be.
    pub(super) fn new(size: usize, align: usize) -> Self {
        assert!(size > 0, "memory of no size");
        let layout = Layout::from_size_align(size.next_multiple_of(PAGE), align.max(PAGE));
        let layout = layout.expect("no more is asked for than fits into memory");
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout);
        };
        if std::env::consts::OS == "linux" {
            // SAFETY: it is our memory, of whole pages, whose contents this
            // leaves as they are. If it fails, they are small pages.
            unsafe { libc::madvise(start.as_ptr().cast(), layout.size(), HUGE_PAGES) };
        }
        Self { start, layout }
    }

    /// Where it begins.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes.
    pub(super) fn size(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and is not used any more:
        // whoever has made use of it has kept it.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_pages_where_they_are_asked_for() {
        for (size, align) in [(1, 1), (PAGE, PAGE), (PAGE + 1, 8 * PAGE)] {
            let block = Block::new(size, align);
            assert!(block.size() >= size && block.size().is_multiple_of(PAGE));
            assert!((block.start().as_ptr() as usize).is_multiple_of(align.max(PAGE)));
        }
    }
}
