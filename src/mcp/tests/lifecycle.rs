//! Starts that fail, ends in good order and in bad.

use super::*;

#[tokio::test]
async fn one_that_does_not_start_holds_up_nobody() {
    let log = Log::capture();
    let scratch = Scratch::new();
    let starts = scratch.path("starts");
    // Long enough for an interpreter to start on a busy machine.
    let short = Duration::from_secs(5);
    let hang = format!("--hang --starts {}", starts.display());
    let mut missing = fake("missing", "");
    if let Transport::Stdio { command, .. } = &mut missing.transport {
        *command = "no-such-program-anywhere".to_owned();
    }
    let mut nowhere = fake("nowhere", "");
    if let Transport::Stdio { cwd, .. } = &mut nowhere.transport {
        *cwd = Some(scratch.path("no-such-folder"));
    }
    let registry = Registry::start(vec![
        with_timeout(fake("hang", &hang), short),
        with_timeout(fake("hang-list", "--hang-list"), short),
        fake("exit", "--exit-at-start"),
        missing,
        nowhere,
        fake("good", "--tools echo"),
    ])
    .await;
    assert_eq!(names(&registry), ["echo"]);
    let expected = [
        "was not ready within 5 s",
        "was not ready within 5 s",
        "exit status: 7",
        "\"no-such-program-anywhere\" was not found",
        "no-such-folder is not a folder",
    ];
    for (status, expected) in registry.status().iter().zip(expected) {
        let lines = log.lines(&["WARN", "did not start", &status.name, "trying again"]);
        assert!(
            lines
                .iter()
                .any(|line| line.contains(&expected.replace('"', "\\\""))),
            "{lines:?}"
        );
    }
    eventually("what the child said is in the log", || {
        !log.lines(&["told to fail at start", "exit"]).is_empty()
    })
    .await;
    eventually("the child that hung is gone", || {
        !alive(&scratch.lines("starts")[0])
    })
    .await;
    registry.close().await;
}

#[tokio::test]
async fn one_that_does_not_start_is_tried_again() {
    let scratch = Scratch::new();
    let starts = scratch.path("starts");
    let options = format!("--fail-starts 2 --tools echo --starts {}", starts.display());
    let registry = Registry::start(vec![fake("fake", &options)]).await;
    assert!(names(&registry).is_empty());
    assert!(matches!(
        registry.status()[0].state,
        ServerState::Failed { .. }
    ));
    eventually("it is up", || names(&registry) == ["echo"]).await;
    assert_eq!(scratch.lines("starts").len(), 3);
    assert_eq!(registry.status()[0].state, ServerState::Up);
    registry.close().await;
}

#[tokio::test]
async fn a_polite_server_is_gone_when_close_returns() {
    let registry = Registry::start(vec![fake("fake", "")]).await;
    let pid = text(&registry, "pid", json!({})).await;
    registry.close().await;
    assert!(!alive(&pid));
    let late = error(&registry, "echo", json!({"text": "x"})).await;
    assert!(late.contains("shutting down"), "{late}");
}

#[tokio::test]
async fn close_ends_whole_groups_that_resist() {
    let scratch = Scratch::new();
    let settings = ["a", "b", "c"].map(|name| {
        let (starts, grandchild) = (scratch.path("starts"), scratch.path(name));
        let options = format!(
            "--starts {} --grandchild {} --ignore-sigterm",
            starts.display(),
            grandchild.display()
        );
        fake(name, &options)
    });
    let registry = Registry::start(settings.to_vec()).await;
    let grandchildren = ["a", "b", "c"].map(|name| read(&scratch.path(name)));
    let children = scratch.lines("starts");
    assert_eq!(children.len(), 3);
    assert!(grandchildren.iter().chain(&children).all(|pid| alive(pid)));

    let begin = std::time::Instant::now();
    tokio::join!(registry.close(), registry.close());
    let took = begin.elapsed();
    // They were asked before they were killed.
    assert!(took > Duration::from_secs(2), "{took:?}");
    for pid in grandchildren.iter().chain(&children) {
        assert!(!alive(pid), "{pid}");
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    registry.close().await;
    assert_eq!(scratch.lines("starts").len(), 3);
}

#[tokio::test]
async fn a_crash_leaves_no_grandchild() {
    let scratch = Scratch::new();
    let options = format!("--grandchild {}", scratch.path("grandchild").display());
    let registry = Registry::start(vec![fake("fake", &options)]).await;
    let grandchild = read(&scratch.path("grandchild"));
    assert!(alive(&grandchild));
    error(&registry, "crash", json!({})).await;
    eventually("the grandchild is gone", || !alive(&grandchild)).await;
    registry.close().await;
}

#[tokio::test]
async fn dropping_the_registry_kills_everything() {
    let scratch = Scratch::new();
    let options = format!(
        "--ignore-sigterm --grandchild {}",
        scratch.path("grandchild").display()
    );
    let registry = Registry::start(vec![fake("fake", &options)]).await;
    let child = text(&registry, "pid", json!({})).await;
    let grandchild = read(&scratch.path("grandchild"));
    assert!(alive(&child) && alive(&grandchild));
    drop(registry);
    eventually("both are gone", || !alive(&child) && !alive(&grandchild)).await;
}

#[test]
fn the_end_of_the_runtime_kills_everything() {
    let scratch = Scratch::new();
    let grandchild = scratch.path("grandchild");
    let options = format!("--ignore-sigterm --grandchild {}", grandchild.display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (registry, child) = runtime.block_on(async {
        let registry = Registry::start(vec![fake("fake", &options)]).await;
        let child = text(&registry, "pid", json!({})).await;
        (registry, child)
    });
    drop(runtime);
    for _ in 0..100 {
        if !alive(&child) && !alive(&read(&grandchild)) {
            drop(registry);
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("they live on");
}

#[tokio::test]
async fn a_child_that_is_being_started_dies_as_well() {
    let scratch = Scratch::new();
    let starts = scratch.path("starts");
    let options = format!("--hang --starts {}", starts.display());

    let start = Registry::start(vec![fake("fake", &options)]);
    assert!(
        tokio::time::timeout(Duration::from_secs(5), start)
            .await
            .is_err()
    );
    let pids = scratch.lines("starts");
    assert_eq!(pids.len(), 1);
    eventually("the first is gone", || !alive(&pids[0])).await;

    let settings = with_timeout(fake("fake", &options), Duration::from_secs(5));
    let registry = Registry::start(vec![settings]).await;
    eventually("it is tried again", || scratch.lines("starts").len() == 3).await;
    let pids = scratch.lines("starts");
    assert!(alive(&pids[2]));
    registry.close().await;
    assert!(pids.iter().all(|pid| !alive(pid)));
}
