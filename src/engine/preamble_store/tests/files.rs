//! The bytes of a stored preamble, and the folder it is in.

use std::io::Write;

use safetensors::SafeTensors;

use super::super::folder::{Folder, MOST_FILES};
use super::super::format::Writer;
use super::*;
use crate::model::{Dtype, RawKv, RawTensor};

const LAYOUT: KvLayout = KvLayout {
    backend: "test",
    layers: 3,
    kv_heads: 2,
    head_dim: 4,
    dtype: Dtype::F32,
};

const IDS: [u32; 5] = [3, 1, 4, 1, 5];

fn kind() -> Kind {
    Kind::new(&Fingerprint::from([1; 32]), LAYOUT)
}

/// Keys in f32 and values in bf16, no two bytes of a layer the same.
fn layer(number: u8, tokens: usize) -> RawKv {
    let tensor = |dtype: Dtype, from: u8| {
        let size = tokens * 8 * dtype.size();
        let bytes: Vec<u8> = (0..size).map(|at| from.wrapping_add(at as u8)).collect();
        RawTensor {
            dtype,
            shape: vec![tokens, 2, 4],
            bytes: bytes.into(),
        }
    };
    RawKv {
        keys: tensor(Dtype::F32, number * 3),
        values: tensor(Dtype::Bf16, number * 5 + 100),
    }
}

fn written() -> Vec<u8> {
    let kind = kind();
    let mut writer = Writer::begin(Vec::new(), &kind, &IDS, &layer(0, 5)).unwrap();
    for number in 0..3 {
        writer.layer(&layer(number, 5)).unwrap();
    }
    writer.finish().unwrap()
}

/// The layers of the first `len` tokens.
fn read(bytes: &[u8], kind: &Kind, len: usize) -> Result<Vec<RawKv>, Fault> {
    let reader = Reader::open(bytes, bytes.len() as u64, kind)?;
    assert_eq!(reader.ids(), IDS);
    let mut reader = reader.shortened(len);
    let layers = reader.by_ref().collect::<Vec<_>>();
    if layers.len() < 3 {
        return Err(reader.into_fault().unwrap());
    }
    reader.finish()?;
    Ok(layers)
}

#[test]
fn what_is_written_is_read_whole_or_in_part_and_is_a_safetensors_file() {
    let bytes = written();
    for len in [5, 3, 1] {
        let layers = read(&bytes, &kind(), len).unwrap();
        for (number, read) in layers.iter().enumerate() {
            let expected = layer(number as u8, 5);
            for (read, expected, size) in [
                (&read.keys, expected.keys, 32),
                (&read.values, expected.values, 16),
            ] {
                assert_eq!(read.dtype, expected.dtype);
                assert_eq!(read.shape, [len, 2, 4]);
                assert_eq!(*read.bytes, expected.bytes[..len * size]);
            }
        }
    }
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 2 + 2 * 3);
    let last = file.tensor("layer.2.v").unwrap();
    assert_eq!(last.shape(), [5, 2, 4]);
    assert_eq!(last.data(), &*layer(2, 5).values.bytes);
    assert_eq!(file.tensor("tokens").unwrap().shape(), [5]);
}

#[test]
fn no_file_that_was_cut_or_changed_anywhere_is_taken() {
    let bytes = written();
    for length in 0..bytes.len() {
        assert!(read_any(&bytes[..length]).is_err(), "cut to {length}");
    }
    assert!(read_any(&[&bytes[..], &[0]].concat()).is_err(), "longer");
    for place in 0..bytes.len() {
        for bit in [1, 128] {
            let mut changed = bytes.clone();
            changed[place] ^= bit;
            assert!(read_any(&changed).is_err(), "byte {place} changed");
        }
    }
    assert!(read_any(&bytes).is_ok());
}

/// As a start would, without looking at the name.
fn read_any(bytes: &[u8]) -> Result<(), Fault> {
    let mut reader = Reader::open(bytes, bytes.len() as u64, &kind())?;
    let layers = reader.by_ref().count();
    if layers < 3 {
        return Err(reader.into_fault().unwrap());
    }
    reader.finish()
}

#[test]
fn a_file_that_ends_while_it_is_read_is_damaged() {
    let bytes = written();
    for length in 0..bytes.len() {
        // Its length was asked for before it was cut.
        let opened = Reader::open(&bytes[..length], bytes.len() as u64, &kind());
        let fault = opened.map(|mut reader| {
            let layers = reader.by_ref().count();
            match layers < 3 {
                true => reader.into_fault(),
                false => reader.finish().err(),
            }
        });
        let fault = fault.unwrap_or_else(Some).unwrap();
        assert!(matches!(fault, Fault::Damaged(_)), "{length}: {fault}");
    }
}

#[test]
fn another_kinds_file_is_not_taken() {
    let bytes = written();
    let other = KvLayout {
        layers: 2,
        ..LAYOUT
    };
    let types = KvLayout {
        dtype: Dtype::Bf16,
        ..LAYOUT
    };
    for kind in [
        Kind::new(&Fingerprint::from([2; 32]), LAYOUT),
        Kind::new(&Fingerprint::from([1; 32]), other),
        Kind::new(&Fingerprint::from([1; 32]), types),
    ] {
        assert!(matches!(read(&bytes, &kind, 5), Err(Fault::Damaged(_))));
    }
}

#[test]
fn what_a_header_claims_takes_no_memory() {
    let header = |text: &str| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
    };
    let tensor = |shape: &str| {
        format!(
            r#"{{"tokens":{{"dtype":"U32","shape":[{shape}]}},
                "layer.0.k":{{"dtype":"F32"}},"layer.0.v":{{"dtype":"F32"}}}}"#
        )
    };
    for bytes in [
        u64::MAX.to_le_bytes().to_vec(),
        (1u64 << 40).to_le_bytes().to_vec(),
        header("[]"),
        header("{}"),
        header(r#"{"tokens": 1}"#),
        header(&tensor("18446744073709551615")),
        header(&tensor("1152921504606846976")),
        header(&tensor("100000000000")),
        header(&tensor("0")),
        header(&tensor("-1")),
    ] {
        let fault = read_any(&bytes).unwrap_err();
        assert!(matches!(fault, Fault::Damaged(_)), "{fault}");
    }
}

#[test]
fn layers_that_are_not_alike_are_not_written() {
    let kind = kind();
    let first = layer(0, 5);
    let mut writer = Writer::begin(Vec::new(), &kind, &IDS, &first).unwrap();
    writer.layer(&first).unwrap();
    assert!(writer.layer(&layer(1, 4)).is_err());
    let swapped = RawKv {
        keys: first.values.clone(),
        values: first.keys.clone(),
    };
    assert!(writer.layer(&swapped).is_err());
}

/// A file of ours by its name, so many seconds old.
fn plant(folder: &Folder, number: usize, seconds: u64) -> PathBuf {
    let path = folder.file(kind().key(), &hash_of(&[number as u32]));
    fs::write(&path, "anything").unwrap();
    grow_old(&path, seconds);
    path
}

#[test]
fn the_files_used_last_are_kept_and_nobody_elses_is_touched() {
    let temp = TempDir::new().unwrap();
    let folder = Folder::open(temp.path()).unwrap();
    let foreign = [
        "notes.txt",
        "model.safetensors",
        "llm-server-1.kv",
        "llm-server.kv",
        "llm-server-0123456789abcdef0123456789abcdef-0123456789abcdef0123456789abcdeg.kv",
        "llm-server-0123456789abcdef0123456789abcdef-0123456789abcdef0123456789abcdef.kv.bak",
        "llm-server-0123456789abcdef0123456789abcdef-0123456789abcdef0123456789abcdef.kv.x.tmp",
        "other.tmp",
    ];
    for name in foreign {
        fs::write(temp.path().join(name), "mine").unwrap();
        grow_old(&temp.path().join(name), 1_000_000);
    }
    let planted: Vec<_> = (0..12)
        .map(|number| plant(&folder, number, 1000 * (number as u64 + 1)))
        .collect();
    // The newest one by its time does not have to be the one just written.
    Folder::open(temp.path()).unwrap().trim(&planted[10]);
    let kept: Vec<_> = (0..12).filter(|&number| planted[number].exists()).collect();
    assert_eq!(kept, [0, 1, 2, 3, 4, 5, 6, 10]);
    assert_eq!(kept.len(), MOST_FILES);
    for name in foreign {
        assert!(temp.path().join(name).exists(), "{name} is gone");
    }
    let mut of_kind = folder.of_kind(kind().key()).unwrap();
    of_kind.sort();
    let mut expected: Vec<_> = kept.iter().map(|&number| planted[number].clone()).collect();
    expected.sort();
    assert_eq!(of_kind, expected);
    assert!(folder.of_kind(&hash_of(&[1])).unwrap().is_empty());
}

#[test]
fn a_temporary_file_goes_unless_somebody_writes_to_it() {
    let temp = TempDir::new().unwrap();
    let folder = Folder::open(&temp.path().join("a/b")).unwrap();
    let path = folder.file(kind().key(), &hash_of(&[1]));
    let there = || {
        let entries = fs::read_dir(path.parent().unwrap()).unwrap();
        let paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths
    };
    let reopen = || drop(Folder::open(path.parent().unwrap()).unwrap());

    // Under way, even if it has taken long.
    let mut writing = folder.temporary(path.clone()).unwrap();
    writing.write_all(b"half").unwrap();
    let [temporary] = &there()[..] else {
        panic!("{:?}", there())
    };
    grow_old(temporary, 1000);
    reopen();
    assert!(temporary.exists());
    writing.write_all(b" and half").unwrap();
    assert_eq!(writing.keep().unwrap(), path);
    assert_eq!(fs::read(&path).unwrap(), b"half and half");
    assert_eq!(there(), std::slice::from_ref(&path));

    // Given up.
    drop(folder.temporary(path.clone()).unwrap());
    assert_eq!(there(), std::slice::from_ref(&path));

    // Left behind by a crash: not this very moment, and a little later.
    let mut left = path.clone().into_os_string();
    left.push(".12ab.tmp");
    let left = PathBuf::from(left);
    fs::write(&left, "half").unwrap();
    reopen();
    assert!(left.exists());
    grow_old(&left, 60);
    reopen();
    assert!(!left.exists());
    assert_eq!(fs::read(&path).unwrap(), b"half and half");
}
