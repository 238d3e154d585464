//! What parent and worker say to each other, and how it looks in bytes.
//!
//! One message is one packet of the channel. Integers are little-endian and of fixed size; lists carry their length
//! first. Nothing is believed before it is checked: [`ToWorker::decode`] and [`ToParent::decode`] return
//! [`Error::Malformed`] for whatever is not exactly a message, and never panic or allocate more than the packet
//! could fill. A message that is longer than a packet may be travels in a block, announced by `Long`.

mod fields;

use crate::error::{Error, Result};
use crate::event::Spent;
use crate::id::{ChunkId, JobId, WorkerId};
use crate::payload::Outline;
use crate::telemetry::Shift;
use fields::{Reader, Writer};
use forklift_shm::{SegmentId, Sharing, Span};
use std::time::Duration;

/// Raised whenever a message changes its form; both ends come from one build, so it only guards against a worker
/// that imported another installation.
pub const VERSION: u16 = 4;

/// So many segments at a time are said to be gone: a message of that fits a packet.
pub const DROPPED_MAX: usize = 4 << 10;

/// From the parent to one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToWorker {
    /// Once, first. The scoreboard's descriptor comes along.
    Start {
        /// Who the worker is.
        worker: WorkerId,
        /// Lines of the scoreboard.
        slots: u32,
        /// The line that this worker writes.
        line: u32,
        /// Bytes of its own that it may have after a call; 0 is no limit.
        memory_limit: u64,
        /// Where one in the parent's own process finds [what lies near](crate::near).
        shelf: u64,
        /// After how long a rest it gives warm memory back to the system.
        trim_after: Duration,
        /// The pickled `(initializer, initargs)`.
        initializer: Option<Outline>,
    },
    /// A segment that later messages refer to. Its descriptor comes along.
    Segment {
        /// Its name.
        id: SegmentId,
        /// Its size.
        bytes: u64,
        /// How to map it.
        sharing: Sharing,
        /// Whether it is sealed. One that is not is another's memory, and only ever mapped privately.
        sealed: bool,
    },
    /// Segments that are no more: no message refers to them any more, and nothing of them is in use.
    Dropped {
        /// Their names.
        segments: Vec<SegmentId>,
    },
    /// Do a piece of a chunk.
    Call {
        /// Whose.
        job: JobId,
        /// Of which chunk.
        chunk: ChunkId,
        /// The job's index of the chunk's first item.
        first: u64,
        /// Items to leave out at the front of the chunk.
        skip: u32,
        /// Items to do.
        items: u32,
        /// Whether the piece may be given back, to be encoded in another way.
        retained: bool,
        /// After so many microseconds, give back what was not begun. 0: never.
        patience: u32,
        /// The function, if this worker has not had it yet.
        function: Option<Outline>,
        /// The chunk: a pickled list of items.
        payload: Outline,
    },
    /// A value that many tasks refer to by its key. It is kept until its job is over, or, if that is 0, until `Unshare`.
    Share {
        /// The job that it ends with, or 0.
        job: JobId,
        /// Its name in pickles.
        key: u64,
        /// Whether one object serves all tasks.
        keep: bool,
        /// The pickled value.
        value: Outline,
    },
    /// Drop the value of this key.
    Unshare {
        /// Which.
        key: u64,
    },
    /// The job is over: drop its function, and the values that were shared for it.
    Forget {
        /// Which.
        job: JobId,
    },
    /// Blocks of the worker that the parent has done with.
    Release {
        /// Which.
        spans: Vec<Span>,
    },
    /// The descriptor of this segment of the worker's has not arrived. It is to be announced again.
    Again {
        /// Which.
        id: SegmentId,
    },
    /// Leave after what was given before.
    Stop,
    /// A message too long for a packet: read it here.
    Long {
        /// Where it lies.
        span: Span,
    },
}

/// From a worker to the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all that come are of the largest")]
pub enum ToParent {
    /// The initializer ran; work may come.
    Ready {
        /// [`VERSION`] of the worker.
        version: u16,
    },
    /// The initializer raised this; the worker leaves.
    Refused {
        /// The pickled failure.
        failure: Outline,
    },
    /// A segment that later messages refer to. Its descriptor comes along.
    Segment {
        /// Its name.
        id: SegmentId,
        /// Its size.
        bytes: u64,
    },
    /// Segments that are no more: no message refers to them any more, and nothing of them is in use.
    Dropped {
        /// Their names.
        segments: Vec<SegmentId>,
    },
    /// Results of the next items of a piece.
    Return {
        /// Of which chunk.
        chunk: ChunkId,
        /// How many items this answers.
        items: u32,
        /// How many of them failed.
        failed: u32,
        /// Whether the piece is done.
        last: bool,
        /// Where the time went.
        spent: Spent,
        /// Where else, and how it was spread over the items: for reports.
        shift: Shift,
        /// How many bytes of the results were handed over as they lay, without a copy.
        handed_bytes: u64,
        /// A pickled list of outcomes.
        results: Outline,
        /// Blocks of the parent that are no longer needed.
        released: Vec<Span>,
    },
    /// The items of a chunk cannot be rebuilt together: the piece comes back undone, and should be encoded one by one.
    Unreadable {
        /// Which chunk.
        chunk: ChunkId,
    },
    /// It holds more memory of its own than it may, after a call. It begins on nothing more.
    Outgrown {
        /// How much.
        own_bytes: u64,
    },
    /// It has as many descriptors open as it may, and could not receive one. It begins on nothing more.
    Short {
        /// How many that is.
        limit: u64,
    },
    /// A piece, or the rest of it, is given back: this worker has outgrown its limit, or is at it for longer than it should.
    Surrendered {
        /// Of which chunk.
        chunk: ChunkId,
    },
    /// Blocks of the parent that are no longer needed.
    Release {
        /// Which.
        spans: Vec<Span>,
    },
    /// Last: it is no more. From a worker elsewhere, or one that cannot go on.
    Lost {
        /// Why, in words.
        reason: String,
    },
    /// A message too long for a packet: read it here.
    Long {
        /// Where it lies.
        span: Span,
    },
}

impl ToWorker {
    /// The message as a packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Start { worker, slots, line, memory_limit, shelf, trim_after, initializer } => {
                out.u8(b'S').u32(worker.slot).u32(worker.generation).u32(*slots).u32(*line);
                out.u64(*memory_limit).u64(*shelf).duration(*trim_after).option(initializer.as_ref());
            }
            Self::Segment { id, bytes, sharing, sealed } => {
                out.u8(b'M').u32(id.0).u64(*bytes);
                out.u8(u8::from(*sharing == Sharing::Private) | u8::from(!*sealed) << 1);
            }
            Self::Dropped { segments } => {
                out.u8(b'D').segments(segments);
            }
            Self::Call { job, chunk, first, skip, items, retained, patience, function, payload } => {
                out.u8(b'C')
                    .u64(job.0)
                    .u64(chunk.0)
                    .u64(*first)
                    .u32(*skip)
                    .u32(*items)
                    .u8(u8::from(*retained))
                    .u32(*patience);
                out.option(function.as_ref()).outline(payload);
            }
            Self::Share { job, key, keep, value } => {
                out.u8(b'V').u64(job.0).u64(*key).u8(u8::from(*keep)).outline(value);
            }
            Self::Unshare { key } => {
                out.u8(b'U').u64(*key);
            }
            Self::Forget { job } => {
                out.u8(b'F').u64(job.0);
            }
            Self::Release { spans } => {
                out.u8(b'R').spans(spans);
            }
            Self::Again { id } => {
                out.u8(b'A').u32(id.0);
            }
            Self::Stop => {
                out.u8(b'Q');
            }
            Self::Long { span } => {
                out.u8(b'L').span(*span);
            }
        }
        out.0
    }

    /// The packet as a message.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decode(packet: &[u8]) -> Result<Self> {
        let mut from = Reader(packet);
        let message = match from.u8()? {
            b'S' => Self::Start {
                worker: WorkerId { slot: from.u32()?, generation: from.u32()? },
                slots: from.u32()?,
                line: from.u32()?,
                memory_limit: from.u64()?,
                shelf: from.u64()?,
                trim_after: from.duration()?,
                initializer: from.option()?,
            },
            b'M' => {
                let (id, bytes, kind) = (SegmentId(from.u32()?), from.u64()?, from.u8()?);
                if kind > 3 {
                    return Err(Error::Malformed("unknown kind of segment"));
                }
                let sharing = if kind & 1 == 0 { Sharing::Shared } else { Sharing::Private };
                Self::Segment { id, bytes, sharing, sealed: kind & 2 == 0 }
            }
            b'D' => Self::Dropped { segments: from.segments()? },
            b'C' => Self::Call {
                job: JobId(from.u64()?),
                chunk: ChunkId(from.u64()?),
                first: from.u64()?,
                skip: from.u32()?,
                items: from.u32()?,
                retained: from.bool()?,
                patience: from.u32()?,
                function: from.option()?,
                payload: from.outline()?,
            },
            b'V' => Self::Share {
                job: JobId(from.u64()?),
                key: from.u64()?,
                keep: from.bool()?,
                value: from.outline()?,
            },
            b'U' => Self::Unshare { key: from.u64()? },
            b'F' => Self::Forget { job: JobId(from.u64()?) },
            b'R' => Self::Release { spans: from.spans()? },
            b'A' => Self::Again { id: SegmentId(from.u32()?) },
            b'Q' => Self::Stop,
            b'L' => Self::Long { span: from.span()? },
            _ => return Err(Error::Malformed("unknown kind of message to a worker")),
        };
        from.end(message)
    }
}

impl ToParent {
    /// The message as a packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Ready { version } => {
                out.u8(b'y').u32(u32::from(*version));
            }
            Self::Refused { failure } => {
                out.u8(b'n').outline(failure);
            }
            Self::Segment { id, bytes } => {
                out.u8(b'm').u32(id.0).u64(*bytes);
            }
            Self::Dropped { segments } => {
                out.u8(b'x').segments(segments);
            }
            Self::Return { chunk, items, failed, last, spent, shift, handed_bytes, results, released } => {
                out.u8(b'r').u64(chunk.0).u32(*items).u32(*failed).u8(u8::from(*last));
                out.duration(spent.decode).duration(spent.call).duration(spent.encode).shift(shift);
                out.u64(*handed_bytes).outline(results).spans(released);
            }
            Self::Unreadable { chunk } => {
                out.u8(b'u').u64(chunk.0);
            }
            Self::Outgrown { own_bytes } => {
                out.u8(b'o').u64(*own_bytes);
            }
            Self::Short { limit } => {
                out.u8(b'e').u64(*limit);
            }
            Self::Surrendered { chunk } => {
                out.u8(b's').u64(chunk.0);
            }
            Self::Release { spans } => {
                out.u8(b'g').spans(spans);
            }
            Self::Lost { reason } => {
                out.u8(b'd').text(reason);
            }
            Self::Long { span } => {
                out.u8(b'l').span(*span);
            }
        }
        out.0
    }

    /// The packet as a message.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decode(packet: &[u8]) -> Result<Self> {
        let mut from = Reader(packet);
        let message = match from.u8()? {
            b'y' => Self::Ready {
                version: u16::try_from(from.u32()?).map_err(|_| Error::Malformed("version out of range"))?,
            },
            b'n' => Self::Refused { failure: from.outline()? },
            b'm' => Self::Segment { id: SegmentId(from.u32()?), bytes: from.u64()? },
            b'x' => Self::Dropped { segments: from.segments()? },
            b'r' => Self::Return {
                chunk: ChunkId(from.u64()?),
                items: from.u32()?,
                failed: from.u32()?,
                last: from.bool()?,
                spent: Spent { decode: from.duration()?, call: from.duration()?, encode: from.duration()? },
                shift: from.shift()?,
                handed_bytes: from.u64()?,
                results: from.outline()?,
                released: from.spans()?,
            },
            b'u' => Self::Unreadable { chunk: ChunkId(from.u64()?) },
            b'o' => Self::Outgrown { own_bytes: from.u64()? },
            b'e' => Self::Short { limit: from.u64()? },
            b's' => Self::Surrendered { chunk: ChunkId(from.u64()?) },
            b'g' => Self::Release { spans: from.spans()? },
            b'd' => Self::Lost { reason: from.text()? },
            b'l' => Self::Long { span: from.span()? },
            _ => return Err(Error::Malformed("unknown kind of message to the parent")),
        };
        from.end(message)
    }
}

#[cfg(test)]
mod tests;
