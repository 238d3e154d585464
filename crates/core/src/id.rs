//! The names of things: jobs, chunks, workers, and points in time.
//!
//! Plain numbers behind types, so that an item's index is never taken for a slot. None is reused within a pool,
//! save a worker's slot, whose occupants the generation tells apart.

use std::fmt;
use std::time::Duration;

/// One call of `map`, `imap`, `apply_async`…: a function and its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// Consecutive items of one job that were encoded together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub u64);

/// A child process: its seat, and which occupant of that seat it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId {
    /// The seat, from 0. A successor takes the seat of the worker that it replaces.
    pub slot: u32,
    /// 1 for the first worker in that seat.
    pub generation: u32,
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {}.{}", self.slot, self.generation)
    }
}

/// A point in time: nanoseconds of the monotonic clock, which is the same in all processes of a machine.
///
/// The machines that decide never read a clock: they are told the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Time(pub u64);

impl Time {
    /// The time that lies `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
