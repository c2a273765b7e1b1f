//! The memory of tiles: many matrices side by side in large pages, where the
//! system has such. A step reads all weights once; in pages of 4 KiB a core
//! looks up so many addresses that it reads a fifth less in the same time.
//! Knows nothing of what the lines hold.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Line;

/// A large page, of x86 and of most ARM.
const PAGE: usize = 2 << 20;

/// Bytes that are asked for at a time. What of them is never written takes no
/// memory, but for the rest of a page.
const BLOCK: usize = 16 * PAGE;

/// `MADV_HUGEPAGE` of Linux. Named here, as `libc` has it there alone.
const HUGE_PAGES: libc::c_int = 14;

/// Lines of one owner, of a block that others have parts of, too.
pub(super) struct Lines {
    /// Within `block`, and in no other `Lines`.
    start: NonNull<Line>,
    count: usize,
    /// Keeps the memory.
    _block: Arc<Block>,
}

/// Memory for lines, given back with the last of them.
struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

/// The block that is not full, and how many bytes of it have owners.
static OPEN: Mutex<(Weak<Block>, usize)> = Mutex::new((Weak::new(), 0));

// SAFETY: nobody else has these lines, so that they go where their owner goes;
// and a line is plain words.
unsafe impl Send for Lines {}
// SAFETY: they are written through `&mut` alone.
unsafe impl Sync for Lines {}
// SAFETY: a block is memory that it alone frees, when nobody has it any more.
unsafe impl Send for Block {}
// SAFETY: as above; of itself it gives nothing to read or write.
unsafe impl Sync for Block {}

impl Lines {
    /// `count` lines of zeros.
    pub(super) fn zeroed(count: usize) -> Self {
        let size = count * size_of::<Line>();
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (block, used) = match open.0.upgrade() {
            Some(block) if size <= block.layout.size() - open.1 => (block, open.1),
            _ => (Arc::new(Block::new(size.max(BLOCK))), 0),
        };
        *open = (Arc::downgrade(&block), used + size);
        drop(open);
        // SAFETY: `used + size` is at most the block's size, as was asked for
        // or made so.
        let start = unsafe { block.start.add(used) }.cast::<Line>();
        // SAFETY: these bytes are the block's, and nobody else's: `open` says
        // which are taken, and is locked from that being read until it is
        // told of these. Zeros are a line, and as `used` is a multiple of a
        // line's size, it is aligned.
        unsafe { start.write_bytes(0, count) };
        Self {
            start,
            count,
            _block: block,
        }
    }
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: `count` lines from `start` are ours and were written, and
        // nobody writes to them while we are borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as in `deref`; and we are borrowed by this alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.count) }
    }
}

impl Block {
    /// At least `size` bytes, not zero, in large pages if they can be had.
    fn new(size: usize) -> Self {
        let layout = Layout::from_size_align(size.next_multiple_of(PAGE), PAGE);
        let layout = layout.expect("lines of a matrix that is in memory are no more than can be");
        // SAFETY: the size is not zero: it is at least `BLOCK`.
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
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and nobody has a part of
        // it any more.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_have_lines_of_their_own() {
        let counts = [3, 0, 1, BLOCK / 64 - 7, 10, 2 * BLOCK / 64, 5];
        let mut all: Vec<Lines> = counts.map(Lines::zeroed).into();
        for (mark, lines) in (1..).zip(&mut all) {
            assert!(lines.iter().all(|line| line.0 == [0; 16]));
            lines.fill(Line([mark; 16]));
        }
        // Some go, and others come in their places or elsewhere.
        all.remove(3);
        all.push(Lines::zeroed(100));
        assert!(
            all.pop()
                .is_some_and(|lines| lines.iter().all(|line| line.0 == [0; 16]))
        );
        for (mark, (lines, count)) in
            [1, 2, 3, 5, 6, 7]
                .into_iter()
                .zip(all.iter().zip([3, 0, 1, 10, 2 * BLOCK / 64, 5]))
        {
            assert_eq!(lines.len(), count);
            assert!(lines.iter().all(|line| line.0 == [mark; 16]));
        }
    }
}
