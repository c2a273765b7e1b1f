//! What is offered and what calls come to.

use super::*;

#[tokio::test]
async fn calls_come_back_as_text() {
    let scratch = Scratch::new();
    let mut settings = fake("fake", "");
    let Transport::Stdio { env, cwd, .. } = &mut settings.transport else {
        unreachable!("the fake speaks over stdio");
    };
    env.insert("FAKE_VALUE".to_owned(), "a b".to_owned());
    *cwd = Some(scratch.0.path().canonicalize().unwrap());
    let registry = Registry::start(vec![settings]).await;

    let folder = scratch.0.path().canonicalize().unwrap();
    let folder = folder.to_string_lossy().into_owned();
    let table = [
        ("echo", json!({"text": "hällo\n\"you\""}), "hällo\n\"you\""),
        ("add", json!({"a": 17, "b": 2.5}), "19.5"),
        ("image", json!({}), "[image, image/png, 68 bytes]"),
        ("audio", json!({}), "[audio, audio/wav, 12 bytes]"),
        (
            "resource",
            json!({}),
            "a note\n[resource blob://1, application/zip, 3 bytes]\n\
             [link x.txt: file:///x.txt, text/plain]",
        ),
        ("structured", json!({}), "{\"answer\":42}"),
        ("empty", json!({}), "(no content)"),
        ("env", json!({"name": "FAKE_VALUE"}), "a b"),
        ("cwd", json!({}), folder.as_str()),
        ("garbage", json!({}), "printed"),
    ];
    for (tool, arguments, expected) in table {
        assert_eq!(text(&registry, tool, arguments).await, expected, "{tool}");
    }
    // The environment is ours with the configured one on top.
    let home = text(&registry, "env", json!({"name": "HOME"})).await;
    assert_eq!(home, std::env::var("HOME").unwrap());
    registry.close().await;
}

#[tokio::test]
async fn failures_come_back_as_errors() {
    let registry = Registry::start(vec![fake("fake", "")]).await;
    assert_eq!(error(&registry, "fail", json!({"text": "no"})).await, "no");
    let refused = error(&registry, "protocol_error", json!({})).await;
    assert!(refused.contains("not to my taste"), "{refused}");
    let malformed = error(&registry, "malformed", json!({})).await;
    assert!(malformed.contains("not valid JSON-RPC"), "{malformed}");
    let unknown = error(&registry, "ecko", json!({})).await;
    assert_eq!(
        unknown,
        "There is no tool named \"ecko\". Did you mean \"echo\"?"
    );
    let unknown = error(&registry, "zzzzzz", json!({})).await;
    assert!(
        unknown.contains("The available tools are: echo, add,"),
        "{unknown}"
    );
    registry.close().await;
    let none = Registry::start(Vec::new()).await;
    let unknown = error(&none, "echo", json!({})).await;
    assert!(unknown.contains("no tools are available"), "{unknown}");
}

#[tokio::test]
async fn five_megabytes_come_back_whole() {
    let registry = Registry::start(vec![fake("fake", "")]).await;
    let long = text(&registry, "big", json!({"bytes": 5_000_000})).await;
    assert_eq!(long.len(), 5_000_000);
    assert_eq!(text(&registry, "echo", json!({"text": "on"})).await, "on");
    registry.close().await;
}

#[tokio::test]
async fn calls_run_side_by_side() {
    let registry = Registry::start(vec![fake("fake", "")]).await;
    // The one that is sent last is the first to be done.
    let order = std::sync::Mutex::new(Vec::new());
    let slow = async |seconds: f64| {
        text(&registry, "slow", json!({"seconds": seconds})).await;
        order.lock().unwrap().push(seconds);
    };
    tokio::join!(slow(4.0), slow(4.0), slow(0.1));
    assert_eq!(order.lock().unwrap()[0], 0.1);
    registry.close().await;
}

#[tokio::test]
async fn equal_names_are_told_apart_in_order() {
    let registry = Registry::start(vec![
        fake("one", "--tools echo,add --suffix 1 --start-delay 0.3"),
        fake("two", "--tools pid,echo --suffix 2"),
    ])
    .await;
    assert_eq!(names(&registry), ["one_echo", "add", "pid", "two_echo"]);
    assert_eq!(
        text(&registry, "one_echo", json!({"text": "x"})).await,
        "x1"
    );
    assert_eq!(
        text(&registry, "two_echo", json!({"text": "x"})).await,
        "x2"
    );
    // A conversation that began while there was one "echo" only.
    assert_eq!(text(&registry, "echo", json!({"text": "x"})).await, "x1");
    let status = registry.status();
    assert_eq!(status[1].name, "two");
    assert_eq!(status[1].state, ServerState::Up);
    assert_eq!(status[1].implementation.as_deref(), Some("fake 1.0"));
    assert_eq!(status[1].tools, ["pid", "two_echo"]);
    registry.close().await;
    assert_eq!(registry.status()[1].state, ServerState::Closed);
    assert!(names(&registry).is_empty());
}

#[tokio::test]
async fn only_allowed_tools_are_offered() {
    let log = Log::capture();
    let mut settings = fake("fake", "");
    settings.tools = Some(vec!["add".to_owned(), "ad".to_owned(), "echo".to_owned()]);
    let registry = Registry::start(vec![settings]).await;
    assert_eq!(names(&registry), ["echo", "add"]);
    error(&registry, "pid", json!({})).await;
    assert_eq!(log.lines(&["WARN", "\"ad\"", "fake"]).len(), 1);
    registry.close().await;
}

#[tokio::test]
async fn every_page_and_every_odd_schema_is_taken() {
    let log = Log::capture();
    let registry = Registry::start(vec![fake("fake", "--pages 3 --odd-schemas")]).await;
    let tools = registry.tools();
    let names = names(&registry);
    assert_eq!(names.len(), 23 + 4);
    assert_eq!(names[23..], ["no_type", "bare", "no_schema", "twice"]);
    assert_eq!(tools[0].description, "Repeats the text.");
    assert_eq!(tools[0].input_schema["required"], json!(["text"]));
    assert_eq!(
        tools[23].input_schema,
        json!({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}})
    );
    assert_eq!(tools[25].input_schema, json!({"type": "object"}));
    assert_eq!(log.lines(&["WARN", "without a name"]).len(), 1);
    assert_eq!(log.lines(&["WARN", "second tool"]).len(), 1);
    registry.close().await;

    let registry = Registry::start(vec![fake("fake", "--endless-pages")]).await;
    assert!(
        reason(&registry).contains("no end"),
        "{}",
        reason(&registry)
    );
    registry.close().await;
}

#[tokio::test]
async fn a_changed_list_is_followed() {
    let registry = Registry::start(vec![fake("fake", "--tools echo,change")]).await;
    assert_eq!(names(&registry), ["echo", "change"]);
    text(&registry, "change", json!({})).await;
    eventually("the tool is there", || names(&registry).len() == 3).await;
    assert_eq!(text(&registry, "extra", json!({})).await, "extra");
    registry.close().await;
}

#[tokio::test]
async fn a_servers_questions_get_answers() {
    let log = Log::capture();
    let registry = Registry::start(vec![fake("fake", "")]).await;
    for (method, expected) in [
        ("ping", r#"{"result": {}}"#),
        ("roots/list", r#"{"result": {"roots": []}}"#),
        ("sampling/createMessage", "-32601"),
        ("elicitation/create", "decline"),
        ("never/heard/of", "-32601"),
    ] {
        let answer = text(&registry, "ask", json!({"method": method})).await;
        assert!(answer.contains(expected), "{method}: {answer}");
    }
    text(&registry, "log", json!({"text": "two\nlines"})).await;
    eventually("it is logged", || {
        !log.lines(&["WARN", "fake", r#""two\nlines""#]).is_empty()
    })
    .await;
    registry.close().await;
}
