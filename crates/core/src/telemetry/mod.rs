//! Where the time and the bytes of a call went: plain figures that feed, driver and workers add to while they work.
//!
//! ```text
//!   feed    ── spend(phase) ───▶ Recorder ◀── submitted, answered ── driver ◀── Shift in each answer ── worker
//!   report  ◀── log() ──────────    │                                  │
//!                                   └────────────▶ Census ◀────────────┘  births, deaths, memory: of the pool
//! ```
//!
//! A [`Recorder`] belongs to one call, and outlives job and pool, so that a report can be asked for when all is over. It
//! is always on, so everything here costs a fixed amount for each *chunk*: an item is measured by itself only where it
//! takes a thousand times longer than that (see [`Stopwatch`]). What would grow with the call is thinned: see
//! [`Records`].
//!
//! Nothing here decides anything: no machine reads it.

mod census;
mod log;
mod records;
mod stopwatch;

pub use hdrhistogram::Histogram;

pub use census::{Admission, Census, Count, Happening, Incident, Memory};
pub use log::{Firsts, Flow, Lane, Log, Longest, Reply};
pub use records::{RECORDS_MAX, Record, Records};
pub use stopwatch::{Shift, Stopwatch};

use crate::id::Time;
use forklift_shm::{Held, Lock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Set to `off`, this variable turns telemetry off: for the benchmark that shows what it costs.
const SWITCH: &str = "FORKLIFT_TELEMETRY";

/// Whether this process records anything.
#[must_use]
pub fn switched_on() -> bool {
    std::env::var_os(SWITCH).is_none_or(|value| value != "off")
}

/// The monotonic clock.
#[must_use]
pub fn clock() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Time(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}

/// What the parent's threads do for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Taking items from the user's iterable.
    Pull,
    /// Turning items into payload.
    Encode,
    /// Copying payload into blocks.
    Copy,
    /// Waiting until more items may be taken.
    WaitForRoom,
    /// Waiting for results, when all items have been taken.
    WaitForResults,
    /// Turning payload into results.
    DecodeResult,
}

/// How many there are.
const DOINGS: usize = 6;

/// The record of one call.
#[derive(Debug)]
pub struct Recorder {
    on: bool,
    nanos: [AtomicU64; DOINGS],
    log: Lock<Log>,
    census: Arc<Census>,
}

impl Recorder {
    /// A call that begins now, of a pool of so many processes.
    #[must_use]
    pub fn new(census: Arc<Census>, on: bool) -> Arc<Self> {
        let log = Lock::new(Log::new(clock(), census.count()));
        Arc::new(Self { on, nanos: Default::default(), log, census })
    }

    /// Whether anything is recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// The pool's births, deaths and memory.
    #[must_use]
    pub fn census(&self) -> &Arc<Census> {
        &self.census
    }

    fn lock(&self) -> Held<'_, Log> {
        self.log.lock()
    }

    /// Any thread of the parent: it did this for so long.
    pub fn spend(&self, doing: Doing, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanos[doing as usize].fetch_add(nanos, Ordering::Relaxed);
    }

    /// How long the parent's threads did this.
    #[must_use]
    pub fn spent(&self, doing: Doing) -> Duration {
        Duration::from_nanos(self.nanos[doing as usize].load(Ordering::Relaxed))
    }

    /// Feed: an item had the same large buffer at the same place as the one before it, and so many bytes of it were
    /// copied once more.
    pub fn repeated(&self, bytes: u64) {
        self.lock().repeated_bytes += bytes;
    }

    /// Driver: a job of this call begins; its function weighs so much.
    pub fn opened(&self, function_bytes: u64) {
        let mut log = self.lock();
        log.open_jobs += 1;
        log.ended = None;
        log.inbound.once_bytes += function_bytes;
    }

    /// Driver: a value crosses once for all items.
    pub fn shared(&self, bytes: u64) {
        self.lock().inbound.once_bytes += bytes;
    }

    /// Driver: a chunk of so many items was encoded.
    pub fn submitted(&self, items: u32, flow: Flow) {
        if self.on {
            self.lock().submitted(items, flow);
        }
    }

    /// Driver: a worker answered some items.
    pub fn answered(&self, reply: &Reply<'_>) {
        if self.on {
            self.lock().answered(reply);
        }
    }

    /// Driver: so many bytes of results were moved to a disk.
    pub fn spilled(&self, bytes: u64) {
        self.lock().spilled_bytes += bytes;
    }

    /// Driver: an item was lost with its worker.
    pub fn lost(&self) {
        self.lock().lost += 1;
    }

    /// Driver: a job of this call is over.
    pub fn finished(&self) {
        let mut log = self.lock();
        log.open_jobs = log.open_jobs.saturating_sub(1);
        if log.open_jobs == 0 {
            log.finish(clock(), self.census.count());
        }
    }

    /// Whether another job may be added to this call: if it is not over, or has been for less than `patience`.
    #[must_use]
    pub fn continues(&self, patience: Duration) -> bool {
        self.lock().ended.is_none_or(|ended| clock().since(ended) < patience)
    }

    /// All that was noted, as it stands.
    #[must_use]
    pub fn log(&self) -> Log {
        self.lock().clone()
    }

    /// Payload bytes so far, in and out: for whoever shows progress.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let log = self.lock();
        (log.inbound.total(), log.outbound.total())
    }
}
