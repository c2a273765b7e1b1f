//! The program: turns one result into an exit code and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    llm_server::app::run()
}
