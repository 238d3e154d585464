//! What follows from a death: items are reported as lost; or nothing can go on.

use super::Driver;
use crate::event::Loss;
use crate::handle::{Answer, Cause, Death, Fault, Outcome};
use crate::id::{JobId, WorkerId};

impl Driver {
    pub(super) fn lose(&mut self, job: JobId, item: u64, worker: WorkerId, loss: Loss) {
        let Some(job) = self.jobs.get(&job) else { return };
        let death = self.last_death.clone().filter(|death| death.worker == worker);
        let mut death = death.unwrap_or_else(|| Death::unknown(worker));
        if loss == Loss::Used {
            // Whatever the worker ended for, it was not this item.
            death = Death { overdue: None, excess: None, cause: Cause::Aside, ..death };
        }
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
