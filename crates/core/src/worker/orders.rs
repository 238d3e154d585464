//! What a worker is asked to do, and what became of it.

use crate::commons::Shared;
use crate::error::Error;
use crate::event::Spent;
use crate::id::{ChunkId, JobId, Time};
use crate::payload::Parcel;
use crate::telemetry::Shift;
use std::time::Duration;

/// What the parent wants of this worker.
pub enum Order {
    /// Run the initializer, if there is one, then report [`Station::ready`](super::Station::ready) or [`Station::refuse`](super::Station::refuse).
    Start {
        /// The pickled `(initializer, initargs)`.
        initializer: Option<Parcel>,
    },
    /// Call the function of `job` for some items, and answer them in order.
    Call(Call),
    /// Answer the items of this piece with this error: what they are built upon could not be received.
    Refuse(Refused),
    /// Keep a value for the tasks to come, under this key.
    Share {
        /// The job that it ends with; job 0 is the pool.
        job: JobId,
        /// Its name in pickles.
        key: u64,
        /// Whether one object serves all tasks; else each gets its own.
        keep: bool,
        /// The value.
        value: Shared,
    },
    /// Drop the value of this key.
    Unshare(u64),
    /// Drop the function of this job, and the values that were shared for it.
    Forget(JobId),
    /// Leave.
    Stop,
    /// A signal came, or nothing did for a while: look after the interpreter, then ask again.
    Pause,
}

/// A piece of work.
#[derive(Debug)]
pub struct Call {
    /// Whose.
    pub job: JobId,
    /// Of which chunk.
    pub chunk: ChunkId,
    /// The job's index of the chunk's first item.
    pub first: u64,
    /// Items to leave out at the front of the chunk.
    pub skip: u32,
    /// Items to do.
    pub items: u32,
    /// Whether the piece may be [given back](super::Station::give_back).
    pub retained: bool,
    /// When to [surrender](super::Station::surrender) what is not begun of it.
    pub until: Option<Time>,
    /// The function, the first time.
    pub function: Option<Parcel>,
    /// The pickled list of the chunk's items.
    pub payload: Parcel,
    /// When it came, and how long this worker had waited for it.
    pub begun: Time,
    /// See `begun`.
    pub waited: Duration,
}

/// A piece of work that cannot be done.
#[derive(Debug)]
pub struct Refused {
    /// Whose.
    pub job: JobId,
    /// Of which chunk.
    pub chunk: ChunkId,
    /// The job's index of its first item.
    pub first: u64,
    /// How many items.
    pub items: u32,
    /// Why.
    pub reason: Error,
}

/// What became of the next items of the piece in hand.
#[derive(Debug)]
pub struct Done {
    /// Of which chunk.
    pub chunk: ChunkId,
    /// How many.
    pub items: u32,
    /// How many of them failed.
    pub failed: u32,
    /// Whether these are the last.
    pub last: bool,
    /// Where the time went.
    pub spent: Spent,
    /// Where else. What copying and sending took is added to it here.
    pub shift: Shift,
}
