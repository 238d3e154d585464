//! What the machines are told, and what they order.
//!
//! Everything that happens to a pool is one [`Event`]; everything a machine wants done is one [`Command`]. The
//! driver collects the events, shows each to the supervisor and then to the scheduler, and performs the commands in
//! order. Both enums are closed: the stream of events is the trace, the telemetry and the test script.

use crate::id::{ChunkId, JobId, WorkerId};
use std::time::Duration;

/// How the items of a job are cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunking {
    /// Chosen while running, from what items cost and weigh.
    Automatic,
    /// As `Automatic`, of items that are nothing but the numbers of a range: they weigh nothing and are read at once, so a
    /// chunk is formed of many before anything is known of them, and cut when it is sent.
    Numbered,
    /// The user's `chunksize`, kept exactly (the last chunk may be shorter).
    Fixed(u32),
}

/// What becomes of a job's results in the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// `map`, `apply`: the caller takes each as it comes and holds them all.
    Collected,
    /// `imap`: results wait for a consumer, within `stream_bytes`; with `Some(n)` (`buffersize`), at most `n` items
    /// are taken from the iterable ahead of the consumer.
    Streamed(Option<u64>),
}

/// What the scheduler knows of a job from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobSpec {
    /// Jobs that call the same function have the same number here, where that can be told.
    pub function: Option<u64>,
    /// How many items there will be, where that is known before they are pulled.
    pub items: Option<u64>,
    /// How to cut them.
    pub chunking: Chunking,
    /// What becomes of the results.
    pub delivery: Delivery,
    /// How often an item is tried again after its worker died.
    pub retries: u32,
    /// How long a worker may be at one item before it is replaced.
    pub task_timeout: Option<Duration>,
}

impl JobSpec {
    /// Whether a consumer takes the results as they come.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        matches!(self.delivery, Delivery::Streamed(_))
    }
}

/// Whose the bytes of a chunk are while workers have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Workers only read them, or write to pages of their own. They stay as they are, whatever becomes of a worker.
    Lent,
    /// A worker writes to the very bytes of the items that it has begun. Those are used up.
    Own,
}

/// Who could have the items of a chunk again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nobody.
    Not,
    /// Its feed, as they were sent and in no other form.
    AsSent,
    /// Its feed, and each by itself.
    OneByOne,
}

/// Why an item is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Its worker died of it, or at it.
    Died,
    /// It had begun when its worker ended for something else, and what it saw first cannot be had again.
    Used,
}

/// Where a worker's time went while it worked on some items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Turning payload into objects.
    pub decode: Duration,
    /// In the user's function.
    pub call: Duration,
    /// Turning results into payload.
    pub encode: Duration,
}

/// Where a worker was when it died, as its line of the scoreboard tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// Between pieces: it had not begun the oldest piece it was given, if it had one.
    Between,
    /// Decoding or encoding the piece as a whole: no single item can be named.
    Translating,
    /// In the function, at this item (index in the job).
    Calling(u64),
    /// At this item for longer than its job allows: it was killed for that.
    Overdue(u64),
    /// At this item with far more memory than a worker may have: it was killed for that.
    Oversized(u64),
    /// It was killed for something that is not among what it still holds, which is not to blame.
    Stopped,
}

/// Why a worker gets no more work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wear {
    /// It was given the last of its `tasks_per_worker` calls.
    Calls,
    /// It holds more memory than a worker may, after a call.
    Memory,
    /// It has as many descriptors open as it may, and no room for those that it is to be sent.
    Descriptors,
}

/// A fact. Each variant says who reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Façade: a job begins. Its feed waits for the first [`Command::Grant`].
    Opened {
        /// The new job.
        job: JobId,
        /// What is known of it.
        spec: JobSpec,
    },
    /// Feed: one chunk was pulled and encoded, using up one granted chunk. `first` is the job's index of its first
    /// item; a job's chunks come in order and without gaps.
    Submitted {
        /// Whose.
        job: JobId,
        /// The new chunk.
        chunk: ChunkId,
        /// Index of its first item in the job.
        first: u64,
        /// How many items, at least 1.
        items: u32,
        /// Weight of its payload in shared memory and messages.
        bytes: u64,
        /// Whose its bytes are while workers have them.
        holding: Holding,
        /// Who could have its items again.
        kept: Kept,
    },
    /// Feed: the iterable has ended, after so many items in all. No more chunks come.
    Exhausted {
        /// Whose.
        job: JobId,
        /// Items in all.
        items: u64,
    },
    /// Façade: the caller wants nothing more of this job (interrupt, `cancel`, iterator dropped, iterable raised).
    Cancelled {
        /// Which.
        job: JobId,
    },
    /// Façade: the consumer of a streamed job took results.
    Consumed {
        /// Whose.
        job: JobId,
        /// How many items.
        items: u64,
        /// Their result bytes.
        bytes: u64,
    },
    /// Feed: a chunk that was [`Command::Reclaim`]ed was encoded again, with the same contents; its pieces may go.
    Restored {
        /// Which.
        chunk: ChunkId,
        /// Its weight now.
        bytes: u64,
    },
    /// Feed: the items of a chunk that was [`Command::Reclaim`]ed are not what they were. Nobody can have them again.
    Forfeited {
        /// Which.
        chunk: ChunkId,
    },
    /// Façade: the pool should have so many seats.
    Resized {
        /// The new number, at least 1.
        processes: u32,
    },
    /// Façade: someone needs workers now (the first job, an initializer, `workers()`). Before it no worker is born.
    Wanted,
    /// Façade: no more jobs will come; workers leave when all is done.
    Closed,
    /// Façade: `join` waits; streamed jobs must no longer wait for their consumers.
    Unbounded,
    /// Façade: everything ends now. Workers are killed, jobs are dropped.
    Terminated,
    /// Driver: the child process exists.
    Born {
        /// Which.
        worker: WorkerId,
    },
    /// Driver: the child could not be made (limits, the zygote died…). No `Exited` follows.
    Stillborn {
        /// Which.
        worker: WorkerId,
    },
    /// Worker: it has run the initializer and waits for work.
    Ready {
        /// Which.
        worker: WorkerId,
    },
    /// Worker: the initializer raised; the worker is about to exit. `Exited` follows.
    Refused {
        /// Which.
        worker: WorkerId,
    },
    /// Worker: results of the next `items` items of the oldest piece it holds.
    Returned {
        /// Which.
        worker: WorkerId,
        /// Of which chunk.
        chunk: ChunkId,
        /// How many of the piece's items this answers, in order.
        items: u32,
        /// Whether this completes the piece.
        last: bool,
        /// Weight of the results.
        bytes: u64,
        /// Where its time went.
        spent: Spent,
    },
    /// Worker: the oldest piece it holds cannot be decoded as it is, since one of its chunk's items cannot be rebuilt. It
    /// gives the piece back; the items should be encoded one by one.
    Unreadable {
        /// Which.
        worker: WorkerId,
        /// Of which chunk.
        chunk: ChunkId,
    },
    /// Worker: the rest of the oldest piece it holds comes back as it was, not begun, since the worker is used up
    /// or has been at it for far longer than was thought.
    Surrendered {
        /// Which.
        worker: WorkerId,
        /// Of which chunk.
        chunk: ChunkId,
    },
    /// Scheduler (by [`Command::Relieve`]) or worker: it can do no more than what it has begun, and should be succeeded.
    UsedUp {
        /// Which.
        worker: WorkerId,
        /// Why.
        by: Wear,
    },
    /// Scheduler (by [`Command::Excuse`]): a worker that is used up has answered all that it was given.
    Excused {
        /// Which.
        worker: WorkerId,
    },
    /// Driver: the process is gone, whatever the reason. Everything it had returned before was reported before.
    Exited {
        /// Which.
        worker: WorkerId,
        /// Where it was.
        at: Whereabouts,
        /// How many of the items of its oldest piece that it had not answered it had begun, at most.
        begun: u32,
    },
    /// Driver: a worker that was to be [interrupted](Command::Interrupt) at a piece had gone on from it, and lives.
    Passed {
        /// Which.
        worker: WorkerId,
        /// The number of the piece.
        piece: u64,
    },
    /// Driver: memory is short, or is not any more; these limits hold instead of the configured ones (see
    /// `pressure`).
    Admitted {
        /// For `window_bytes`.
        window_bytes: u64,
        /// For `stream_bytes`.
        stream_bytes: u64,
    },
    /// Driver: this process is about to fork, and will hardly answer a worker for about so long, as the last fork took. Zero
    /// when no more forks are due.
    Forking {
        /// How long.
        lasts: Duration,
    },
    /// Driver: a deadline that a machine named has come.
    Tick,
}

/// An order to the driver. Each variant says which machine gives it and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Scheduler: the job's feed may pull and submit `chunks` more chunks; every chunk it forms from now on,
    /// including those granted earlier and not yet formed, has `items` items.
    Grant {
        /// Whose feed.
        job: JobId,
        /// How many more chunks.
        chunks: u32,
        /// Items in each.
        items: u32,
    },
    /// Scheduler: send a piece of a chunk: `items` items, leaving out its first `skip`. `Returned` follows, or
    /// `Surrendered`.
    Dispatch {
        /// To whom.
        worker: WorkerId,
        /// Of which chunk.
        chunk: ChunkId,
        /// Items of the chunk to leave out at its front.
        skip: u32,
        /// Items to do.
        items: u32,
        /// When it has been at them for so long, it gives back those that it has not begun. None: it does all.
        patience: Option<Duration>,
    },
    /// Scheduler: this chunk is over (all answered, lost or cancelled); its payload is not needed again.
    Retire {
        /// Which.
        chunk: ChunkId,
    },
    /// Scheduler: items of this chunk must go again although a worker has used up their bytes, or could not decode them
    /// together. `Restored` follows, or `Forfeited`.
    Reclaim {
        /// Which.
        chunk: ChunkId,
    },
    /// Scheduler: this item ended with its worker and will not be tried again: report `WorkerDied` for it.
    Lose {
        /// Whose.
        job: JobId,
        /// Index of the item in the job.
        item: u64,
        /// Which worker died at it.
        worker: WorkerId,
        /// Why.
        loss: Loss,
    },
    /// Scheduler: every item of the job has been answered or lost, or the job was cancelled and nothing of it runs.
    Finish {
        /// Which.
        job: JobId,
    },
    /// Scheduler: this piece, the oldest that the worker holds, is wanted no more; stop the worker the hard way before it
    /// begins another. `Exited` follows, or `Passed` if it has.
    Interrupt {
        /// Which.
        worker: WorkerId,
        /// The piece's number: how many the worker had been given with it.
        piece: u64,
    },
    /// Scheduler: this worker holds the last calls that it may be given. [`Event::UsedUp`] follows.
    Relieve {
        /// Which.
        worker: WorkerId,
    },
    /// Scheduler: this worker is used up and holds nothing any more. [`Event::Excused`] follows.
    Excuse {
        /// Which.
        worker: WorkerId,
    },
    /// Supervisor: bring a worker to life. `Born` or `Stillborn` follows.
    Bear {
        /// Which.
        worker: WorkerId,
    },
    /// Supervisor: ask it to leave once it has answered what it holds. `Exited` follows.
    Dismiss {
        /// Which.
        worker: WorkerId,
    },
    /// Supervisor: kill it. `Exited` follows.
    Kill {
        /// Which.
        worker: WorkerId,
    },
    /// Supervisor: workers cannot be born, for good. Every open job fails, and every new one.
    Break,
    /// Supervisor: the pool was closed or terminated and its last worker is gone.
    Rest,
}
