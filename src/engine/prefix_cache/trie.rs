//! A trie over token ids: which sequences begin as a prompt does.
//!
//! Knows nothing of what room they take or of which of them go.

use std::collections::BTreeMap;

/// A node of the trie. Every node but the root ends an entry or has at least
/// two children, so that there are at most twice as many as entries.
pub(super) struct Node<H> {
    /// The ids between the parent and here; empty in the root alone.
    pub(super) edge: Vec<u32>,
    /// The entry whose ids end here.
    pub(super) handle: Option<H>,
    /// By the first id of their edges.
    pub(super) children: BTreeMap<u32, Node<H>>,
}

impl<H: Copy> Node<H> {
    pub(super) fn new(edge: Vec<u32>, handle: Option<H>) -> Self {
        Self {
            edge,
            handle,
            children: BTreeMap::new(),
        }
    }

    /// The node nearest below the last id that is common with `ids`, and how
    /// many are.
    pub(super) fn descend(&self, ids: &[u32]) -> (&Self, usize) {
        let (mut node, mut len) = (self, 0);
        while let Some(child) = ids.get(len).and_then(|id| node.children.get(id)) {
            let common = common_prefix(&child.edge, &ids[len..]);
            node = child;
            len += common;
            if common < child.edge.len() {
                break;
            }
        }
        (node, len)
    }

    /// The entry here or, if there is none, one further down.
    pub(super) fn any(&self) -> Option<H> {
        let mut node = self;
        while node.handle.is_none() {
            node = node.children.values().next()?;
        }
        node.handle
    }

    /// Every entry that begins with one id of `ids` or more, and how many.
    pub(super) fn sharing(&self, ids: &[u32]) -> Vec<(H, usize)> {
        let mut found = Vec::new();
        let (mut node, mut len) = (self, 0);
        while let Some(child) = ids.get(len).and_then(|id| node.children.get(id)) {
            if len > 0 {
                let aside = node.children.iter().filter(|(id, _)| **id != ids[len]);
                aside.for_each(|(_, child)| child.all(len, &mut found));
            }
            let common = common_prefix(&child.edge, &ids[len..]);
            len += common;
            if common < child.edge.len() {
                child.all(len, &mut found);
                return found;
            }
            found.extend(child.handle.map(|handle| (handle, len)));
            node = child;
        }
        if len > 0 {
            let below = node.children.values();
            below.for_each(|child| child.all(len, &mut found));
        }
        found
    }

    /// Adds the entries here and further down, each with `common`.
    fn all(&self, common: usize, found: &mut Vec<(H, usize)>) {
        found.extend(self.handle.map(|handle| (handle, common)));
        let below = self.children.values();
        below.for_each(|child| child.all(common, found));
    }

    /// The entries whose ids are a prefix of `ids` or all of them.
    pub(super) fn ends_along(&self, ids: &[u32]) -> Vec<H> {
        let mut ends = Vec::new();
        let (mut node, mut len) = (self, 0);
        while let Some(child) = ids.get(len).and_then(|id| node.children.get(id)) {
            if !ids[len..].starts_with(&child.edge) {
                break;
            }
            ends.extend(child.handle);
            len += child.edge.len();
            node = child;
        }
        ends
    }

    /// Adds an entry below this node; no other may have the same ids.
    pub(super) fn insert(&mut self, ids: &[u32], handle: H) {
        let Some(first) = ids.first() else {
            self.handle = Some(handle);
            return;
        };
        let Some(child) = self.children.get_mut(first) else {
            let leaf = Self::new(ids.to_vec(), Some(handle));
            self.children.insert(*first, leaf);
            return;
        };
        let common = common_prefix(&child.edge, ids);
        if common < child.edge.len() {
            // The edge is cut in two where the new ids leave it.
            let rest = child.edge.split_off(common);
            let edge = std::mem::take(&mut child.edge);
            let mut lower = std::mem::replace(child, Self::new(edge, None));
            let first = rest[0];
            lower.edge = rest;
            child.children.insert(first, lower);
        }
        child.insert(&ids[common..], handle);
    }

    /// Removes the entry with exactly these ids below this node, and the
    /// nodes it alone needed.
    pub(super) fn remove(&mut self, ids: &[u32]) {
        let Some(first) = ids.first() else {
            self.handle = None;
            return;
        };
        let Some(child) = self.children.get_mut(first) else {
            return;
        };
        let Some(rest) = ids.strip_prefix(child.edge.as_slice()) else {
            return;
        };
        child.remove(rest);
        if child.handle.is_some() {
            return;
        }
        match child.children.len() {
            0 => {
                self.children.remove(first);
            }
            // The two edges become one again.
            1 => {
                if let Some((_, lower)) = child.children.pop_first() {
                    let mut edge = std::mem::take(&mut child.edge);
                    edge.extend_from_slice(&lower.edge);
                    *child = Self { edge, ..lower };
                }
            }
            _ => {}
        }
    }
}

/// How many ids two sequences begin with in common.
pub(in crate::engine) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
