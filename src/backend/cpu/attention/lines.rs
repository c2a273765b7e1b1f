//! Memory that begins at the beginning of a cache line, so that a vector is
//! in one line. Knows nothing of what is in it.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::{Pod, Zeroable};

use crate::backend::cpu::memory::{Block, PAGE};

/// A line of the cache.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Line([f32; 16]);

// SAFETY: 64 bytes of floats, aligned to 64 bytes: no padding, and zeros are
// floats.
unsafe impl Zeroable for Line {}
// SAFETY: as above, and any bits are floats.
unsafe impl Pod for Line {}

/// Bytes that nobody has, of pages that somebody had, before whole slabs of
/// them are given back.
const KEPT: usize = 64 << 20;

/// Pages of a slab.
const PAGES: usize = 16;

/// Memory of pages, in slabs of large pages of the system's. That of pages
/// which nobody has any more is used again: fresh memory takes longer to come
/// by than to fill.
static SLABS: Mutex<Slabs> = Mutex::new(Slabs {
    kept: KEPT,
    unused: 0,
    by_lines: BTreeMap::new(),
});

struct Slabs {
    /// As [`KEPT`] says.
    kept: usize,
    /// Bytes of pages that were given back.
    unused: usize,
    /// By the number of lines of their pages, then by where they begin.
    by_lines: BTreeMap<usize, BTreeMap<usize, Slab>>,
}

/// Memory of [`PAGES`] pages of one size.
struct Slab {
    block: Block,
    /// Pages that were handed out at all: the first so many.
    begun: usize,
    /// Those of them that were given back.
    free: Vec<usize>,
}

/// Bytes of a slab for pages of so many lines, and what it begins at a
/// multiple of, which is no less.
fn slab_layout(lines: usize) -> (usize, usize) {
    let size = (PAGES * lines * size_of::<Line>()).next_multiple_of(PAGE);
    (size, size.next_power_of_two())
}

impl Slabs {
    /// Memory of a page that nobody else has, of lines that are written.
    fn take(&mut self, lines: usize) -> NonNull<Line> {
        let bytes = lines * size_of::<Line>();
        let slabs = self.by_lines.entry(lines).or_default();
        for slab in slabs.values_mut() {
            if let Some(index) = slab.free.pop() {
                self.unused -= bytes;
                return slab.page(index, lines);
            }
        }
        if let Some(slab) = slabs.values_mut().find(|slab| slab.begun < PAGES) {
            return slab.begin(lines);
        }
        let (size, align) = slab_layout(lines);
        let mut slab = Slab {
            block: Block::new(size, align),
            begun: 0,
            free: Vec::with_capacity(PAGES),
        };
        let page = slab.begin(lines);
        slabs.insert(slab.block.start().as_ptr() as usize, slab);
        page
    }

    /// Takes the memory of a page back that [`Self::take`] gave.
    fn give(&mut self, page: NonNull<Line>, lines: usize) {
        let bytes = lines * size_of::<Line>();
        let (_, align) = slab_layout(lines);
        let place = page.as_ptr() as usize;
        let start = place & !(align - 1);
        let Some(slabs) = self.by_lines.get_mut(&lines) else {
            return;
        };
        let Some(slab) = slabs.get_mut(&start) else {
            return;
        };
        slab.free.push((place - start) / bytes);
        self.unused += bytes;
        if slab.free.len() == slab.begun && self.unused > self.kept {
            self.unused -= slab.begun * bytes;
            slabs.remove(&start);
        }
    }
}

impl Slab {
    /// A page that nobody had before.
    fn begin(&mut self, lines: usize) -> NonNull<Line> {
        let page = self.page(self.begun, lines);
        // SAFETY: the page is within the block, aligned as the block is, and
        // nobody has it. Zeros are lines.
        unsafe { page.write_bytes(0, lines) };
        self.begun += 1;
        page
    }

    /// Where page `index`, one of [`PAGES`], is.
    fn page(&self, index: usize, lines: usize) -> NonNull<Line> {
        // SAFETY: the block is as large as all the pages are.
        unsafe { self.block.start().cast::<Line>().add(index * lines) }
    }
}

fn slabs() -> MutexGuard<'static, Slabs> {
    SLABS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory of a page. A clone is a copy.
pub(super) struct Lines {
    /// In a slab, and in no other `Lines`; or of no lines.
    start: NonNull<Line>,
    count: usize,
}

// SAFETY: nobody else has these lines, which are plain numbers.
unsafe impl Send for Lines {}
// SAFETY: they are written through `&mut` alone, or where a caller of
// `part_mut` answers for it.
unsafe impl Sync for Lines {}

impl Default for Lines {
    fn default() -> Self {
        Self {
            start: NonNull::dangling(),
            count: 0,
        }
    }
}

impl Lines {
    /// Room for at least `len` elements, whatever they are.
    pub(super) fn of<T: Pod>(len: usize) -> Self {
        match (len * size_of::<T>()).div_ceil(size_of::<Line>()) {
            0 => Self::default(),
            count => Self {
                start: slabs().take(count),
                count,
            },
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn all(&self) -> &[Line] {
        // SAFETY: these lines are ours and written, and nobody writes to them
        // while we are borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }

    fn all_mut(&mut self) -> &mut [Line] {
        // SAFETY: as in `all`, and we are borrowed by this alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.count) }
    }

    /// A part of the elements.
    pub(super) fn part<T: Pod>(&self, range: Range<usize>) -> &[T] {
        let (place, len) = self.place(range);
        // SAFETY: lines of ours, that are written and that any `T` is in, and
        // nobody writes to them while we are borrowed: see `part_mut`.
        unsafe { std::slice::from_raw_parts(place, len) }
    }

    /// A part of the elements.
    ///
    /// # Safety
    /// Nobody reads or writes any of it while it lives.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part_mut<T: Pod>(&self, range: Range<usize>) -> &mut [T] {
        let (place, len) = self.place(range);
        // SAFETY: as in `part`, and the caller answers for others.
        unsafe { std::slice::from_raw_parts_mut(place, len) }
    }

    /// Where elements are that there are, and how many.
    fn place<T: Pod>(&self, range: Range<usize>) -> (*mut T, usize) {
        const { assert!(align_of::<T>() <= align_of::<Line>() && size_of::<T>() > 0) };
        let elements = self.count * size_of::<Line>() / size_of::<T>();
        assert!(range.start <= range.end && range.end <= elements);
        let start = self.start.as_ptr().cast::<T>();
        (start.wrapping_add(range.start), range.len())
    }

    pub(super) fn get_mut<T: Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.all_mut())
    }
}

impl Clone for Lines {
    fn clone(&self) -> Self {
        let mut copy = Self::of::<Line>(self.count);
        copy.all_mut().copy_from_slice(self.all());
        copy
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.is_empty() {
            slabs().give(self.start, self.count);
        }
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

    fn all<T: Pod>(page: &Lines) -> &[T] {
        bytemuck::cast_slice(page.all())
    }

    #[test]
    fn memory_of_a_size_is_used_again() {
        // A size that no other test has.
        let first = Lines::of::<u8>(64 * 12_345);
        let place = all::<u8>(&first).as_ptr();
        drop(first);
        let mut second = Lines::of::<f32>(16 * 12_345);
        assert_eq!(all::<u8>(&second).as_ptr(), place);
        second.get_mut::<f32>().fill(2.0);
        let copy = second.clone();
        assert_ne!(all::<u8>(&copy).as_ptr(), place);
        assert_eq!(all::<f32>(&copy), all::<f32>(&second));
    }

    #[test]
    fn pages_have_places_of_their_own() {
        // A size that no other test has, of more than one slab.
        let mut pages: Vec<Lines> = (0..40).map(|_| Lines::of::<u64>(8 * 77)).collect();
        for (mark, page) in (0u64..).zip(&mut pages) {
            assert!(all::<u64>(page).iter().all(|&x| x == 0));
            page.get_mut::<u64>().fill(mark);
        }
        // Every other one goes, and others come.
        let mut place = 0;
        pages.retain(|_| {
            place += 1;
            place % 2 == 0
        });
        let others: Vec<Lines> = (0..40)
            .map(|_| {
                let mut page = Lines::of::<u64>(8 * 77);
                page.get_mut::<u64>().fill(1_000);
                page
            })
            .collect();
        for (mark, page) in (1u64..).step_by(2).zip(&pages) {
            assert!(all::<u64>(page).iter().all(|&x| x == mark));
        }
        let other = |page: &Lines| all::<u64>(page).iter().all(|&x| x == 1_000);
        assert!(others.iter().all(other));
    }

    #[test]
    fn so_much_is_kept_and_no_more() {
        let lines = 100;
        let page = lines * size_of::<Line>();
        let mut slabs = Slabs {
            kept: 2 * page,
            unused: 0,
            by_lines: BTreeMap::new(),
        };
        let taken: Vec<_> = (0..2 * PAGES).map(|_| slabs.take(lines)).collect();
        assert_eq!(slabs.by_lines[&lines].len(), 2);
        let (first, second) = taken.split_at(PAGES);
        for page in &first[1..] {
            slabs.give(*page, lines);
        }
        // One is still somebody's.
        assert_eq!(slabs.by_lines[&lines].len(), 2);
        assert_eq!(slabs.unused, (PAGES - 1) * page);
        slabs.give(first[0], lines);
        assert_eq!(slabs.by_lines[&lines].len(), 1);
        assert_eq!(slabs.unused, 0);
        slabs.give(second[3], lines);
        assert_eq!(slabs.unused, page);
        assert_eq!(slabs.take(lines), second[3]);
        assert_eq!(slabs.unused, 0);
    }
}
