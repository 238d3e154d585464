//! Chunks as the driver has them: what feeds submit, and encode again.

use super::Driver;
use crate::event::{Event, Holding, Kept};
use crate::id::{ChunkId, JobId};
use crate::mailbox::Submission;
use crate::payload::Payload;

/// A chunk whose items are not all answered.
pub(super) struct Chunk {
    pub(super) job: JobId,
    pub(super) first: u64,
    pub(super) items: u32,
    pub(super) payload: Payload,
    /// Items of the payload before its first.
    pub(super) lead: u32,
    /// Who could have its items again.
    pub(super) kept: Kept,
    /// It was encoded again: its items are apart. Or it never will be.
    pub(super) settled: bool,
    /// What was encoded together could not be decoded, so that it has to be encoded apart.
    pub(super) apart: bool,
}

impl Chunk {
    /// Whether a worker that cannot decode it may give it back.
    pub(super) fn may_come_back(&self) -> bool {
        self.kept == Kept::OneByOne && !self.settled
    }
}

impl Driver {
    pub(super) fn submit(&mut self, submission: Submission) {
        let Submission { job, chunk, first, items, payload, lead, kept } = submission;
        self.counters.chunks += 1;
        self.figures.submitted += u64::from(items);
        let flow = self.count_payload(&payload);
        if let Some(job) = self.jobs.get(&job) {
            job.recorder.submitted(items, flow);
        }
        // What stands in for a worker elsewhere passes copies on.
        let holding = if self.birthplace.is_elsewhere() { Holding::Lent } else { payload.holding() };
        let bytes = payload.bytes();
        let (settled, apart) = (false, false);
        self.chunks.insert(chunk, Chunk { job, first, items, payload, lead, kept, settled, apart });
        self.events.push_back(Event::Submitted { job, chunk, first, items, bytes, holding, kept });
    }

    /// Workers that have a piece of it keep what they were lent; whoever gets one from now on sees this.
    pub(super) fn restore(&mut self, chunk: ChunkId, payload: Payload) {
        self.count_payload(&payload);
        let bytes = payload.bytes();
        if let Some(known) = self.chunks.get_mut(&chunk) {
            known.payload = payload;
            known.settled = true;
        }
        self.events.push_back(Event::Restored { chunk, bytes });
    }

    pub(super) fn forfeit(&mut self, chunk: ChunkId) {
        if let Some(known) = self.chunks.get_mut(&chunk) {
            known.settled = true;
        }
        self.events.push_back(Event::Forfeited { chunk });
    }

    /// Whoever keeps the items of this chunk encodes them again.
    pub(super) fn reclaim(&mut self, chunk: ChunkId) {
        let Some(known) = self.chunks.get(&chunk) else { return };
        if let Some(job) = self.jobs.get(&known.job) {
            job.handle.restore(chunk, known.apart && known.kept == Kept::OneByOne);
        }
    }
}
