//! The end: requests under way are answered, and then the server is gone.

use std::time::Duration;

use tokio::net::TcpStream;

use super::support::{Fixture, PATIENCE, post, settings};
use crate::http::{Limits, Settings};

/// Waits until nothing accepts any more.
async fn until_closed(server: &Fixture) {
    let closing = async {
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closing)
        .await
        .expect("it still accepts");
}

#[tokio::test]
async fn requests_under_way_and_in_the_queue_are_answered() {
    let settings = Settings {
        max_concurrent_requests: 1,
        ..settings()
    };
    let mut server = Fixture::start(settings).await;
    let mut idle = server.send("x").await;
    idle.response().await.answer();
    let mut silent = server.connect().await;
    let mut running = server.send("wait 1").await;
    server.until(|doings| doings.waiting == 1).await;
    let mut queued = server.send("wait 2").await;
    // Its head is there, its body is not.
    let mut sending = server.connect().await;
    let request = post(r#"{"prompt": "x"}"#);
    sending.send(&request[..request.len() - 5]).await;
    let mut late = server.connect().await;
    late.send(b"POST / HTTP/1.1\r\nhost: x\r\n").await;
    // Until the server has read them: there is nothing else to see it by.
    tokio::time::sleep(Duration::from_millis(200)).await;

    server.stop();
    until_closed(&server).await;
    assert!(idle.is_closed().await);
    assert!(silent.is_closed().await);
    assert!(server.is_running());

    // What was not yet a request when the server was told to stop is none now.
    late.send(b"content-length: 15\r\n\r\n{\"prompt\": \"x\"}")
        .await;
    let response = late.response().await;
    assert_eq!(response.status, 503, "{response:?}");
    assert!(response.error().contains("shutting down"));
    assert!(response.header("retry-after").is_some());
    assert_eq!(response.header("connection"), Some("close"));
    drop(late);

    sending.send(&request[request.len() - 5..]).await;
    server.release(2);
    assert_eq!(running.response().await.answer(), "You said: wait 1");
    assert!(running.is_closed().await);
    assert_eq!(queued.response().await.answer(), "You said: wait 2");
    let response = sending.response().await;
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(response.answer(), "You said: x");
    server.ended().await;
}

#[tokio::test]
async fn an_idle_server_ends_at_once() {
    let mut server = Fixture::start(settings()).await;
    let mut client = server.send("x").await;
    client.response().await.answer();
    server.stop();
    // The client keeps its side open; nobody waits for it.
    server.ended().await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn after_the_grace_period_requests_are_given_up() {
    let settings = Settings {
        max_concurrent_requests: 1,
        shutdown_grace: Duration::from_millis(300),
        ..settings()
    };
    let mut server = Fixture::start(settings).await;
    let mut running = server.send("wait").await;
    server.until(|doings| doings.waiting == 1).await;
    let mut queued = server.send("queued").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.stop();
    let response = running.response().await;
    assert_eq!(response.status, 503);
    assert!(response.error().contains("shutting down"));
    assert!(response.header("retry-after").is_some());
    server
        .until(|doings| doings.waiting == 0 && doings.cancelled == 1)
        .await;
    // The queued one may have had its turn in the same moment.
    assert!([200, 503].contains(&queued.response().await.status));
    drop((running, queued));
    server.ended().await;
}

#[tokio::test]
async fn a_client_that_never_reads_does_not_keep_the_server() {
    let limits = Limits {
        linger: Duration::from_millis(200),
        // The stalled write is not what ends it.
        write_stall_timeout: Duration::from_secs(3600),
        ..Limits::default()
    };
    let settings = Settings {
        shutdown_grace: Duration::from_millis(200),
        limits,
        ..settings()
    };
    let mut server = Fixture::start(settings).await;
    let deaf = server.send("flood").await;
    server.until(|doings| doings.asked == 1).await;
    server.stop();
    server.ended().await;
    drop(deaf);
}
