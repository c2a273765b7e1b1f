#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// `shared/` is the folder, with a secret beside it.
struct Place {
    temp: TempDir,
    files: Files,
}

impl Place {
    fn new() -> Self {
        let temp = TempDir::new().unwrap();
        let shared = temp.path().join("shared");
        fs::create_dir_all(shared.join("sub/deep")).unwrap();
        fs::write(temp.path().join("secret.txt"), "SECRET").unwrap();
        fs::create_dir(temp.path().join("private")).unwrap();
        fs::write(temp.path().join("private/key"), "SECRET").unwrap();
        fs::write(shared.join("todo.txt"), "buy milk\n").unwrap();
        fs::write(shared.join("sub/note.md"), "# Note\nline two\n\n").unwrap();
        let files = Files::open(shared).unwrap();
        Self { temp, files }
    }

    fn shared(&self) -> PathBuf {
        self.temp.path().canonicalize().unwrap().join("shared")
    }

    async fn read(&self, path: impl AsRef<Path>) -> Result<String, String> {
        let outcome = self.files.read(path.as_ref().to_str().unwrap()).await;
        outcome.map_err(|failure| failure.message().to_owned())
    }

    async fn list(&self, path: impl AsRef<Path>) -> Result<String, String> {
        let outcome = self.files.list(path.as_ref().to_str().unwrap()).await;
        outcome.map_err(|failure| failure.message().to_owned())
    }
}

#[tokio::test]
async fn what_is_inside() {
    let place = Place::new();
    let shared = place.shared();
    assert_eq!(place.list(".").await.unwrap(), "sub/\ntodo.txt");
    assert_eq!(place.list("sub").await.unwrap(), "deep/\nnote.md");
    assert_eq!(place.list("sub/").await.unwrap(), "deep/\nnote.md");
    assert_eq!(place.list("sub/deep").await.unwrap(), "(empty)");
    assert_eq!(place.list(&shared).await.unwrap(), "sub/\ntodo.txt");
    assert_eq!(place.read("todo.txt").await.unwrap(), "buy milk");
    assert_eq!(place.read("./sub/../todo.txt").await.unwrap(), "buy milk");
    let absolute = shared.join("sub/note.md");
    assert_eq!(place.read(absolute).await.unwrap(), "# Note\nline two");
}

#[tokio::test]
async fn an_absolute_path_through_a_link_to_the_folder() {
    let place = Place::new();
    let alias = place.temp.path().join("alias");
    symlink(place.shared(), &alias).unwrap();
    assert_eq!(place.list(&alias).await.unwrap(), "sub/\ntodo.txt");
    assert_eq!(
        place.read(alias.join("todo.txt")).await.unwrap(),
        "buy milk"
    );
    // And a server started through such a link.
    let files = Files::open(alias).unwrap();
    assert_eq!(files.read("todo.txt").await.unwrap(), "buy milk");
}

#[tokio::test]
async fn nothing_outside() {
    let place = Place::new();
    let shared = place.shared();
    symlink("../secret.txt", shared.join("relative")).unwrap();
    symlink(
        place.temp.path().join("secret.txt"),
        shared.join("absolute"),
    )
    .unwrap();
    symlink("../private", shared.join("folder")).unwrap();
    symlink("relative", shared.join("chain")).unwrap();
    symlink("..", shared.join("sub/up")).unwrap();
    let beside = place.temp.path().join("secret.txt");
    let beside = beside.to_str().unwrap();
    let shared = shared.to_str().unwrap();
    for path in [
        "..",
        "../secret.txt",
        "sub/../../secret.txt",
        "sub/../../shared/../secret.txt",
        "./../secret.txt",
        "relative",
        "absolute",
        "chain",
        "folder",
        "folder/key",
        "sub/up/../secret.txt",
        "/",
        "/etc/passwd",
        "/proc/self/environ",
        beside,
        &format!("{shared}/../secret.txt"),
        &format!("{shared}/relative"),
        &format!("{shared}x/../secret.txt"),
        "~",
        "~/.bashrc",
        "~root/.bashrc",
        "....//secret.txt",
        "..\\secret.txt",
        "\\..\\secret.txt",
        "%2e%2e/secret.txt",
        "file:///etc/passwd",
        "todo.txt\0/../../secret.txt",
        "\0",
        "",
    ] {
        let read = place.read(path).await;
        let list = place.list(path).await;
        assert!(read.is_err(), "{path:?} was read: {read:?}");
        assert!(list.is_err(), "{path:?} was listed: {list:?}");
        let told = format!("{read:?} {list:?}");
        assert!(!told.contains("SECRET"), "{told}");
    }
    for path in [
        "../secret.txt",
        "relative",
        "absolute",
        "folder/key",
        "/etc/passwd",
    ] {
        let error = place.read(path).await.unwrap_err();
        assert_eq!(error, "access is denied outside of the root folder");
    }
    // A link that stays inside is followed, and one that leaves is a mere name.
    assert_eq!(place.read("sub/up/todo.txt").await.unwrap(), "buy milk");
    assert_eq!(
        place.list(".").await.unwrap(),
        "absolute\nchain\nfolder\nrelative\nsub/\ntodo.txt"
    );
    assert_eq!(place.list("sub").await.unwrap(), "deep/\nnote.md\nup/");
}

#[tokio::test]
async fn a_folder_swapped_for_a_link_meanwhile() {
    let place = Place::new();
    let shared = place.shared();
    let swapping = std::thread::spawn(move || {
        for _ in 0..300 {
            let (plain, link) = (shared.join("sub"), shared.join("other"));
            fs::rename(&plain, &link).unwrap();
            symlink("../private", &plain).unwrap();
            fs::remove_file(&plain).unwrap();
            fs::rename(&link, &plain).unwrap();
        }
    });
    while !swapping.is_finished() {
        let read = place.read("sub/key").await;
        assert!(read.is_err(), "{read:?}");
        if let Ok(list) = place.list("sub").await {
            assert!(!list.contains("key"), "{list}");
        }
    }
    swapping.join().unwrap();
}

#[tokio::test]
async fn what_cannot_be_read() {
    let place = Place::new();
    let shared = place.shared();
    fs::write(shared.join("image"), b"\x89PNG\r\n\x1a\n\0\0").unwrap();
    fs::write(shared.join("nul"), b"text\0text").unwrap();
    fs::write(shared.join("latin1"), b"caf\xe9").unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(shared.join("pipe"))
        .status();
    assert!(made.unwrap().success());
    symlink("loop", shared.join("loop")).unwrap();
    let long = "a/".repeat(10_000);
    let name = "a".repeat(300);
    for (path, expected) in [
        ("missing.txt", "missing.txt does not exist"),
        ("missing/missing.txt", "missing/missing.txt does not exist"),
        ("sub", "sub is a directory"),
        ("todo.txt/x", "not a directory: todo.txt/x"),
        ("image", "image does not hold text"),
        ("nul", "nul does not hold text"),
        ("latin1", "latin1 does not hold text"),
        ("pipe", "not a regular file: pipe"),
        ("loop", "cannot open loop"),
        ("", "path is empty"),
        ("a\0b", "invalid path"),
        (&long, "invalid path"),
    ] {
        assert_eq!(place.read(path).await.unwrap_err(), expected);
    }
    assert!(place.read(&name).await.unwrap_err().len() < 120);
    assert_eq!(
        place.list("todo.txt").await.unwrap_err(),
        "not a directory: todo.txt"
    );
    assert_eq!(
        place.list("missing").await.unwrap_err(),
        "missing does not exist"
    );
}

#[tokio::test]
async fn long_files_and_folders_are_cut() {
    let place = Place::new();
    let shared = place.shared();
    fs::write(shared.join("empty"), "").unwrap();
    fs::write(shared.join("marked"), "\u{feff}text\r\n").unwrap();
    // The limit falls into the middle of a character.
    fs::write(shared.join("long"), format!("x{}", "é".repeat(100_000))).unwrap();
    let limit = READ_LIMIT as usize;
    fs::write(shared.join("just"), "a".repeat(limit)).unwrap();
    assert_eq!(place.read("empty").await.unwrap(), "(empty)");
    assert_eq!(place.read("marked").await.unwrap(), "text");
    assert_eq!(place.read("just").await.unwrap().len(), limit);
    let long = place.read("long").await.unwrap();
    assert!(long.ends_with("é\n[cut: the first 65536 of 200001 bytes]"));
    assert!(long.len() < limit + 100);

    fs::create_dir(shared.join("many")).unwrap();
    for index in 0..LIST_LIMIT + 5 {
        fs::write(shared.join(format!("many/{index:04}")), "").unwrap();
    }
    fs::write(shared.join("many/0000\nx"), "").unwrap();
    let many = place.list("many").await.unwrap();
    assert!(many.starts_with("0000\n0000?x\n0001\n"), "{many}");
    assert!(many.ends_with("\n0198\n[cut: 200 of 206 names]"), "{many}");
}

#[tokio::test]
async fn a_home_inside_the_folder() {
    // Where the tests' home is, depends on who runs them.
    let Some(home) = std::env::home_dir().filter(|home| home.is_dir()) else {
        return;
    };
    let files = Files::open(home).unwrap();
    assert_eq!(files.list("~").await, files.list(".").await);
    assert_eq!(files.list("~/").await, files.list(".").await);
}

#[test]
fn a_folder_that_is_not_there() {
    let temp = TempDir::new().unwrap();
    let missing = temp.path().join("missing");
    let file = temp.path().join("file");
    fs::write(&file, "").unwrap();
    for root in [missing, file] {
        let error = Files::open(root.clone()).map(|_| ()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(root.to_str().unwrap()), "{message}");
        assert!(message.contains("--root"), "{message}");
    }
}
