//! One memory file, mapped. UNSAFE: this is the only file that maps and unmaps memory.
//!
//! A segment is an anonymous file in memory (memfd) and one mapping of all of it. It has no name in any file system,
//! so it is gone when the last process that holds it is gone, however that process ends. The process that
//! [creates](Segment::create) it is its owner and the only one that allocates from it; a peer gets the descriptor
//! over a channel and [opens](Segment::open) it.
//!
//! One that only this process needs can lie on a disk instead ([`Segment::create_in`]): its file has no name either, and its
//! pages can be written out, so that they need no memory.
//!
//! A segment is not an allocator (see [`Arena`](crate::Arena)) and not a lock: it knows where its bytes are and which
//! pages live blocks of *this process* have claimed, and nothing of what peers do with them.
//!
//! # Invariants
//! - `base` is the address of a mapping of exactly `bytes` bytes which lives as long as the value, readable and
//!   writable, and never moved or partly unmapped.
//! - The file cannot become shorter than the mapping (it is sealed, or, where there are no seals or it is
//!   [another's](Segment::open_unsealed), trusted), so that reading the mapping never ends in SIGBUS.
//! - A page is in at most one [`Claim`] at a time.
//!
//! # Limitations
//! - Memory is not reserved: a page is found by the kernel when it is first touched, and where there is none left,
//!   the process (or another one of its cgroup) is killed. That is what the arena's limit is for.
//! - After a fork the child has the mapping too (MADV_DONTFORK is deliberately not set, since children of a
//!   `fork` context read their parent's blocks), but privately (see [`forks`]), and neither allocates from nor punches what it
//!   inherited.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::ioctl::Updater;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use crate::error::{Error, Result};
use crate::file;
use crate::forks;
use crate::locks::{Held, Lock};
use crate::pagemap::{self, Answer, Question};
use crate::pages::{PageSet, page_bytes};

/// Byte offsets are u64 and addresses usize; everything here takes them to be the same.
const _: () = assert!(usize::BITS == 64, "forklift-shm needs a 64-bit machine");

/// The largest segment. Far above any machine's memory, and small enough that no sum of two sizes overflows.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 42;

/// Names a segment among those of one owner. Never used for a second segment of the same owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u32);

/// A run of bytes in a segment: what one process tells another instead of a pointer.
///
/// It is only a name. That it lies inside of its segment is checked where it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// Which of the owner's segments.
    pub segment: SegmentId,
    /// Where the run begins, in bytes from the start of the segment.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
}

/// Who sees what is written through a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Everyone who maps the segment (MAP_SHARED).
    Shared,
    /// Only this process: a page is copied when it is first written to (MAP_PRIVATE).
    Private,
}

/// One memory file with its mapping. See the module's documentation.
#[derive(Debug)]
pub struct Segment {
    base: NonNull<u8>,
    bytes: u64,
    sharing: Sharing,
    sealed: bool,
    /// Shared with the other mappings of the file that were made [again](Segment::again).
    fd: Arc<OwnedFd>,
    /// By which the file is known from another that has its descriptor's number, if it is mapped shared.
    identity: Option<(u64, u64)>,
    serial: u32,
    /// This process is a fork of the one that has mapped it: see [`forks`].
    inherited: AtomicBool,
    claimed: Lock<PageSet>,
}

/// Counts the segments that this process has mapped.
static SERIALS: AtomicU32 = AtomicU32::new(0);

// SAFETY:
// - The mapping belongs to the process, not to a thread, so it may be used and unmapped by any thread.
unsafe impl Send for Segment {}
// SAFETY:
// - No method that takes `&self` reads or writes the mapping, apart from `Words`, which does so by atomic operations;
//   `base` and `bytes` never change, and `claimed` has a lock.
unsafe impl Sync for Segment {}

impl Segment {
    /// Creates a segment of at least `bytes` bytes (rounded up to whole pages), all zero and none of them in memory
    /// yet, sealed against changes of its size, and maps it shared.
    ///
    /// Where a sandbox does not allow seals, the segment is made without.
    ///
    /// # Errors
    /// [`Error::System`] when the system has no descriptor, address space or memory left;
    /// [`Error::OutOfRange`] for 0 bytes or more than [`SEGMENT_BYTES_MAX`].
    pub fn create(bytes: u64) -> Result<Arc<Self>> {
        Self::create_as("forklift", bytes)
    }

    /// Creates a segment as [`create`](Self::create) does, under a name that `/proc` shows beside its descriptor. Nothing
    /// can be opened by such a name.
    pub(crate) fn create_as(name: &str, bytes: u64) -> Result<Arc<Self>> {
        let bytes = whole_pages(bytes)?;
        Self::map(Arc::new(file::create(name, bytes)?), bytes, Sharing::Shared)
    }

    /// Creates a segment as [`create`](Self::create) does, but in a file of this directory that has no name there. It
    /// takes no room on the disk until it is [written](Self::write) to.
    ///
    /// The file cannot be sealed. Nobody else has its descriptor, and it is not to be sent to a peer.
    ///
    /// # Errors
    /// [`Error::Disk`] when there can be no such file; else as [`create`](Self::create).
    pub fn create_in(directory: &Path, bytes: u64) -> Result<Arc<Self>> {
        let bytes = whole_pages(bytes)?;
        let refused = |source| Error::disk("make a file", directory, bytes, source);
        let file = tempfile::tempfile_in(directory).map_err(refused)?;
        file.set_len(bytes).map_err(refused)?;
        Self::map(Arc::new(file.into()), bytes, Sharing::Shared)
    }

    /// Maps a segment that a peer created, of which it announced the size.
    ///
    /// Nothing is believed: the file must be as long as announced and sealed against becoming shorter, or else a peer
    /// could make us die of SIGBUS at any later access. Only where this process cannot seal files either (some
    /// sandboxes) the seal is not asked for.
    ///
    /// # Errors
    /// [`Error::Foreign`] when the descriptor is not a sealed memory file of the announced size;
    /// [`Error::System`] and [`Error::OutOfRange`] as for [`create`](Self::create).
    pub fn open(fd: OwnedFd, bytes: u64, sharing: Sharing) -> Result<Arc<Self>> {
        let mapped_bytes = whole_pages(bytes)?;
        file::examine(&fd, bytes, mapped_bytes)?;
        Self::map(Arc::new(fd), mapped_bytes, sharing)
    }

    /// Maps a memory file that is neither ours nor a peer's, privately: what is written here reaches nobody. Whole pages of
    /// it, `bytes` or as many as it has.
    ///
    /// Such a file is not sealed. That its owner does not cut it short has to be trusted, as all do who map it.
    ///
    /// # Errors
    /// [`Error::Foreign`] when the file is shorter; [`Error::System`] and [`Error::OutOfRange`] as for
    /// [`create`](Self::create).
    pub fn open_unsealed(fd: OwnedFd, bytes: Option<u64>) -> Result<Arc<Self>> {
        let found = file::whole_pages_of(&fd)?;
        let bytes = bytes.unwrap_or(found);
        if bytes > found {
            return Err(Error::Foreign {
                announced_bytes: bytes,
                found_bytes: found,
                reason: "it is shorter than announced",
            });
        }
        Self::map_as(Arc::new(fd), whole_pages(bytes)?, Sharing::Private, false)
    }

    /// Maps the same file once more, in the same way. In a private mapping nothing shows of what was written through
    /// another one. Takes no descriptor.
    ///
    /// # Errors
    /// [`Error::System`] when the system has no address space, or no mapping, left.
    pub fn again(&self) -> Result<Arc<Self>> {
        Self::map_as(Arc::clone(&self.fd), self.bytes, self.sharing, self.sealed)
    }

    /// The descriptor of the memory file, to be sent to a peer.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The size in bytes; a multiple of the page size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Who sees what this process writes into the segment. In a fork of the process that has mapped it nobody does.
    pub fn sharing(&self) -> Sharing {
        if self.inherited.load(Ordering::Relaxed) { Sharing::Private } else { self.sharing }
    }

    /// Whether a peer that gets the descriptor may ask for seals; see [`open_unsealed`](Self::open_unsealed).
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// A number that no other segment of this process has, whoever owns it: by it a process can name to one peer a
    /// segment that it has from another.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Has the kernel find memory for the whole pages that the range touches, in one call instead of a page fault
    /// each (a third of the time and less). It is a hint: where the kernel is too old, pages are found when they are
    /// touched.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn populate(&self, offset: u64, bytes: u64) -> Result<()> {
        self.check(offset, bytes)?;
        let _ = self.find_pages(offset, bytes);
        Ok(())
    }

    /// Makes the whole pages that the range of a private mapping touches copies of this process's own, with the contents
    /// that they have: from then on nothing shows of what becomes of the file.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::System`], also where the kernel is too old.
    pub fn detach(&self, offset: u64, bytes: u64) -> Result<()> {
        self.check(offset, bytes)?;
        self.find_pages(offset, bytes).map_err(|errno| Error::system("copy private pages", bytes, errno))
    }

    /// Has the kernel find pages as if somebody wrote to each. The range was checked.
    fn find_pages(&self, offset: u64, bytes: u64) -> std::result::Result<(), Errno> {
        let page = page_bytes();
        let start = offset / page * page;
        let length = (offset + bytes).next_multiple_of(page) - start;
        // SAFETY:
        // - The pages are of our own mapping: `check` bounds the range, and the mapping is whole pages long.
        // - Populating changes no byte that anybody could read.
        unsafe {
            rustix::mm::madvise(self.address(start).cast(), length as usize, Advice::LinuxPopulateWrite)
        }
    }

    /// Writes to the file beneath the mapping, which shows it at once. Where a disk is full, this says so, when touching the
    /// mapping would end in SIGBUS; and the kernel finds pages for a whole write faster than one by one.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::pwrite(&self.fd, &bytes[written..], offset + written as u64) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// A copy of what the file has: what this process wrote into a private mapping does not show.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::System`], also when there is no memory for the copy.
    pub fn read(&self, offset: u64, bytes: u64) -> Result<Box<[u8]>> {
        self.check(offset, bytes)?;
        let failed = |errno| Error::system("read a memory file", bytes, errno);
        let mut copy = Vec::new();
        copy.try_reserve_exact(bytes as usize).map_err(|_| failed(Errno::NOMEM))?;
        copy.resize(bytes as usize, 0);
        let mut read = 0;
        while read < copy.len() {
            match rustix::io::pread(&self.fd, &mut copy[read..], offset + read as u64) {
                Ok(0) => return Err(failed(Errno::IO)),
                Ok(count) => read += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(copy.into())
    }

    /// Gives the memory of the whole pages inside of the range back to the system, for everyone who maps the segment:
    /// the pages read as zero from then on. Pages that the range covers only in part are left alone.
    ///
    /// The caller knows that no peer still holds the range; blocks of this process are guarded.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Claimed`] when one of the pages belongs to a live draft or block of this
    /// process; [`Error::System`].
    pub fn punch(&self, offset: u64, bytes: u64) -> Result<()> {
        self.check(offset, bytes)?;
        let page = page_bytes();
        let pages = offset.div_ceil(page)..(offset + bytes) / page;
        // What a fork has inherited is not its to give back.
        if pages.is_empty() || self.inherited.load(Ordering::Relaxed) {
            return Ok(());
        }
        // The lock is held over the system call, so that no block can be made of these pages meanwhile.
        let claimed = self.lock_claimed();
        if claimed.intersects(pages.clone()) {
            return Err(Error::Claimed { offset, bytes });
        }
        let (start, length) = (pages.start * page, (pages.end - pages.start) * page);
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.fd, mode, start, length)
            .map_err(|errno| Error::system("punch pages out of a memory file", length, errno))
    }

    /// Forgets what this process wrote into the range of a private mapping: every page that the range touches shows
    /// the owner's bytes again. Whole pages are right here, because blocks never share a page. On a shared mapping
    /// there is nothing to forget, and nothing happens.
    ///
    /// The caller knows that nothing in this process still reads the range.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::System`], for pages that are locked in memory (mlock) as well: then some of them show
    /// what they did.
    pub fn discard(&self, offset: u64, bytes: u64) -> Result<()> {
        self.check(offset, bytes)?;
        if self.sharing == Sharing::Shared || bytes == 0 {
            return Ok(());
        }
        let page = page_bytes();
        let start = offset / page * page;
        let length = (offset + bytes).next_multiple_of(page) - start;
        // SAFETY:
        // - The pages are of our own mapping: `check` bounds the range, and the mapping is whole pages long.
        // - No Rust reference sees its bytes change unless the caller breaks the rule above, since drafts (the only
        //   exclusive references) are made in shared mappings only, see `claim`.
        let done = unsafe {
            rustix::mm::madvise(self.address(start).cast(), length as usize, Advice::LinuxDontNeed)
        };
        done.map_err(|errno| Error::system("discard private pages", length, errno))
    }

    /// Whether some page that the range of a private mapping touches is a copy of this process's own, whoever made it one.
    /// True when the kernel does not tell.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn has_own(&self, offset: u64, bytes: u64) -> Result<bool> {
        let (pages, page) = (self.pages(offset, bytes)?, page_bytes());
        let first = self.address(0).addr() as u64;
        let addresses = first + pages.start * page..first + pages.end * page;
        Ok(pagemap::open()
            .is_none_or(|map| scan(&map, &addresses).unwrap_or_else(|| pagemap::read(&map, &addresses))))
    }

    /// Whether most pages of a range of a private mapping are copies of this process's own, by looks at four of them. False
    /// when the kernel does not tell.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn is_mostly_own(&self, offset: u64, bytes: u64) -> Result<bool> {
        self.check(offset, bytes.max(1))?;
        let (page, quarter) = (page_bytes(), bytes / 4);
        let Some(map) = pagemap::open() else { return Ok(false) };
        Ok((0..4).all(|part| {
            let first = self.address((offset + part * quarter + quarter / 2) / page * page).addr() as u64;
            let addresses = first..first + page;
            scan(&map, &addresses).unwrap_or_else(|| pagemap::read(&map, &addresses))
        }))
    }

    /// How many bytes of the file are in memory (or swapped out), whoever touched them.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = rustix::fs::fstat(&self.fd)
            .map_err(|errno| Error::system("examine a memory file", self.bytes, errno))?;
        // POSIX leaves the unit of st_blocks open; on Linux it is 512 bytes for every file system.
        Ok(u64::try_from(status.st_blocks).unwrap_or(0) * 512)
    }

    /// The address of a byte. Only good for as long as the segment lives, and for offsets that were checked.
    pub(crate) fn address(&self, offset: u64) -> *mut u8 {
        self.base.as_ptr().wrapping_add(offset as usize)
    }

    /// Fails unless the range lies inside of the segment.
    pub(crate) fn check(&self, offset: u64, bytes: u64) -> Result<()> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(Error::OutOfRange { offset, bytes, segment_bytes: self.bytes }),
        }
    }

    /// The numbers of the pages that a range touches.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn pages(&self, offset: u64, bytes: u64) -> Result<Range<u64>> {
        self.check(offset, bytes)?;
        let page = page_bytes();
        Ok(offset / page..if bytes == 0 { offset / page } else { (offset + bytes).div_ceil(page) })
    }

    /// Claims every page that the range touches, for one holder in this process. This is what makes [`Draft`]'s
    /// exclusive slice sound, whatever mistake the allocator above might make: a page cannot be claimed twice.
    ///
    /// [`Draft`]: crate::Draft
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Claimed`] when somebody has one of the pages, or when the mapping is private
    /// (what is written there reaches nobody, and [`discard`](Self::discard) may take it away).
    pub(crate) fn claim(self: &Arc<Self>, offset: u64, bytes: u64) -> Result<Claim> {
        let pages = self.pages(offset, bytes)?;
        let mut claimed = self.lock_claimed();
        if self.sharing() == Sharing::Private || claimed.intersects(pages.clone()) {
            return Err(Error::Claimed { offset, bytes });
        }
        claimed.insert(pages.clone());
        Ok(Claim { segment: Arc::clone(self), pages })
    }

    /// Maps a file that is sealed, or could not be.
    fn map(fd: Arc<OwnedFd>, bytes: u64, sharing: Sharing) -> Result<Arc<Self>> {
        Self::map_as(fd, bytes, sharing, true)
    }

    /// Maps the file; `bytes` is whole pages and not more than the file has.
    fn map_as(fd: Arc<OwnedFd>, bytes: u64, sharing: Sharing, sealed: bool) -> Result<Arc<Self>> {
        let flags = match sharing {
            Sharing::Shared => MapFlags::SHARED,
            Sharing::Private => MapFlags::PRIVATE,
        };
        // SAFETY:
        // - The address is the kernel's choice, so no other mapping is replaced.
        // - The length is not 0 (`whole_pages`), and the file is at least as long and stays so (sealed or trusted).
        let mapped = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                flags | MapFlags::NORESERVE,
                &fd,
                0,
            )
        };
        let base = mapped.map_err(|errno| Error::system("map a memory file", bytes, errno))?;
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| Error::system("map a memory file", bytes, Errno::NOMEM))?;
        let serial = SERIALS.fetch_add(1, Ordering::Relaxed);
        let shared = sharing == Sharing::Shared;
        let identity = if shared { file::identity(&fd) } else { None };
        let (inherited, claimed) = (AtomicBool::new(false), Lock::default());
        let segment =
            Arc::new(Self { base, bytes, sharing, sealed, fd, identity, serial, inherited, claimed });
        if shared {
            forks::enter(Arc::<Self>::downgrade(&segment))?;
        }
        Ok(segment)
    }

    fn lock_claimed(&self) -> Held<'_, PageSet> {
        self.claimed.lock()
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY:
        // - `base` and `bytes` are those of the mapping made in `map`, which nobody else unmaps.
        // - Everything that reaches into the mapping (drafts, views, words) holds an `Arc` of the segment, so nothing
        //   does any more.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes as usize) };
        debug_assert!(unmapped.is_ok(), "expected to unmap a segment, found {unmapped:?}");
    }
}

impl forks::Mapping for Segment {
    /// To be called in a child that was just forked: what it writes to the segment from here on reaches nobody, and it gives
    /// nothing of it back. Where that cannot be had, it can only read.
    fn privatize(&self) {
        self.inherited.store(true, Ordering::Relaxed);
        if file::identity(&self.fd).is_some_and(|identity| Some(identity) == self.identity) {
            // SAFETY:
            // - The range is exactly our own mapping, which the new one replaces in one step; it shows the same bytes of
            //   the same file, so that references into it stay good.
            // - The only thread of a freshly forked child is this one.
            // - Where the kernel refuses, the mapping is as it was.
            let mapped = unsafe {
                rustix::mm::mmap(
                    self.base.as_ptr().cast(),
                    self.bytes as usize,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
                    &self.fd,
                    0,
                )
            };
            if mapped.is_ok() {
                return;
            }
        }
        // SAFETY:
        // - The range is exactly our own mapping. Who writes there from here on ends this child, and nobody else.
        let _ = unsafe {
            rustix::mm::mprotect(self.base.as_ptr().cast(), self.bytes as usize, MprotectFlags::READ)
        };
    }
}

/// Asks for a page of this process's own in a range of whole pages; nothing where the kernel has no such question.
pub(crate) fn scan(map: &File, addresses: &Range<u64>) -> Option<bool> {
    let mut answer = Answer::default();
    let mut question = Question::new(addresses, &mut answer);
    // SAFETY:
    // - The opcode is that of PAGEMAP_SCAN, whose argument has the size and layout of `Question`.
    let scan = unsafe { Updater::<{ pagemap::SCAN }, Question>::new(&mut question) };
    // SAFETY:
    // - The kernel writes to the question, which is borrowed for it, and to one `Answer` where the question says, which
    //   is alive and looked at by nobody meanwhile. It only reads page tables of the range, whatever is mapped there.
    let asked = unsafe { rustix::ioctl::ioctl(map, scan) };
    asked.is_ok().then(|| answer.found())
}

/// The proof that its holder is the only one in this process who has these pages. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    segment: Arc<Segment>,
    pages: Range<u64>,
}

impl Claim {
    /// The segment that the pages are of.
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.segment.lock_claimed().remove(self.pages.clone());
    }
}

/// A run of words that are written together: 64 bytes, the cache line of nearly all machines, so that the writers of
/// two lines do not disturb each other.
pub(crate) type Line = [AtomicU64; LINE_WORDS];

/// Words of a line.
pub(crate) const LINE_WORDS: usize = 8;

/// A whole segment as lines of atomic words, for the [`Scoreboard`](crate::Scoreboard). Holds a claim on all of it, so that no
/// draft of this process reaches the words by other than atomic means.
#[derive(Debug)]
pub(crate) struct Words {
    claim: Claim,
}

impl Words {
    /// Takes all of a segment, which must be mapped shared.
    ///
    /// # Errors
    /// [`Error::Claimed`] when a part of it is taken.
    pub(crate) fn new(segment: &Arc<Segment>) -> Result<Self> {
        let claim = segment.claim(0, segment.bytes())?;
        Ok(Self { claim })
    }

    /// The segment that the words are in.
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        self.claim.segment()
    }

    /// One line.
    ///
    /// # Panics
    /// When the segment has no such line.
    pub(crate) fn line(&self, index: usize) -> &Line {
        let segment = self.segment();
        let lines = segment.bytes() as usize / size_of::<Line>();
        assert!(index < lines, "expected a line below {lines}, found {index}");
        let line: *mut Line = segment.address((index * size_of::<Line>()) as u64).cast();
        // SAFETY:
        // - Valid: the assertion puts all of the line inside of the mapping, which lives as long as `self`.
        // - Aligned: the mapping begins on a page and the offset is a multiple of the line's size.
        // - Initialised: every byte of a mapping is, and any bits are an AtomicU64.
        // - Not accessed other than by atomics: the claim keeps drafts away, here and by trust in the peer.
        unsafe { &*line }
    }
}

/// Rounds a size up to whole pages, and refuses what cannot be mapped at all.
fn whole_pages(bytes: u64) -> Result<u64> {
    if bytes == 0 || bytes > SEGMENT_BYTES_MAX {
        return Err(Error::OutOfRange { offset: 0, bytes, segment_bytes: SEGMENT_BYTES_MAX });
    }
    Ok(bytes.next_multiple_of(page_bytes()))
}

#[cfg(test)]
mod tests;
