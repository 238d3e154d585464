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
//! | anywhere, but we had it killed for another's sake | it goes again |
//! | anything, of a cancelled job | dropped |
//!
//! Pieces behind the oldest were never begun: they go again as they are. "Go again" means to the front of the queue, and
//! hangs on whether an item had *begun*, not on who is to blame: the scoreboard tells, and where it cannot, an item counts as
//! begun. What had not begun is as it was. What had begun is [`Used`](super::ownership::Used): where its bytes are not
//! what they were, it is parked until the driver has had the chunk encoded again ([`Command::Reclaim`],
//! [`Event::Restored`](crate::event::Event::Restored)), and other pieces of that chunk with it when their turn comes. Where
//! nobody can do that, the items that had begun are lost by name, and the others go as they are.

use super::job::Job;
use super::ownership::{Piece, Rest};
use super::placement::Held;
use super::{End, Scheduler};
use crate::event::{Command, Loss, Whereabouts};
use crate::id::{ChunkId, JobId, WorkerId};

/// A piece that so many workers died with before they began it is taken for the cause.
const UNBEGUN_MAX: u8 = 3;

/// The end of a worker, as it concerns the oldest piece that it held.
#[derive(Debug, Clone, Copy)]
struct Ending {
    worker: WorkerId,
    at: Whereabouts,
    /// Items of it that had begun, after those that were answered.
    begun: u32,
    /// Whether the worker ended for what it did.
    blame: bool,
}

/// The verdict on a piece whose worker died.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    /// What goes again, in the order of its items.
    rests: Vec<Rest>,
    /// What its worker died of: one item.
    lost: Option<Rest>,
    /// One of its items kills who has it. It would kill by being decoded or dropped as well, in whatever company.
    apart: bool,
}

impl Scheduler {
    pub(super) fn exited(&mut self, worker: WorkerId, at: Whereabouts, begun: u32, out: &mut Vec<Command>) {
        let Some(mut hand) = self.workers.remove(&worker) else { return };
        self.bench.remove(worker, &mut hand);
        self.effort += hand.held.len() as u64;
        for held in &hand.held {
            if let Some(chunk) = self.chunks.get_mut(&held.piece.chunk()) {
                chunk.holders.remove(&worker);
            }
        }
        self.relieve(worker.slot);
        let oldest = hand.held.pop_front();
        for held in hand.held.into_iter().rev() {
            let (job, chunk) = (held.job, held.piece.chunk());
            self.queue(job, [held.into_rest()], End::Front);
            self.retire_if_over(chunk, out);
            self.ask(job);
        }
        if let Some(held) = oldest {
            let job = held.job;
            let blame = !hand.doomed && at != Whereabouts::Stopped;
            self.recover(held, Ending { worker, at, begun, blame }, out);
            self.ask(job);
        }
    }

    /// The oldest piece that the worker holds, if it is of that chunk, out of its hand.
    fn take_back(&mut self, worker: WorkerId, id: ChunkId) -> Option<Held> {
        let hand = self.workers.get_mut(&worker)?;
        hand.held.front().filter(|held| held.piece.chunk() == id)?;
        let held = hand.held.pop_front();
        self.let_go(worker, id);
        held
    }

    /// The oldest piece of a worker goes again when its items have been encoded one by one. None of them was begun.
    pub(super) fn unreadable(&mut self, worker: WorkerId, id: ChunkId, out: &mut Vec<Command>) {
        let Some(held) = self.take_back(worker, id) else { return };
        let (job, edition) = (held.job, held.edition);
        let rest = Rest::Fresh(held.into_rest());
        let is_wanted = self.jobs.get(&job).is_some_and(|job| !job.cancelled);
        let is_newer = self.chunks.get(&id).is_some_and(|chunk| chunk.goods.edition() > edition);
        match rest {
            // It was encoded again while this worker tried.
            Rest::Fresh(piece) if is_wanted && is_newer => self.queue(job, [piece], End::Front),
            rest if is_wanted => self.park(rest, out),
            _ => self.retire_if_over(id, out),
        }
        self.reseat(worker, out);
        self.ask(job);
    }

    /// A worker that is used up, or is at it for longer than was thought, gives its oldest piece back. Nothing of the rest
    /// was begun: it goes to whoever is next, in pieces of what size seems right by now.
    pub(super) fn surrendered(&mut self, worker: WorkerId, id: ChunkId, out: &mut Vec<Command>) {
        let Some(held) = self.take_back(worker, id) else { return };
        let job = held.job;
        if let Some(state) = self.jobs.get_mut(&job) {
            // It is charged for again when it is sent again.
            let charged = held.charge_nanos.saturating_mul(u64::from(held.left()));
            self.turns.correct(job, &mut state.clock, charged, 0);
        }
        self.queue(job, [held.into_rest()], End::Front);
        self.retire_if_over(id, out);
        self.reseat(worker, out);
        self.ask(job);
    }

    fn recover(&mut self, held: Held, ending: Ending, out: &mut Vec<Command>) {
        let (id, owner) = (held.piece.chunk(), held.job);
        let Some(job) = self.jobs.get(&owner) else { return };
        if job.cancelled {
            self.retire_if_over(id, out);
            return;
        }
        let Some(first) = self.chunks.get(&id).map(|chunk| chunk.first) else { return };
        let Verdict { mut rests, lost, apart } = judge(held, first, ending);
        let stopped = matches!(ending.at, Whereabouts::Overdue(_) | Whereabouts::Oversized(_));
        let lost = match lost {
            Some(lost) if !stopped && self.try_again(owner, first + u64::from(lost.skip())) => {
                let place = rests.partition_point(|rest| rest.skip() < lost.skip());
                rests.insert(place, lost);
                None
            }
            lost => lost,
        };
        self.go_again(owner, id, rests, apart, out);
        if let Some(lost) = lost {
            self.lose(&lost, ending.worker, Loss::Died, out);
        }
    }

    /// What can be sent as it is goes to the front of the queue. The rest waits for the chunk to be encoded again, or is
    /// lost. `apart`: all of it waits, if that would encode the items one by one.
    fn go_again(&mut self, job: JobId, id: ChunkId, rests: Vec<Rest>, apart: bool, out: &mut Vec<Command>) {
        let mut ready = Vec::new();
        for rest in rests {
            let Some(chunk) = self.chunks.get(&id) else { return };
            if apart && chunk.goods.can_be_divided() {
                self.park(rest, out);
                continue;
            }
            match chunk.goods.again(rest) {
                Ok(piece) => ready.push(piece),
                Err(used) => self.park(Rest::Used(used), out),
            }
        }
        self.queue(job, ready, End::Front);
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

    /// Sets something aside until its chunk is encoded again, and sees to it that it will be. If nobody can do that, what
    /// had begun is lost, and the rest goes as it is.
    pub(super) fn park(&mut self, rest: Rest, out: &mut Vec<Command>) {
        let id = rest.chunk();
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        let job = chunk.job;
        match chunk.goods.park(rest) {
            Ok(true) => out.push(Command::Reclaim { chunk: id }),
            Ok(false) => {}
            Err(rest) => self.part_with(job, rest, out),
        }
    }

    /// Something waits in vain for its chunk to be encoded again: it goes as it is, if it can.
    fn part_with(&mut self, job: JobId, rest: Rest, out: &mut Vec<Command>) {
        let Some(chunk) = self.chunks.get(&rest.chunk()) else { return };
        match chunk.goods.again(rest) {
            Ok(piece) => self.queue(job, [piece], End::Front),
            Err(used) => {
                let (worker, loss) = used.loss();
                self.lose(&Rest::Used(used), worker, loss, out);
            }
        }
    }

    /// These items are over: nobody will have a result of them.
    fn lose(&mut self, lost: &Rest, worker: WorkerId, loss: Loss, out: &mut Vec<Command>) {
        let id = lost.chunk();
        let Some(chunk) = self.chunks.get(&id) else { return };
        let (job, first) = (chunk.job, chunk.first + u64::from(lost.skip()));
        for item in first..first + u64::from(lost.items()) {
            out.push(Command::Lose { job, item, worker, loss });
        }
        self.close_items(id, lost.items(), |job: &mut Job| &mut job.lost, out);
    }

    pub(super) fn restored(&mut self, id: ChunkId, bytes: u64) {
        let Some(chunk) = self.chunks.get_mut(&id).filter(|chunk| chunk.goods.is_reclaimed()) else { return };
        self.window.leave(chunk.bytes);
        self.window.enter(bytes);
        chunk.bytes = bytes;
        let job = chunk.job;
        let pieces = chunk.goods.restored();
        self.queue(job, pieces, End::Front);
        self.ask(job);
    }

    pub(super) fn forfeited(&mut self, id: ChunkId, out: &mut Vec<Command>) {
        let Some(chunk) = self.chunks.get_mut(&id) else { return };
        let job = chunk.job;
        for rest in chunk.goods.forfeited().into_iter().rev() {
            self.part_with(job, rest, out);
        }
        self.ask(job);
    }
}

/// What becomes of the oldest piece of a dead worker, whose chunk begins with item `first` of its job.
fn judge(held: Held, first: u64, ending: Ending) -> Verdict {
    let Ending { worker, at, begun, blame } = ending;
    let (edition, done) = (held.edition, held.done);
    let mut rest = held.into_rest();
    let used = |piece: Piece| Rest::Used(piece.used(edition, worker, Loss::Used));
    let culprit = |piece: Piece| Rest::Used(piece.used(edition, worker, Loss::Died));
    let again = |rests: Vec<Rest>, apart| {
        let rests = rests.into_iter().filter(|rest| rest.items() > 0).collect();
        Verdict { rests, lost: None, apart }
    };
    if done == 0 && begun == 0 && matches!(at, Whereabouts::Between | Whereabouts::Stopped) {
        let unbegun = rest.unbegun().saturating_add(u8::from(blame));
        if unbegun < UNBEGUN_MAX {
            return again(vec![Rest::Fresh(rest.come_back(unbegun))], false);
        }
    }
    if !blame {
        return again(vec![used(rest.cut(begun)), Rest::Fresh(rest)], false);
    }
    let called = match at {
        Whereabouts::Calling(item) | Whereabouts::Overdue(item) | Whereabouts::Oversized(item) => {
            item.checked_sub(first).and_then(|skip| u32::try_from(skip).ok())
        }
        _ => None,
    };
    match called.filter(|skip| (rest.skip()..rest.skip() + rest.items()).contains(skip)) {
        Some(skip) => {
            let before = rest.cut(skip - rest.skip());
            let lost = rest.cut(1);
            // One that took too long may have been over when the worker was stopped, at another.
            let beyond = rest.cut(begun.saturating_sub(before.items() + 1));
            let verdict = again(vec![used(before), used(beyond), Rest::Fresh(rest)], true);
            Verdict { lost: Some(culprit(lost)), ..verdict }
        }
        None if rest.items() == 1 => {
            let lost = if begun > 0 { culprit(rest) } else { Rest::Fresh(rest) };
            Verdict { rests: Vec::new(), lost: Some(lost), apart: false }
        }
        None => {
            let mut rest = rest.one_by_one();
            again(vec![used(rest.cut(begun)), Rest::Fresh(rest)], true)
        }
    }
}
