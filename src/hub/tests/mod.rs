//! The module against a local server that speaks the hub's API and fails on
//! purpose (`tests/support/fake_hub.py`, which needs python3).

#![allow(clippy::unwrap_used)]

mod download;
mod faults;
mod offline;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

const REPO: &str = "org/tiny";
const SHARD_1: &str = "model-00001-of-00002.safetensors";
const SHARD_2: &str = "model-00002-of-00002.safetensors";

/// Names and contents.
type Files = BTreeMap<&'static str, Vec<u8>>;

/// A server, and a cache that is empty at first.
struct Bench {
    dir: tempfile::TempDir,
    server: Option<Server>,
    env: HubEnv,
    pace: Pace,
}

struct Server {
    child: Child,
    commit: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Adds up what is told and refuses to go beyond what was promised.
#[derive(Default)]
struct Counter {
    promised: Mutex<Option<(u64, usize)>>,
    told: Mutex<u64>,
    done: Mutex<bool>,
}

impl Progress for Counter {
    fn begin(&self, total: u64, files: usize) {
        *self.promised.lock().unwrap() = Some((total, files));
    }
    fn advance(&self, _file: &str, units: u64) {
        *self.told.lock().unwrap() += units;
    }
    fn done(&self) {
        let promised = self.promised.lock().unwrap().unwrap().0;
        assert_eq!(*self.told.lock().unwrap(), promised);
        *self.done.lock().unwrap() = true;
    }
}

/// A file of safetensors with one tensor of `bytes` bytes.
fn weights(name: &str, bytes: usize) -> Vec<u8> {
    let header = json!({
        "__metadata__": {"format": "pt"},
        name: {"dtype": "U8", "shape": [bytes], "data_offsets": [0, bytes]},
    })
    .to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend((0..bytes).map(|i| (i * 7 + i / 251) as u8));
    file
}

/// Two shards with their index, what belongs to them, and much that does not.
fn sharded() -> Files {
    let index = json!({"metadata": {}, "weight_map": {"a": SHARD_1, "b": SHARD_2}});
    BTreeMap::from([
        ("config.json", b"{\"model_type\": \"qwen3\"}".to_vec()),
        ("generation_config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"version\": \"1.0\"}".to_vec()),
        ("tokenizer_config.json", b"{}".to_vec()),
        ("chat_template.jinja", b"{{ messages }}".to_vec()),
        ("special_tokens_map.json", b"{}".to_vec()),
        (INDEX, index.to_string().into_bytes()),
        (SHARD_1, weights("a", 300_000)),
        (SHARD_2, weights("b", 200_000)),
        ("README.md", b"read me".to_vec()),
        ("pytorch_model.bin", b"pickle".to_vec()),
        ("consolidated.safetensors", weights("c", 10)),
        ("original/model.safetensors", weights("d", 10)),
        ("adapters/adapter_model.safetensors", weights("e", 10)),
    ])
}

/// The files of [`sharded`] that are wanted.
const WANTED: [&str; 9] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    SHARD_1,
    SHARD_2,
    INDEX,
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

const INDEX: &str = check::INDEX;

fn write_folder(folder: &Path, files: &Files) {
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

impl Bench {
    /// A bench whose server serves `files` and behaves as `options` say.
    fn new(files: &Files, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_folder(&dir.path().join("repo"), files);
        let mut bench = Self {
            env: HubEnv {
                cache: dir.path().join("cache"),
                endpoint: String::new(),
                token: None,
                offline: false,
            },
            pace: Pace {
                connect: Duration::from_secs(5),
                stall: Duration::from_secs(5),
                attempts: 3,
                backoff: Duration::from_millis(10),
            },
            dir,
            server: None,
        };
        bench.start(options);
        bench
    }

    /// Replaces the server by one that behaves as `options` say.
    fn start(&mut self, options: &[&str]) {
        self.server = None;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/fake_hub.py");
        let mut child = Command::new("python3")
            .arg(script)
            .arg(self.dir.path().join("repo"))
            .arg("--log")
            .arg(self.log())
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need python3");
        let _ = std::fs::remove_file(self.log());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let hello: Value = serde_json::from_str(&line).unwrap();
        self.env.endpoint = hello["endpoint"].as_str().unwrap().to_owned();
        self.server = Some(Server {
            child,
            commit: hello["commit"].as_str().unwrap().to_owned(),
        });
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("requests")
    }

    /// The requests since the server started.
    fn requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The requests for bytes, by method GET, whose path ends so.
    fn gets(&self, ending: &str) -> Vec<Value> {
        let mut found = self.requests();
        found.retain(|request| {
            let text = |key: &str| request[key].as_str().unwrap();
            text("method") == "GET" && text("path").ends_with(ending)
        });
        found
    }

    fn commit(&self) -> &str {
        &self.server.as_ref().unwrap().commit
    }

    fn settings(revision: Option<&str>) -> Settings {
        Settings {
            model_name: REPO.to_owned(),
            revision: revision.map(str::to_owned),
        }
    }

    fn locate(&self) -> Location {
        locate_in(&Self::settings(None), &self.env).unwrap()
    }

    async fn fetch(&self) -> Result<PathBuf, HubError> {
        self.fetch_revision(None).await
    }

    async fn fetch_revision(&self, revision: Option<&str>) -> Result<PathBuf, HubError> {
        let settings = Self::settings(revision);
        let progress = Counter::default();
        let fetched = fetch_in(&settings, &self.env, self.pace, &progress).await;
        let begun = progress.promised.lock().unwrap().is_some();
        if fetched.is_ok() {
            assert_eq!(*progress.done.lock().unwrap(), begun);
        }
        fetched
    }

    /// Fetches, and asserts that exactly the wanted files came, unharmed.
    async fn fetch_well(&self) -> PathBuf {
        let folder = self.fetch().await.unwrap();
        self.assert_unharmed(&folder);
        assert_eq!(self.locate(), Location::Cached(folder.clone()));
        folder
    }

    fn assert_unharmed(&self, folder: &Path) {
        assert_eq!(names(folder), WANTED);
        for name in WANTED {
            let source = std::fs::read(self.dir.path().join("repo").join(name)).unwrap();
            assert!(
                std::fs::read(folder.join(name)).unwrap() == source,
                "{name}"
            );
        }
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }

    fn repo_cache(&self) -> PathBuf {
        self.env.cache.join("models--org--tiny")
    }

    /// The incomplete blobs.
    fn leftovers(&self) -> Vec<String> {
        let mut blobs = names(&self.repo_cache().join("blobs"));
        blobs.retain(|name| name.ends_with(".incomplete"));
        blobs
    }

    /// The blob behind a file of the snapshot.
    fn blob(&self, name: &str) -> PathBuf {
        let snapshot = self.repo_cache().join("snapshots").join(self.commit());
        std::fs::canonicalize(snapshot.join(name)).unwrap()
    }
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let listed = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The SHA-256 of a served file, which is its blob's name.
fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
