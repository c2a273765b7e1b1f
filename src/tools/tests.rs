//! The whole server and rmcp's client over a pipe in this process.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use rmcp::model::{CallToolRequestParams, JsonObject};
use rmcp::service::{RoleClient, RunningService, ServiceExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::*;

struct Session {
    client: RunningService<RoleClient, ()>,
    server: JoinHandle<Result<(), ToolsError>>,
    stop: CancellationToken,
    folder: TempDir,
}

async fn session() -> Session {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("todo.txt"), "buy milk\n").unwrap();
    // Nothing listens on port 9 of this computer, and nothing outside it is asked.
    let settings = Settings::new(folder.path().to_owned()).with_weather_url("http://127.0.0.1:9");
    let (near, far) = tokio::io::duplex(4096);
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(settings, tokio::io::split(far), stop.clone()));
    let client = ().serve(tokio::io::split(near)).await.unwrap();
    Session {
        client,
        server,
        stop,
        folder,
    }
}

impl Session {
    async fn call(&self, name: &str, arguments: Value) -> (bool, String) {
        let arguments: JsonObject = serde_json::from_value(arguments).unwrap();
        let request = CallToolRequestParams::new(name.to_owned()).with_arguments(arguments);
        let result = self.client.call_tool(request).await.unwrap();
        let text = result.content[0].as_text().unwrap().text.clone();
        (result.is_error == Some(true), text)
    }
}

#[tokio::test]
async fn the_list_is_the_one_the_model_was_trained_with() {
    let session = session().await;
    let listed = session.client.list_all_tools().await.unwrap();
    let listed: Vec<Value> = listed
        .iter()
        .map(|tool| {
            let tool = serde_json::to_value(tool).unwrap();
            assert_eq!(tool.as_object().unwrap().len(), 3, "{tool}");
            json!({"type": "function", "function": {
                "name": tool["name"],
                "description": tool["description"],
                "parameters": tool["inputSchema"],
            }})
        })
        .collect();
    let trained: Value =
        serde_json::from_str(include_str!("../../models/demo/tools.json")).unwrap();
    // As texts, so that the order of the keys counts too.
    assert_eq!(json!(listed).to_string(), trained.to_string());
}

#[tokio::test]
async fn every_tool_answers() {
    let session = session().await;
    for tool in session.client.list_all_tools().await.unwrap() {
        let (arguments, fails, expected) = match &*tool.name {
            "get_current_time" => (json!({"timezone": "Tokyo"}), false, "\"Asia/Tokyo\""),
            "convert_time" => (
                json!({"time": "9am", "source_timezone": "UTC", "target_timezone": "Asia/Tokyo"}),
                false,
                "18:00",
            ),
            "calculate" => (json!({"expression": "17 * 23"}), false, "391"),
            "list_directory" => (json!({"path": "."}), false, "todo.txt"),
            "read_file" => (json!({"path": "todo.txt"}), false, "buy milk"),
            "get_temperature" => (
                json!({"city": "Paris"}),
                true,
                "Error: the weather service cannot be reached",
            ),
            "system_info" => (json!({}), false, "Memory: "),
            other => panic!("{other} is not tried here"),
        };
        let (failed, text) = session.call(&tool.name, arguments).await;
        assert_eq!(failed, fails, "{}: {text}", tool.name);
        assert!(text.contains(expected), "{}: {text}", tool.name);
    }
}

#[tokio::test]
async fn arguments_that_do_not_fit() {
    let session = session().await;
    for (name, arguments, expected) in [
        (
            "calculate",
            json!({}),
            "Error: expression is missing; calculate takes expression, each a string",
        ),
        (
            "calculate",
            json!({"expression": 5}),
            "Error: expression is not a string; calculate takes expression, each a string",
        ),
        (
            "calculate",
            json!({"expression": null}),
            "Error: expression is not a string; calculate takes expression, each a string",
        ),
        (
            "convert_time",
            json!({"time": "9am", "source_timezone": "UTC"}),
            "Error: target_timezone is missing; \
             convert_time takes source_timezone, time, target_timezone, each a string",
        ),
        (
            "read_file",
            json!({"path": "todo.txt", "mo\nde": "r"}),
            "Error: unknown argument \"mo de\"; read_file takes path, each a string",
        ),
        (
            "system_info",
            json!({"all": true}),
            "Error: unknown argument \"all\"; system_info takes no arguments",
        ),
        (
            "read_file",
            json!({"path": "../x"}),
            "Error: access is denied outside of the root folder",
        ),
    ] {
        let (failed, text) = session.call(name, arguments).await;
        assert!(failed, "{text}");
        assert_eq!(text, expected);
    }
    // Without any arguments at all.
    let result = session
        .client
        .call_tool(CallToolRequestParams::new("system_info"));
    assert_eq!(result.await.unwrap().is_error, Some(false));
    // A tool that there is not is an error of the protocol.
    let result = session
        .client
        .call_tool(CallToolRequestParams::new("format_disk"));
    assert!(
        result
            .await
            .unwrap_err()
            .to_string()
            .contains("format_disk")
    );
}

#[tokio::test]
async fn calls_run_beside_each_other() {
    let session = session().await;
    let slow = session.call("calculate", json!({"expression": "9^9^9^9"}));
    let quick = async {
        for _ in 0..3 {
            let (failed, text) = session
                .call("calculate", json!({"expression": "1+1"}))
                .await;
            assert!(!failed && text == "2", "{text}");
        }
    };
    tokio::select! {
        _ = slow => panic!("the slow one was waited for"),
        () = quick => {}
    }
}

#[tokio::test]
async fn it_ends_when_the_client_goes() {
    let session = session().await;
    session.client.cancel().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), session.server).await;
    ended.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() {
    let session = session().await;
    session.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), session.server).await;
    ended.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_says_nothing_or_nonsense() {
    let folder = TempDir::new().unwrap();
    for words in ["", "nonsense\n", "{\"jsonrpc\":\"2.0\"}\n"] {
        let (mut near, far) = tokio::io::duplex(4096);
        let settings = Settings::new(folder.path().to_owned());
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(settings, tokio::io::split(far), stop));
        near.write_all(words.as_bytes()).await.unwrap();
        drop(near);
        let ended = tokio::time::timeout(Duration::from_secs(5), server).await;
        ended.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_folder_that_is_not_there() {
    let session = session().await;
    let settings = Settings::new(session.folder.path().join("missing"));
    let (_near, far) = tokio::io::duplex(4096);
    let result = serve(settings, tokio::io::split(far), CancellationToken::new()).await;
    assert!(matches!(result, Err(ToolsError::Root { .. })));
}
