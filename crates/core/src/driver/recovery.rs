//! What follows from a death: items are encoded again, or reported as lost; or nothing can go on.

use super::Driver;
use crate::event::Event;
use crate::handle::{Answer, Death, Fault, Outcome};
use crate::id::{ChunkId, JobId, WorkerId};

impl Driver {
    /// A worker may have written to the memory of this chunk, or died of one of its items while it decoded them. Whoever
    /// holds the items encodes them again, each by itself. Where nobody does they were encoded so from the start, and
    /// are none the worse for it.
    pub(super) fn reclaim(&mut self, chunk: ChunkId) {
        let Some(known) = self.chunks.get(&chunk) else { return };
        if known.retained
            && let Some(job) = self.jobs.get(&known.job)
        {
            job.handle.restore(chunk, known.apart);
        } else {
            self.events.push_back(Event::Restored { chunk, bytes: known.payload.bytes() });
        }
    }

    pub(super) fn lose(&mut self, job: JobId, item: u64, worker: WorkerId) {
        let Some(job) = self.jobs.get(&job) else { return };
        let death = self.last_death.clone().filter(|death| death.worker == worker);
        let death = death.unwrap_or_else(|| Death::unknown(worker));
        job.recorder.lost();
        self.figures.done += 1;
        self.figures.failed += 1;
        job.handle.answer(Answer {
            first: item,
            items: 1,
            failed: 1,
            outcome: Outcome::Lost(death),
            bytes: 0,
            spent: crate::event::Spent::default(),
        });
    }

    /// Everything that waits gets this fault, and all that comes.
    pub(super) fn fail(&mut self, fault: Fault) {
        let fault = self.fault.get_or_insert(fault).clone();
        self.status.break_with(&fault);
        for job in self.jobs.values() {
            job.handle.finish(Some(fault.clone()));
        }
    }
}
