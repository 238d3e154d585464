//! Workers come, change and give way: what each change of a [`Hand`] means for the bench and for its seat.

use super::Scheduler;
use super::placement::Hand;
use crate::event::Command;
use crate::id::{ChunkId, WorkerId};

impl Scheduler {
    /// The worker holds one piece of the chunk less.
    pub(super) fn let_go(&mut self, worker: WorkerId, chunk: ChunkId) {
        let holds = |hand: &Hand| hand.held.iter().any(|held| held.piece.chunk() == chunk);
        if self.workers.get(&worker).is_some_and(holds) {
            return;
        }
        if let Some(state) = self.chunks.get_mut(&chunk) {
            state.holders.remove(&worker);
        }
    }

    /// The worker's hand has changed: it takes its place on the bench, or is stopped from doing what nobody wants.
    pub(super) fn reseat(&mut self, worker: WorkerId, out: &mut Vec<Command>) {
        let Some(hand) = self.workers.get_mut(&worker) else { return };
        if let Some(held) = hand.held.front()
            && !hand.doomed
            && hand.passed < held.number
            && self.jobs.get(&held.job).is_some_and(|job| job.cancelled)
        {
            hand.doomed = true;
            out.push(Command::Interrupt { worker, piece: held.number });
        }
        self.bench.place(worker, hand);
        if hand.held.is_empty() && hand.used_up && !std::mem::replace(&mut hand.excused, true) {
            out.push(Command::Excuse { worker });
        }
        if !hand.occupies() {
            self.relieve(worker.slot);
        }
    }

    /// The worker had gone on from a piece at which it was to be interrupted: it lives, and its answer is on the way.
    pub(super) fn passed(&mut self, worker: WorkerId, piece: u64, out: &mut Vec<Command>) {
        let Some(hand) = self.workers.get_mut(&worker) else { return };
        (hand.doomed, hand.passed) = (false, piece);
        self.reseat(worker, out);
    }

    /// The oldest worker of the seat that has something to do there has the seat; the others stand by.
    pub(super) fn relieve(&mut self, slot: u32) {
        let seat = WorkerId { slot, generation: 0 }..=WorkerId { slot, generation: u32::MAX };
        let mut taken = false;
        for (&worker, hand) in self.workers.range_mut(seat) {
            self.effort += 1;
            if std::mem::replace(&mut hand.standby, taken) != taken {
                self.bench.place(worker, hand);
            }
            taken |= hand.occupies();
        }
    }

    pub(super) fn change(&mut self, worker: WorkerId, change: impl FnOnce(&mut Hand)) {
        if let Some(hand) = self.workers.get_mut(&worker) {
            change(hand);
            self.bench.place(worker, hand);
        }
    }

    pub(super) fn resized(&mut self, processes: u32) {
        self.config.processes = processes.max(1);
        for (&worker, hand) in &mut self.workers {
            self.effort += 1;
            if worker.slot >= self.config.processes {
                hand.leaving = true;
                self.bench.remove(worker, hand);
            }
        }
        self.ask_all();
    }
}
