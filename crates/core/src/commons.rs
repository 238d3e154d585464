//! What of the parent's memory is in use in a worker, and what becomes of it afterwards.
//!
//! Two kinds: blocks that one task was given for itself, which go back as they are; and the *commons*, which several
//! tasks or workers may see. Those are mapped privately: what a task writes to them is its own copy of a page, and that
//! is dropped before another task looks.

use crate::error::Result;
use crate::payload::{Atlas, Bytes, Outline, Parcel, Part, sharing_of};
use forklift_shm::{Release, Segment, SegmentId, Sharing, Span, View};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Blocks of the parent's that are given up here, until the parent is told. Shared by all views in this process.
#[derive(Default)]
pub(crate) struct Returns {
    spans: Mutex<Vec<Span>>,
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
        let spans = std::mem::take(&mut *self.spans.lock().unwrap_or_else(PoisonError::into_inner));
        self.outstanding.fetch_sub(spans.len() as u64, Ordering::Relaxed);
        spans
    }
}

impl Release for Returns {
    fn release(&self, span: Span) {
        if sharing_of(span.segment) == Sharing::Shared {
            self.kept_bytes.fetch_sub(span.bytes, Ordering::Relaxed);
        }
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }
}

/// What several tasks or workers may see: segments that are mapped privately. What a task writes there is its own, and
/// must not meet the next one that is given the same bytes.
#[derive(Default)]
struct Commons {
    segments: Mutex<HashMap<SegmentId, Common>>,
}

/// A segment, and the views of it that live here.
struct Common {
    segment: Arc<Segment>,
    views: Vec<Span>,
}

impl Commons {
    fn segments(&self) -> MutexGuard<'_, HashMap<SegmentId, Common>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a span that is about to be viewed. What does not lie in its segment will not be.
    fn enter(&self, span: Span) {
        if let Some(common) = self.segments().get_mut(&span.segment)
            && span.offset.checked_add(span.bytes).is_some_and(|end| end <= common.segment.bytes())
        {
            common.views.push(span);
        }
    }

    /// A view is gone: forgets what was written to those of its pages that no other view shows.
    fn leave(&self, span: Span) -> Result<()> {
        let mut segments = self.segments();
        let Some(Common { segment, views }) = segments.get_mut(&span.segment) else { return Ok(()) };
        if let Some(index) = views.iter().position(|view| *view == span) {
            views.swap_remove(index);
        }
        let pages = |span: &Span| span.offset / PAGE..(span.offset + span.bytes).div_ceil(PAGE);
        let mut alone = vec![pages(&span)];
        for other in views.iter().map(pages) {
            let cut =
                |own: Range<u64>| [own.start..own.end.min(other.start), own.start.max(other.end)..own.end];
            alone = alone.into_iter().flat_map(cut).filter(|run| run.start < run.end).collect();
        }
        for run in alone {
            let (offset, end) = (run.start * PAGE, (run.end * PAGE).min(segment.bytes()));
            segment.discard(offset, end - offset)?;
        }
        Ok(())
    }
}

/// The smallest page there is. Where pages are larger, more is kept apart than need be.
const PAGE: u64 = 4096;

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
    hold: Arc<Hold>,
}

impl Release for Reader {
    fn release(&self, span: Span) {
        if self.commons.leave(span).is_err() {
            // Pages that cannot be dropped would show the old value's changes: then the block is kept for ever.
            std::mem::forget(Arc::clone(&self.hold));
        }
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
        Self { atlas: Atlas::default(), returns: Arc::default(), commons: Arc::default() }
    }

    /// Takes in a segment that the parent announced.
    pub(crate) fn add(&mut self, id: SegmentId, segment: Arc<Segment>) {
        if segment.sharing() == Sharing::Private {
            self.commons.segments().insert(id, Common { segment: Arc::clone(&segment), views: Vec::new() });
        }
        self.atlas.add(id, segment);
    }

    fn hold(&self, span: Span) -> Arc<Hold> {
        Arc::new(Hold { span, returns: Arc::clone(&self.returns) })
    }

    fn owner(&self, span: Span) -> Arc<dyn Release> {
        if sharing_of(span.segment) == Sharing::Shared {
            self.returns.kept_bytes.fetch_add(span.bytes, Ordering::Relaxed);
            return self.returns.clone();
        }
        self.commons.enter(span);
        Arc::new(Reader { commons: Arc::clone(&self.commons), hold: self.hold(span) })
    }

    /// A view of bytes that the parent lent.
    pub(crate) fn view(&self, span: Span) -> Result<View> {
        self.returns.expect(1);
        self.atlas.view(span, &self.owner(span))
    }

    /// Opens a value that one task gets.
    pub(crate) fn open(&self, outline: Outline) -> Result<Parcel> {
        self.returns.expect(outline.spans());
        self.atlas.open(outline, &|span| self.owner(span))
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
            SharedBytes::Held(segment, hold) => {
                self.commons.enter(hold.span);
                let reader = Reader { commons: Arc::clone(&self.commons), hold: Arc::clone(hold) };
                Ok(Bytes::View(View::new(segment, hold.span, Arc::new(reader))?))
            }
        };
        let buffers = self.buffers.iter().map(open).collect::<Result<_>>()?;
        Ok(Parcel { stream: open(&self.stream)?, buffers })
    }
}
