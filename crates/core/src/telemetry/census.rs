//! Who was born, who died and why, how much memory all of them held, and how much was admitted for want of it: of a
//! pool, over all of its calls.

use crate::event::Wear;
use crate::id::{Time, WorkerId};
use forklift_shm::{Held, Lock};
use std::collections::VecDeque;
use std::time::Duration;

/// What a pool admits while nothing is short.
const ALL_PERCENT: u64 = 100;

/// Happenings, and changes of what is admitted, that are kept; older ones are forgotten, and only counted.
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
    /// Workers that were stopped during a call since they had far too much memory. They count as deaths as well.
    pub stopped: u64,
    /// Workers that were replaced in good order when they had made their calls.
    pub recycles_by_calls: u64,
    /// Workers that were replaced in good order because they held too much memory after a call.
    pub recycles_by_memory: u64,
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
            stopped: self.stopped - earlier.stopped,
            recycles_by_calls: self.recycles_by_calls - earlier.recycles_by_calls,
            recycles_by_memory: self.recycles_by_memory - earlier.recycles_by_memory,
            retries: self.retries - earlier.retries,
        }
    }

    /// Workers that were replaced in good order.
    #[must_use]
    pub fn recycles(&self) -> u64 {
        self.recycles_by_calls + self.recycles_by_memory
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

/// What a pool admits from one moment on, in per cent; see `pressure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// When it began.
    pub at: Time,
    /// How much; 0 is one chunk at a time.
    pub percent: u64,
}

#[derive(Debug, Default)]
struct State {
    count: Count,
    incidents: VecDeque<Incident>,
    admissions: VecDeque<Admission>,
    looks: Vec<Memory>,
    interval: Duration,
    next_look: Time,
}

/// The record of a pool's workers.
#[derive(Debug)]
pub struct Census {
    /// Whether memory is looked at.
    looking: bool,
    state: Lock<State>,
}

impl Census {
    /// An empty one.
    #[must_use]
    pub fn new(looking: bool) -> Self {
        Self { looking, state: Lock::default() }
    }

    fn lock(&self) -> Held<'_, State> {
        self.state.lock()
    }

    /// How many there were so far.
    #[must_use]
    pub fn count(&self) -> Count {
        self.lock().count
    }

    /// Something happened to a worker. `replaced_for`: if it left, and another takes its seat because it was used up.
    pub fn note(&self, incident: Incident, replaced_for: Option<Wear>) {
        let mut state = self.lock();
        match incident.what {
            Happening::Born => state.count.births += 1,
            Happening::Stillborn => state.count.stillbirths += 1,
            Happening::Died => state.count.deaths += 1,
            Happening::Left => match replaced_for {
                Some(Wear::Calls) => state.count.recycles_by_calls += 1,
                Some(Wear::Memory) => state.count.recycles_by_memory += 1,
                Some(Wear::Descriptors) | None => {}
            },
            Happening::Ready => {}
        }
        if state.incidents.len() == HAPPENINGS_MAX {
            state.incidents.pop_front();
        }
        state.incidents.push_back(incident);
    }

    /// A worker was stopped because it had far too much memory. Its death follows.
    pub fn stopped(&self) {
        self.lock().count.stopped += 1;
    }

    /// The pool admits another share than before.
    pub fn admits(&self, admission: Admission) {
        let mut state = self.lock();
        if state.admissions.len() == HAPPENINGS_MAX {
            state.admissions.pop_front();
        }
        state.admissions.push_back(admission);
    }

    /// What was admitted from `begin` to `end`, change by change: nothing if that was everything all the time.
    #[must_use]
    pub fn admissions(&self, begin: Time, end: Time) -> Vec<Admission> {
        let mut found: Vec<Admission> = Vec::new();
        for admission in self.lock().admissions.iter().filter(|admission| admission.at <= end) {
            if admission.at <= begin {
                // What holds when it begins is the last of these.
                found.clear();
                found.extend(
                    (admission.percent < ALL_PERCENT).then_some(Admission { at: begin, ..*admission }),
                );
            } else {
                found.push(*admission);
            }
        }
        found
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
        census.note(incident(Happening::Born), None);
        census.note(incident(Happening::Left), Some(Wear::Calls));
        let before = census.count();
        census.note(incident(Happening::Born), None);
        census.note(incident(Happening::Left), Some(Wear::Calls));
        census.note(incident(Happening::Left), Some(Wear::Memory));
        census.note(incident(Happening::Left), None);
        census.stopped();
        census.note(incident(Happening::Died), None);
        let count = census.count().since(&before);
        let expected = Count {
            births: 1,
            deaths: 1,
            stopped: 1,
            recycles_by_calls: 1,
            recycles_by_memory: 1,
            ..Count::default()
        };
        assert_eq!((count, count.recycles()), (expected, 2));
        assert_eq!(census.incidents(Time(1), Time(1)).len(), 7);
        assert!(census.incidents(Time(2), Time(3)).is_empty());
    }

    /// What a call from 10 to 20 sees of a pool that admitted so much from these moments on.
    fn check_admissions(changes: &[(u64, u64)], expected: &[(u64, u64)]) {
        let census = Census::new(true);
        for &(at, percent) in changes {
            census.admits(Admission { at: Time(at), percent });
        }
        let found = census.admissions(Time(10), Time(20));
        let found: Vec<(u64, u64)> = found.iter().map(|found| (found.at.0, found.percent)).collect();
        assert_eq!(found, expected, "{changes:?}");
    }

    #[test]
    fn a_call_sees_what_was_admitted_while_it_ran() {
        check_admissions(&[], &[]);
        check_admissions(&[(12, 50), (15, 25), (18, 50), (25, 100)], &[(12, 50), (15, 25), (18, 50)]);
        check_admissions(&[(3, 50), (5, 0)], &[(10, 0)]);
        check_admissions(&[(3, 50), (15, 100)], &[(10, 50), (15, 100)]);
        check_admissions(&[(3, 50), (5, 100)], &[]);
    }
}
