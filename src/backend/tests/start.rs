//! Which backend runs, and what happens where MLX does not start.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex};

use tracing::Dispatch;

use super::*;
use crate::backend::start::start_by;

struct Describe;

impl WithBackend for Describe {
    type Output = String;
    fn with<B: Backend>(self, backend: B) -> String {
        backend.describe()
    }
}

fn on_the_cpu<W: WithBackend>(work: W) -> Result<W::Output, BackendError> {
    Ok(work.with(cpu::Cpu::start(cpu::Products::Rounded, None)))
}

#[test]
fn as_many_threads_compute_as_are_asked_for() {
    let described = |threads| {
        let settings = BackendSettings {
            choice: BackendChoice::CandleF32,
            threads: NonZero::new(threads),
        };
        start(settings, Describe).unwrap()
    };
    // A GPU has threads of its own.
    if described(1).starts_with("the CPU") {
        assert_eq!(described(1), "the CPU, 1 thread");
        assert_eq!(described(3), "the CPU, 3 threads");
    }
}

#[test]
fn a_backend_that_is_not_there_says_how_to_get_it() {
    let candle = start(BackendChoice::Candle, Describe).unwrap();
    let gpu = candle.starts_with("candle on ");
    assert!(gpu || candle.starts_with("the CPU, "), "{candle}");
    let auto = start(BackendChoice::Auto, Describe).unwrap();
    match start(BackendChoice::Mlx, Describe) {
        Ok(mlx) => {
            assert!(BackendChoice::BUILT_IN.contains(&BackendChoice::Mlx));
            assert!(mlx.starts_with("MLX on "), "{mlx}");
            assert_eq!(auto, mlx);
        }
        Err(error) => {
            assert!(!BackendChoice::BUILT_IN.contains(&BackendChoice::Mlx));
            assert!(error.reason.contains("--features mlx"), "{error}");
            assert!(error.reason.contains("\"auto\""), "{error}");
            assert_eq!(auto, candle);
        }
    }
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `work` logs while it runs, and what comes of it.
fn logged<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    // With a second subscriber tracing asks both which lines they want, and
    // does not remember what the thread of another test wanted.
    let _second = Dispatch::new(tracing_subscriber::registry());
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let output = tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    (output, text.lines().map(str::to_owned).collect())
}

/// The real starts, but MLX's works or does not as a test wants it: which
/// were tried in which order, and what came of it.
fn attempt(
    choice: BackendChoice,
    mlx_works: bool,
) -> (Vec<&'static str>, Result<String, BackendError>) {
    let tried = RefCell::new(Vec::new());
    let output = start_by(
        choice,
        Describe,
        |work| {
            tried.borrow_mut().push("mlx");
            if mlx_works {
                // Any backend stands in for it.
                return on_the_cpu(work).map_err(|error| (Describe, error));
            }
            let error = BackendError {
                op: "start",
                reason: "no\ndevice".to_owned(),
            };
            Err((work, error))
        },
        |work| {
            tried.borrow_mut().push("candle");
            on_the_cpu(work)
        },
    );
    (tried.into_inner(), output)
}

#[test]
fn where_mlx_does_not_start_auto_takes_candle_and_says_why() {
    let ((tried, output), lines) = logged(|| attempt(BackendChoice::Auto, false));
    assert_eq!(tried, ["mlx", "candle"]);
    assert!(output.unwrap().starts_with("the CPU, "));
    assert_eq!(lines.len(), 1, "{lines:?}");
    for said in ["WARN", "MLX does not start", r#"reason="no\ndevice""#] {
        assert!(lines[0].contains(said), "{said}: {lines:?}");
    }
}

#[test]
fn where_mlx_does_not_start_asking_for_it_is_an_error_that_says_what_to_do() {
    let ((tried, output), lines) = logged(|| attempt(BackendChoice::Mlx, false));
    assert_eq!(tried, ["mlx"]);
    let error = output.unwrap_err();
    assert_eq!(error.op, "start");
    for said in ["MLX does not start: no\ndevice", "\"backend\": \"auto\""] {
        assert!(error.reason.contains(said), "{said}: {error}");
    }
    assert_eq!(lines, [""; 0]);
}

#[test]
fn where_mlx_starts_candle_is_not_tried() {
    for choice in [BackendChoice::Auto, BackendChoice::Mlx] {
        let ((tried, output), lines) = logged(|| attempt(choice, true));
        assert_eq!((tried, lines), (vec!["mlx"], Vec::new()));
        output.unwrap();
    }
}

#[test]
fn where_candle_is_asked_for_mlx_is_not_tried() {
    let (tried, output) = attempt(BackendChoice::Candle, true);
    assert_eq!(tried, ["candle"]);
    output.unwrap();
}

/// Work that counts how often it is done.
struct Count<'a>(&'a RefCell<Vec<String>>);

impl WithBackend for Count<'_> {
    type Output = ();
    fn with<B: Backend>(self, backend: B) {
        self.0.borrow_mut().push(backend.describe());
    }
}

#[test]
fn the_work_is_done_once_and_by_candle() {
    let done = RefCell::new(Vec::new());
    let fails = |work| {
        let error = BackendError {
            op: "start",
            reason: "no device".to_owned(),
        };
        Err((work, error))
    };
    start_by(BackendChoice::Auto, Count(&done), fails, on_the_cpu).unwrap();
    let done = done.into_inner();
    assert!(
        done.len() == 1 && done[0].starts_with("the CPU, "),
        "{done:?}"
    );
}
