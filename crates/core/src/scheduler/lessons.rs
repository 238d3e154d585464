//! What an answer teaches: about the items of its job, about messages, and about what the job owes the others.

use super::{Scheduler, chunking, nanos};
use crate::event::Spent;
use crate::id::{JobId, Time};

impl Scheduler {
    /// What an answer tells about the job's items.
    pub(super) fn learn(&mut self, job: JobId, items: u32, bytes: u64, spent: Spent, charge: u64) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        let time = spent.decode.saturating_add(spent.call).saturating_add(spent.encode);
        state.chunker.answered(items, chunking::of_items(spent), bytes);
        if state.is_streamed() {
            state.unconsumed_bytes = state.unconsumed_bytes.saturating_add(bytes);
        }
        self.turns.correct(job, &mut state.clock, charge.saturating_mul(u64::from(items)), nanos(time));
    }

    /// What an answer to a whole piece at once tells beyond that.
    pub(super) fn learn_whole(
        &mut self,
        now: Time,
        job: JobId,
        items: u32,
        spent: Spent,
        sent_idle: Option<Time>,
    ) {
        let time = spent.decode.saturating_add(spent.call).saturating_add(spent.encode);
        if let Some(sent) = sent_idle {
            self.message_cost.learn(now.since(sent).saturating_sub(time).as_secs_f64());
        }
        if let Some(state) = self.jobs.get_mut(&job) {
            let way = self.config.seconds_per_byte;
            state.chunker.answered_whole(items, time, spent.decode, way, self.config.chunk_bytes_max);
        }
    }

    pub(super) fn proved(&mut self, job: JobId, items: u32) {
        if let Some(state) = self.jobs.get_mut(&job) {
            state.chunker.proved(items);
        }
    }
}
