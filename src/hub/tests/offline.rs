//! What is decided without a network: folders, cached copies, names.

use super::*;

/// A cache with the sharded model in it, and no network.
async fn cached() -> Bench {
    let mut bench = Bench::new(&sharded(), &[]);
    bench.fetch_well().await;
    bench.start(&[]);
    bench.env.offline = true;
    bench
}

#[tokio::test]
async fn offline_with_a_full_cache() {
    let bench = cached().await;
    bench.fetch_well().await;
    assert_eq!(bench.requests(), Vec::<Value>::new());
}

#[tokio::test]
async fn offline_with_an_empty_cache() {
    let mut bench = Bench::new(&sharded(), &[]);
    bench.env.offline = true;
    let error = bench.fetch().await.unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
    assert_eq!(bench.requests(), Vec::<Value>::new());
}

#[tokio::test]
async fn offline_with_a_partial_cache() {
    type Harm = fn(&Bench, &Path);
    let harms: [(&str, &str, Harm); 6] = [
        ("no shard", SHARD_2, |_, folder| {
            std::fs::remove_file(folder.join(SHARD_2)).unwrap();
        }),
        ("a link to nothing", SHARD_1, |bench, _| {
            std::fs::remove_file(bench.blob(SHARD_1)).unwrap();
        }),
        ("a truncated shard", SHARD_2, |bench, _| {
            let file = std::fs::File::options()
                .write(true)
                .open(bench.blob(SHARD_2));
            file.unwrap().set_len(100_000).unwrap();
        }),
        (
            "a shard the index names",
            "model-00003.safetensors",
            |bench, _| {
                let index = json!({"weight_map": {"a": SHARD_1, "c": "model-00003.safetensors"}});
                std::fs::write(bench.blob(INDEX), index.to_string()).unwrap();
            },
        ),
        ("a truncated tokenizer", "tokenizer.json", |bench, _| {
            std::fs::write(bench.blob("tokenizer.json"), "{\"version\": ").unwrap();
        }),
        ("no index, and so one of two", SHARD_2, |_, folder| {
            std::fs::remove_file(folder.join(INDEX)).unwrap();
            std::fs::remove_file(folder.join("consolidated.safetensors")).ok();
            std::fs::remove_file(folder.join(SHARD_2)).unwrap();
        }),
    ];
    for (what, file, harm) in harms {
        let bench = cached().await;
        let folder = bench.fetch().await.unwrap();
        harm(&bench, &folder);
        match bench.fetch().await.unwrap_err() {
            HubError::Offline { faults, .. } => {
                let named: Vec<&str> = faults.iter().map(|fault| fault.file.as_str()).collect();
                assert_eq!(named, [file], "{what}");
            }
            other => panic!("{what}: {other}"),
        }
        assert_eq!(bench.requests(), Vec::<Value>::new(), "{what}");
    }
}

#[test]
fn a_folder_is_taken_as_it_is_if_it_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("model");
    let settings = Settings {
        model_name: folder.to_str().unwrap().to_owned(),
        revision: None,
    };
    let env = HubEnv::from_variables(&|_| None);
    let locate = || locate_in(&settings, &env);
    assert!(matches!(locate().unwrap_err(), HubError::NoFolder { .. }));
    write_folder(&folder, &sharded());
    assert_eq!(locate().unwrap(), Location::Folder(folder.clone()));
    let shard = &sharded()[SHARD_1];
    let longer = [&shard[..], b"x"].concat();
    let cases: [(&str, Option<&[u8]>, &str); 9] = [
        ("config.json", None, "no config.json"),
        ("tokenizer.json", None, "no tokenizer.json"),
        ("config.json", Some(b"{"), "config.json is damaged"),
        (INDEX, Some(b"{}"), "is not an index"),
        (SHARD_1, None, "no model-00001-of-00002.safetensors"),
        (SHARD_1, Some(&shard[..shard.len() - 1]), "is cut short"),
        (SHARD_1, Some(&shard[..20]), "less than its header"),
        (SHARD_1, Some(b"1234"), "is cut short (4 bytes)"),
        (SHARD_1, Some(&longer), "is damaged"),
    ];
    for (name, content, expected) in cases {
        let path = folder.join(name);
        match content {
            None => std::fs::remove_file(&path).unwrap(),
            Some(content) => std::fs::write(&path, content).unwrap(),
        }
        let error = locate().unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        std::fs::write(&path, &sharded()[name]).unwrap();
    }
    assert!(locate().is_ok());
}

#[test]
fn the_bundled_model_is_complete() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let settings = Settings {
        model_name: folder.to_str().unwrap().to_owned(),
        revision: None,
    };
    let env = HubEnv::from_variables(&|_| None);
    assert_eq!(
        locate_in(&settings, &env).unwrap(),
        Location::Folder(folder)
    );
}

#[test]
fn names_that_can_be_no_model() {
    let env = HubEnv::from_variables(&|_| None);
    let locate = |name: &str, revision: Option<&str>| {
        let settings = Settings {
            model_name: name.to_owned(),
            revision: revision.map(str::to_owned),
        };
        locate_in(&settings, &env)
    };
    for name in [
        "",
        "a/b/c",
        "a b/c",
        "a/../b",
        "-a/b",
        "a/b.",
        "a--b/c",
        "http://x/y",
        "a/",
    ] {
        let error = locate(name, None).unwrap_err();
        assert!(
            matches!(error, HubError::NotAName { .. }),
            "{name:?}: {error}"
        );
    }
    for name in [
        "/no/such/folder",
        "./nothing",
        "../nothing/here",
        "~/nothing",
    ] {
        let error = locate(name, None).unwrap_err();
        assert!(
            matches!(error, HubError::NoFolder { .. }),
            "{name:?}: {error}"
        );
    }
    for revision in ["", "../x", "a//b", "a b", "/a", "a/.."] {
        let error = locate("org/model", Some(revision)).unwrap_err();
        assert!(
            matches!(error, HubError::NotARevision { .. }),
            "{revision:?}: {error}"
        );
    }
    for name in ["gpt2", "Qwen/Qwen3-0.6B", "mlx-community/Qwen3-4B-4bit"] {
        assert_eq!(
            locate(name, Some("refs/pr/1")).unwrap(),
            Location::NotCached
        );
    }
}
