//! What this machine gives a pool: cores and memory, as affinity and cgroups leave them.
//!
//! Read anew on each call: containers are resized while programs run. cgroup v2 and v1 are looked for in the usual
//! places; where neither is found, the kernel's own figures stand.

use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

/// Cores that this process may use at a time: affinity, cut down to the cgroup's quota (rounded up, so that half a
/// core is one), at least 1.
#[must_use]
pub fn cores() -> NonZeroU32 {
    let affinity = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count()).max(1);
    let quota = quota_cores().map_or(affinity, |cores| cores.ceil().max(1.0) as u32);
    NonZeroU32::new(affinity.min(quota)).unwrap_or(NonZeroU32::MIN)
}

/// Bytes of memory that this process may still count on: the least of `MemAvailable` and what the cgroups leave.
#[must_use]
pub fn memory_available() -> u64 {
    let machine = meminfo("MemAvailable:").or_else(|| meminfo("MemFree:")).unwrap_or(1 << 30);
    cgroup_memory().map_or(machine, |(limit, used)| machine.min(limit.saturating_sub(used)))
}

/// Bytes of memory that this process could have at most: the machine's, cut down to the cgroup's limit.
#[must_use]
pub fn memory_total() -> u64 {
    let machine = meminfo("MemTotal:").unwrap_or(1 << 30);
    cgroup_memory().map_or(machine, |(limit, _)| machine.min(limit))
}

fn meminfo(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    let kibibytes: u64 = line[field.len()..].trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// The tightest CPU quota on the way from this process' cgroup to the root, in cores.
fn quota_cores() -> Option<f64> {
    let v2 = ancestors("", "/sys/fs/cgroup")
        .into_iter()
        .filter_map(|dir| parse_cpu_max(&fs::read_to_string(dir.join("cpu.max")).ok()?));
    let v1 = ancestors("cpu", "/sys/fs/cgroup/cpu").into_iter().filter_map(|dir| {
        let quota: f64 = read_number(&dir.join("cpu.cfs_quota_us"))?;
        let period: f64 = read_number(&dir.join("cpu.cfs_period_us"))?;
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    });
    v2.chain(v1).reduce(f64::min)
}

/// The cgroup's memory limit and use, where there is a limit: the ancestor with the least room counts.
fn cgroup_memory() -> Option<(u64, u64)> {
    let read = |dir: &Path, limit: &str, used: &str| {
        Some((read_number::<u64>(&dir.join(limit))?, read_number::<u64>(&dir.join(used))?))
    };
    let v2 = ancestors("", "/sys/fs/cgroup")
        .into_iter()
        .filter_map(|dir| read(&dir, "memory.max", "memory.current"));
    let v1 = ancestors("memory", "/sys/fs/cgroup/memory")
        .into_iter()
        .filter_map(|dir| read(&dir, "memory.limit_in_bytes", "memory.usage_in_bytes"));
    // Version 1 writes "no limit" as a number near 2^63.
    v2.chain(v1).filter(|(limit, _)| *limit < 1 << 60).min_by_key(|(limit, used)| limit.saturating_sub(*used))
}

fn read_number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let quota: f64 = words.next()?.parse().ok()?;
    let period: f64 = words.next()?.parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// The directories of this process' cgroup and all above it, for a version 1 controller or (empty name) version 2.
/// Inside a container the path of `/proc/self/cgroup` may not exist below the mount: then only the mount counts.
fn ancestors(controller: &str, mount: &str) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let path = fields.next()?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    });
    let mount = Path::new(mount);
    let own = mount.join(path.unwrap_or("/").trim_start_matches('/'));
    own.ancestors().take_while(|dir| dir.starts_with(mount)).map(Path::to_path_buf).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_is_read_as_cores() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max(""), None);
    }

    #[test]
    fn cores_follow_affinity() {
        let all = rustix::thread::sched_getaffinity(None).unwrap();
        let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|core| all.is_set(*core)).unwrap();
        std::thread::spawn(move || {
            let mut one = rustix::thread::CpuSet::new();
            one.set(first);
            rustix::thread::sched_setaffinity(None, &one).unwrap();
            assert_eq!(cores().get(), 1);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn memory_is_plausible() {
        assert!(memory_available() > 0);
        assert!(memory_available() <= memory_total());
    }
}
