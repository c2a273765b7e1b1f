//! What is asked and what is answered.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::support::{Fixture, PATIENCE, post, settings};
use crate::http::Settings;

#[tokio::test]
async fn a_prompt_is_answered() {
    let server = Fixture::start(settings()).await;
    let response = server
        .post(r#"{"prompt": "What is 17 \u00d7 23?\n"}"#)
        .await;
    assert_eq!(response.answer(), "You said: What is 17 × 23?\n");
    assert_eq!(
        *server.model.prompts.lock().unwrap(),
        ["What is 17 × 23?\n"]
    );
    let id = response.header("x-request-id").unwrap();
    assert!(
        id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id}"
    );
    assert_ne!(
        server
            .post(r#"{"prompt": "x"}"#)
            .await
            .header("x-request-id"),
        Some(id)
    );
}

#[tokio::test]
async fn bodies_that_are_accepted() {
    let server = Fixture::start(settings()).await;
    for body in [
        r#"{"temperature": [1, {"a": null}], "prompt": "x", "model": "y"}"#,
        "\u{feff}{\"prompt\": \"x\"}",
        "\r\n\t {\"pro\\u006dpt\": \"x\"} \n",
    ] {
        assert_eq!(server.post(body).await.answer(), "You said: x", "{body}");
    }
    let mut client = server.connect().await;
    let request = "POST /?a=/b HTTP/1.1\r\nhost: x\r\ncontent-type: text/html\r\n\
                   transfer-encoding: chunked\r\n\r\n8\r\n{\"prompt\r\n7\r\n\": \"x\"}\r\n0\r\n\r\n";
    client.send(request.as_bytes()).await;
    assert_eq!(client.response().await.answer(), "You said: x");
}

#[tokio::test]
async fn bodies_that_are_refused() {
    let server = Fixture::start(settings()).await;
    let cases: [(&[u8], &str); 16] = [
        (b"", "The request body is empty"),
        (b" \n", "The request body is empty"),
        (b"\xef\xbb\xbf", "The request body is empty"),
        (b"hello", "The request body is not JSON: "),
        (b"{\"prompt\": \"x\"", "The request body is not JSON: "),
        (b"{\"prompt\": \"x\"} x", "The request body is not JSON: "),
        (
            b"{\"prompt\": \"\\ud800\"}",
            "The request body is not JSON: ",
        ),
        (b"[1,", "The request body is not JSON: "),
        (b"{\"prompt\": \"\xff\"}", "The request body is not UTF-8"),
        (b"[\"x\"]", "The request body is not a JSON object"),
        (b"\"x\"", "The request body is not a JSON object"),
        (b"{}", "The request body has no \"prompt\""),
        (b"{\"Prompt\": \"x\"}", "The request body has no \"prompt\""),
        (
            b"{\"prompt\": [\"x\"]}",
            "The \"prompt\" is not one string.",
        ),
        (b"{\"prompt\": \"\"}", "The \"prompt\" is empty."),
        (b"{\"prompt\": \" \\n\"}", "The \"prompt\" is empty."),
    ];
    for (body, sentence) in cases {
        let response = server.post(body).await;
        assert_eq!(response.status, 400, "{response:?}");
        assert!(response.error().starts_with(sentence), "{response:?}");
        assert!(response.error().ends_with('.'), "{response:?}");
    }
    assert!(server.model.prompts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn deep_nesting_is_refused_or_ignored_but_survived() {
    let server = Fixture::start(settings()).await;
    let deep = "[".repeat(1_000_000);
    assert_eq!(server.post(&deep).await.status, 400);
    assert_eq!(server.post(format!("{{\"x\": {deep}")).await.status, 400);
}

#[tokio::test]
async fn other_paths_and_methods() {
    let server = Fixture::start(settings()).await;
    let mut client = server.connect().await;
    for (request, status) in [
        ("GET / HTTP/1.1", 405),
        ("PUT /?x=1 HTTP/1.1", 405),
        ("OPTIONS / HTTP/1.1", 405),
        ("GET /x HTTP/1.1", 404),
        ("POST /x HTTP/1.1", 404),
        ("POST //?prompt HTTP/1.1", 404),
        ("OPTIONS * HTTP/1.1", 404),
    ] {
        // All on one connection, which stays open.
        client
            .send(format!("{request}\r\nhost: x\r\n\r\n").as_bytes())
            .await;
        let response = client.response().await;
        assert_eq!(response.status, status, "{request}: {response:?}");
        assert!(!response.error().is_empty());
        let allow = (status == 405).then_some("POST");
        assert_eq!(response.header("allow"), allow, "{request}");
    }
    client.send(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let head = client.head().await;
    assert!(
        head.starts_with("HTTP/1.1 405") && head.contains("allow: POST\r\n"),
        "{head}"
    );
    // No body follows: the next thing on the connection is the next response.
    client.send(&post(r#"{"prompt": "x"}"#)).await;
    assert_eq!(client.response().await.answer(), "You said: x");
}

#[tokio::test]
async fn what_is_not_http() {
    let server = Fixture::start(settings()).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    for (request, status) in [
        ("hello\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (&long, 431),
        (&large, 431),
        (&many, 431),
    ] {
        // The second time after a request that was answered.
        for before in [0, 1] {
            let mut client = server.connect().await;
            for _ in 0..before {
                client.send(&post(r#"{"prompt": "x"}"#)).await;
                client.response().await.answer();
            }
            client.send(request.as_bytes()).await;
            let response = client.response().await;
            assert_eq!(response.status, status, "{response:?}");
            assert!(response.error().ends_with('.'));
            assert_eq!(response.header("connection"), Some("close"));
            assert!(client.is_closed().await);
        }
    }
}

#[tokio::test]
async fn failures_inside_are_told_without_details() {
    let server = Fixture::start(settings()).await;
    let mut client = server.connect().await;
    for prompt in ["panic", "fail"] {
        client
            .send(&post(json!({"prompt": prompt}).to_string()))
            .await;
        let response = client.response().await;
        assert_eq!(response.status, 500);
        assert!(response.error().contains("log says why"), "{response:?}");
        assert!(!response.body.contains("secret") && !response.body.contains("as the prompt"));
    }
    // The connection and the server go on, and no slot was lost.
    for _ in 0..settings().max_concurrent_requests + 1 {
        client.send(&post(r#"{"prompt": "panic"}"#)).await;
        assert_eq!(client.response().await.status, 500);
    }
    client.send(&post(r#"{"prompt": "x"}"#)).await;
    assert_eq!(client.response().await.answer(), "You said: x");
}

#[tokio::test]
async fn a_prompt_too_long_for_the_model() {
    let server = Fixture::start(settings()).await;
    let response = server.post(r#"{"prompt": "overflow"}"#).await;
    assert_eq!(response.status, 400);
    let sentence = response.error();
    assert!(
        sentence.contains("5000") && sentence.contains("4096"),
        "{sentence}"
    );
}

#[tokio::test]
async fn eight_clients_at_once() {
    let server = Fixture::start(settings()).await;
    let mut clients = Vec::new();
    for number in 0..8 {
        clients.push(server.send(&format!("wait {number}")).await);
    }
    // All of them are with the model before one is let go.
    server.until(|doings| doings.waiting == 8).await;
    server.release(8);
    for (number, mut client) in clients.into_iter().enumerate() {
        let answer = client.response().await.answer();
        assert_eq!(answer, format!("You said: wait {number}"));
    }
}

#[tokio::test]
async fn a_full_queue_turns_clients_away() {
    let settings = Settings {
        max_concurrent_requests: 1,
        max_queued_requests: 1,
        ..settings()
    };
    let server = Fixture::start(settings).await;
    let mut first = server.send("wait").await;
    server.until(|doings| doings.waiting == 1).await;
    // Of two more one waits in the queue; which one is up to their race.
    let (mut second, mut third) = (server.send("second").await, server.send("third").await);
    let (refused, other) = tokio::select! {
        response = second.response() => (response, third),
        response = third.response() => (response, second),
    };
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.error().contains("queue is full"));
    assert!(
        refused
            .header("retry-after")
            .unwrap()
            .parse::<u32>()
            .is_ok()
    );
    assert_eq!(server.model.prompts.lock().unwrap().len(), 1);

    server.release(1);
    first.response().await.answer();
    let mut other = other;
    other.response().await.answer();
}

#[tokio::test]
async fn the_deadline_ends_answers_and_waits() {
    let settings = Settings {
        max_concurrent_requests: 1,
        request_timeout: std::time::Duration::from_millis(300),
        ..settings()
    };
    let server = Fixture::start(settings).await;
    let mut running = server.send("wait").await;
    server.until(|doings| doings.waiting == 1).await;
    let mut queued = server.send("queued").await;
    for client in [&mut running, &mut queued] {
        let response = client.response().await;
        // The second may have had its turn when the first was given up.
        if response.status != 200 {
            assert_eq!(response.status, 504);
            assert!(response.error().contains("0.3 seconds"), "{response:?}");
        }
    }
    server
        .until(|doings| doings.waiting == 0 && doings.cancelled == 1)
        .await;
    assert_eq!(
        server.post(r#"{"prompt": "x"}"#).await.answer(),
        "You said: x"
    );
}

/// Whatever the bytes, the answer is a 200 for what is a prompt and else a 400.
#[tokio::test]
async fn two_thousand_random_and_truncated_bodies() {
    let server = Fixture::start(settings()).await;
    let mut random = StdRng::seed_from_u64(17);
    let whole =
        json!({"other": [1, 2.5, null, true, {"x": "y\n"}], "prompt": "héllo \u{1F600} \"x\""});
    let whole = whole.to_string().into_bytes();
    let mut client = server.connect().await;
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..2000 {
        let mut body = whole.clone();
        match round % 4 {
            0 => body.truncate(random.random_range(0..body.len())),
            1 => {
                let index = random.random_range(0..body.len());
                body[index] = random.random_range(b' '..=b'~');
            }
            2 => {
                body = (0..random.random_range(0..200))
                    .map(|_| random.random())
                    .collect()
            }
            _ => {
                let alphabet = b"{}[]\":,\\u0promt 1e-\xc3\xa9\xff";
                let letters = (0..random.random_range(0..60))
                    .map(|_| alphabet[random.random_range(0..alphabet.len())]);
                body = letters.collect();
            }
        }
        client.send(&post(&body)).await;
        let response = client.response().await;
        let text = String::from_utf8_lossy(&body);
        match serde_json::from_slice::<serde_json::Value>(&body).ok() {
            Some(value)
                if value["prompt"]
                    .as_str()
                    .is_some_and(|prompt| !prompt.trim().is_empty()) =>
            {
                assert!(response.answer().starts_with("You said: "), "{text}");
                accepted += 1;
            }
            _ => {
                assert_eq!(response.status, 400, "{text}: {response:?}");
                assert!(!response.error().is_empty());
                refused += 1;
            }
        }
    }
    // Both kinds were met, or this test shows nothing.
    assert!(accepted > 100 && refused > 1000, "{accepted} {refused}");
    assert!(
        tokio::time::timeout(PATIENCE, server.post(r#"{"prompt": "x"}"#))
            .await
            .is_ok()
    );
}
