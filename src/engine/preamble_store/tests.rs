//! The store with the bundled model and a folder that things happen to.

#![allow(clippy::unwrap_used)]

mod files;

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tempfile::TempDir;

use super::*;
use crate::backend::{BackendChoice, MemoryUse};
use crate::model::{Draw, Fingerprint, Input, ModelError, ModelInfo, RawKv, Submitted, Tokens};

const LONG: Duration = Duration::from_secs(30);

fn demo() -> Box<dyn Model> {
    crate::model::load(&crate::demo::files(), BackendChoice::Candle, &()).unwrap()
}

fn settings(folder: &TempDir) -> PreambleFolder {
    PreambleFolder {
        path: folder.path().join("preambles"),
        model: Fingerprint::from([7; 32]),
    }
}

fn open(settings: &PreambleFolder, model: &dyn Model) -> PreambleStore {
    PreambleStore::open(settings, model.info().kv).unwrap()
}

/// Tokens that say nothing.
fn ids(from: u32, count: usize) -> Vec<u32> {
    (from..).take(count).map(|id| id % 2000).collect()
}

/// The logits after the last of `tokens`.
fn feed(model: &mut dyn Model, sequence: SequenceId, tokens: &[u32]) -> Vec<f32> {
    let input = Input {
        sequence,
        tokens: Tokens::Given(tokens),
        draw: Some(Draw::GREEDY),
    };
    let logits = model.submit(&[input]).unwrap().logits().unwrap();
    logits.rows().next().unwrap().to_vec()
}

fn evaluated(model: &mut dyn Model, ids: &[u32]) -> SequenceId {
    let sequence = model.open().unwrap();
    feed(model, sequence, ids);
    sequence
}

/// Stores a preamble of these tokens and says which file it is in.
fn store(settings: &PreambleFolder, model: &mut dyn Model, ids: &[u32]) -> PathBuf {
    let sequence = evaluated(model, ids);
    let mut store = open(settings, model);
    store.store(sequence, ids);
    store.finish(model, LONG);
    let path = store.file_of(ids);
    assert!(path.is_file());
    path
}

/// How many tokens of a prompt a new start finds stored.
fn restored(settings: &PreambleFolder, model: &mut dyn Model, prompt: &[u32]) -> Option<usize> {
    let found = open(settings, model).restore(model, prompt, |_| true);
    let (sequence, len) = found?;
    model.close(sequence);
    Some(len)
}

fn names(settings: &PreambleFolder) -> Vec<String> {
    let entries = fs::read_dir(&settings.path).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn grow_old(path: &Path, seconds: u64) {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(then).unwrap();
}

#[test]
fn what_is_stored_goes_on_as_the_original_does() {
    let (folder, mut model) = (TempDir::new().unwrap(), demo());
    let settings = settings(&folder);
    let prompt = ids(0, 300);
    let original = evaluated(&mut *model, &prompt);
    let path = store(&settings, &mut *model, &prompt);
    assert_eq!(names(&settings).len(), 1);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&settings.path), mode(&path)), (0o700, 0o600));

    // All but the last token of the same prompt; as many as are common to it
    // and a longer one, one that goes other ways, and one that is shorter.
    let longer = [&prompt[..], &[5, 6, 7]].concat();
    let other = [&prompt[..200], &[5, 6, 7]].concat();
    for (prompt, common) in [
        (&prompt[..], 299),
        (&longer, 300),
        (&other, 200),
        (&prompt[..160], 159),
    ] {
        let asked = |ids: &[u32]| ids == &prompt[..common];
        let found = open(&settings, &*model).restore(&mut *model, prompt, asked);
        let (sequence, len) = found.unwrap();
        assert_eq!(len, common);
        let fork = model.fork(original, common).unwrap();
        let rest = &prompt[common..];
        let expected = feed(&mut *model, fork, rest);
        assert_eq!(feed(&mut *model, sequence, rest), expected);
    }
}

#[test]
fn what_is_of_no_use_is_left_alone() {
    let (folder, mut model) = (TempDir::new().unwrap(), demo());
    let settings = settings(&folder);
    let prompt = ids(0, 100);
    store(&settings, &mut *model, &prompt);
    // Nothing in common, and too little to be worth reading it all.
    assert_eq!(restored(&settings, &mut *model, &ids(1, 100)), None);
    let few = [&prompt[..49], &ids(900, 60)].concat();
    assert_eq!(restored(&settings, &mut *model, &few), None);
    assert_eq!(restored(&settings, &mut *model, &prompt[..1]), None);
    assert_eq!(restored(&settings, &mut *model, &[]), None);
    // There is no room for it.
    let mut full = open(&settings, &*model);
    assert!(full.restore(&mut *model, &prompt, |_| false).is_none());
    // Another model's files, another backend.
    let others = PreambleFolder {
        model: Fingerprint::from([8; 32]),
        ..settings.clone()
    };
    assert_eq!(restored(&others, &mut *model, &prompt), None);
    let layout = KvLayout {
        backend: "another",
        ..model.info().kv
    };
    let mut another = PreambleStore::open(&settings, layout).unwrap();
    assert!(another.restore(&mut *model, &prompt, |_| true).is_none());
    // All that time it was there.
    assert_eq!(restored(&settings, &mut *model, &prompt), Some(99));
}

#[test]
fn the_one_that_is_common_the_longest_is_taken_and_the_next_if_it_is_damaged() {
    let (folder, mut model) = (TempDir::new().unwrap(), demo());
    let settings = settings(&folder);
    let prompt = ids(0, 100);
    store(&settings, &mut *model, &prompt[..60]);
    let longest = store(&settings, &mut *model, &prompt[..90]);
    store(&settings, &mut *model, &prompt[..80]);
    assert_eq!(restored(&settings, &mut *model, &prompt), Some(90));
    flip(&longest, 0.9);
    assert_eq!(restored(&settings, &mut *model, &prompt), Some(80));
    assert!(!longest.exists(), "a damaged file is still there");
}

/// Turns one bit of a file, so far from its beginning.
fn flip(path: &Path, at: f64) {
    let mut bytes = fs::read(path).unwrap();
    let place = (bytes.len() as f64 * at) as usize;
    bytes[place] ^= 16;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_file_is_removed_and_written_anew() {
    let (folder, mut model) = (TempDir::new().unwrap(), demo());
    let settings = settings(&folder);
    let prompt = ids(0, 100);
    let damages: [&dyn Fn(&Path); 5] = [
        &|path| flip(path, 0.0),
        &|path| flip(path, 0.001),
        &|path| flip(path, 0.5),
        &|path| fs::write(path, fs::read(path).unwrap().split_last().unwrap().1).unwrap(),
        &|path| fs::write(path, "").unwrap(),
    ];
    for damage in damages {
        let path = store(&settings, &mut *model, &prompt);
        damage(&path);
        let mut store = open(&settings, &*model);
        assert!(store.restore(&mut *model, &prompt, |_| true).is_none());
        assert!(!path.exists());
        let sequence = evaluated(&mut *model, &prompt);
        store.store(sequence, &prompt);
        store.finish(&*model, LONG);
        assert_eq!(restored(&settings, &mut *model, &prompt), Some(99));
        fs::remove_file(path).unwrap();
    }
    // Whole, but of other tokens than its name says.
    let path = store(&settings, &mut *model, &ids(3, 100));
    let renamed = open(&settings, &*model).file_of(&prompt);
    fs::rename(path, &renamed).unwrap();
    assert_eq!(restored(&settings, &mut *model, &prompt), None);
    assert!(!renamed.exists());
}

#[test]
fn what_is_stored_already_is_not_written_again_and_counts_as_used() {
    let (folder, mut model) = (TempDir::new().unwrap(), demo());
    let settings = settings(&folder);
    let prompt = ids(0, 50);
    let path = store(&settings, &mut *model, &prompt);
    grow_old(&path, 1000);
    let before = fs::metadata(&path).unwrap().ino();
    let mut store = open(&settings, &*model);
    let (sequence, _) = store.restore(&mut *model, &prompt, |_| true).unwrap();
    feed(&mut *model, sequence, &prompt[49..]);
    store.store(sequence, &prompt);
    assert!(store.advance(&*model, false).is_none());
    let after = fs::metadata(&path).unwrap();
    assert_eq!(after.ino(), before);
    assert!(after.modified().unwrap().elapsed().unwrap() < LONG);
    // Another one is.
    store.store(sequence, &prompt[..40]);
    store.finish(&*model, LONG);
    assert_eq!(names(&settings).len(), 2);
}

/// A model whose keys and values take their time.
struct Slow(Box<dyn Model>);

impl Slow {
    const EXPORT: Duration = Duration::from_millis(5);
}

impl Model for Slow {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }
    fn open(&mut self) -> Result<SequenceId, ModelError> {
        self.0.open()
    }
    fn fork(&mut self, sequence: SequenceId, len: usize) -> Result<SequenceId, ModelError> {
        self.0.fork(sequence, len)
    }
    fn snapshot(&mut self, sequence: SequenceId) -> Result<(), ModelError> {
        self.0.snapshot(sequence)
    }
    fn export(&self, sequence: SequenceId, layer: usize, len: usize) -> Result<RawKv, ModelError> {
        std::thread::sleep(Self::EXPORT);
        self.0.export(sequence, layer, len)
    }
    fn import(
        &mut self,
        len: usize,
        layers: &mut dyn Iterator<Item = RawKv>,
    ) -> Result<SequenceId, ModelError> {
        self.0.import(len, layers)
    }
    fn close(&mut self, sequence: SequenceId) {
        self.0.close(sequence);
    }
    fn memory(&self) -> Option<MemoryUse> {
        self.0.memory()
    }
    fn submit(&mut self, batch: &[Input<'_>]) -> Result<Submitted, ModelError> {
        self.0.submit(batch)
    }
}

#[test]
fn requests_that_are_worked_on_have_the_engine_for_most_of_the_time() {
    let (folder, mut model) = (TempDir::new().unwrap(), Slow(demo()));
    let settings = settings(&folder);
    let prompt = ids(0, 200);
    let sequence = evaluated(&mut model, &prompt);
    let mut store = open(&settings, &model);
    store.store(sequence, &prompt);
    let began = Instant::now();
    let mut handed = 0;
    while let Some(pause) = store.advance(&model, true) {
        handed += usize::from(pause.is_zero());
        assert!(began.elapsed() < LONG);
    }
    assert_eq!(handed, model.info().kv.layers);
    // After each of them but the last, the engine did something else.
    let rests = handed as u32 - 1;
    assert!(
        began.elapsed() >= Slow::EXPORT * rests * 8,
        "{:?}",
        began.elapsed()
    );
    store.finish(&model, LONG);
    assert_eq!(restored(&settings, &mut model, &prompt), Some(199));
}

#[test]
fn a_sequence_that_is_closed_meanwhile_leaves_no_file() {
    let (folder, mut model) = (TempDir::new().unwrap(), demo());
    let settings = settings(&folder);
    let prompt = ids(0, 50);
    let sequence = evaluated(&mut *model, &prompt);
    let other = evaluated(&mut *model, &prompt);
    let mut store = open(&settings, &*model);
    store.store(sequence, &prompt);
    while store.advance(&*model, false) != Some(Duration::ZERO) {}
    store.closing(other);
    assert!(store.writing.is_some());
    store.closing(sequence);
    model.close(sequence);
    assert!(store.advance(&*model, false).is_none());
    // The thread may be late: it makes the file, and then sees that nobody
    // wants it.
    let nothing_stays = || {
        let began = Instant::now();
        while !names(&settings).is_empty() {
            assert!(began.elapsed() < LONG, "{:?} stays", names(&settings));
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    nothing_stays();
    // One that the model does not know any more is no reason to fail.
    store.store(sequence, &prompt[..20]);
    store.finish(&*model, LONG);
    nothing_stays();
}

#[test]
fn a_folder_that_cannot_be_used_costs_nothing_else() {
    let (folder, mut model) = (TempDir::new().unwrap(), demo());
    let settings = settings(&folder);
    fs::write(&settings.path, "in the way").unwrap();
    assert!(PreambleStore::open(&settings, model.info().kv).is_none());
    fs::remove_file(&settings.path).unwrap();

    let prompt = ids(0, 50);
    let sequence = evaluated(&mut *model, &prompt);
    let mut store = open(&settings, &*model);
    fs::remove_dir(&settings.path).unwrap();
    assert!(store.restore(&mut *model, &prompt, |_| true).is_none());
    store.store(sequence, &prompt);
    store.finish(&*model, LONG);
    assert!(store.writing.is_none());
    assert!(!settings.path.exists());
}

#[test]
fn servers_that_share_a_folder_do_not_get_into_each_others_way() {
    let folder = TempDir::new().unwrap();
    let settings = settings(&folder);
    let prompt = ids(0, 200);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut model = demo();
                let sequence = evaluated(&mut *model, &prompt);
                for _ in 0..5 {
                    let mut store = open(&settings, &*model);
                    store.store(sequence, &prompt);
                    store.finish(&*model, LONG);
                    assert_eq!(restored(&settings, &mut *model, &prompt), Some(199));
                }
            });
        }
    });
    assert_eq!(names(&settings).len(), 1);
}
