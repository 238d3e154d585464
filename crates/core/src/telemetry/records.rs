//! The chunks of a call as they were worked on: when, by whom, what it took. Bounded: see [`Records`].

use crate::event::Spent;
use crate::id::{Time, WorkerId};
use std::collections::HashMap;
use std::time::Duration;

/// Records that are kept of a call: some 4 MB. With chunks of 2.5 ms that is each chunk of 80 core-seconds.
pub const RECORDS_MAX: usize = 32 << 10;

/// Items that one worker answered, one time or several times after one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When it turned to the first of them.
    pub begun: Time,
    /// When the last answer was ready.
    pub ended: Time,
    /// Who; of several, the first, who may have been succeeded in its seat meanwhile.
    pub worker: WorkerId,
    /// Its pid, 0 where that is not known.
    pub pid: u32,
    /// The job's index of the first item.
    pub first: u64,
    /// How many items.
    pub items: u64,
    /// How many answers these are: 1, until records were folded.
    pub answers: u32,
    /// Payload bytes of the items.
    pub bytes_in: u64,
    /// Payload bytes of their results.
    pub bytes_out: u64,
    /// Where the time went. What lies between [`begun`](Self::begun) and [`ended`](Self::ended) and is not in here was
    /// spent waiting.
    pub spent: Spent,
    /// Of `spent.encode`: copying results.
    pub packing: Duration,
}

impl Record {
    fn absorb(&mut self, later: &Record) {
        self.ended = later.ended;
        self.items += later.items;
        self.answers += later.answers;
        self.bytes_in += later.bytes_in;
        self.bytes_out += later.bytes_out;
        self.spent.decode += later.spent.decode;
        self.spent.call += later.spent.call;
        self.spent.encode += later.spent.encode;
        self.packing += later.packing;
    }
}

/// All records of a call, in the order of their answers.
///
/// When it is full, each two that follow one another at a seat become one, and from then on twice as many answers go
/// into each new record: so it covers the whole call, however long, evenly.
#[derive(Debug, Clone, Default)]
pub struct Records {
    kept: Vec<Record>,
    /// Answers that go into a record; 0 and 1 mean each its own.
    fold: u32,
    /// By seat: records that are not full.
    open: HashMap<u32, Record>,
}

impl Records {
    /// Adds one.
    pub fn add(&mut self, record: Record) {
        if self.fold <= 1 {
            self.kept.push(record);
        } else {
            let slot = record.worker.slot;
            match self.open.get_mut(&slot) {
                Some(open) => open.absorb(&record),
                None => drop(self.open.insert(slot, record)),
            }
            if self.open.get(&slot).is_some_and(|open| open.answers >= self.fold) {
                self.kept.extend(self.open.remove(&slot));
            }
        }
        if self.kept.len() >= RECORDS_MAX {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.fold = self.fold.max(1) * 2;
        let mut halves: HashMap<u32, usize> = HashMap::new();
        let mut folded: Vec<Record> = Vec::with_capacity(RECORDS_MAX);
        for record in &self.kept {
            match halves.remove(&record.worker.slot) {
                Some(index) => folded[index].absorb(record),
                None => {
                    halves.insert(record.worker.slot, folded.len());
                    folded.push(*record);
                }
            }
        }
        self.kept = folded;
    }

    /// All of them, those that are not full last.
    pub fn all(&self) -> impl Iterator<Item = &Record> {
        self.kept.iter().chain(self.open.values())
    }

    /// Answers that go into one record by now.
    #[must_use]
    pub fn fold(&self) -> u32 {
        self.fold.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(at: u64, slot: u32) -> Record {
        Record {
            begun: Time(at),
            ended: Time(at + 1),
            worker: WorkerId { slot, generation: 1 },
            pid: 7,
            first: at,
            items: 3,
            answers: 1,
            bytes_in: 10,
            bytes_out: 1,
            spent: Spent { call: Duration::from_nanos(1), ..Spent::default() },
            packing: Duration::ZERO,
        }
    }

    #[test]
    fn few_records_are_kept_as_they_are() {
        let mut records = Records::default();
        (0..100).for_each(|at| records.add(record(at, 0)));
        assert_eq!(
            records.all().copied().collect::<Vec<_>>(),
            (0..100).map(|at| record(at, 0)).collect::<Vec<_>>()
        );
        assert_eq!(records.fold(), 1);
    }

    #[test]
    fn many_are_folded_and_nothing_is_lost() {
        let mut records = Records::default();
        let count = 5 * RECORDS_MAX as u64 + 123;
        for at in 0..count {
            records.add(record(at, (at % 3) as u32));
        }
        let all: Vec<_> = records.all().collect();
        assert!(all.len() <= RECORDS_MAX + 3);
        assert_eq!(all.iter().map(|record| record.items).sum::<u64>(), 3 * count);
        assert_eq!(all.iter().map(|record| u64::from(record.answers)).sum::<u64>(), count);
        assert_eq!(all.iter().map(|record| record.ended).max(), Some(Time(count)));
        for slot in 0..3 {
            let mut own: Vec<_> = all.iter().filter(|record| record.worker.slot == slot).collect();
            own.sort_by_key(|record| record.begun);
            assert!(own.is_sorted_by(|one, other| one.ended <= other.begun), "records of a seat overlap");
        }
    }

    #[test]
    fn seats_whose_workers_answer_once_are_folded_too() {
        let mut records = Records::default();
        for at in 0..3 * RECORDS_MAX as u64 {
            let mut one = record(at, 0);
            one.worker.generation = u32::try_from(at).expect("small") + 1;
            records.add(one);
        }
        assert!(records.all().count() <= RECORDS_MAX);
        assert_eq!(records.fold(), 4);
    }
}
