//! Keys and values in pages that sequences share, and attention over them on
//! the CPU.
//!
//! A fork shares the pages it begins with, and a page is read once for all
//! sequences of a step that share it. What a row gets depends on its own
//! sequence alone: its sums are taken page by page in one order, however many
//! rows, sequences and threads there are.

use std::sync::Arc;

use pulp::Arch;
use rayon::prelude::*;

use super::kernel::{Attend, PAGE, Query, Scores, padded};
use crate::backend::cpu::Result;
use crate::backend::threads::Threads;
use crate::backend::{Dtype, RawKv, RawTensor, Span};

/// Queries a thread takes at a time: enough to use a page's keys often, few
/// enough that what they come to stays in the cache beside it.
const BLOCK_QUERIES: usize = 48;

/// The keys and values of one sequence in one layer.
pub struct PagedKv {
    kv_heads: usize,
    head_dim: usize,
    /// Positions there are.
    len: usize,
    /// As many as `len` positions take.
    pages: Vec<Arc<Page>>,
}

/// [`PAGE`] positions. Of each key-value head, the transposed keys
/// `[head_dim, PAGE]` and the values `[PAGE, padded(head_dim)]`.
#[derive(Clone)]
struct Page(Vec<f32>);

impl PagedKv {
    pub(in crate::backend::cpu) fn new(kv_heads: usize, head_dim: usize) -> Self {
        Self {
            kv_heads,
            head_dim,
            len: 0,
            pages: Vec::new(),
        }
    }

    /// The first `len` positions. The pages are shared until one of the two
    /// sequences adds to them.
    pub(in crate::backend::cpu) fn fork(&self, len: usize) -> Self {
        Self {
            len,
            pages: self.pages[..len.div_ceil(PAGE)].to_vec(),
            ..*self
        }
    }

    /// The first `len` rows, `[len, kv_heads, head_dim]` each.
    pub(in crate::backend::cpu) fn export(&self, len: usize) -> Result<RawKv> {
        if len > self.len {
            return Err(format!("{len} of {} rows", self.len));
        }
        let (head_dim, padded) = (self.head_dim, padded(self.head_dim));
        let count = len * self.kv_heads * head_dim;
        let mut keys: Vec<f32> = Vec::with_capacity(count);
        let mut values: Vec<f32> = Vec::with_capacity(count);
        for position in 0..len {
            let (page, place) = (&self.pages[position / PAGE], position % PAGE);
            for head in 0..self.kv_heads {
                let (head_keys, head_values) = self.head(page, head);
                keys.extend(head_keys.iter().skip(place).step_by(PAGE));
                values.extend_from_slice(&head_values[place * padded..][..head_dim]);
            }
        }
        let raw = |x: Vec<f32>| RawTensor {
            dtype: Dtype::F32,
            shape: vec![len, self.kv_heads, head_dim],
            bytes: bytemuck::cast_slice(&x).to_vec().into(),
        };
        Ok(RawKv {
            keys: raw(keys),
            values: raw(values),
        })
    }

    /// Appends rows that [`Self::export`] gave.
    pub(in crate::backend::cpu) fn import(&mut self, raw: &RawKv) -> Result<()> {
        let shape = &raw.keys.shape;
        let fits = *shape == raw.values.shape && shape[1..] == [self.kv_heads, self.head_dim];
        if !fits || [raw.keys.dtype, raw.values.dtype] != [Dtype::F32; 2] {
            return Err(format!(
                "keys {shape:?} and values {:?} of {:?}",
                raw.values.shape, raw.keys.dtype
            ));
        }
        self.append(&raw.keys.to_f32()?, &raw.values.to_f32()?);
        Ok(())
    }

    /// Elements of a head's keys, and of its keys and values, in a page.
    fn strides(&self) -> (usize, usize) {
        let keys = self.head_dim * PAGE;
        (keys, keys + PAGE * padded(self.head_dim))
    }

    /// Appends rows, `[n, kv_heads, head_dim]` each.
    fn append(&mut self, keys: &[f32], values: &[f32]) {
        let (keys_len, head_len) = self.strides();
        let (head_dim, padded) = (self.head_dim, padded(self.head_dim));
        let width = self.kv_heads * head_dim;
        for (key, value) in keys.chunks_exact(width).zip(values.chunks_exact(width)) {
            let place = self.len % PAGE;
            if place == 0 {
                let page = vec![0.0; self.kv_heads * head_len];
                self.pages.push(Arc::new(Page(page)));
            }
            self.len += 1;
            let Some(page) = self.pages.last_mut() else {
                continue;
            };
            let heads = Arc::make_mut(page).0.chunks_exact_mut(head_len);
            let rows = key.chunks_exact(head_dim).zip(value.chunks_exact(head_dim));
            for (head, (key, value)) in heads.zip(rows) {
                let (keys, values) = head.split_at_mut(keys_len);
                for (keys, &key) in keys.chunks_exact_mut(PAGE).zip(key) {
                    keys[place] = key;
                }
                values[place * padded..][..head_dim].copy_from_slice(value);
            }
        }
    }
}

/// What a row of attention sees and how, as in
/// [`crate::backend::AttentionSettings`].
pub(in crate::backend::cpu) struct Settings<'a> {
    pub(in crate::backend::cpu) scale: f32,
    pub(in crate::backend::cpu) softcap: Option<f32>,
    pub(in crate::backend::cpu) window: Option<usize>,
    pub(in crate::backend::cpu) sinks: Option<&'a [f32]>,
}

/// As [`crate::backend::Backend::attention`] says.
pub(in crate::backend::cpu) fn attention(
    _threads: &Threads,
    (q, k, v): (&[f32], &[f32], &[f32]),
    (heads, head_dim): (usize, usize),
    spans: &mut [Span<'_, PagedKv>],
    settings: &Settings<'_>,
    out: &mut [f32],
) {
    let spans = append(spans, k, v);
    let step = Step {
        heads,
        head_dim,
        scores: Scores {
            scale: settings.scale,
            softcap: settings.softcap,
        },
        window: settings.window.unwrap_or(usize::MAX),
        sinks: settings.sinks,
        q,
    };
    out.copy_from_slice(&step.attend(&spans));
}

/// Appends the rows of each span; the spans' sequences.
fn append<'a>(
    spans: &'a mut [Span<'_, PagedKv>],
    keys: &[f32],
    values: &[f32],
) -> Vec<(usize, &'a PagedKv)> {
    let mut start = 0;
    let mut sequences = Vec::with_capacity(spans.len());
    for span in spans {
        let kv = &mut *span.kv;
        let width = kv.kv_heads * kv.head_dim;
        let rows = start * width..(start + span.tokens) * width;
        kv.append(&keys[rows.clone()], &values[rows]);
        start += span.tokens;
        sequences.push((span.tokens, &*kv));
    }
    sequences
}

/// What the rows of a step have in common.
struct Step<'a> {
    heads: usize,
    head_dim: usize,
    scores: Scores,
    window: usize,
    sinks: Option<&'a [f32]>,
    /// `[T, heads, head_dim]`.
    q: &'a [f32],
}

/// A row of a step: which sequence it is of, and where in it.
#[derive(Clone, Copy)]
struct Row<'a> {
    kv: &'a PagedKv,
    position: usize,
}

impl Step<'_> {
    /// The attention of all rows, `[T, heads * head_dim]`, where `spans` are
    /// the numbers of rows of each sequence.
    fn attend(&self, spans: &[(usize, &PagedKv)]) -> Vec<f32> {
        let rows: Vec<Row<'_>> = spans
            .iter()
            .flat_map(|&(tokens, kv)| {
                (kv.len - tokens..kv.len).map(move |position| Row { kv, position })
            })
            .collect();
        let Some(first) = rows.first() else {
            return Vec::new();
        };
        let group = self.heads / first.kv.kv_heads;
        // One head after the other, so that every block of rows of a head
        // writes its own part: [kv_heads, T, group * head_dim].
        let width = group * self.head_dim;
        let mut output = vec![0.0; rows.len() * self.heads * self.head_dim];
        let block = (BLOCK_QUERIES / group).max(1);
        let mut blocks = Vec::new();
        for (head, output) in output.chunks_exact_mut(rows.len() * width).enumerate() {
            let parts = rows.chunks(block).zip(output.chunks_mut(block * width));
            for (index, (rows, output)) in parts.enumerate() {
                blocks.push((head, index * block, rows, output));
            }
        }
        let arch = Arch::new();
        blocks
            .into_par_iter()
            .for_each(|(head, first, rows, output)| {
                self.attend_block(arch, head, group, first, rows, output);
            });
        if rows.len() == 1 {
            return output;
        }
        let mut sorted = Vec::with_capacity(output.len());
        for row in 0..rows.len() {
            for head in output.chunks_exact(rows.len() * width) {
                sorted.extend_from_slice(&head[row * width..][..width]);
            }
        }
        sorted
    }

    /// The attention of one key-value head's queries of consecutive rows,
    /// `first` and those after it, page by page.
    fn attend_block(
        &self,
        arch: Arch,
        kv_head: usize,
        group: usize,
        first: usize,
        rows: &[Row<'_>],
        output: &mut [f32],
    ) {
        let head_dim = self.head_dim;
        let mut queries: Vec<Query<'_>> = Vec::with_capacity(rows.len() * group);
        for (offset, row) in rows.iter().enumerate() {
            for head in kv_head * group..(kv_head + 1) * group {
                let place = (first + offset) * self.heads + head;
                let sink = self.sinks.map(|sinks| sinks[head]);
                queries.push(Query::new(
                    &self.q[place * head_dim..][..head_dim],
                    (row.position + 1).saturating_sub(self.window)..row.position + 1,
                    sink,
                ));
            }
        }
        let pages = rows.iter().map(|row| row.position / PAGE + 1).max();
        let mut tile: Vec<usize> = Vec::new();
        for page in 0..pages.unwrap_or(0) {
            let begins = page * PAGE;
            // Rows one after the other that have this page in common.
            let mut common: Option<&Arc<Page>> = None;
            tile.clear();
            for (row, queries_of_row) in rows.iter().zip((0..queries.len()).step_by(group)) {
                let seen = &queries[queries_of_row].seen;
                if seen.start >= begins + PAGE || seen.end <= begins {
                    continue;
                }
                let own = &row.kv.pages[page];
                if let Some(other) = common.filter(|other| !Arc::ptr_eq(other, own)) {
                    let (keys, values) = row.kv.head(other, kv_head);
                    let queries = &mut queries;
                    Attend::new(keys, values, begins, self.scores).run(arch, queries, &tile);
                    tile.clear();
                }
                common = Some(own);
                tile.extend(queries_of_row..queries_of_row + group);
            }
            if let (Some(page), Some(row)) = (common, rows.first()) {
                let (keys, values) = row.kv.head(page, kv_head);
                Attend::new(keys, values, begins, self.scores).run(arch, &mut queries, &tile);
            }
        }
        for (query, output) in queries.iter().zip(output.chunks_exact_mut(head_dim)) {
            query.finish(output);
        }
    }
}

impl PagedKv {
    /// The keys and values of a head in a page.
    fn head<'a>(&self, page: &'a Page, head: usize) -> (&'a [f32], &'a [f32]) {
        let (keys_len, head_len) = self.strides();
        page.0[head * head_len..][..head_len].split_at(keys_len)
    }
}
