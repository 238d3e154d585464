//! What the driver asks before it forks this process once more: is it the right moment, and will the worker be of use?
//!
//! These look through all jobs and workers, which [`Scheduler::step`] never does. They are asked only while a fork is due.

use super::placement::Hand;
use super::{Scheduler, Trend};
use std::time::Duration;

impl Scheduler {
    /// How long the workers that are ready will take for all that is left, if that can be told.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let workers = self.workers.values().filter(|hand| hand.ready).count();
        if workers == 0 {
            return None;
        }
        let mut seconds = 0.0;
        for job in self.jobs.values() {
            let cost = Some(job.chunker.seconds).filter(Trend::known)?;
            let unformed = if job.exhausted { 0 } else { job.unformed()? };
            seconds += cost.prudent() * (job.unanswered() + unformed) as f64;
        }
        Duration::try_from_secs_f64(seconds / workers as f64).ok()
    }

    /// Whether every worker that was born is ready and has work for so long, or there is none to give.
    #[must_use]
    pub fn all_busy_for(&self, time: Duration) -> bool {
        let expected =
            |hand: &Hand| hand.held.iter().map(|held| self.mean(held.job, held.left())).sum::<f64>();
        let nothing_to_give = self.turns.next().is_none();
        self.workers
            .values()
            .all(|hand| hand.ready && (nothing_to_give || expected(hand) >= time.as_secs_f64()))
    }

    /// Seconds that so many items of the job take; none while nothing is known.
    fn mean(&self, job: crate::id::JobId, items: u32) -> f64 {
        let known = self.jobs.get(&job).map(|state| state.chunker.seconds).filter(Trend::known);
        known.map_or(0.0, |seconds| seconds.mean() * f64::from(items))
    }
}
