//! The command line and the composition root.

use std::process::ExitCode;

/// Runs the program named by the process's arguments.
pub fn run() -> ExitCode {
    ExitCode::SUCCESS
}
