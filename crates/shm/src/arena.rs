//! The segments that this process owns, and the blocks that are cut from them.
//!
//! The one aim is **warm memory**: writing to a page that was never touched costs ten times as much as writing to one
//! that was, so a page that has once been paid for is used again before another one is touched.
//!
//! # How memory is found
//! Each segment has an offset allocator (best fit by size classes, both directions merge, constant time) whose unit is
//! the page. It lives in private memory, see law 1 of the crate. Three rules make it find warm memory:
//! - Requests are rounded up to a power of two of pages *before* they are made. The rounding costs addresses only: the
//!   pages between a block's end and its extent's are not touched, and addresses are free. It is needed because the
//!   allocator files a free extent under the size class at or below its size and searches from the class at or above
//!   the request's, so an extent of an odd size would not be found again by the very request that left it. For
//!   that the allocator's own classes (eight for each doubling) would do, but then blocks of nearly the same size,
//!   which is what the items of one map are, fit into each other's holes without filling them, shift their
//!   neighbours, and creep over cold pages: a window of six blocks of 7.5 and 8 MB (48 MB) had touched 66.7 MB of its 67.1 MB segment after
//!   1000 steps.
//!   With powers of two they share their places.
//! - Best fit, and the most recently freed first among equals: the large rest of a segment that was never touched
//!   is the worst fit of all, hence the last to be cut.
//! - Among segments, first those that have enough free warm memory, the oldest first; then any, the oldest first, so
//!   that the newer ones run dry and can be given back; a new segment last.
//!
//! It is a preference, not a promise: an extent may be cut from cold pages while smaller warm ones lie free. How
//! often that happens is in [`Usage::fresh_bytes`].
//!
//! # What is accounted for, and how
//! For each segment two bitmaps of pages: *live* (in a draft or block) and *touched* (handed out once, and not punched
//! since). A page that was handed out counts as touched whether or not its holder wrote to it. So: held memory =
//! touched pages; warm = touched and not live; fresh = not yet touched when handed out. The sums are kept as they
//! change; only [`Arena::trim`] looks through the maps.
//!
//! # Limitations
//! All of it is under one lock, also while [`Arena::trim`] makes its system calls. The lock is private to the process
//! and expected to be uncontended most of the time, which has not been measured in a whole pool.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use offset_allocator::{Allocation, Allocator};

use crate::block::{Draft, Release};
use crate::error::{Error, Result};
use crate::locks::{Held, Lock};
use crate::pages::{PageSet, page_bytes};
use crate::segment::{SEGMENT_BYTES_MAX, Segment, SegmentId, Span};

/// The size of a usual segment. Large enough that a window of a few items of some megabytes fits into one (each
/// segment costs the owner and every peer a descriptor), small enough that what is given back is not all or nothing.
const SEGMENT_BYTES_USUAL: u64 = 64 << 20;

/// Segments double what exists up to this size, so that their number stays logarithmic in the memory in use at first,
/// and a thousand of them hold a terabyte.
const SEGMENT_BYTES_GROWN: u64 = 1 << 30;

/// How many extents one segment can be cut into. The allocator sets 32 bytes aside for each from the start, and a
/// parent has an arena for each worker, so this stays modest: 256 KiB a segment. A window holds tens of blocks; who
/// fills a segment with thousands gets another segment.
const EXTENTS_MAX: u32 = 8 << 10;

/// A run of fresh pages of at least this size is asked for in one call before it is written to.
const POPULATED_BYTES_MIN: u64 = 256 << 10;

/// The pages of a larger block are only found as they are touched: who asks for so much may mean to use little of it.
const POPULATED_BYTES_MAX: u64 = 256 << 20;

/// What an arena may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaLimits {
    /// The size of a usual segment in bytes, 64 MiB unless told. These are addresses, not memory: a page takes memory
    /// when it is first touched.
    pub segment_bytes: u64,
    /// The most memory, in bytes, that the arena may hold in live blocks and warm pages together. When a block would
    /// go over it, free warm pages are given back first, and if the live blocks alone leave no room, the
    /// allocation fails. None: no limit.
    pub total_bytes: Option<u64>,
    /// Segments are numbered from here, so that two arenas of one owner can be told apart. 0 unless told.
    pub first_segment: u32,
}

impl Default for ArenaLimits {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES_USUAL, total_bytes: None, first_segment: 0 }
    }
}

/// What an arena holds now and has handed out so far. Memory is counted in whole pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in live drafts and blocks, in whole pages.
    pub live_bytes: u64,
    /// How many drafts and blocks are live.
    pub live_blocks: u64,
    /// Bytes that were touched and are free now: memory that is held and not in use.
    pub warm_bytes: u64,
    /// How many segments there are.
    pub segments: u64,
    /// The most that `live_bytes` ever was.
    pub peak_live_bytes: u64,
    /// How many drafts were ever handed out.
    pub allocations: u64,
    /// Bytes ever handed out of which the pages had never been touched, or had been given back since. In a steady
    /// state this stands still.
    pub fresh_bytes: u64,
}

/// The segments of one owner, from which blocks are allocated. A clone is the same arena.
///
/// Blocks keep what they need alive: an arena may be dropped before its drafts and blocks are.
#[derive(Clone)]
pub struct Arena {
    estate: Arc<Estate>,
}

impl Arena {
    /// Makes an arena that owns nothing yet: its first segment comes with the first allocation.
    pub fn new(limits: ArenaLimits) -> Self {
        Self { estate: Arc::new(Estate { limits, directory: None, ledger: Lock::default() }) }
    }

    /// Makes an arena whose segments lie in files of this directory, which have no names. For blocks of this process's own
    /// use: nothing of it may be sent to a peer.
    ///
    /// Warm memory is worth nothing here: what is released is given back to the disk at once.
    pub fn on_disk(directory: PathBuf, limits: ArenaLimits) -> Self {
        let ledger = Ledger { keeps_nothing: true, ..Ledger::default() };
        Self { estate: Arc::new(Estate { limits, directory: Some(directory), ledger: Lock::new(ledger) }) }
    }

    /// Allocates a draft of exactly `bytes` bytes (0 is allowed), which occupies whole pages. Its contents are left
    /// over from earlier blocks.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when the limit leaves no room (releasing blocks helps); [`Error::System`] when a new
    /// segment was needed and the system refused; [`Error::OutOfRange`] for more than [`SEGMENT_BYTES_MAX`].
    pub fn allocate(&self, bytes: u64) -> Result<Draft> {
        let (draft, segment, places) = self.take(bytes)?;
        if bytes <= POPULATED_BYTES_MAX && self.estate.directory.is_none() {
            for run in places.fresh.iter().filter(|run| run.end - run.start >= POPULATED_BYTES_MIN) {
                // Only a hint, and the range is the draft's own.
                let _ = segment.populate(run.start, run.end - run.start);
            }
        }
        Ok(draft)
    }

    /// Allocates as [`allocate`](Self::allocate), but every byte is zero. Pages that were never touched are zero
    /// already and stay untouched, so that a large draft of which little is written takes little memory.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub fn allocate_zeroed(&self, bytes: u64) -> Result<Draft> {
        let (mut draft, _, places) = self.take(bytes)?;
        let start = draft.span().offset;
        for run in places.warm {
            let (from, to) = ((run.start - start).min(bytes), (run.end - start).min(bytes));
            draft[from as usize..to as usize].fill(0);
        }
        Ok(draft)
    }

    fn take(&self, bytes: u64) -> Result<(Draft, Arc<Segment>, Places)> {
        let mut ledger = self.estate.lock();
        let (segment, span, places) = ledger.place(bytes, &self.estate)?;
        let owner: Arc<dyn Release> = Arc::clone(&self.estate) as Arc<dyn Release>;
        // A refusal here would mean that the allocator has handed a page out twice. The extent then stays out of use,
        // which is the safe side.
        let draft = Draft::claim(&segment, span, owner)?;
        ledger.usage.allocations += 1;
        Ok((draft, segment, places))
    }

    /// One of the arena's segments, so that its descriptor can be sent to a peer. None when there is no such segment
    /// (any more).
    pub fn segment(&self, id: SegmentId) -> Option<Arc<Segment>> {
        self.estate.lock().plots.get(&id).map(|plot| Arc::clone(&plot.segment))
    }

    /// The ids of the segments that there are, the oldest first. One that is missing here was given back, and peers
    /// may unmap it.
    pub fn segments(&self) -> Vec<SegmentId> {
        self.estate.lock().plots.keys().copied().collect()
    }

    /// What the arena holds and has handed out.
    pub fn usage(&self) -> Usage {
        let ledger = self.estate.lock();
        Usage { segments: ledger.plots.len() as u64, ..ledger.usage }
    }

    /// Gives free warm memory back to the system until at most `keep_warm_bytes` of it are left, and drops the
    /// segments of which nothing is left. Live blocks are not touched. Returns how many bytes were given back.
    ///
    /// First go segments without live blocks, then everywhere the largest runs of pages; among equals the newest
    /// segment, and within a run its end, because the allocator prefers old segments and low offsets.
    pub fn trim(&self, keep_warm_bytes: u64) -> u64 {
        self.estate.lock().trim(keep_warm_bytes)
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Arena").field(&self.usage()).finish()
    }
}

/// What a block was cut from, in bytes of its segment.
struct Places {
    /// Memory that was never touched, or was given back since: it reads as zero.
    fresh: Vec<Range<u64>>,
    /// Memory with something left in it.
    warm: Vec<Range<u64>>,
}

/// What all clones of an arena and all of its blocks share.
struct Estate {
    limits: ArenaLimits,
    /// Where the segments' files are, if they are not in memory.
    directory: Option<PathBuf>,
    ledger: Lock<Ledger>,
}

impl Estate {
    fn lock(&self) -> Held<'_, Ledger> {
        // After a panic too: nothing unsound can follow from a wrong ledger, since claims guard the pages.
        self.ledger.lock()
    }
}

impl Release for Estate {
    fn release(&self, span: Span) {
        self.lock().release(span);
    }
}

/// The account of an arena.
#[derive(Default)]
struct Ledger {
    /// Pages are given back as soon as they are free.
    keeps_nothing: bool,
    plots: BTreeMap<SegmentId, Plot>,
    /// How many segments were ever created; ids count on from the limits' first one, so that none is used twice.
    created: u32,
    /// Kept up to date but for `segments`, which is the length of `plots`.
    usage: Usage,
}

impl Ledger {
    /// Finds room for a block, enters it and says where it is.
    fn place(&mut self, bytes: u64, estate: &Estate) -> Result<(Arc<Segment>, Span, Places)> {
        let limits = &estate.limits;
        if bytes > SEGMENT_BYTES_MAX {
            return Err(Error::OutOfRange { offset: 0, bytes, segment_bytes: SEGMENT_BYTES_MAX });
        }
        let page_count = pages_of(bytes);
        let held_bytes = page_count * page_bytes();
        if let Some(total_bytes) = limits.total_bytes
            && self.usage.live_bytes + held_bytes > total_bytes
        {
            return Err(Error::Exhausted { bytes, live_bytes: self.usage.live_bytes, total_bytes });
        }
        let extent_pages = extent_of(page_count);
        let (id, page) = match self.find(page_count, extent_pages) {
            Some(found) => found,
            None => self.grow(extent_pages, estate)?,
        };
        let Some(plot) = self.plots.get_mut(&id) else {
            unreachable!("expected the segment {id:?} that was just cut, found none")
        };
        let places = plot.enter(page..page + page_count);
        let fresh_bytes = places.fresh.iter().map(|run| run.end - run.start).sum::<u64>();
        let usage = &mut self.usage;
        usage.fresh_bytes += fresh_bytes;
        usage.warm_bytes -= held_bytes - fresh_bytes;
        usage.live_bytes += held_bytes;
        usage.live_blocks += 1;
        usage.peak_live_bytes = usage.peak_live_bytes.max(usage.live_bytes);
        let segment = Arc::clone(&plot.segment);
        if let Some(total_bytes) = limits.total_bytes
            && usage.live_bytes + usage.warm_bytes > total_bytes
        {
            self.trim(total_bytes - self.usage.live_bytes);
        }
        Ok((segment, Span { segment: id, offset: page * page_bytes(), bytes }, places))
    }

    /// Cuts an extent from the segments that exist; see the module's documentation for the order.
    fn find(&mut self, page_count: u64, extent_pages: u32) -> Option<(SegmentId, u64)> {
        for warm_only in [true, false] {
            for (&id, plot) in &mut self.plots {
                if warm_only && plot.warm_pages() < page_count {
                    continue;
                }
                if let Some(page) = plot.cut(extent_pages) {
                    return Some((id, page));
                }
            }
        }
        None
    }

    /// Creates a segment and cuts an extent from it.
    fn grow(&mut self, extent_pages: u32, estate: &Estate) -> Result<(SegmentId, u64)> {
        let limits = &estate.limits;
        let existing_bytes: u64 = self.plots.values().map(|plot| plot.segment.bytes()).sum();
        let bytes = limits
            .segment_bytes
            .max(existing_bytes.min(SEGMENT_BYTES_GROWN))
            .max(u64::from(extent_pages) * page_bytes())
            .min(SEGMENT_BYTES_MAX);
        let mut plot = Plot::new(match &estate.directory {
            None => Segment::create(bytes)?,
            Some(directory) => Segment::create_in(directory, bytes)?,
        });
        let Some(page) = plot.cut(extent_pages) else {
            unreachable!("expected {extent_pages} pages in a new segment of {bytes} bytes, found no room")
        };
        let id = SegmentId(limits.first_segment + self.created);
        self.created += 1;
        self.plots.insert(id, plot);
        Ok((id, page))
    }

    /// Enters that a block is gone.
    fn release(&mut self, span: Span) {
        let page = span.offset / page_bytes();
        let page_count = pages_of(span.bytes);
        let known =
            self.plots.get_mut(&span.segment).is_some_and(|plot| plot.give_back(page..page + page_count));
        debug_assert!(known, "expected a live block, found {span:?}");
        if known {
            let held_bytes = page_count * page_bytes();
            self.usage.live_bytes -= held_bytes;
            self.usage.live_blocks -= 1;
            self.usage.warm_bytes += held_bytes;
        }
        if known && self.keeps_nothing {
            self.give_up(span.segment, page..page + page_count);
        }
    }

    /// Gives free pages back, and their segment with them if that is all of it.
    fn give_up(&mut self, id: SegmentId, pages: Range<u64>) {
        let Some(plot) = self.plots.get_mut(&id) else { return };
        if plot.live_pages == 0 {
            self.usage.warm_bytes -= plot.warm_pages() * page_bytes();
            self.plots.remove(&id);
        } else {
            self.usage.warm_bytes -= plot.punch(pages) * page_bytes();
        }
    }

    fn trim(&mut self, keep_warm_bytes: u64) -> u64 {
        let mut runs: Vec<(SegmentId, Range<u64>)> = Vec::new();
        if self.usage.warm_bytes > keep_warm_bytes {
            for (&id, plot) in &self.plots {
                runs.extend(plot.touched.runs_without(&plot.live).into_iter().map(|run| (id, run)));
            }
            runs.sort_by_key(|(id, run)| {
                let occupied = self.plots.get(id).is_some_and(|plot| plot.live_pages > 0);
                (occupied, Reverse(run.end - run.start), Reverse(*id), Reverse(run.start))
            });
        }
        let mut returned_bytes = 0;
        for (id, run) in runs {
            let excess_pages = self.usage.warm_bytes.saturating_sub(keep_warm_bytes).div_ceil(page_bytes());
            if excess_pages == 0 {
                break;
            }
            let part = run.end.saturating_sub(excess_pages).max(run.start)..run.end;
            let Some(plot) = self.plots.get_mut(&id) else { continue };
            // Where punching fails (a sandbox that does not know it) the pages stay warm, and are accounted as such.
            let bytes = plot.punch(part) * page_bytes();
            self.usage.warm_bytes -= bytes;
            returned_bytes += bytes;
        }
        // Punching came first, because peers may have the segment mapped, and their mappings would keep its memory.
        self.plots.retain(|_, plot| plot.live_pages > 0 || plot.touched_pages > 0);
        returned_bytes
    }
}

/// One segment with its allocator and the account of its pages.
struct Plot {
    segment: Arc<Segment>,
    allocator: Allocator<u32>,
    /// The extents in use, by their first page: the allocator wants back what it gave out.
    extents: HashMap<u64, Allocation<u32>>,
    live: PageSet,
    live_pages: u64,
    touched: PageSet,
    touched_pages: u64,
}

impl Plot {
    fn new(segment: Arc<Segment>) -> Self {
        let page_count = (segment.bytes() / page_bytes()) as u32;
        // No more extents than pages, used or free, plus one each for what the allocator keeps in reserve.
        let extents_max = page_count.saturating_add(2).min(EXTENTS_MAX);
        Self {
            segment,
            allocator: Allocator::with_max_allocs(page_count, extents_max),
            extents: HashMap::new(),
            live: PageSet::default(),
            live_pages: 0,
            touched: PageSet::default(),
            touched_pages: 0,
        }
    }

    /// Pages that were touched and are free.
    fn warm_pages(&self) -> u64 {
        self.touched_pages - self.live_pages
    }

    /// Takes an extent and returns its first page.
    fn cut(&mut self, extent_pages: u32) -> Option<u64> {
        let extent = self.allocator.allocate(extent_pages)?;
        let page = u64::from(extent.offset);
        self.extents.insert(page, extent);
        Some(page)
    }

    /// Enters a block's pages as live; returns which of them were touched before, and which not.
    fn enter(&mut self, pages: Range<u64>) -> Places {
        let in_bytes = |runs: Vec<Range<u64>>| {
            runs.into_iter().map(|run| run.start * page_bytes()..run.end * page_bytes()).collect()
        };
        let (inside, outside) = self.touched.split(pages.clone());
        self.live_pages += self.live.insert(pages.clone());
        self.touched_pages += self.touched.insert(pages);
        Places { fresh: in_bytes(outside), warm: in_bytes(inside) }
    }

    /// Takes a block's extent back; false when there is no such block.
    fn give_back(&mut self, pages: Range<u64>) -> bool {
        let Some(extent) = self.extents.remove(&pages.start) else {
            return false;
        };
        self.allocator.free(extent);
        self.live_pages -= self.live.remove(pages);
        true
    }

    /// Punches free pages out; returns how many warm pages that were.
    fn punch(&mut self, pages: Range<u64>) -> u64 {
        let (offset, bytes) = (pages.start * page_bytes(), (pages.end - pages.start) * page_bytes());
        if self.segment.punch(offset, bytes).is_err() {
            return 0;
        }
        let punched_pages = self.touched.remove(pages);
        self.touched_pages -= punched_pages;
        punched_pages
    }
}

/// How many pages a block occupies: at least one, so that no two blocks begin at the same offset.
fn pages_of(bytes: u64) -> u64 {
    bytes.div_ceil(page_bytes()).max(1)
}

/// How many pages the extent has that a block of so many pages is given; see the module's documentation.
fn extent_of(page_count: u64) -> u32 {
    // At most 2^30, as no block is larger than SEGMENT_BYTES_MAX and no page smaller than 4 KiB.
    page_count.next_power_of_two() as u32
}

#[cfg(test)]
mod tests;
