//! The memory of tiles: many matrices side by side in large pages, where the
//! system has such. A step reads all weights once; in pages of 4 KiB a core
//! looks up so many addresses that it reads a fifth less in the same time.
//! Knows nothing of what the lines hold.

#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Line;
use crate::backend::cpu::memory::{Block, PAGE};

/// Bytes that are asked for at a time. What of them is never written takes no
/// memory, but for the rest of a page.
const BLOCK: usize = 16 * PAGE;

/// Lines of one owner, of a block that others have parts of, too.
pub(super) struct Lines {
    /// Within `block`, and in no other `Lines`.
    start: NonNull<Line>,
    count: usize,
    /// Keeps the memory.
    _block: Arc<Block>,
}

/// The block that is not full, and how many bytes of it have owners.
static OPEN: Mutex<(Weak<Block>, usize)> = Mutex::new((Weak::new(), 0));

// SAFETY: nobody else has these lines, so that they go where their owner goes;
// and a line is plain words.
unsafe impl Send for Lines {}
// SAFETY: they are written through `&mut` alone.
unsafe impl Sync for Lines {}

impl Lines {
    /// `count` lines of zeros.
    pub(super) fn zeroed(count: usize) -> Self {
        let size = count * size_of::<Line>();
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let (block, used) = match open.0.upgrade() {
            Some(block) if size <= block.size() - open.1 => (block, open.1),
            _ => (Arc::new(Block::new(size.max(BLOCK), PAGE)), 0),
        };
        *open = (Arc::downgrade(&block), used + size);
        drop(open);
        // SAFETY: `used + size` is at most the block's size, as was asked for
        // or made so.
        let start = unsafe { block.start().add(used) }.cast::<Line>();
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
