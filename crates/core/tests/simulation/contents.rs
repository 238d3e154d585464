//! What the items hold: each is a number that its call changes, as a function does that works in place.
//!
//! Whoever begins an item looks whether it is what the feed encoded, and stops the test if it is not. So nothing here knows why
//! something must not be sent; it finds out.
//!
//! *Own* bytes are one cell for each item, of each edition of its chunk: what a call wrote stays there. *Lent* bytes are one
//! page for all items of a job, of which each worker has a copy while it is at an item; the copy is dropped when the item
//! is done.

use crate::plan::mix;
use forklift_core::event::Holding;
use forklift_core::id::{ChunkId, JobId, WorkerId};
use std::collections::BTreeMap;

/// What holds these promises and is taken out on purpose, to see that it is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mend {
    /// A chunk that is reclaimed is encoded again; without it, its payload goes again as it lies.
    Encoding,
    /// A worker that is to be killed begins nothing behind the piece that it is killed for.
    Gate,
    /// What a dead worker had begun is known; without it, nothing had.
    Begun,
    /// Items of a chunk have their own bytes; without it, two have the same.
    Separation,
    /// What a worker wrote to its copy of a lent page is dropped.
    Drop,
}

/// What the feed encoded.
fn original(job: JobId, item: u64) -> u64 {
    mix(job.0 << 32 ^ item)
}

/// One encoding of a chunk.
#[derive(Debug, Clone)]
struct Edition {
    job: JobId,
    first: u64,
    /// The number that each item shows.
    cells: Vec<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Contents {
    without: Option<Mend>,
    editions: BTreeMap<ChunkId, Vec<Edition>>,
    /// Pages of lent bytes that a worker has changed.
    copies: BTreeMap<(WorkerId, JobId), u64>,
}

impl Contents {
    pub(crate) fn without(mend: Option<Mend>) -> Self {
        Self { without: mend, ..Self::default() }
    }

    pub(crate) fn lacks(&self, mend: Mend) -> bool {
        self.without == Some(mend)
    }

    /// The chunk was encoded, once more if it was before.
    pub(crate) fn encode(&mut self, chunk: ChunkId, job: JobId, first: u64, items: u32) {
        let editions = self.editions.entry(chunk).or_default();
        let cells = (first..first + u64::from(items)).map(|item| original(job, item)).collect();
        let edition = match editions.last() {
            Some(last) if self.without == Some(Mend::Encoding) => last.clone(),
            _ => Edition { job, first, cells },
        };
        editions.push(edition);
    }

    /// The edition that whoever is sent the chunk now gets.
    pub(crate) fn edition(&self, chunk: ChunkId) -> u32 {
        self.editions.get(&chunk).map_or(0, |editions| editions.len() as u32 - 1)
    }

    /// Nobody has it any more.
    pub(crate) fn retire(&mut self, chunk: ChunkId) {
        self.editions.remove(&chunk);
    }

    /// A worker begins this item. `index` is its place in the chunk.
    pub(crate) fn begin(
        &mut self,
        worker: WorkerId,
        chunk: ChunkId,
        edition: u32,
        index: usize,
        holding: Holding,
    ) {
        let Some(editions) = self.editions.get_mut(&chunk) else { return };
        let Edition { job, first, cells } = &mut editions[edition as usize];
        let (job, item) = (*job, *first + index as u64);
        match holding {
            Holding::Own => {
                let cell = &mut cells[index];
                assert_eq!(*cell, original(job, item), "item {item} of {job:?} is not what it was");
                *cell = !*cell;
                if self.without == Some(Mend::Separation)
                    && index.is_multiple_of(2)
                    && index + 1 < cells.len()
                {
                    cells[index + 1] = !cells[index + 1];
                }
            }
            Holding::Lent => {
                let page = original(job, u64::MAX);
                let seen = self.copies.insert((worker, job), !page).unwrap_or(page);
                assert_eq!(seen, page, "item {item} of {job:?} sees what another wrote");
                if self.without != Some(Mend::Drop) {
                    self.copies.remove(&(worker, job));
                }
            }
        }
    }
}
