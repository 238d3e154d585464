//! The gate between two pieces of work: whoever stops a worker at one piece, stops it before it has begun the next.
//!
//! A worker is killed for what it does: the call of its piece was cancelled, or the piece takes too long. Behind that piece
//! others may wait in its channel, of calls that go on. Between the decision and the kill the worker could finish the
//! piece and begin the next one, whose memory it would leave half changed, and whose function would have run for nothing.
//! So the two meet at a gate: one line for each slot of the scoreboard, with two words.
//!
//! ```text
//!   word    written by    says
//!   turn    the worker    the number of the piece that it is at, or was at last; pieces are numbered from 1
//!   shut    the driver    whether the worker may begin nothing more
//!
//!   worker, before piece n                driver, to stop it behind piece m
//!   W1  turn = n                          D1  shut = 1
//!   W2  fence (SeqCst)                    D2  fence (SeqCst)
//!   W3  shut is 0: begins                 D3  turn is at most m: kills
//!       shut is 1: waits for a change         turn is above m: shut = 0, and the worker goes on
//! ```
//!
//! # Why a piece behind `m` that was begun is never killed
//! Suppose that the worker has begun piece `n > m` (W3 read 0) and the driver kills all the same (D3 read at most `m`).
//! The two fences have an order that all threads agree on.
//!
//! - **W2 before D2**: what was written before W2 is seen after D2, so D3 reads `n` or more. It read at most `m`.
//! - **D2 before W2**: what was written before D2 is seen after W2, so W3 reads the 1 of D1, or what the driver has written
//!   since. It writes a 0 only where D3 read more than `m`. It read at most `m`.
//!
//! Weaker orders would not do: W1 may stay in the processor's store buffer while W3 is read, and likewise D1 and D3, and
//! then both read what was before. (This is Dekker's algorithm, and x86 does reorder just that.) A test below goes through
//! all orders of the steps, and finds both outcomes, and the fault as soon as a step is taken before its turn.
//!
//! Both can find the gate in the other's way: the worker waits, and the driver sees that it is at `n`. Then the driver
//! opens the gate, so nobody waits for ever. A worker whose driver is gone is killed by the kernel.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use crate::segment::{Line, Words};

const TURN: usize = 0;
const SHUT: usize = 1;

/// The driver's end.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    line: &'a Line,
}

/// The worker's end.
#[derive(Debug)]
pub struct Turnstile {
    words: Arc<Words>,
    index: usize,
}

impl<'a> Gate<'a> {
    pub(crate) fn new(words: &'a Words, index: usize) -> Self {
        Self { line: words.line(index) }
    }

    /// Lets the slot's next worker begin what it is given.
    pub fn open(&self) {
        self.line[SHUT].store(0, Release);
    }

    /// Has the worker begin nothing behind this piece, if it has not yet; whether that is so. If it has, it is not held up.
    #[must_use]
    pub fn shut_behind(&self, piece: u64) -> bool {
        self.line[SHUT].store(1, Relaxed); // D1
        fence(SeqCst); // D2
        let is_shut = self.turn() <= piece; // D3
        if !is_shut {
            self.open();
        }
        is_shut
    }

    /// The number of the piece that the worker is at, or was at last.
    #[must_use]
    pub fn turn(&self) -> u64 {
        self.line[TURN].load(Relaxed)
    }
}

impl Turnstile {
    pub(crate) fn new(words: Arc<Words>, index: usize) -> Self {
        words.line(index)[TURN].store(0, Relaxed);
        Self { words, index }
    }

    /// Notes that this piece is next; whether it may be begun. If not, ask [`Turnstile::is_shut`] until it may.
    #[must_use]
    pub fn enter(&mut self, piece: u64) -> bool {
        self.words.line(self.index)[TURN].store(piece, Relaxed); // W1
        fence(SeqCst); // W2
        !self.is_shut() // W3
    }

    /// Whether the piece that is next may not be begun, now.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.words.line(self.index)[SHUT].load(Acquire) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    #[test]
    fn a_worker_at_the_piece_or_before_it_begins_nothing_more() {
        let board = Scoreboard::create(2).unwrap();
        let mut worker = board.turnstile(1);
        assert!(worker.enter(1));
        assert!(board.gate(1).shut_behind(1));
        assert!(worker.is_shut() && !worker.enter(2));
        assert_eq!(board.gate(1).turn(), 2);
        // It has gone on from the first piece, as far as the driver can tell, so it is let go.
        assert!(!board.gate(1).shut_behind(1));
        assert!(!worker.is_shut());
        assert!(board.gate(1).shut_behind(2), "it is at the second");
        assert!(board.gate(0).shut_behind(1), "slots have nothing to do with each other");
    }

    #[test]
    fn a_successor_finds_it_open() {
        let board = Scoreboard::create(1).unwrap();
        let mut worker = board.turnstile(0);
        assert!(worker.enter(7) && board.gate(0).shut_behind(7));
        board.gate(0).open();
        let mut successor = board.turnstile(0);
        assert_eq!(board.gate(0).turn(), 0);
        assert!(successor.enter(1));
    }

    /// The steps of one side, in the order in which memory sees them.
    #[derive(Clone, Copy, PartialEq)]
    enum Step {
        Write,
        Read,
    }

    /// What all orders of the steps lead to, where the worker goes from piece 1 to piece 2 and is to be stopped behind 1:
    /// whether it began piece 2, and whether it was killed.
    fn outcomes(worker: [Step; 2], driver: [Step; 2]) -> Vec<(bool, bool)> {
        let mut seen = Vec::new();
        for order in 0u32..16 {
            if order.count_ones() != 2 {
                continue;
            }
            let (mut turn, mut shut) = (1, false);
            let (mut begun, mut killed) = (false, false);
            let (mut workers, mut drivers) = (worker.iter(), driver.iter());
            for moment in 0..4 {
                if order >> moment & 1 == 0 {
                    match workers.next() {
                        Some(Step::Write) => turn = 2,
                        _ => begun = !shut,
                    }
                } else {
                    match drivers.next() {
                        Some(Step::Write) => shut = true,
                        _ => killed = turn <= 1,
                    }
                }
            }
            if !seen.contains(&(begun, killed)) {
                seen.push((begun, killed));
            }
        }
        seen
    }

    #[test]
    fn no_order_of_the_steps_kills_what_was_begun() {
        let (right, wrong) = ([Step::Write, Step::Read], [Step::Read, Step::Write]);
        let seen = outcomes(right, right);
        for expected in [(true, false), (false, true), (false, false)] {
            assert!(seen.contains(&expected), "never seen: begun and killed are {expected:?}");
        }
        assert!(!seen.contains(&(true, true)));
        // Each fence is needed: without it a side's read may come before its write.
        assert!(outcomes(wrong, right).contains(&(true, true)));
        assert!(outcomes(right, wrong).contains(&(true, true)));
    }

    /// The same with the machine's own orders.
    #[test]
    fn two_threads_at_the_gate_never_both_pass() {
        const ROUNDS: u64 = 20_000;
        let board = Scoreboard::create(1).unwrap();
        let mut worker = board.turnstile(0);
        let start = std::sync::Barrier::new(2);
        let end = std::sync::Barrier::new(2);
        let begun = std::sync::atomic::AtomicBool::new(false);
        let (mut went_on, mut stopped) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    start.wait();
                    for _ in 0..round % 32 {
                        std::hint::spin_loop();
                    }
                    let passed = worker.enter(round);
                    begun.store(passed, Relaxed);
                    end.wait();
                }
            });
            for round in 1..=ROUNDS {
                board.gate(0).open();
                start.wait();
                for _ in 0..round / 32 % 32 {
                    std::hint::spin_loop();
                }
                let kills = board.gate(0).shut_behind(round - 1);
                end.wait();
                assert!(!(kills && begun.load(Relaxed)), "killed at a piece that it had begun");
                stopped += u64::from(kills);
                went_on += u64::from(begun.load(Relaxed));
            }
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        assert!(cores == 1 || (went_on > 0 && stopped > 0), "{went_on} went on, {stopped} were stopped");
    }
}
