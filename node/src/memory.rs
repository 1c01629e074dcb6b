//! Memory of the machine and of this process, as Linux reports it.

use std::path::Path;

/// What a node takes beside queries: code, caches, the manifest, buffers of connections.
const BASE_BYTES: u64 = 256 * 1024 * 1024;
/// Share of the rest that the operators of queries may use by default. What they hold for a moment, such as a
/// hash table of twice the size while it grows, comes on top.
const QUERY_MEMORY_SHARE: f64 = 0.5;
/// Share of all memory that the process may have. The rest is for mapped files, and for what is allocated
/// while a statement ends.
const PROCESS_SHARE: f64 = 0.7;
/// Queries get as much as this in any case.
const QUERY_MEMORY_MIN: u64 = 64 * 1024 * 1024;
/// Assumed memory of a machine that does not report it.
const MACHINE_BYTES_GUESS: u64 = 4 * 1024 * 1024 * 1024;

/// Default limit on the memory of queries, in bytes.
pub(crate) fn default_query_memory() -> u64 {
    let share = available_bytes().saturating_sub(BASE_BYTES) as f64 * QUERY_MEMORY_SHARE;
    (share as u64).max(QUERY_MEMORY_MIN)
}

/// What this process may have before the statement that holds the most is ended, in bytes.
pub(crate) fn memory_limit() -> u64 {
    (available_bytes() as f64 * PROCESS_SHARE) as u64
}

/// Memory of the machine or, if that is less, of the control group that this process runs in.
fn available_bytes() -> u64 {
    let machine = kib_field("/proc/meminfo", "MemTotal:").map_or(MACHINE_BYTES_GUESS, |kib| kib * 1024);
    machine.min(control_group_limit(Path::new("/"), &read("/proc/self/cgroup")))
}

/// The lowest memory limit of the control groups that `membership`, the content of `/proc/self/cgroup`,
/// names, and of those around them. `root` is the root of the file system.
fn control_group_limit(root: &Path, membership: &str) -> u64 {
    let limits = membership.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            "memory" => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        let (mount, group) = (root.join(mount), Path::new(group.trim_start_matches('/')));
        // A container sees its own group at the mount point, whatever its path is outside.
        let groups = group.ancestors().map(|group| mount.join(group).join(file));
        // Without a limit, version 2 says "max", which does not parse.
        groups.filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()).min()
    });
    limits.min().unwrap_or(u64::MAX)
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_lowest_limit_of_nested_control_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let set = |path: &str, limit: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, limit).unwrap();
        };
        let limit = |membership: &str| control_group_limit(root.path(), membership);
        assert_eq!(limit("0::/a/b\n"), u64::MAX);
        set("sys/fs/cgroup/a/memory.max", "2000\n");
        set("sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(limit("0::/a/b\n"), 2000);
        set("sys/fs/cgroup/a/b/memory.max", "1000\n");
        assert_eq!(limit("0::/a/b\n"), 1000);
        assert_eq!(limit("0::/a\n"), 2000);
        assert_eq!(limit("0::/\n"), u64::MAX);
        set("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "500\n");
        assert_eq!(limit("12:cpu:/y\n11:memory:/x\n0::/a\n"), 500);
        // The path of a container in the group of its host.
        set("sys/fs/cgroup/memory.max", "700\n");
        assert_eq!(limit("0::/docker/4711\n"), 700);
    }
}
