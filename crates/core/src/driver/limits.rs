//! Time limits of items: who has been at one for too long?
//!
//! Workers note on the scoreboard which item they are at, and since when. Nobody is told of it, so the driver looks: first
//! when the oldest item of a piece could be overdue, then when the one it finds could be. Each look is a few loads.

use super::Driver;
use super::stops::stop;
use crate::crew::Worker;
use crate::id::{Time, WorkerId};
use forklift_shm::Phase;
use std::time::Duration;

/// What a worker may take to begin a piece that it was given, beyond the limit of an item. One that was stopped, or that
/// hangs elsewhere, is replaced all the same.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// When to look again at a worker that has gone on from what was overdue. Its answer is under way.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What a look at a worker shows.
enum Sight {
    /// Nothing of it has a time limit.
    Free,
    /// Nothing is overdue before this time.
    Until(Time),
    /// It has been at something for too long: at this item, if it can be told.
    Overdue(Option<u64>),
}

impl Driver {
    /// Kills the workers that have been at an item for too long.
    pub(super) fn watch_items(&mut self, now: Time) {
        while let Some(&(at, id)) = self.watched.first().filter(|(at, _)| *at <= now) {
            self.watched.remove(&(at, id));
            match self.workers.get(&id).map_or(Sight::Free, |worker| self.sight(worker, now)) {
                Sight::Free => {}
                Sight::Until(at) => {
                    self.watched.insert((at, id));
                }
                // If it has gone on, what it has answered is about to be heard.
                Sight::Overdue(item) if !self.stop_overdue(id, item) => {
                    self.watched.insert((now.after(LOOK_AGAIN), id));
                }
                Sight::Overdue(_) => {}
            }
        }
    }

    /// Stops a worker at its oldest piece; whether it was at it.
    fn stop_overdue(&mut self, id: WorkerId, item: Option<u64>) -> bool {
        let Some(worker) = self.workers.get_mut(&id) else { return true };
        let Some(number) = worker.pieces.front().map(|piece| piece.number) else { return true };
        let is_stopped = stop(&self.scoreboard, worker, number);
        if is_stopped {
            worker.overdue = item;
        }
        is_stopped
    }

    /// What the worker is doing. Items that are decoded or encoded together have the sum of their limits for it; if that
    /// is not enough, they are tried one by one.
    fn sight(&self, worker: &Worker, now: Time) -> Sight {
        let Some(piece) = worker.pieces.front() else { return Sight::Free };
        let Some(limit) = self.jobs.get(&piece.job).and_then(|job| job.task_timeout) else {
            // What it holds behind this piece is looked at when its turn has come.
            let later = worker.pieces.iter().filter_map(|piece| self.jobs.get(&piece.job)?.task_timeout);
            return later.min().map_or(Sight::Free, |limit| Sight::Until(now.after(limit)));
        };
        let note = self.scoreboard.read(worker.line);
        let open = piece.next..piece.next + u64::from(piece.left);
        let begun = note.job == piece.job.0 && open.contains(&note.item);
        let since = Time(note.since_nanoseconds).max(piece.since);
        let (until, item) = match note.phase {
            Phase::Calling if begun => (Time(note.since_nanoseconds).after(limit), Some(note.item)),
            Phase::Decoding | Phase::Encoding if begun => {
                (since.after(limit.saturating_mul(piece.left)), (piece.left == 1).then_some(note.item))
            }
            _ => (piece.since.after(limit + START_PATIENCE), None),
        };
        if until <= now { Sight::Overdue(item) } else { Sight::Until(until) }
    }
}
