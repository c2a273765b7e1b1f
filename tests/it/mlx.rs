//! The program with its model on MLX; `scripts/test-mlx` runs these.

use crate::support::Setup;

#[test]
fn a_prompt_is_answered_on_mlx_with_a_tool_call() {
    let program = Setup::with_tools().set("backend", "mlx").start();
    let answer = program.ask("what is 17 * 23?");
    assert!(answer.contains("391"), "{answer:?}");
    let log = program.stop().log();
    for said in [
        "backend=\"MLX on the ",
        "MLX memory active_bytes=",
        "tool call",
        "memory of the backend active_bytes=",
    ] {
        assert!(log.contains(said), "{said:?} is not in {log}");
    }
}

#[test]
fn mlx_is_what_auto_takes_where_it_is_there() {
    let program = Setup::new().start();
    let answer = program.ask("hello there");
    assert!(answer.starts_with("Hello"), "{answer:?}");
    let log = program.stop().log();
    assert!(log.contains("backend=\"MLX on the "), "{log}");
}

#[test]
fn the_preamble_survives_a_restart_on_mlx() {
    crate::preamble::survives(Setup::with_tools().set("backend", "mlx"));
}
