//! What this machine gives a pool: cores and memory, as affinity and cgroups leave them; and how often its kernel has
//! killed for want of memory.
//!
//! Read anew on each call: containers are resized while programs run. cgroup v2 and v1 are looked for in the usual
//! places; where neither is found, the kernel's own figures stand.

use crate::pressure::Reading;
use forklift_shm::Arena;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

/// The place where a machine tells about itself: `/`, or a directory with the same files below it.
#[derive(Debug, Clone)]
pub struct Machine {
    root: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self { root: PathBuf::from("/") }
    }
}

impl Machine {
    /// One that is described by the files below this directory, as they lie below `/`: for tests, and for programs that
    /// look at a machine from within another.
    #[must_use]
    pub fn below(root: PathBuf) -> Self {
        Self { root }
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    /// How short memory is: the least of `MemAvailable` and what the cgroups leave, and the worse of the pressure figures
    /// of the machine and of the cgroup, where the kernel has them.
    #[must_use]
    pub fn memory_reading(&self) -> Reading {
        let nearest = self
            .ancestors("", "sys/fs/cgroup")
            .into_iter()
            .find_map(|directory| fs::read_to_string(directory.join("memory.pressure")).ok());
        let texts = [self.read("proc/pressure/memory"), nearest];
        let figures = || texts.iter().flatten().map(|text| parse_pressure(text));
        Reading {
            available: self.memory_available(),
            total: self.memory_total(),
            some: figures().map(|(some, _)| some).fold(0.0, f64::max),
            full: figures().map(|(_, full)| full).fold(0.0, f64::max),
        }
    }

    fn memory_available(&self) -> u64 {
        let machine = self.meminfo("MemAvailable:").or_else(|| self.meminfo("MemFree:")).unwrap_or(1 << 30);
        self.cgroup_memory().map_or(machine, |(limit, used)| machine.min(limit.saturating_sub(used)))
    }

    fn memory_total(&self) -> u64 {
        let machine = self.meminfo("MemTotal:").unwrap_or(1 << 30);
        self.cgroup_memory().map_or(machine, |(limit, _)| machine.min(limit))
    }

    fn meminfo(&self, field: &str) -> Option<u64> {
        let text = self.read("proc/meminfo")?;
        let line = text.lines().find(|line| line.starts_with(field))?;
        let kibibytes: u64 = line[field.len()..].trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes << 10)
    }

    /// The cgroup's memory limit and use, where there is a limit: the ancestor with the least room counts.
    fn cgroup_memory(&self) -> Option<(u64, u64)> {
        let read = |dir: &Path, limit: &str, used: &str| {
            Some((read_number::<u64>(&dir.join(limit))?, read_number::<u64>(&dir.join(used))?))
        };
        let v2 = self
            .ancestors("", "sys/fs/cgroup")
            .into_iter()
            .filter_map(|dir| read(&dir, "memory.max", "memory.current"));
        let v1 = self
            .ancestors("memory", "sys/fs/cgroup/memory")
            .into_iter()
            .filter_map(|dir| read(&dir, "memory.limit_in_bytes", "memory.usage_in_bytes"));
        // Version 1 writes "no limit" as a number near 2^63.
        v2.chain(v1)
            .filter(|(limit, _)| *limit < 1 << 60)
            .min_by_key(|(limit, used)| limit.saturating_sub(*used))
    }

    /// The directories of this process' cgroup and all above it, for a version 1 controller or (empty name) version 2.
    /// Inside a container the path of `/proc/self/cgroup` may not exist below the mount: then only the mount counts.
    fn ancestors(&self, controller: &str, mount: &str) -> Vec<PathBuf> {
        let text = self.read("proc/self/cgroup").unwrap_or_default();
        let path = text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let path = fields.next()?;
            controllers.split(',').any(|name| name == controller).then_some(path)
        });
        let mount = self.root.join(mount);
        let own = mount.join(path.unwrap_or("/").trim_start_matches('/'));
        own.ancestors().take_while(|dir| dir.starts_with(&mount)).map(Path::to_path_buf).collect()
    }
}

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
    Machine::default().memory_available()
}

/// What is to be copied need not [find room](find_room) unless it is this large.
pub const WEIGHED_BYTES_MIN: usize = 64 << 20;

/// The kernel's figures lag behind by some pages for each core, so that more is given back than what is missing.
const LAG_BYTES: u64 = 64 << 20;

/// Sees to it that there is memory for so many bytes more in an arena, or else the kernel's out-of-memory killer would have
/// the last word.
///
/// Warm memory of the arena's own is not available to the machine, but is to the arena. How much of it the next blocks
/// will find is not known before they are cut. So it is given back, as much as is missing: then they fit even if all
/// of their pages are fresh ones.
///
/// # Errors
/// How many bytes there would be room for.
pub fn find_room(arena: &Arena, bytes: u64) -> Result<(), u64> {
    weigh(arena, bytes, LAG_BYTES, &memory_available)
}

fn weigh(arena: &Arena, bytes: u64, lag_bytes: u64, available: &dyn Fn() -> u64) -> Result<(), u64> {
    let (left, warm) = (available(), arena.usage().warm_bytes);
    let missing = bytes.saturating_sub(left);
    if missing == 0 {
        return Ok(());
    }
    if missing > warm {
        return Err(left + warm);
    }
    // Of a page that was handed out and not written to there is nothing to give back: then all has to go.
    for keep in [warm.saturating_sub(missing + lag_bytes), 0] {
        arena.trim(keep);
        if bytes <= available() {
            return Ok(());
        }
    }
    Err(available())
}

/// Bytes of memory that this process could have at most: the machine's, cut down to the cgroup's limit.
#[must_use]
pub fn memory_total() -> u64 {
    Machine::default().memory_total()
}

/// How many processes the kernel has killed for want of memory, as far as it counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryKills {
    /// In this process' cgroup, and so in its children's.
    pub cgroup: Option<u64>,
    /// On the whole machine.
    pub machine: Option<u64>,
}

/// Where the kernel ran out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryShort {
    /// In this process' cgroup.
    Cgroup,
    /// Somewhere on this machine.
    Machine,
}

impl MemoryKills {
    /// The counts of this moment. A count rises before the victim gets its signal.
    #[must_use]
    pub fn now() -> Self {
        // Version 2 counts in a file of events, version 1 (since Linux 4.13) in the file of the switch. The nearest
        // cgroup that has one is the one that the children are in.
        let count = |directories: Vec<PathBuf>, file: &str| {
            directories.into_iter().find_map(|directory| {
                parse_field(&fs::read_to_string(directory.join(file)).ok()?, "oom_kill")
            })
        };
        let cgroup =
            count(Machine::default().ancestors("", "sys/fs/cgroup"), "memory.events").or_else(|| {
                count(Machine::default().ancestors("memory", "sys/fs/cgroup/memory"), "memory.oom_control")
            });
        let machine = fs::read_to_string("/proc/vmstat").ok().and_then(|text| parse_field(&text, "oom_kill"));
        Self { cgroup, machine }
    }

    /// Where there were more such kills than `before`; none where the counts are the same or cannot be read. The cgroup's
    /// count decides if there is one, for the machine's rises with anybody's misfortune.
    #[must_use]
    pub fn since(self, before: Self) -> Option<MemoryShort> {
        if let (Some(now), Some(before)) = (self.cgroup, before.cgroup) {
            return (now > before).then_some(MemoryShort::Cgroup);
        }
        let rose = self.machine.zip(before.machine).is_some_and(|(now, before)| now > before);
        rose.then_some(MemoryShort::Machine)
    }

    /// Whether a kill for want of memory would have shown.
    #[must_use]
    pub fn is_counted(self) -> bool {
        self.machine.is_some() || self.cgroup.is_some()
    }
}

/// The number behind a name, in a text of lines `name number`.
fn parse_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// The tightest CPU quota on the way from this process' cgroup to the root, in cores.
fn quota_cores() -> Option<f64> {
    let v2 = Machine::default()
        .ancestors("", "sys/fs/cgroup")
        .into_iter()
        .filter_map(|dir| parse_cpu_max(&fs::read_to_string(dir.join("cpu.max")).ok()?));
    let v1 = Machine::default().ancestors("cpu", "sys/fs/cgroup/cpu").into_iter().filter_map(|dir| {
        let quota: f64 = read_number(&dir.join("cpu.cfs_quota_us"))?;
        let period: f64 = read_number(&dir.join("cpu.cfs_period_us"))?;
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    });
    v2.chain(v1).reduce(f64::min)
}

fn read_number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Per cent of the last ten seconds in which some waited, and in which all did: `some avg10=0.12 avg60=…`.
fn parse_pressure(text: &str) -> (f64, f64) {
    let figure = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split_whitespace().find_map(|word| word.strip_prefix("avg10=")?.parse().ok())
    };
    (figure("some ").unwrap_or(0.0), figure("full ").unwrap_or(0.0))
}

fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let quota: f64 = words.next()?.parse().ok()?;
    let period: f64 = words.next()?.parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forklift_shm::ArenaLimits;

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
    fn kills_for_want_of_memory_are_read_and_compared() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n";
        let v2 = "low 0\nhigh 3\nmax 12\noom 2\noom_kill 5\noom_group_kill 1\n";
        assert_eq!((parse_field(v1, "oom_kill"), parse_field(v2, "oom_kill")), (Some(7), Some(5)));
        assert_eq!(parse_field("oom 2\n", "oom_kill"), None);
        assert_eq!(parse_field("oom_kill many\n", "oom_kill"), None);
        let counts = |cgroup, machine| MemoryKills { cgroup, machine };
        for (before, now, where_short) in [
            (counts(Some(1), Some(3)), counts(Some(2), Some(4)), Some(MemoryShort::Cgroup)),
            (counts(Some(1), Some(3)), counts(Some(1), Some(4)), None),
            (counts(None, Some(3)), counts(None, Some(4)), Some(MemoryShort::Machine)),
            (counts(Some(1), Some(3)), counts(Some(1), Some(3)), None),
            (counts(None, None), counts(Some(1), Some(3)), None),
            (counts(None, None), counts(None, None), None),
        ] {
            assert_eq!(now.since(before), where_short, "{before:?} {now:?}");
        }
        assert!(!counts(None, None).is_counted());
    }

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=12.50 avg60=3.00 avg300=0.00 total=99\nfull avg10=1.25 avg60=0.00 avg300=0.00 total=9\n";
        assert_eq!(parse_pressure(text), (12.5, 1.25));
        assert_eq!(parse_pressure(""), (0.0, 0.0));
    }

    /// A machine of 8 GB in a cgroup of 1 GB, of either version.
    #[test]
    fn a_machine_is_read_from_its_files() {
        let root = std::env::temp_dir().join(format!("forklift-machine-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let machine = Machine::below(root.clone());
        write("proc/meminfo", "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 4194304 kB\n");
        let bare = Reading { available: 4 << 30, total: 8 << 30, some: 0.0, full: 0.0 };
        assert_eq!(machine.memory_reading(), bare);
        write("proc/pressure/memory", "some avg10=2.00\nfull avg10=1.00\n");
        write("proc/self/cgroup", "0::/box/inner\n");
        write("sys/fs/cgroup/box/memory.max", "1073741824\n");
        write("sys/fs/cgroup/box/memory.current", "1000\n");
        write("sys/fs/cgroup/box/inner/memory.max", "max\n");
        write("sys/fs/cgroup/box/inner/memory.pressure", "some avg10=30.00\nfull avg10=0.50\n");
        let boxed = Reading { available: (1 << 30) - 1000, total: 1 << 30, some: 30.0, full: 1.0 };
        assert_eq!(machine.memory_reading(), boxed);
        write("proc/self/cgroup", "4:memory:/old\n");
        write("sys/fs/cgroup/memory/old/memory.limit_in_bytes", "1073741824\n");
        write("sys/fs/cgroup/memory/old/memory.usage_in_bytes", "4096\n");
        let old = Reading { available: (1 << 30) - 4096, total: 1 << 30, some: 2.0, full: 1.0 };
        assert_eq!(machine.memory_reading(), old);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn memory_is_plausible() {
        assert!(memory_available() > 0);
        assert!(memory_available() <= memory_total());
    }

    /// A machine of so many bytes on which there is only this arena. It has a block of 10 MB that is free and warm.
    fn check_room(memory: u64, bytes: u64, expected: Result<(), u64>, warm_left: u64) {
        const MB: u64 = 1 << 20;
        let arena = Arena::new(ArenaLimits::default());
        drop(arena.allocate(10 * MB).unwrap());
        let held = || arena.usage().live_bytes + arena.usage().warm_bytes;
        let found = weigh(&arena, bytes * MB, MB, &|| memory * MB - held());
        assert_eq!(found.map_err(|bytes| bytes / MB), expected, "{bytes} of {memory}");
        assert_eq!(arena.usage().warm_bytes / MB, warm_left, "{bytes} of {memory}");
    }

    #[test]
    fn warm_memory_of_the_arena_counts_as_room_and_no_more_of_it_is_given_back_than_is_missing() {
        check_room(18, 8, Ok(()), 10);
        check_room(17, 8, Ok(()), 8);
        check_room(12, 8, Ok(()), 3);
        check_room(10, 10, Ok(()), 0);
        check_room(12, 13, Err(12), 10);
    }

    #[test]
    fn memory_that_does_not_come_back_is_no_room() {
        let arena = Arena::new(ArenaLimits::default());
        drop(arena.allocate(10 << 20).unwrap());
        assert_eq!(weigh(&arena, 10 << 20, 0, &|| 7 << 20), Err(7 << 20));
    }
}
