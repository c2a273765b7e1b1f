//! Downloads that fail for a while, or for good.

use super::*;

/// A bench with a fault at the first shard, made `times` times (0: always).
fn faulty(fault: &str, at: &str, times: &str) -> Bench {
    let options = [
        "--fault", fault, "--at", at, "--times", times, "--file", SHARD_1,
    ];
    Bench::new(&sharded(), &options)
}

#[tokio::test]
async fn a_wrong_file_is_fetched_once_more() {
    for fault in ["short", "long", "corrupt"] {
        let bench = faulty(fault, "10", "1");
        bench.fetch_well().await;
        assert_eq!(bench.gets(&sha256(&sharded()[SHARD_1])).len(), 2, "{fault}");
    }
}

#[tokio::test]
async fn a_file_that_stays_wrong_is_an_error_and_no_file() {
    let length = sharded()[SHARD_1].len() as u64;
    for (fault, expected) in [("short", length - 10), ("long", length + 10)] {
        let bench = faulty(fault, "10", "0");
        match bench.fetch().await.unwrap_err() {
            HubError::WrongSize { actual, .. } => assert_eq!(actual, expected),
            other => panic!("{other}"),
        }
        assert_left_out(&bench);
    }
    let bench = faulty("corrupt", "10", "0");
    let error = bench.fetch().await.unwrap_err();
    assert!(matches!(error, HubError::WrongContent { .. }), "{error}");
    assert_left_out(&bench);
}

/// Nothing stands for the first shard in the cache, not even a part.
fn assert_left_out(bench: &Bench) {
    let blob = sha256(&sharded()[SHARD_1]);
    let blobs = names(&bench.repo_cache().join("blobs"));
    assert!(
        !blobs.iter().any(|name| name.starts_with(&blob)),
        "{blobs:?}"
    );
    assert!(matches!(bench.locate(), Location::Partial { .. }));
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    for file in ["api", SHARD_1, "config.json"] {
        let bench = Bench::new(
            &sharded(),
            &["--fault", "status", "--times", "2", "--file", file],
        );
        bench.fetch_well().await;
        let bench = Bench::new(
            &sharded(),
            &["--fault", "status", "--times", "0", "--file", file],
        );
        match bench.fetch().await.unwrap_err() {
            HubError::Status { status, .. } => assert_eq!(status, 503),
            other => panic!("{file}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_silent_server_is_left_and_asked_again() {
    let mut bench = faulty("stall", "1000", "1");
    bench.pace.stall = Duration::from_millis(1500);
    bench.fetch_well().await;
    let gets = bench.gets(&sha256(&sharded()[SHARD_1]));
    let range = gets[1]["range"].as_str().unwrap();
    assert!(range.starts_with("bytes=1000-"), "{range}");

    let mut bench = faulty("stall", "1000", "0");
    bench.pace.stall = Duration::from_millis(300);
    let error = tokio::time::timeout(Duration::from_secs(20), bench.fetch()).await;
    let error = error.unwrap().unwrap_err();
    assert!(matches!(error, HubError::Stalled { .. }), "{error}");
}

#[tokio::test]
async fn a_slow_server_is_not_a_silent_one() {
    let mut bench = faulty("slow", "20000", "0");
    // The whole takes 1.5 s.
    bench.pace.stall = Duration::from_millis(700);
    bench.fetch_well().await;
}

#[tokio::test]
async fn a_server_that_is_gone_for_good_is_named() {
    let bench = faulty("die", "1000", "1");
    match bench.fetch().await.unwrap_err() {
        HubError::Unreachable { host, .. } => assert_eq!(host, "127.0.0.1"),
        other => panic!("{other}"),
    }
    assert!(matches!(bench.locate(), Location::Partial { .. }));
    // From the first on there was nobody.
    let error = bench.fetch().await.unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let mut bench = Bench::new(&sharded(), &["--token", "right"]);
    bench.env.token = Some("wrong".to_owned());
    let error = bench.fetch().await.unwrap_err();
    assert!(
        matches!(error, HubError::Refused { status: 401, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("HF_TOKEN"));
    // What cannot change is not asked again.
    assert_eq!(bench.requests().len(), 1);

    bench.start(&["--gated"]);
    let error = bench.fetch().await.unwrap_err();
    assert!(
        matches!(error, HubError::Refused { status: 403, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("licence"));

    bench.start(&["--repo", "org/other"]);
    let error = bench.fetch().await.unwrap_err();
    assert!(matches!(error, HubError::NoRepository { .. }), "{error}");

    bench.start(&[]);
    let error = bench.fetch_revision(Some("v2")).await.unwrap_err();
    assert!(matches!(error, HubError::NoRevision { .. }), "{error}");
}

#[tokio::test]
async fn repositories_that_cannot_be_served_are_refused_before_a_download() {
    let refused = async |change: &dyn Fn(&mut Files)| {
        let mut files = sharded();
        change(&mut files);
        let bench = Bench::new(&files, &[]);
        let error = bench.fetch().await.unwrap_err();
        assert_eq!(
            bench.gets(&sha256(&sharded()[SHARD_1])),
            Vec::<Value>::new()
        );
        error.to_string()
    };
    let gguf = refused(&|files| {
        files.retain(|name, _| !name.ends_with(".safetensors"));
        files.insert("tiny-q4.gguf", b"GGUF".to_vec());
    });
    let gguf = gguf.await;
    assert!(
        gguf.contains("only .gguf") && gguf.contains("mlx-community"),
        "{gguf}"
    );
    let missing = refused(&|files| drop(files.remove("tokenizer.json"))).await;
    assert!(missing.contains("tokenizer.json"), "{missing}");
    let shard = refused(&|files| drop(files.remove(SHARD_2))).await;
    assert!(shard.contains(SHARD_2), "{shard}");
    let outside = refused(&|files| {
        let index = json!({"weight_map": {"a": "../../../etc/passwd"}});
        files.insert(INDEX, index.to_string().into_bytes());
    });
    let outside = outside.await;
    assert!(outside.contains("outside its folder"), "{outside}");
}

#[tokio::test]
async fn a_repository_that_is_itself_damaged_is_said_to_be() {
    let mut files = sharded();
    files.insert(SHARD_2, weights("b", 5000)[..4000].to_vec());
    let bench = Bench::new(&files, &[]);
    let error = bench.fetch().await.unwrap_err();
    assert!(
        matches!(error, HubError::DamagedRepository { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("cut short (4000 of"), "{error}");
}

#[test]
fn a_full_disk_is_its_own_error() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let error = HubError::io("/cache/blob", full);
    assert!(matches!(error, HubError::DiskFull { .. }));
    assert!(!error.is_transient());
}

#[tokio::test]
async fn an_endpoint_must_be_an_address() {
    let mut bench = Bench::new(&sharded(), &[]);
    for endpoint in ["huggingface.co", "ftp://huggingface.co", "http://"] {
        bench.env.endpoint = endpoint.to_owned();
        let error = bench.fetch().await.unwrap_err();
        assert!(
            matches!(error, HubError::Endpoint { .. }),
            "{endpoint}: {error}"
        );
    }
}
