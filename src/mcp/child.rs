//! A child process in a process group of its own: how it is started and how
//! all of it is ended. Knows nothing of MCP.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use process_wrap::tokio::{ChildWrapper, CommandWrap, KillOnDrop, ProcessGroup};
use signal_hook::consts::{SIGCONT, SIGTERM};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};

/// How long a child has to leave by itself once its stdin is closed.
pub(super) const LEAVE: Duration = Duration::from_secs(1);
/// How long it has after SIGTERM.
const TERMINATE: Duration = Duration::from_secs(2);
/// How long we wait for the kernel after SIGKILL.
const KILL: Duration = Duration::from_secs(1);
/// How often we look whether the group is empty.
const POLL: Duration = Duration::from_millis(20);

/// A running child and everything it started that stayed in its group.
/// Dropping it kills the group at once.
pub(super) struct Child {
    group: Box<dyn ChildWrapper>,
    /// The group is known to be empty: its number may belong to somebody else
    /// by now and must not be signalled any more.
    ended: bool,
}

/// Our ends of the child's pipes.
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

impl Child {
    /// Starts `command` with our environment and `env`.
    pub(super) fn spawn(
        command: &str,
        args: &[String],
        env: &BTreeMap<String, String>,
        cwd: Option<&Path>,
    ) -> io::Result<(Self, Pipes)> {
        let mut process = Command::new(command);
        process
            .args(args)
            .envs(env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(cwd) = cwd {
            process.current_dir(cwd);
        }
        let mut process = CommandWrap::from(process);
        process.wrap(ProcessGroup::leader()).wrap(KillOnDrop);
        let mut child = Self {
            group: process.spawn()?,
            ended: false,
        };
        let (stdin, stdout, stderr) = (
            child.group.stdin().take(),
            child.group.stdout().take(),
            child.group.stderr().take(),
        );
        match (stdin, stdout, stderr) {
            (Some(stdin), Some(stdout), Some(stderr)) => Ok((
                child,
                Pipes {
                    stdin,
                    stdout,
                    stderr,
                },
            )),
            _ => Err(io::Error::other("the child has no pipes")),
        }
    }

    /// Waits until the child itself has exited and says how. Its group may
    /// live on. Dropping the future loses nothing.
    pub(super) async fn exited(&mut self) -> String {
        match self.group.wait().await {
            Ok(status) => format!("it exited ({status})"),
            Err(error) => format!("it cannot be waited for ({error})"),
        }
    }

    /// Ends the whole group: waits `leave` for it to go by itself (close its
    /// stdin first), then SIGTERM, then SIGKILL.
    pub(super) async fn end(mut self, leave: Duration) {
        if !self.gone_within(leave).await {
            // A signal fails only where nobody is left to receive it.
            let _ = self.group.signal(SIGTERM);
            if !self.gone_within(TERMINATE).await {
                let _ = self.group.start_kill();
                self.gone_within(KILL).await;
            }
        }
        self.ended = true;
    }

    /// Whether the child and its group are gone within `limit`.
    async fn gone_within(&mut self, limit: Duration) -> bool {
        let gone = async {
            self.exited().await;
            // There is no signal 0 here; SIGCONT does nothing to a process
            // that runs, and one that is stopped must go on to end.
            while self.group.signal(SIGCONT).is_ok() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(limit, gone).await.is_ok()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.ended {
            // Fails only where nobody is left to receive it.
            let _ = self.group.start_kill();
        }
    }
}
