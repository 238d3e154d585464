//! A job and what it is made of: chunks, encoded once, and pieces of them, sent to workers.
//!
//! Every item of a job is at each moment in exactly one of these places:
//!
//! | state | where it is found |
//! |---|---|
//! | not pulled | with the feed; at most [`Credit::items`] of them are promised a place |
//! | ready | in a [`Piece`] of [`Job::ready`] |
//! | at a worker | in a piece that a worker holds; the worker stands in [`Chunk::holders`] |
//! | parked | in the chunk's [`Goods`], until it is encoded again |
//! | over | counted in [`Job::answered`] or [`Job::lost`] |
//!
//! An item of a cancelled job may also have been dropped: then it is nowhere.

use super::budget::Credit;
use super::chunking::{Chunker, Precedent};
use super::ownership::{Goods, Piece};
use crate::event::{Chunking, Delivery, JobSpec};
use crate::id::{ChunkId, JobId, WorkerId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Items that were encoded together.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) job: JobId,
    /// Index of its first item in the job.
    pub(super) first: u64,
    pub(super) bytes: u64,
    /// Items that are not over.
    pub(super) open: u32,
    /// Workers that hold a piece of it.
    pub(super) holders: BTreeSet<WorkerId>,
    /// Its bytes, and the pieces that wait for better ones.
    pub(super) goods: Goods,
}

/// One call of `map`, `imap`, `apply_async`…
#[derive(Debug)]
pub(super) struct Job {
    pub(super) spec: JobSpec,
    pub(super) chunker: Chunker,
    pub(super) credit: Credit,
    /// Pieces that wait for a worker, in order.
    pub(super) ready: VecDeque<Piece>,
    pub(super) ready_items: u64,
    /// Chunks that were not retired.
    pub(super) chunks: BTreeSet<ChunkId>,
    pub(super) submitted: u64,
    pub(super) answered: u64,
    pub(super) lost: u64,
    /// How many workers died at an item; of those at which any did.
    pub(super) deaths: BTreeMap<u64, u32>,
    /// Streamed: items that the consumer took, and bytes of results that it has yet to take.
    pub(super) consumed: u64,
    pub(super) unconsumed_bytes: u64,
    /// Its clock among the [`Turns`](super::placement::Turns).
    pub(super) clock: u64,
    pub(super) exhausted: bool,
    pub(super) cancelled: bool,
    /// Whether it stands in the queue for grants.
    pub(super) asking: bool,
}

impl Job {
    pub(super) fn new(spec: JobSpec, precedent: Option<Precedent>) -> Self {
        Job {
            spec,
            chunker: Chunker::new(spec.chunking, precedent),
            credit: Credit::default(),
            ready: VecDeque::new(),
            ready_items: 0,
            chunks: BTreeSet::new(),
            submitted: 0,
            answered: 0,
            lost: 0,
            deaths: BTreeMap::new(),
            consumed: 0,
            unconsumed_bytes: 0,
            clock: 0,
            exhausted: false,
            cancelled: false,
            asking: false,
        }
    }

    /// Items that were submitted and are not over.
    pub(super) fn unanswered(&self) -> u64 {
        self.submitted - self.answered - self.lost
    }

    /// Whether anything of it is in flight, or granted and not formed.
    pub(super) fn is_busy(&self) -> bool {
        self.unanswered() > 0 || self.credit.chunks() > 0
    }

    /// Whether nothing is left to do for it.
    pub(super) fn is_over(&self) -> bool {
        if self.cancelled { self.chunks.is_empty() } else { self.exhausted && self.unanswered() == 0 }
    }

    /// Items that its feed has yet to submit, where that is known. A feed that goes on after the announced number is
    /// one of unknown length.
    pub(super) fn unformed(&self) -> Option<u64> {
        if self.exhausted {
            return Some(0);
        }
        self.spec.items.and_then(|items| items.checked_sub(self.submitted)).filter(|&left| left > 0)
    }

    /// Items that no worker was given yet, where that is known.
    pub(super) fn undispatched(&self) -> Option<u64> {
        self.unformed().map(|left| left + self.ready_items)
    }

    /// The `buffersize` of a streamed job.
    pub(super) fn buffer_items(&self) -> Option<u64> {
        match self.spec.delivery {
            Delivery::Streamed(limit) => limit.map(|items| items.max(1)),
            Delivery::Collected => None,
        }
    }

    pub(super) fn is_streamed(&self) -> bool {
        self.spec.is_streamed()
    }

    /// Whether its items are numbers: see [`Chunking::Numbered`].
    pub(super) fn is_numbered(&self) -> bool {
        self.spec.chunking == Chunking::Numbered
    }

    /// The consumer of a streamed job took results.
    pub(super) fn consume(&mut self, items: u64, bytes: u64) {
        let over = self.answered + self.lost;
        self.consumed = self.consumed.saturating_add(items).min(over);
        self.unconsumed_bytes = self.unconsumed_bytes.saturating_sub(bytes);
        if self.consumed == over {
            self.unconsumed_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(items: Option<u64>) -> Job {
        let (chunking, delivery) = (Chunking::Automatic, Delivery::Streamed(Some(0)));
        Job::new(JobSpec { function: None, items, chunking, delivery, retries: 0, task_timeout: None }, None)
    }

    #[test]
    fn a_length_that_proves_wrong_counts_as_unknown() {
        let mut job = job(Some(5));
        assert_eq!(job.unformed(), Some(5));
        job.submitted = 5;
        assert_eq!(job.unformed(), None);
        job.submitted = 6;
        assert_eq!(job.unformed(), None);
        job.exhausted = true;
        assert_eq!(job.unformed(), Some(0));
    }

    #[test]
    fn a_consumer_cannot_take_more_than_there_is() {
        let mut job = job(None);
        job.submitted = 9;
        (job.answered, job.lost, job.unconsumed_bytes) = (3, 1, 100);
        job.consume(2, 10);
        assert_eq!((job.consumed, job.unconsumed_bytes), (2, 90));
        job.consume(9, 10);
        assert_eq!((job.consumed, job.unconsumed_bytes), (4, 0));
        assert_eq!(job.buffer_items(), Some(1));
    }
}
