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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use offset_allocator::{Allocation, Allocator};

use crate::block::{Draft, Release};
use crate::error::{Error, Result};
use crate::pages::PageSet;
use crate::segment::{SEGMENT_BYTES_MAX, Segment, SegmentId, Span, page_bytes};

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
        Self { estate: Arc::new(Estate { limits, ledger: Mutex::default() }) }
    }

    /// Allocates a draft of exactly `bytes` bytes (0 is allowed), which occupies whole pages. Its contents are left
    /// over from earlier blocks.
    ///
    /// # Errors
    /// [`Error::Exhausted`] when the limit leaves no room (releasing blocks helps); [`Error::System`] when a new
    /// segment was needed and the system refused; [`Error::OutOfRange`] for more than [`SEGMENT_BYTES_MAX`].
    pub fn allocate(&self, bytes: u64) -> Result<Draft> {
        let mut ledger = self.estate.lock();
        let (segment, span) = ledger.place(bytes, &self.estate.limits)?;
        let owner: Arc<dyn Release> = Arc::clone(&self.estate) as Arc<dyn Release>;
        // A refusal here would mean that the allocator has handed a page out twice. The extent then stays out of use,
        // which is the safe side.
        let draft = Draft::claim(&segment, span, owner)?;
        ledger.usage.allocations += 1;
        Ok(draft)
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

/// What all clones of an arena and all of its blocks share.
struct Estate {
    limits: ArenaLimits,
    ledger: Mutex<Ledger>,
}

impl Estate {
    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // A panic under the lock would be a broken invariant of ours; a second one, in a drop, would abort. Nothing
        // unsound can follow from a wrong ledger, since claims guard the pages.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
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
    plots: BTreeMap<SegmentId, Plot>,
    /// How many segments were ever created; ids count on from the limits' first one, so that none is used twice.
    created: u32,
    /// Kept up to date but for `segments`, which is the length of `plots`.
    usage: Usage,
}

impl Ledger {
    /// Finds room for a block, enters it and says where it is.
    fn place(&mut self, bytes: u64, limits: &ArenaLimits) -> Result<(Arc<Segment>, Span)> {
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
            None => self.grow(extent_pages, limits)?,
        };
        let Some(plot) = self.plots.get_mut(&id) else {
            unreachable!("expected the segment {id:?} that was just cut, found none")
        };
        let fresh_bytes = plot.enter(page..page + page_count) * page_bytes();
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
        Ok((segment, Span { segment: id, offset: page * page_bytes(), bytes }))
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
    fn grow(&mut self, extent_pages: u32, limits: &ArenaLimits) -> Result<(SegmentId, u64)> {
        let existing_bytes: u64 = self.plots.values().map(|plot| plot.segment.bytes()).sum();
        let bytes = limits
            .segment_bytes
            .max(existing_bytes.min(SEGMENT_BYTES_GROWN))
            .max(u64::from(extent_pages) * page_bytes())
            .min(SEGMENT_BYTES_MAX);
        let mut plot = Plot::new(Segment::create(bytes)?);
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

    /// Enters a block's pages as live; returns how many were not yet touched.
    fn enter(&mut self, pages: Range<u64>) -> u64 {
        self.live_pages += self.live.insert(pages.clone());
        let fresh_pages = self.touched.insert(pages);
        self.touched_pages += fresh_pages;
        fresh_pages
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
mod tests {
    use super::*;

    const MEGABYTE: u64 = 1 << 20;

    fn arena(segment_bytes: u64, total_bytes: Option<u64>) -> Arena {
        Arena::new(ArenaLimits { segment_bytes, total_bytes, ..ArenaLimits::default() })
    }

    fn place(draft: &Draft) -> (SegmentId, u64) {
        (draft.span().segment, draft.span().offset)
    }

    #[test]
    fn extents_are_size_classes_of_the_allocator() {
        for pages in (1..1000).chain([(1 << 30) - 1, 1 << 30]) {
            let extent = extent_of(pages);
            assert!(u64::from(extent) >= pages && u64::from(extent) < 2 * pages, "{pages} became {extent}");
            // An allocator that is exactly as large as the class is filed under it, so it can be had as a whole.
            let whole = Allocator::<u32>::with_max_allocs(extent, 4).allocate(extent);
            assert!(whole.is_some(), "{extent} is not a class");
        }
    }

    #[test]
    fn an_isolated_block_is_found_again_by_a_request_of_its_size() {
        for bytes in [1, 4096, 100_000, 8_000_000, 8 * MEGABYTE, 12_345_678] {
            let arena = arena(64 * MEGABYTE, None);
            let first = arena.allocate(bytes).unwrap();
            let _second = arena.allocate(bytes).unwrap();
            let was = place(&first);
            let fresh_bytes = arena.usage().fresh_bytes;
            drop(first);
            let again = arena.allocate(bytes).unwrap();
            assert_eq!(place(&again), was, "{bytes} bytes");
            assert_eq!(arena.usage().fresh_bytes, fresh_bytes);
        }
    }

    #[test]
    fn a_window_of_blocks_touches_no_fresh_page_in_steady_state() {
        let arena = arena(64 * MEGABYTE, None);
        let mut window: Vec<Draft> = (0..6).map(|_| arena.allocate(8_000_000).unwrap()).collect();
        let fresh_bytes = arena.usage().fresh_bytes;
        for step in 0..1000 {
            drop(window.remove(step * 7 % 6));
            let bytes = if step % 3 == 0 { 7_500_000 } else { 8_000_000 };
            window.push(arena.allocate(bytes).unwrap());
        }
        assert_eq!(arena.usage().fresh_bytes, fresh_bytes);
        assert_eq!(arena.usage().segments, 1);
        assert_eq!(arena.usage().allocations, 1006);
    }

    #[test]
    fn warm_memory_of_a_newer_segment_goes_before_cold_memory_of_an_older_one() {
        let arena = arena(16 * MEGABYTE, None);
        let small = arena.allocate(MEGABYTE).unwrap();
        let large = arena.allocate(32 * MEGABYTE).unwrap();
        let newer = large.span().segment;
        assert_ne!(small.span().segment, newer);
        drop(large);
        assert_eq!(arena.allocate(2 * MEGABYTE).unwrap().span().segment, newer);
        drop(small);
        assert_eq!(arena.allocate(MEGABYTE).unwrap().span().segment, SegmentId(0), "the older one first");
    }

    #[test]
    fn segments_grow_with_what_exists() {
        let arena = arena(MEGABYTE, None);
        let mut sizes = Vec::new();
        let mut drafts = Vec::new();
        while sizes.len() < 5 {
            drafts.push(arena.allocate(MEGABYTE / 2).unwrap());
            sizes = arena.segments().into_iter().map(|id| arena.segment(id).unwrap().bytes()).collect();
        }
        assert_eq!(sizes, [1, 1, 2, 4, 8].map(|size| size * MEGABYTE));
        let huge = arena.allocate(5 << 30).unwrap();
        assert!(arena.segment(huge.span().segment).unwrap().bytes() >= 5 << 30);
    }

    #[test]
    fn segments_are_numbered_from_where_the_limits_say() {
        let arena = Arena::new(ArenaLimits { first_segment: 1 << 31, ..ArenaLimits::default() });
        let draft = arena.allocate(1).unwrap();
        assert_eq!(draft.span().segment, SegmentId(1 << 31));
        assert!(arena.segment(SegmentId(1 << 31)).is_some() && arena.segment(SegmentId(0)).is_none());
    }

    #[test]
    fn a_huge_block_is_usable_to_its_end() {
        let arena = arena(MEGABYTE, None);
        let mut draft = arena.allocate((4 << 30) + 12_345).unwrap();
        assert_eq!(draft.len(), (4 << 30) + 12_345);
        let last = draft.len() - 1;
        (draft[0], draft[last]) = (1, 2);
        assert_eq!((draft[0], draft[1], draft[last]), (1, 0, 2));
        assert!(matches!(arena.allocate(u64::MAX), Err(Error::OutOfRange { .. })));
    }

    #[test]
    fn empty_and_small_blocks_have_pages_of_their_own() {
        let arena = arena(MEGABYTE, None);
        let (first, second) = (arena.allocate(0).unwrap(), arena.allocate(0).unwrap());
        assert!(first.is_empty());
        assert_ne!(first.span(), second.span());
        assert_eq!(arena.usage().live_bytes, 2 * page_bytes());
    }

    #[test]
    fn a_crowded_segment_is_followed_by_another() {
        let arena = arena(64 * MEGABYTE, None);
        let drafts: Vec<Draft> = (0..EXTENTS_MAX + 10).map(|_| arena.allocate(1).unwrap()).collect();
        assert_eq!(arena.usage().segments, 2);
        drop(drafts);
        assert_eq!(arena.usage().live_blocks, 0);
    }

    #[test]
    fn the_limit_holds_for_live_and_warm_memory_together() {
        let arena = arena(64 * MEGABYTE, Some(10 * MEGABYTE));
        let first = arena.allocate(4 * MEGABYTE).unwrap();
        let second = arena.allocate(4 * MEGABYTE).unwrap();
        let refused = arena.allocate(4 * MEGABYTE).unwrap_err();
        assert!(matches!(refused, Error::Exhausted { live_bytes, .. } if live_bytes == 8 * MEGABYTE));
        assert!(refused.is_shortage());
        drop(first);
        // 5 MiB do not fit into the hole of 4 MiB, some of which has to be given back for them.
        let third = arena.allocate(5 * MEGABYTE).unwrap();
        let usage = arena.usage();
        assert_eq!((usage.live_bytes, usage.warm_bytes), (9 * MEGABYTE, MEGABYTE));
        drop((second, third));
        assert!(arena.allocate(11 * MEGABYTE).is_err(), "larger than the limit is never possible");
        assert!(arena.allocate(10 * MEGABYTE).is_ok());
    }

    #[test]
    fn trimming_keeps_what_it_is_told_to_and_drops_empty_segments() {
        let arena = arena(4 * MEGABYTE, None);
        let mut live = arena.allocate(MEGABYTE).unwrap();
        live.fill(5);
        let mut other = arena.allocate(2 * MEGABYTE).unwrap();
        let mut large = arena.allocate(16 * MEGABYTE).unwrap();
        other.fill(6);
        large.fill(7);
        let (held, newer) = (arena.segment(SegmentId(0)).unwrap(), large.span().segment);
        drop((other, large));
        assert_eq!(arena.usage().warm_bytes, 18 * MEGABYTE);
        assert_eq!(arena.trim(20 * MEGABYTE), 0);
        assert_eq!(arena.trim(3 * MEGABYTE), 15 * MEGABYTE);
        assert_eq!(arena.segments(), [SegmentId(0), newer], "one warm megabyte is left in the newer one");
        assert_eq!(arena.trim(1), 3 * MEGABYTE);
        assert_eq!(arena.segments(), [SegmentId(0)]);
        assert!(arena.segment(newer).is_none());
        assert_eq!(held.resident_bytes().unwrap(), MEGABYTE);
        assert!(live.iter().all(|&byte| byte == 5));
        drop(live);
        assert_eq!(arena.trim(0), MEGABYTE);
        assert_eq!(arena.usage().segments, 0);
        assert_eq!(arena.allocate(1).unwrap().span().segment, SegmentId(2), "ids are not used again");
    }

    #[test]
    fn blocks_outlive_their_arena() {
        let arena = arena(MEGABYTE, None);
        let mut draft = arena.allocate(10).unwrap();
        let clone = arena.clone();
        drop(arena);
        assert_eq!(clone.usage().live_blocks, 1);
        drop(clone);
        draft.fill(1);
        assert_eq!(draft.seal().bytes(), 10);
    }

    #[test]
    fn threads_may_allocate_and_release_at_once() {
        let arena = arena(MEGABYTE, None);
        std::thread::scope(|scope| {
            for thread in 1..=4u8 {
                let arena = &arena;
                scope.spawn(move || {
                    for step in 0..500u64 {
                        let mut draft = arena.allocate(1 + step * 97 % 50_000).unwrap();
                        draft.fill(thread);
                        assert!(draft.iter().all(|&byte| byte == thread));
                        if step % 100 == 0 {
                            arena.trim(100_000);
                        }
                    }
                });
            }
        });
        assert_eq!((arena.usage().live_bytes, arena.usage().allocations), (0, 2000));
    }
}
