//! Servers that break while they are in use.

use super::*;

async fn calls_in_flight_fail_and_later_ones_work(killer: &str, arguments: Value, says: &str) {
    let scratch = Scratch::new();
    let starts = scratch.path("starts");
    let options = format!("--starts {}", starts.display());
    let registry = Registry::start(vec![fake("fake", &options)]).await;
    let before = names(&registry);

    let slow = error(&registry, "slow", json!({"seconds": 15}));
    let kill = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        error(&registry, killer, arguments).await
    };
    let (slow, kill) = tokio::join!(slow, kill);
    assert!(slow.contains(says), "{slow}");
    assert!(kill.contains(says), "{kill}");

    // Nothing but a call: it waits for the restart.
    assert_eq!(names(&registry), before);
    assert_eq!(text(&registry, "echo", json!({"text": "x"})).await, "x");
    let pids = scratch.lines("starts");
    assert_eq!(pids.len(), 2);
    assert!(!alive(&pids[0]));
    assert!(alive(&pids[1]));
    registry.close().await;
}

#[tokio::test]
async fn a_crash() {
    calls_in_flight_fail_and_later_ones_work("crash", json!({}), "exit status: 3").await;
}

#[tokio::test]
async fn a_closed_stdout() {
    calls_in_flight_fail_and_later_ones_work("hangup", json!({}), "closed its stdout").await;
}

#[tokio::test]
async fn a_message_beyond_all_bounds() {
    let bytes = json!({"bytes": 70_000_000});
    calls_in_flight_fail_and_later_ones_work("overflow", bytes, "more than 64 MB").await;
}

#[tokio::test]
async fn a_kill_from_outside() {
    let registry = Registry::start(vec![fake("fake", "")]).await;
    let first = text(&registry, "pid", json!({})).await;
    let slow = error(&registry, "slow", json!({"seconds": 15}));
    let kill = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let kill = ["-9", first.as_str()];
        std::process::Command::new("kill")
            .args(kill)
            .status()
            .unwrap();
    };
    let (slow, ()) = tokio::join!(slow, kill);
    assert!(slow.contains("signal: 9"), "{slow}");
    let second = text(&registry, "pid", json!({})).await;
    assert_ne!(first, second);
    registry.close().await;
}

#[tokio::test]
async fn what_takes_too_long_or_is_dropped_is_cancelled() {
    let scratch = Scratch::new();
    let record = scratch.path("record");
    let options = format!("--record {}", record.display());
    let settings = with_timeout(fake("fake", &options), Duration::from_secs(6));
    let registry = Registry::start(vec![settings]).await;
    let cancelled = || {
        let methods = scratch.methods("record");
        let is_cancel = |method: &&String| *method == "notifications/cancelled";
        methods.iter().filter(is_cancel).count()
    };

    let late = error(&registry, "slow", json!({"seconds": 60})).await;
    assert_eq!(late, "The tool did not answer within 6 seconds.");
    eventually("the late call is cancelled", || cancelled() == 1).await;

    let dropped = call(&registry, "slow", json!({"seconds": 60}));
    let wait = Duration::from_millis(300);
    assert!(tokio::time::timeout(wait, dropped).await.is_err());
    eventually("the dropped call is cancelled", || cancelled() == 2).await;

    assert_eq!(text(&registry, "echo", json!({"text": "x"})).await, "x");
    registry.close().await;
}

#[tokio::test]
async fn garbage_on_stdout_is_skipped_and_reported_once() {
    let log = Log::capture();
    let registry = Registry::start(vec![fake("fake", "--garbage")]).await;
    assert_eq!(text(&registry, "echo", json!({"text": "x"})).await, "x");
    assert_eq!(text(&registry, "garbage", json!({})).await, "printed");
    let skipped = log.lines(&["fake", "skipped a line on stdout"]);
    assert_eq!(log.lines(&["WARN", "Listening on stdio"]).len(), 1);
    assert!(skipped.len() > 5, "{skipped:#?}");
    assert!(skipped.iter().all(|line| line.len() < 1000));
    registry.close().await;
}

#[tokio::test]
async fn a_flood_on_stderr_blocks_nobody() {
    let log = Log::capture();
    let settings = vec![fake("fake", "--flood-stderr 300000 --long-stderr")];
    let registry = Registry::start(settings).await;
    assert_eq!(text(&registry, "echo", json!({"text": "x"})).await, "x");
    text(&registry, "stderr", json!({"text": "the last words"})).await;
    eventually("the rest is counted", || {
        !log.lines(&["fake", "lines suppressed"]).is_empty()
    })
    .await;
    let lines = log.lines(&["stderr", "flood line"]);
    assert!(
        lines.len() >= 100 && lines.len() < 20_000,
        "{}",
        lines.len()
    );
    let long = log.lines(&["stderr", "wwwww", "…"]);
    assert_eq!(long.len(), 1);
    assert!(long[0].len() < 5000);
    registry.close().await;
}

#[tokio::test]
async fn an_endless_flood_blocks_nobody_either() {
    let registry = Registry::start(vec![fake("fake", "--flood-stderr 0")]).await;
    assert_eq!(text(&registry, "echo", json!({"text": "x"})).await, "x");
    registry.close().await;
}
