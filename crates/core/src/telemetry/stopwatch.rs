//! What a worker measures: how long each item took, where that is worth its cost, and its processor time.

use super::clock;
use crate::id::Time;
use rustix::time::ClockId;
use std::time::Duration;

/// Items that take at least this on average are measured one by one: reading the clock costs a two-hundredth of it. Of
/// shorter ones the mean of their answer is noted, and those apart that took several ticks of the coarse clock.
const FINE_SECONDS_MIN: f64 = 10e-6;

/// Processor time is asked for no more often than this: it is a system call, and a worker may answer every few
/// microseconds.
const CPU_INTERVAL: Duration = Duration::from_millis(1);

/// Bits of a duration that are kept: 64 values for each power of two, so 1.6 % apart.
const KEPT_BITS: u32 = 7;

/// Entries after which a list of durations is put into order.
const SAMPLES_UNSORTED_MAX: usize = 256;

/// Where a worker's time went while it worked on some items, beyond what the scheduler has to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shift {
    /// When it turned to them.
    pub begun: Time,
    /// How long it had waited for work before.
    pub waited: Duration,
    /// Of the time of encoding: copying results into blocks.
    pub packing: Duration,
    /// Sending the answer before this one.
    pub sending: Duration,
    /// Of a worker elsewhere: what the way there and back took.
    pub crossing: Duration,
    /// Processor time of the whole process, since last told.
    pub cpu: Duration,
    /// Of that, what threads other than the one that calls the function took.
    pub helpers: Duration,
    /// Which of the items (from 0) took longest, and how long.
    pub longest: (u32, Duration),
    /// Nanoseconds of one item, rounded to 1.6 %, and how many items took that.
    pub samples: Vec<(u64, u32)>,
    /// Modules that were imported meanwhile: top-level names, the last first, with commas.
    pub imported: String,
}

/// Measures the items of one answer after the other.
#[derive(Debug)]
pub struct Stopwatch {
    on: bool,
    /// One by one.
    fine: bool,
    /// Two ticks of the coarse clock: what it shows of an item that took so long is at most half of it off.
    coarse_min: Duration,
    /// When the item in hand began: by the exact clock, if fine, and by the coarse one.
    since: Time,
    coarse_since: Time,
    /// Items with a time of their own, and those times together.
    noted: u32,
    measured: Duration,
    longest: (u32, Duration),
    samples: Samples,
    processor: Processor,
}

impl Stopwatch {
    /// Items are measured by the mean of their answers until it is known that they are long.
    #[must_use]
    pub fn new(on: bool) -> Self {
        let tick = rustix::time::clock_getres(ClockId::MonotonicCoarse);
        Self {
            on,
            fine: false,
            coarse_min: 2 * Duration::from_nanos(tick.tv_nsec.unsigned_abs()),
            since: Time(0),
            coarse_since: Time(0),
            noted: 0,
            measured: Duration::ZERO,
            longest: (0, Duration::ZERO),
            samples: Samples::default(),
            processor: Processor::default(),
        }
    }

    /// The first item of an answer begins; `coarse` is what the coarse clock shows.
    pub fn start(&mut self, coarse: Time) {
        if self.fine {
            self.since = clock();
        }
        self.coarse_since = coarse;
    }

    /// The answer's item of this number (from 0) is over, and the next begins. This is called for each item, however
    /// small, so it does next to nothing for those that are.
    #[inline]
    pub fn lap(&mut self, coarse: Time, item: u32) {
        let took = coarse.since(std::mem::replace(&mut self.coarse_since, coarse));
        if self.fine {
            let now = clock();
            let took = now.since(std::mem::replace(&mut self.since, now));
            self.note(took, item);
        } else if took >= self.coarse_min {
            self.note(took, item);
        }
    }

    fn note(&mut self, took: Duration, item: u32) {
        self.noted += 1;
        self.measured += took;
        self.samples.add(took, 1);
        if took > self.longest.1 {
            self.longest = (item, took);
        }
    }

    /// All items of an answer are over: so many, which together took `call`.
    pub fn finish(&mut self, call: Duration, items: u32) -> Shift {
        let others = items.saturating_sub(std::mem::take(&mut self.noted));
        if !self.on {
            return Shift::default();
        }
        let measured = std::mem::take(&mut self.measured);
        let mut longest = std::mem::take(&mut self.longest);
        if items == 1 {
            // The time of all of them is that of the one, and exact.
            self.samples = Samples::default();
            self.samples.add(call, 1);
            longest = (0, call);
        } else if others > 0 {
            let mean = call.saturating_sub(measured) / others;
            self.samples.add(mean, others);
            longest = if mean > longest.1 { (0, mean) } else { longest };
        }
        self.fine = items > 0 && call.as_secs_f64() / f64::from(items) >= FINE_SECONDS_MIN;
        let (cpu, helpers) = self.processor.lap();
        Shift { cpu, helpers, longest, samples: self.samples.take(), ..Shift::default() }
    }
}

/// Durations and how often each came, few of them apart.
#[derive(Debug, Default)]
struct Samples(Vec<(u64, u32)>);

impl Samples {
    fn add(&mut self, duration: Duration, count: u32) {
        let nanos = round(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        match self.0.last_mut() {
            Some((last, counted)) if *last == nanos => *counted += count,
            _ => {
                // It doubles before it is put into order again, so that this is not done for every item.
                if self.0.len() >= SAMPLES_UNSORTED_MAX && self.0.len() == self.0.capacity() {
                    self.gather();
                }
                self.0.push((nanos, count));
            }
        }
    }

    /// Brings equal durations together.
    fn gather(&mut self) {
        self.0.sort_unstable();
        self.0.dedup_by(|(nanos, count), (kept, counted)| {
            let same = nanos == kept;
            *counted += if same { *count } else { 0 };
            same
        });
    }

    fn take(&mut self) -> Vec<(u64, u32)> {
        if self.0.len() > 1 {
            self.gather();
        }
        std::mem::take(&mut self.0)
    }
}

/// The nearest number that has few bits.
fn round(nanos: u64) -> u64 {
    let excess = (u64::BITS - nanos.leading_zeros()).saturating_sub(KEPT_BITS);
    if excess == 0 {
        return nanos;
    }
    ((nanos >> excess) << excess).saturating_add(1 << (excess - 1))
}

/// Processor time, as deltas.
#[derive(Debug, Default)]
struct Processor {
    looked: Time,
    process: u64,
    thread: u64,
}

impl Processor {
    fn lap(&mut self) -> (Duration, Duration) {
        let now = clock();
        if now.since(self.looked) < CPU_INTERVAL {
            return Default::default();
        }
        self.looked = now;
        let (process, thread) = (read(ClockId::ProcessCPUTime), read(ClockId::ThreadCPUTime));
        let cpu = process.saturating_sub(std::mem::replace(&mut self.process, process));
        let own = thread.saturating_sub(std::mem::replace(&mut self.thread, thread));
        (Duration::from_nanos(cpu), Duration::from_nanos(cpu.saturating_sub(own)))
    }
}

fn read(clock: ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn rounding_is_off_by_a_hundredth_at_most() {
        for nanos in (0..200).chain([1000, 123_456, 98_765_432_100, u64::MAX]) {
            let off = round(nanos).abs_diff(nanos);
            assert!(off <= nanos / 64, "{nanos} became {}", round(nanos));
            assert_eq!(round(round(nanos)), round(nanos));
        }
    }

    #[test]
    fn short_items_share_the_mean_and_a_long_one_among_them_stands_out() {
        let mut watch = Stopwatch::new(true);
        watch.coarse_min = Duration::from_millis(8);
        watch.start(Time(0));
        for item in 0..1000 {
            watch.lap(Time(if item < 500 { 0 } else { 40 * MS }), item);
        }
        let shift = watch.finish(Duration::from_millis(41), 1000);
        assert_eq!(shift.longest, (500, Duration::from_millis(40)));
        assert_eq!(shift.samples.iter().map(|(_, count)| count).sum::<u32>(), 1000);
        assert_eq!(shift.samples[0], (round(MS / 999), 999));
        assert!(watch.fine, "41 µs each is long enough");
    }

    #[test]
    fn what_is_measured_fine_adds_up() {
        let mut watch = Stopwatch::new(true);
        watch.fine = true;
        watch.start(Time(0));
        for item in 0..5000 {
            watch.lap(Time(0), item);
        }
        let shift = watch.finish(Duration::from_micros(100), 5000);
        assert_eq!(shift.samples.iter().map(|(_, count)| count).sum::<u32>(), 5000);
        assert!(shift.samples.is_sorted());
        assert!(!watch.fine);
    }

    #[test]
    fn a_single_item_took_all_the_time() {
        let mut watch = Stopwatch::new(true);
        watch.coarse_min = Duration::from_millis(8);
        watch.start(Time(0));
        watch.lap(Time(100 * MS), 0);
        let shift = watch.finish(Duration::from_millis(64), 1);
        assert_eq!(shift.samples, [(round(64 * MS), 1)]);
        assert_eq!(shift.longest, (0, Duration::from_millis(64)));
    }

    #[test]
    fn nothing_is_told_when_it_is_off() {
        let mut watch = Stopwatch::new(false);
        watch.start(Time(0));
        watch.lap(Time(0), 0);
        assert_eq!(watch.finish(Duration::from_secs(1), 1), Shift::default());
    }
}
