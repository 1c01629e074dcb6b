//! Memory of the machine and of this process, as Linux reports it.

/// Share of the machine's memory that queries may use by default.
const QUERY_MEMORY_SHARE: f64 = 0.6;
/// Assumed memory of a machine that does not report it.
const MACHINE_BYTES_GUESS: u64 = 4 * 1024 * 1024 * 1024;

/// Default limit on the memory of queries, in bytes: a share of the memory of the machine or, if that is
/// less, of the control group that this process runs in.
pub(crate) fn default_query_memory() -> u64 {
    let machine = kib_field("/proc/meminfo", "MemTotal:").map_or(MACHINE_BYTES_GUESS, |kib| kib * 1024);
    // Control groups version 2, then version 1. Without a limit, version 2 reports "max", which does not
    // parse.
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|path| read(path).trim().parse::<u64>().ok())
        .unwrap_or(u64::MAX);
    (machine.min(group) as f64 * QUERY_MEMORY_SHARE) as u64
}

/// Resident memory of this process in bytes; zero if the system does not report it.
pub(crate) fn resident_bytes() -> u64 {
    kib_field("/proc/self/status", "VmRSS:").unwrap_or(0) * 1024
}

/// The number after `name` in a file of the proc file system.
fn kib_field(path: &str, name: &str) -> Option<u64> {
    let text = read(path);
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().split(' ').next()?.parse().ok()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
