//! The figures of one call, as the driver adds them up.

use super::census::Count;
use super::records::{Record, Records};
use super::stopwatch::Shift;
use crate::event::Spent;
use crate::id::{Time, WorkerId};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::Duration;

/// Names of imported modules that are kept.
const IMPORTED_MAX: usize = 64;

/// Payload bytes by the way they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// Inside messages.
    pub message_bytes: u64,
    /// Copied into blocks.
    pub copied_bytes: u64,
    /// Not copied: lent on the way in, handed over on the way out.
    pub lent_bytes: u64,
    /// Once for all items: the function, and what items share.
    pub once_bytes: u64,
}

impl Flow {
    /// All that crossed.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.message_bytes + self.copied_bytes + self.lent_bytes + self.once_bytes
    }

    fn add(&mut self, other: &Flow) {
        self.message_bytes += other.message_bytes;
        self.copied_bytes += other.copied_bytes;
        self.lent_bytes += other.lent_bytes;
        self.once_bytes += other.once_bytes;
    }
}

/// An answer, as the driver knows it.
#[derive(Debug)]
pub struct Reply<'a> {
    /// Whose.
    pub worker: WorkerId,
    /// Its pid, 0 where that is not known.
    pub pid: u32,
    /// The job's index of the first item.
    pub first: u64,
    /// How many items.
    pub items: u32,
    /// How many of them failed.
    pub failed: u32,
    /// Payload bytes of the items.
    pub bytes_in: u64,
    /// Their results.
    pub flow: Flow,
    /// Where the time went.
    pub spent: Spent,
    /// Where else.
    pub shift: &'a Shift,
}

/// What was done at one seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// Who sits there.
    pub worker: WorkerId,
    /// Items answered.
    pub items: u64,
    /// Answers.
    pub answers: u64,
    /// Waiting for work, since the call began or the worker was ready.
    pub waited: Duration,
    /// Decoding, calling, encoding; of the latter, copying.
    pub spent: Spent,
    /// Copying results into blocks.
    pub packing: Duration,
    /// Sending answers.
    pub sending: Duration,
    /// Of a seat elsewhere: items and results on their way.
    pub crossing: Duration,
    /// Processor time.
    pub cpu: Duration,
    /// Of that, threads beside the one that calls the function.
    pub helpers: Duration,
    /// When its first item began.
    pub begun: Time,
    /// When its last answer was ready.
    pub ended: Time,
}

/// The item that took longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Longest {
    /// Its index in the job.
    pub item: u64,
    /// How long.
    pub time: Duration,
    /// Who did it.
    pub worker: WorkerId,
}

/// What workers' first answers took: those that pay for imports and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Firsts {
    /// Workers.
    pub workers: u64,
    /// Items in these answers.
    pub items: u64,
    /// Decoding them, with the function, and calling.
    pub time: Duration,
    /// The shortest of these.
    pub shortest: Duration,
}

/// The figures of one call.
#[derive(Debug, Clone)]
pub struct Log {
    /// When it began.
    pub opened: Time,
    /// When it was over, if it is.
    pub ended: Option<Time>,
    /// Jobs of it that are not over.
    pub open_jobs: u32,
    /// Births and the like before it, and when it was over.
    pub count_before: Count,
    /// See `count_before`.
    pub count_after: Option<Count>,
    /// Items that were encoded.
    pub submitted: u64,
    /// Items that were answered.
    pub answered: u64,
    /// Of those, how many with a failure.
    pub failed: u64,
    /// Items that were lost with their worker.
    pub lost: u64,
    /// Chunks that were encoded.
    pub chunks: u64,
    /// Payload to the workers.
    pub inbound: Flow,
    /// Payload from them.
    pub outbound: Flow,
    /// Bytes of results that were moved to a disk.
    pub spilled_bytes: u64,
    /// Bytes that were copied although the item before had the same at the same place.
    pub repeated_bytes: u64,
    /// By seat.
    pub lanes: BTreeMap<u32, Lane>,
    /// Nanoseconds in the function, of each item.
    pub times: Histogram<u64>,
    /// Payload bytes of each item, as the mean of its chunk.
    pub sizes_in: Histogram<u64>,
    /// Payload bytes of each result, as the mean of its answer.
    pub sizes_out: Histogram<u64>,
    /// The item that took longest.
    pub longest: Option<Longest>,
    /// What workers' first answers took.
    pub firsts: Firsts,
    /// Modules that were imported while items were worked on, in the order of telling, each once.
    pub imported: Vec<String>,
    /// The answers.
    pub records: Records,
}

impl Log {
    pub(super) fn new(opened: Time, count_before: Count) -> Self {
        // Two digits are one percent. It grows as far as needed.
        let histogram = || Histogram::new(2).expect("a histogram of two digits can be made");
        Self {
            opened,
            ended: None,
            open_jobs: 0,
            count_before,
            count_after: None,
            submitted: 0,
            answered: 0,
            failed: 0,
            lost: 0,
            chunks: 0,
            inbound: Flow::default(),
            outbound: Flow::default(),
            spilled_bytes: 0,
            repeated_bytes: 0,
            lanes: BTreeMap::new(),
            times: histogram(),
            sizes_in: histogram(),
            sizes_out: histogram(),
            longest: None,
            firsts: Firsts::default(),
            imported: Vec::new(),
            records: Records::default(),
        }
    }

    pub(super) fn submitted(&mut self, items: u32, flow: Flow) {
        self.chunks += 1;
        self.submitted += u64::from(items);
        self.inbound.add(&flow);
        note(&mut self.sizes_in, flow.total(), items);
    }

    pub(super) fn answered(&mut self, reply: &Reply<'_>) {
        let Reply { worker, items, spent, shift, .. } = *reply;
        self.answered += u64::from(items);
        self.failed += u64::from(reply.failed);
        self.outbound.add(&reply.flow);
        note(&mut self.sizes_out, reply.flow.total(), items);
        for &(nanos, count) in &shift.samples {
            record(&mut self.times, nanos, u64::from(count));
        }
        if self.longest.is_none_or(|longest| longest.time < shift.longest.1) {
            let (offset, time) = shift.longest;
            self.longest = Some(Longest { item: reply.first + u64::from(offset), time, worker });
        }
        for name in shift.imported.split(',').filter(|name| !name.is_empty()) {
            if self.imported.len() < IMPORTED_MAX && !self.imported.iter().any(|known| known == name) {
                self.imported.push(name.to_owned());
            }
        }
        let busy = spent.decode + spent.call + spent.encode;
        let ended = shift.begun.after(busy);
        let first_answer = self.lanes.get(&worker.slot).is_none_or(|lane| lane.worker != worker);
        if first_answer {
            let time = spent.decode + spent.call;
            let firsts = &mut self.firsts;
            firsts.shortest = if firsts.workers == 0 { time } else { firsts.shortest.min(time) };
            firsts.workers += 1;
            firsts.items += u64::from(items);
            firsts.time += time;
        }
        let lane = self.lanes.entry(worker.slot).or_insert_with(|| Lane::new(worker, shift.begun));
        lane.worker = worker;
        lane.items += u64::from(items);
        lane.answers += 1;
        // What it waited for before this call began is not this call's.
        lane.waited += shift.waited.min(shift.begun.since(self.opened));
        lane.spent.decode += spent.decode;
        lane.spent.call += spent.call;
        lane.spent.encode += spent.encode;
        lane.packing += shift.packing;
        lane.sending += shift.sending;
        lane.crossing += shift.crossing;
        lane.cpu += shift.cpu;
        lane.helpers += shift.helpers;
        lane.ended = ended;
        self.records.add(Record {
            begun: shift.begun,
            ended,
            worker,
            pid: reply.pid,
            first: reply.first,
            items: u64::from(items),
            answers: 1,
            bytes_in: reply.bytes_in,
            bytes_out: reply.flow.total(),
            spent,
            packing: shift.packing,
        });
    }

    pub(super) fn finish(&mut self, now: Time, count: Count) {
        self.ended = Some(now);
        self.count_after = Some(count);
    }
}

impl Lane {
    fn new(worker: WorkerId, begun: Time) -> Self {
        Self {
            worker,
            items: 0,
            answers: 0,
            waited: Duration::ZERO,
            spent: Spent::default(),
            packing: Duration::ZERO,
            sending: Duration::ZERO,
            crossing: Duration::ZERO,
            cpu: Duration::ZERO,
            helpers: Duration::ZERO,
            begun,
            ended: begun,
        }
    }
}

fn note(histogram: &mut Histogram<u64>, bytes: u64, items: u32) {
    record(histogram, bytes / u64::from(items.max(1)), u64::from(items));
}

fn record(histogram: &mut Histogram<u64>, value: u64, count: u64) {
    // It grows with what comes; what no histogram of 64 bits can hold counts as the most that it can.
    if histogram.record_n(value, count).is_err() {
        histogram.saturating_record_n(value, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shift(begun: u64, waited: u64, nanos: u64) -> Shift {
        Shift {
            begun: Time(begun),
            waited: Duration::from_nanos(waited),
            longest: (1, Duration::from_nanos(nanos)),
            samples: vec![(nanos, 2)],
            ..Shift::default()
        }
    }

    fn answer(log: &mut Log, slot: u32, generation: u32, first: u64, shift: &Shift) {
        let call = 2 * shift.longest.1;
        log.answered(&Reply {
            worker: WorkerId { slot, generation },
            pid: 9,
            first,
            items: 2,
            failed: 1,
            bytes_in: 100,
            flow: Flow { message_bytes: 10, ..Flow::default() },
            spent: Spent { call, ..Spent::default() },
            shift,
        });
    }

    #[test]
    fn answers_add_up_by_seat_and_the_longest_item_is_named() {
        let mut log = Log::new(Time(1000), Count::default());
        log.submitted(4, Flow { copied_bytes: 400, ..Flow::default() });
        answer(&mut log, 0, 1, 0, &shift(1500, 9999, 50));
        answer(&mut log, 1, 1, 2, &shift(1600, 10, 70));
        assert_eq!((log.submitted, log.answered, log.failed, log.chunks), (4, 4, 2, 1));
        assert_eq!((log.inbound.total(), log.outbound.total()), (400, 20));
        assert_eq!(log.times.len(), 4);
        assert_eq!((log.sizes_in.max(), log.times.max()), (100, 70));
        let longest = log.longest.expect("there were answers");
        assert_eq!((longest.item, longest.time, longest.worker.slot), (3, Duration::from_nanos(70), 1));
        assert_eq!(
            log.lanes[&0].waited,
            Duration::from_nanos(500),
            "what was before the call does not count"
        );
        assert_eq!(log.lanes[&1].ended, Time(1740));
        assert_eq!(log.records.all().count(), 2);
    }

    #[test]
    fn imports_keep_the_order_in_which_workers_tell_of_them() {
        let mut log = Log::new(Time(0), Count::default());
        for told in ["pandas,six,numpy", "", "scipy,pandas,ast"] {
            answer(&mut log, 0, 1, 0, &Shift { imported: told.into(), ..Shift::default() });
        }
        assert_eq!(log.imported, ["pandas", "six", "numpy", "scipy", "ast"]);
        let many: Vec<String> = (0..2 * IMPORTED_MAX).map(|number| format!("module{number}")).collect();
        answer(&mut log, 0, 1, 0, &Shift { imported: many.join(","), ..Shift::default() });
        assert_eq!((log.imported.len(), &*log.imported[0]), (IMPORTED_MAX, "pandas"));
    }

    #[test]
    fn first_answers_are_those_of_each_worker() {
        let mut log = Log::new(Time(0), Count::default());
        answer(&mut log, 0, 1, 0, &shift(10, 0, 500));
        answer(&mut log, 0, 1, 2, &shift(2000, 0, 5));
        answer(&mut log, 0, 2, 4, &shift(4000, 0, 300));
        assert_eq!(
            log.firsts,
            Firsts {
                workers: 2,
                items: 4,
                time: Duration::from_nanos(1600),
                shortest: Duration::from_nanos(600)
            }
        );
    }
}
