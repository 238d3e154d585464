//! Whose an item's bytes are: what may be sent, and what may not be sent again.
//!
//! | an item is | type | where | its bytes |
//! |---|---|---|---|
//! | fresh | [`Piece`] | ready, parked, or in a worker's hand | as they were encoded |
//! | begun, and its worker is no more | [`Used`] | parked | as they were if they are lent, else half changed |
//! | over | none | counted | nobody's |
//!
//! Only a [`Piece`] can be queued and sent, each item is in one of them, and they cannot be copied: they are made of a
//! chunk that is submitted, cut, and taken apart. What a worker had begun when it died becomes [`Used`], which can be sent
//! no more than a number can. It becomes a [`Piece`] again in three ways, all of them here:
//!
//! - its bytes are *lent*: workers only read them, or write to pages of their own;
//! - they are *own*, and were encoded again since they were sent: a later *edition* of the chunk exists;
//! - they are own, and whoever keeps the items encodes them again ([`Goods::restored`]).
//!
//! Where neither can be had, its items are lost, by name. Fresh items of the same chunk are not touched by that: items do
//! not share memory unless it is lent, which is the encoder's duty.

use crate::event::{Holding, Kept, Loss};
use crate::id::{ChunkId, WorkerId};

/// Some items of a chunk that go to one worker together. None of them has begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    chunk: ChunkId,
    skip: u32,
    items: u32,
    unbegun: u8,
    singly: bool,
}

impl Piece {
    /// All of a chunk that was just submitted. To be called once for each.
    pub(super) fn whole(chunk: ChunkId, items: u32) -> Self {
        Self { chunk, skip: 0, items, unbegun: 0, singly: false }
    }

    pub(super) fn chunk(&self) -> ChunkId {
        self.chunk
    }

    /// Items of the chunk before this piece.
    pub(super) fn skip(&self) -> u32 {
        self.skip
    }

    pub(super) fn items(&self) -> u32 {
        self.items
    }

    /// How often it came back from a worker that died before it began.
    pub(super) fn unbegun(&self) -> u8 {
        self.unbegun
    }

    /// Its items go one by one, to find the one that kills.
    pub(super) fn is_singly(&self) -> bool {
        self.singly
    }

    /// Takes the first `items` out of it. What is left may be nothing.
    pub(super) fn cut(&mut self, items: u32) -> Piece {
        let items = items.min(self.items);
        let first = Piece { items, ..*self };
        self.skip += items;
        self.items -= items;
        first
    }

    /// The same, come back unbegun so often.
    pub(super) fn come_back(self, unbegun: u8) -> Piece {
        Piece { unbegun, ..self }
    }

    /// The same, to go one by one from now on.
    pub(super) fn one_by_one(self) -> Piece {
        Piece { singly: true, unbegun: 0, ..self }
    }

    /// It was begun by a worker that is no more, which had it in this edition. `loss`: what to report if it cannot be had
    /// again.
    pub(super) fn used(self, edition: u32, worker: WorkerId, loss: Loss) -> Used {
        Used { piece: Piece { unbegun: 0, ..self }, edition, worker, loss }
    }
}

/// Items that a worker had begun when it died.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Used {
    piece: Piece,
    edition: u32,
    worker: WorkerId,
    loss: Loss,
}

impl Used {
    /// What is reported of it if it cannot be had again: who had begun it, and what for its worker ended.
    pub(super) fn loss(&self) -> (WorkerId, Loss) {
        (self.worker, self.loss)
    }
}

/// What is left of a piece whose worker is no more, or gave it back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Fresh(Piece),
    Used(Used),
}

impl Rest {
    fn piece(&self) -> &Piece {
        match self {
            Rest::Fresh(piece) | Rest::Used(Used { piece, .. }) => piece,
        }
    }

    pub(super) fn chunk(&self) -> ChunkId {
        self.piece().chunk
    }

    /// Items of the chunk before it.
    pub(super) fn skip(&self) -> u32 {
        self.piece().skip
    }

    pub(super) fn items(&self) -> u32 {
        self.piece().items
    }
}

/// The bytes of a chunk, and what waits for better ones.
#[derive(Debug)]
pub(super) struct Goods {
    holding: Holding,
    kept: Kept,
    /// How often it was encoded again.
    edition: u32,
    /// The driver was told to have it encoded again.
    is_reclaimed: bool,
    parked: Vec<Rest>,
}

impl Goods {
    pub(super) fn new(holding: Holding, kept: Kept) -> Self {
        Self { holding, kept, edition: 0, is_reclaimed: false, parked: Vec::new() }
    }

    pub(super) fn edition(&self) -> u32 {
        self.edition
    }

    /// Whether pieces of it wait until it is encoded again.
    pub(super) fn is_reclaimed(&self) -> bool {
        self.is_reclaimed
    }

    /// Whether items that were encoded together could be encoded one by one.
    pub(super) fn can_be_divided(&self) -> bool {
        self.kept == Kept::OneByOne && self.edition == 0
    }

    /// What can be sent as the chunk now is.
    pub(super) fn again(&self, rest: Rest) -> Result<Piece, Used> {
        match rest {
            Rest::Fresh(piece) => Ok(piece),
            Rest::Used(used) if self.holding == Holding::Lent || used.edition < self.edition => {
                Ok(used.piece)
            }
            Rest::Used(used) => Err(used),
        }
    }

    /// Sets something aside until the chunk is encoded again, unless nobody can do that. `Ok(true)`: it has to be ordered.
    pub(super) fn park(&mut self, rest: Rest) -> Result<bool, Rest> {
        if self.kept == Kept::Not {
            return Err(rest);
        }
        self.parked.push(rest);
        Ok(!std::mem::replace(&mut self.is_reclaimed, true))
    }

    /// It was encoded again, from the same items: all that waited may go.
    pub(super) fn restored(&mut self) -> Vec<Piece> {
        self.edition += 1;
        self.is_reclaimed = false;
        let parked = std::mem::take(&mut self.parked);
        let mut pieces: Vec<Piece> = parked
            .into_iter()
            .map(|rest| match rest {
                Rest::Fresh(piece) | Rest::Used(Used { piece, .. }) => piece,
            })
            .collect();
        pieces.sort_unstable_by_key(Piece::skip);
        pieces
    }

    /// Its items are not what they were: it will not be encoded again. Gives what waited.
    pub(super) fn forfeited(&mut self) -> Vec<Rest> {
        self.kept = Kept::Not;
        self.is_reclaimed = false;
        let mut parked = std::mem::take(&mut self.parked);
        parked.sort_unstable_by_key(Rest::skip);
        parked
    }

    /// Nobody wants what waits.
    pub(super) fn drop_parked(&mut self) {
        self.parked.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: WorkerId = WorkerId { slot: 0, generation: 1 };

    fn used(edition: u32) -> Rest {
        Rest::Used(Piece::whole(ChunkId(1), 3).used(edition, WORKER, Loss::Used))
    }

    #[test]
    fn a_piece_is_cut_in_two_without_loss() {
        for cut in 0..=10 {
            let mut rest = Piece::whole(ChunkId(1), 13);
            let _before = rest.cut(3);
            let first = rest.cut(cut);
            assert_eq!((first.skip(), first.skip() + first.items()), (3, rest.skip()));
            assert_eq!(rest.skip() + rest.items(), 13);
        }
    }

    #[test]
    fn what_is_lent_goes_again_and_what_is_own_does_not() {
        assert!(Goods::new(Holding::Lent, Kept::Not).again(used(0)).is_ok());
        assert!(Goods::new(Holding::Own, Kept::OneByOne).again(used(0)).is_err());
        let fresh = Rest::Fresh(Piece::whole(ChunkId(1), 3));
        assert!(Goods::new(Holding::Own, Kept::Not).again(fresh).is_ok());
    }

    #[test]
    fn what_was_used_in_an_older_edition_is_fresh_in_this() {
        let mut goods = Goods::new(Holding::Own, Kept::AsSent);
        assert_eq!(goods.park(used(0)), Ok(true));
        assert_eq!(goods.park(used(0)), Ok(false), "once is enough");
        assert_eq!(goods.restored().len(), 2);
        assert!(goods.again(used(0)).is_ok(), "its worker had the bytes before these");
        assert!(goods.again(used(1)).is_err());
        assert_eq!(goods.park(used(1)), Ok(true));
    }

    #[test]
    fn what_nobody_can_encode_again_is_not_waited_for() {
        let mut goods = Goods::new(Holding::Own, Kept::OneByOne);
        assert_eq!(goods.park(used(0)), Ok(true));
        assert_eq!(goods.forfeited(), [used(0)]);
        assert_eq!(goods.park(used(0)), Err(used(0)));
    }
}
