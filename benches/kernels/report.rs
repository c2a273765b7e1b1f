//! What was measured beside what the machine can do, in plain text.

use super::limits::{Limits, Peak};

/// What a kernel multiplies.
#[derive(Clone, Copy)]
pub(super) enum Numbers {
    Int8,
    Bf16,
    F32,
}

/// A kernel that was measured.
pub(super) struct Measured {
    pub(super) what: String,
    pub(super) numbers: Numbers,
    /// Multiply-accumulates of a call.
    pub(super) macs: f64,
    /// Bytes that a call has to read from memory.
    pub(super) bytes: f64,
    /// The median of the calls.
    pub(super) seconds: f64,
}

impl Measured {
    /// The share of the machine's limit, and the limit: what takes longer of
    /// reading the bytes and multiplying.
    fn share(&self, limits: &Limits) -> (f64, &'static str) {
        let peak = self.peak(limits);
        let (reading, multiplying) = (self.bytes / limits.bandwidth, self.macs / peak.rate);
        let (least, by) = match reading > multiplying {
            true => (reading, "memory"),
            false => (multiplying, peak.by),
        };
        (least / self.seconds, by)
    }

    fn peak(&self, limits: &Limits) -> Peak {
        match self.numbers {
            Numbers::Int8 => limits.int8,
            Numbers::Bf16 => limits.bf16,
            Numbers::F32 => limits.f32,
        }
    }
}

/// Lines without a newline at their end.
pub(super) fn table(backends: &[String], limits: &Limits, all: &[Measured]) -> String {
    let mut lines: Vec<String> = backends.iter().map(|name| format!("On {name}.")).collect();
    lines.push(format!(
        "The machine's limits, measured in this run on {} threads: {:.1} GB/s read from memory,",
        limits.threads,
        limits.bandwidth / 1e9
    ));
    let peak = |what, peak: Peak| format!("{:.0} GMAC/s of {what} ({})", peak.rate / 1e9, peak.by);
    lines.push(format!(
        "{}, {}, {}.",
        peak("8-bit integers", limits.int8),
        peak("bf16", limits.bf16),
        peak("f32", limits.f32)
    ));
    lines.push(String::new());
    let width = all.iter().map(|row| row.what.len()).max().unwrap_or(0);
    lines.push(format!(
        "{:<width$}  {:>10}  {:>8}  {:>7}  {:>5}  of the limit by",
        "kernel", "ms", "GMAC/s", "GB/s", "share"
    ));
    for row in all {
        let (share, by) = row.share(limits);
        lines.push(format!(
            "{:<width$}  {:>10.4}  {:>8.1}  {:>7.2}  {:>4.0}%  {by}",
            row.what,
            row.seconds * 1e3,
            row.macs / row.seconds / 1e9,
            row.bytes / row.seconds / 1e9,
            share * 100.0,
        ));
    }
    lines.join("\n")
}
