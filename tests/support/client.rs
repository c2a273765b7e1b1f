//! An HTTP/1.1 client that is as exact, or as rude, as a test wants: it sends
//! bytes as given and reads one response at a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

/// A response, read whole.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Response {
    /// The value of a header, whatever the case of its name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer of a 200, whose body is `{"response": "…"}` and no more.
    #[track_caller]
    pub(crate) fn answer(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text());
        self.only("response")
    }

    /// The sentence of a refusal, whose body is `{"Error": "…"}` and no more.
    #[track_caller]
    pub(crate) fn refusal(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        let sentence = self.only("Error");
        for leak in [".rs", "panicked", "\n", "Os {", "stack"] {
            assert!(!sentence.contains(leak), "{leak:?} in {sentence:?}");
        }
        // "POST at /." is fine, a path of the machine is not.
        let path = |word: &&str| word.starts_with('/') && word.len() > 2;
        assert_eq!(sentence.split_whitespace().find(path), None, "{sentence:?}");
        sentence
    }

    #[track_caller]
    fn only(&self, key: &str) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body: Value = serde_json::from_slice(&self.body).expect("the body is JSON");
        let object = body.as_object().expect("the body is an object");
        assert_eq!(object.keys().collect::<Vec<_>>(), [key], "{body}");
        let text = object[key].as_str().expect("its value is a string");
        assert!(!text.trim().is_empty(), "an empty {key}");
        text.to_owned()
    }
}

/// The body that asks `prompt`.
pub(crate) fn prompt_body(prompt: &str) -> Vec<u8> {
    json!({"prompt": prompt}).to_string().into_bytes()
}

/// A connection kept open.
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects to the program.
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the program listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .expect("the time-out is not zero");
        stream
            .set_write_timeout(Some(Duration::from_secs(60)))
            .expect("the time-out is not zero");
        Self {
            reader: BufReader::new(stream),
        }
    }

    /// The socket, for tests that mean to misuse it.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Sends bytes as they are. A program that has heard enough may have
    /// closed its side: what it answered is read all the same.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Sends a POST of `body` to `path`.
    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> std::io::Result<()> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // In one piece: a head alone would wait for the acknowledgement of
        // what went before.
        self.send(&[head.as_bytes(), body].concat())
    }

    /// Reads one response; `None` if the connection ended before one began.
    pub(crate) fn read(&mut self) -> Option<Response> {
        self.read_for("POST")
    }

    /// Reads the head of an interim response and gives its first line.
    pub(crate) fn read_head(&mut self) -> Option<String> {
        let mut first = None;
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).ok()?;
            match line.trim_end() {
                "" => return first,
                line => first = first.or(Some(line.to_owned())),
            }
        }
    }

    fn read_for(&mut self, method: &str) -> Option<Response> {
        let mut status_line = String::new();
        if self.reader.read_line(&mut status_line).ok()? == 0 {
            return None;
        }
        let status = status_line.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).ok()?;
            match line.trim_end().split_once(':') {
                Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
                None => break,
            }
        }
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        if method != "HEAD" {
            let length = response
                .header("content-length")
                .expect("every response says its length")
                .parse()
                .expect("a length is a number");
            response.body = vec![0; length];
            self.reader.read_exact(&mut response.body).ok()?;
        }
        Some(response)
    }

    /// Whether the program closes the connection without saying more.
    pub(crate) fn is_closed_by_peer(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Sends `bytes` on a connection of its own and reads the response.
#[track_caller]
pub(crate) fn exchange(port: u16, bytes: &[u8]) -> Response {
    let mut client = Client::connect(port);
    let _ = client.send(bytes);
    client.read().expect("the program answers")
}

/// A request without a body.
#[track_caller]
pub(crate) fn get(port: u16, method: &str, path: &str) -> Response {
    let mut client = Client::connect(port);
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    client.send(head.as_bytes()).expect("the program reads");
    client.read_for(method).expect("the program answers")
}

/// A POST of `body` to `/`.
#[track_caller]
pub(crate) fn post(port: u16, body: &[u8]) -> Response {
    let mut client = Client::connect(port);
    let _ = client.post("/", body);
    client.read().expect("the program answers")
}
