//! What parent and worker say to each other, and how it looks in bytes.
//!
//! One message is one packet of the channel. Integers are little-endian and of fixed size; lists carry their length
//! first. Nothing is believed before it is checked: [`ToWorker::decode`] and [`ToParent::decode`] return
//! [`Error::Malformed`] for whatever is not exactly a message, and never panic or allocate more than the packet
//! could fill. A message that is longer than a packet may be travels in a block, announced by `Long`.

use crate::error::{Error, Result};
use crate::event::Spent;
use crate::id::{ChunkId, JobId, WorkerId};
use crate::payload::{Outline, Part};
use forklift_shm::{SegmentId, Sharing, Span};
use std::time::Duration;

/// Raised whenever a message changes its form; both ends come from one build, so it only guards against a worker
/// that imported another installation.
pub const VERSION: u16 = 1;

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
        /// The function, if this worker has not had it yet.
        function: Option<Outline>,
        /// The chunk: a pickled list of items.
        payload: Outline,
    },
    /// The job is over: drop its function.
    Forget {
        /// Which.
        job: JobId,
    },
    /// Blocks of the worker that the parent has done with.
    Release {
        /// Which.
        spans: Vec<Span>,
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
        /// A pickled list of outcomes.
        results: Outline,
        /// Blocks of the parent that are no longer needed.
        released: Vec<Span>,
    },
    /// Blocks of the parent that are no longer needed.
    Release {
        /// Which.
        spans: Vec<Span>,
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
            Self::Start { worker, slots, line, initializer } => {
                out.u8(b'S').u32(worker.slot).u32(worker.generation).u32(*slots).u32(*line);
                out.option(initializer.as_ref());
            }
            Self::Segment { id, bytes, sharing } => {
                out.u8(b'M').u32(id.0).u64(*bytes).u8(u8::from(*sharing == Sharing::Private));
            }
            Self::Call { job, chunk, first, skip, items, function, payload } => {
                out.u8(b'C').u64(job.0).u64(chunk.0).u64(*first).u32(*skip).u32(*items);
                out.option(function.as_ref()).outline(payload);
            }
            Self::Forget { job } => {
                out.u8(b'F').u64(job.0);
            }
            Self::Release { spans } => {
                out.u8(b'R').spans(spans);
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
                initializer: from.option()?,
            },
            b'M' => Self::Segment {
                id: SegmentId(from.u32()?),
                bytes: from.u64()?,
                sharing: if from.bool()? { Sharing::Private } else { Sharing::Shared },
            },
            b'C' => Self::Call {
                job: JobId(from.u64()?),
                chunk: ChunkId(from.u64()?),
                first: from.u64()?,
                skip: from.u32()?,
                items: from.u32()?,
                function: from.option()?,
                payload: from.outline()?,
            },
            b'F' => Self::Forget { job: JobId(from.u64()?) },
            b'R' => Self::Release { spans: from.spans()? },
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
            Self::Return { chunk, items, failed, last, spent, results, released } => {
                out.u8(b'r').u64(chunk.0).u32(*items).u32(*failed).u8(u8::from(*last));
                out.duration(spent.decode).duration(spent.call).duration(spent.encode);
                out.outline(results).spans(released);
            }
            Self::Release { spans } => {
                out.u8(b'g').spans(spans);
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
            b'r' => Self::Return {
                chunk: ChunkId(from.u64()?),
                items: from.u32()?,
                failed: from.u32()?,
                last: from.bool()?,
                spent: Spent { decode: from.duration()?, call: from.duration()?, encode: from.duration()? },
                results: from.outline()?,
                released: from.spans()?,
            },
            b'g' => Self::Release { spans: from.spans()? },
            b'l' => Self::Long { span: from.span()? },
            _ => return Err(Error::Malformed("unknown kind of message to the parent")),
        };
        from.end(message)
    }
}

/// Appends fields to a packet.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn duration(&mut self, value: Duration) -> &mut Self {
        self.u64(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX))
    }

    fn length(&mut self, value: usize) -> &mut Self {
        // Longer than 4 Gi entries is never reached: the list would not fit a block's announcement.
        self.u32(u32::try_from(value).expect("a message's list has less than 2^32 entries"))
    }

    fn span(&mut self, span: Span) -> &mut Self {
        self.u32(span.segment.0).u64(span.offset).u64(span.bytes)
    }

    fn spans(&mut self, spans: &[Span]) -> &mut Self {
        self.length(spans.len());
        for span in spans {
            self.span(*span);
        }
        self
    }

    fn part(&mut self, part: &Part) -> &mut Self {
        match part {
            Part::Inline(bytes) => {
                self.u8(0).length(bytes.len());
                self.0.extend(bytes);
                self
            }
            Part::Span(span) => self.u8(1).span(*span),
        }
    }

    fn outline(&mut self, outline: &Outline) -> &mut Self {
        self.part(&outline.stream).length(outline.buffers.len());
        for part in &outline.buffers {
            self.part(part);
        }
        self
    }

    fn option(&mut self, outline: Option<&Outline>) -> &mut Self {
        match outline {
            None => self.u8(0),
            Some(outline) => self.u8(1).outline(outline),
        }
    }
}

/// Takes fields off the front of a packet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (here, rest) = self.0.split_at_checked(count).ok_or(Error::Malformed("message too short"))?;
        self.0 = rest;
        Ok(here)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::Malformed("neither true nor false")),
        }
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn duration(&mut self) -> Result<Duration> {
        Ok(Duration::from_nanos(self.u64()?))
    }

    fn span(&mut self) -> Result<Span> {
        Ok(Span { segment: SegmentId(self.u32()?), offset: self.u64()?, bytes: self.u64()? })
    }

    /// A list of at least `entry_bytes` each: a length that the rest of the packet cannot hold is refused before
    /// anything is allocated.
    fn list<T>(
        &mut self,
        entry_bytes: usize,
        mut entry: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.u32()? as usize;
        if count > self.0.len() / entry_bytes {
            return Err(Error::Malformed("list longer than its message"));
        }
        (0..count).map(|_| entry(self)).collect()
    }

    fn spans(&mut self) -> Result<Vec<Span>> {
        self.list(20, Self::span)
    }

    fn part(&mut self) -> Result<Part> {
        if self.bool()? {
            return Ok(Part::Span(self.span()?));
        }
        let count = self.u32()? as usize;
        Ok(Part::Inline(self.take(count)?.to_vec()))
    }

    fn outline(&mut self) -> Result<Outline> {
        Ok(Outline { stream: self.part()?, buffers: self.list(5, Self::part)? })
    }

    fn option(&mut self) -> Result<Option<Outline>> {
        if self.bool()? { self.outline().map(Some) } else { Ok(None) }
    }

    fn end<T>(self, message: T) -> Result<T> {
        if self.0.is_empty() {
            Ok(message)
        } else {
            Err(Error::Malformed("bytes after the end of a message"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span() -> impl Strategy<Value = Span> {
        (any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(segment, offset, bytes)| Span {
            segment: SegmentId(segment),
            offset,
            bytes,
        })
    }

    fn part() -> impl Strategy<Value = Part> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Part::Inline),
            span().prop_map(Part::Span)
        ]
    }

    fn outline() -> impl Strategy<Value = Outline> {
        (part(), prop::collection::vec(part(), 0..5))
            .prop_map(|(stream, buffers)| Outline { stream, buffers })
    }

    fn to_worker() -> impl Strategy<Value = ToWorker> {
        prop_oneof![
            (any::<[u32; 4]>(), prop::option::of(outline())).prop_map(
                |([slot, generation, slots, line], initializer)| ToWorker::Start {
                    worker: WorkerId { slot, generation },
                    slots,
                    line,
                    initializer
                }
            ),
            (any::<u32>(), any::<u64>(), any::<bool>()).prop_map(|(id, bytes, private)| ToWorker::Segment {
                id: SegmentId(id),
                bytes,
                sharing: if private { Sharing::Private } else { Sharing::Shared }
            }),
            (any::<[u64; 3]>(), any::<[u32; 2]>(), prop::option::of(outline()), outline()).prop_map(
                |([job, chunk, first], [skip, items], function, payload)| ToWorker::Call {
                    job: JobId(job),
                    chunk: ChunkId(chunk),
                    first,
                    skip,
                    items,
                    function,
                    payload
                }
            ),
            any::<u64>().prop_map(|job| ToWorker::Forget { job: JobId(job) }),
            prop::collection::vec(span(), 0..9).prop_map(|spans| ToWorker::Release { spans }),
            Just(ToWorker::Stop),
            span().prop_map(|span| ToWorker::Long { span }),
        ]
    }

    fn to_parent() -> impl Strategy<Value = ToParent> {
        let spent = any::<[u64; 3]>().prop_map(|[a, b, c]| Spent {
            decode: Duration::from_nanos(a),
            call: Duration::from_nanos(b),
            encode: Duration::from_nanos(c),
        });
        prop_oneof![
            any::<u16>().prop_map(|version| ToParent::Ready { version }),
            outline().prop_map(|failure| ToParent::Refused { failure }),
            (any::<u32>(), any::<u64>())
                .prop_map(|(id, bytes)| ToParent::Segment { id: SegmentId(id), bytes }),
            (
                any::<u64>(),
                any::<[u32; 2]>(),
                any::<bool>(),
                spent,
                outline(),
                prop::collection::vec(span(), 0..5)
            )
                .prop_map(|(chunk, [items, failed], last, spent, results, released)| {
                    ToParent::Return { chunk: ChunkId(chunk), items, failed, last, spent, results, released }
                }),
            prop::collection::vec(span(), 0..9).prop_map(|spans| ToParent::Release { spans }),
            span().prop_map(|span| ToParent::Long { span }),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_the_way_to_a_worker(message in to_worker()) {
            prop_assert_eq!(ToWorker::decode(&message.encode()).expect("own message"), message);
        }

        #[test]
        fn messages_survive_the_way_to_the_parent(message in to_parent()) {
            prop_assert_eq!(ToParent::decode(&message.encode()).expect("own message"), message);
        }

        #[test]
        fn garbage_is_refused_or_means_itself(packet in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = ToWorker::decode(&packet) {
                prop_assert_eq!(message.encode(), packet.clone());
            }
            if let Ok(message) = ToParent::decode(&packet) {
                prop_assert_eq!(message.encode(), packet);
            }
        }

        #[test]
        fn a_cut_message_is_refused(message in to_parent(), keep in 0.0..1.0f64) {
            let packet = message.encode();
            let cut = (packet.len() as f64 * keep) as usize;
            prop_assert!(ToParent::decode(&packet[..cut]).is_err());
        }
    }
}
