//! The attention of a step: appends its keys and values, and shares its rows
//! out among threads. What a row gets depends on its own sequence alone: its
//! sums are taken page by page in one order, however many rows, sequences and
//! threads there are.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use half::f16;

use super::few::Few;
use super::lines::Room;
use super::many::Many;
use super::paged::{Element, Kv, KvElement, PAGE};
use super::rows::WriteHead;
use super::vectors::{Instructions, Machine, Work};
use crate::backend::Span;
use crate::backend::threads::Threads;

/// Queries of a task at most: enough to use a page's numbers often, few
/// enough that what they come to stays in the cache beside it.
const QUERIES: usize = 192;

/// From so many queries of a sequence on, they are taken as many.
const MANY: usize = 12;

/// What a row of attention sees and how, as in
/// [`crate::backend::AttentionSettings`].
#[derive(Debug, Clone, Copy)]
pub(in crate::backend::cpu) struct Settings<'a> {
    pub(in crate::backend::cpu) scale: f32,
    pub(in crate::backend::cpu) softcap: Option<f32>,
    pub(in crate::backend::cpu) window: Option<usize>,
    /// `[heads]`.
    pub(in crate::backend::cpu) sinks: Option<&'a [f32]>,
}

/// Memory that attention uses again from step to step.
#[derive(Default)]
pub(in crate::backend::cpu) struct Scratch {
    /// Where each span's rows begin.
    starts: Vec<usize>,
    rows: Vec<Row>,
    blocks: Vec<Block>,
    /// As many as threads were at work at once.
    rooms: Mutex<Vec<Rooms>>,
}

/// What a thread writes to on the way.
#[derive(Default)]
pub(super) struct Rooms {
    pub(super) queries: Room,
    pub(super) sums: Room,
    pub(super) stats: Room,
    pub(super) scores: Room,
    pub(super) keys: Room,
    pub(super) values: Room,
}

/// A row of a step: which of its sequences it is of, and where in it.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) span: usize,
    pub(super) position: usize,
}

/// Rows that are one task for each key-value head.
#[derive(Clone)]
struct Block {
    rows: Range<usize>,
    /// Whether they are of one sequence, and enough to be taken as many.
    are_many: bool,
    /// Positions to be looked at, all rows together.
    work: usize,
}

/// What the tasks of a step have in common.
pub(super) struct Step<'a> {
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    /// Query heads that share keys and values.
    pub(super) group: usize,
    /// What makes scores of products, in powers of two unless there is a
    /// [`Self::softcap`].
    pub(super) factor: f32,
    pub(super) softcap: Option<f32>,
    pub(super) window: usize,
    pub(super) sinks: Option<&'a [f32]>,
    /// `[T, heads, head_dim]`.
    pub(super) q: &'a [f32],
    /// `[T, kv_heads, head_dim]`, as are the values.
    keys: &'a [f32],
    values: &'a [f32],
    pub(super) rows: &'a [Row],
    pub(super) spans: &'a [Span<'a, Kv>],
    pub(super) output: Output<'a>,
}

impl<'a> Step<'a> {
    /// The positions that a row sees.
    pub(super) fn seen(&self, row: Row) -> Range<usize> {
        (row.position + 1).saturating_sub(self.window)..row.position + 1
    }

    pub(super) fn kv(&self, row: Row) -> &'a Kv {
        self.spans[row.span].kv
    }

    /// Query `head` of a row, `[head_dim]`.
    pub(super) fn query(&self, row: usize, head: usize) -> &'a [f32] {
        &self.q[(row * self.heads + head) * self.head_dim..][..self.head_dim]
    }

    /// Writes the keys and values that some rows, of a block of few, add to
    /// their sequences for a head.
    ///
    /// # Safety
    /// Nobody else reads or writes what these sequences have for this head.
    #[inline(always)]
    pub(super) unsafe fn append<M: Machine, E: Element>(
        &self,
        m: M,
        rows: Range<usize>,
        kv_head: usize,
    ) {
        let page = |row: usize| self.rows[row].position / PAGE;
        for row in rows.clone() {
            let kv = self.kv(self.rows[row]);
            let shape = kv.shape();
            let next = (row + 1).min(rows.end - 1);
            let (next, _) = shape.head(self.kv(self.rows[next]).page(page(next)), kv_head);
            let next = next.as_ptr();
            let here = row * shape.width()..(row + 1) * shape.width();
            // SAFETY: the pages that a block of few adds to are its sequences'
            // own, and the caller answers for the rest.
            let elements = unsafe { kv.head_mut::<E>(page(row), kv_head) };
            WriteHead {
                shape,
                head: kv_head,
                place: self.rows[row].position % PAGE,
                keys: &self.keys[here.clone()],
                values: &self.values[here],
                elements,
                next,
            }
            .run(m);
        }
    }

    /// The largest score of a query that has seen nothing, and the sum of
    /// the weights beside it: those of its head's sink, if there is one.
    pub(super) fn begin(&self, head: usize) -> (f32, f32) {
        match self.sinks {
            Some(sinks) => (sinks[head] * std::f32::consts::LOG2_E, 1.0),
            None => (f32::NEG_INFINITY, 0.0),
        }
    }
}

/// What a step writes, `[T, heads, head_dim]`, by parts of which each is one
/// task's.
pub(super) struct Output<'a> {
    base: *mut f32,
    rows: usize,
    width: usize,
    kv_heads: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: the parts are as if handed out by `chunks_mut`: see `part`.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    fn new(out: &'a mut [f32], rows: usize, kv_heads: usize) -> Self {
        assert!(rows > 0 && out.len().is_multiple_of(rows * kv_heads));
        Self {
            base: out.as_mut_ptr(),
            rows,
            width: out.len() / rows,
            kv_heads,
            borrowed: PhantomData,
        }
    }

    /// What is for the queries of a row that share a key-value head, `[group,
    /// head_dim]`.
    ///
    /// # Safety
    /// No two are of the same row and head while both live.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part(&self, row: usize, kv_head: usize) -> &mut [f32] {
        assert!(row < self.rows && kv_head < self.kv_heads);
        let len = self.width / self.kv_heads;
        let base = self.base.wrapping_add(row * self.width + kv_head * len);
        // SAFETY: within `rows` rows of `width` elements, that are borrowed as
        // long as `self` lives; what others have is of another row or head.
        unsafe { std::slice::from_raw_parts_mut(base, len) }
    }
}

/// As [`crate::backend::Backend::attention`] says: `q` `[T, heads, head_dim]`,
/// `k` and `v` `[T, kv_heads, head_dim]` into `out` `[T, heads * head_dim]`.
pub(in crate::backend::cpu) fn attention(
    threads: &Threads,
    scratch: &mut Scratch,
    (q, k, v): (&[f32], &[f32], &[f32]),
    (heads, head_dim): (usize, usize),
    spans: &mut [Span<'_, Kv>],
    settings: &Settings<'_>,
    out: &mut [f32],
) {
    attention_by(
        Instructions::best(),
        threads,
        scratch,
        (q, k, v),
        (heads, head_dim),
        spans,
        settings,
        out,
    );
}

#[allow(clippy::too_many_arguments)]
pub(super) fn attention_by(
    by: Instructions,
    threads: &Threads,
    scratch: &mut Scratch,
    (q, k, v): (&[f32], &[f32], &[f32]),
    (heads, head_dim): (usize, usize),
    spans: &mut [Span<'_, Kv>],
    settings: &Settings<'_>,
    out: &mut [f32],
) {
    let Some(first) = spans.first() else {
        return;
    };
    let kv_heads = first.kv.shape().kv_heads;
    scratch.append(by, threads, spans, heads / kv_heads, k, v);
    scratch.list(spans, heads / kv_heads);
    if scratch.rows.is_empty() {
        return;
    }
    let step = Step {
        heads,
        head_dim,
        group: heads / kv_heads,
        factor: match settings.softcap {
            Some(_) => settings.scale,
            None => settings.scale * std::f32::consts::LOG2_E,
        },
        softcap: settings.softcap,
        window: settings.window.unwrap_or(usize::MAX),
        sinks: settings.sinks,
        q,
        keys: k,
        values: v,
        rows: &scratch.rows,
        spans,
        output: Output::new(out, scratch.rows.len(), kv_heads),
    };
    let (blocks, rooms) = (&scratch.blocks, &scratch.rooms);
    threads.for_each(blocks.len() * kv_heads, |task| {
        let (block, kv_head) = (&blocks[task / kv_heads], task % kv_heads);
        let lock = || rooms.lock().unwrap_or_else(PoisonError::into_inner);
        let mut room = lock().pop().unwrap_or_default();
        let first = step.rows[block.rows.start];
        match step.kv(first).element() {
            KvElement::F16 => step.attend::<f16>(by, block, kv_head, &mut room),
            KvElement::F32 => step.attend::<f32>(by, block, kv_head, &mut room),
        }
        lock().push(room);
    });
}

impl Step<'_> {
    /// The attention of a head's queries of the rows of a block.
    fn attend<E: Element>(
        &self,
        by: Instructions,
        block: &Block,
        kv_head: usize,
        rooms: &mut Rooms,
    ) {
        if block.are_many {
            by.run(Many::<E>::new(self, block.rows.clone(), kv_head, rooms));
        } else {
            by.run(Few::<E>::new(self, block.rows.clone(), kv_head, rooms));
        }
    }
}

/// Whether a span's rows are taken as many.
fn are_many(span: &Span<'_, Kv>, group: usize) -> bool {
    span.tokens > 1 && span.tokens * group >= MANY
}

impl Scratch {
    /// Appends the rows of each span that has many, and makes room for those
    /// of the others: whoever takes them writes them, [`Step::append`].
    fn append(
        &mut self,
        by: Instructions,
        threads: &Threads,
        spans: &mut [Span<'_, Kv>],
        group: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        self.starts.clear();
        let mut start = 0;
        for span in spans.iter() {
            self.starts.push(start);
            start += span.tokens * span.kv.shape().width();
        }
        let starts = &self.starts;
        // Long ones a page a task, the others a span a task.
        let is_long = |span: &Span<'_, Kv>| span.tokens > PAGE;
        let elements = |span: &Span<'_, Kv>, index: usize| {
            starts[index]..starts[index] + span.tokens * span.kv.shape().width()
        };
        let mut all_have_room = true;
        for (index, span) in spans.iter_mut().enumerate() {
            let here = elements(span, index);
            if !are_many(span, group) {
                all_have_room &= span.kv.has_room(span.tokens);
            } else if is_long(span) {
                span.kv
                    .append_by(by, threads, &keys[here.clone()], &values[here]);
            } else {
                all_have_room = false;
            }
        }
        let append = |index: usize, span: &mut Span<'_, Kv>| {
            let here = elements(span, index);
            if !are_many(span, group) {
                span.kv.make_room(span.tokens);
            } else if !is_long(span) {
                span.kv.append(by, &keys[here.clone()], &values[here]);
            }
        };
        if all_have_room {
            let spans = spans.iter_mut().enumerate();
            return spans.for_each(|(index, span)| append(index, span));
        }
        threads.for_each_chunk(spans, 1, |index, spans| {
            spans.iter_mut().for_each(|span| append(index, span));
        });
    }

    /// Lists the rows of the step and the blocks of them, those with most
    /// work first.
    fn list(&mut self, spans: &[Span<'_, Kv>], group: usize) {
        let Self { rows, blocks, .. } = self;
        rows.clear();
        blocks.clear();
        let block_rows = (QUERIES / group).max(1);
        for (index, span) in spans.iter().enumerate() {
            let first = rows.len();
            let positions = span.kv.len() - span.tokens..span.kv.len();
            rows.extend(positions.map(|position| Row {
                span: index,
                position,
            }));
            let are_many = are_many(span, group);
            let mut from = first;
            while from < rows.len() {
                let to = (from + block_rows).min(rows.len());
                let work = rows[from..to].iter().map(|row| row.position + 1).sum();
                let last = blocks.last_mut().filter(|last| {
                    !last.are_many
                        && !are_many
                        && last.rows.len() + (to - from) <= block_rows
                        && spans[rows[last.rows.start].span].kv.element() == span.kv.element()
                });
                match last {
                    Some(last) => {
                        last.rows.end = to;
                        last.work += work;
                    }
                    None => blocks.push(Block {
                        rows: from..to,
                        are_many,
                        work,
                    }),
                }
                from = to;
            }
        }
        blocks.sort_unstable_by_key(|block| usize::MAX - block.work);
    }
}
