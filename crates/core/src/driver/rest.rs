//! What an idle pool gives back: warm memory to the system, and what its workers have mapped of segments that are gone.

use super::Driver;
use crate::id::{Time, WorkerId};

/// What an idle pool keeps warm for the next job.
const TRIM_KEEP_BYTES: u64 = 16 << 20;

impl Driver {
    /// When the pool has been idle for long enough.
    pub(super) fn next_rest(&self) -> Option<Time> {
        self.idle_since.map(|since| since.after(self.trim_after))
    }

    /// Gives back what an idle pool does not need, if it is time to.
    pub(super) fn rest(&mut self, now: Time) {
        if !self.jobs.is_empty() {
            self.idle_since = None;
        }
        if self.next_rest().is_none_or(|due| due > now) {
            return;
        }
        self.arenas.inbound.trim(TRIM_KEEP_BYTES);
        self.arenas.broadcast.trim(0);
        let foreign = self.withdraw_segments();
        // What workers keep, and what was lent from elsewhere, can go while the pool rests; so it looks again.
        let arenas = [&self.arenas.inbound, &self.arenas.broadcast];
        let lent = arenas.iter().any(|arena| arena.usage().live_blocks > 0);
        self.idle_since = (foreign || lent).then_some(now);
    }

    /// Tells workers of segments that are gone; whether they know others that can go without the pool's doing.
    fn withdraw_segments(&mut self) -> bool {
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        let mut foreign = false;
        for id in ids {
            if let Some(worker) = self.workers.get_mut(&id) {
                if let Err(error) = worker.withdraw() {
                    worker.expel(&error);
                }
                foreign |= worker.announced.has_foreign();
            }
            self.watch_for_room(id);
        }
        foreign
    }
}
