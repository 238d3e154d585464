//! One seat, and who has left it.
//!
//! | [`Stage`] | means | leaves it by |
//! |---|---|---|
//! | empty | nobody; the seat is vacant if it is within the staff | a birth begins → bearing |
//! | bearing | `Bear` was ordered | `Born` → starting; `Stillborn` → empty |
//! | starting | the child exists, runs the user's initializer | `Ready` → serving; `Refused`, `Exited`, too slow → empty |
//! | serving | it was ready; idle or busy is the scheduler's affair | used up and excused, dismissed, `Exited` → empty |
//!
//! An occupant that is used up may have a successor in the same seat, which goes through the same stages beside it and
//! takes the seat when it is left.
//!
//! A worker that was dismissed or killed gives up its seat at once, so that its successor need not wait for it, and
//! is [`Departing`] until its `Exited`.

use crate::id::{Time, WorkerId};
use std::time::Duration;

/// What a worker of the staff is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Ordered, and not yet known to exist.
    Bearing,
    /// It exists and has not said that it is ready.
    Starting,
    /// At work, or waiting for some.
    Serving,
    /// Asked to leave, or killed.
    Leaving,
}

/// One seat of the pool.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seat {
    /// Of the latest to be born here, from 1.
    pub(super) generation: u32,
    pub(super) occupant: Option<Occupant>,
    /// Only beside an occupant that is used up.
    pub(super) successor: Option<Occupant>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Occupant {
    pub(super) generation: u32,
    pub(super) stage: Stage,
    /// When its birth began.
    pub(super) since: Time,
    /// When it will be killed for being slow, while it is starting.
    pub(super) alarm: Option<Time>,
    /// Calls that it has answered.
    pub(super) calls: u64,
    /// It gets no more work, and is to be succeeded.
    pub(super) used_up: bool,
    /// … and has answered all that it was given.
    pub(super) excused: bool,
}

impl Seat {
    /// A birth begins: of the next occupant, or of the present one's successor.
    pub(super) fn bear(&mut self, slot: u32, now: Time) -> WorkerId {
        self.generation = self.generation.saturating_add(1);
        let newborn = Occupant {
            generation: self.generation,
            stage: Stage::Bearing,
            since: now,
            alarm: None,
            calls: 0,
            used_up: false,
            excused: false,
        };
        match self.occupant {
            None => self.occupant = Some(newborn),
            Some(_) => self.successor = Some(newborn),
        }
        WorkerId { slot, generation: self.generation }
    }

    /// The occupant or its successor, if it is this worker.
    pub(super) fn occupied_by(&mut self, worker: WorkerId) -> Option<&mut Occupant> {
        let both = [self.occupant.as_mut(), self.successor.as_mut()];
        both.into_iter().flatten().find(|occupant| occupant.generation == worker.generation)
    }

    /// Takes this worker out of the seat; its successor moves up.
    pub(super) fn leave(&mut self, worker: WorkerId) -> Option<Occupant> {
        let gone = *self.occupied_by(worker)?;
        match self.occupant.filter(|occupant| occupant.generation != worker.generation) {
            Some(_) => self.successor = None,
            None => self.occupant = self.successor.take(),
        }
        Some(gone)
    }
}

/// A worker that has no seat any more and has not exited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Departing {
    /// When it will be killed.
    pub(super) alarm: Option<Time>,
    pub(super) killed: bool,
    pub(super) calls: u64,
}

/// Births that failed in a row.
///
/// Births that overlap and fail together (eight forks refused in the same millisecond) have one cause and count as
/// one: a birth that began before the last failure was known adds nothing. Otherwise the retries with their pauses,
/// which let a passing shortage pass, would be used up before the first of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Failures {
    count: u32,
    latest: Time,
    resume: Time,
}

/// Pauses before the next birth after one, two, three and more failures in a row: the first retry is for bad luck,
/// the others leave a shortage time to pass.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(500)];

impl Failures {
    /// A birth that began at `since` has failed. Returns the failures in a row.
    pub(super) fn add(&mut self, now: Time, since: Time) -> u32 {
        if self.count == 0 || since >= self.latest {
            let pause = PAUSES[(self.count as usize).min(PAUSES.len() - 1)];
            self.resume = now.after(pause);
            self.count += 1;
            self.latest = now;
        }
        self.count
    }

    pub(super) fn clear(&mut self) {
        *self = Failures::default();
    }

    /// When the next birth may begin.
    pub(super) fn resume(&self) -> Time {
        self.resume
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_seat_knows_its_occupant_by_generation() {
        let mut seat = Seat::default();
        let first = seat.bear(3, Time(1));
        assert_eq!(first, WorkerId { slot: 3, generation: 1 });
        assert!(seat.occupied_by(first).is_some());
        let second = seat.bear(3, Time(2));
        assert!(seat.occupied_by(first).is_some() && seat.occupied_by(second).is_some());
        assert!(seat.leave(first).is_some() && seat.leave(first).is_none());
        assert!(seat.occupied_by(first).is_none());
        assert_eq!(seat.occupant.map(|occupant| occupant.generation), Some(2));
    }

    #[test]
    fn a_successor_that_fails_leaves_the_occupant_where_it_is() {
        let mut seat = Seat::default();
        let (first, second) = (seat.bear(0, Time(1)), seat.bear(0, Time(2)));
        assert!(seat.leave(second).is_some());
        assert!(seat.occupied_by(first).is_some() && seat.successor.is_none());
    }

    #[test]
    fn pauses_grow_with_failures_in_a_row() {
        let mut failures = Failures::default();
        let mut now = 0;
        for pause in [0, 100, 500, 500] {
            failures.add(Time(now), Time(now));
            assert_eq!(failures.resume(), Time(now + pause * MS));
            now = failures.resume().0;
        }
        failures.clear();
        assert_eq!(failures.add(Time(now), Time(now)), 1);
    }

    #[test]
    fn overlapping_births_fail_as_one() {
        let mut failures = Failures::default();
        let counts = [(10, 0), (10, 0), (11, 0), (20, 10), (21, 11), (30, 20)];
        let counts = counts.map(|(now, since)| failures.add(Time(now), Time(since)));
        assert_eq!(counts, [1, 1, 1, 2, 2, 3]);
    }
}
