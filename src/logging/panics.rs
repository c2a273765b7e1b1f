//! Our own panics, as events. Knows nothing of where events go.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

use tracing::error;

/// Makes every panic, in any thread, an event of level error. This replaces
/// the message Rust prints to stderr, which knows nothing of secrets.
pub(super) fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let message = message(info);
        // Captured only if RUST_BACKTRACE asks for it.
        let backtrace = Backtrace::capture();
        match backtrace.status() {
            BacktraceStatus::Captured => {
                let backtrace = backtrace.to_string();
                error!(thread, place, ?backtrace, "panic: {message:?}");
            }
            _ => error!(thread, place, "panic: {message:?}"),
        }
    }));
}

fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
