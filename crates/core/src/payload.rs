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

use crate::error::{Error, Result};
use forklift_shm::{Arena, Block, Release, Segment, SegmentId, Span, View};
use std::collections::HashMap;
use std::sync::Arc;

/// A payload of up to this many bytes in all travels inside its message: below it a copy through the socket costs
/// less than a block's bookkeeping and release.
pub const INLINE_BYTES_MAX: usize = 16 << 10;

/// Some bytes of a value at their sender.
#[derive(Debug, Clone)]
enum Piece {
    Inline(Arc<[u8]>),
    Block(Arc<Block>),
}

/// A value in the memory of the process that encoded it. Cheap to clone: clones share the blocks, which go back to
/// their arena when the last clone and the last borrower are gone.
#[derive(Debug, Clone)]
pub struct Payload {
    stream: Piece,
    buffers: Vec<Piece>,
    bytes: u64,
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
    /// Gathers a value into blocks of `arena`: each byte is copied once.
    ///
    /// # Errors
    /// When the arena cannot grow.
    pub fn pack(arena: &Arena, stream: &[&[u8]], buffers: &[&[u8]]) -> Result<Self> {
        let stream_bytes: usize = stream.iter().map(|piece| piece.len()).sum();
        let bytes = stream_bytes + buffers.iter().map(|buffer| buffer.len()).sum::<usize>();
        let inline = bytes <= INLINE_BYTES_MAX;
        let place = |pieces: &[&[u8]], length: usize| -> Result<Piece> {
            if inline || length == 0 {
                return Ok(Piece::Inline(pieces.concat().into()));
            }
            let mut draft = arena.allocate(length as u64)?;
            let mut rest = &mut draft[..];
            for piece in pieces {
                let (here, after) = rest.split_at_mut(piece.len());
                here.copy_from_slice(piece);
                rest = after;
            }
            Ok(Piece::Block(Arc::new(draft.seal())))
        };
        Ok(Self {
            stream: place(stream, stream_bytes)?,
            buffers: buffers.iter().map(|buffer| place(&[buffer], buffer.len())).collect::<Result<_>>()?,
            bytes: bytes as u64,
        })
    }

    /// The weight of the value.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a receiver could change what a second receiver would see: true if objects are built upon the bytes
    /// of this payload (out-of-band buffers), rather than out of them.
    #[must_use]
    pub fn mutable(&self) -> bool {
        self.buffers.iter().any(|piece| matches!(piece, Piece::Block(_)))
    }

    /// The value as a message carries it.
    #[must_use]
    pub fn outline(&self) -> Outline {
        let part = |piece: &Piece| match piece {
            Piece::Inline(bytes) => Part::Inline(bytes.to_vec()),
            Piece::Block(block) => Part::Span(block.span()),
        };
        Outline { stream: part(&self.stream), buffers: self.buffers.iter().map(part).collect() }
    }

    /// The blocks that a receiver of this payload will hold.
    pub fn blocks(&self) -> impl Iterator<Item = &Arc<Block>> {
        std::iter::once(&self.stream).chain(&self.buffers).filter_map(|piece| match piece {
            Piece::Block(block) => Some(block),
            Piece::Inline(_) => None,
        })
    }
}

/// The blocks that one peer holds of ours, each kept alive until the peer gives it back or dies.
#[derive(Debug, Default)]
pub struct Loans {
    blocks: HashMap<(SegmentId, u64), (Arc<Block>, u32)>,
    bytes: u64,
}

impl Loans {
    /// Notes that the peer is about to be told of these blocks.
    pub fn lend(&mut self, payload: &Payload) {
        for block in payload.blocks() {
            let span = block.span();
            let entry = self.blocks.entry((span.segment, span.offset)).or_insert_with(|| {
                self.bytes += span.bytes;
                (Arc::clone(block), 0)
            });
            entry.1 += 1;
        }
    }

    /// The peer gave a block back. A span that it never held is garbage and is ignored.
    pub fn give_back(&mut self, span: Span) {
        let key = (span.segment, span.offset);
        if let Some(entry) = self.blocks.get_mut(&key) {
            entry.1 -= 1;
            if entry.1 == 0 {
                self.bytes -= entry.0.span().bytes;
                self.blocks.remove(&key);
            }
        }
    }

    /// Bytes that the peer holds.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Blocks that the peer holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether the peer holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
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

    /// A view of the peer's bytes; when it is dropped, `owner` is told.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a segment that was never announced, or a span outside of it.
    pub fn view(&self, span: Span, owner: &Arc<dyn Release>) -> Result<View> {
        let segment =
            self.segments.get(&span.segment).ok_or(Error::Malformed("span in an unknown segment"))?;
        Ok(View::new(segment, span, Arc::clone(owner))?)
    }

    /// Opens a value that a message outlined; `owner` says whom to tell of the end of a view.
    ///
    /// # Errors
    /// As [`Atlas::view`].
    pub fn open(&self, outline: Outline, owner: &dyn Fn(SegmentId) -> Arc<dyn Release>) -> Result<Parcel> {
        let open = |part: Part| match part {
            Part::Inline(bytes) => Ok(Bytes::Inline(bytes.into())),
            Part::Span(span) => self.view(span, &owner(span.segment)).map(Bytes::View),
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
        }
    }

    /// Where they start, for whoever lends them on as writable memory.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        match self {
            Bytes::Inline(bytes) => bytes.as_mut_ptr(),
            Bytes::View(view) => view.as_ptr(),
        }
    }
}

impl Parcel {
    /// The weight of the value.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        std::iter::once(&self.stream).chain(&self.buffers).map(|bytes| bytes.as_slice().len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forklift_shm::ArenaLimits;

    /// A second mapping of the sender's segments, as a receiver has it.
    fn receive(arena: &Arena, payload: &Payload) -> Parcel {
        struct Nobody;
        impl Release for Nobody {
            fn release(&self, _: Span) {}
        }
        let mut atlas = Atlas::default();
        for id in arena.segments() {
            let segment = arena.segment(id).unwrap();
            let file = segment.fd().try_clone_to_owned().unwrap();
            let mapped = Segment::open(file, segment.bytes(), forklift_shm::Sharing::Shared).unwrap();
            atlas.add(id, mapped);
        }
        atlas.open(payload.outline(), &|_| Arc::new(Nobody)).unwrap()
    }

    fn check(stream: &[&[u8]], buffers: &[&[u8]], live_blocks: u64) {
        let arena = Arena::new(ArenaLimits::default());
        let payload = Payload::pack(&arena, stream, buffers).unwrap();
        assert_eq!(arena.usage().live_blocks, live_blocks);
        let parcel = receive(&arena, &payload);
        assert_eq!(parcel.stream.as_slice(), stream.concat());
        let received: Vec<&[u8]> = parcel.buffers.iter().map(Bytes::as_slice).collect();
        assert_eq!(received, buffers);
        assert_eq!(parcel.bytes(), payload.bytes());
        drop(payload);
        assert_eq!(arena.usage().live_blocks, 0);
    }

    #[test]
    fn a_small_value_touches_no_block() {
        check(&[b"abc", b"", b"de"], &[b"xyz"], 0);
    }

    #[test]
    fn every_large_part_has_a_block_of_its_own() {
        check(&[&[1; 20_000], b"tail"], &[&[2; 70_000], b"", &[3; 5]], 3);
    }

    #[test]
    fn a_block_comes_back_with_its_last_borrower() {
        let arena = Arena::new(ArenaLimits::default());
        let payload = Payload::pack(&arena, &[&[1; 20_000]], &[&[2; 20_000]]).unwrap();
        let (mut one, mut two) = (Loans::default(), Loans::default());
        one.lend(&payload);
        one.lend(&payload);
        two.lend(&payload);
        let spans: Vec<Span> = payload.blocks().map(|block| block.span()).collect();
        drop(payload);
        assert_eq!((one.len(), one.bytes()), (2, 40_000));
        for span in &spans {
            one.give_back(*span);
            one.give_back(*span);
            one.give_back(*span);
        }
        assert!(one.is_empty());
        assert_eq!(arena.usage().live_blocks, 2);
        drop(two);
        assert_eq!(arena.usage().live_blocks, 0);
    }

    #[test]
    fn what_a_peer_never_announced_is_refused() {
        let outline = Outline {
            stream: Part::Span(Span { segment: SegmentId(7), offset: 0, bytes: 10 }),
            buffers: Vec::new(),
        };
        struct Nobody;
        impl Release for Nobody {
            fn release(&self, _: Span) {}
        }
        assert!(Atlas::default().open(outline, &|_| Arc::new(Nobody)).is_err());
    }
}
