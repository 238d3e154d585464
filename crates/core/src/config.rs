//! What a pool is told when it is made. Checked by whoever makes it; the machines trust it.

use crate::error::{Error, Result};
use std::path::PathBuf;
use std::time::Duration;

/// Idle pools and workers give warm memory back to the system after so many seconds, if this variable says so: for tests
/// that cannot wait that long. Read when a pool is made; its workers are told.
const TRIM_VARIABLE: &str = "FORKLIFT_TRIM_SECONDS";

/// Else after this time.
pub(crate) const TRIM_AFTER: Duration = Duration::from_secs(10);

/// Less would have an idle worker wake up all the time, more cannot be meant.
const TRIM_SECONDS: std::ops::RangeInclusive<f64> = 0.01..=1e6;

/// After how long a rest an idle pool and its workers give warm memory back to the system.
///
/// # Errors
/// [`Error::Variable`] when the variable says what is no such time.
pub fn trim_after() -> Result<Duration> {
    let Some(value) = std::env::var_os(TRIM_VARIABLE) else { return Ok(TRIM_AFTER) };
    let seconds = value.to_str().and_then(|text| text.parse::<f64>().ok());
    match seconds.filter(|seconds| TRIM_SECONDS.contains(seconds)) {
        Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
        None => {
            Err(Error::Variable { name: TRIM_VARIABLE, value, wanted: "a number of seconds, 0.01 at least" })
        }
    }
}

/// The settings of the scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// Seats; the scheduler sizes its window by it until workers report.
    pub processes: u32,
    /// Payload bytes in flight towards workers (queued, travelling, being worked on), over all jobs. A single
    /// chunk above it still goes, alone.
    pub window_bytes: u64,
    /// Bytes of results of streamed jobs that wait for their consumers, an equal share for each; above its share nothing
    /// more is granted to a job.
    pub stream_bytes: u64,
    /// A chunk grows no larger than this many payload bytes on the way in, if it has more than one item, or to four times
    /// as many, where that is found to be no slower. The objects of a chunk should fit a core's own cache while they are
    /// decoded and worked on: 1000 lists of 10,000 floats took 234 ms in chunks of 400 kB, 276 in chunks of 800 kB, 374 in
    /// chunks of 3.2 MB.
    pub chunk_bytes_max: u64,
    /// Nor larger than this weight of results, so that answers keep coming.
    pub result_bytes_max: u64,
    /// What one message is taken to cost whatever it carries (both ways, with the wake-ups) until that is learned; chunks
    /// grow until it is small against the work in them.
    pub message_cost: Duration,
    /// Seconds that a payload byte takes on its way to a worker, also to one that gets only a part of its chunk. None where
    /// workers share memory; elsewhere a chunk is not cut if its way is long beside the work in it.
    pub seconds_per_byte: f64,
    /// The first chunks of a job have at most so many items, and no more than a small share of all, where that is known.
    /// One is prudent, since nobody knows yet what an item costs; where a message is dear, so is prudence.
    pub probe_items: u32,
    /// Two pieces at one worker are together no longer than this: about a hundred times what the wait for a message
    /// costs, so more would win nothing; and if they turn out long after all, little was bound too early.
    pub brief: Duration,
    /// `maxtasksperchild`: calls of the function after which a worker leaves.
    pub tasks_per_worker: Option<u64>,
}

/// What results may hold of memory, and where they go that hold more.
#[derive(Debug, Clone)]
pub struct SpillConfig {
    /// Bytes of workers' memory that results hold here; what comes beyond is moved to a disk, if nobody waits for a
    /// consumer to take it.
    pub results_bytes_max: u64,
    /// The whole budget that this is a part of, to be named in errors.
    pub memory_limit: u64,
    /// Directories to try, in order.
    pub directories: Vec<PathBuf>,
    /// Whether the user has named the directory: then it is taken even if it lies in memory.
    pub named: bool,
    /// Whether the user has set the limit or the directory: then results beyond it that find no disk are refused.
    /// Otherwise they may stay in memory while there is plenty.
    pub strict: bool,
}

/// The settings of the supervisor.
#[derive(Debug, Clone)]
pub struct SupervisorConfig {
    /// Seats to fill.
    pub processes: u32,
    /// Births may overlap up to this many at a time.
    pub births_at_once: u32,
    /// A child that has not said it is ready after this time is killed and counted as a failed birth. Covers the
    /// interpreter's start and the user's initializer, so it is generous.
    pub birth_patience: Duration,
    /// After so many births in a row without one worker that became ready, the pool is broken.
    pub failed_births_max: u32,
    /// A worker that was asked to leave and has not after this time is killed.
    pub leave_patience: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            processes: 1,
            window_bytes: 64 << 20,
            stream_bytes: 64 << 20,
            chunk_bytes_max: 512 << 10,
            result_bytes_max: 4 << 20,
            message_cost: Duration::from_micros(60),
            seconds_per_byte: 0.0,
            probe_items: 1,
            brief: Duration::from_millis(10),
            tasks_per_worker: None,
        }
    }
}

impl Default for SpillConfig {
    fn default() -> Self {
        Self {
            results_bytes_max: u64::MAX,
            memory_limit: u64::MAX,
            directories: Vec::new(),
            named: false,
            strict: false,
        }
    }
}

impl Default for SupervisorConfig {
    fn default() -> Self {
        Self {
            processes: 1,
            births_at_once: 8,
            birth_patience: Duration::from_secs(600),
            failed_births_max: 3,
            leave_patience: Duration::from_secs(10),
        }
    }
}
