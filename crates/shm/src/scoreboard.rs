//! What each worker is doing: one line of words per slot, written by the slot's worker, readable by the parent at any
//! time and also after the worker's death.
//!
//! ```text
//!   one slot = one cache line of 64 bytes, so that writers do not disturb each other
//!   word   0         1     2      3       4       5       6      7
//!          sequence  job   item   since   calls   phase   held   pid
//! ```
//!
//! Before the slots stands a head of four lines: one that says what this file is, written once, and three with the pool's
//! [`Figures`], written by its driver. Neither is for the workers; they are for an [onlooker](crate::onlooker), another process
//! of the same user that shows what pools do. Each figure is one word and true by itself, so there is no sequence.
//!
//! Behind the slots stands a line for each that is its [gate](crate::gate). Onlookers do not look there.
//!
//! `pid` is the slot's worker, in its own PID namespace; written when it takes the slot over.
//!
//! `held` stands by itself: a number of bytes that any thread of the worker adds to and takes from, by one atomic
//! operation each. A reader takes it as it is.
//!
//! # The protocol
//! A reader wants the five words as they were at one moment. The writer makes the sequence odd, writes the words,
//! makes the sequence even again. A reader that finds the same even sequence before and after reading the words has
//! read them undisturbed. Two edges make that true on every machine:
//!
//! - **publish**: the writer's last store (even sequence, `Release`) → the reader's first load (`Acquire`). Who sees
//!   the even number sees all words that were written before it, not older ones.
//! - **retract**: the writer's `Release` fence after the odd store → the reader's `Acquire` fence before its second
//!   load. Suppose that the reader has read one word of a *later* writing. That word was stored after the fence, so
//!   the odd number before the fence is visible to the reader's second load, which then differs from the first.
//!
//! Without *retract* the processor may let a word's store overtake the odd store, and a reader could see
//! the new job with the old item between two equal sequences. The words themselves are atomics with `Relaxed` order:
//! to read torn words is expected, to have a data race would be undefined.
//!
//! The tests show that the sequence is needed (without the odd store, or without the reader's second load, they fail).
//! They cannot show the same of the two edges: on x86-64, where they were run, each ordering can be weakened and they
//! still pass, since that processor does not reorder stores with stores or loads with loads. The edges rest on the
//! argument above.
//!
//! The writer may be killed between the odd and the even number. The sequence then stays odd for ever, and a reader
//! that waited for it would hang; so a reader tries a bounded number of times and then takes the words as they are.
//! One worker's words are then possibly of two moments, for a worker that is dead or that changes its mind faster than
//! one can read.
//!
//! The words have one writer, which keeps copies of all it needs; it reads the sequence once, when it takes
//! the slot over from a predecessor that may have left it odd.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::fence;

use rustix::time::{ClockId, clock_gettime};

use crate::error::Result;
use crate::figures::{FIGURE_LINES, Figures};
use crate::gate::{Gate, Turnstile};
use crate::segment::{LINE_WORDS, Line, Segment, Sharing, Words};

/// How often a reader tries for undisturbed words. A writing takes some 10 ns; a live writer is disturbed
/// in it by a scheduler at worst, and no reader should wait for that.
const READ_TRIES: usize = 64;

pub(crate) const SEQUENCE: usize = 0;
pub(crate) const JOB: usize = 1;
pub(crate) const ITEM: usize = 2;
pub(crate) const SINCE: usize = 3;
pub(crate) const CALLS: usize = 4;
pub(crate) const PHASE: usize = 5;
pub(crate) const HELD: usize = 6;
pub(crate) const PID: usize = 7;

/// The name that `/proc` shows for the memory file.
pub const SCOREBOARD_NAME: &str = "forklift-scoreboard";

/// What the first word of a scoreboard is.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"FORKLIFT");

/// The layout of head and slots; to be raised with every change of either, so that onlookers of other versions refuse it.
pub(crate) const LAYOUT: u64 = 1;

/// Words of the head's first line.
pub(crate) const HEAD_MAGIC: usize = 0;
pub(crate) const HEAD_LAYOUT: usize = 1;
pub(crate) const HEAD_SLOTS: usize = 2;
pub(crate) const HEAD_PID: usize = 3;
pub(crate) const HEAD_BEGUN: usize = 4;

/// Lines before the first slot.
pub(crate) const HEAD_LINES: usize = 1 + FIGURE_LINES;

/// What a worker does with its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u64)]
pub enum Phase {
    /// It has none.
    #[default]
    Idle = 0,
    /// Turns bytes into objects.
    Decoding = 1,
    /// Runs the user's function.
    Calling = 2,
    /// Turns the result into bytes.
    Encoding = 3,
}

impl Phase {
    /// The phase that a shared word stands for; nonsense is taken for idleness, as nothing better is known.
    pub(crate) fn of(word: u64) -> Self {
        match word {
            1 => Self::Decoding,
            2 => Self::Calling,
            3 => Self::Encoding,
            _ => Self::Idle,
        }
    }
}

/// What was read of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// The job that the item belongs to; that of the last item when idle.
    pub job: u64,
    /// The item's index in its job; that of the last item when idle.
    pub item: u64,
    /// Since when the slot is in this phase with this item, on CLOCK_MONOTONIC in nanoseconds; 0 if never written.
    pub since_nanoseconds: u64,
    /// How many calls of the user's function the slot's present worker has begun.
    pub calls: u64,
    /// What the worker is doing.
    pub phase: Phase,
}

/// One line of words for each slot, in a segment of its own. The reader's end; [`Mark`] is the writer's.
#[derive(Debug)]
pub struct Scoreboard {
    words: Arc<Words>,
    slots: u32,
}

impl Scoreboard {
    /// Creates a scoreboard of that many slots, all of them idle.
    ///
    /// # Errors
    /// As for [`Segment::create`]; 0 slots are [`OutOfRange`](crate::Error::OutOfRange).
    pub fn create(slots: u32) -> Result<Self> {
        let bytes = if slots == 0 { 0 } else { bytes_of(slots) };
        let board = Self::over(&Segment::create_as(SCOREBOARD_NAME, bytes)?, slots)?;
        let head = board.words.line(0);
        head[HEAD_LAYOUT].store(LAYOUT, Relaxed);
        head[HEAD_SLOTS].store(u64::from(slots), Relaxed);
        head[HEAD_PID].store(u64::from(std::process::id()), Relaxed);
        head[HEAD_BEGUN].store(now_nanoseconds(), Relaxed);
        head[HEAD_MAGIC].store(MAGIC, Release);
        Ok(board)
    }

    /// Writes the pool's figures into the head. Only the one thread that owns the pool does.
    pub fn post(&self, figures: &Figures) {
        for (index, word) in figures.words().into_iter().enumerate() {
            let line = self.words.line(1 + index / LINE_WORDS);
            line[index % LINE_WORDS].store(word, Relaxed);
        }
    }

    /// Maps the scoreboard that another process created, which must have at least that many slots.
    ///
    /// # Errors
    /// As for [`Segment::open`].
    pub fn open(fd: OwnedFd, slots: u32) -> Result<Self> {
        Self::over(&Segment::open(fd, bytes_of(slots), Sharing::Shared)?, slots)
    }

    fn over(segment: &Arc<Segment>, slots: u32) -> Result<Self> {
        Ok(Self { words: Arc::new(Words::new(segment)?), slots })
    }

    /// The descriptor, to be sent to a worker.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.words.segment().fd()
    }

    /// How many slots there are.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Takes a slot over for writing; it is idle from here on, with no calls. The caller knows that it is the slot's
    /// only writer: two would not harm memory, but readings would be nonsense.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn writer(&self, slot: u32) -> Mark {
        // The one time that a writer reads: a predecessor may have died with the sequence odd. To start from 0 again
        // might, in theory, give a slow reader the same even number twice with other words.
        let left_behind = self.line(slot)[SEQUENCE].load(Relaxed);
        self.line(slot)[HELD].store(0, Relaxed);
        self.line(slot)[PID].store(u64::from(std::process::id()), Relaxed);
        let mut mark = Mark {
            words: Arc::clone(&self.words),
            slot,
            sequence: left_behind.wrapping_add(left_behind & 1),
            job: 0,
            item: 0,
            calls: 0,
        };
        mark.idle();
        mark
    }

    /// Reads a slot. Never waits: if the words cannot be read undisturbed within a few tries (the writer died in the
    /// middle of writing, or writes all the time), they are taken as they are.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn read(&self, slot: u32) -> Reading {
        let line = self.line(slot);
        for _ in 0..READ_TRIES {
            if let Some(reading) = read_undisturbed(line) {
                return reading;
            }
            std::hint::spin_loop();
        }
        read_raw(line)
    }

    /// How many bytes of its blocks the slot's worker says that it holds.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn held(&self, slot: u32) -> u64 {
        self.line(slot)[HELD].load(Relaxed)
    }

    /// Whether the slot's worker died in the middle of writing: then what is [read](Self::read) may be of two moments.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn is_torn(&self, slot: u32) -> bool {
        !self.line(slot)[SEQUENCE].load(Acquire).is_multiple_of(2)
    }

    /// Where the slot's worker is stopped between two pieces of work.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn gate(&self, slot: u32) -> Gate<'_> {
        Gate::new(&self.words, self.gate_index(slot))
    }

    /// The slot's end of its gate. The caller knows that it is the slot's only worker.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn turnstile(&self, slot: u32) -> Turnstile {
        Turnstile::new(Arc::clone(&self.words), self.gate_index(slot))
    }

    fn gate_index(&self, slot: u32) -> usize {
        assert!(slot < self.slots, "expected a slot below {}, found {slot}", self.slots);
        HEAD_LINES + self.slots as usize + slot as usize
    }

    fn line(&self, slot: u32) -> &Line {
        assert!(slot < self.slots, "expected a slot below {}, found {slot}", self.slots);
        self.words.line(HEAD_LINES + slot as usize)
    }
}

/// One try; None when a writer was at work.
fn read_undisturbed(line: &Line) -> Option<Reading> {
    // Edge "publish", the reader's end.
    let before = line[SEQUENCE].load(Acquire);
    let reading = read_raw(line);
    // Edge "retract", the reader's end.
    fence(Acquire);
    let after = line[SEQUENCE].load(Relaxed);
    (before.is_multiple_of(2) && before == after).then_some(reading)
}

fn read_raw(line: &Line) -> Reading {
    Reading {
        job: line[JOB].load(Relaxed),
        item: line[ITEM].load(Relaxed),
        since_nanoseconds: line[SINCE].load(Relaxed),
        calls: line[CALLS].load(Relaxed),
        phase: Phase::of(line[PHASE].load(Relaxed)),
    }
}

/// The one who writes a slot: held by its worker.
///
/// A writing costs a few nanoseconds and no system call; without a time of the caller's, add the reading of the clock
/// (some 25 ns, in user space).
#[derive(Debug)]
pub struct Mark {
    words: Arc<Words>,
    slot: u32,
    sequence: u64,
    job: u64,
    item: u64,
    calls: u64,
}

/// The word of a slot that says how many bytes its worker holds: for any thread of that worker.
#[derive(Debug, Clone)]
pub struct Ledger {
    words: Arc<Words>,
    slot: u32,
}

impl Ledger {
    /// So many bytes more.
    pub fn add(&self, bytes: u64) {
        self.words.line(HEAD_LINES + self.slot as usize)[HELD].fetch_add(bytes, Relaxed);
    }

    /// So many bytes less.
    pub fn subtract(&self, bytes: u64) {
        self.words.line(HEAD_LINES + self.slot as usize)[HELD].fetch_sub(bytes, Relaxed);
    }
}

impl Mark {
    /// Where this slot's held bytes are counted.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger { words: Arc::clone(&self.words), slot: self.slot }
    }

    /// Begins a phase of an item, now.
    pub fn set(&mut self, job: u64, item: u64, phase: Phase) {
        self.set_at(job, item, phase, now_nanoseconds());
    }

    /// Begins a phase of an item, at a time that the caller has just read (CLOCK_MONOTONIC, nanoseconds). To begin
    /// [`Phase::Calling`] counts as a call.
    pub fn set_at(&mut self, job: u64, item: u64, phase: Phase, now_nanoseconds: u64) {
        (self.job, self.item) = (job, item);
        self.phase_at(phase, now_nanoseconds);
    }

    /// Begins another phase of the same item, now.
    pub fn phase(&mut self, phase: Phase) {
        self.phase_at(phase, now_nanoseconds());
    }

    /// Begins another phase of the same item, at a time that the caller has just read. To begin [`Phase::Calling`]
    /// counts as a call.
    pub fn phase_at(&mut self, phase: Phase, now_nanoseconds: u64) {
        self.calls += u64::from(phase == Phase::Calling);
        self.write(phase, now_nanoseconds);
    }

    /// Says that there is nothing to do, now.
    pub fn idle(&mut self) {
        self.phase(Phase::Idle);
    }

    /// Says that there is nothing to do, at a time that the caller has just read.
    pub fn idle_at(&mut self, now_nanoseconds: u64) {
        self.phase_at(Phase::Idle, now_nanoseconds);
    }

    fn write(&mut self, phase: Phase, now_nanoseconds: u64) {
        let line = self.words.line(HEAD_LINES + self.slot as usize);
        line[SEQUENCE].store(self.sequence.wrapping_add(1), Relaxed);
        // Edge "retract", the writer's end.
        fence(Release);
        line[JOB].store(self.job, Relaxed);
        line[ITEM].store(self.item, Relaxed);
        line[SINCE].store(now_nanoseconds, Relaxed);
        line[CALLS].store(self.calls, Relaxed);
        line[PHASE].store(phase as u64, Relaxed);
        self.sequence = self.sequence.wrapping_add(2);
        // Edge "publish", the writer's end.
        line[SEQUENCE].store(self.sequence, Release);
    }
}

/// The time that marks are made with, so that readers can compare: CLOCK_MONOTONIC is one clock for all processes.
fn now_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The size of a scoreboard.
fn bytes_of(slots: u32) -> u64 {
    (HEAD_LINES as u64 + 2 * u64::from(slots)) * size_of::<Line>() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::error::Error;

    fn pair(slots: u32) -> (Scoreboard, Scoreboard) {
        let ours = Scoreboard::create(slots).unwrap();
        let theirs = Scoreboard::open(ours.fd().try_clone_to_owned().unwrap(), slots).unwrap();
        (ours, theirs)
    }

    #[test]
    fn what_a_worker_marks_is_read_by_the_parent() {
        let (parent, worker) = pair(100);
        assert_eq!(parent.read(99), Reading::default());
        let mut mark = worker.writer(99);
        mark.set_at(3, 4, Phase::Decoding, 1_000);
        mark.phase_at(Phase::Calling, 2_000);
        let expected = Reading { job: 3, item: 4, since_nanoseconds: 2_000, calls: 1, phase: Phase::Calling };
        assert_eq!(parent.read(99), expected);
        mark.set(3, 5, Phase::Calling);
        mark.phase(Phase::Encoding);
        let reading = parent.read(99);
        assert_eq!((reading.item, reading.calls, reading.phase), (5, 2, Phase::Encoding));
        assert!(reading.since_nanoseconds <= now_nanoseconds() && reading.since_nanoseconds > 2_000);
        mark.idle_at(9_000);
        assert_eq!((parent.read(99).phase, parent.read(99).since_nanoseconds), (Phase::Idle, 9_000));
        assert_eq!(parent.read(98), Reading::default(), "slots do not disturb each other");
    }

    #[test]
    fn what_a_worker_holds_is_read_by_the_parent_and_ends_with_it() {
        let (parent, worker) = pair(2);
        let mark = worker.writer(1);
        let ledger = mark.ledger();
        ledger.add(500);
        ledger.subtract(100);
        assert_eq!((parent.held(0), parent.held(1)), (0, 400));
        drop(worker.writer(1));
        assert_eq!(parent.held(1), 0, "a successor holds nothing");
    }

    #[test]
    fn a_writer_killed_in_the_middle_hangs_nobody_and_is_succeeded() {
        let (parent, worker) = pair(1);
        let mut mark = worker.writer(0);
        mark.set_at(1, 2, Phase::Calling, 3);
        // What a writer leaves behind that dies after its first two stores.
        worker.line(0)[SEQUENCE].store(mark.sequence + 1, Relaxed);
        worker.line(0)[JOB].store(7, Relaxed);
        drop(mark);
        let reading = parent.read(0);
        assert_eq!((reading.job, reading.item), (7, 2), "the raw words");
        let mut successor = worker.writer(0);
        assert_eq!(successor.sequence % 2, 0);
        assert_eq!((parent.read(0).calls, parent.read(0).phase), (0, Phase::Idle));
        successor.set_at(8, 9, Phase::Calling, 10);
        assert_eq!((parent.read(0).job, parent.read(0).calls), (8, 1));
    }

    #[test]
    fn garbage_is_read_as_something() {
        let (parent, worker) = pair(2);
        for word in worker.line(0) {
            word.store(u64::MAX, Relaxed);
        }
        assert_eq!(parent.read(0).phase, Phase::Idle);
        let mut mark = worker.writer(0);
        mark.set_at(1, 1, Phase::Calling, 1);
        assert_eq!(parent.read(0).job, 1, "the sequence wraps around");
    }

    #[test]
    fn a_scoreboard_has_slots() {
        assert!(matches!(Scoreboard::create(0), Err(Error::OutOfRange { .. })));
    }

    #[test]
    #[should_panic(expected = "expected a slot below 3, found 3")]
    fn slots_are_bounded() {
        Scoreboard::create(3).unwrap().read(3);
    }

    struct StopWhenDropped<'a>(&'a AtomicBool);

    impl Drop for StopWhenDropped<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    /// All words of a writing are derived from one number, so that a mixture of two writings shows.
    #[test]
    fn readings_are_of_one_moment() {
        let (parent, worker) = pair(1);
        let stop = AtomicBool::new(false);
        let (mut changes, mut disturbed) = (0u64, 0u64);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut mark = worker.writer(0);
                let mut number = 0;
                while !stop.load(Relaxed) {
                    number += 1;
                    mark.set_at(number, number, Phase::Calling, number);
                    // Real items take longer than a reading; give the reader room for an undisturbed one.
                    for _ in 0..number % 64 {
                        std::hint::spin_loop();
                    }
                }
            });
            // Also when an assertion below fails: the scope waits for the writer, and a failed test must not hang.
            let _stop = StopWhenDropped(&stop);
            let mut last = 0;
            let deadline = now_nanoseconds() + 5_000_000_000;
            while changes < 10_000 && now_nanoseconds() < deadline {
                match read_undisturbed(parent.line(0)) {
                    Some(reading) if reading.phase == Phase::Calling => {
                        let number = reading.job;
                        let whole = Reading {
                            job: number,
                            item: number,
                            since_nanoseconds: number,
                            calls: number,
                            phase: Phase::Calling,
                        };
                        assert_eq!(reading, whole);
                        changes += u64::from(number != last);
                        last = number;
                    }
                    Some(_) => {}
                    None => disturbed += 1,
                }
            }
        });
        // Without both outcomes seen, nothing was tested.
        assert!(changes > 10, "expected to see the writer write, saw {changes} changes");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        assert!(disturbed > 0 || cores == 1, "expected disturbed readings");
    }
}
