//! Downloads that succeed, at once or in the end.

use super::*;

#[tokio::test]
async fn a_model_is_downloaded_and_nothing_else() {
    let bench = Bench::new(&sharded(), &[]);
    assert_eq!(bench.locate(), Location::NotCached);
    let folder = bench.fetch_well().await;
    let expected = bench.repo_cache().join("snapshots").join(bench.commit());
    assert_eq!(folder, expected);
    let noted = std::fs::read_to_string(bench.repo_cache().join("refs/main")).unwrap();
    assert_eq!(noted, bench.commit());
    // Large files are named by their SHA-256, and linked relative to the cache.
    let shard = sha256(&sharded()[SHARD_1]);
    let link = std::fs::read_link(folder.join(SHARD_1)).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(shard));
    for request in bench.requests() {
        let path = request["path"].as_str().unwrap();
        let unwanted = ["README", "consolidated", "original/", "adapters/", ".bin"];
        assert!(!unwanted.iter().any(|part| path.contains(part)), "{path}");
    }
}

#[tokio::test]
async fn a_complete_copy_needs_no_network() {
    let mut bench = Bench::new(&sharded(), &[]);
    let folder = bench.fetch_well().await;
    bench.start(&["--fault", "status", "--times", "0"]);
    assert_eq!(bench.fetch().await.unwrap(), folder);
    assert_eq!(bench.requests(), Vec::<Value>::new());
}

#[tokio::test]
async fn weights_in_one_file_need_no_index() {
    let mut files = sharded();
    for name in [INDEX, SHARD_1, SHARD_2] {
        files.remove(name);
    }
    files.insert("model.safetensors", weights("a", 1000));
    let bench = Bench::new(&files, &[]);
    let folder = bench.fetch().await.unwrap();
    let all = names(&folder);
    assert!(all.contains(&"model.safetensors".to_owned()), "{all:?}");
    assert!(!all.contains(&"consolidated.safetensors".to_owned()));
}

#[tokio::test]
async fn an_interrupted_file_goes_on_where_it_stopped() {
    let cut = ["--fault", "cut", "--at", "123456", "--file", SHARD_1];
    let bench = Bench::new(&sharded(), &cut);
    bench.fetch_well().await;
    let gets = bench.gets(&sha256(&sharded()[SHARD_1]));
    assert_eq!(gets.len(), 2);
    assert_eq!(gets[0]["range"], Value::Null);
    let last = sharded()[SHARD_1].len() - 1;
    assert_eq!(gets[1]["range"], format!("bytes=123456-{last}"));
}

#[tokio::test]
async fn another_run_goes_on_where_the_last_one_stopped() {
    let cut = "--fault cut --at 50000 --times 0 --file".split(' ');
    let cut: Vec<&str> = cut.chain([SHARD_2]).collect();
    let mut bench = Bench::new(&sharded(), &cut);
    let error = bench.fetch().await.unwrap_err();
    assert!(matches!(error, HubError::Broken { .. }), "{error}");
    let Location::Partial { missing } = bench.locate() else {
        panic!("an interrupted download is not noticed")
    };
    let missing: Vec<&str> = missing.iter().map(|fault| fault.file.as_str()).collect();
    assert!(missing.contains(&SHARD_2), "{missing:?}");
    let left = format!("{}.incomplete", sha256(&sharded()[SHARD_2]));
    assert!(bench.leftovers().contains(&left));
    bench.start(&[]);
    bench.fetch_well().await;
    let gets = bench.gets(&sha256(&sharded()[SHARD_2]));
    // Three attempts of 50,000 bytes each, and the rest now.
    let range = format!("bytes=150000-{}", sharded()[SHARD_2].len() - 1);
    assert_eq!(gets[0]["range"], range);
}

#[tokio::test]
async fn a_server_without_ranges_begins_anew() {
    let cut = "--no-range --fault cut --at 70000 --times 2 --file";
    let cut: Vec<&str> = cut.split(' ').chain([SHARD_1]).collect();
    let bench = Bench::new(&sharded(), &cut);
    bench.fetch_well().await;
}

#[tokio::test]
async fn leftovers_that_are_not_the_beginning_do_no_harm() {
    let bench = Bench::new(&sharded(), &[]);
    let blobs = bench.repo_cache().join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    // What a power cut may leave: the length is there, the bytes are not.
    for (name, length) in [(SHARD_1, 1000), (SHARD_2, 400_000)] {
        let path = blobs.join(format!("{}.incomplete", sha256(&sharded()[name])));
        std::fs::write(path, vec![0; length]).unwrap();
    }
    bench.fetch_well().await;
}

#[tokio::test]
async fn a_damaged_cached_file_is_replaced_and_the_rest_kept() {
    let mut bench = Bench::new(&sharded(), &[]);
    bench.fetch_well().await;
    let whole = &sharded()[SHARD_2];
    for damaged in [&whole[..1000], &[b'x'; 200_080][..]] {
        std::fs::write(bench.blob(SHARD_2), damaged).unwrap();
        let Location::Partial { missing } = bench.locate() else {
            panic!("a damaged file is not noticed")
        };
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].file, SHARD_2);
        bench.start(&[]);
        bench.fetch_well().await;
        let stored = bench.gets("").into_iter().filter(|request| {
            let path = request["path"].as_str().unwrap();
            path.starts_with("/store/")
        });
        assert_eq!(stored.count(), 1);
    }
}

#[tokio::test]
async fn revisions_are_branches_tags_and_commits() {
    let bench = Bench::new(
        &sharded(),
        &["--revision", "v1.0", "--revision", "refs/pr/1"],
    );
    let commit = bench.commit().to_owned();
    for revision in ["v1.0", "refs/pr/1", &commit] {
        let folder = bench.fetch_revision(Some(revision)).await.unwrap();
        bench.assert_unharmed(&folder);
        let settings = Bench::settings(Some(revision));
        assert_eq!(
            locate_in(&settings, &bench.env).unwrap(),
            Location::Cached(folder)
        );
    }
    assert_eq!(
        bench.locate(),
        Location::NotCached,
        "main was not asked for"
    );
    assert_eq!(bench.gets(&sha256(&sharded()[SHARD_1])).len(), 1);
}

#[tokio::test]
async fn a_renamed_repository_is_found() {
    let mut bench = Bench::new(&sharded(), &["--repo", "new/name", "--renamed-from", REPO]);
    bench.env.token = Some("t".to_owned());
    bench.fetch_well().await;
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_its_store() {
    let mut bench = Bench::new(&sharded(), &["--token", "hf_secret", "--cdn"]);
    bench.env.token = Some("hf_secret".to_owned());
    bench.fetch_well().await;
    let (store, hub): (Vec<_>, Vec<_>) = bench
        .requests()
        .into_iter()
        .partition(|request| request["server"] == "cdn");
    assert!(!store.is_empty());
    assert!(
        store
            .iter()
            .all(|request| request["authorization"].is_null())
    );
    assert!(
        hub.iter()
            .all(|request| request["authorization"] == "Bearer hf_secret")
    );
}

#[tokio::test]
async fn two_downloads_at_once_share_the_work() {
    let slow = ["--fault", "slow", "--at", "60000", "--times", "0"];
    let bench = Bench::new(&sharded(), &slow);
    let (one, two) = tokio::join!(bench.fetch(), bench.fetch());
    assert_eq!(one.unwrap(), two.unwrap());
    bench.fetch_well().await;
    for name in [SHARD_1, SHARD_2] {
        assert_eq!(bench.gets(&sha256(&sharded()[name])).len(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_dropped_download_can_be_taken_up() {
    let stall = "--fault stall --at 100000 --times 0 --file";
    let stall: Vec<&str> = stall.split(' ').chain([SHARD_1]).collect();
    let mut bench = Bench::new(&sharded(), &stall);
    let left = format!("{}.incomplete", sha256(&sharded()[SHARD_1]));
    let begun = async {
        while !bench.leftovers().contains(&left) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        fetched = bench.fetch() => panic!("{fetched:?}"),
        () = begun => {}
    }
    assert!(matches!(bench.locate(), Location::Partial { .. }));
    bench.start(&[]);
    bench.fetch_well().await;
}
