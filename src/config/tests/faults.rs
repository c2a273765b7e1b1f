//! Everything that can be wrong, as tables: what is written, and what must be
//! said about it.

use super::*;

/// Changes to the smallest configuration, and parts of the one fault they make.
#[test]
fn each_fault_names_its_key_and_the_mend() {
    let table = [
        (
            json!({"model_name": null}),
            "model_name: is missing; add it, for example \"model_name\": \"mlx",
        ),
        (
            json!({"temperature": null}),
            "temperature: is missing; add it, for example \"temperature\": 0.7",
        ),
        (json!({"model_name": ""}), "model_name: is empty; fill"),
        (
            json!({"model_name": "https://huggingface.co/a/b"}),
            "model_name: is neither",
        ),
        (json!({"model_name": "models/a/b"}), "./"),
        (
            json!({"model_name": "~other/m"}),
            "model_name: names another user's home",
        ),
        (
            json!({"model_name": 1}),
            "model_name: is a number; write a text",
        ),
        (
            json!({"model name": "b"}),
            "model_name: is given twice, as \"model_name\" and as \"model name\"",
        ),
        (
            json!({"mcpServers": {}}),
            "servers: is given twice, as \"servers\" and as \"mcpServers\"",
        ),
        (
            json!({"tempreature": 1}),
            "tempreature: is not a known key; did you mean \"temperature\"?",
        ),
        (json!({"port": 1}), "port: is not a known key; "),
        (
            json!({"max tokns": 1}),
            "max tokns: is not a known key; did you mean \"max_tokens\"?",
        ),
        (json!({"Seed": 1}), "did you mean \"seed\"?"),
        (json!({"zzz": 1}), "zzz: is not a known key; remove it"),
        (
            json!({"listening_port": 0}),
            "listening_port: is 0; write a whole number from 1 to 65535",
        ),
        (json!({"listening_port": 65536}), "listening_port: is 65536"),
        (json!({"listening_port": -1}), "listening_port: is -1"),
        (json!({"listening_port": 80.5}), "listening_port: is 80.5"),
        (
            json!({"listening_port": "8080"}),
            "from 1 to 65535, without quotes",
        ),
        (json!({"temperature": -0.1}), "temperature: is -0.1"),
        (json!({"temperature": 1e300}), "temperature: is 1e+300"),
        (json!({"temperature": "hot"}), "temperature: is a text"),
        (
            json!({"top_p": -0.1}),
            "top_p: is -0.1; write a number from 0 to 1",
        ),
        (json!({"top_p": 1.1}), "top_p: is 1.1"),
        (json!({"min_p": -0.5}), "min_p: is -0.5"),
        (json!({"min_p": 1.5}), "min_p: is 1.5"),
        (json!({"min_tokens_to_keep": 0}), "min_tokens_to_keep: is 0"),
        (
            json!({"log_level": "warn"}),
            "write one of trace, debug, info, warning, error",
        ),
        (
            json!({"log_filename": "llm.log"}),
            "log_filename: is not the full path",
        ),
        (
            json!({"log_filename": "/var/log/"}),
            "log_filename: is not the full path",
        ),
        (
            json!({"log_filename": "/var/.."}),
            "log_filename: is not the full path",
        ),
        (
            json!({"log_filename": "/a\u{0}b"}),
            "log_filename: holds a NUL",
        ),
        (json!({"system_prompt": ["a"]}), "system_prompt: is a list"),
        (json!({"host": "localhost:80"}), "host: is neither"),
        (json!({"host": "300.0.0.1"}), "host: is neither"),
        (json!({"host": "*"}), "0.0.0.0"),
        (
            json!({"backend": "metal"}),
            "backend: is not a backend; write one of auto, mlx, candle",
        ),
        (json!({"revision": " "}), "revision: is empty"),
        (json!({"max_tokens": 0}), "max_tokens: is 0"),
        (json!({"context_length": 0}), "context_length: is 0"),
        (
            json!({"prefix_cache_bytes": -1}),
            "prefix_cache_bytes: is -1",
        ),
        (
            json!({"prefix_cache_dir": ""}),
            "prefix_cache_dir: is empty",
        ),
        (
            json!({"prefix_cache_dir": "~me/kv"}),
            "prefix_cache_dir: names another user's home",
        ),
        (
            json!({"chat_template_args": [1]}),
            "chat_template_args: is a list; write an object of variables",
        ),
        (
            json!({"chat_template_args": {"messages": []}}),
            "chat_template_args.messages: is set by this program; remove it",
        ),
        (
            json!({"chat_template_args": {"enable-thinking": false}}),
            "chat_template_args.enable-thinking: is no variable's name; write letters",
        ),
        (
            json!({"chat_template_args": {"a": [{"b": "${NOT_SET}"}]}}),
            "chat_template_args.a[0].b: ",
        ),
        (json!({"max_tool_rounds": -1}), "max_tool_rounds: is -1"),
        (json!({"tool_result_limit": 0}), "tool_result_limit: is 0"),
        (
            json!({"request_timeout_seconds": 0}),
            "request_timeout_seconds: is 0; write a number of seconds above 0",
        ),
        (json!({"request_timeout_seconds": 1e12}), "at most a year"),
        (
            json!({"shutdown_grace_seconds": -1}),
            "shutdown_grace_seconds: is -1",
        ),
        (
            json!({"max_concurrent_requests": 0}),
            "max_concurrent_requests: is 0",
        ),
        (
            json!({"max_queued_requests": true}),
            "max_queued_requests: is true or false",
        ),
        (
            json!({"seed": -1}),
            "seed: is -1; write a whole number, 0 or more",
        ),
        (json!({"servers": []}), "servers: is a list"),
        (
            json!({"system_prompt": "${NOPE}"}),
            "system_prompt: ${NOPE} is neither in the environment nor in .env; add a line NOPE=…",
        ),
        (
            json!({"system_prompt": "${NOPE"}),
            "system_prompt: has a ${ without a }",
        ),
        (json!({"system_prompt": "${}"}), "not a name"),
        (json!({"system_prompt": "${1A}"}), "not a name"),
        (json!({"system_prompt": "${input:key}"}), "not a name"),
    ];
    for (changes, expected) in table {
        let faults = Case::of(&with(changes.clone())).load().unwrap_err();
        let said = faults.to_string();
        assert!(said.contains(expected), "{changes}: {said}");
        assert_eq!(faults.faults.len(), 1, "{changes}: {said}");
    }
}

#[test]
fn each_fault_of_a_server_names_its_key_and_the_mend() {
    let table = [
        (json!([]), "servers.s: is a list; write an object"),
        (json!({}), "servers.s: has neither \"command\" nor \"url\""),
        (
            json!({"command": "x", "url": "http://h"}),
            "servers.s: has both",
        ),
        (json!({"type": "stdio"}), "servers.s.command: is missing"),
        (json!({"type": "http"}), "servers.s.url: is missing"),
        (
            json!({"type": "sse", "url": "http://h/sse"}),
            "streamable HTTP",
        ),
        (
            json!({"type": "ws", "url": "http://h"}),
            "servers.s.type: is not a type",
        ),
        (
            json!({"type": "stdio", "command": "x", "url": "http://h"}),
            "servers.s.url: has no meaning",
        ),
        (
            json!({"url": "http://h", "cwd": "/"}),
            "servers.s.cwd: has no meaning",
        ),
        (json!({"command": " "}), "servers.s.command: is empty"),
        (
            json!({"command": "x", "arg": []}),
            "servers.s.arg: is not a known key; did you mean \"args\"?",
        ),
        (
            json!({"command": "x", "args": "y"}),
            "servers.s.args: is a text",
        ),
        (
            json!({"command": "x", "args": ["a", 1]}),
            "servers.s.args[1]: is a number",
        ),
        (
            json!({"command": "x", "env": {"P": 1}}),
            "servers.s.env.P: is a number",
        ),
        (
            json!({"command": "x", "env": {"A=B": "1"}}),
            "servers.s.env: has a name",
        ),
        (
            json!({"command": "x", "env": []}),
            "servers.s.env: is a list",
        ),
        (
            json!({"command": "x", "env": {"P": "${GONE}"}}),
            "servers.s.env.P: ${GONE} is neither",
        ),
        (
            json!({"command": "x", "timeout_seconds": 0}),
            "servers.s.timeout_seconds: is 0",
        ),
        (
            json!({"command": "x", "timeout_seconds": -3}),
            "servers.s.timeout_seconds: is -3",
        ),
        (
            json!({"command": "x", "timeout_seconds": 1, "timeout seconds": 1}),
            "servers.s.timeout_seconds: is given twice",
        ),
        (
            json!({"command": "x", "tools": "all"}),
            "servers.s.tools: is a text",
        ),
        (
            json!({"command": "x", "disabled": "yes"}),
            "servers.s.disabled: is a text",
        ),
        (
            json!({"url": "ftp://h"}),
            "servers.s.url: is not an http or https address",
        ),
        (json!({"url": "h/mcp"}), "servers.s.url: is not an http"),
        (
            json!({"url": "http://h", "headers": {"a b": "c"}}),
            "servers.s.headers: has a name",
        ),
        (
            json!({"url": "http://h", "headers": {"a": "c\nd"}}),
            "servers.s.headers.a: has a value",
        ),
    ];
    for (entry, expected) in table {
        let faults = Case::of(&with(json!({"servers": {"s": entry}})))
            .load()
            .unwrap_err();
        let said = faults.to_string();
        assert!(said.contains(expected), "{entry}: {said}");
        assert_eq!(faults.faults.len(), 1, "{entry}: {said}");
    }
}

#[test]
fn server_names_must_be_usable() {
    let entry = json!({"command": "x"});
    let alike = json!({"servers": {"my files": entry, "My-Files": entry}});
    let said = Case::of(&with(alike)).faults();
    assert!(
        said.contains("servers.My-Files: is too much like \"my files\""),
        "{said}"
    );
    let said = Case::of(&with(json!({"servers": {"": entry}}))).faults();
    assert!(said.contains("whose name is empty"), "{said}");
}

#[test]
fn all_faults_are_reported_at_once_with_the_log() {
    let case = Case::of(&with(json!({
        "model_name": null, "top_p": 2, "tmperature": 1, "log_level": "debug",
        "servers": {"a": {"comand": "x"}, "b": {"command": "x", "env": {"K": "${GONE}"}}},
    })));
    let faults = case.load().unwrap_err();
    let keys: Vec<_> = faults.faults.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "tmperature",
            "model_name",
            "top_p",
            "servers.a.comand",
            "servers.a",
            "servers.b.env.K"
        ]
    );
    assert_eq!(faults.to_string().lines().count(), keys.len());
    let log = faults.log.unwrap();
    assert_eq!(log.level, logging::Level::Debug);
    assert_eq!(log.file, PathBuf::from("/var/log/llm.log"));

    for broken in [
        json!({"log_level": 1, "top_p": 2}),
        json!({"log_filename": null}),
    ] {
        assert_eq!(Case::of(&with(broken)).load().unwrap_err().log, None);
    }
}

#[test]
fn values_of_secrets_are_in_no_fault() {
    let secret = "hidden-value";
    for changes in [
        json!({"model_name": "a b${S}"}),
        json!({"log_level": "${S}"}),
        json!({"log_filename": "${S}"}),
        json!({"host": "${S}:1"}),
        json!({"backend": "${S}"}),
        json!({"servers": {"s": {"type": "${S}", "url": "http://h"}}}),
        json!({"servers": {"s": {"url": "${S}"}}}),
        json!({"servers": {"s": {"url": "http://h", "headers": {"a": "${S}\n"}}}}),
    ] {
        let case = Case::of(&with(changes.clone())).with_env("S", secret);
        let faults = case.load().unwrap_err();
        assert_eq!(faults.faults.len(), 1, "{changes}");
        assert!(
            !format!("{faults} {faults:?}").contains(secret),
            "{changes}"
        );
    }
}

#[test]
fn broken_json_is_located_and_explained() {
    let table = [
        (
            "{\n  \"a\": 1,\n}",
            "line 3, column 1: trailing comma; remove the comma",
        ),
        (
            "{\n  // note\n  \"a\": 1 }",
            "line 2, column 3: key must be a string; remove the comment",
        ),
        ("{ \"a\": 1 # note\n }", "remove the comment"),
        ("{ 'a': 1 }", "straight double quotes"),
        ("{ “a”: 1 }", "straight double quotes"),
        ("{ a: 1 }", "put keys and text between double quotes"),
        ("{ \"a\": yes }", "put keys and text between double quotes"),
        ("{ \"a\": True }", "small letters"),
        (
            "{ \"a\": 1\n  \"b\": 2 }",
            "line 2, column 3: expected `,` or `}`; put a comma",
        ),
        ("{ \"a\": [1 \"b\"] }", "put a comma"),
        ("{ \"a\": \"b", "is not closed"),
        ("", "is not closed"),
        ("{} {}", "remove what comes after the last }"),
        ("{ \"a\": \"b\n\" }", "write line breaks in it as \\n"),
        ("{ \"a\": \"C:\\Users\" }", "write \\\\ for each \\"),
        ("{ \"a\": 1e999 }", "write a smaller number"),
        ("[]", "config.json: is not a JSON object"),
        (
            "{\"a\": {\"b\": 1, \"c\": 2, \"b\": 3}}",
            "a.b: is given twice; keep one",
        ),
    ];
    for (text, expected) in table {
        let said = Case::new(text).faults();
        assert!(said.contains(expected), "{text}: {said}");
        assert_eq!(said.lines().count(), 1, "{text}: {said}");
    }
}

#[test]
fn a_byte_order_mark_is_no_fault() {
    let text = format!("\u{feff}{}", minimal());
    assert!(Case::new(&text).load().is_ok());
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_explained() {
    let case = Case::new("");
    let file = case.folder.path().join("config.json");
    fs::write(&file, b"{\n\"a\": \"\xff\"}").unwrap();
    assert!(case.faults().contains("line 2 is not UTF-8"));
    fs::remove_file(&file).unwrap();
    let said = case.faults();
    assert!(said.contains("copy config.json.example"), "{said}");
    assert!(said.contains("llm-server demo"), "{said}");
    assert!(said.contains(&*file.to_string_lossy()), "{said}");
    fs::create_dir(&file).unwrap();
    assert!(case.faults().contains("cannot be read"));
}

#[test]
fn lines_of_dotenv_that_cannot_be_read_are_named_but_not_shown() {
    let table: [(&[u8], &str); 6] = [
        (b"# one\nA=1\n\nB=hush hush\nC=3\n", "line 4 cannot"),
        (b"A=1\r\nhush\r\n", "line 2 cannot"),
        (b"hush", "line 1 cannot"),
        (b"A=1\nB='hush\nhush\n", "line 2 cannot"),
        (b"A='1\n2'\nhush: x\n", "line 3 cannot"),
        (b"A=1\nB=hush\xff\n", "line 2 is not UTF-8"),
    ];
    for (text, expected) in table {
        let faults = Case::of(&minimal()).with_dotenv(text).load().unwrap_err();
        let said = faults.to_string();
        assert!(
            said.contains(&format!(".env: {expected}")),
            "{expected}: {said}"
        );
        assert!(!said.contains("hush"), "{said}");
        assert_eq!(faults.faults.len(), 1, "{said}");
    }
    // Two lines, two faults; the good line between them still counts.
    let case = Case::of(&with(json!({"system_prompt": "${B}"}))).with_dotenv("?\nB=2\n!\n");
    assert_eq!(case.load().unwrap_err().faults.len(), 2);
    // A mark at its beginning and a blank at its end are no faults.
    let case = Case::of(&with(json!({"system_prompt": "${B}"}))).with_dotenv("\u{feff}B=2 ");
    assert_eq!(case.load().unwrap().session.system_prompt, "2");
}

#[test]
fn home_must_be_known_where_it_is_used() {
    let mut case = Case::of(&with(json!({"log_filename": "~/x.log"})));
    assert_eq!(
        case.load().unwrap().log.file,
        PathBuf::from("/home/me/x.log")
    );
    case.environment.clear();
    assert!(case.faults().contains("HOME is not set"));
}
