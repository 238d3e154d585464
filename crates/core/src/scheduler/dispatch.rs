//! Pieces go to workers: which, to whom, and how much of it.

use super::ownership::{Piece, Rest};
use super::placement::Held;
use super::trend::Trend;
use super::{Job, Scheduler, nanos};
use crate::event::Command;
use crate::id::{JobId, Time, WorkerId};
use std::time::Duration;

impl Scheduler {
    /// Gives ready pieces to workers that have room, as long as there are both.
    pub(super) fn place(&mut self, now: Time, out: &mut Vec<Command>) {
        while let Some(job) = self.turns.next() {
            self.effort += 1;
            if self.park_front(job, out) {
                continue;
            }
            let Some(worker) = self.choose(job) else { break };
            self.dispatch(now, job, worker, out);
        }
    }

    /// If the job's first piece must wait for its chunk to be encoded again, sets it aside.
    fn park_front(&mut self, job: JobId, out: &mut Vec<Command>) -> bool {
        let Some(piece) = self.jobs.get(&job).and_then(|state| state.ready.front()) else { return false };
        if self.chunks.get(&piece.chunk()).is_none_or(|chunk| !chunk.goods.is_reclaimed()) {
            return false;
        }
        let items = piece.items();
        if let Some(piece) = self.take(job, items) {
            self.park(Rest::Fresh(piece), out);
        }
        true
    }

    /// Who takes the job's next piece: an idle worker, or one whose piece in hand and this are brief together.
    fn choose(&mut self, job: JobId) -> Option<WorkerId> {
        if let Some(worker) = self.bench.idle() {
            return Some(worker);
        }
        if !self.forking.is_zero() {
            // What follows should last as long as the fork, and be sent when the next answer has shown how much that is.
            return None;
        }
        let brief = self.config.brief.as_secs_f64();
        let state = self.jobs.get(&job)?;
        let next = self.expected(job, self.cut(state, state.ready.front()?));
        if next >= brief {
            return None;
        }
        while let Some(worker) = self.bench.at_one() {
            self.effort += 1;
            let hand = self.workers.get(&worker)?;
            let held = hand.held.front()?;
            let running = self.expected(held.job, held.left());
            if running + next < brief {
                return Some(worker);
            }
            if running < brief {
                return None;
            }
            // What it is at takes too long. It comes back to the bench with its next answer.
            if let Some(hand) = self.workers.get_mut(&worker) {
                self.bench.remove(worker, hand);
            }
        }
        None
    }

    /// Seconds that so many items of the job will hardly exceed; infinite while nothing is known.
    fn expected(&self, job: JobId, items: u32) -> f64 {
        let known = self.jobs.get(&job).map(|state| state.chunker.seconds).filter(Trend::known);
        known.map_or(f64::INFINITY, |seconds| seconds.at_most(items))
    }

    /// How many items of a ready piece go in one message. A piece may have become too large since it was formed:
    /// because items cost more now, or because the job comes to its end and the others should have a share.
    fn cut(&self, job: &Job, piece: &Piece) -> u32 {
        if piece.is_singly() {
            return 1;
        }
        let Some(wanted) = job.chunker.items_of_ready(&self.bounds(job)) else { return piece.items() };
        // A remainder of less than half a message's worth is not worth a message.
        if piece.items() <= wanted.saturating_add(wanted / 2) { piece.items() } else { wanted }
    }

    fn dispatch(&mut self, now: Time, job: JobId, worker: WorkerId, out: &mut Vec<Command>) {
        let Some(state) = self.jobs.get(&job) else { return };
        let Some(piece) = state.ready.front() else { return };
        let calls_left = self.workers.get(&worker).and_then(|hand| hand.calls_left);
        let limit = u32::try_from(calls_left.unwrap_or(u64::MAX)).unwrap_or(u32::MAX);
        let items = self.cut(state, piece).min(limit).min(piece.items());
        let patience =
            if calls_left.is_some() { None } else { state.chunker.patience(items, self.config.brief) };
        let seconds = state.chunker.seconds;
        let charge = if seconds.known() {
            Duration::from_secs_f64(seconds.mean().clamp(0.0, 1e9))
        } else {
            self.config.brief
        };
        let Some(piece) = self.take(job, items) else { return };
        let (chunk, skip) = (piece.chunk(), piece.skip());
        if let Some(state) = self.jobs.get_mut(&job) {
            let turn = nanos(charge).saturating_mul(u64::from(items));
            self.turns.take(job, &mut state.clock, turn.saturating_add(nanos(self.message_cost.get())));
        }
        let Some(state) = self.chunks.get_mut(&chunk) else { return };
        state.holders.insert(worker);
        let edition = state.goods.edition();
        self.change(worker, |hand| {
            let sent_idle = hand.held.is_empty().then_some(now);
            hand.given += 1;
            let (number, charge_nanos) = (hand.given, nanos(charge));
            hand.held.push_back(Held { job, piece, number, edition, done: 0, sent_idle, charge_nanos });
            hand.calls_left = calls_left.map(|left| left.saturating_sub(u64::from(items)));
        });
        out.push(Command::Dispatch { worker, chunk, skip, items, patience });
        if calls_left == Some(u64::from(items)) {
            out.push(Command::Relieve { worker });
        }
        self.ask(job);
    }

    /// Takes the first items of the first piece out of the job's queue.
    fn take(&mut self, job: JobId, items: u32) -> Option<Piece> {
        let state = self.jobs.get_mut(&job)?;
        let piece = state.ready.front_mut()?;
        let taken = piece.cut(items);
        state.ready_items = state.ready_items.saturating_sub(u64::from(taken.items()));
        if piece.items() == 0 {
            state.ready.pop_front();
            self.ready_pieces -= 1;
        }
        if state.ready.is_empty() {
            self.turns.leave(job, state.clock);
        }
        Some(taken)
    }
}
