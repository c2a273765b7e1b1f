//! A slice that several threads write to at once, each to places of its own.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

/// What is left of a `&mut [T]` when its parts are given to threads by their
/// places, which the compiler cannot follow.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: all that it offers is `part`, whose callers answer for threads not
// meeting in a place; an element that one thread writes is of a type that may
// be sent to it.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    /// The elements in `places`, to be written.
    ///
    /// # Panics
    ///
    /// If they are not all there.
    ///
    /// # Safety
    ///
    /// While the answer is used, no other one of the same slice has a place in
    /// common with it.
    #[inline]
    pub(super) unsafe fn part(&self, places: Range<usize>) -> &'a mut [T] {
        let len = places.len();
        // SAFETY: the places are within the slice, which is borrowed for `'a`
        // by this alone; and nobody else has these, as the caller says.
        unsafe { std::slice::from_raw_parts_mut(self.start_of(places), len) }
    }

    /// Where `places` begin, some of which are to be written.
    ///
    /// # Panics
    ///
    /// If they are not all there.
    #[inline]
    pub(super) fn start_of(&self, places: Range<usize>) -> *mut T {
        assert!(places.start <= places.end && places.end <= self.len);
        self.start.wrapping_add(places.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_where_they_were_asked_for() {
        let mut places = [0; 10];
        let shared = Shared::new(&mut places);
        std::thread::scope(|scope| {
            for at in 0..5 {
                // SAFETY: each thread has two places of its own.
                scope.spawn(move || unsafe { shared.part(2 * at..2 * at + 2) }.fill(at));
            }
        });
        assert_eq!(places, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    }

    #[test]
    #[should_panic(expected = "places.end <= self.len")]
    fn there_is_nothing_behind_the_end() {
        let mut places = [0; 4];
        // SAFETY: there is one part.
        unsafe { Shared::new(&mut places).part(3..5) };
    }
}
