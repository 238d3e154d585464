//! The limit on a worker's memory, during a task: who has far too much?
//!
//! After each call a worker looks for itself, and says when it has outgrown its limit (see `worker`). One that goes half
//! as much again above it within a call cannot be waited for: the driver looks at all that are busy, and kills.

use super::stops::stop;
use super::{Driver, now};
use crate::footprint::Footprint;
use crate::handle::Excess;
use crate::id::Time;
use crate::process::Process;
use forklift_shm::Phase;
use std::time::Duration;

/// How often busy workers are looked at. Fresh memory is had at about 1 GB a second, so that 20 MB may be missed.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Looking takes no more of the driver's time than one part in so many.
const LOOK_SHARE: u32 = 50;

impl Driver {
    /// Somebody is busy from now on.
    pub(super) fn expect_memory(&mut self) {
        if self.worker_memory_limit.is_some() && self.memory_look.is_none() {
            self.memory_look = Some(now().after(LOOK_INTERVAL));
        }
    }

    /// Kills the workers that have far more memory than they may.
    pub(super) fn watch_memory(&mut self, begun: Time) {
        let Some(limit) = self.worker_memory_limit else { return };
        if self.memory_look.is_none_or(|at| at > begun) {
            return;
        }
        let ceiling = limit.saturating_add(limit / 2);
        let mut busy = false;
        for worker in self.workers.values_mut() {
            let Some(pid) = worker.process.as_ref().and_then(Process::pid) else { continue };
            let Some(number) = worker.pieces.front().map(|piece| piece.number) else { continue };
            if worker.excess.is_some() {
                continue;
            }
            busy = true;
            // Between two calls it looks for itself.
            if self.scoreboard.read(worker.line).phase == Phase::Idle {
                continue;
            }
            let held_bytes = self.scoreboard.held(worker.line);
            let footprint = worker.footprint.get_or_insert_with(|| Footprint::of(Some(pid)));
            if let Some(own_bytes) = footprint.above(held_bytes, ceiling)
                && stop(&self.scoreboard, worker, number)
            {
                worker.excess = Some(Excess { own_bytes, held_bytes, limit });
                self.counters.stopped_memory += 1;
                self.census.stopped();
            }
        }
        let ended = now();
        let pause = LOOK_INTERVAL.max(ended.since(begun) * LOOK_SHARE);
        self.memory_look = busy.then(|| ended.after(pause));
    }
}
