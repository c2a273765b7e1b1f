//! A stored preamble as bytes: a safetensors file with the token ids
//! (`tokens`), the keys and values of each layer (`layer.N.k`, `layer.N.v`,
//! `[tokens, kv_heads, head_dim]`), and last the SHA-256 of every byte before
//! (`sha256`).
//!
//! Read and written from front to back, a layer at a time. The header follows
//! from what is in the file, so that one is right only if it is the one that
//! would be written. Knows no folders and no models.

use std::io::{self, ErrorKind, Read, Write};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::model::{Dtype, Fingerprint, KvLayout, RawKv, RawTensor};

/// The name of this format. Another one is another kind of preamble.
const FORMAT: &str = "llm-server preamble 1";

/// No header of ours comes near: some 200 bytes a layer.
const LONGEST_HEADER: u64 = 4 << 20;

/// What preambles have to be of to be of use to each other.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    layout: KvLayout,
    /// A hash of the format, the model and the layout.
    key: String,
}

impl Kind {
    pub(super) fn new(model: &Fingerprint, layout: KvLayout) -> Self {
        let mut hash = Sha256::new();
        hash.update(model.as_bytes());
        // As text, in which no two layouts are alike.
        hash.update(format!("{FORMAT} {layout:?}"));
        Self {
            layout,
            key: hex(&hash.finalize()),
        }
    }

    /// A hash of all that is to be the same, in hexadecimal digits.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// How many layers there are.
    pub(super) fn layers(&self) -> usize {
        self.layout.layers
    }
}

/// A hash of token ids, in hexadecimal digits.
pub(super) fn hash_of(ids: &[u32]) -> String {
    hex(&Sha256::digest(bytes_of(ids)))
}

fn bytes_of(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It cannot be read, whatever is in it.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is not what was written.
    #[error("{0}")]
    Damaged(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Damaged("it ends too early"),
            _ => Self::Unreadable(error),
        }
    }
}

/// What is in a file, beside the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Contents {
    tokens: usize,
    keys: Dtype,
    values: Dtype,
}

impl Contents {
    /// Bytes of one layer's keys and values.
    fn layer(&self, layout: &KvLayout) -> [usize; 2] {
        let elements = self.tokens * layout.kv_heads * layout.head_dim;
        [self.keys, self.values].map(|dtype| elements * dtype.size())
    }

    /// The file's first bytes, the header's length included, and how many
    /// follow.
    fn header(&self, kind: &Kind) -> (Vec<u8>, usize) {
        let layout = &kind.layout;
        let mut header = Map::new();
        header.insert(
            "__metadata__".to_owned(),
            json!({ "format": FORMAT, "key": kind.key }),
        );
        let mut end = 0;
        let mut add = |name: String, dtype: &str, shape: &[usize], bytes: usize| {
            let tensor = json!({
                "dtype": dtype,
                "shape": shape,
                "data_offsets": [end, end + bytes],
            });
            header.insert(name, tensor);
            end += bytes;
        };
        add(TOKENS.to_owned(), "U32", &[self.tokens], 4 * self.tokens);
        let shape = [self.tokens, layout.kv_heads, layout.head_dim];
        let [keys, values] = self.layer(layout);
        for layer in 0..layout.layers {
            add(key_name(layer), name_of(self.keys), &shape, keys);
            add(value_name(layer), name_of(self.values), &shape, values);
        }
        add("sha256".to_owned(), "U8", &[32], 32);
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text);
        (bytes, end)
    }

    /// What a header says is in its file of `length` bytes.
    fn read(header: &[u8], layout: &KvLayout, length: u64) -> Option<Self> {
        let header: Value = serde_json::from_slice(header).ok()?;
        let tensor = |name: &str| header.as_object()?.get(name);
        let dtype = |name: String| dtype_of(tensor(&name)?.get("dtype")?.as_str()?);
        let contents = Self {
            tokens: tensor(TOKENS)?
                .pointer("/shape/0")?
                .as_u64()?
                .try_into()
                .ok()?,
            keys: dtype(key_name(0))?,
            values: dtype(value_name(0))?,
        };
        // More than the file can hold could be more than can be counted.
        let widest = layout.layers * layout.kv_heads * layout.head_dim * 2 * 4 + 4;
        let all = contents.tokens.checked_mul(widest)?;
        (contents.tokens > 0 && all as u64 / 2 <= length).then_some(contents)
    }
}

const TOKENS: &str = "tokens";

fn key_name(layer: usize) -> String {
    format!("layer.{layer}.k")
}

fn value_name(layer: usize) -> String {
    format!("layer.{layer}.v")
}

/// The types keys and values may have, as safetensors names them.
const DTYPES: [(Dtype, &str); 3] = [
    (Dtype::F32, "F32"),
    (Dtype::F16, "F16"),
    (Dtype::Bf16, "BF16"),
];

fn name_of(dtype: Dtype) -> &'static str {
    let known = DTYPES.iter().find(|(known, _)| *known == dtype);
    known.map_or("", |(_, name)| name)
}

fn dtype_of(name: &str) -> Option<Dtype> {
    let known = DTYPES.iter().find(|(_, known)| *known == name);
    known.map(|(dtype, _)| *dtype)
}

/// A file being written.
pub(super) struct Writer<'a, W> {
    file: W,
    kind: &'a Kind,
    contents: Contents,
    hash: Sha256,
    layers: usize,
}

impl<'a, W: Write> Writer<'a, W> {
    /// Begins a preamble of these tokens, whose layers are of the types that
    /// `first` is of.
    pub(super) fn begin(file: W, kind: &'a Kind, ids: &[u32], first: &RawKv) -> io::Result<Self> {
        let contents = Contents {
            tokens: ids.len(),
            keys: first.keys.dtype,
            values: first.values.dtype,
        };
        let mut writer = Self {
            file,
            kind,
            contents,
            hash: Sha256::new(),
            layers: 0,
        };
        writer.put(&contents.header(kind).0)?;
        writer.put(&bytes_of(ids))?;
        Ok(writer)
    }

    /// The next layer's keys and values.
    pub(super) fn layer(&mut self, raw: &RawKv) -> io::Result<()> {
        let Contents { keys, values, .. } = self.contents;
        let sizes = [raw.keys.bytes.len(), raw.values.bytes.len()];
        if [raw.keys.dtype, raw.values.dtype] != [keys, values]
            || sizes != self.contents.layer(&self.kind.layout)
        {
            return Err(io::Error::other("its layers are not alike"));
        }
        self.layers += 1;
        self.put(&raw.keys.bytes)?;
        self.put(&raw.values.bytes)
    }

    /// The end, once all layers are written.
    pub(super) fn finish(mut self) -> io::Result<W> {
        debug_assert_eq!(self.layers, self.kind.layout.layers);
        self.file.write_all(&self.hash.finalize())?;
        Ok(self.file)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes)
    }
}

/// A file being read: an iterator over the layers of its first tokens. It ends
/// early at a fault.
#[derive(Debug)]
pub(super) struct Reader<R> {
    file: R,
    layout: KvLayout,
    contents: Contents,
    ids: Vec<u32>,
    hash: Sha256,
    /// The next layer.
    next: usize,
    /// Of how many tokens layers are given.
    len: usize,
    fault: Option<Fault>,
}

impl<R: Read> Reader<R> {
    /// Begins to read a file of `length` bytes. Takes no more memory than that,
    /// whatever the file says.
    ///
    /// # Errors
    /// If it cannot be read or is not one of this kind.
    pub(super) fn open(mut file: R, length: u64, kind: &Kind) -> Result<Self, Fault> {
        let mut hash = Sha256::new();
        let header_length: [u8; 8] = take(&mut file, &mut hash, 8)?
            .try_into()
            .map_err(|_| Fault::Damaged("it ends too early"))?;
        let header_length = u64::from_le_bytes(header_length);
        if header_length > LONGEST_HEADER.min(length) {
            return Err(Fault::Damaged("its header is not one"));
        }
        let header = take(&mut file, &mut hash, header_length as usize)?;
        let contents = Contents::read(&header, &kind.layout, length);
        let contents = contents.ok_or(Fault::Damaged("its header is not one"))?;
        let (expected, rest) = contents.header(kind);
        if expected[8..] != header {
            return Err(Fault::Damaged("its header is not what it has to be"));
        }
        if (expected.len() + rest) as u64 != length {
            return Err(Fault::Damaged("it is not as long as it has to be"));
        }
        let ids = take(&mut file, &mut hash, 4 * contents.tokens)?;
        let ids = ids
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes));
        Ok(Self {
            file,
            layout: kind.layout,
            contents,
            ids: ids.collect(),
            hash,
            next: 0,
            len: contents.tokens,
            fault: None,
        })
    }

    /// The tokens. Not to be trusted before [`Self::finish`].
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The file itself.
    pub(super) fn file(&self) -> &R {
        &self.file
    }

    /// The layers of the first `len` tokens alone, from now on.
    pub(super) fn shortened(mut self, len: usize) -> Self {
        debug_assert!(len <= self.ids.len());
        self.len = len;
        self
    }

    /// What was wrong, if anything was.
    pub(super) fn into_fault(self) -> Option<Fault> {
        self.fault
    }

    /// The end, once all layers are read: whether the file is what was
    /// written.
    ///
    /// # Errors
    /// If not.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        debug_assert_eq!(self.next, self.layout.layers);
        let actual = self.hash.finalize_reset();
        let stored = take(&mut self.file, &mut self.hash, 32)?;
        match stored == actual[..] {
            true => Ok(()),
            false => Err(Fault::Damaged("its checksum is wrong")),
        }
    }

    fn layer(&mut self) -> Result<RawKv, Fault> {
        let [keys, values] = self.contents.layer(&self.layout);
        Ok(RawKv {
            keys: self.tensor(self.contents.keys, keys)?,
            values: self.tensor(self.contents.values, values)?,
        })
    }

    fn tensor(&mut self, dtype: Dtype, size: usize) -> Result<RawTensor, Fault> {
        let mut bytes = take(&mut self.file, &mut self.hash, size)?;
        let KvLayout {
            kv_heads, head_dim, ..
        } = self.layout;
        bytes.truncate(self.len * kv_heads * head_dim * dtype.size());
        Ok(RawTensor {
            dtype,
            shape: vec![self.len, kv_heads, head_dim],
            bytes: bytes.into(),
        })
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = RawKv;

    fn next(&mut self) -> Option<RawKv> {
        if self.fault.is_some() || self.next == self.layout.layers {
            return None;
        }
        self.next += 1;
        match self.layer() {
            Ok(layer) => Some(layer),
            Err(fault) => {
                self.fault = Some(fault);
                None
            }
        }
    }
}

/// The next bytes, hashed.
fn take(file: &mut impl Read, hash: &mut Sha256, count: usize) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0; count];
    file.read_exact(&mut bytes)?;
    hash.update(&bytes);
    Ok(bytes)
}
