//! One value on its way between processes: the pickle stream and its out-of-band buffers.
//!
//! ```text
//!   sender                                        message                     receiver
//!   Payload { stream, buffers } ── outline() ──▶  Outline { parts } ── open ──▶ Parcel { stream, buffers }
//!   owns blocks in its arena                      spans and small bytes        views of the sender's blocks
//! ```
//!
//! [`Payload::pack`] makes **the one copy**: it gathers the pieces that the encoder left where they were into
//! blocks. Every out-of-band buffer has a block of its own, so that one that is kept (an array that the receiver
//! holds on to) does not keep its neighbours. What is small travels inside the message and touches no block.
//!
//! Nothing here knows pickle: a stream is bytes, a buffer is bytes.

mod announced;
mod digest;
mod nearby;

use crate::copying::Copying;
use crate::error::{Error, Result};
use crate::event::Holding;
use crate::near::{self, Shelf};
use forklift_shm::{Arena, Block, Draft, Release, Segment, SegmentId, Sharing, Span, View};
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use announced::Announced;
pub use digest::Digest;
pub(crate) use nearby::open_near;
pub use nearby::{Loaned, Neighbour};

/// A payload of up to this many bytes in all travels inside its message, and so does a stream by itself: below it a copy through the socket costs
/// less than a block's bookkeeping and release.
pub const INLINE_BYTES_MAX: usize = 16 << 10;

/// Segments of a parent's arena for what many tasks get are numbered from here, those of its arena for what one task
/// gets from 0.
pub const BROADCAST_SEGMENTS: u32 = 1 << 31;

/// Segments that a parent lends on or lends from elsewhere (a worker's, or those of its own arrays) are numbered from
/// here, by their serial numbers.
const FOREIGN_SEGMENTS: u32 = 3 << 30;

/// The same segments under a second name, where receivers are to write into them: see [`Loan::writable`]. Below
/// [`BROADCAST_SEGMENTS`], so that they are mapped shared.
const WRITABLE_SEGMENTS: u32 = 1 << 30;

/// How a receiver maps a segment that was announced to it under this name: what one task gets is its own; what
/// several may see is copied when it is written to.
#[must_use]
pub fn sharing_of(id: SegmentId) -> Sharing {
    if id.0 >= BROADCAST_SEGMENTS { Sharing::Private } else { Sharing::Shared }
}

/// Whether a segment is lent on, and seen copy-on-write.
fn is_foreign(id: SegmentId) -> bool {
    id.0 >= FOREIGN_SEGMENTS
}

/// The number of a segment that is lent on, under either of its names.
fn number_of(id: SegmentId) -> u32 {
    id.0 & !FOREIGN_SEGMENTS
}

/// Bytes of a segment, kept where they are for as long as this lives; or of this process, for a receiver that is in it, too.
#[derive(Clone)]
pub struct Loan {
    /// None for what has not to be mapped.
    segment: Option<Arc<Segment>>,
    /// As the receiver is told.
    span: Span,
    keeper: Arc<dyn Send + Sync>,
}

impl Loan {
    /// All of a block of an arena of ours, under the arena's own name for it.
    #[must_use]
    pub fn of_block(block: Arc<Block>) -> Self {
        Self { segment: Some(Arc::clone(block.segment())), span: block.span(), keeper: block }
    }

    /// A part of a block, which goes to the receiver for good: `offset` bytes from the block's start.
    #[must_use]
    pub fn within_block(block: Arc<Block>, offset: u64, bytes: u64) -> Self {
        let Span { segment, offset: start, .. } = block.span();
        let span = Span { segment, offset: start + offset, bytes };
        Self { segment: Some(Arc::clone(block.segment())), span, keeper: block }
    }

    /// Bytes that lie in some segment for as long as `keeper` lives, and that others may see as well: the receiver
    /// gets them copy-on-write.
    #[must_use]
    pub fn foreign(segment: Arc<Segment>, offset: u64, bytes: u64, keeper: Arc<dyn Send + Sync>) -> Self {
        let id = SegmentId(FOREIGN_SEGMENTS | (segment.serial() & !FOREIGN_SEGMENTS));
        Self { segment: Some(segment), span: Span { segment: id, offset, bytes }, keeper }
    }

    /// The same foreign bytes for a receiver that is to change them where they lie. The receiver maps the segment once
    /// more, shared: what it writes is seen by everybody who maps the segment.
    ///
    /// The caller sees to it that no byte is lent so to two receivers at a time, and that nobody else writes to what is
    /// lent so: each byte has one writer. A receiver that dies leaves these bytes half written, and no others.
    #[must_use]
    pub fn writable(mut self) -> Self {
        let number = self.span.segment.0 & !FOREIGN_SEGMENTS;
        self.span.segment = SegmentId(WRITABLE_SEGMENTS | number);
        self
    }

    /// What the receiver is told.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span
    }

    /// The segment to show to the receiver, unless it has the bytes without.
    #[must_use]
    pub fn segment(&self) -> Option<&Arc<Segment>> {
        self.segment.as_ref()
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Loan").field(&self.span).finish()
    }
}

/// A buffer that is to become part of a payload.
#[derive(Debug)]
pub enum Source<'a> {
    /// To be copied.
    Copy(&'a [u8]),
    /// To be lent as it lies.
    Lend(Loan),
    /// To be lent as it lies to a receiver that makes a copy, for which there has to be room as for one of ours.
    Weigh(Loan),
}

/// Some bytes of a value at their sender.
#[derive(Debug, Clone)]
enum Piece {
    Inline(Arc<[u8]>),
    Copied(Loan),
    Lent(Loan),
    Weighed(Loan),
}

/// A value in the memory of the process that encoded it. Cheap to clone: clones share the blocks, which go back to
/// their arena when the last clone and the last borrower are gone.
#[derive(Debug, Clone)]
pub struct Payload {
    stream: Piece,
    buffers: Vec<Piece>,
    bytes: u64,
    packing: Duration,
}

/// Where the bytes of a value are, in words that fit a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Here.
    Inline(Vec<u8>),
    /// In the sender's memory.
    Span(Span),
}

/// A value as a message carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The pickle stream.
    pub stream: Part,
    /// Its out-of-band buffers, in the order in which the stream asks for them.
    pub buffers: Vec<Part>,
}

/// Some bytes of a value at their receiver.
#[derive(Debug)]
pub enum Bytes {
    /// They came inside the message.
    Inline(Box<[u8]>),
    /// They lie in the sender's block, lent until this is dropped.
    View(View),
    /// They were moved to memory of this process's own.
    Moved(Moved),
    /// They are an object's of this process.
    Near(Loaned),
}

/// Bytes in a draft that is never sent: whoever holds it reads and writes it.
#[derive(Debug)]
pub struct Moved {
    /// None only while being dropped.
    draft: Option<Draft>,
    creator: u32,
}

impl Moved {
    /// Takes over a draft.
    #[must_use]
    pub fn new(draft: Draft) -> Self {
        Self { draft: Some(draft), creator: std::process::id() }
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        // A fork of this process has a copy of the draft, which is not its to give back: the pages are the parent's.
        if self.creator != std::process::id() {
            std::mem::forget(self.draft.take());
        }
    }
}

/// A value at its receiver.
#[derive(Debug)]
pub struct Parcel {
    /// The pickle stream.
    pub stream: Bytes,
    /// Its out-of-band buffers.
    pub buffers: Vec<Bytes>,
}

impl Payload {
    /// Gathers a value: what is to be copied goes into blocks of `arena`, each byte once; what is lent stays where it
    /// is.
    ///
    /// # Errors
    /// When the arena cannot grow; [`Error::Stopped`] if a long copy [should not go on](crate::copying), and then what was
    /// begun has gone back to the arena.
    pub fn pack(arena: &Arena, stream: &[&[u8]], buffers: &[Source<'_>]) -> Result<Self> {
        Self::pack_with(Copying::new(), arena, stream, buffers)
    }

    fn pack_with(
        mut copying: Copying<'_>,
        arena: &Arena,
        stream: &[&[u8]],
        buffers: &[Source<'_>],
    ) -> Result<Self> {
        let begun = Instant::now();
        let stream_bytes: usize = stream.iter().map(|piece| piece.len()).sum();
        let copied = |buffer: &Source<'_>| match buffer {
            Source::Copy(bytes) => bytes.len(),
            Source::Lend(_) | Source::Weigh(_) => 0,
        };
        let bytes = stream_bytes + buffers.iter().map(copied).sum::<usize>();
        let inline = bytes <= INLINE_BYTES_MAX;
        let weighed =
            |buffer: &Source<'_>| if let Source::Weigh(loan) = buffer { loan.span.bytes } else { 0 };
        let weight = bytes as u64 + buffers.iter().map(weighed).sum::<u64>();
        let mut place = |pieces: &[&[u8]], length: usize, inline: bool| -> Result<Piece> {
            if inline || length == 0 {
                return Ok(Piece::Inline(pieces.concat().into()));
            }
            let mut draft = arena.allocate(length as u64)?;
            let mut rest = &mut draft[..];
            for piece in pieces {
                let (here, after) = rest.split_at_mut(piece.len());
                copying.copy(here, piece)?;
                rest = after;
            }
            Ok(Piece::Copied(Loan::of_block(Arc::new(draft.seal()))))
        };
        let buffers = buffers.iter().map(|buffer| match buffer {
            Source::Copy(bytes) => place(&[bytes], bytes.len(), inline),
            Source::Lend(loan) => Ok(Piece::Lent(loan.clone())),
            Source::Weigh(loan) => Ok(Piece::Weighed(loan.clone())),
        });
        let buffers = buffers.collect::<Result<_>>()?;
        // The stream of an array or frame is short.
        let stream = place(stream, stream_bytes, stream_bytes <= INLINE_BYTES_MAX)?;
        Ok(Self { stream, buffers, bytes: weight, packing: begun.elapsed() })
    }

    /// The weight of the value: bytes that were copied into blocks or travel in messages. What is lent weighs nothing,
    /// since it takes no memory that would not be taken otherwise, unless its receiver copies it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A number that values with another stream or size do not have, but by chance. Nothing if the stream is too long to
    /// travel in a message.
    #[must_use]
    pub fn fingerprint(&self) -> Option<u64> {
        let Piece::Inline(stream) = &self.stream else { return None };
        let mut hasher = DefaultHasher::new();
        (stream, self.total_bytes()).hash(&mut hasher);
        Some(hasher.finish())
    }

    /// How long it took to gather it.
    #[must_use]
    pub fn packing(&self) -> Duration {
        self.packing
    }

    /// How many bytes of the value are lent as they lie.
    #[must_use]
    pub fn lent_bytes(&self) -> u64 {
        let lent = |piece: &Piece| match piece {
            Piece::Lent(loan) | Piece::Weighed(loan) => loan.span.bytes,
            Piece::Inline(_) | Piece::Copied(_) => 0,
        };
        self.buffers.iter().map(lent).sum()
    }

    /// How many bytes of the value travel inside its message.
    #[must_use]
    pub fn message_bytes(&self) -> u64 {
        let inline = |piece: &Piece| if let Piece::Inline(bytes) = piece { bytes.len() as u64 } else { 0 };
        std::iter::once(&self.stream).chain(&self.buffers).map(inline).sum()
    }

    /// How many bytes the value has, whatever way they take.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.message_bytes() + self.copied_bytes() + self.lent_bytes()
    }

    /// How many bytes of the value were copied into blocks.
    #[must_use]
    pub fn copied_bytes(&self) -> u64 {
        let copied = |piece: &Piece| if let Piece::Copied(loan) = piece { loan.span.bytes } else { 0 };
        std::iter::once(&self.stream).chain(&self.buffers).map(copied).sum()
    }

    /// Whose the bytes are while a worker has them: own if objects are built upon some of them (out-of-band buffers, rather
    /// than the stream, which is only read), and the worker does not see those copy-on-write.
    ///
    /// What is [to be written to](Loan::writable) is written anew by each attempt, and read by none. Unless it lies upon
    /// what the attempt reads.
    #[must_use]
    pub fn holding(&self) -> Holding {
        let spans = || self.buffers.iter().filter_map(Piece::loan).map(|loan| loan.span);
        let overlap = |written: Span| {
            spans().any(|other| {
                is_foreign(other.segment)
                    && number_of(other.segment) == number_of(written.segment)
                    && other.offset < written.offset.saturating_add(written.bytes)
                    && written.offset < other.offset.saturating_add(other.bytes)
            })
        };
        let own = |span: Span| match sharing_of(span.segment) {
            Sharing::Private => false,
            Sharing::Shared if span.segment.0 >= WRITABLE_SEGMENTS => overlap(span),
            Sharing::Shared => true,
        };
        if spans().any(own) { Holding::Own } else { Holding::Lent }
    }

    /// The value as a message carries it.
    #[must_use]
    pub fn outline(&self) -> Outline {
        let part = |piece: &Piece| match piece {
            Piece::Inline(bytes) => Part::Inline(bytes.to_vec()),
            Piece::Copied(loan) | Piece::Lent(loan) | Piece::Weighed(loan) => Part::Span(loan.span),
        };
        Outline { stream: part(&self.stream), buffers: self.buffers.iter().map(part).collect() }
    }

    /// What a receiver of this payload will hold of ours.
    pub fn loans(&self) -> impl Iterator<Item = &Loan> {
        std::iter::once(&self.stream).chain(&self.buffers).filter_map(Piece::loan)
    }
}

impl Piece {
    fn loan(&self) -> Option<&Loan> {
        match self {
            Piece::Inline(_) => None,
            Piece::Copied(loan) | Piece::Lent(loan) | Piece::Weighed(loan) => Some(loan),
        }
    }
}

/// What one peer holds of ours, kept until the peer gives it back or dies.
#[derive(Debug, Default)]
pub struct Loans {
    loans: HashMap<(SegmentId, u64), (Loan, u32)>,
    bytes: u64,
}

impl Loans {
    /// Notes that the peer is about to be told of these bytes.
    pub fn lend(&mut self, payload: &Payload) {
        payload.loans().for_each(|loan| self.enter(loan));
    }

    /// As [`Loans::lend`]; what the peer finds on the table goes to the shelf, from which the peer takes it.
    pub(crate) fn lend_beside(&mut self, payload: &Payload, shelf: &Shelf) {
        for loan in payload.loans() {
            if near::is_near(loan.span.segment) {
                shelf.put(loan.span, Arc::clone(&loan.keeper));
            } else {
                self.enter(loan);
            }
        }
    }

    fn enter(&mut self, loan: &Loan) {
        let span = loan.span;
        let entry = self.loans.entry((span.segment, span.offset)).or_insert_with(|| {
            self.bytes += span.bytes;
            (loan.clone(), 0)
        });
        entry.1 += 1;
    }

    /// The peer gave something back. A span that it never held is garbage and is ignored.
    pub fn give_back(&mut self, span: Span) {
        let key = (span.segment, span.offset);
        if let Some(entry) = self.loans.get_mut(&key) {
            entry.1 -= 1;
            if entry.1 == 0 {
                self.bytes -= entry.0.span.bytes;
                self.loans.remove(&key);
            }
        }
    }

    /// Bytes that the peer holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Runs of bytes that the peer holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.loans.len()
    }

    /// Whether the peer holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.loans.is_empty()
    }
}

/// The segments of one peer that are mapped here.
#[derive(Debug, Default)]
pub struct Atlas {
    segments: HashMap<SegmentId, Arc<Segment>>,
}

impl Atlas {
    /// Adds a segment that the peer announced.
    pub fn add(&mut self, id: SegmentId, segment: Arc<Segment>) {
        self.segments.insert(id, segment);
    }

    /// Lets go of a segment that the peer has no more. Views of it stay good.
    pub fn remove(&mut self, id: SegmentId) {
        self.segments.remove(&id);
    }

    /// A view of the peer's bytes; when it is dropped, `owner` is told.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a segment that was never announced, or a span outside of it.
    pub fn view(&self, span: Span, owner: &Arc<dyn Release>) -> Result<View> {
        Ok(View::new(self.segment(span.segment)?, span, Arc::clone(owner))?)
    }

    /// The segment that the peer announced under this name.
    ///
    /// # Errors
    /// [`Error::Malformed`] for one that was never announced.
    pub fn segment(&self, id: SegmentId) -> Result<&Arc<Segment>> {
        self.segments.get(&id).ok_or(Error::Malformed("span in an unknown segment"))
    }

    /// Opens a value that a message outlined; `owner` says whom to tell of the end of a view. What a peer in this process
    /// has sent lies on the shelf.
    ///
    /// # Errors
    /// As [`Atlas::view`].
    pub(crate) fn open(
        &self,
        outline: Outline,
        shelf: &Shelf,
        owner: &dyn Fn(Span) -> Arc<dyn Release>,
    ) -> Result<Parcel> {
        let open = |part: Part| match part {
            Part::Inline(bytes) => Ok(Bytes::Inline(bytes.into())),
            Part::Span(span) if near::is_near(span.segment) => {
                let _ticket = shelf.take(span).ok_or(Error::Malformed("what nobody has put on the shelf"))?;
                open_near(span, owner(span))
            }
            Part::Span(span) => self.view(span, &owner(span)).map(Bytes::View),
        };
        Ok(Parcel {
            stream: open(outline.stream)?,
            buffers: outline.buffers.into_iter().map(open).collect::<Result<_>>()?,
        })
    }
}

impl Outline {
    /// How many of its parts lie in its sender's memory.
    #[must_use]
    pub fn spans(&self) -> usize {
        std::iter::once(&self.stream)
            .chain(&self.buffers)
            .filter(|part| matches!(part, Part::Span(_)))
            .count()
    }
}

impl Bytes {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Inline(bytes) => bytes,
            Bytes::View(view) => view.as_slice(),
            Bytes::Moved(moved) => moved.draft.as_deref().unwrap_or_default(),
            Bytes::Near(loaned) => loaned.object().bytes(),
        }
    }

    /// Where they start, for whoever lends them on as writable memory. Those of an object that others have are copied for
    /// that.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        match self {
            Bytes::Near(loaned) => {
                if let Some(start) = loaned.object().own() {
                    return start;
                }
                *self = Bytes::Inline(loaned.object().bytes().into());
                self.as_mut_ptr()
            }
            Bytes::Inline(bytes) => bytes.as_mut_ptr(),
            Bytes::View(view) => view.as_ptr(),
            Bytes::Moved(moved) => moved.draft.as_mut().map_or(std::ptr::null_mut(), Draft::as_mut_ptr),
        }
    }
}

impl Parcel {
    /// How many bytes of it lie in its sender's memory.
    #[must_use]
    pub fn lent_bytes(&self) -> u64 {
        let lent = |bytes: &Bytes| if let Bytes::View(view) = bytes { view.span().bytes } else { 0 };
        std::iter::once(&self.stream).chain(&self.buffers).map(lent).sum()
    }

    /// How many of its bytes were moved to memory of this process's own.
    #[must_use]
    pub fn moved_bytes(&self) -> u64 {
        let moved =
            |bytes: &Bytes| if let Bytes::Moved(_) = bytes { bytes.as_slice().len() as u64 } else { 0 };
        std::iter::once(&self.stream).chain(&self.buffers).map(moved).sum()
    }

    /// How many of its bytes came inside the message.
    #[must_use]
    pub fn message_bytes(&self) -> u64 {
        let inline = |bytes: &Bytes| if let Bytes::Inline(bytes) = bytes { bytes.len() as u64 } else { 0 };
        std::iter::once(&self.stream).chain(&self.buffers).map(inline).sum()
    }

    /// The weight of the value.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let weight = |bytes: &Bytes| match bytes {
            Bytes::Near(loaned) => loaned.object().weight(),
            bytes => bytes.as_slice().len() as u64,
        };
        std::iter::once(&self.stream).chain(&self.buffers).map(weight).sum()
    }
}

#[cfg(test)]
mod tests;
