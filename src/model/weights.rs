//! A model's weights in safetensors files: found by name, checked for shape,
//! left where they are mapped. Knows nothing of layers.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};

use safetensors::SafeTensors;
use serde_json::Value;

use super::ModelError;
use super::config::DecoderConfig;
use super::files::ModelFiles;
use super::quantization::{Quantization, Quantizations};
use super::quantize::Quantizer;
use crate::backend::{Dtype, MatrixWeights, RawTensor};

/// The file that says which tensor is in which shard.
const INDEX: &str = "model.safetensors.index.json";

/// What transformers' names of a language model within a larger one begin with.
const WITHIN: &str = "model.language_model.";

/// All tensors of a model by name.
pub(super) struct Weights {
    tensors: HashMap<String, Entry>,
    files: usize,
    /// Bytes of the tensors given out since [`Self::take_loaded`].
    loaded: Cell<u64>,
    /// Numbers given out so far, quantized ones counted one by one.
    parameters: Cell<u64>,
}

/// What a decoder takes.
pub(super) struct Footprint {
    /// How many weights, quantized ones counted one by one.
    pub(super) parameters: u64,
    /// The bytes they are stored in, or get when they are quantized at load.
    pub(super) bytes: u64,
    /// If some are, the type the largest matrix of them is stored in.
    pub(super) quantized: Option<Dtype>,
}

struct Entry {
    file: String,
    /// The tensor, or why it cannot be one of ours.
    tensor: Result<RawTensor, String>,
}

fn damaged(reason: impl Into<String>) -> ModelError {
    ModelError::Weights(reason.into())
}

impl Weights {
    /// Maps the files: the shards the index names, or else every
    /// `.safetensors` file whose name begins with `model`, or else the only
    /// one there is.
    pub(super) fn open(files: &ModelFiles) -> Result<Self, ModelError> {
        let mut weights = Self::of_files(files, shards(files)?)?;
        weights.rename();
        Ok(weights)
    }

    /// Calls a language model within a larger one as mlx-lm calls it, where
    /// the files have transformers' names.
    fn rename(&mut self) {
        if !self.tensors.keys().any(|name| name.starts_with(WITHIN)) {
            return;
        }
        let tensors = std::mem::take(&mut self.tensors).into_iter();
        let renamed = tensors.map(|(name, entry)| {
            let own = match name.strip_prefix(WITHIN) {
                Some(rest) => format!("language_model.model.{rest}"),
                None if name.starts_with("lm_head.") => format!("language_model.{name}"),
                None => name,
            };
            (own, entry)
        });
        self.tensors = renamed.collect();
    }

    /// Maps the files named `shards`.
    pub(super) fn of_files(files: &ModelFiles, shards: Vec<String>) -> Result<Self, ModelError> {
        let mut tensors = HashMap::new();
        let files_count = shards.len();
        for file in shards {
            let blob = files.open(&file)?;
            // Offsets without gaps that end where the file ends: checked here.
            let (header, metadata) = SafeTensors::read_metadata(&blob).map_err(|error| {
                damaged(format!(
                    "{file} is damaged or incomplete ({error}); delete it to have it downloaded again"
                ))
            })?;
            let data = header + 8;
            for (name, info) in metadata.tensors() {
                let (start, end) = info.data_offsets;
                let tensor = dtype(info.dtype).and_then(|dtype| {
                    let bytes = blob
                        .slice(data + start..data + end)
                        .ok_or("it reaches beyond its file")?;
                    let elements: usize = info.shape.iter().product();
                    if elements * dtype.size() != bytes.len() {
                        return Err("its shape does not fit its bytes".to_owned());
                    }
                    Ok(RawTensor {
                        dtype,
                        shape: info.shape.clone(),
                        bytes,
                    })
                });
                let entry = Entry {
                    file: file.clone(),
                    tensor,
                };
                if let Some(other) = tensors.insert(name.clone(), entry) {
                    return Err(damaged(format!(
                        "{name} is both in {} and in {file}",
                        other.file
                    )));
                }
            }
        }
        Ok(Self {
            tensors,
            files: files_count,
            loaded: Cell::new(0),
            parameters: Cell::new(0),
        })
    }

    /// How many files there are.
    pub(super) fn files(&self) -> usize {
        self.files
    }

    /// Bytes of all tensors.
    pub(super) fn total_bytes(&self) -> u64 {
        let tensors = self.tensors.values();
        tensors
            .filter_map(|entry| Some(entry.tensor.as_ref().ok()?.bytes.len() as u64))
            .sum()
    }

    /// Bytes of the tensors given out since this was last asked.
    pub(super) fn take_loaded(&self) -> u64 {
        self.loaded.take()
    }

    /// How much of the weights is the decoder's. Others may be stored beside
    /// them, such as those that look at pictures.
    pub(super) fn footprint(
        &self,
        config: &DecoderConfig,
        quantizer: Option<&Quantizer>,
    ) -> Footprint {
        let (mut parameters, mut bytes, mut largest) = (0, 0, None);
        for (name, entry) in &self.tensors {
            let (Some(own), Ok(tensor)) = (name.strip_prefix(config.prefix), &entry.tensor) else {
                continue;
            };
            let tied = config.tied_embeddings == Some(true) && own.starts_with("lm_head.");
            if tied || !(own.starts_with("model.") || own.starts_with("lm_head.")) {
                continue;
            }
            let (of, part) = name.rsplit_once('.').unwrap_or((name, ""));
            let elements: usize = tensor.shape.iter().product();
            let quantized = self.has(&format!("{of}.scales"));
            let at_load = quantizer
                .filter(|_| part == "weight" && !quantized)
                .and_then(|quantizer| quantizer.bytes(of, tensor));
            bytes += at_load.unwrap_or(tensor.bytes.len() as u64);
            if at_load.is_some() && largest.is_none_or(|(most, _)| elements > most) {
                largest = Some((elements, tensor.dtype));
            }
            parameters += match (part, quantized, config.quantizations.of(of)) {
                ("weight", true, Some(format)) => elements * 32 / format.bits(),
                ("scales" | "biases", true, _) => 0,
                _ => elements,
            } as u64;
        }
        Footprint {
            parameters,
            bytes,
            quantized: largest.map(|(_, dtype)| dtype),
        }
    }

    /// How many weights were given out, quantized ones counted one by one.
    pub(super) fn parameters(&self) -> u64 {
        self.parameters.get()
    }

    /// Whether there is a tensor `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names of all tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of the tensor `name`, if there is one that can be read.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        let tensor = self.tensors.get(name)?.tensor.as_ref().ok()?;
        Some(&tensor.shape)
    }

    /// The tensor `name`, which must have the shape `shape`.
    pub(super) fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor, ModelError> {
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| damaged(format!("{name} is missing")))?;
        let tensor = entry
            .tensor
            .as_ref()
            .map_err(|reason| damaged(format!("{name} in {}: {reason}", entry.file)))?;
        if tensor.shape != shape {
            return Err(damaged(format!(
                "{name} in {} has the shape {:?} instead of {shape:?}",
                entry.file, tensor.shape
            )));
        }
        self.loaded
            .set(self.loaded.get() + tensor.bytes.len() as u64);
        Ok(tensor.clone())
    }

    /// The floating-point tensor `name` of the shape `shape`.
    pub(super) fn parameter(&self, name: &str, shape: &[usize]) -> Result<RawTensor, ModelError> {
        self.count(shape);
        self.floats(name, shape)
    }

    fn floats(&self, name: &str, shape: &[usize]) -> Result<RawTensor, ModelError> {
        let tensor = self.tensor(name, shape)?;
        if !tensor.dtype.is_float() {
            return Err(damaged(format!("{name} holds integers instead of numbers")));
        }
        Ok(tensor)
    }

    fn count(&self, shape: &[usize]) {
        let count: usize = shape.iter().product();
        self.parameters.set(self.parameters.get() + count as u64);
    }

    /// The matrix named `prefix`: `shape` is `[out, in]`, or `[experts, out,
    /// in]`. It is quantized if its scales are there, as mlx-lm decides it
    /// too.
    pub(super) fn matrix(
        &self,
        prefix: &str,
        shape: &[usize],
        quantizations: &Quantizations,
    ) -> Result<MatrixWeights, ModelError> {
        let name = |part: &str| format!("{prefix}.{part}");
        if !self.has(&name("scales")) {
            let weight = self.parameter(&name("weight"), shape)?;
            return Ok(MatrixWeights::Dense(weight));
        }
        let format = quantizations.of(prefix).ok_or_else(|| {
            damaged(format!(
                "{prefix} is quantized but config.json does not say how"
            ))
        })?;
        let (&columns, rows) = shape.split_last().unwrap_or((&0, &[]));
        let group_size = format.group_size();
        if !columns.is_multiple_of(group_size) {
            return Err(damaged(format!(
                "{prefix} has {columns} columns, which groups of {group_size} do not fill"
            )));
        }
        let of_row = |length: usize| [rows, &[length]].concat();
        let words = columns * format.bits() / 32;
        let packed = self.typed(&name("weight"), &of_row(words), Dtype::U32)?;
        self.count(shape);
        let groups = of_row(columns / group_size);
        Ok(match format {
            Quantization::Affine { group_size, bits } => MatrixWeights::Affine {
                packed,
                scales: self.floats(&name("scales"), &groups)?,
                biases: self.floats(&name("biases"), &groups)?,
                group_size,
                bits,
            },
            Quantization::Mxfp4 => MatrixWeights::Mxfp4 {
                packed,
                scales: self.typed(&name("scales"), &groups, Dtype::U8)?,
            },
        })
    }

    /// The tensor `name` of the shape `shape` with elements of `dtype`.
    fn typed(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<RawTensor, ModelError> {
        let tensor = self.tensor(name, shape)?;
        if tensor.dtype != dtype {
            return Err(damaged(format!(
                "{name} has elements of type {:?} instead of {dtype:?}",
                tensor.dtype
            )));
        }
        Ok(tensor)
    }
}

/// The names of the files that hold the weights.
fn shards(files: &ModelFiles) -> Result<Vec<String>, ModelError> {
    if let Some(text) = files.text(INDEX)? {
        let index: Value = serde_json::from_str(&text)
            .map_err(|error| damaged(format!("{INDEX} is not JSON: {error}")))?;
        let map = index["weight_map"]
            .as_object()
            .ok_or_else(|| damaged(format!("{INDEX} has no weight_map")))?;
        let shards: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
        // A name with a path in it could lead out of the model's folder.
        if let Some(outside) = shards.iter().find(|name| name.contains(['/', '\\'])) {
            return Err(damaged(format!(
                "{INDEX} names {outside:?}, which is not a file beside it"
            )));
        }
        return Ok(shards.into_iter().map(str::to_owned).collect());
    }
    let mut names = files.names()?;
    names.retain(|name| name.ends_with(".safetensors"));
    let models = |name: &String| name.starts_with("model");
    if names.iter().any(models) {
        names.retain(models);
    } else if names.len() > 1 {
        return Err(damaged(format!(
            "which of these is the model? {}",
            names.join(", ")
        )));
    }
    match names.is_empty() {
        true => Err(damaged("there is no .safetensors file")),
        false => Ok(names),
    }
}

fn dtype(stored: safetensors::Dtype) -> Result<Dtype, String> {
    match stored {
        safetensors::Dtype::F32 => Ok(Dtype::F32),
        safetensors::Dtype::F16 => Ok(Dtype::F16),
        safetensors::Dtype::BF16 => Ok(Dtype::Bf16),
        safetensors::Dtype::U32 => Ok(Dtype::U32),
        safetensors::Dtype::U8 => Ok(Dtype::U8),
        other => Err(format!("elements of type {other:?} are not supported")),
    }
}
