//! What of the parent's memory is in use in a worker, and what becomes of it afterwards.
//!
//! Two kinds: blocks that one task was given for itself, which go back as they are; and the *commons*, which several
//! tasks or workers may see. Those are mapped privately: what a task writes to them is its own copy of a page, which is
//! dropped before another task looks; tasks whose views of the same bytes live at the same time have mappings of their
//! own.
//!
//! Whether a page is a copy is asked of the kernel's page map when a view ends, always: it may have become one by the hand
//! of another process, of the kernel or of a device, which the page faults of this process do not tell. While nobody has a
//! view of a page, only locking memory makes a copy of it: `mlock` and `mlockall` have the kernel write to all pages of a
//! mapping, from its start on, also to those of mappings to come. So the first page of a view is looked at once more when
//! the view begins. Locked pages cannot be dropped; of their segment there are only copies from then on.

use crate::error::Result;
use crate::near;
use crate::payload::{Atlas, Bytes, Outline, Parcel, Part, open_near, sharing_of};
use forklift_shm::{Held, Lock, Release, Segment, SegmentId, Sharing, Span, View};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The process that views were given to. Forks of it have copies of them, which are not theirs to give up.
struct Receiver(u32);

impl Default for Receiver {
    fn default() -> Self {
        Self(std::process::id())
    }
}

impl Receiver {
    fn is_here(&self) -> bool {
        self.0 == std::process::id()
    }
}

/// Blocks of the parent's that are given up here, until the parent is told. Shared by all views in this process.
#[derive(Default)]
pub(crate) struct Returns {
    receiver: Receiver,
    spans: Lock<Vec<Span>>,
    /// Views whose end the parent has not been told of.
    outstanding: AtomicU64,
    /// Bytes in views of blocks that one task was given for itself: what is left of them after the task was kept.
    kept_bytes: AtomicU64,
}

impl Returns {
    /// Whether the parent has to be told of something sooner or later.
    pub(crate) fn expected(&self) -> bool {
        self.outstanding.load(Ordering::Relaxed) > 0
    }

    /// Bytes of blocks that tasks were given for themselves and that are in use here.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.kept_bytes.load(Ordering::Relaxed)
    }

    /// So many runs of bytes are in use here from now on.
    fn expect(&self, spans: usize) {
        self.outstanding.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// What to tell the parent.
    pub(crate) fn take(&self) -> Vec<Span> {
        let spans = std::mem::take(&mut *self.spans.lock());
        self.outstanding.fetch_sub(spans.len() as u64, Ordering::Relaxed);
        spans
    }
}

impl Release for Returns {
    fn release(&self, span: Span) {
        if !self.receiver.is_here() {
            return;
        }
        if sharing_of(span.segment) == Sharing::Shared {
            self.kept_bytes.fetch_sub(span.bytes, Ordering::Relaxed);
        }
        self.spans.lock().push(span);
    }
}

/// What several tasks or workers may see: segments that are mapped privately. What a task writes there is its own, and
/// must meet neither the next one that is given the same bytes nor one that has them at the same time.
///
/// Views of the same bytes live together more often than it seems: results that are still views of their arguments wait
/// for the end of their chunk, and a function may keep what it was given. So of each segment there may be several
/// mappings, in each of which no page is shown by two views. A new view takes the first mapping where its pages are free:
/// where arguments die with their call that is always the same one, and its pages stay mapped.
#[derive(Default)]
pub struct Commons {
    receiver: Receiver,
    mappings: Lock<Mappings>,
}

/// A view of up to so many bytes that finds no mapping free is a copy: to map a segment again costs as much.
const COPIED_BYTES_MAX: u64 = 64 << 10;

/// Mappings of this worker beyond one for each segment: half of what the kernel usually allows a process
/// (vm.max_map_count). Beyond it views are copies, whatever their size.
const EXTRA_MAPPINGS_MAX: usize = 1 << 15;

/// So many mappings of a segment stay although no view needs them: those whose pages a reader found stay found for the
/// next one.
const SPARE_MAPPINGS_MAX: usize = 4;

/// To copy a page when it is written to takes several times what it takes to copy its bytes: the kernel is entered for each.
/// So where the last views of a segment were written to all over, the next are copies from the start. Only views of
/// these sizes: smaller ones cost little, and larger ones would need much memory.
const FORESEEN_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=64 << 20;

/// After so many views that were written to all over the next are copied.
const WRITTEN_MIN: u32 = 2;

/// One in so many of those is not, to see whether it is still written to.
const LOOKED_AT_EACH: u32 = 16;

/// Whether pages of a view are copies is asked from this size on: if none is, they stay mapped, and the next reader need
/// not find them one by one. Pages of smaller views are dropped without asking.
const EXAMINED_BYTES_MIN: u64 = 1 << 20;

/// What is done with the views of a segment.
#[derive(Default)]
struct Habit {
    /// How many views in a row were written to all over.
    written: u32,
    /// Views that were copied since one was looked at.
    copied: u32,
}

impl Habit {
    /// Whether the next view should be a copy.
    fn foresees_writing(&mut self) -> bool {
        if self.written < WRITTEN_MIN {
            return false;
        }
        self.copied = (self.copied + 1) % LOOKED_AT_EACH;
        self.copied > 0
    }

    fn learn(&mut self, written: bool) {
        self.written = if written { self.written.saturating_add(1) } else { 0 };
    }
}

#[derive(Default)]
struct Mappings {
    /// The first mapping of each segment is the one that the atlas has.
    segments: HashMap<SegmentId, Vec<Mapping>>,
    /// Of the segments that tasks have views of. None where what is opened is to stay a view.
    habits: Option<HashMap<SegmentId, Habit>>,
    /// How many there are beyond one for each.
    extra: usize,
    /// There are no new views any more.
    closed: bool,
}

struct Mapping {
    segment: Arc<Segment>,
    /// The pages of each view, from the first to the one behind the last. No two overlap.
    views: BTreeMap<u64, u64>,
    /// Some of its pages cannot be dropped, since they are locked in memory: there are no new views.
    stuck: bool,
}

impl Mapping {
    fn new(segment: Arc<Segment>) -> Self {
        Self { segment, views: BTreeMap::new(), stuck: false }
    }

    fn is_free(&self, pages: &Range<u64>) -> bool {
        self.views.range(..pages.end).next_back().is_none_or(|(_, end)| *end <= pages.start)
    }

    /// Sees to it that pages which nobody has a view of show their owner's bytes; whether they do.
    fn prepare(&mut self, span: Span) -> bool {
        if span.bytes < EXAMINED_BYTES_MIN || !matches!(self.segment.has_own(span.offset, 1), Ok(false)) {
            self.stuck = self.segment.discard(span.offset, span.bytes).is_err();
        }
        !self.stuck
    }
}

impl Mappings {
    /// The mapping in which a view of these pages may live, where they are its own from now on; or none.
    fn place(&mut self, span: Span, pages: &Range<u64>) -> Option<Arc<Segment>> {
        if self.closed {
            return None;
        }
        if FORESEEN_BYTES.contains(&span.bytes)
            && let Some(habits) = &mut self.habits
            && habits.entry(span.segment).or_default().foresees_writing()
        {
            return None;
        }
        let mappings = self.segments.get_mut(&span.segment)?;
        if mappings.iter().any(|mapping| mapping.stuck) {
            return None;
        }
        let free = mappings.iter().position(|mapping| mapping.is_free(pages));
        let index = free.unwrap_or(mappings.len());
        if free.is_none() {
            if span.bytes <= COPIED_BYTES_MAX || self.extra >= EXTRA_MAPPINGS_MAX {
                return None;
            }
            // Where the system has no mapping left, there is still the way of copying.
            let again = mappings.first()?.segment.again().ok()?;
            mappings.push(Mapping::new(again));
            self.extra += 1;
        }
        let mapping = &mut mappings[index];
        if !mapping.prepare(span) {
            return None;
        }
        mapping.views.insert(pages.start, pages.end);
        Some(Arc::clone(&mapping.segment))
    }

    /// A view is gone: forgets what was written to its pages, in its mapping.
    fn leave(&mut self, span: Span, segment: &Arc<Segment>) -> Result<()> {
        let Some(mappings) = self.segments.get_mut(&span.segment) else { return Ok(()) };
        let pages = segment.pages(span.offset, span.bytes)?;
        let Some(index) = mappings.iter().position(|mapping| Arc::ptr_eq(&mapping.segment, segment)) else {
            return Ok(());
        };
        mappings[index].views.remove(&pages.start);
        let changed = span.bytes < EXAMINED_BYTES_MIN || segment.has_own(span.offset, span.bytes)?;
        if FORESEEN_BYTES.contains(&span.bytes)
            && let Some(habits) = &mut self.habits
        {
            let written = changed && segment.is_mostly_own(span.offset, span.bytes)?;
            habits.entry(span.segment).or_default().learn(written);
        }
        let unused = mappings[index].views.is_empty();
        let spare = mappings.iter().skip(1).filter(|mapping| mapping.views.is_empty()).count();
        if index > 0 && unused && spare > SPARE_MAPPINGS_MAX {
            // Unmapped with the view, and what was written there with it.
            mappings.swap_remove(index);
            self.extra -= 1;
            return Ok(());
        }
        if changed && segment.discard(span.offset, span.bytes).is_err() {
            mappings[index].stuck = true;
        }
        Ok(())
    }
}

impl Commons {
    fn mappings(&self) -> Held<'_, Mappings> {
        self.mappings.lock()
    }

    /// Those of one segment, which this process has to itself, without a parent that lends it.
    #[must_use]
    pub fn of_segment(segment: Arc<Segment>) -> Arc<Self> {
        let commons = Self::default();
        commons.add(SegmentId(0), segment);
        Arc::new(commons)
    }

    /// The file is about to be another's. All views become this process's own memory, and there are no new ones: what is
    /// opened is a copy.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) when that is not possible. It is tried for all.
    pub fn detach(&self) -> Result<()> {
        let mut mappings = self.mappings();
        mappings.closed = true;
        let mut outcome = Ok(());
        for Mapping { segment, views, .. } in mappings.segments.values().flatten() {
            let page = segment.bytes() / segment.pages(0, segment.bytes())?.end;
            for (&first, &end) in views {
                outcome = outcome.and(segment.detach(first * page, (end - first) * page).map_err(Into::into));
            }
        }
        outcome
    }

    /// Takes in a segment that is mapped privately.
    fn add(&self, id: SegmentId, segment: Arc<Segment>) {
        self.remove(id);
        self.mappings().segments.insert(id, vec![Mapping::new(segment)]);
    }

    /// Lets go of a segment. It is unmapped when the last view of it has ended.
    fn remove(&self, id: SegmentId) {
        let mut mappings = self.mappings();
        let gone = mappings.segments.remove(&id).unwrap_or_default();
        mappings.extra -= gone.len().saturating_sub(1);
        if let Some(habits) = &mut mappings.habits {
            habits.remove(&id);
        }
        // Unmapping takes its time, and nobody has to wait for it.
        drop(mappings);
        drop(gone);
    }

    /// Bytes of the only segment, for one who may write to them, and whose writing nobody else sees. `hold` ends with them.
    ///
    /// # Errors
    /// [`Error::Memory`](crate::Error::Memory) for bytes that the segment does not have, or that cannot be copied where they
    /// have to be.
    pub fn open_within(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        offset: u64,
        bytes: u64,
        hold: Arc<dyn Send + Sync>,
    ) -> Result<Bytes> {
        self.open(segment, Span { segment: SegmentId(0), offset, bytes }, hold)
    }

    /// Bytes of `segment` for one who may write to them, and whose writing nobody else sees.
    fn open(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        span: Span,
        hold: Arc<dyn Send + Sync>,
    ) -> Result<Bytes> {
        let pages = segment.pages(span.offset, span.bytes)?;
        if pages.is_empty() {
            return Ok(Bytes::Inline(Box::default()));
        }
        let Some(mapping) = self.mappings().place(span, &pages) else {
            return Ok(Bytes::Inline(segment.read(span.offset, span.bytes)?));
        };
        let reader = Reader { commons: Arc::clone(self), hold, mapping: Arc::clone(&mapping) };
        Ok(Bytes::View(View::new(&mapping, span, Arc::new(reader))?))
    }
}

/// Bytes of the parent's commons that are in use here; gone, the parent is told.
struct Hold {
    span: Span,
    returns: Arc<Returns>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.returns.release(self.span);
    }
}

/// Whom a view of the commons tells of its end.
struct Reader {
    commons: Arc<Commons>,
    /// Ends with this.
    #[expect(dead_code, reason = "held")]
    hold: Arc<dyn Send + Sync>,
    /// The mapping that the view is in.
    mapping: Arc<Segment>,
}

impl Release for Reader {
    fn release(&self, span: Span) {
        if !self.commons.receiver.is_here() {
            return;
        }
        // It can only fail for pages that are not the segment's, of which there is no view.
        let _ = self.commons.mappings().leave(span, &self.mapping);
    }
}

/// The parent's memory as this worker sees it.
pub(crate) struct Holdings {
    atlas: Atlas,
    pub(crate) returns: Arc<Returns>,
    commons: Arc<Commons>,
}

impl Holdings {
    pub(crate) fn new() -> Self {
        let commons = Commons::default();
        commons.mappings().habits = Some(HashMap::new());
        Self { atlas: Atlas::default(), returns: Arc::default(), commons: Arc::new(commons) }
    }

    /// Takes in a segment that the parent announced.
    pub(crate) fn add(&mut self, id: SegmentId, segment: Arc<Segment>) {
        if segment.sharing() == Sharing::Private {
            self.commons.add(id, Arc::clone(&segment));
        }
        self.atlas.add(id, segment);
    }

    /// Lets go of segments that the parent has no more.
    pub(crate) fn remove(&mut self, segments: &[SegmentId]) {
        for &id in segments {
            self.commons.remove(id);
            self.atlas.remove(id);
        }
    }

    fn hold(&self, span: Span) -> Arc<Hold> {
        Arc::new(Hold { span, returns: Arc::clone(&self.returns) })
    }

    /// Bytes that the parent lent, which it expects back.
    fn bytes(&self, span: Span) -> Result<Bytes> {
        if near::is_near(span.segment) {
            let owner: Arc<dyn Release> = self.returns.clone();
            return open_near(span, owner);
        }
        if sharing_of(span.segment) == Sharing::Private {
            return self.commons.open(self.atlas.segment(span.segment)?, span, self.hold(span));
        }
        self.returns.kept_bytes.fetch_add(span.bytes, Ordering::Relaxed);
        let owner: Arc<dyn Release> = self.returns.clone();
        self.atlas.view(span, &owner).map(Bytes::View)
    }

    /// Bytes that the parent lent.
    pub(crate) fn view(&self, span: Span) -> Result<Bytes> {
        self.returns.expect(1);
        self.bytes(span)
    }

    /// Opens a value that one task gets.
    pub(crate) fn open(&self, outline: Outline) -> Result<Parcel> {
        self.returns.expect(outline.spans());
        let open = |part: Part| match part {
            Part::Inline(bytes) => Ok(Bytes::Inline(bytes.into())),
            Part::Span(span) => self.bytes(span),
        };
        Ok(Parcel {
            stream: open(outline.stream)?,
            buffers: outline.buffers.into_iter().map(open).collect::<Result<_>>()?,
        })
    }

    /// Keeps a value that many tasks get.
    pub(crate) fn share(&self, outline: Outline) -> Result<Shared> {
        self.returns.expect(outline.spans());
        let keep = |part: Part| match part {
            Part::Inline(bytes) => Ok(SharedBytes::Inline(bytes)),
            Part::Span(span) => {
                Ok(SharedBytes::Held(Arc::clone(self.atlas.segment(span.segment)?), self.hold(span)))
            }
        };
        Ok(Shared {
            stream: keep(outline.stream)?,
            buffers: outline.buffers.into_iter().map(keep).collect::<Result<_>>()?,
            commons: Arc::clone(&self.commons),
        })
    }
}

/// A value that stays here for many tasks.
pub struct Shared {
    stream: SharedBytes,
    buffers: Vec<SharedBytes>,
    commons: Arc<Commons>,
}

enum SharedBytes {
    Inline(Vec<u8>),
    Held(Arc<Segment>, Arc<Hold>),
}

impl Shared {
    /// The value once more: whoever gets it may write to it, and nobody after it sees that.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the parent named bytes that its segment does not have.
    pub fn open(&self) -> Result<Parcel> {
        let open = |bytes: &SharedBytes| match bytes {
            SharedBytes::Inline(bytes) => Ok(Bytes::Inline(bytes.as_slice().into())),
            SharedBytes::Held(segment, hold) => self.commons.open(segment, hold.span, hold.clone()),
        };
        let buffers = self.buffers.iter().map(open).collect::<Result<_>>()?;
        Ok(Parcel { stream: open(&self.stream)?, buffers })
    }
}

#[cfg(test)]
mod tests;
