//! Arrays of `f32` whose memory is used again: what one step has freed, the
//! next one takes, and the system hands out no fresh pages for it.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::{Rc, Weak};

use super::Result;

/// Buffers that are kept for later at most. A step has about ten at a time.
const KEPT: usize = 48;

/// Buffers are of at least so many elements.
const SMALLEST: usize = 1024;

/// Elements in row-major order, of up to three axes. A clone is the same
/// elements.
pub struct Array {
    storage: Rc<Storage>,
    shape: Shape,
}

/// The length of each axis.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    axes: [usize; 3],
    rank: usize,
}

struct Storage {
    /// As many as the array has, or more.
    elements: Box<[f32]>,
    /// What is in it: no other content of the same pool had this number.
    content: Cell<u64>,
    pool: Weak<Pool>,
}

/// The buffers that nobody uses.
#[derive(Default)]
pub(super) struct Pool {
    free: RefCell<Vec<Rc<Storage>>>,
    contents: Cell<u64>,
}

impl Shape {
    /// # Errors
    /// If there are more than three axes.
    pub(super) fn new(axes: &[usize]) -> Result<Self> {
        if axes.is_empty() || axes.len() > 3 {
            return Err(format!("{} axes", axes.len()));
        }
        let mut shape = Self {
            axes: [1; 3],
            rank: axes.len(),
        };
        shape.axes[..axes.len()].copy_from_slice(axes);
        Ok(shape)
    }

    fn count(&self) -> usize {
        self.axes.iter().product()
    }
}

impl<const RANK: usize> From<[usize; RANK]> for Shape {
    fn from(from: [usize; RANK]) -> Self {
        const { assert!(RANK > 0 && RANK <= 3) };
        let mut axes = [1; 3];
        axes[..RANK].copy_from_slice(&from);
        Self { axes, rank: RANK }
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.axes[..self.rank]
    }
}

impl Pool {
    /// An array of that shape; what is in it is left over from others.
    pub(super) fn array(self: &Rc<Self>, shape: impl Into<Shape>) -> Array {
        let shape = shape.into();
        let storage = self.storage(shape.count());
        storage.content.set(self.next_content());
        Array { storage, shape }
    }

    /// An array of those elements.
    pub(super) fn filled(self: &Rc<Self>, shape: impl Into<Shape>, from: &[f32]) -> Array {
        let mut array = self.array(shape);
        array.own().copy_from_slice(from);
        array
    }

    fn next_content(&self) -> u64 {
        self.contents.set(self.contents.get() + 1);
        self.contents.get()
    }

    /// The smallest buffer that holds `count` elements, unless it is much too
    /// large: some arrays are kept for long.
    fn storage(self: &Rc<Self>, count: usize) -> Rc<Storage> {
        let mut free = self.free.borrow_mut();
        let fits = SMALLEST.max(count)..=2 * SMALLEST.max(count);
        let places = 0..free.len();
        let fitting = places.filter(|&place| fits.contains(&free[place].elements.len()));
        match fitting.min_by_key(|&place| free[place].elements.len()) {
            // The order is kept: the first is the one that was freed first.
            Some(place) => free.remove(place),
            None => Rc::new(Storage {
                elements: vec![0.0; fits.start().next_multiple_of(SMALLEST)].into(),
                content: Cell::default(),
                pool: Rc::downgrade(self),
            }),
        }
    }

    fn give_back(&self, storage: Rc<Storage>) {
        let mut free = self.free.borrow_mut();
        free.push(storage);
        if free.len() > KEPT {
            free.remove(0);
        }
    }
}

impl Array {
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// What tells its elements from those of all other arrays of its pool,
    /// also of those that were there before.
    pub(super) fn content(&self) -> u64 {
        self.storage.content.get()
    }

    /// The same elements in another shape of as many.
    pub(super) fn reshaped(mut self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.count() != self.shape.count() {
            return Err(format!("{:?} seen as {:?}", self.shape(), &*shape));
        }
        self.shape = shape;
        Ok(self)
    }

    /// Both axes of a matrix.
    pub(super) fn rows_and_columns(&self) -> Result<(usize, usize)> {
        match *self.shape() {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(format!("{:?} where a matrix belongs", self.shape())),
        }
    }

    /// Three axes.
    pub(super) fn heads(&self) -> Result<(usize, usize, usize)> {
        match *self.shape() {
            [rows, heads, width] => Ok((rows, heads, width)),
            _ => Err(format!("{:?} where heads belong", self.shape())),
        }
    }

    /// Whether nobody else holds these elements.
    fn is_own(&self) -> bool {
        Rc::strong_count(&self.storage) == 1
    }

    /// The elements, to be written. Those of a clone are copied first.
    pub(super) fn own(&mut self) -> &mut [f32] {
        let count = self.shape.count();
        if let Some(pool) = self.storage.pool.upgrade() {
            if self.is_own() {
                self.storage.content.set(pool.next_content());
            } else {
                let copy = pool.filled(self.shape, self);
                *self = copy;
            }
        }
        match Rc::get_mut(&mut self.storage) {
            Some(storage) => &mut storage.elements[..count],
            // Of a pool that is gone: nothing is computed any more.
            None => &mut [],
        }
    }
}

impl Deref for Array {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.storage.elements[..self.shape.count()]
    }
}

impl Clone for Array {
    fn clone(&self) -> Self {
        Self {
            storage: Rc::clone(&self.storage),
            shape: self.shape,
        }
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        if self.is_own()
            && let Some(pool) = self.storage.pool.upgrade()
        {
            pool.give_back(Rc::clone(&self.storage));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_the_content_is_another() {
        let pool = Rc::new(Pool::default());
        let first = pool.filled([2, 3], &[1., 2., 3., 4., 5., 6.]);
        let (place, content) = (first.as_ptr(), first.content());
        assert_eq!(&*first, [1., 2., 3., 4., 5., 6.]);
        drop(first);
        let second = pool.array([3, 2, 1]);
        assert_eq!(second.as_ptr(), place);
        assert_ne!(second.content(), content);
        assert_eq!(second.shape(), [3, 2, 1]);
        let third = pool.array([6]);
        assert_ne!(third.as_ptr(), place);
    }

    #[test]
    fn what_somebody_else_holds_is_not_written_to() {
        let pool = Rc::new(Pool::default());
        let mut a = pool.filled([2], &[1., 2.]);
        let place = a.as_ptr();
        a.own()[0] = 3.0;
        assert_eq!(a.as_ptr(), place);
        let b = a.clone();
        let content = a.content();
        assert_eq!(b.content(), content);
        a.own()[1] = 4.0;
        assert_eq!((&*a, &*b), (&[3., 4.][..], &[3., 2.][..]));
        assert_ne!(a.content(), content);
        assert_eq!(b.content(), content);
    }

    #[test]
    fn a_small_array_does_not_take_a_large_buffer() {
        let pool = Rc::new(Pool::default());
        let large = pool.array([100 * SMALLEST]);
        let place = large.as_ptr();
        drop(large);
        assert_ne!(pool.array([SMALLEST]).as_ptr(), place);
        assert_eq!(pool.array([60, SMALLEST]).as_ptr(), place);
    }

    #[test]
    fn no_more_buffers_are_kept_than_are_needed() {
        let pool = Rc::new(Pool::default());
        let arrays: Vec<Array> = (0..3 * KEPT).map(|_| pool.array([5])).collect();
        drop(arrays);
        assert_eq!(pool.free.borrow().len(), KEPT);
    }

    #[test]
    fn shapes_have_to_agree() {
        let pool = Rc::new(Pool::default());
        let array = pool.array([2, 6]);
        assert_eq!(array.rows_and_columns(), Ok((2, 6)));
        assert!(array.heads().is_err());
        let array = array.reshaped([2, 2, 3]).unwrap();
        assert_eq!(array.heads(), Ok((2, 2, 3)));
        assert!(array.reshaped([5]).is_err());
        assert!(Shape::new(&[1; 4]).is_err());
    }
}
