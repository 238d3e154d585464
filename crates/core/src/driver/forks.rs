//! Forks of the user's process for a job whose items are numbers: one after the other, each when it is of use.
//!
//! A fork copies the page tables of this process, which takes tens of milliseconds for a gigabyte, and until it is done
//! neither the interpreter nor this thread gets on: their pages are write-protected one by one, and a thread that writes to
//! one waits for the fork. So workers that exist already would have nothing to do while the next is forked. Therefore:
//!
//! 1. The first fork waits until the job's numbers are here, which need the interpreter's lock that a fork holds.
//! 2. Before the next, the workers there are get pieces that last as long as a fork ([`Event::Forking`]); the fork waits for
//!    that a part of the time it takes itself, no longer: slow items would not be known earlier.
//! 3. If the workers there are will be done sooner than a fork, the fork waits for them, no longer than it would take.
//! 4. Forks that still wait when all is done are never made.

use super::{Driver, now};
use crate::crew::ChildEnds;
use crate::event::Event;
use crate::id::{Time, WorkerId};
use std::collections::VecDeque;
use std::time::Duration;

/// The generation of the first worker in a seat.
const FIRST_GENERATION: u32 = 1;

/// The part of the time a fork takes that it waits at most for the workers to be busy.
const PATIENCE_PARTS: u32 = 2;

/// They must have been busy for this part of it, where all that is left would take them less than so many forks: the first
/// items may have seemed dearer than the others are.
const SETTLING_PARTS: u32 = 16;
const SETTLED_FORKS: u32 = 3;

/// A worker is busy if it has work for this part of the time that the fork will take, at least.
const BUSY_PARTS: u32 = 2;

/// Births that wait for their forks.
#[derive(Default)]
pub(super) struct Forks {
    waiting: VecDeque<(WorkerId, ChildEnds)>,
    /// When the one under way was ordered.
    begun: Option<(WorkerId, Time)>,
    /// When the last one ended, and how long it took. None before the first.
    last: Option<(Time, Duration)>,
    /// Since when all workers are busy, if the next fork waits for no more than that.
    busy_since: Option<Time>,
}

impl Forks {
    pub(super) fn put(&mut self, worker: WorkerId, ends: ChildEnds) {
        self.waiting.push_back((worker, ends));
    }
}

impl Driver {
    /// Whether this birth has to wait for its turn. One in the place of a worker that is no more has not: work waits for it.
    pub(super) fn forks_in_turn(&self, worker: WorkerId) -> bool {
        worker.generation == FIRST_GENERATION && self.jobs.values().any(|job| job.numbered)
    }

    /// A fork is done, or has failed.
    pub(super) fn fork_ended(&mut self, worker: WorkerId) {
        let Some((_, begun)) = self.forks.begun.take_if(|(id, _)| *id == worker) else { return };
        let lasted = now().since(begun);
        self.forks.last = Some((now(), lasted));
        self.forks.busy_since = None;
        let lasts = if self.forks.waiting.is_empty() { Duration::ZERO } else { lasted };
        self.events.push_back(Event::Forking { lasts });
    }

    /// Orders the next fork, if it is due.
    pub(super) fn fork_next(&mut self) {
        if self.closed || self.fault.is_some() {
            for (id, _) in std::mem::take(&mut self.forks.waiting) {
                self.remove(id);
                self.events.push_back(Event::Stillborn { worker: id });
            }
            self.settle();
            return;
        }
        if self.forks.waiting.is_empty() || !self.is_fork_due() {
            return;
        }
        let Some((id, ends)) = self.forks.waiting.pop_front() else { return };
        self.forks.begun = Some((id, now()));
        if let Err(error) = self.begin_birth(id, ends) {
            self.forks.begun = None;
            self.stillborn(id, &error.to_string());
            self.settle();
        }
    }

    fn is_fork_due(&mut self) -> bool {
        if self.forks.begun.is_some() {
            return false;
        }
        let Some((ended, lasted)) = self.forks.last else {
            return !self.chunks.is_empty() || self.jobs.values().all(|job| job.exhausted);
        };
        let now = now();
        let waited = now.since(ended);
        let left = self.scheduler.time_left();
        if left.is_some_and(|left| left < lasted) {
            self.forks.busy_since = None;
            return waited >= lasted;
        }
        if waited >= lasted / PATIENCE_PARTS {
            return true;
        }
        if !self.scheduler.all_busy_for(lasted / BUSY_PARTS) {
            self.forks.busy_since = None;
            return false;
        }
        let settled = now.since(*self.forks.busy_since.get_or_insert(now)) >= lasted / SETTLING_PARTS;
        settled || left.is_some_and(|left| left >= lasted * SETTLED_FORKS)
    }

    /// When to see whether a fork is due, if nothing happens before.
    pub(super) fn next_fork(&self) -> Option<Time> {
        let (ended, lasted) = self.forks.last.filter(|_| self.forks.begun.is_none())?;
        if self.forks.waiting.is_empty() {
            return None;
        }
        let settled = self.forks.busy_since.map(|since| since.after(lasted / SETTLING_PARTS));
        let looks = [settled, Some(ended.after(lasted / PATIENCE_PARTS)), Some(ended.after(lasted))];
        let now = now();
        looks.into_iter().flatten().filter(|at| *at > now).min()
    }
}
