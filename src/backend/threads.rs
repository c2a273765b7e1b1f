//! Threads that do the host's share of a step together. Knows nothing of what
//! they compute.
//!
//! A step is some hundred small pieces of work, one right after the other. A
//! thread that has nothing to do looks out for the next piece for a moment,
//! then sleeps: between steps all of them sleep, and a core that another
//! process wants is free for it. A piece is over when its tasks are, whether
//! or not every thread has come to help: one that the system keeps waiting
//! keeps nobody else waiting.

#![allow(unsafe_code)]

use std::array;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// As many threads as the machine has cores, of those this process may use. A
/// second thread on a core takes more of its caches than it adds.
pub(in crate::backend) fn of_machine() -> NonZero<usize> {
    let allowed = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let cores = sysinfo::System::physical_core_count().and_then(NonZero::new);
    cores.map_or(allowed, |cores| cores.min(allowed))
}

/// How long a thread looks out for work before it sleeps. Longer than what is
/// done between two pieces of a step, shorter than a scheduler's slice.
const LOOKOUT: Duration = Duration::from_micros(60);

/// Looks in a row, some two microseconds, before the core is offered to others:
/// where threads share one, it is each other they wait for.
const LOOKS: usize = 64;

/// A number of threads, the caller's own among them.
pub(in crate::backend) struct Threads {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// One piece of work at a time: only the thread that owns this hands it
    /// out.
    not_sync: PhantomData<Cell<()>>,
}

/// What a piece of work is: `call(work, task)` for each task.
#[derive(Clone, Copy)]
struct Piece {
    call: unsafe fn(*const (), usize),
    work: *const (),
    tasks: usize,
}

struct Shared {
    /// The number of the piece above [`OPEN`], whether one may join it, and
    /// how many helpers have and are not done.
    state: AtomicU64,
    /// Written while no piece is open and nobody is at work on it.
    piece: UnsafeCell<Piece>,
    /// The next task of the piece.
    next: AtomicUsize,
    /// Helpers that sleep, or are about to.
    sleeping: AtomicU32,
    /// Whether the owner sleeps until the last helper is done.
    awaited: AtomicBool,
    /// The owner, if it does.
    owner: Mutex<Option<Thread>>,
    /// Whether a task has panicked.
    panicked: AtomicBool,
    /// Whether the helpers are to end.
    over: AtomicBool,
}

/// Of [`Shared::state`]: whether the piece may be joined.
const OPEN: u64 = 1 << 31;
/// Of [`Shared::state`]: how many helpers are at work.
const AT_WORK: u64 = OPEN - 1;
/// Of [`Shared::state`]: one piece more.
const ONE_PIECE: u64 = 1 << 32;

// SAFETY: what `piece` points to is only touched between a piece's opening
// and the end of the last one at work, while its owner keeps it alive; what
// is called there is `Sync`. The cell is written while nobody reads it: see
// `Threads::for_each`.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Threads {
    /// `count` threads: the caller and as many helpers as are missing.
    pub(in crate::backend) fn new(count: NonZero<usize>) -> Self {
        unsafe fn nothing(_: *const (), _: usize) {}
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            piece: UnsafeCell::new(Piece {
                call: nothing,
                work: std::ptr::null(),
                tasks: 0,
            }),
            next: AtomicUsize::new(0),
            sleeping: AtomicU32::new(0),
            awaited: AtomicBool::new(false),
            owner: Mutex::new(None),
            panicked: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let helpers = (1..count.get()).map_while(|index| {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name(format!("compute-{index}"));
            // With fewer threads than asked for, the others do more.
            builder.spawn(move || shared.help()).ok()
        });
        let helpers = helpers.collect();
        Self {
            shared,
            helpers,
            not_sync: PhantomData,
        }
    }

    /// How many there are.
    pub(in crate::backend) fn count(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Does the tasks `0..tasks`, each once, taken in ascending order by
    /// whoever is free, and returns when all are done. A task must not hand
    /// out work itself. Panics if a task does.
    pub(in crate::backend) fn for_each<F: Fn(usize) + Sync>(&self, tasks: usize, task: F) {
        /// # Safety
        /// `work` is a `*const F` of a living `F`.
        unsafe fn call<F: Fn(usize)>(work: *const (), index: usize) {
            // SAFETY: as said above.
            let task = unsafe { &*work.cast::<F>() };
            task(index);
        }
        if tasks <= 1 || self.helpers.is_empty() {
            (0..tasks).for_each(task);
            return;
        }
        let shared = &*self.shared;
        let piece = Piece {
            call: call::<F>,
            work: (&raw const task).cast(),
            tasks,
        };
        // SAFETY: no piece is open and nobody is at work: `Closing` has seen to
        // both at the end of the last one, and no other thread may be here.
        unsafe { *shared.piece.get() = piece };
        shared.next.store(0, Ordering::Relaxed);
        shared.panicked.store(false, Ordering::Relaxed);
        // Whoever sees the piece open sees all of the above. It is ordered
        // before the look at who sleeps, as a helper's mark of sleep is
        // before its last look for work.
        shared.state.fetch_add(ONE_PIECE + OPEN, Ordering::SeqCst);
        let closing = Closing(shared);
        if shared.sleeping.load(Ordering::SeqCst) > 0 {
            for helper in self.helpers.iter().take(tasks - 1) {
                helper.thread().unpark();
            }
        }
        while let Some(index) = shared.take(tasks) {
            task(index);
        }
        drop(closing);
        if shared.panicked.load(Ordering::Relaxed) {
            resume_unwind(Box::new("a task of a computation has panicked"));
        }
    }

    /// Does `task(index, chunk)` for each chunk of `chunk` elements of `data`,
    /// the last one shorter if need be, as [`Self::for_each`] does.
    pub(in crate::backend) fn for_each_chunk<T: Send>(
        &self,
        data: &mut [T],
        chunk: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        self.for_each_chunks([data], [chunk], |index, [chunk]| task(index, chunk));
    }

    /// [`Self::for_each_chunk`] of several slices at a time, the chunks of
    /// each as long as is said for it.
    ///
    /// # Panics
    ///
    /// If they are not of equally many chunks.
    pub(in crate::backend) fn for_each_chunks<T: Send, const N: usize>(
        &self,
        data: [&mut [T]; N],
        chunks: [usize; N],
        task: impl Fn(usize, [&mut [T]; N]) + Sync,
    ) {
        struct Bases<T, const N: usize>([*mut T; N]);
        // SAFETY: each thread gets chunks of its own, of elements that may be
        // sent to it.
        unsafe impl<T: Send, const N: usize> Sync for Bases<T, N> {}
        impl<T, const N: usize> Bases<T, N> {
            fn at(&self, slice: usize, place: usize) -> *mut T {
                self.0[slice].wrapping_add(place)
            }
        }
        let lens = data.each_ref().map(|data| data.len());
        let count = |slice: usize| lens[slice].div_ceil(chunks[slice]);
        assert!((1..N).all(|slice| count(slice) == count(0)));
        let bases = Bases(data.map(<[T]>::as_mut_ptr));
        self.for_each(count(0), |index| {
            let parts = array::from_fn(|slice| {
                let first = index * chunks[slice];
                let count = chunks[slice].min(lens[slice] - first);
                // SAFETY: `first + count` is at most the slice's length, every
                // index comes once, and the chunks of two indices do not
                // overlap; the slices are borrowed until all are done.
                unsafe { std::slice::from_raw_parts_mut(bases.at(slice, first), count) }
            });
            task(index, parts);
        });
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // It cannot have panicked: it catches what its tasks do.
            let _ = helper.join();
        }
    }
}

/// Closes a piece and waits for those at work on it, also when the owner
/// panics: they use what it has on its stack.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        // No task is left to begin with, even if the owner did not come to
        // the end of them.
        shared.next.store(usize::MAX / 2, Ordering::Relaxed);
        if shared.state.fetch_and(!OPEN, Ordering::SeqCst) & AT_WORK == 0 {
            return;
        }
        let at_work = |shared: &Shared| shared.state.load(Ordering::SeqCst) & AT_WORK;
        if look_out(|| at_work(shared) == 0) {
            return;
        }
        shared.set_owner(Some(thread::current()));
        shared.awaited.store(true, Ordering::SeqCst);
        while at_work(shared) > 0 {
            thread::park();
        }
        shared.awaited.store(false, Ordering::SeqCst);
        shared.set_owner(None);
    }
}

/// Whether `there` comes to be within a moment.
fn look_out(there: impl Fn() -> bool) -> bool {
    let mut since = None;
    loop {
        for _ in 0..LOOKS {
            if there() {
                return true;
            }
            std::hint::spin_loop();
        }
        let since = *since.get_or_insert_with(Instant::now);
        if since.elapsed() > LOOKOUT {
            return false;
        }
        thread::yield_now();
    }
}

impl Shared {
    fn set_owner(&self, thread: Option<Thread>) {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = thread;
    }

    fn take(&self, tasks: usize) -> Option<usize> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        (index < tasks).then_some(index)
    }

    /// What a helper does until it is over.
    fn help(&self) {
        while !self.over.load(Ordering::SeqCst) {
            let open = || self.state.load(Ordering::SeqCst) & OPEN != 0;
            let over = || self.over.load(Ordering::SeqCst);
            if !look_out(|| open() || over()) {
                self.sleeping.fetch_add(1, Ordering::SeqCst);
                while !open() && !over() {
                    thread::park();
                }
                self.sleeping.fetch_sub(1, Ordering::SeqCst);
            }
            self.join();
        }
    }

    /// Helps with the piece that is open, if there is one.
    fn join(&self) {
        let enter = |state: u64| (state & OPEN != 0).then_some(state + 1);
        let entered = self
            .state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter);
        if entered.is_err() {
            return;
        }
        // SAFETY: the piece was open as we joined: it is written, and not
        // written again before we are counted out below.
        let Piece { call, work, tasks } = unsafe { *self.piece.get() };
        let all = catch_unwind(AssertUnwindSafe(|| {
            while let Some(index) = self.take(tasks) {
                // SAFETY: `work` is what `call` was made for, and its owner
                // waits for us.
                unsafe { call(work, index) };
            }
        }));
        if all.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        let before = self.state.fetch_sub(1, Ordering::SeqCst);
        if before & AT_WORK == 1 && self.awaited.load(Ordering::SeqCst) {
            let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(owner) = &*owner {
                owner.unpark();
            }
        }
        // Out of tasks while others are still at theirs: not joined again.
        let piece = before / ONE_PIECE;
        look_out(|| {
            let state = self.state.load(Ordering::SeqCst);
            state & OPEN == 0 || state / ONE_PIECE != piece
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn threads(count: usize) -> Threads {
        Threads::new(NonZero::new(count).unwrap())
    }

    #[test]
    fn every_task_is_done_once_however_many_there_are() {
        for count in [1, 2, 5] {
            let threads = threads(count);
            assert_eq!(threads.count(), count);
            // Many small pieces, with and without time to fall asleep between.
            for round in 0..2_000 {
                let tasks = round % 7;
                let done: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                threads.for_each(tasks, |task| {
                    done[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1));
                if round % 500 == 0 {
                    thread::sleep(2 * LOOKOUT);
                }
            }
        }
    }

    #[test]
    fn chunks_are_all_there_and_do_not_overlap() {
        let threads = threads(3);
        for (len, chunk) in [(0, 4), (1, 4), (12, 4), (1_001, 10)] {
            let mut data = vec![0; len];
            threads.for_each_chunk(&mut data, chunk, |index, part| {
                for (offset, x) in part.iter_mut().enumerate() {
                    *x += index * chunk + offset + 1;
                }
            });
            assert!(data.iter().enumerate().all(|(place, &x)| x == place + 1));
        }
    }

    #[test]
    fn chunks_of_several_slices_come_together() {
        let threads = threads(3);
        let (mut a, mut b) = (vec![0; 23], vec![0; 46]);
        threads.for_each_chunks([&mut a, &mut b], [5, 10], |index, [a, b]| {
            assert_eq!(2 * a.len(), b.len());
            a.fill(index + 1);
            b.fill(index + 1);
        });
        assert!(a.iter().enumerate().all(|(place, &x)| x == place / 5 + 1));
        assert!(b.iter().enumerate().all(|(place, &x)| x == place / 10 + 1));
        let uneven = || threads.for_each_chunks([&mut a, &mut b], [5, 5], |_, _| ());
        assert!(catch_unwind(AssertUnwindSafe(uneven)).is_err());
    }

    #[test]
    fn tasks_run_side_by_side() {
        let threads = threads(2);
        // Each waits for the other: one thread alone would not come to an end.
        let met = AtomicU32::new(0);
        threads.for_each(2, |_| {
            met.fetch_add(1, Ordering::SeqCst);
            while met.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_threads_go_on() {
        let threads = threads(2);
        for bad in [0, 1, 63] {
            let fall = catch_unwind(AssertUnwindSafe(|| {
                threads.for_each(64, |task| assert_ne!(task, bad));
            }));
            assert!(fall.is_err());
        }
        let done = AtomicU32::new(0);
        threads.for_each(64, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 64);
    }

    #[test]
    fn the_machine_has_at_least_one() {
        let allowed = thread::available_parallelism().unwrap();
        assert!((1..=allowed.get()).contains(&of_machine().get()));
    }
}
