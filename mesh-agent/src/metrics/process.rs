//! What the kernel knows of this process: time, memory, descriptors, threads. Read when somebody asks.

use std::fmt;
use std::fs;
use std::io;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Registry;

/// Adds the `process_*` metrics.
pub fn register(registry: &mut Registry) {
    registry.register_collector(Process);
}

#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // Without /proc there is nothing to say, and the rest of the scrape is worth having.
        let Ok(reading) = Reading::take() else {
            return Ok(());
        };
        let cpu = ConstCounter::new(reading.cpu_seconds);
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Memory in use",
                reading.resident_bytes,
            ),
            (
                "process_virtual_memory_bytes",
                "Address space",
                reading.virtual_bytes,
            ),
            (
                "process_open_fds",
                "Open file descriptors",
                reading.open_fds,
            ),
            ("process_max_fds", "Most file descriptors", reading.max_fds),
            ("process_threads", "Threads", reading.threads),
            (
                "process_start_time_seconds",
                "Start, seconds since 1970",
                reading.start_seconds,
            ),
        ];
        let name = "process_cpu_seconds";
        let metric = encoder.encode_descriptor(name, "Processor time", None, cpu.metric_type())?;
        cpu.encode(metric)?;
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default, PartialEq)]
struct Reading {
    cpu_seconds: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
    threads: u64,
    start_seconds: u64,
    open_fds: u64,
    max_fds: u64,
}

impl Reading {
    fn take() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let boot = boot_seconds(&fs::read_to_string("/proc/stat")?).unwrap_or(0);
        let mut reading = Self::from_stat(&stat, boot).ok_or(io::ErrorKind::InvalidData)?;
        reading.open_fds = fs::read_dir("/proc/self/fd")?.count() as u64;
        reading.max_fds = max_fds(&fs::read_to_string("/proc/self/limits")?).unwrap_or(0);
        Ok(reading)
    }

    /// Reads the fields of `/proc/self/stat` (proc(5)), counted from behind the command's closing parenthesis.
    fn from_stat(stat: &str, boot: u64) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let ticks = number(11)? + number(12)?;
        Some(Self {
            cpu_seconds: seconds(ticks),
            threads: number(17)?,
            start_seconds: boot + number(19)? / TICKS_PER_SECOND,
            virtual_bytes: number(20)?,
            resident_bytes: number(21)? * page_size(),
            ..Self::default()
        })
    }
}

fn seconds(ticks: u64) -> f64 {
    Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND)).as_secs_f64()
}

fn boot_seconds(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn max_fds(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn page_size() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u64::try_from(bytes).ok())
        .unwrap_or(4096)
}

/// `USER_HZ`: 100 on every architecture that we build for, as it is part of the kernel's ABI.
const TICKS_PER_SECOND: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 7 0 500 1000000 25 0";
        let reading = Reading::from_stat(stat, 1000).expect("it is well-formed");
        assert!((reading.cpu_seconds - 2.0).abs() < f64::EPSILON);
        assert_eq!(reading.threads, 7);
        assert_eq!(reading.start_seconds, 1005);
        assert_eq!(reading.virtual_bytes, 1_000_000);
        assert_eq!(reading.resident_bytes, 25 * page_size());
    }

    #[test]
    fn processor_time_of_years_is_counted() {
        let ticks = u64::from(u32::MAX) * 4;
        assert!((seconds(ticks) - 171_798_691.8).abs() < 0.001);
    }

    #[test]
    fn this_process_can_be_read() {
        let reading = Reading::take().expect("there is /proc");
        assert!(reading.resident_bytes > 0 && reading.open_fds > 2 && reading.threads > 0);
        assert!(reading.start_seconds > 1_500_000_000, "{reading:?}");
    }

    #[test]
    fn a_truncated_file_is_refused() {
        assert_eq!(Reading::from_stat("42 (a) S 1 2", 0), None);
    }
}
