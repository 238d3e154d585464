//! Who takes what next: the bench of workers with room, and the turns of jobs with work.
//!
//! **Workers.** A piece goes to a worker when that worker is idle, not before (*late binding*), so that no item waits
//! behind a long one while others are idle. Where pieces are short, waiting for the answer before sending the next
//! would leave the worker idle for the length of a message; so a worker at *one* piece may be given one more, if
//! nobody is idle and both together are short.
//!
//! | [`Hand`] | holds | where it is found |
//! |---|---|---|
//! | starting | nothing | nowhere |
//! | idle | nothing | [`Bench`], idle; the latest to become so goes first: its memory is the warmest |
//! | at one | 1 piece | [`Bench`], at one; the first to have become so goes first: it is the nearest to its end |
//! | full | 2 pieces, or no calls left | nowhere |
//! | leaving, doomed | what it held before | nowhere |
//! | standing by | nothing: an older worker of its seat is still at work, or could be | nowhere |
//!
//! So a seat works for one worker at a time, and a pool of `n` seats does no more than `n` things at once, however its
//! workers come and go.
//!
//! **Jobs.** Each has a clock that runs by the seconds of work which it was given; the job whose clock is furthest
//! behind has the [turn](Turns). So jobs share the workers by time, not by number of pieces. A job that had nothing
//! to do starts level with the others: time not used is not saved up.

use super::ownership::Piece;
use crate::id::{JobId, Time, WorkerId};
use std::collections::{BTreeSet, VecDeque};

/// Pieces at one worker at most: one at work and one to follow. A third would wait without winning anything.
pub(crate) const HELD_MAX: usize = 2;

/// A piece in the hands of a worker.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) job: JobId,
    pub(super) piece: Piece,
    /// Its number: how many pieces the worker had been given with it.
    pub(super) number: u64,
    /// The edition of its chunk that the worker has.
    pub(super) edition: u32,
    /// Items of it that were answered.
    pub(super) done: u32,
    /// When it was sent, if the worker had nothing else to do.
    pub(super) sent_idle: Option<Time>,
    /// What the job's clock was advanced by for each item; put right when the answer tells the truth.
    pub(super) charge_nanos: u64,
}

impl Held {
    pub(super) fn left(&self) -> u32 {
        self.piece.items() - self.done
    }

    /// What was not answered of it, from a worker that does not have it any more.
    pub(super) fn into_rest(mut self) -> Piece {
        let _answered = self.piece.cut(self.done);
        self.piece
    }
}

/// A worker, as the scheduler sees it.
#[derive(Debug, Default)]
pub(super) struct Hand {
    pub(super) held: VecDeque<Held>,
    /// Pieces that it was ever given.
    pub(super) given: u64,
    /// Calls that it may still be given; `None` is no limit.
    pub(super) calls_left: Option<u64>,
    pub(super) ready: bool,
    /// It was asked to leave: it finishes what it holds.
    pub(super) leaving: bool,
    /// It waits until the seat is free of its predecessor.
    pub(super) standby: bool,
    /// It is used up: no more calls, or too much memory. Said once when it holds nothing any more.
    pub(super) used_up: bool,
    pub(super) excused: bool,
    /// We have it killed, for another reason than what it does: its death blames nothing.
    pub(super) doomed: bool,
    /// The piece of this number was wanted no more, but it had gone on from it.
    pub(super) passed: u64,
    /// Where it stands on the bench.
    rank: Option<Rank>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    Idle(u64),
    AtOne(u64),
}

impl Hand {
    pub(super) fn new(calls: Option<u64>, leaving: bool) -> Self {
        Hand { calls_left: calls, leaving, ..Hand::default() }
    }

    /// Whether it may be given anything.
    fn is_open(&self) -> bool {
        self.may_work() && !self.standby && self.held.len() < HELD_MAX
    }

    fn may_work(&self) -> bool {
        self.ready && !self.leaving && !self.doomed && !self.used_up && self.calls_left != Some(0)
    }

    /// Whether nobody else may work in its seat.
    pub(super) fn occupies(&self) -> bool {
        !self.held.is_empty() || self.may_work()
    }
}

/// The workers that have room.
#[derive(Debug, Default)]
pub(super) struct Bench {
    stamp: u64,
    idle: BTreeSet<(u64, WorkerId)>,
    at_one: BTreeSet<(u64, WorkerId)>,
}

impl Bench {
    /// Puts the worker where it now belongs. To be called after every change of its hand.
    pub(super) fn place(&mut self, worker: WorkerId, hand: &mut Hand) {
        self.remove(worker, hand);
        if !hand.is_open() {
            return;
        }
        self.stamp += 1;
        if hand.held.is_empty() {
            self.idle.insert((self.stamp, worker));
            hand.rank = Some(Rank::Idle(self.stamp));
        } else {
            self.at_one.insert((self.stamp, worker));
            hand.rank = Some(Rank::AtOne(self.stamp));
        }
    }

    /// Takes the worker off the bench, wherever it stands.
    pub(super) fn remove(&mut self, worker: WorkerId, hand: &mut Hand) {
        match hand.rank.take() {
            Some(Rank::Idle(stamp)) => self.idle.remove(&(stamp, worker)),
            Some(Rank::AtOne(stamp)) => self.at_one.remove(&(stamp, worker)),
            None => false,
        };
    }

    pub(super) fn idle(&self) -> Option<WorkerId> {
        self.idle.last().map(|&(_, worker)| worker)
    }

    pub(super) fn at_one(&self) -> Option<WorkerId> {
        self.at_one.first().map(|&(_, worker)| worker)
    }
}

/// The jobs that have ready pieces, by their clocks.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: BTreeSet<(u64, JobId)>,
    /// The clock of the job that had the last turn; nobody joins behind it.
    level: u64,
}

impl Turns {
    /// Whose turn it is.
    pub(super) fn next(&self) -> Option<JobId> {
        self.waiting.first().map(|&(_, job)| job)
    }

    /// The job has ready pieces, after it had none.
    pub(super) fn join(&mut self, job: JobId, clock: &mut u64) {
        *clock = (*clock).max(self.level);
        self.waiting.insert((*clock, job));
    }

    /// The job has no ready pieces any more.
    pub(super) fn leave(&mut self, job: JobId, clock: u64) {
        self.waiting.remove(&(clock, job));
    }

    /// The job takes its turn: its clock advances.
    pub(super) fn take(&mut self, job: JobId, clock: &mut u64, nanos: u64) {
        self.level = self.level.max(*clock);
        self.set(job, clock, clock.saturating_add(nanos));
    }

    /// What was charged was not what was spent.
    pub(super) fn correct(&mut self, job: JobId, clock: &mut u64, charged: u64, spent: u64) {
        self.set(job, clock, clock.saturating_add(spent).saturating_sub(charged));
    }

    fn set(&mut self, job: JobId, clock: &mut u64, to: u64) {
        let waited = self.waiting.remove(&(*clock, job));
        *clock = to;
        if waited {
            self.waiting.insert((to, job));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChunkId;

    fn worker(slot: u32) -> WorkerId {
        WorkerId { slot, generation: 1 }
    }

    fn held() -> Held {
        let piece = Piece::whole(ChunkId(0), 1);
        Held { job: JobId(0), piece, number: 1, edition: 0, done: 0, sent_idle: None, charge_nanos: 0 }
    }

    /// A bench of ready workers, each with so many pieces in hand.
    fn bench(pieces: &[usize]) -> (Bench, Vec<Hand>) {
        let mut bench = Bench::default();
        let mut hands = Vec::new();
        for (slot, &count) in (0..).zip(pieces) {
            let mut hand = Hand { ready: true, ..Hand::default() };
            hand.held.extend(std::iter::repeat_with(held).take(count));
            bench.place(worker(slot), &mut hand);
            hands.push(hand);
        }
        (bench, hands)
    }

    #[test]
    fn the_warmest_idle_worker_and_the_longest_at_one_go_first() {
        let (bench, _) = bench(&[0, 0, 1, 1, 2]);
        assert_eq!((bench.idle(), bench.at_one()), (Some(worker(1)), Some(worker(2))));
    }

    #[test]
    fn a_worker_stands_in_one_place_only() {
        let (mut bench, mut hands) = bench(&[0]);
        hands[0].held.push_back(held());
        bench.place(worker(0), &mut hands[0]);
        bench.place(worker(0), &mut hands[0]);
        assert_eq!((bench.idle(), bench.at_one()), (None, Some(worker(0))));
        bench.remove(worker(0), &mut hands[0]);
        assert_eq!((bench.idle(), bench.at_one()), (None, None));
    }

    #[test]
    fn who_may_get_nothing_is_not_on_the_bench() {
        let closed: [fn(&mut Hand); 4] = [
            |hand| hand.ready = false,
            |hand| hand.leaving = true,
            |hand| hand.doomed = true,
            |hand| hand.calls_left = Some(0),
        ];
        for close in closed {
            let (mut bench, mut hands) = bench(&[0]);
            close(&mut hands[0]);
            bench.place(worker(0), &mut hands[0]);
            assert_eq!(bench.idle(), None);
        }
    }

    #[test]
    fn jobs_share_by_time_not_by_pieces() {
        let mut turns = Turns::default();
        let mut clocks = [0, 0];
        let mut given = [0, 0];
        for (job, clock) in (0..).zip(&mut clocks) {
            turns.join(JobId(job), clock);
        }
        let lengths = [10, 1];
        for _ in 0..110 {
            let JobId(job) = turns.next().unwrap();
            let job = job as usize;
            turns.take(JobId(job as u64), &mut clocks[job], lengths[job]);
            given[job] += 1;
        }
        assert_eq!(given, [10, 100]);
    }

    #[test]
    fn a_late_comer_starts_level_and_a_wrong_charge_is_put_right() {
        let mut turns = Turns::default();
        let (mut old, mut new) = (0, 0);
        turns.join(JobId(0), &mut old);
        for _ in 0..100 {
            turns.take(JobId(0), &mut old, 10);
        }
        turns.join(JobId(1), &mut new);
        assert_eq!((old, new), (1000, 990));
        turns.take(JobId(1), &mut new, 100);
        assert_eq!(turns.next(), Some(JobId(0)));
        turns.correct(JobId(1), &mut new, 100, 5);
        assert_eq!((turns.next(), new), (Some(JobId(1)), 995));
        turns.leave(JobId(1), new);
        turns.leave(JobId(1), new);
        assert_eq!(turns.next(), Some(JobId(0)));
    }
}
