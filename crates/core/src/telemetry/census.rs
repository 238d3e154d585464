//! Who was born, who died, and how much memory all of them held: of a pool, over all of its calls.

use crate::id::{Time, WorkerId};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Happenings that are kept; older ones are forgotten, and only counted.
const HAPPENINGS_MAX: usize = 4096;

/// Looks at memory that are kept. When there are more, every second is dropped, and they are taken half as often.
const LOOKS_MAX: usize = 1024;

/// How often memory is looked at, at first.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A look may take this share of the time: reading a worker's figures takes some 10 µs, and there may be hundreds.
const LOOK_SHARE: u32 = 400;

/// How many there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Processes that came to life.
    pub births: u64,
    /// Births that failed.
    pub stillbirths: u64,
    /// Workers that ended without having been told to.
    pub deaths: u64,
    /// Workers that were replaced in good order.
    pub recycles: u64,
    /// Items that were tried again after their worker died.
    pub retries: u64,
}

impl Count {
    /// What came after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Count) -> Count {
        Count {
            births: self.births - earlier.births,
            stillbirths: self.stillbirths - earlier.stillbirths,
            deaths: self.deaths - earlier.deaths,
            recycles: self.recycles - earlier.recycles,
            retries: self.retries - earlier.retries,
        }
    }
}

/// What happened to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// The process exists.
    Born,
    /// It could not be made.
    Stillborn,
    /// It is ready for work.
    Ready,
    /// It left in good order.
    Left,
    /// It ended otherwise.
    Died,
}

/// What happened, to whom, when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident {
    /// When.
    pub at: Time,
    /// To whom.
    pub worker: WorkerId,
    /// Its pid, 0 where there is none.
    pub pid: u32,
    /// What.
    pub what: Happening,
}

/// Resident memory at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// When.
    pub at: Time,
    /// What is the parent's own.
    pub parent_bytes: u64,
    /// What is the workers' own, added up.
    pub workers_bytes: u64,
    /// Blocks of items and of values for all workers that are in use.
    pub payload_bytes: u64,
    /// Blocks of results that the parent has mapped.
    pub results_bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    count: Count,
    incidents: VecDeque<Incident>,
    looks: Vec<Memory>,
    interval: Duration,
    next_look: Time,
}

/// The record of a pool's workers.
#[derive(Debug)]
pub struct Census {
    /// Whether memory is looked at.
    looking: bool,
    state: Mutex<State>,
}

impl Census {
    /// An empty one.
    #[must_use]
    pub fn new(looking: bool) -> Self {
        Self { looking, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there were so far.
    #[must_use]
    pub fn count(&self) -> Count {
        self.lock().count
    }

    /// Something happened to a worker. `replaced`: if it left, another takes its seat.
    pub fn note(&self, incident: Incident, replaced: bool) {
        let mut state = self.lock();
        match incident.what {
            Happening::Born => state.count.births += 1,
            Happening::Stillborn => state.count.stillbirths += 1,
            Happening::Died => state.count.deaths += 1,
            Happening::Left => state.count.recycles += u64::from(replaced),
            Happening::Ready => {}
        }
        if state.incidents.len() == HAPPENINGS_MAX {
            state.incidents.pop_front();
        }
        state.incidents.push_back(incident);
    }

    /// So many items were tried again, in all.
    pub fn retried(&self, items: u64) {
        self.lock().count.retries = items;
    }

    /// A call begins in an idle pool: the looks of earlier ones are not needed any more. The next one is not taken sooner
    /// for that, or calls that follow one another quickly would each pay for one.
    pub fn forget_looks(&self, now: Time) {
        let mut state = self.lock();
        state.looks.clear();
        state.interval = LOOK_INTERVAL;
        state.next_look = state.next_look.min(now.after(LOOK_INTERVAL));
    }

    /// When memory should be looked at next, if ever.
    #[must_use]
    pub fn next_look(&self) -> Option<Time> {
        self.looking.then(|| self.lock().next_look)
    }

    /// What a look showed; it took until `now`.
    pub fn look(&self, memory: Memory, now: Time) {
        let mut state = self.lock();
        if state.looks.len() == LOOKS_MAX {
            let mut index = 0;
            state.looks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            state.interval *= 2;
        }
        state.looks.push(memory);
        let cost = now.since(memory.at);
        state.next_look = now.after(state.interval.max(LOOK_INTERVAL).max(cost * LOOK_SHARE));
    }

    /// Looks from `begin` to `end`.
    #[must_use]
    pub fn looks(&self, begin: Time, end: Time) -> Vec<Memory> {
        let within = |look: &&Memory| (begin..=end).contains(&look.at);
        self.lock().looks.iter().filter(within).copied().collect()
    }

    /// What happened from `begin` to `end`, as far as it is remembered.
    #[must_use]
    pub fn incidents(&self, begin: Time, end: Time) -> Vec<Incident> {
        let within = |incident: &&Incident| (begin..=end).contains(&incident.at);
        self.lock().incidents.iter().filter(within).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rarer_and_cover_all_the_time() {
        let census = Census::new(true);
        census.forget_looks(Time(0));
        let mut now = Time(0);
        for _ in 0..5000 {
            census.look(Memory { at: now, ..Memory::default() }, now);
            now = census.next_look().expect("it looks");
        }
        let looks = census.looks(Time(0), now);
        assert!(looks.len() <= LOOKS_MAX);
        assert_eq!(looks[0].at, Time(0));
        assert!(looks.windows(2).all(|pair| pair[1].at.since(pair[0].at) >= LOOK_INTERVAL));
        assert!(now.since(looks[looks.len() - 1].at) < now.since(Time(0)) / 100);
    }

    #[test]
    fn dear_looks_are_taken_more_rarely() {
        let census = Census::new(true);
        census.forget_looks(Time(0));
        census.look(Memory::default(), Time(0).after(Duration::from_millis(10)));
        assert_eq!(census.next_look(), Some(Time(0).after(Duration::from_millis(4010))));
    }

    #[test]
    fn calls_that_follow_one_another_do_not_each_pay_for_a_look() {
        let census = Census::new(true);
        census.look(Memory::default(), Time(0));
        let soon = Time(0).after(LOOK_INTERVAL / 10);
        census.forget_looks(soon);
        assert_eq!(census.next_look(), Some(Time(0).after(LOOK_INTERVAL)));
        // After a long call, in which they had become rare, they are frequent again.
        census.look(Memory::default(), Time(0).after(Duration::from_secs(1)));
        census.forget_looks(soon);
        assert_eq!(census.next_look(), Some(soon.after(LOOK_INTERVAL)));
    }

    #[test]
    fn only_those_who_are_replaced_count_as_recycled() {
        let census = Census::new(true);
        let incident =
            |what| Incident { at: Time(1), worker: WorkerId { slot: 0, generation: 1 }, pid: 1, what };
        let before = census.count();
        census.note(incident(Happening::Born), false);
        census.note(incident(Happening::Left), true);
        census.note(incident(Happening::Left), false);
        census.note(incident(Happening::Died), false);
        let count = census.count().since(&before);
        assert_eq!((count.births, count.recycles, count.deaths), (1, 1, 1));
        assert_eq!(census.incidents(Time(1), Time(1)).len(), 4);
        assert!(census.incidents(Time(2), Time(3)).is_empty());
    }
}
