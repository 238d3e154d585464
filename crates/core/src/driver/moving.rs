//! Results that hold more memory than they may: they are moved to a disk before anybody hears of them.
//!
//! ```text
//!   heed ── Word ──▶ hear ──▶ deliver: the handle gets its answer, the machines their event
//!                     │  ▲
//!         too much held  │ moved
//!                     ▼  │
//!                   Spiller (a thread of its own)
//! ```
//!
//! The machines take a worker whose results are being moved for one that has not answered yet. So nothing new is bound to
//! it beyond what it holds already, and what waits for the disk is bounded: a disk that is slower than the workers slows
//! them down. What the worker says meanwhile waits in its turn, and so does its burial.

use super::Driver;
use crate::crew::Word;
use crate::event::Event;
use crate::handle::{Fault, Outcome, Shortage};
use crate::id::WorkerId;
use crate::mailbox::Answered;
use crate::scheduler::HELD_MAX;
use crate::spill::Task;
use std::sync::Arc;

impl Driver {
    /// Takes in what a worker has said, after what it said before.
    pub(super) fn hear(&mut self, id: WorkerId, word: Word) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.unheard.push_back(word);
        }
        self.catch_up(id);
    }

    /// Takes in what a worker has said until there are results that have to be moved first.
    fn catch_up(&mut self, id: WorkerId) {
        while let Some(worker) = self.workers.get_mut(&id).filter(|worker| !worker.moving) {
            match worker.unheard.pop_front() {
                None => return,
                Some(Word::Unreadable(chunk)) => {
                    self.events.push_back(Event::Unreadable { worker: id, chunk });
                }
                Some(Word::UsedUp(by)) => {
                    worker.wear = Some(by);
                    self.events.push_back(Event::UsedUp { worker: id, by });
                }
                Some(Word::Surrendered(chunk)) => {
                    self.events.push_back(Event::Surrendered { worker: id, chunk });
                }
                Some(Word::Answered(answered)) if self.must_move(&answered) => self.send_away(answered),
                Some(Word::Answered(answered)) => self.deliver(answered),
            }
        }
    }

    /// Whether results hold too much, or will with what is on its way. What workers hold, or could be given, is expected to weigh as much as this answer, each piece.
    fn must_move(&self, answered: &Answered) -> bool {
        let Outcome::Values(parcel) = &answered.answer.outcome else { return false };
        let bytes = parcel.lent_bytes();
        let most = bytes.saturating_mul((HELD_MAX * self.workers.len()) as u64);
        let Some(job) = self.jobs.get(&answered.job) else { return false };
        if bytes == 0 || job.cancelled || !self.spiller.is_needed(most) {
            return false;
        }
        if job.streamed && !self.unbound {
            // Its consumer makes room, and the pool waits for that. Only if the whole budget is used up, by what others
            // hold, it is not waited for.
            return self.spiller.is_over(self.arenas.inbound.usage().live_bytes);
        }
        if !job.exhausted {
            return true;
        }
        let pieces: usize = self.workers.values().map(|worker| worker.pieces.len()).sum();
        self.spiller.is_needed(bytes.saturating_mul(pieces as u64))
    }

    fn send_away(&mut self, answered: Answered) {
        let (id, job) = (answered.worker, answered.job);
        let Some(job) = self.jobs.get(&job) else { return };
        let may_stay = job.streamed && !self.unbound;
        match self.spiller.send(Task { answered, handle: Arc::clone(&job.handle), may_stay }) {
            None => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.moving = true;
                }
            }
            // There is no thread to be had. That is a shortage too, but one of the moment.
            Some(task) => self.deliver(task.answered),
        }
    }

    fn deliver(&mut self, answered: Answered) {
        let Answered { worker, job, chunk, last, answer } = answered;
        let (items, bytes, spent) = (answer.items, answer.bytes, answer.spent);
        if let Some(job) = self.jobs.get(&job).filter(|job| !job.handle.finished()) {
            job.handle.answer(answer);
        }
        self.events.push_back(Event::Returned { worker, chunk, items, last, bytes, spent });
    }

    /// Results were moved, or could not be: then their job fails.
    pub(super) fn moved(&mut self, answered: Answered, shortage: Option<Shortage>) {
        let (id, job) = (answered.worker, answered.job);
        if let (Outcome::Values(parcel), Some(job)) = (&answered.answer.outcome, self.jobs.get(&job)) {
            job.recorder.spilled(parcel.moved_bytes());
        }
        if let Some(shortage) = shortage
            && let Some(job) = self.jobs.get_mut(&job)
        {
            job.cancelled = true;
            job.handle.finish(Some(Fault::Room(Arc::new(shortage))));
        }
        self.deliver(answered);
        if self.jobs.get(&job).is_some_and(|job| job.cancelled) {
            self.events.push_back(Event::Cancelled { job });
        }
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.moving = false;
        self.catch_up(id);
        if self.workers.get(&id).is_some_and(|worker| worker.awaits_burial && !worker.moving) {
            self.bury(id);
        }
    }
}
