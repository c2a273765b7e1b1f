//! Which backend runs: what a configuration may ask for, what this build has,
//! and what takes its place where it does not start.

use std::num::NonZero;

#[cfg(any(feature = "mlx", all(target_os = "macos", target_arch = "aarch64")))]
use super::mlx;
use super::{Backend, BackendError, candle, cpu};

/// The backend a configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// MLX where it is compiled in and starts, else candle.
    #[default]
    Auto,
    /// MLX: on Apple Silicon, and where the feature `mlx` is compiled in.
    Mlx,
    /// candle on Metal or CUDA where compiled in, else the CPU, where products
    /// of four- and eight-bit weights round activations to eight bits, and of
    /// bf16 ones to bf16, if the machine has instructions that gain by it.
    Candle,
    /// The same with activations in f32 throughout on the CPU.
    CandleF32,
}

impl BackendChoice {
    /// The choices by the names the configuration knows them by.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("mlx", Self::Mlx),
        ("candle", Self::Candle),
        ("candle-f32", Self::CandleF32),
    ];

    /// The choices that name one backend of this build.
    pub const BUILT_IN: &'static [Self] = if HAS_MLX {
        &[Self::Mlx, Self::Candle, Self::CandleF32]
    } else {
        &[Self::Candle, Self::CandleF32]
    };
}

/// What is done with a backend once it has started.
pub trait WithBackend {
    /// What comes of it.
    type Output;

    /// Does it.
    fn with<B: Backend>(self, backend: B) -> Self::Output;
}

/// What a backend is started by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackendSettings {
    /// Which one.
    pub choice: BackendChoice,
    /// How many threads compute what the CPU computes; as many as the machine
    /// has cores, if nobody says.
    pub threads: Option<NonZero<usize>>,
}

impl From<BackendChoice> for BackendSettings {
    fn from(choice: BackendChoice) -> Self {
        Self {
            choice,
            threads: None,
        }
    }
}

/// Starts the backend that `settings` name and does `work` with it.
///
/// # Errors
/// If its device cannot be had.
pub fn start<W: WithBackend>(
    settings: impl Into<BackendSettings>,
    work: W,
) -> Result<W::Output, BackendError> {
    let BackendSettings { choice, threads } = settings.into();
    let choice = match choice {
        BackendChoice::Auto if !HAS_MLX => BackendChoice::Candle,
        choice => choice,
    };
    let products = match choice {
        BackendChoice::CandleF32 => cpu::Products::F32,
        _ => cpu::Products::Rounded,
    };
    start_by(choice, work, start_mlx, |work| {
        start_candle(products, threads, work)
    })
}

/// [`start`] by what starts MLX, which gives the work back if it fails, and
/// what starts candle. `Auto` is MLX, or candle if that does not start.
pub(super) fn start_by<W: WithBackend>(
    choice: BackendChoice,
    work: W,
    mlx: impl FnOnce(W) -> Result<W::Output, (W, BackendError)>,
    candle: impl FnOnce(W) -> Result<W::Output, BackendError>,
) -> Result<W::Output, BackendError> {
    match choice {
        BackendChoice::Candle | BackendChoice::CandleF32 => candle(work),
        BackendChoice::Mlx => mlx(work).map_err(|(_, error)| BackendError {
            op: error.op,
            reason: format!(
                "MLX does not start: {}; \"backend\": \"auto\" runs the model on candle then",
                error.reason
            ),
        }),
        BackendChoice::Auto => mlx(work).or_else(|(work, error)| {
            tracing::warn!(reason = ?error.reason, "MLX does not start; candle runs the model");
            candle(work)
        }),
    }
}

/// candle on the GPU that this build knows, or the CPU.
fn start_candle<W: WithBackend>(
    products: cpu::Products,
    threads: Option<NonZero<usize>>,
    work: W,
) -> Result<W::Output, BackendError> {
    Ok(match candle::Candle::on_gpu(threads)? {
        Some(candle) => work.with(candle),
        None => work.with(cpu::Cpu::start(products, threads)),
    })
}

/// Whether MLX is compiled in.
const HAS_MLX: bool = cfg!(any(
    feature = "mlx",
    all(target_os = "macos", target_arch = "aarch64")
));

/// On failure the work comes back, for another backend to do.
#[cfg(any(feature = "mlx", all(target_os = "macos", target_arch = "aarch64")))]
fn start_mlx<W: WithBackend>(work: W) -> Result<W::Output, (W, BackendError)> {
    match mlx::Mlx::start() {
        Ok(mlx) => Ok(work.with(mlx)),
        Err(error) => Err((work, error)),
    }
}

#[cfg(not(any(feature = "mlx", all(target_os = "macos", target_arch = "aarch64"))))]
fn start_mlx<W: WithBackend>(work: W) -> Result<W::Output, (W, BackendError)> {
    let error = BackendError {
        op: "start",
        reason: "this program was built without it (it is built in on Apple Silicon, and with \
                 --features mlx)"
            .to_owned(),
    };
    Err((work, error))
}
