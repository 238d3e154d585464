//! What a caller and the driver share of one job: credit one way, answers the other.
//!
//! The driver posts (grants, answers, the end); a caller's thread takes [`Turn`]s. Both hold the lock for a few
//! instructions only. A caller waits at most as long as it says, so that it can look after Ctrl-C between two waits.

use crate::event::Spent;
use crate::id::{ChunkId, JobId, WorkerId};
use crate::load::{Load, Weight};
use crate::machine::MemoryShort;
use crate::payload::Parcel;
use forklift_shm::{Held, Lock, Waiters};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// What is known of a worker's end beyond its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Nothing.
    Unknown,
    /// SIGKILL, and since the last look the kernel has killed for want of memory.
    MemoryShort(MemoryShort),
    /// SIGKILL, and the kernel, which counts what it kills for want of memory, has killed nothing.
    Sent,
    /// We killed it: it broke the rules of the channel, or could not be reached.
    Expelled(Arc<str>),
    /// What stood in for it, a worker elsewhere, has said this.
    Told(Arc<str>),
    /// It ended for something else than the item, which had begun and cannot be had as it was.
    Aside,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Who.
    pub worker: WorkerId,
    /// Its pid, where it had one.
    pub pid: Option<u32>,
    /// Exit code, or minus the signal; unknown if the zygote died as well.
    pub status: Option<i32>,
    /// Killed by us, since it was at an item for longer than this.
    pub overdue: Option<Duration>,
    /// Killed by us, since it had far more memory than it may.
    pub excess: Option<Excess>,
    /// What else is known.
    pub cause: Cause,
}

impl Death {
    /// Nothing is known of it.
    #[must_use]
    pub fn unknown(worker: WorkerId) -> Self {
        Self { worker, pid: None, status: None, overdue: None, excess: None, cause: Cause::Unknown }
    }
}

/// What a worker had when it was killed for it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// Memory of its own, in all.
    pub own_bytes: u64,
    /// Of that, large arrays in its blocks.
    pub held_bytes: u64,
    /// What it may have after a call; during one, half as much again.
    pub limit: u64,
}

/// What became of some items.
#[derive(Debug)]
pub enum Outcome {
    /// A list of outcomes, one for each item, encoded by the worker.
    Values(Parcel),
    /// The worker died at this (one) item.
    Lost(Death),
}

/// The answer to consecutive items of a job.
#[derive(Debug)]
pub struct Answer {
    /// The job's index of the first of them.
    pub first: u64,
    /// How many.
    pub items: u32,
    /// How many of them are failures.
    pub failed: u32,
    /// What became of them.
    pub outcome: Outcome,
    /// Weight of the results.
    pub bytes: u64,
    /// Where the worker's time went.
    pub spent: Spent,
}

/// Why a job cannot go on.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The initializer raised in a worker; this is the pickled failure.
    Initializer(Arc<[u8]>),
    /// Workers cannot be born, for this reason.
    Births(Arc<str>),
    /// Workers die before they are ready; this is how the last one did.
    Deaths(Death),
    /// The pool was terminated.
    Terminated,
    /// The job was cancelled.
    Cancelled,
    /// There is no room for its results.
    Room(Arc<Shortage>),
}

/// A result for which there is no room.
#[derive(Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The item that it, or the first of several that came together, is the result of.
    pub item: u64,
    /// Bytes of it.
    pub asked: u64,
    /// The limit that it goes beyond.
    pub limit: u64,
    /// What holds the memory, and why it cannot lie elsewhere.
    pub holder: String,
}

/// What a caller may do next.
#[derive(Debug)]
pub enum Turn {
    /// Pull so many items and submit them as one chunk.
    Feed(u32),
    /// Encode this chunk again: a worker died that may have written to it.
    Restore {
        /// Which.
        chunk: ChunkId,
        /// Its items could not be decoded together, so that each has to be encoded by itself.
        apart: bool,
    },
    /// Results have come.
    Answer(Answer),
    /// All has been answered and taken.
    Finished,
    /// The job cannot go on, and nothing is left to take.
    Failed(Fault),
    /// Nothing has happened.
    Nothing,
}

/// Which answers a caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// None: it only feeds.
    Nothing,
    /// Whichever comes first.
    Any,
    /// The one that begins with this item.
    From(u64),
}

/// One job as its caller holds it.
#[derive(Debug)]
pub struct Handle {
    id: JobId,
    state: Lock<State>,
    changed: Waiters,
    announce: Option<Sender<JobId>>,
}

#[derive(Debug, Default)]
struct State {
    granted: u32,
    items: u32,
    restore: VecDeque<(ChunkId, bool)>,
    /// By index of their first item; none overlap.
    answers: BTreeMap<u64, Answer>,
    answered: u64,
    /// Shared, for whoever is not to keep the answers alive; changed with the lock held.
    finished: Arc<AtomicBool>,
    fault: Option<Fault>,
    /// Of a job that is fed without credit: what it holds until its end.
    weight: Option<Weight>,
}

impl Handle {
    /// A job that has just begun. Its end is announced to `announce`, if given.
    #[must_use]
    pub fn new(id: JobId, announce: Option<Sender<JobId>>) -> Self {
        Self { id, state: Lock::default(), changed: Waiters::new(), announce }
    }

    /// What was encoded for it without credit counts in this load until it ends.
    pub fn weigh(&self, load: &Arc<Load>, bytes: u64) {
        let mut state = self.lock();
        if !state.finished() {
            state.weight.get_or_insert_with(|| Weight::of(Arc::clone(load))).add(bytes);
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    fn lock(&self) -> Held<'_, State> {
        self.state.lock()
    }

    /// Driver: more credit.
    pub(crate) fn grant(&self, chunks: u32, items: u32) {
        let mut state = self.lock();
        state.granted += chunks;
        state.items = items.max(1);
        drop(state);
        self.changed.announce();
    }

    /// Driver: a chunk has to be encoded again.
    pub(crate) fn restore(&self, chunk: ChunkId, apart: bool) {
        self.lock().restore.push_back((chunk, apart));
        self.changed.announce();
    }

    /// Driver: results.
    pub(crate) fn answer(&self, answer: Answer) {
        let mut state = self.lock();
        state.answered += u64::from(answer.items);
        state.answers.insert(answer.first, answer);
        drop(state);
        self.changed.announce();
    }

    /// Driver: the end, with its reason if it is not the natural one. Only the first end counts.
    pub(crate) fn finish(&self, fault: Option<Fault>) {
        let mut state = self.lock();
        if state.finished.swap(true, Ordering::Relaxed) {
            return;
        }
        state.fault = fault;
        let weight = state.weight.take();
        drop(state);
        self.changed.announce();
        drop(weight);
        if let Some(announce) = &self.announce {
            // Nobody listens any more once the pool is gone.
            let _ = announce.send(self.id);
        }
    }

    /// Waits up to `patience` for something that this caller can do: feeding (if `feeding`) goes before taking, so
    /// that workers do not wait for a caller that is busy with results.
    #[must_use]
    pub fn turn(&self, feeding: bool, taking: Taking, patience: Duration) -> Turn {
        let deadline = Instant::now() + patience;
        loop {
            let looked = self.changed.look();
            if let Some(turn) = self.lock().take(feeding, taking) {
                return turn;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Turn::Nothing;
            }
            self.changed.wait(looked, left);
        }
    }

    /// Whether all has been answered, or the job cannot go on; answers may still wait to be taken.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.lock().finished()
    }

    /// What becomes true when it is [`finished`](Self::finished), for whoever is not to keep its answers alive.
    #[must_use]
    pub fn ended(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.lock().finished)
    }

    /// Items answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.lock().answered
    }
}

impl State {
    fn finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }

    fn take(&mut self, feeding: bool, taking: Taking) -> Option<Turn> {
        if !self.finished() && feeding {
            if let Some((chunk, apart)) = self.restore.pop_front() {
                return Some(Turn::Restore { chunk, apart });
            }
            if self.granted > 0 {
                self.granted -= 1;
                return Some(Turn::Feed(self.items));
            }
        } else if !self.finished()
            && let Some((chunk, apart)) = self.restore.pop_front()
        {
            // Whoever still holds the items may be past feeding.
            return Some(Turn::Restore { chunk, apart });
        }
        let answer = match taking {
            Taking::Nothing => None,
            Taking::Any => self.answers.pop_first().map(|(_, answer)| answer),
            Taking::From(first) => self.answers.remove(&first),
        };
        if let Some(answer) = answer {
            return Some(Turn::Answer(answer));
        }
        if !self.finished() {
            return None;
        }
        match (&self.fault, taking) {
            (Some(fault), _) => Some(Turn::Failed(fault.clone())),
            (None, _) => Some(Turn::Finished),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn lost(first: u64) -> Answer {
        let death = Death::unknown(WorkerId { slot: 0, generation: 1 });
        Answer {
            first,
            items: 1,
            failed: 1,
            outcome: Outcome::Lost(death),
            bytes: 0,
            spent: Spent::default(),
        }
    }

    #[test]
    fn feeding_goes_before_taking_and_uses_up_credit() {
        let handle = Handle::new(JobId(1), None);
        handle.answer(lost(0));
        handle.grant(1, 7);
        assert!(matches!(handle.turn(true, Taking::Any, NOW), Turn::Feed(7)));
        assert!(matches!(handle.turn(true, Taking::Any, NOW), Turn::Answer(_)));
        assert!(matches!(handle.turn(true, Taking::Any, NOW), Turn::Nothing));
    }

    #[test]
    fn answers_come_in_order_where_order_is_asked_for() {
        let handle = Handle::new(JobId(1), None);
        handle.answer(lost(5));
        assert!(matches!(handle.turn(false, Taking::From(4), NOW), Turn::Nothing));
        handle.answer(lost(4));
        assert!(matches!(handle.turn(false, Taking::From(4), NOW), Turn::Answer(Answer { first: 4, .. })));
        handle.finish(None);
        assert!(matches!(handle.turn(false, Taking::From(5), NOW), Turn::Answer(Answer { first: 5, .. })));
        assert!(matches!(handle.turn(false, Taking::From(6), NOW), Turn::Finished));
    }

    #[test]
    fn a_fault_comes_after_what_was_answered_and_is_announced_once() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let handle = Handle::new(JobId(3), Some(sender));
        handle.answer(lost(0));
        handle.finish(Some(Fault::Terminated));
        handle.finish(None);
        assert!(matches!(handle.turn(true, Taking::Any, NOW), Turn::Answer(_)));
        assert!(matches!(handle.turn(true, Taking::Any, NOW), Turn::Failed(Fault::Terminated)));
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [JobId(3)]);
    }

    #[test]
    fn what_was_encoded_without_credit_counts_until_the_end() {
        let load = Arc::new(Load::default());
        let handle = Handle::new(JobId(1), None);
        handle.weigh(&load, 3);
        handle.weigh(&load, 4);
        assert!(load.has_room(8) && !load.has_room(7));
        handle.finish(None);
        assert!(load.has_room(0));
        handle.weigh(&load, 5);
        assert!(load.has_room(0), "nothing is left to let go of it");
    }

    #[test]
    fn a_waiting_caller_is_woken() {
        let handle = Arc::new(Handle::new(JobId(1), None));
        let waiter = Arc::clone(&handle);
        let thread = std::thread::spawn(move || waiter.turn(true, Taking::Any, Duration::from_secs(60)));
        handle.grant(1, 1);
        assert!(matches!(thread.join().unwrap(), Turn::Feed(1)));
    }
}
