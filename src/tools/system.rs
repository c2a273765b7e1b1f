//! `system_info`: the operating system, processor and memory of this
//! computer, as they are. Not its name, its users or what runs on it.

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use super::server::{Failure, Outcome};

/// Five facts, one a line.
pub(super) async fn info() -> Outcome {
    tokio::task::spawn_blocking(collect)
        .await
        .map_err(|error| Failure::new(format_args!("internal error, {error}")))
}

fn collect() -> String {
    let system = System::new_with_specifics(
        RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing())
            .with_memory(MemoryRefreshKind::nothing().with_ram()),
    );
    let cpu = system.cpus().first().map_or("", |cpu| cpu.brand());
    let cores = system.cpus().len();
    let memory = gigabytes(system.total_memory());
    let (os, cpu, arch) = (os(), processor(cpu), System::cpu_arch());
    format!("OS: {os}\nCPU: {cpu}\nCores: {cores}\nMemory: {memory} GB\nArch: {arch}")
}

/// Its name and version, as people call it.
fn os() -> String {
    System::long_os_version().unwrap_or_else(System::distribution_id)
}

/// A processor's name without trade marks.
fn processor(brand: &str) -> String {
    let plain = brand.replace("(R)", "").replace("(TM)", "");
    let words: Vec<&str> = plain.split_whitespace().collect();
    if words.is_empty() {
        return System::cpu_arch();
    }
    words.join(" ")
}

/// Rounded to what was bought: part of the memory is kept by the firmware.
fn gigabytes(bytes: u64) -> u64 {
    const GIGABYTE: u64 = 1 << 30;
    (bytes + GIGABYTE / 2) / GIGABYTE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn five_real_facts() {
        let text = info().await.unwrap_or_default();
        let facts: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .collect();
        let keys: Vec<&str> = facts.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["OS", "CPU", "Cores", "Memory", "Arch"]);
        assert!(facts.iter().all(|(_, value)| !value.is_empty()), "{text}");
        let cores = facts[2].1.parse::<usize>();
        assert!(cores.is_ok_and(|cores| cores >= 1), "{text}");
        assert!(!text.contains("Memory: 0 GB"), "{text}");
        assert_eq!(facts[4].1, System::cpu_arch());
    }

    #[test]
    fn names_without_trade_marks() {
        assert_eq!(
            processor("Intel(R) Xeon(R) CPU @ 2.70GHz "),
            "Intel Xeon CPU @ 2.70GHz"
        );
        assert_eq!(processor("Apple M3 Pro"), "Apple M3 Pro");
        assert_eq!(processor(""), System::cpu_arch());
    }

    #[test]
    fn memory_is_rounded() {
        assert_eq!(gigabytes(16_500_000_000), 15);
        assert_eq!(gigabytes(16_700_000_000), 16);
        assert_eq!(gigabytes(16 << 30), 16);
    }
}
