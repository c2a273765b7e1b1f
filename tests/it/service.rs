//! The service files as `scripts/install-service --print` fills them in: read
//! back with a parser of their own, for paths with every awkward character.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use plist::{Dictionary, Value};
use tempfile::TempDir;

/// A folder with a program and a configuration in it.
struct Bench {
    _keep: TempDir,
    folder: PathBuf,
}

impl Bench {
    fn new(name: &str, config: &str) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let folder = keep.path().canonicalize().unwrap().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("config.json"), config).unwrap();
        fs::write(folder.join("program"), "").unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.join("program"), executable).unwrap();
        Self {
            _keep: keep,
            folder,
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Runs the script with relative paths, from the folder.
    fn run(&self, script: &str, args: &[&str]) -> Output {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        Command::new(root.join("scripts").join(script))
            .args(args)
            .current_dir(&self.folder)
            .env("HOME", "/home/me")
            .env("PATH", format!("{}:/odd/a&b %c", env!("PATH")))
            .env("HF_HOME", "/models")
            .env_remove("HF_ENDPOINT")
            .output()
            .unwrap()
    }

    fn print(&self, kind: &str) -> String {
        let output = self.run(
            "install-service",
            &["--print", "--kind", kind, "--binary", "program"],
        );
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn plist(&self) -> Dictionary {
        let text = self.print("launchd");
        let value = Value::from_reader_xml(text.as_bytes()).unwrap();
        value.into_dictionary().unwrap()
    }
}

fn text<'a>(dictionary: &'a Dictionary, key: &str) -> &'a str {
    dictionary[key].as_string().unwrap()
}

fn number(dictionary: &Dictionary, key: &str) -> i64 {
    dictionary[key].as_signed_integer().unwrap()
}

const AWKWARD: &str = r#"a b & <c> "d" 'e' \f |g 50% $HOME é"#;

#[test]
fn the_agent_has_absolute_paths_whatever_they_hold() {
    let bench = Bench::new(AWKWARD, "{}");
    let agent = bench.plist();
    let arguments: Vec<_> = agent["ProgramArguments"]
        .as_array()
        .unwrap()
        .iter()
        .map(|argument| argument.as_string().unwrap())
        .collect();
    assert_eq!(
        arguments,
        [
            &bench.path("program"),
            "--config",
            &bench.path("config.json")
        ]
    );
    assert_eq!(text(&agent, "Label"), "llm-server");
    assert_eq!(
        text(&agent, "WorkingDirectory"),
        bench.folder.to_str().unwrap()
    );
    let logs = "/home/me/Library/Logs/llm-server";
    assert_eq!(
        text(&agent, "StandardOutPath"),
        format!("{logs}/stdout.log")
    );
    assert_eq!(
        text(&agent, "StandardErrorPath"),
        format!("{logs}/stderr.log")
    );
    let environment = agent["EnvironmentVariables"].as_dictionary().unwrap();
    assert!(text(environment, "PATH").ends_with(":/odd/a&b %c"));
    assert_eq!(text(environment, "HF_HOME"), "/models");
    assert_eq!(environment.len(), 2);
}

#[test]
fn the_agent_starts_at_login_and_again_after_a_failure_alone() {
    let agent = Bench::new("plain", "{}").plist();
    assert_eq!(agent["RunAtLoad"].as_boolean(), Some(true));
    let keep_alive = agent["KeepAlive"].as_dictionary().unwrap();
    assert_eq!(keep_alive["SuccessfulExit"].as_boolean(), Some(false));
    assert_eq!(keep_alive.len(), 1);
    assert_eq!(number(&agent, "ThrottleInterval"), 30);
}

#[test]
fn the_time_to_end_is_longer_than_the_grace() {
    for (config, grace) in [
        ("{}", 30),
        (r#"{"shutdown_grace_seconds": 120}"#, 120),
        ("{\"seed\": 1,\n \"shutdown grace seconds\" :\n 7.5}", 7),
        (r#"{"shutdown-grace-seconds":0,"listening_port":8080}"#, 0),
    ] {
        let bench = Bench::new("plain", config);
        assert_eq!(
            number(&bench.plist(), "ExitTimeOut"),
            grace + 30,
            "{config}"
        );
        let unit = bench.print("systemd");
        assert!(unit.contains(&format!("\nTimeoutStopSec={}\n", grace + 30)));
    }
}

#[test]
fn the_unit_quotes_what_systemd_would_read_otherwise() {
    let bench = Bench::new("a b & <c> |g 50% $HOME é", "{}");
    let unit = bench.print("systemd");
    let line = |key: &str| {
        let mut lines = unit.lines().filter_map(|line| line.strip_prefix(key));
        let found = lines.next().unwrap_or_else(|| panic!("no {key}"));
        assert_eq!(lines.next(), None, "{key}");
        found
    };
    let percent = bench.folder.to_str().unwrap().replace('%', "%%");
    assert_eq!(line("WorkingDirectory="), percent);
    // In the program's own path a dollar sign stands for itself.
    let dollar = percent.replace('$', "$$");
    assert_eq!(
        line("ExecStart="),
        format!("\"{percent}/program\" --config \"{dollar}/config.json\"")
    );
    let environment = line("Environment=");
    assert!(environment.contains(":/odd/a&b %%c\" \"HF_HOME=/models\""));
    assert_eq!(line("Restart="), "on-failure");
    assert_eq!(line("RestartPreventExitStatus="), "78");
}

#[test]
fn no_placeholder_is_left() {
    let bench = Bench::new("plain", "{}");
    for kind in ["launchd", "systemd"] {
        let text = bench.print(kind);
        assert!(!text.contains("@"), "{text}");
    }
}

#[test]
fn what_cannot_be_installed_is_refused() {
    let bench = Bench::new("plain", "{}");
    let not_executable = ["--print", "--kind", "systemd", "--binary", "config.json"];
    for (args, expected) in [
        (&["--binary", "nowhere"][..], "there is no file nowhere"),
        (&not_executable, "is not executable"),
        (
            &["--config", "other.json", "--binary", "program"],
            "there is no file other.json",
        ),
        (&["--kind", "upstart"], "--kind is launchd or systemd"),
        (&["--kind", "launchd", "--label", "../x"], "--label takes"),
        (&["--verbose"], "unknown option --verbose"),
        (&["--config"], "--config needs a value"),
    ] {
        let mut all = vec!["--kind", "launchd"];
        all.extend(args);
        let output = bench.run("install-service", &all);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

#[test]
fn a_program_systemd_cannot_start_is_refused() {
    for name in ["it's", "a \"b\"", "back\\slash"] {
        let bench = Bench::new(name, "{}");
        let args = ["--print", "--kind", "systemd", "--binary", "program"];
        let output = bench.run("install-service", &args);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("systemd starts no program"), "{said}");
    }
}

#[test]
fn uninstalling_names_the_installed_file() {
    let bench = Bench::new("plain", "{}");
    for (kind, file) in [
        ("launchd", "/home/me/Library/LaunchAgents/x.y.plist\n"),
        ("systemd", "/systemd/user/x.y.service\n"),
    ] {
        let args = ["--print", "--kind", kind, "--label", "x.y"];
        let output = bench.run("uninstall-service", &args);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.ends_with(file), "{said}");
    }
}
