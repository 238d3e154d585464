//! What becomes of the pieces that a dead worker held.
//!
//! | the oldest piece: where the worker was | then |
//! |---|---|
//! | calling one of its items | that item is lost, or tried again; those before it (done, but their results died) and after it go again |
//! | at an item for too long, or with too much memory | that item is lost; the others as above |
//! | used up, and alive | the rest of it goes again as it is |
//! | translating, one item left | that item is lost |
//! | translating, several left | all go again, one by one: the culprit is found at its next death |
//! | between pieces, this one not begun | it goes again as it is; at the third time as if translating |
//! | between pieces, part of it answered | as if translating |
//! | anywhere, but we had it killed for another job's sake | it goes again as it is |
//! | anything, of a cancelled job | dropped |
//!
//! Pieces behind the oldest were never begun: they go again as they are. "Go again" means to the front of the
//! queue. What was begun may have been written to: it is parked until the driver has made the payload whole
//! ([`Command::Reclaim`], [`Event::Restored`](crate::event::Event::Restored)), and so are other pieces of that chunk
//! when their turn comes: its items may share memory.

use super::job::{Job, Payload, Piece};
use super::placement::Held;
use super::{End, Scheduler};
use crate::event::{Command, Whereabouts};
use crate::id::{ChunkId, JobId, WorkerId};

/// A piece that so many workers died with before they began it is taken for the cause.
const UNBEGUN_MAX: u8 = 3;

/// The verdict on a piece whose worker died.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Never begun: to the queue.
    Again(Piece),
    /// To the queue when the payload is whole; and one item is lost, if any.
    AfterReclaim { pieces: Vec<Piece>, lost: Option<u32> },
}

impl Scheduler {
    pub(super) fn exited(&mut self, worker: WorkerId, at: Whereabouts, out: &mut Vec<Command>) {
        let Some(mut hand) = self.workers.remove(&worker) else { return };
        self.bench.remove(worker, &mut hand);
        self.effort += hand.held.len() as u64;
        for held in &hand.held {
            if let Some(chunk) = self.chunks.get_mut(&held.piece.chunk) {
                chunk.holders.remove(&worker);
            }
        }
        self.relieve(worker.slot);
        let oldest = hand.held.pop_front();
        for held in hand.held.into_iter().rev() {
            self.queue(held.job, [held.piece], End::Front);
            self.retire_if_over(held.piece.chunk, out);
            self.ask(held.job);
        }
        if let Some(held) = oldest {
            self.recover(worker, held, at, !hand.doomed, out);
            self.ask(held.job);
        }
    }

    /// The oldest piece of a worker goes again when its items have been encoded one by one.
    pub(super) fn unreadable(&mut self, worker: WorkerId, id: ChunkId, out: &mut Vec<Command>) {
        let Some(hand) = self.workers.get_mut(&worker) else { return };
        if hand.held.front().is_none_or(|held| held.piece.chunk != id) {
            return;
        }
        let Some(held) = hand.held.pop_front() else { return };
        self.let_go(worker, id);
        if self.jobs.get(&held.job).is_some_and(|job| !job.cancelled) {
            self.damage(id);
            self.park(held.piece.after(held.done), out);
        } else {
            self.retire_if_over(id, out);
        }
        self.reseat(worker, out);
        self.ask(held.job);
    }

    /// A worker that is used up, or is at it for longer than was thought, gives its oldest piece back. Nothing of the rest
    /// was begun: it goes to whoever is next, in pieces of what size seems right by now.
    pub(super) fn surrendered(&mut self, worker: WorkerId, id: ChunkId, out: &mut Vec<Command>) {
        let Some(hand) = self.workers.get_mut(&worker) else { return };
        if hand.held.front().is_none_or(|held| held.piece.chunk != id) {
            return;
        }
        let Some(held) = hand.held.pop_front() else { return };
        self.let_go(worker, id);
        if let Some(job) = self.jobs.get_mut(&held.job) {
            // It is charged for again when it is sent again.
            let charged = held.charge_nanos.saturating_mul(u64::from(held.left()));
            self.turns.correct(held.job, &mut job.clock, charged, 0);
        }
        self.queue(held.job, [held.piece.after(held.done)], End::Front);
        self.retire_if_over(id, out);
        self.reseat(worker, out);
        self.ask(held.job);
    }

    fn recover(
        &mut self,
        worker: WorkerId,
        held: Held,
        at: Whereabouts,
        blame: bool,
        out: &mut Vec<Command>,
    ) {
        let Some(job) = self.jobs.get(&held.job) else { return };
        let id = held.piece.chunk;
        let Some(chunk) = self.chunks.get(&id) else { return };
        let first = chunk.first;
        if job.cancelled {
            self.retire_if_over(id, out);
            return;
        }
        match judge(&held, first, at, blame) {
            Verdict::Again(piece) => self.queue(held.job, [piece], End::Front),
            Verdict::AfterReclaim { pieces, lost } => {
                self.damage(id);
                for piece in pieces {
                    self.park(piece, out);
                }
                let again = lost.filter(|skip| {
                    let stopped = matches!(at, Whereabouts::Overdue(_) | Whereabouts::Oversized(_));
                    !stopped && self.try_again(held.job, first + u64::from(*skip))
                });
                if let Some(skip) = again {
                    self.park(Piece { skip, items: 1, unbegun: 0, ..held.piece }, out);
                } else if let Some(skip) = lost {
                    out.push(Command::Lose { job: held.job, item: first + u64::from(skip), worker });
                    self.close_items(id, 1, |job: &mut Job| &mut job.lost, out);
                }
            }
        }
    }

    /// Whether an item that its worker died at is to be tried again; counts it.
    fn try_again(&mut self, job: JobId, item: u64) -> bool {
        let Some(job) = self.jobs.get_mut(&job) else { return false };
        let deaths = job.deaths.entry(item).or_default();
        *deaths += 1;
        let again = *deaths <= job.spec.retries;
        self.retried += u64::from(again);
        again
    }

    /// A worker that had begun some of the chunk is dead.
    fn damage(&mut self, id: ChunkId) {
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        chunk.payload = match chunk.payload {
            Payload::Whole | Payload::Damaged => Payload::Damaged,
            Payload::Reclaimed | Payload::ReclaimedTooEarly => Payload::ReclaimedTooEarly,
        };
    }

    /// Sets a piece aside until the payload of its chunk is whole, and sees to it that it will be.
    pub(super) fn park(&mut self, piece: Piece, out: &mut Vec<Command>) {
        let Some(chunk) = self.chunks.get_mut(&piece.chunk) else { return };
        chunk.parked.push(piece);
        if chunk.payload == Payload::Damaged {
            chunk.payload = Payload::Reclaimed;
            out.push(Command::Reclaim { chunk: piece.chunk });
        }
    }

    pub(super) fn restored(&mut self, id: ChunkId, bytes: u64, out: &mut Vec<Command>) {
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        self.window.leave(chunk.bytes);
        self.window.enter(bytes);
        chunk.bytes = bytes;
        match chunk.payload {
            Payload::Whole | Payload::Damaged => {}
            Payload::ReclaimedTooEarly => {
                chunk.payload = Payload::Reclaimed;
                out.push(Command::Reclaim { chunk: id });
            }
            Payload::Reclaimed => {
                chunk.payload = Payload::Whole;
                let mut pieces = std::mem::take(&mut chunk.parked);
                pieces.sort_unstable_by_key(|piece| piece.skip);
                let job = chunk.job;
                self.queue(job, pieces, End::Front);
                self.ask(job);
            }
        }
    }
}

/// What becomes of the oldest piece of a dead worker, whose chunk begins with item `first` of its job.
fn judge(held: &Held, first: u64, at: Whereabouts, blame: bool) -> Verdict {
    let rest = held.piece.after(held.done);
    let begun = held.done > 0 || at != Whereabouts::Between;
    let whole = |piece| Verdict::AfterReclaim { pieces: vec![piece], lost: None };
    if !begun {
        let unbegun = rest.unbegun.saturating_add(u8::from(blame));
        if unbegun < UNBEGUN_MAX {
            return Verdict::Again(Piece { unbegun, ..rest });
        }
    }
    if !blame {
        return whole(rest);
    }
    let called = match at {
        Whereabouts::Calling(item) | Whereabouts::Overdue(item) | Whereabouts::Oversized(item) => {
            item.checked_sub(first).and_then(|skip| u32::try_from(skip).ok())
        }
        _ => None,
    };
    match called.filter(|skip| (rest.skip..rest.skip + rest.items).contains(skip)) {
        Some(skip) => {
            let done = skip - rest.skip;
            let pieces = [rest.first(done), rest.after(done + 1)];
            let pieces = pieces.into_iter().filter(|piece| piece.items > 0).collect();
            Verdict::AfterReclaim { pieces, lost: Some(skip) }
        }
        None if rest.items == 1 => Verdict::AfterReclaim { pieces: Vec::new(), lost: Some(rest.skip) },
        None => whole(Piece { singly: true, unbegun: 0, ..rest }),
    }
}
