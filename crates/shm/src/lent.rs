//! The table of what one peer holds: between the message that tells it of a block and the one that gives it back.
//!
//! This is where a peer's word is checked (law 3 of the crate): a span that was not lent, or not to this peer, or not
//! any more, finds nothing. There is one table for each peer, so that a death returns exactly what the dead one had.

use std::collections::HashMap;

use crate::block::Block;
use crate::segment::Span;

/// The blocks that one peer holds, by the spans that it was told.
#[derive(Debug, Default)]
pub struct Lent {
    blocks: HashMap<Span, Block>,
    bytes: u64,
}

impl Lent {
    /// A table of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a block, and returns the span that the peer is to be told.
    pub fn lend(&mut self, block: Block) -> Span {
        let span = block.span();
        self.bytes += block.bytes();
        // Two live blocks of one arena never begin at the same offset; those of two arenas do not belong in one table.
        let former = self.blocks.insert(span, block);
        debug_assert!(former.is_none(), "expected spans to be unique, found {span:?} twice");
        if let Some(former) = former {
            self.bytes -= former.bytes();
        }
        span
    }

    /// Takes out the block that a peer has given back; None when it was not lent a block of exactly this span, which
    /// means that the peer is not to be trusted any more. Dropping the block frees its memory.
    pub fn give_back(&mut self, span: Span) -> Option<Block> {
        let block = self.blocks.remove(&span)?;
        self.bytes -= block.bytes();
        Some(block)
    }

    /// How many blocks the peer holds.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether the peer holds none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The sum of the blocks' sizes, in bytes as allocated (not in pages).
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes everything back at once: the peer is dead, and known to be.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::block::{Draft, Release};
    use crate::segment::{Segment, SegmentId};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Release for Count {
        fn release(&self, _: Span) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn what_was_not_lent_is_not_taken_back() {
        let released = Arc::new(Count::default());
        let segment = Segment::create(1 << 20).unwrap();
        let block = |offset, bytes| {
            let span = Span { segment: SegmentId(0), offset, bytes };
            Draft::claim(&segment, span, released.clone()).unwrap().seal()
        };
        let mut lent = Lent::new();
        let span = lent.lend(block(0, 10));
        lent.lend(block(1 << 18, 20));
        assert_eq!((lent.len(), lent.bytes()), (2, 30));
        for garbage in [
            Span { bytes: 11, ..span },
            Span { offset: u64::MAX, ..span },
            Span { segment: SegmentId(9), ..span },
        ] {
            assert!(lent.give_back(garbage).is_none());
        }
        assert_eq!(lent.give_back(span).map(|block| block.bytes()), Some(10));
        assert!(lent.give_back(span).is_none(), "not twice");
        assert_eq!((lent.len(), lent.bytes(), released.0.load(Relaxed)), (1, 20, 1));
        lent.clear();
        assert!(lent.is_empty() && lent.bytes() == 0);
        assert_eq!(released.0.load(Relaxed), 2);
    }
}
