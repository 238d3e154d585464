//! What callers ask of the driver, and what they can see of it.
//!
//! One queue and one eventfd: a caller leaves a [`Request`] and goes on. The driver empties the whole queue at a
//! time, so a burst of requests costs one wake-up.

use crate::error::{Result, system};
use crate::event::JobSpec;
use crate::handle::{Fault, Handle};
use crate::id::{ChunkId, JobId, WorkerId};
use crate::payload::Payload;
use forklift_shm::Span;
use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a caller wants. The events of the same name say what follows.
#[derive(Debug)]
pub(crate) enum Request {
    /// A job begins.
    Open { handle: Arc<Handle>, spec: JobSpec, function: Payload },
    /// A chunk was encoded.
    Submit { job: JobId, chunk: ChunkId, first: u64, items: u32, payload: Payload },
    /// A chunk was encoded again.
    Restore { chunk: ChunkId, payload: Payload },
    /// The iterable has ended.
    Exhaust { job: JobId, items: u64 },
    /// Nothing more is wanted of a job.
    Cancel { job: JobId },
    /// A consumer took results.
    Consume { job: JobId, items: u64, bytes: u64 },
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
    /// Messages to workers.
    pub messages_sent: u64,
    /// Messages from workers.
    pub messages_received: u64,
    /// Chunks that were encoded.
    pub chunks: u64,
    /// Times that a function crossed to a worker.
    pub functions_sent: u64,
    /// Payload bytes copied into blocks on the way to workers; each byte counts once for each copy.
    pub bytes_copied_in: u64,
    /// Payload bytes that travelled inside messages to workers.
    pub bytes_in_messages: u64,
    /// Result bytes that came in the workers' blocks.
    pub result_bytes: u64,
    /// Bytes of the parent's arenas that were touched for the first time.
    pub fresh_bytes: u64,
}

/// How far a pool's life has come.
#[derive(Debug, Default)]
pub(crate) struct Status {
    state: Mutex<Life>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Life {
    over: bool,
    fault: Option<Fault>,
}

impl Status {
    fn lock(&self) -> MutexGuard<'_, Life> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Driver: the last worker is gone.
    pub(crate) fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
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
        let waited = self.changed.wait_timeout_while(self.lock(), patience, |life| !life.over);
        waited.unwrap_or_else(PoisonError::into_inner).0.over
    }
}

/// The queue. It is open for as long as the driver lives; what is sent later is dropped.
#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: Mutex<Queue>,
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
        let bell = Arc::new(bell);
        let queue = Queue { requests: Vec::new(), bell: Some(Arc::clone(&bell)) };
        Ok((Self { queue: Mutex::new(queue), creator: std::process::id() }, bell))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a request and wakes the driver. In a fork of the process that made the pool there is no driver, and the
    /// queue may have been locked for ever by a thread that the fork left behind: there this does nothing.
    pub(crate) fn send(&self, request: Request) {
        if std::process::id() != self.creator {
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
