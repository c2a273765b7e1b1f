//! What tells a model's files from any other's, cheaply enough for every start:
//! what is computed with one model must not be taken for another's.
//!
//! Knows file names, sizes and bytes, not what they mean.

use std::fmt;
use std::fs;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::files::{FilesError, ModelFiles};

/// Raised whenever the decoder comes to other keys and values for the same
/// files, so that those of before are not gone on with.
const COMPUTATION: u32 = 4;

/// Files up to this size are hashed whole.
const SMALL: usize = 1 << 20;

/// Of larger ones, this many pieces of this length, evenly spread. Together
/// with size and time they tell a retrained model from what it replaced.
const PIECES: usize = 32;
const PIECE: usize = 4096;

/// No header of a real model comes near; what is longer is not a header.
const LONGEST_HEADER: usize = 256 << 20;

/// A hash over everything that decides what a model computes: its files and
/// this program's version.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Fingerprint {
    fn from(hash: [u8; 32]) -> Self {
        Self(hash)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl ModelFiles {
    /// What tells these files from others: of every JSON and safetensors file
    /// its name and size, and
    ///
    /// - of a small one, its bytes;
    /// - of a large one in a folder, when it was changed, its safetensors
    ///   header and samples of its bytes. Reading all of them would take longer
    ///   than what is saved by knowing;
    /// - of an embedded one, its bytes: there is no time to tell it by.
    ///
    /// With an adapter, it is the two folders' together; quantized at load, it
    /// is another for every number of bits.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn fingerprint(&self) -> Result<Fingerprint, FilesError> {
        let mut hash = Sha256::new();
        if let Self::Adapted(model, adapter) = self {
            for files in [model.as_ref(), &Self::Folder(adapter.clone())] {
                hash.update(files.fingerprint()?.as_bytes());
            }
            return Ok(Fingerprint(hash.finalize().into()));
        }
        if let Self::Quantized(model, quantize) = self {
            hash.update(model.fingerprint()?.as_bytes());
            part(&mut hash, b"quantize");
            hash.update((quantize.bits() as u64).to_le_bytes());
            return Ok(Fingerprint(hash.finalize().into()));
        }
        let version = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
        part(&mut hash, version.as_bytes());
        part(&mut hash, &COMPUTATION.to_le_bytes());
        let matters = |name: &String| {
            !name.starts_with('.') && (name.ends_with(".json") || name.ends_with(".safetensors"))
        };
        for name in self.names()?.into_iter().filter(matters) {
            let bytes = self.open(&name)?;
            part(&mut hash, name.as_bytes());
            hash.update((bytes.len() as u64).to_le_bytes());
            match self {
                Self::Folder(folder) if bytes.len() > SMALL => {
                    let path = folder.join(&name);
                    let modified = fs::metadata(&path).and_then(|file| file.modified());
                    let modified = modified.map_err(|source| FilesError::Read { path, source })?;
                    // A time before 1970 is as good as any other fixed one.
                    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
                    hash.update(since.as_nanos().to_le_bytes());
                    part(&mut hash, header(&bytes));
                    for piece in 0..PIECES {
                        let start = (bytes.len() - PIECE) / (PIECES - 1) * piece;
                        hash.update(&bytes[start..start + PIECE]);
                    }
                }
                _ => hash.update(&*bytes),
            }
        }
        Ok(Fingerprint(hash.finalize().into()))
    }
}

/// Hashes bytes so that where they end is hashed too.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// The safetensors header that a file begins with; of any other file, nothing.
fn header(bytes: &[u8]) -> &[u8] {
    let length = bytes
        .first_chunk()
        .and_then(|length| usize::try_from(u64::from_le_bytes(*length)).ok())
        .filter(|&length| length <= LONGEST_HEADER);
    let header = length.and_then(|length| bytes.get(8..8 + length));
    header.unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;
    use std::fs::File;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::model::Quantize;

    /// A file whose safetensors header says nothing and takes 8 bytes.
    fn weights(length: usize) -> Vec<u8> {
        let mut bytes = 8u64.to_le_bytes().to_vec();
        bytes.extend(b"{}      ");
        bytes.extend((0..length - 16).map(|place| (place / 7) as u8));
        bytes
    }

    fn write(folder: &Path, name: &str, bytes: &[u8]) {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(then)
            .unwrap();
    }

    #[test]
    fn whatever_changes_in_the_files_changes_it_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let now = || ModelFiles::Folder(folder.to_owned()).fingerprint().unwrap();
        let large = weights(3 * SMALL + 5);
        write(folder, "config.json", b"{\"a\": 1}");
        write(folder, "model.safetensors", &large);
        let first = now();
        assert_eq!(now(), first);
        write(folder, "README.md", b"hello");
        write(folder, ".hidden.json", b"{}");
        assert_eq!(now(), first);

        let seen = RefCell::new(vec![first]);
        let changed = |what: &str| {
            let now = now();
            assert!(!seen.borrow().contains(&now), "{what}");
            seen.borrow_mut().push(now);
        };
        write(folder, "config.json", b"{\"a\": 2}");
        changed("a byte of a small file");
        write(folder, "adapters.safetensors", &weights(100));
        changed("another file");
        fs::rename(
            folder.join("adapters.safetensors"),
            folder.join("adapter.safetensors"),
        )
        .unwrap();
        changed("a name");
        write(folder, "model.safetensors", &large[..large.len() - 1]);
        changed("a size");
        let mut other = large.clone();
        other[9] = b' ';
        write(folder, "model.safetensors", &other);
        changed("a header");
        let mut other = large.clone();
        other[16..].iter_mut().for_each(|byte| *byte ^= 1);
        write(folder, "model.safetensors", &other);
        changed("other weights of the same size and time");
        write(folder, "model.safetensors", &large);
        assert_eq!(now(), seen.borrow()[3], "all as it was under the new name");
        let path = folder.join("model.safetensors");
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now()).unwrap();
        changed("a time");
    }

    #[test]
    fn embedded_files_are_hashed_whole() {
        let large: &'static [u8] = weights(2 * SMALL).leak();
        let mut other = large.to_vec();
        other[SMALL + 4097] ^= 1;
        let of = |bytes: &'static [u8]| {
            let files: &'static [(&str, &[u8])] = vec![("model.safetensors", bytes)].leak();
            ModelFiles::Embedded(files).fingerprint().unwrap()
        };
        assert_eq!(of(large), of(large.to_vec().leak()));
        assert_ne!(of(large), of(other.leak()));
    }

    #[test]
    fn a_model_quantized_at_load_is_another() {
        let files = ModelFiles::Embedded(&[("model.safetensors", b"?")]);
        let of = |files: &ModelFiles| files.fingerprint().unwrap();
        let four = of(&files.clone().quantized(Quantize::Four));
        let eight = of(&files.clone().quantized(Quantize::Eight));
        let all = [of(&files), four, eight];
        assert!(
            all[0] != four && all[0] != eight && four != eight,
            "{all:?}"
        );
    }

    #[test]
    fn a_folder_that_is_not_there_has_none() {
        let files = ModelFiles::Folder("/nowhere/at/all".into());
        assert!(matches!(files.fingerprint(), Err(FilesError::Read { .. })));
    }
}
