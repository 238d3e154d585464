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
}

impl Pulls {
    /// None was taken yet.
    pub(crate) fn new(on: bool) -> Self {
        Self { on, count: 0, measured: 0, spent: Duration::ZERO }
    }

    /// Takes an item, and measures it if it is to be.
    pub(crate) fn time<T>(&mut self, pull: impl FnOnce() -> T) -> T {
        if !self.on {
            return pull();
        }
        self.count += 1;
        let sampled = self.count <= PULLS_MEASURED
            || self.count.is_multiple_of(PULLS_SAMPLED)
            || self.spent > PULL_LONG * self.measured;
        if !sampled {
            return pull();
        }
        let begun = Instant::now();
        let item = pull();
        self.spent += begun.elapsed();
        self.measured += 1;
        item
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
