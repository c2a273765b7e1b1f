//! What clients send and how they behave.

use std::io::Write;
use std::net::Shutdown;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{
    Client, Setup, TEMPERATURE_PROMPT, exchange, get, playing, post, prompt_body,
};

const LONGEST_BODY: usize = 10 * 1024 * 1024;

/// A body of exactly this many bytes with a prompt in it.
fn body_of(length: usize) -> Vec<u8> {
    let frame = prompt_body("").len();
    prompt_body(&"x".repeat(length - frame))
}

#[test]
fn a_prompt_is_answered_with_json() {
    let program = Setup::new().start();
    let response = program.post(&prompt_body("hello!"));
    assert!(response.answer().contains("Hello"), "{}", response.text());
    program.stop();
}

#[test]
fn what_is_no_prompt_is_refused_with_400() {
    let program = Setup::new().start();
    let bodies: [&[u8]; 17] = [
        b"",
        b"   ",
        b"hello",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b"\"hello\"",
        b"{\"prompt\": null}",
        b"{\"prompt\": 1}",
        b"{\"prompt\": [\"hello\"]}",
        b"{\"prompt\": {\"text\": \"hello\"}}",
        b"{\"prompt\": \"\"}",
        b"{\"prompt\": \"  \\n\"}",
        b"{\"Prompt\": \"hello\"}",
        b"{\"prompt\": \"hello\"} and more",
        b"{\"prompt\": \"\xff\xfe\"}",
    ];
    for body in bodies {
        let response = program.post(body);
        assert_eq!(response.status, 400, "{:?}", String::from_utf8_lossy(body));
        response.refusal(400);
    }
    assert!(!program.ask("hello!").is_empty());
    program.stop();
}

#[test]
fn other_methods_and_other_paths_are_refused() {
    let program = Setup::new().start();
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let response = get(program.port(), method, "/");
        response.refusal(405);
        assert_eq!(response.header("allow"), Some("POST"), "{method}");
    }
    let response = get(program.port(), "HEAD", "/");
    assert_eq!(response.status, 405);
    for path in ["/x", "/prompt", "//", "/v1/chat/completions"] {
        get(program.port(), "GET", path).refusal(404);
        let mut client = Client::connect(program.port());
        client.post(path, &prompt_body("hello!")).unwrap();
        client.read().unwrap().refusal(404);
    }
    program.stop();
}

#[test]
fn what_is_not_http_is_refused_and_outlived() {
    let program = Setup::new().start();
    exchange(program.port(), b"hello there\r\n\r\n").refusal(400);
    let long = format!("POST / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(200_000));
    exchange(program.port(), long.as_bytes()).refusal(431);
    let doubtful =
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello";
    exchange(program.port(), doubtful).refusal(400);
    assert!(!program.ask("hello!").is_empty());
    program.stop();
}

#[test]
fn one_connection_serves_several_requests() {
    let program = Setup::new().start();
    let mut client = Client::connect(program.port());
    client.post("/", &prompt_body("hello!")).unwrap();
    let first = client.read().unwrap().answer();
    client.post("/", &prompt_body("hello!")).unwrap();
    assert_eq!(client.read().unwrap().answer(), first);
    program.stop();
}

#[test]
fn ten_megabytes_are_taken_and_one_byte_more_is_not() {
    let program = Setup::new().start();
    let body = body_of(LONGEST_BODY);
    assert_eq!(body.len(), LONGEST_BODY);
    let sentence = program.post(&body).refusal(400);
    assert!(sentence.contains("too long"), "{sentence:?}");

    program.post(&body_of(LONGEST_BODY + 1)).refusal(413);

    // Refused on its announcement alone: not a byte of it is sent.
    let announced = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        LONGEST_BODY + 1
    );
    exchange(program.port(), announced.as_bytes()).refusal(413);
    let absurd = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n";
    exchange(program.port(), absurd).refusal(413);

    // Without an announcement, refused when it is reached. The client goes on
    // for a while and must still get its answer.
    let mut client = Client::connect(program.port());
    client
        .send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend(vec![b'x'; 0x10000]);
    chunk.extend(b"\r\n");
    for _ in 0..=LONGEST_BODY / 0x10000 {
        if client.send(&chunk).is_err() {
            break;
        }
    }
    client.read().unwrap().refusal(413);

    assert!(!program.ask("hello!").is_empty());
    program.stop();
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_400() {
    let program = Setup::new().start();
    let sentence = program
        .post(&prompt_body(&"word ".repeat(5000)))
        .refusal(400);
    assert!(sentence.contains("too long"), "{sentence:?}");
    program.stop();
}

#[test]
fn two_thousand_random_and_truncated_bodies_are_outlived() {
    let program = Setup::new().start();
    let mut random = StdRng::seed_from_u64(2);
    let whole = br#"{"prompt": "a \u00e9 \"b\"", "more": [1, 2.5e3, {"x": null}, true]}"#;
    let mut client = Client::connect(program.port());
    for round in 0..2000 {
        let body = match round % 4 {
            // Noise.
            0 => (0..random.random_range(0..300))
                .map(|_| random.random())
                .collect(),
            // JSON that ends too early.
            1 => whole[..random.random_range(0..whole.len())].to_vec(),
            // JSON with a byte changed; kept from being a good prompt by what
            // follows it.
            2 => {
                let mut body = whole.to_vec();
                let at = random.random_range(0..body.len());
                body[at] = random.random();
                body.push(b'}');
                body
            }
            // A body that ends before its announced length, and the client too.
            _ => {
                let mut rude = Client::connect(program.port());
                let sent = random.random_range(0..whole.len());
                let head = format!(
                    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
                    whole.len()
                );
                let _ = rude.send(head.as_bytes());
                let _ = rude.send(&whole[..sent]);
                let _ = rude.socket().shutdown(Shutdown::Both);
                continue;
            }
        };
        // A refusal may end the connection or not; both are right.
        if client.post("/", &body).is_err() {
            client = Client::connect(program.port());
            client.post("/", &body).unwrap();
        }
        let response = match client.read() {
            Some(response) => response,
            None => {
                client = Client::connect(program.port());
                client.post("/", &body).unwrap();
                client.read().expect("a new connection is answered")
            }
        };
        assert_eq!(response.status, 400, "{:?}", String::from_utf8_lossy(&body));
    }
    assert!(!program.ask("hello!").is_empty());
    let setup = program.stop();
    assert!(!setup.log().contains("panic"), "something panicked");
}

#[test]
fn a_client_that_goes_away_stops_its_tool_call_and_makes_room() {
    let program = Setup::new()
        .slow_temperature(300, &[])
        .set("max_concurrent_requests", 1)
        .set("request_timeout_seconds", 600)
        .start();
    let mut client = Client::connect(program.port());
    client.post("/", &prompt_body(TEMPERATURE_PROMPT)).unwrap();
    program.wait_for_calls(1);
    drop(client);
    program.wait_for_log("the client is gone");
    program.wait_for_messages("notifications/cancelled", 1);
    // The only place is free again.
    assert!(program.ask("hello!").contains("Hello"));
    program.stop();
}

#[test]
fn a_client_that_does_not_read_harms_nobody() {
    let program = Setup::new().start();
    let mut client = Client::connect(program.port());
    let socket = client.socket().try_clone().unwrap();
    socket
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    // Refusals that nobody reads, until neither side's buffers take more.
    let request = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let mut sent = 0;
    while client.send(request.as_bytes()).is_ok() {
        sent += 1;
        assert!(sent < 10_000, "somebody keeps answers without end");
    }
    assert!(program.ask("hello!").contains("Hello"));
    program.stop();
}

#[test]
fn a_client_that_never_finishes_its_head_or_body_is_let_go() {
    let program = Setup::new().start();
    std::thread::scope(|scope| {
        let port = program.port();
        for start in [
            "POST / HTTP/1.1\r\nHost: x\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"prompt\"",
        ] {
            scope.spawn(move || {
                let mut client = Client::connect(port);
                client.send(start.as_bytes()).unwrap();
                client.read().expect("it is told").refusal(408);
                assert!(client.is_closed_by_peer());
            });
        }
        // One that says nothing at all is not owed a word.
        scope.spawn(move || assert!(Client::connect(port).is_closed_by_peer()));
    });
    program.stop();
}

#[test]
fn beyond_the_queue_clients_are_told_to_come_back() {
    let program = Setup::new()
        .slow_temperature(4, &[])
        .set("max_concurrent_requests", 1)
        .set("max_queued_requests", 1)
        .start();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4)
            .map(|_| {
                let port = program.port();
                scope.spawn(move || post(port, &prompt_body(TEMPERATURE_PROMPT)))
            })
            .collect();
        let mut answered = 0;
        let mut refused = 0;
        for response in asked {
            let response = response.join().unwrap();
            if response.status == 503 {
                let after = response.header("retry-after").expect("it says when");
                assert!(after.parse::<u32>().is_ok_and(|seconds| seconds > 0));
                response.refusal(503);
                refused += 1;
            } else {
                response.answer();
                answered += 1;
            }
        }
        // One works, one waits; the tool takes longer than the rest arrives.
        assert_eq!((answered, refused), (2, 2));
    });
    assert!(!program.ask("hello!").is_empty());
    program.stop();
}

#[test]
fn a_request_that_takes_too_long_is_ended() {
    let program = Setup::new()
        .slow_temperature(300, &[])
        .set("request_timeout_seconds", 2)
        .start();
    let response = program.post(&prompt_body(TEMPERATURE_PROMPT));
    assert!(response.refusal(504).contains("2 seconds"));
    assert!(program.ask("hello!").contains("Hello"));
    program.stop();
}

#[test]
fn a_slow_tool_holds_up_nobody_else() {
    let program = Setup::new()
        .slow_temperature(300, &[])
        .set("shutdown_grace_seconds", 1)
        .start();
    let mut waiting = Client::connect(program.port());
    waiting.post("/", &prompt_body(TEMPERATURE_PROMPT)).unwrap();
    program.wait_for_calls(1);
    assert!(program.ask("hello!").contains("Hello"));
    program.stop();
}

#[test]
fn a_request_that_comes_byte_by_byte_is_answered() {
    let program = Setup::new().start();
    let mut client = Client::connect(program.port());
    let body = prompt_body("hello!");
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    for byte in head.as_bytes().iter().chain(&body) {
        client.socket().write_all(&[*byte]).unwrap();
    }
    client.read().unwrap().answer();
    program.stop();
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on_or_not() {
    let program = Setup::new().start();
    let head = |length: usize| {
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let body = prompt_body("hello!");
    let mut client = Client::connect(program.port());
    client.send(head(body.len()).as_bytes()).unwrap();
    assert_eq!(
        client.read_head().expect("it is told"),
        "HTTP/1.1 100 Continue"
    );
    client.send(&body).unwrap();
    assert!(client.read().unwrap().answer().contains("Hello"));
    // As curl does with a body that is too long: it need not be sent.
    exchange(program.port(), head(LONGEST_BODY + 1).as_bytes()).refusal(413);
    program.stop();
}

#[test]
fn a_prompt_may_be_in_any_language() {
    let program = Setup::new()
        .server("fake", playing("echo:{\"text\":\"11°C\"}", &[]))
        .start();
    // Written out and as JSON escapes.
    let answer = program.ask("What is the temperature in Zürich?");
    assert!(
        answer.contains("Zürich") && answer.contains("11°C"),
        "{answer:?}"
    );
    let escaped = br#"{"prompt": "What is the temperature in Z\u00fcrich?"}"#;
    assert_eq!(program.post(escaped).answer(), answer);
    assert!(!program.ask("你好 👋🏽 مرحبا").is_empty());
    program.stop();
}
