//! Read-only bytes that are memory-mapped, part of the program or in memory of
//! their own, shared without copying. Knows nothing of what is in them.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

/// Bytes, or a part of them. Cloning and slicing share the same memory.
#[derive(Clone)]
pub struct Blob {
    source: Source,
    /// Within the source: checked when the blob was made.
    range: Range<usize>,
}

#[derive(Clone)]
enum Source {
    Mapped(Arc<Mmap>),
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
}

impl Blob {
    /// Maps the file at `path`.
    ///
    /// # Errors
    /// If it cannot be opened or mapped.
    pub fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            // An empty file cannot be mapped.
            return Ok(Self::from_static(&[]));
        }
        let map = map_file(&file)?;
        Ok(Self {
            range: 0..map.len(),
            source: Source::Mapped(Arc::new(map)),
        })
    }

    /// Bytes that are part of the program.
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self {
            source: Source::Static(bytes),
            range: 0..bytes.len(),
        }
    }

    /// The part of these bytes within `range`, or `None` if it reaches beyond.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        Some(Self {
            source: self.source.clone(),
            range: self.range.start + range.start..self.range.start + range.end,
        })
    }
}

#[allow(unsafe_code)]
fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: a map is only sound while nobody truncates or rewrites the
    // file. A model's files are written under another name and then renamed
    // into place (the Hugging Face cache does so) and never changed, and
    // every program that maps weights relies on the same convention.
    unsafe { Mmap::map(file) }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            range: 0..bytes.len(),
            source: Source::Owned(Arc::new(bytes)),
        }
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.source {
            Source::Mapped(map) => map,
            Source::Static(bytes) => bytes,
            Source::Owned(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} bytes)", self.range.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn slices_stay_within_their_blob() {
        let whole = Blob::from_static(b"0123456789");
        let part = whole.slice(2..8).unwrap();
        assert_eq!(&*part, b"234567");
        assert_eq!(&*part.slice(1..3).unwrap(), b"34");
        assert!(part.slice(0..7).is_none());
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = 3..2;
        assert!(part.slice(reversed).is_none());
        let owned = Blob::from(b"0123456789".to_vec());
        assert_eq!(&*owned.slice(2..8).unwrap(), b"234567");
    }

    #[test]
    fn a_mapped_file_reads_as_written_and_an_empty_one_as_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(&*Blob::map(&path).unwrap(), b"abc");
        std::fs::write(&path, b"").unwrap();
        assert!(Blob::map(&path).unwrap().is_empty());
        assert!(Blob::map(&folder.path().join("absent")).is_err());
    }
}
