//! Clients that are too big, too slow, deaf or gone.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::support::{Client, Fixture, PATIENCE, post, settings};
use crate::http::{Limits, Settings};

const SHORT: Duration = Duration::from_millis(200);

fn with_limits(limits: Limits) -> Settings {
    Settings {
        limits,
        ..settings()
    }
}

/// A body of exactly `length` bytes with a prompt in it.
fn body_of(length: usize) -> Vec<u8> {
    let frame = r#"{"x": "", "prompt": "x"}"#;
    let padding = "a".repeat(length - frame.len());
    format!(r#"{{"x": "{padding}", "prompt": "x"}}"#).into_bytes()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    in_chunks(body, 100_000)
}

fn in_chunks(body: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(length) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

#[tokio::test]
async fn a_body_may_be_as_long_as_the_limit_and_not_a_byte_longer() {
    let server = Fixture::start(settings()).await;
    let limit = 10 * 1024 * 1024;
    for encode in [|body: &[u8]| post(body), chunked] {
        let mut client = server.connect().await;
        client.send(&encode(&body_of(limit))).await;
        assert_eq!(client.response().await.answer(), "You said: x");

        // The client writes all of it before it reads a byte, as simple
        // clients do, and still it can read the answer.
        let mut client = server.connect().await;
        client.send(&encode(&body_of(limit + 1))).await;
        let response = client.response().await;
        assert_eq!(response.status, 413, "{response:?}");
        assert!(response.error().contains("10485760"));
        assert_eq!(response.header("connection"), Some("close"));
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_not_waited_for() {
    let server = Fixture::start(settings()).await;
    for expect in ["", "expect: 100-continue\r\n"] {
        let mut client = server.connect().await;
        let head =
            format!("POST / HTTP/1.1\r\nhost: x\r\n{expect}content-length: 10485761\r\n\r\n");
        client.send(head.as_bytes()).await;
        assert_eq!(client.response().await.status, 413);
        assert!(client.is_closed().await);
    }
    // A chunked body is refused when it is too long, though it goes on.
    let mut client = server.connect().await;
    let bytes = chunked(&body_of(11 * 1024 * 1024));
    client.send(&bytes[..bytes.len() - 1000]).await;
    assert_eq!(client.response().await.status, 413);
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it() {
    let server = Fixture::start(settings()).await;
    let mut client = server.connect().await;
    client
        .send(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 15\r\n\r\n")
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.send(br#"{"prompt": "x"}"#).await;
    assert_eq!(client.response().await.answer(), "You said: x");
}

#[tokio::test]
async fn bodies_take_no_more_memory_than_there_is_room_for() {
    let limits = Limits {
        all_bodies_bytes: 1000,
        ..Limits::default()
    };
    let server = Fixture::start(with_limits(limits)).await;
    let mut prompt = json!({"prompt": format!("wait {}", "a".repeat(700))}).to_string();
    let mut first = server.connect().await;
    first.send(&post(&prompt)).await;
    server.until(|doings| doings.waiting == 1).await;
    prompt = prompt.replace("wait", "now");
    let response = server.post(&prompt).await;
    assert_eq!(response.status, 503, "{response:?}");
    assert!(response.header("retry-after").is_some());
    server.release(1);
    first.response().await.answer();
    // All pieces of a body count.
    let mut pieces = server.connect().await;
    pieces.send(&in_chunks(&body_of(1200), 100)).await;
    assert_eq!(pieces.response().await.status, 503);
    // The room is free again, however often it was taken.
    for _ in 0..3 {
        server.post(&prompt).await.answer();
    }
}

#[tokio::test]
async fn slow_heads_are_ended() {
    let limits = Limits {
        header_timeout: SHORT,
        linger: SHORT,
        ..Limits::default()
    };
    let server = Fixture::start(with_limits(limits)).await;
    // Nothing, then a close without a word; half a head, then 408.
    let mut silent = server.connect().await;
    assert!(silent.is_closed().await);
    let mut slow = server.connect().await;
    slow.send(b"POST / HTTP/1.1\r\nho").await;
    let response = slow.response().await;
    assert_eq!(response.status, 408);
    assert!(response.error().contains("head"));
    assert!(slow.is_closed().await);
    // A byte now and then does not buy time.
    let loris = server.connect().await;
    let dripping = async {
        loop {
            // The write fails when the server has closed.
            loris.0.writable().await.unwrap();
            if loris.0.try_write(b"x").is_err() {
                return;
            }
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    timeout(PATIENCE, dripping)
        .await
        .expect("the slow loris lives on");
    // Nor does an idle connection stay for ever.
    let mut idle = server.send("x").await;
    idle.response().await.answer();
    assert!(idle.is_closed().await);
}

#[tokio::test]
async fn slow_bodies_are_ended() {
    for (idle, total) in [(SHORT, PATIENCE), (PATIENCE, SHORT)] {
        let limits = Limits {
            body_idle_timeout: idle,
            body_timeout: total,
            ..Limits::default()
        };
        let server = Fixture::start(with_limits(limits)).await;
        let mut client = server.connect().await;
        client.send(&post(body_of(100))[..90]).await;
        let response = client.response().await;
        assert_eq!(response.status, 408, "{response:?}");
        assert!(response.error().contains("body"));
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_no_slot_and_is_ended() {
    let limits = Limits {
        write_stall_timeout: SHORT,
        ..Limits::default()
    };
    let settings = Settings {
        max_concurrent_requests: 1,
        ..with_limits(limits)
    };
    let server = Fixture::start(settings).await;
    let mut deaf = server.send("flood").await;
    // Its answer is more than the socket takes, and its slot is free anyway.
    assert_eq!(
        server.post(r#"{"prompt": "x"}"#).await.answer(),
        "You said: x"
    );
    tokio::time::sleep(5 * SHORT).await;
    // It gets what was on its way and then the end.
    let mut read = 0;
    let mut buffer = vec![0; 1 << 20];
    while let Ok(1..) = timeout(PATIENCE, deaf.0.read(&mut buffer))
        .await
        .unwrap()
        .inspect(|n| read += n)
    {}
    assert!(
        read < 32 * 1024 * 1024,
        "all of the answer came: {read} bytes"
    );

    // A client that reads slowly but does read gets all of it.
    let mut slow = server.send("flood").await;
    tokio::time::sleep(SHORT / 2).await;
    assert_eq!(slow.response().await.answer().len(), 32 * 1024 * 1024);
}

#[tokio::test]
async fn a_client_that_goes_cancels_its_answer() {
    let server = Fixture::start(settings()).await;
    for cancelled in 1..=3 {
        let client = server.send("wait").await;
        server.until(|doings| doings.waiting == 1).await;
        drop(client);
        server
            .until(|doings| doings.waiting == 0 && doings.cancelled == cancelled)
            .await;
    }
    // With a reset, too.
    let client = server.send("wait").await;
    server.until(|doings| doings.waiting == 1).await;
    client.0.set_zero_linger().unwrap();
    drop(client);
    server
        .until(|doings| doings.waiting == 0 && doings.cancelled == 4)
        .await;
}

#[tokio::test]
async fn a_client_that_goes_leaves_the_queue() {
    let settings = Settings {
        max_concurrent_requests: 1,
        max_queued_requests: 1,
        ..settings()
    };
    let server = Fixture::start(settings).await;
    let mut first = server.send("wait").await;
    server.until(|doings| doings.waiting == 1).await;
    for _ in 0..3 {
        drop(in_the_queue(&server).await);
    }
    let mut last = in_the_queue(&server).await;
    server.release(1);
    first.response().await.answer();
    assert_eq!(last.response().await.answer(), "You said: queued");
    // Those that left never came before the model.
    server.until(|doings| doings.asked == 2).await;
}

/// A client that waits in the queue: those that are turned away hear so at once.
async fn in_the_queue(server: &Fixture) -> Client {
    let trying = async {
        loop {
            let mut client = server.send("queued").await;
            match timeout(SHORT, client.response()).await {
                Ok(response) => assert_eq!(response.status, 503),
                Err(_) => return client,
            }
        }
    };
    timeout(PATIENCE, trying)
        .await
        .expect("the queue stays full")
}

#[tokio::test]
async fn more_connections_than_allowed_wait() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let server = Fixture::start(with_limits(limits)).await;
    let (first, _second) = (server.send("wait").await, server.send("wait").await);
    server.until(|doings| doings.waiting == 2).await;
    let mut third = server.send("x").await;
    assert!(timeout(SHORT, third.head()).await.is_err(), "it was let in");
    drop(first);
    assert_eq!(third.response().await.answer(), "You said: x");
}
