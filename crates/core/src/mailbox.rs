//! What callers ask of the driver, and what they can see of it.
//!
//! One queue and one eventfd: a caller leaves a [`Request`] and goes on. The driver empties the whole queue at a
//! time, so a burst of requests costs one wake-up.

use crate::error::{Result, system};
use crate::event::{JobSpec, Kept};
use crate::handle::{Answer, Fault, Handle, Shortage};
use crate::id::{ChunkId, JobId, WorkerId};
use crate::payload::Payload;
use crate::telemetry::Recorder;
use forklift_shm::{Held, Lock, Span, Waiters, beside_streams};
use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// What a caller wants. The events of the same name say what follows.
#[derive(Debug)]
pub(crate) enum Request {
    /// A job begins.
    Open { handle: Arc<Handle>, spec: JobSpec, function: Payload, recorder: Arc<Recorder> },
    /// A chunk was encoded.
    Submit(Submission),
    /// A chunk was encoded again.
    Restore { chunk: ChunkId, payload: Payload },
    /// A chunk cannot be encoded again as it was.
    Forfeit { chunk: ChunkId },
    /// A value that the job's items (or, if it is 0, anybody's) refer to by its key.
    Share { job: JobId, key: u64, keep: bool, value: Payload },
    /// A value that was shared with everybody is not needed any more.
    Unshare { key: u64 },
    /// The iterable has ended.
    Exhaust { job: JobId, items: u64 },
    /// Nothing more is wanted of a job.
    Cancel { job: JobId },
    /// A consumer took results.
    Consume { job: JobId, items: u64, bytes: u64 },
    /// The results of an answer were moved to a disk, or could not be.
    Moved { answered: Answered, shortage: Option<Shortage> },
    /// A worker's block is no longer needed here.
    Release { worker: WorkerId, span: Span },
    /// Another number of seats.
    Resize { processes: u32 },
    /// Workers are wanted now.
    Want,
    /// Modules that the zygote should import before further births.
    Import { modules: Vec<u8> },
    /// A fork of the user's process was made (or not).
    Forked { worker: WorkerId, outcome: std::result::Result<u32, String> },
    /// Who works here?
    Staff { reply: Sender<Vec<Member>> },
    /// What was done so far?
    Count { reply: Sender<Counters> },
    /// No more jobs come.
    Close,
    /// `join` waits.
    Unbound,
    /// Everything ends now.
    Terminate,
}

/// A chunk that a feed has encoded.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) job: JobId,
    pub(crate) chunk: ChunkId,
    /// The job's index of its first item.
    pub(crate) first: u64,
    pub(crate) items: u32,
    pub(crate) payload: Payload,
    /// Items of the payload before its first.
    pub(crate) lead: u32,
    pub(crate) kept: Kept,
}

/// What a worker has answered, on its way to whoever waits for it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) worker: WorkerId,
    pub(crate) job: JobId,
    pub(crate) chunk: ChunkId,
    /// Whether the piece is done with it.
    pub(crate) last: bool,
    pub(crate) answer: Answer,
}

/// A worker as its pool sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub worker: WorkerId,
    /// Its pid, once it has one.
    pub pid: Option<u32>,
    /// `starting`, `idle`, `busy` or `leaving`.
    pub state: &'static str,
    /// Calls of the function that it has answered.
    pub calls: u64,
    /// Bytes of the parent's blocks that it holds.
    pub held_bytes: u64,
}

/// What a pool has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Processes born.
    pub births: u64,
    /// Workers that ended without having been asked to leave, the pool's end apart.
    pub deaths: u64,
    /// Workers replaced because they had made their `maxtasksperchild` calls.
    pub recycled_tasks: u64,
    /// Workers replaced because they held more memory than they may, after a call.
    pub recycled_memory: u64,
    /// Workers stopped because they held far more memory than they may, during a call.
    pub stopped_memory: u64,
    /// Looks at the machine that made the pool admit less, since memory was short.
    pub throttled: u64,
    /// What it admits now, in per cent of what it would otherwise; 0 is one chunk at a time.
    pub admitted_percent: u64,
    /// Messages to workers.
    pub messages_sent: u64,
    /// Messages from workers.
    pub messages_received: u64,
    /// Items that were tried again after their worker died.
    pub retried: u64,
    /// Chunks that were encoded.
    pub chunks: u64,
    /// Times that a function crossed to a worker.
    pub functions_sent: u64,
    /// Payload bytes copied into blocks on the way to workers; each byte counts once for each copy.
    pub bytes_copied_in: u64,
    /// Payload bytes that workers were given as they lay, without a copy.
    pub bytes_lent: u64,
    /// Payload bytes that travelled inside messages to workers.
    pub bytes_in_messages: u64,
    /// Result bytes that came in the workers' blocks.
    pub result_bytes: u64,
    /// Those of them that were handed over as they lay in the worker, without a copy.
    pub result_bytes_handed: u64,
    /// Bytes of the parent's arenas that were touched for the first time.
    pub fresh_bytes: u64,
    /// Result bytes that were moved to a disk.
    pub spilled_bytes: u64,
    /// The most that payload in flight ever held of the memory that one task gets for itself, in whole pages.
    pub payload_bytes_peak: u64,
    /// The most bytes of workers' memory that results ever held here: waiting, on their way to a disk, or in use.
    pub results_bytes_peak: u64,
}

/// How far a pool's life has come.
#[derive(Debug, Default)]
pub(crate) struct Status {
    state: Lock<Life>,
    changed: Waiters,
}

#[derive(Debug, Default)]
struct Life {
    over: bool,
    fault: Option<Fault>,
}

impl Status {
    fn lock(&self) -> Held<'_, Life> {
        self.state.lock()
    }

    /// Driver: the last worker is gone.
    pub(crate) fn end(&self) {
        self.lock().over = true;
        self.changed.announce();
    }

    /// Driver: whatever is asked from now on gets this.
    pub(crate) fn break_with(&self, fault: &Fault) {
        self.lock().fault = Some(fault.clone());
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lock().over
    }

    pub(crate) fn fault(&self) -> Option<Fault> {
        self.lock().fault.clone()
    }

    /// Waits up to `patience` for the end; whether it has come.
    pub(crate) fn wait(&self, patience: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let looked = self.changed.look();
            let over = self.lock().over;
            let left = patience.saturating_sub(begun.elapsed());
            if over || left.is_zero() {
                return over;
            }
            self.changed.wait(looked, left);
        }
    }
}

/// The queue. It is open for as long as the driver lives; what is sent later is dropped.
#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: Lock<Queue>,
    creator: u32,
}

#[derive(Debug)]
struct Queue {
    requests: Vec<Request>,
    /// Gone when the driver is.
    bell: Option<Arc<OwnedFd>>,
}

impl Mailbox {
    /// A mailbox, and the bell by which its reader is woken.
    pub(crate) fn new() -> Result<(Self, Arc<OwnedFd>)> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(system("make an eventfd"))?;
        let bell = Arc::new(beside_streams(bell));
        let queue = Queue { requests: Vec::new(), bell: Some(Arc::clone(&bell)) };
        Ok((Self { queue: Lock::new(queue), creator: std::process::id() }, bell))
    }

    fn lock(&self) -> Held<'_, Queue> {
        self.queue.lock()
    }

    /// Whether this process made the pool; a fork of it did not.
    pub(crate) fn is_ours(&self) -> bool {
        std::process::id() == self.creator
    }

    /// Leaves a request and wakes the driver. In a fork of the process that made the pool there is no driver:
    /// there this does nothing.
    pub(crate) fn send(&self, request: Request) {
        if !self.is_ours() {
            return;
        }
        let mut queue = self.lock();
        let Some(bell) = queue.bell.clone() else { return };
        queue.requests.push(request);
        let first = queue.requests.len() == 1;
        drop(queue);
        if first {
            // The counter can only be full when the driver has not looked for 2^64 requests.
            let _ = rustix::io::write(&bell, &1u64.to_ne_bytes());
        }
    }

    /// Takes all that has come.
    pub(crate) fn empty(&self, bell: &OwnedFd) -> Vec<Request> {
        // The bell is silenced before the queue is read: a request that comes in between rings anew.
        let mut count = [0; 8];
        let _ = rustix::io::read(bell, &mut count);
        std::mem::take(&mut self.lock().requests)
    }

    /// Takes what has come last; nothing comes after.
    pub(crate) fn shut(&self) -> Vec<Request> {
        let mut queue = self.lock();
        queue.bell = None;
        std::mem::take(&mut queue.requests)
    }
}
