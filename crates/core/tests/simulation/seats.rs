//! Who sits where, as the audit sees it: how workers give way to their successors.

use crate::audit::{Audit, Item, Piece};
use forklift_core::id::{ChunkId, WorkerId};
use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(crate) struct WorkerBook {
    pub(crate) born: bool,
    pub(crate) ready: bool,
    pub(crate) refused: bool,
    pub(crate) dismissed: bool,
    pub(crate) interrupted: bool,
    /// The piece of this number was not interrupted: the worker had gone on.
    pub(crate) passed: u64,
    pub(crate) pieces: u64,
    pub(crate) killed: bool,
    pub(crate) held: VecDeque<Piece>,
    pub(crate) given: u64,
    pub(crate) used_up: bool,
    pub(crate) excused: bool,
}

impl Audit {
    pub(crate) fn surrender(&mut self, worker: WorkerId, chunk: ChunkId) {
        if self.hand_back(worker, chunk).is_some() {
            self.seen.note("surrendered");
        }
    }

    /// What is left of the oldest piece is ready again.
    pub(crate) fn hand_back(&mut self, worker: WorkerId, chunk: ChunkId) -> Option<Piece> {
        let Some(piece) = self.worker(worker).held.pop_front() else {
            assert!(self.terminated, "{worker} gives back what it does not hold");
            return None;
        };
        assert_eq!(piece.chunk, chunk);
        let book = &self.chunks[&chunk];
        let first = (book.first + u64::from(piece.skip + piece.done)) as usize;
        let job = self.jobs.get_mut(&book.job).expect("its job");
        job.items[first..first + (piece.items - piece.done) as usize].fill(Item::Ready);
        Some(piece)
    }

    /// An older worker of its seat is at work there, or could be.
    pub(crate) fn stands_by(&self, worker: WorkerId) -> bool {
        let older = WorkerId { slot: worker.slot, generation: 0 }..worker;
        self.workers.range(older).any(|(&id, book)| !book.held.is_empty() || self.may_work(id, book))
    }

    pub(crate) fn may_work(&self, id: WorkerId, book: &WorkerBook) -> bool {
        let calls = self.plan.scheduler.tasks_per_worker.unwrap_or(u64::MAX);
        let stopped = book.dismissed || book.interrupted || book.killed || book.refused || book.used_up;
        book.ready && !stopped && book.given < calls && id.slot < self.processes
    }

    /// One that is used up goes when it has answered all, and when its successor is born or cannot be.
    pub(crate) fn dismiss(&mut self, worker: WorkerId) {
        let younger = WorkerId { generation: worker.generation + 1, ..worker }..WorkerId {
            slot: worker.slot + 1,
            generation: 0,
        };
        let succeeded = self.workers.range(younger).any(|(_, book)| book.born);
        let staffed = !self.closed && !self.terminated && !self.broken && worker.slot < self.processes;
        let barren = self.barren.contains(&worker.slot);
        let book = self.worker(worker);
        assert!(book.born && !book.dismissed && !book.killed, "{worker} dismissed twice or unborn");
        book.dismissed = true;
        if staffed {
            assert!(book.used_up && book.excused && book.held.is_empty(), "{worker} dismissed at work");
            assert!(succeeded || barren, "{worker} dismissed before its successor was born");
            self.seen.note(if succeeded { "succeeded" } else { "not succeeded" });
        }
    }
}
