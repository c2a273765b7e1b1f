//! Whether a folder holds a complete model: the files a model must have, all
//! shards its index names, and each file whole by its own account. Works
//! offline and knows nothing of the cache or the hub.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Files without which there is nothing to serve.
pub(super) const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];

/// The list of shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// The weights when they are one file.
pub(super) const SINGLE: &str = "model.safetensors";

/// No header of a real model comes near; a larger one is not a header.
const MAX_HEADER: u64 = 256 << 20;

/// What is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file's name.
    pub file: String,
    /// Why it does not do; `None` if it is not there.
    pub damage: Option<String>,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.damage {
            None => write!(f, "no {}", self.file),
            Some(damage) => write!(f, "{} {damage}", self.file),
        }
    }
}

/// Everything that keeps `folder` from being a complete model; empty if
/// nothing does.
pub(super) fn faults(folder: &Path) -> Vec<Fault> {
    let weights = weight_files(folder);
    let weights = weights.iter().map(String::as_str);
    REQUIRED
        .into_iter()
        .chain(weights)
        .filter_map(|name| fault(folder, name))
        .collect()
}

/// What is wrong with one file of `folder`.
fn fault(folder: &Path, name: &str) -> Option<Fault> {
    let path = folder.join(name);
    let damage = match path.try_exists() {
        Ok(false) => None,
        Err(error) => Some(format!("cannot be read ({error})")),
        Ok(true) => Some(damage(&path, name)?),
    };
    Some(Fault {
        file: name.to_owned(),
        damage,
    })
}

/// The names of the weights that should be there, judging by what is there:
/// the index and its shards, or one file, or numbered files without an index.
fn weight_files(folder: &Path) -> Vec<String> {
    let index = folder.join(INDEX);
    if index.exists() {
        let mut names = vec![INDEX.to_owned()];
        // A bad index is reported as a fault of its own.
        names.extend(shards(&index).unwrap_or_default());
        return names;
    }
    let listed = std::fs::read_dir(folder).into_iter().flatten();
    let present: Vec<String> = listed
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let names = select_unindexed(present.iter().map(String::as_str));
    if names.is_empty() {
        return vec![SINGLE.to_owned()];
    }
    // Two of five shards without their index are an interrupted download.
    names
        .iter()
        .flat_map(|name| siblings(name))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// The weights among the files of a repository without an index.
pub(super) fn select_unindexed<'a>(files: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    if files.clone().any(|name| name == SINGLE) {
        return vec![SINGLE.to_owned()];
    }
    files
        .filter(|name| name.ends_with(".safetensors") && is_plain(name))
        .map(str::to_owned)
        .collect()
}

/// The names of all shards of which `name` is one (`x-00002-of-00005.safetensors`).
fn siblings(name: &str) -> Vec<String> {
    let numbered = || {
        let stem = name.strip_suffix(".safetensors")?;
        let (rest, of) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        number.parse::<u32>().ok()?;
        let total: u32 = of.parse().ok().filter(|total| *total <= 10_000)?;
        let width = number.len();
        Some(
            (1..=total)
                .map(|i| format!("{prefix}-{i:0width$}-of-{of}.safetensors"))
                .collect(),
        )
    };
    numbered().unwrap_or_else(|| vec![name.to_owned()])
}

/// Whether `name` is the name of a file in the folder itself, safe as part
/// of a path and of an address as it is.
pub(super) fn is_plain(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(known)
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards that the index at `path` names.
pub(super) fn shards(path: &Path) -> Result<BTreeSet<String>, String> {
    let text = std::fs::read(path).map_err(|error| format!("cannot be read ({error})"))?;
    let index: Index =
        serde_json::from_slice(&text).map_err(|error| format!("is not an index ({error})"))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    match names.iter().find(|name| !is_plain(name)) {
        Some(name) => Err(format!("names the shard {name:?} outside its folder")),
        None if names.is_empty() => Err("names no shards".to_owned()),
        None => Ok(names),
    }
}

/// What is wrong with the content of the file at `path`, called `name`, as
/// far as the file itself tells. Reads JSON whole and of weights the header.
pub(super) fn damage(path: &Path, name: &str) -> Option<String> {
    let verdict = if name == INDEX {
        shards(path).map(drop)
    } else if name.ends_with(".safetensors") {
        safetensors(path)
    } else if name.ends_with(".json") {
        json(path)
    } else {
        Ok(())
    };
    verdict.err()
}

fn json(path: &Path) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read ({error})"))?;
    serde_json::from_slice::<IgnoredAny>(&bytes)
        .map(drop)
        .map_err(|error| format!("is damaged ({error})"))
}

/// One entry of a safetensors header; `__metadata__` has no offsets.
#[derive(Deserialize)]
struct Tensor {
    data_offsets: Option<(u64, u64)>,
}

/// A file of safetensors is whole when its length is what its header says:
/// 8 bytes of length, the header, and data up to the last tensor's end.
fn safetensors(path: &Path) -> Result<(), String> {
    let unreadable = |error: std::io::Error| format!("cannot be read ({error})");
    let mut file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut prefix = [0; 8];
    let mut header = Vec::new();
    if length < 8 {
        return Err(format!("is cut short ({length} bytes)"));
    }
    file.read_exact(&mut prefix).map_err(unreadable)?;
    let size = u64::from_le_bytes(prefix);
    if size > MAX_HEADER {
        return Err("is damaged (it does not begin as safetensors do)".to_owned());
    }
    file.take(size)
        .read_to_end(&mut header)
        .map_err(unreadable)?;
    if (header.len() as u64) < size {
        return Err(format!(
            "is cut short ({length} bytes, less than its header)"
        ));
    }
    let tensors: BTreeMap<String, Tensor> = serde_json::from_slice(&header)
        .map_err(|_| "is damaged (its header is not JSON)".to_owned())?;
    let ends = tensors.values().filter_map(|tensor| tensor.data_offsets);
    let data = ends.map(|(_, end)| end).max().unwrap_or(0);
    let expected = (8 + size).saturating_add(data);
    match length.cmp(&expected) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(format!("is cut short ({length} of {expected} bytes)")),
        std::cmp::Ordering::Greater => {
            Err(format!("is damaged ({length} bytes instead of {expected})"))
        }
    }
}
