//! Servers over streamable HTTP.

use std::process::{Child, Command};

use super::*;

/// A fake server on a port, killed when dropped.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    async fn start(scratch: &Scratch, port: u16, options: &str) -> Self {
        let file = scratch.path("port");
        let _ = std::fs::remove_file(&file);
        let process = Command::new("python3")
            .arg(FAKE)
            .args(["--http", &port.to_string(), "--port-file"])
            .arg(&file)
            .args(options.split_whitespace())
            .spawn()
            .unwrap();
        eventually("the port is known", || file.exists()).await;
        let port = read(&file).parse().unwrap();
        Self { process, port }
    }

    fn settings(&self) -> ServerSettings {
        let url = format!("http://127.0.0.1:{}/mcp?key=very-secret-key", self.port);
        ServerSettings {
            name: "web".to_owned(),
            transport: Transport::Http {
                url,
                headers: [("X-Token".to_owned(), "very-secret-token".to_owned())].into(),
            },
            timeout: Duration::from_secs(10),
            tools: None,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn headers_are_sent_and_secrets_kept() {
    let log = Log::capture();
    let scratch = Scratch::new();
    let options = "--require-header X-Token:very-secret-token";
    let server = Server::start(&scratch, 0, options).await;
    let registry = Registry::start(vec![server.settings()]).await;
    assert_eq!(text(&registry, "echo", json!({"text": "x"})).await, "x");
    let long = text(&registry, "big", json!({"bytes": 5_000_000})).await;
    assert_eq!(long.len(), 5_000_000);
    registry.close().await;

    let mut wrong = server.settings();
    if let Transport::Http { headers, .. } = &mut wrong.transport {
        headers.insert("X-Token".to_owned(), "another-secret".to_owned());
    }
    let registry = Registry::start(vec![wrong]).await;
    let why = reason(&registry);
    assert!(why.contains("check its `headers`"), "{why}");
    registry.close().await;

    let settings = server.settings();
    drop(server);
    let registry = Registry::start(vec![settings]).await;
    let why = reason(&registry);
    assert!(why.contains("refused"), "{why}");
    registry.close().await;
    // `hyper` and `reqwest` may say where they connect to, as far as the port.
    for secret in ["very-secret", "another-secret"] {
        let lines = log.lines(&[secret]);
        assert!(lines.is_empty(), "{lines:#?}");
    }
}

#[tokio::test]
async fn a_server_may_go_and_come_back() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, 0, "--tools echo,slow").await;
    let port = server.port;
    let registry = Registry::start(vec![server.settings()]).await;
    assert_eq!(text(&registry, "echo", json!({"text": "x"})).await, "x");

    // Back before anybody noticed: the session is unknown to the new one.
    drop(server);
    let server = Server::start(&scratch, port, "--tools echo,slow").await;
    assert_eq!(text(&registry, "echo", json!({"text": "x"})).await, "x");

    // Gone for a while, in the middle of a call.
    let slow = error(&registry, "slow", json!({"seconds": 9}));
    let kill = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(server);
    };
    tokio::join!(slow, kill);
    eventually("its tools are left out", || names(&registry).is_empty()).await;
    error(&registry, "echo", json!({"text": "x"})).await;

    let _server = Server::start(&scratch, port, "--tools echo,add").await;
    eventually("its tools are back", || names(&registry) == ["echo", "add"]).await;
    assert_eq!(text(&registry, "echo", json!({"text": "x"})).await, "x");
    registry.close().await;
}

#[tokio::test]
async fn one_that_hangs_is_left_out() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, 0, "--hang").await;
    let settings = with_timeout(server.settings(), Duration::from_secs(1));
    let registry = Registry::start(vec![settings]).await;
    let why = reason(&registry);
    assert!(why.contains("not ready within 1 s"), "{why}");
    registry.close().await;
}
