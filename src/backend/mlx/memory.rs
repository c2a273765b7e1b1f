//! What MLX may hold: no more than the device is good for, and of what is
//! freed no more than is soon used again.
//!
//! Memory is checked before MLX is asked for it, because MLX's own refusals
//! come too late: its CPU allocator does not look whether it got any, and
//! Metal reports a GPU without memory in a callback that ends the process.

use std::cell::Cell;

use mlx_rs::error::Exception;
use mlx_rs::{DeviceType, memory};
use tracing::{debug, info};

use super::sys;
use crate::backend::{BackendError, MemoryUse};

const MIB: usize = 1 << 20;

/// MLX's memory, watched. MLX counts for the whole process.
pub(super) struct Memory {
    device: DeviceType,
    /// The most that may be in use.
    limit: usize,
    /// What arrays that are not evaluated yet will take.
    planned: Cell<usize>,
}

impl Memory {
    /// The memory of `device`.
    pub(super) fn of(device: DeviceType) -> Result<Self, Exception> {
        let own = memory::memory_limit()?;
        let recommended = match device {
            DeviceType::Gpu => sys::recommended_working_set(),
            DeviceType::Cpu => None,
        };
        Ok(Self::with_limit(
            device,
            recommended.unwrap_or(own).min(own),
        ))
    }

    /// No more than `limit` bytes.
    pub(super) fn with_limit(device: DeviceType, limit: usize) -> Self {
        Self {
            device,
            limit,
            planned: Cell::new(0),
        }
    }

    /// Where it is.
    pub(super) fn device(&self) -> DeviceType {
        self.device
    }

    /// Whether `bytes` more fit.
    ///
    /// # Errors
    /// If they do not.
    pub(super) fn check(&self, bytes: usize, op: &'static str) -> Result<(), BackendError> {
        let failed = |exception: Exception| super::failed(op)(exception);
        let needed = |active: usize| active.saturating_add(self.planned.get() + bytes);
        if needed(memory::active_memory().map_err(failed)?) <= self.limit {
            return Ok(());
        }
        Err(BackendError {
            op,
            reason: format!(
                "{} MiB more do not fit: MLX holds {} of {} MiB",
                bytes.div_ceil(MIB),
                memory::active_memory().map_err(failed)? / MIB,
                self.limit / MIB
            ),
        })
    }

    /// [`Self::check`] for an array whose memory MLX takes when it evaluates
    /// it.
    pub(super) fn plan(&self, bytes: usize, op: &'static str) -> Result<(), BackendError> {
        self.check(bytes, op)?;
        self.planned.set(self.planned.get() + bytes);
        Ok(())
    }

    /// [`Self::check`] for the scores of one sequence's attention, where MLX
    /// has no kernel that does without them all.
    pub(super) fn check_scores(
        &self,
        [heads, tokens, seen]: [i32; 3],
        head_dim: i32,
    ) -> Result<(), BackendError> {
        let fused = match self.device {
            DeviceType::Gpu => tokens <= 8 || matches!(head_dim, 64 | 80 | 128),
            DeviceType::Cpu => false,
        };
        match fused {
            true => Ok(()),
            false => {
                let scores = [heads, tokens, seen].map(|axis| axis as usize);
                let scores: usize = scores.into_iter().product();
                // They and their softmax, in f32.
                self.check(scores * 2 * size_of::<f32>(), "attention")
            }
        }
    }

    /// What was planned has been taken or given up.
    pub(super) fn evaluated(&self) {
        self.planned.set(0);
    }

    /// The weights are in place: they, and nothing that comes later, are
    /// wired. Wiring whatever a server allocates has brought down machines.
    pub(super) fn loaded(&self) -> Result<(), Exception> {
        let weights = memory::active_memory()?;
        let wired = weights.min(self.limit);
        // Only Metal wires, and only on newer systems; elsewhere this does
        // nothing or is refused, and the weights stay pageable.
        if let Err(reason) = memory::set_wired_limit(wired) {
            debug!(%reason, "the weights are not wired");
        }
        let cache_limit = (self.limit / 16).clamp(64 * MIB, 2048 * MIB);
        memory::set_cache_limit(cache_limit)?;
        let used = self.used()?;
        info!(
            active_bytes = used.active,
            peak_bytes = used.peak,
            wired_bytes = wired,
            cache_limit_bytes = cache_limit,
            limit_bytes = self.limit,
            "MLX memory"
        );
        Ok(())
    }

    /// What MLX holds.
    pub(super) fn used(&self) -> Result<MemoryUse, Exception> {
        Ok(MemoryUse {
            active: memory::active_memory()?,
            peak: memory::peak_memory()?,
            cached: memory::cache_memory()?,
        })
    }
}

impl Drop for Memory {
    /// A model that is gone leaves nothing behind: neither wired memory nor
    /// buffers kept for it.
    fn drop(&mut self) {
        for freed in [memory::set_wired_limit(0).map(drop), memory::clear_cache()] {
            if let Err(reason) = freed {
                debug!(%reason, "MLX keeps memory it no longer needs");
            }
        }
    }
}
