//! What was measured, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::measure::Measured;

/// Digits that mean something: three.
fn rounded(value: f64) -> f64 {
    let digits = (2.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 6.0);
    let factor = 10f64.powf(digits);
    (value * factor).round() / factor
}

fn ms(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3)
}

fn megabytes(bytes: u64) -> u64 {
    bytes / 1_000_000
}

/// One line of JSON.
pub(super) fn json(measured: &Measured) -> String {
    let by_number = |rates: &[(usize, f64)]| -> Map<String, Value> {
        rates
            .iter()
            .map(|(number, rate)| (number.to_string(), json!(rounded(*rate))))
            .collect()
    };
    let mut line = json!({
        "prefill_tok_s": by_number(&measured.prefill),
        "decode_tok_s": by_number(&measured.decode),
        "resident_mb": megabytes(measured.resident),
        "backend": measured.backend,
        "threads": measured.threads,
    });
    if let Some(latency) = &measured.latency {
        line["ttft_ms"] = json!({
            "cold": ms(latency.cold),
            "warm": ms(latency.warm),
            "shared8": ms(latency.shared),
        });
        line["overhead_ms"] = json!(ms(latency.overhead));
    }
    line.to_string()
}

/// A table, without a newline at its end.
pub(super) fn table(measured: &Measured) -> String {
    let mut out = String::new();
    let mut row = |what: &str, value: f64, unit: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "  {what:<44}{value:>10} {unit}");
    };
    for (length, rate) in &measured.prefill {
        row(
            &format!("prefill, {length} tokens"),
            rounded(*rate),
            "tok/s",
        );
    }
    for (streams, rate) in &measured.decode {
        let what = match streams {
            1 => "decode, 1 stream".to_owned(),
            _ => format!("decode, {streams} streams together"),
        };
        row(&what, rounded(*rate), "tok/s");
    }
    if let Some(latency) = &measured.latency {
        let behind = |what: &str| format!("first token, {} tokens {what}", latency.preamble);
        row(&behind("cold"), ms(latency.cold), "ms");
        row(&behind("warm"), ms(latency.warm), "ms");
        row(&behind("cold, 8 clients"), ms(latency.shared), "ms");
        row("host's own time a request", ms(latency.overhead), "ms");
    }
    row("memory", megabytes(measured.resident) as f64, "MB");
    format!(
        "{}, {:.1} M parameters; {}\n{}",
        measured.family,
        measured.parameters as f64 / 1e6,
        measured.backend,
        out.trim_end()
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::measure::Latency;
    use super::*;

    #[test]
    fn the_two_forms_say_the_same() {
        let mut measured = Measured {
            family: "qwen3".to_owned(),
            parameters: 4_067_328,
            backend: "the CPU, 2 threads".to_owned(),
            threads: 2,
            prefill: vec![(128, 1234.56), (512, 0.0123)],
            decode: vec![(1, 60.0), (8, 200.04)],
            latency: Some(Latency {
                cold: Duration::from_micros(1_234_500),
                warm: Duration::from_micros(45_600),
                shared: Duration::from_millis(2_000),
                preamble: 400,
                overhead: Duration::from_micros(321),
            }),
            resident: 31_400_000,
        };
        let value: Value = serde_json::from_str(&json(&measured)).unwrap();
        assert_eq!(
            value,
            json!({
                "prefill_tok_s": {"128": 1235.0, "512": 0.0123},
                "decode_tok_s": {"1": 60.0, "8": 200.0},
                "ttft_ms": {"cold": 1235.0, "warm": 45.6, "shared8": 2000.0},
                "overhead_ms": 0.321,
                "resident_mb": 31,
                "backend": "the CPU, 2 threads",
                "threads": 2
            })
        );
        let whole = table(&measured);
        for line in [
            "qwen3, 4.1 M parameters; the CPU, 2 threads",
            "prefill, 128 tokens                               1235 tok/s",
            "decode, 8 streams together                         200 tok/s",
            "first token, 400 tokens cold, 8 clients           2000 ms",
            "host's own time a request                        0.321 ms",
        ] {
            assert!(whole.contains(line), "{line:?} is not in\n{whole}");
        }
        measured.latency = None;
        let rates: Value = serde_json::from_str(&json(&measured)).unwrap();
        let keys: Vec<_> = rates.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "prefill_tok_s",
                "decode_tok_s",
                "resident_mb",
                "backend",
                "threads"
            ]
        );
        let lines = table(&measured);
        let left_out = whole.lines().filter(|line| !lines.contains(line));
        assert_eq!(left_out.count(), 4, "{lines}");
    }
}
