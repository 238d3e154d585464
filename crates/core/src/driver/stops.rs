//! Stopping a worker for what it does, and where a dead one was.
//!
//! A worker is stopped at a piece: that of a cancelled call, or one that takes too long or too much memory. By the time the
//! signal reaches it, it must not have begun another piece, which has nothing to do with it. So the gate of its line is
//! shut first (see `forklift_shm`'s `gate`), and a worker that has gone on is let go.

use super::Driver;
use crate::crew::Worker;
use crate::event::{Event, Whereabouts};
use crate::id::WorkerId;
use crate::process::Process;
use forklift_shm::{Phase, Scoreboard};

/// Kills a worker unless it has gone on from the piece of that number; whether it was killed. Only of a worker here, which
/// waits at its gate: what stands in for one elsewhere passes on all that it gets, and what it passes on are copies.
pub(super) fn stop(scoreboard: &Scoreboard, worker: &mut Worker, piece: u64) -> bool {
    let is_elsewhere = worker.process.as_ref().is_some_and(Process::is_elsewhere);
    if worker.stopped.is_none() && !is_elsewhere {
        if !scoreboard.gate(worker.line).shut_behind(piece) {
            return false;
        }
        worker.stopped = Some(piece);
    }
    worker.kill();
    true
}

impl Driver {
    pub(super) fn interrupt(&mut self, id: WorkerId, piece: u64) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !stop(&self.scoreboard, worker, piece) {
            self.events.push_back(Event::Passed { worker: id, piece });
        }
    }

    /// Where a dead worker was, from the last thing it noted. A note about items other than those of its oldest
    /// piece is a stale one: it had not begun.
    pub(super) fn whereabouts(&self, worker: &Worker) -> Whereabouts {
        let Some(piece) = worker.pieces.front() else { return Whereabouts::Between };
        let open = piece.next..piece.next + u64::from(piece.left);
        let aim = worker.overdue;
        if worker.stopped.is_some_and(|stopped| stopped < piece.number)
            || aim.is_some_and(|item| !open.contains(&item))
        {
            return Whereabouts::Stopped;
        }
        if let Some(item) = aim {
            return Whereabouts::Overdue(item);
        }
        let note = self.scoreboard.read(worker.line);
        let within = note.job == piece.job.0 && open.contains(&note.item);
        match note.phase {
            Phase::Calling if within && worker.excess.is_some() => Whereabouts::Oversized(note.item),
            Phase::Decoding | Phase::Encoding if within && worker.excess.is_some() && piece.left == 1 => {
                Whereabouts::Oversized(piece.next)
            }
            Phase::Calling if within => Whereabouts::Calling(note.item),
            Phase::Decoding | Phase::Encoding if within => Whereabouts::Translating,
            _ => Whereabouts::Between,
        }
    }

    /// How many unanswered items of its oldest piece a dead worker had begun, at most. To decode an item is not to begin it.
    pub(super) fn begun(&self, worker: &Worker) -> u32 {
        let Some(piece) = worker.pieces.front() else { return 0 };
        let is_elsewhere = worker.process.as_ref().is_some_and(Process::is_elsewhere);
        if !is_elsewhere && self.scoreboard.gate(worker.line).turn() < piece.number
            || worker.stopped.is_some_and(|stopped| stopped < piece.number)
        {
            return 0;
        }
        if is_elsewhere || self.scoreboard.is_torn(worker.line) {
            return piece.left;
        }
        let note = self.scoreboard.read(worker.line);
        let at = note.item.checked_sub(piece.next).filter(|at| *at < u64::from(piece.left));
        match (note.phase, at.filter(|_| note.job == piece.job.0)) {
            (Phase::Calling, Some(at)) => u32::try_from(at + 1).unwrap_or(u32::MAX),
            // Those that are encoded together have begun, and nobody has noted how many they are.
            (Phase::Encoding, Some(_)) => piece.left,
            _ => 0,
        }
    }
}
