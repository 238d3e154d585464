//! How long taking items from the user's iterable took. Of a chunk's items those after the first few are sampled: of tiny
//! ones, two looks at the clock would be a noticeable part.

use std::time::{Duration, Instant};

/// Items of a chunk that are measured before they are sampled, and one in how many is then.
const PULLS_MEASURED: u32 = 16;
const PULLS_SAMPLED: u32 = 16;

/// If taking an item took longer than this, all are measured.
const PULL_LONG: Duration = Duration::from_micros(20);

/// The items of one chunk.
pub(crate) struct Pulls {
    on: bool,
    count: u32,
    measured: u32,
    spent: Duration,
    /// Since when an item is taken, if that is measured.
    since: Option<Instant>,
}

impl Pulls {
    /// None was taken yet.
    pub(crate) fn new(on: bool) -> Self {
        Self { on, count: 0, measured: 0, spent: Duration::ZERO, since: None }
    }

    /// An item is taken from here on.
    pub(crate) fn begin(&mut self) {
        if !self.on {
            return;
        }
        self.count += 1;
        let sampled = self.count <= PULLS_MEASURED
            || self.count.is_multiple_of(PULLS_SAMPLED)
            || self.spent > PULL_LONG * self.measured;
        self.since = sampled.then(Instant::now);
    }

    /// It was taken.
    pub(crate) fn end(&mut self) {
        if let Some(since) = self.since.take() {
            self.spent += since.elapsed();
            self.measured += 1;
        }
    }

    /// All of them, if those that were not measured were as those that were.
    pub(crate) fn all(&self) -> Duration {
        if self.measured == 0 {
            Duration::ZERO
        } else {
            self.spent.mul_f64(f64::from(self.count) / f64::from(self.measured))
        }
    }
}
