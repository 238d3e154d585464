//! A run of bytes in a segment, as three types for the three states it can be in. UNSAFE: slices of mappings are made
//! here and nowhere else.
//!
//! ```text
//!   owner's process                                             peer's process
//!
//!   Arena::allocate ──> Draft ──seal──> Block ··· its Span, in a message ···> View
//!                         │               │                                     │ drop
//!                         │ drop          │ drop  <··· its Span, in a message ··┘ Release::release
//!                         └───────┬───────┘
//!                                 └──> Release::release of the arena: the memory is free again
//! ```
//!
//! | state | who may read | who may write | where it is found |
//! |---|---|---|---|
//! | [`Draft`] | its holder | its holder | where a payload is being written |
//! | [`Block`] | the peer | the peer | in the owner's table of what it lent, until the peer gives it back |
//! | [`View`] | its holder | its holder | in the peer: under an array, until that is collected |
//!
//! What this file cannot see is the peer: that a peer uses a span only between receiving and releasing it is a
//! matter of protocol and of the trust that is described in the crate's documentation.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::error::Result;
use crate::segment::{Claim, Segment, Sharing, Span};

/// Whoever wants to know when a span is not used any more: the arena for its own blocks, a channel for a peer's.
pub trait Release: Send + Sync {
    /// The holder of the span has gone and will not touch it again. Called at most once for each holder, from
    /// whatever thread drops it, and must neither wait nor panic.
    fn release(&self, span: Span);
}

/// A run of bytes that only its holder knows of: writable, and nobody else's until [sealed](Draft::seal).
///
/// Its bytes are whatever the previous user of the memory left there. Dropping a draft gives its memory back.
///
/// What is sealed cannot be written any more:
///
/// ```compile_fail,E0382
/// # fn main() -> forklift_shm::Result<()> {
/// let mut draft = forklift_shm::Arena::new(Default::default()).allocate(10)?;
/// let block = draft.seal();
/// draft[0] = 1;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Draft {
    holding: Holding,
}

impl Draft {
    /// Makes a draft of a span of a segment that this process owns; `owner` gets the span back in the end.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::Error::OutOfRange), and [`Claimed`](crate::Error::Claimed) when the span's pages belong
    /// to another draft or block.
    pub(crate) fn claim(segment: &Arc<Segment>, span: Span, owner: Arc<dyn Release>) -> Result<Self> {
        // Even an empty draft has a page of its own, so that every live span has another offset.
        let claim = segment.claim(span.offset, span.bytes.max(1))?;
        Ok(Self { holding: Holding { claim: Some(claim), span, owner } })
    }

    /// Where the bytes are, as a peer would be told.
    pub fn span(&self) -> Span {
        self.holding.span
    }

    /// The first byte, for those who fill the draft without a slice. Good until the draft is sealed or dropped;
    /// moving the draft does not move its bytes.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.holding.address()
    }

    /// Fills a part of the draft, from `offset` on, by a system call, which fails where there is no room on the disk that the draft lies
    /// on (see [`Arena::on_disk`](crate::Arena::on_disk)).
    ///
    /// # Errors
    /// What the system says; [`InvalidInput`](std::io::ErrorKind::InvalidInput) for bytes beyond the draft's end.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let span = self.holding.span;
        match offset.checked_add(bytes.len() as u64) {
            Some(end) if end <= span.bytes => self.holding.segment().write(span.offset + offset, bytes),
            _ => Err(std::io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Ends the writing: from here on the bytes are the peer's that is told of the span.
    pub fn seal(self) -> Block {
        Block { holding: self.holding }
    }
}

impl Deref for Draft {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY:
        // - Valid for reads: the claim was checked against the segment and keeps it mapped as long as `self` lives.
        // - Initialised: every byte of a mapping is (the kernel zeroes pages before it maps them).
        // - Not written to while borrowed: the claim is exclusive in this process, `&self` excludes `deref_mut`, and
        //   no peer was told of a draft.
        unsafe { std::slice::from_raw_parts(self.holding.address(), self.holding.span.bytes as usize) }
    }
}

impl DerefMut for Draft {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY:
        // - As in `deref`; moreover `&mut self` and the claim make this the only reference to the bytes.
        unsafe { std::slice::from_raw_parts_mut(self.holding.address(), self.holding.span.bytes as usize) }
    }
}

/// A run of bytes that was written and then lent to a peer, which may read and write it: so there is no way to its
/// bytes from here. Its owner keeps it for as long as the peer has it; dropping it gives the memory back.
///
/// ```compile_fail,E0608
/// # fn main() -> forklift_shm::Result<()> {
/// let block = forklift_shm::Arena::new(Default::default()).allocate(10)?.seal();
/// let first = block[0];
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Block {
    holding: Holding,
}

impl Block {
    /// Where the bytes are: what the peer is told.
    pub fn span(&self) -> Span {
        self.holding.span
    }

    /// How many bytes it has, as asked for when it was allocated.
    pub fn bytes(&self) -> u64 {
        self.holding.span.bytes
    }

    /// The segment that the bytes are in, so that its descriptor can be sent to a peer.
    pub fn segment(&self) -> &Arc<Segment> {
        self.holding.segment()
    }
}

/// What drafts and blocks have in common: the claim, and whom to tell when it ends.
struct Holding {
    /// None only while being dropped.
    claim: Option<Claim>,
    span: Span,
    owner: Arc<dyn Release>,
}

impl Holding {
    fn segment(&self) -> &Arc<Segment> {
        match &self.claim {
            Some(claim) => claim.segment(),
            None => unreachable!("expected a claim before drop, found none"),
        }
    }

    fn address(&self) -> *mut u8 {
        self.segment().address(self.span.offset)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        // Nothing is claimed in a private mapping: this is a copy in a fork, where the block is not anybody's to give back, and
        // locks may be held by threads that the fork left behind.
        if self.segment().sharing() == Sharing::Private {
            std::mem::forget(self.claim.take());
            return;
        }
        // The claim must end first: as soon as the owner knows, another thread may be given the same pages.
        self.claim = None;
        self.owner.release(self.span);
    }
}

impl fmt::Debug for Holding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.span.fmt(formatter)
    }
}

/// A run of bytes of a *peer's* segment, which that peer sealed and told us of. It belongs to the holder of the view
/// until dropped, which tells `owner`.
///
/// The view keeps the segment mapped, so it may outlive everything else that knows of it.
pub struct View {
    segment: Arc<Segment>,
    span: Span,
    owner: Arc<dyn Release>,
}

impl View {
    /// Makes a view of a span that a peer named. The segment must be the one that `span.segment` stands for, which
    /// only the caller can know; that the span lies inside of it is checked here.
    ///
    /// Nothing is copied. If this fails, `owner` is not called.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::Error::OutOfRange): the peer has told nonsense.
    pub fn new(segment: &Arc<Segment>, span: Span, owner: Arc<dyn Release>) -> Result<Self> {
        segment.check(span.offset, span.bytes)?;
        Ok(Self { segment: Arc::clone(segment), span, owner })
    }

    /// The first byte. May be written to: the bytes are the holder's own (or, in a private mapping, become so by
    /// being written to). Good for as long as the view lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.segment.address(self.span.offset)
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.span.bytes as usize
    }

    /// Where the bytes are in the peer's segment.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The segment that the bytes are in.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The bytes. They were sealed by their owner and are exclusive to the holder of the view, so nobody else writes
    /// to them while the slice lives. Who writes through [`as_ptr`](Self::as_ptr) must not keep the slice.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY:
        // - Valid for reads: `new` checked the span against the segment, which `self` keeps mapped.
        // - Initialised: every byte of a mapping is.
        // - Not written to while borrowed: the owner cannot (a sealed block gives no access), and does not reuse the
        //   memory before this view is dropped and says so.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.bytes()) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.owner.release(self.span);
    }
}

impl fmt::Debug for View {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("View").field(&self.span).finish()
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::error::Error;
    use crate::pagemap;
    use crate::pages::page_bytes;
    use crate::segment::{SegmentId, scan};

    /// An owner that only writes down what it is told.
    #[derive(Default)]
    struct Diary(crate::Lock<Vec<Span>>);

    impl Release for Diary {
        fn release(&self, span: Span) {
            self.0.lock().push(span);
        }
    }

    impl Diary {
        fn spans(&self) -> Vec<Span> {
            self.0.lock().clone()
        }
    }

    fn span(offset: u64, bytes: u64) -> Span {
        Span { segment: SegmentId(0), offset, bytes }
    }

    fn is_send_and_sync<T: Send + Sync>() {}

    #[test]
    fn all_states_may_cross_threads() {
        is_send_and_sync::<Draft>();
        is_send_and_sync::<Block>();
        is_send_and_sync::<View>();
    }

    #[test]
    fn what_is_drafted_here_is_viewed_there() {
        let diary = Arc::new(Diary::default());
        let ours = Segment::create(4 * page_bytes()).unwrap();
        let place = span(page_bytes(), 5000);
        let mut draft = Draft::claim(&ours, place, diary.clone()).unwrap();
        draft.fill(7);
        draft[4999] = 8;
        let block = draft.seal();
        assert_eq!((block.span(), block.bytes()), (place, 5000));
        assert!(diary.spans().is_empty(), "sealing does not release");

        let fd = ours.fd().try_clone_to_owned().unwrap();
        let theirs = Segment::open(fd, ours.bytes(), Sharing::Shared).unwrap();
        let view = View::new(&theirs, block.span(), diary.clone()).unwrap();
        assert_ne!(ours.address(0), theirs.address(0));
        // The segment lives as long as the view, whoever else drops it.
        drop(theirs);
        drop(ours);
        assert_eq!(view.bytes(), 5000);
        assert_eq!((view.as_slice()[0], view.as_slice()[4999]), (7, 8));
        drop(view);
        assert_eq!(diary.spans(), [place]);
        drop(block);
        assert_eq!(diary.spans(), [place, place]);
    }

    #[test]
    fn spans_of_a_peer_are_checked() {
        let diary = Arc::new(Diary::default());
        let segment = Segment::create(page_bytes()).unwrap();
        for place in [span(0, page_bytes() + 1), span(page_bytes(), 1), span(u64::MAX, 2), span(1, u64::MAX)]
        {
            let refused = View::new(&segment, place, diary.clone());
            assert!(matches!(refused, Err(Error::OutOfRange { .. })), "{place:?}");
        }
        drop(View::new(&segment, span(page_bytes(), 0), diary.clone()).unwrap());
        assert_eq!(diary.spans().len(), 1, "a refused view releases nothing");
    }

    #[test]
    fn a_page_is_in_one_draft_only() {
        let diary = Arc::new(Diary::default());
        let segment = Segment::create(2 * page_bytes()).unwrap();
        let first = Draft::claim(&segment, span(0, 10), diary.clone()).unwrap();
        let second = Draft::claim(&segment, span(64, 10), diary.clone());
        assert!(matches!(second, Err(Error::Claimed { .. })));
        let block = first.seal();
        assert!(Draft::claim(&segment, span(64, 10), diary.clone()).is_err());
        drop(block);
        assert!(Draft::claim(&segment, span(64, 10), diary).is_ok());
    }

    #[test]
    fn private_views_keep_their_writes_to_themselves() {
        let diary = Arc::new(Diary::default());
        let ours = Segment::create(page_bytes()).unwrap();
        let mut draft = Draft::claim(&ours, span(0, 16), diary.clone()).unwrap();
        draft.fill(1);
        let fd = ours.fd().try_clone_to_owned().unwrap();
        let theirs = Segment::open(fd, ours.bytes(), Sharing::Private).unwrap();
        assert!(
            Draft::claim(&theirs, span(0, 1), diary.clone()).is_err(),
            "nothing is drafted in a private mapping"
        );
        let view = View::new(&theirs, span(0, 16), diary.clone()).unwrap();
        // SAFETY:
        // - The view has 16 bytes, no slice of which is alive.
        unsafe { view.as_ptr().write(2) };
        assert_eq!(view.as_slice()[..2], [2, 1]);
        assert_eq!(draft[..2], [1, 1]);
        let again = theirs.again().unwrap();
        let second = View::new(&again, span(0, 16), diary.clone()).unwrap();
        assert_eq!(second.as_slice()[..2], [1, 1], "another mapping of the same file shows nothing of it");
        assert_eq!(theirs.read(0, 2).unwrap()[..], [1, 1]);
        assert!(theirs.read(page_bytes(), 1).is_err());
        theirs.discard(0, 16).unwrap();
        assert_eq!(view.as_slice()[..2], [1, 1]);
    }

    /// Linux 6.7 and newer can be asked, and the answer is the same as what the map says.
    #[test]
    fn pages_that_became_our_own_are_found_in_both_ways() {
        let page = page_bytes();
        let ours = Segment::create(64 * page).unwrap();
        ours.populate(0, ours.bytes()).unwrap();
        let fd = ours.fd().try_clone_to_owned().unwrap();
        let theirs = Segment::open(fd, ours.bytes(), Sharing::Private).unwrap();
        let view = View::new(&theirs, span(0, ours.bytes()), Arc::new(Diary::default())).unwrap();
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let version: Vec<u32> = release.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
        let check = |pages: std::ops::Range<u64>, expected: bool| {
            let start = theirs.address(0).addr() as u64;
            let addresses = start + pages.start * page..start + pages.end * page;
            let bytes = (pages.end - pages.start) * page;
            assert_eq!(theirs.has_own(pages.start * page, bytes).unwrap(), expected, "{pages:?}");
            let map = pagemap::open().unwrap();
            assert_eq!(pagemap::read(&map, &addresses), expected, "{pages:?}");
            let asked = scan(&map, &addresses);
            assert!(asked.is_some() || version < vec![6, 7], "{release} has the question");
            assert!(asked.is_none_or(|found| found == expected), "{pages:?}");
        };
        check(0..64, false);
        assert_eq!(view.as_slice().iter().max(), Some(&0));
        check(0..64, false);
        // What is made ready to be written to is a copy already.
        theirs.populate(40 * page, page).unwrap();
        for (pages, expected) in [(0..64, true), (40..41, true), (0..40, false), (41..64, false)] {
            check(pages, expected);
        }
        theirs.discard(40 * page, page).unwrap();
        check(0..64, false);
    }
}
