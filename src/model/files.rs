//! Where a model's files come from: a folder, or this program's own binary.
//! Knows file names and bytes, not what they mean.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::quantize::Quantize;
use crate::blob::Blob;

/// A model's files.
#[derive(Clone)]
pub enum ModelFiles {
    /// A folder, such as a snapshot in the Hugging Face cache.
    Folder(PathBuf),
    /// Files embedded in the program: names and contents.
    Embedded(&'static [(&'static str, &'static [u8])]),
    /// Those of a model, and the folder of an adapter to it.
    Adapted(Box<ModelFiles>, PathBuf),
    /// Those of a model whose matrices are quantized when they are loaded.
    Quantized(Box<ModelFiles>, Quantize),
}

/// A model file that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It is not there.
    #[error("the model has no {0}")]
    Missing(String),
    /// It is there and cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It should be text and is not.
    #[error("the model's {0} is not UTF-8 text")]
    NotText(String),
}

impl ModelFiles {
    /// The same model with the adapter in the folder `adapter`.
    #[must_use]
    pub fn with_adapter(self, adapter: PathBuf) -> Self {
        Self::Adapted(Box::new(self), adapter)
    }

    /// The files of the adapter, if the model has one.
    pub fn adapter(&self) -> Option<Self> {
        match self {
            Self::Adapted(_, adapter) => Some(Self::Folder(adapter.clone())),
            Self::Quantized(model, _) => model.adapter(),
            Self::Folder(_) | Self::Embedded(_) => None,
        }
    }

    /// The same model, quantized when it is loaded.
    #[must_use]
    pub fn quantized(self, quantize: Quantize) -> Self {
        Self::Quantized(Box::new(self), quantize)
    }

    /// What the model's matrices are to be quantized to when they are loaded,
    /// if they are.
    pub fn quantize(&self) -> Option<Quantize> {
        match self {
            Self::Quantized(_, quantize) => Some(*quantize),
            Self::Adapted(model, _) => model.quantize(),
            Self::Folder(_) | Self::Embedded(_) => None,
        }
    }

    /// The names of all files, sorted.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, FilesError> {
        let mut names: Vec<String> = match self {
            Self::Folder(folder) => std::fs::read_dir(folder)
                .map_err(|source| FilesError::Read {
                    path: folder.clone(),
                    source,
                })?
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect(),
            Self::Embedded(files) => files.iter().map(|(name, _)| (*name).to_owned()).collect(),
            Self::Adapted(model, _) | Self::Quantized(model, _) => return model.names(),
        };
        names.sort();
        Ok(names)
    }

    /// The bytes of the file `name`.
    ///
    /// # Errors
    /// If it is missing or cannot be read.
    pub fn open(&self, name: &str) -> Result<Blob, FilesError> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                Blob::map(&path).map_err(|source| match source.kind() {
                    ErrorKind::NotFound => FilesError::Missing(name.to_owned()),
                    _ => FilesError::Read { path, source },
                })
            }
            Self::Embedded(files) => files
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, bytes)| Blob::from_static(bytes))
                .ok_or_else(|| FilesError::Missing(name.to_owned())),
            Self::Adapted(model, _) | Self::Quantized(model, _) => model.open(name),
        }
    }

    /// The text of the file `name`, or `None` if there is no such file.
    ///
    /// # Errors
    /// If it cannot be read or is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>, FilesError> {
        match self.open(name) {
            Ok(blob) => match std::str::from_utf8(&blob) {
                Ok(text) => Ok(Some(text.to_owned())),
                Err(_) => Err(FilesError::NotText(name.to_owned())),
            },
            Err(FilesError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
