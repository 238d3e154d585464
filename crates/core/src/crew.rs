//! One worker as the driver knows it: its channel, what it was lent, what it has been told.

use crate::channel::{self, PACKET_BYTES_MAX, ParentEnd};
use crate::error::{Error, Result, descriptors_max};
use crate::event::{Event, Wear};
use crate::footprint::Footprint;
use crate::handle::Excess;
use crate::id::{ChunkId, JobId, Time, WorkerId};
use crate::mailbox::{Answered, Mailbox, Request};
use crate::message::{DROPPED_MAX, ToParent, ToWorker};
use crate::near::{self, Shelf};
use crate::payload::{Announced, Atlas, Loans, Parcel, Payload, sharing_of};
use crate::process::{Private, Process, life};
use crate::reserve::Reserve;
use forklift_shm::{Arena, Held, Lock, Release, Segment, SegmentId, Sharing, Span};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// The memory that the parent allocates from.
#[derive(Debug, Clone)]
pub(crate) struct Arenas {
    /// For what one task gets: mapped shared, so that its worker reads and writes the very bytes.
    pub(crate) inbound: Arena,
    /// For what many tasks get: mapped copy-on-write.
    pub(crate) broadcast: Arena,
}

/// A piece that a worker was given and has not answered completely.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) chunk: ChunkId,
    pub(crate) job: JobId,
    /// How many pieces the worker had been given with it.
    pub(crate) number: u64,
    /// The job's index of the next item to be answered.
    pub(crate) next: u64,
    /// Items still to be answered.
    pub(crate) left: u32,
    /// When it was given to the worker, or the piece before it was done, or it was last answered in part.
    pub(crate) since: Time,
}

/// What results hold: workers' memory that is in use here, and what was moved to a disk.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    held_bytes: AtomicU64,
    held_bytes_peak: AtomicU64,
    spilled_bytes: AtomicU64,
}

impl Stock {
    fn enter(&self, bytes: u64) {
        let held = self.held_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.held_bytes_peak.fetch_max(held, Ordering::Relaxed);
    }

    fn leave(&self, bytes: u64) {
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn note_spilled(&self, bytes: u64) {
        self.spilled_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of workers' memory in use here.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn held_bytes_peak(&self) -> u64 {
        self.held_bytes_peak.load(Ordering::Relaxed)
    }

    /// Bytes that were ever moved to a disk.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes.load(Ordering::Relaxed)
    }
}

/// What a worker said that waits until its results from before are on a disk.
#[derive(Debug)]
pub(crate) enum Word {
    Answered(Answered),
    Unreadable(ChunkId),
    UsedUp(Wear),
    Surrendered(ChunkId),
}

/// Takes back, on behalf of one worker, the blocks of its that the parent has done with.
#[derive(Debug)]
pub(crate) struct ReturnDesk {
    worker: WorkerId,
    mailbox: Arc<Mailbox>,
    /// Set when the worker is dead: then nobody will use its blocks again, and their pages are given back.
    gone: AtomicBool,
    stock: Arc<Stock>,
    segments: Lock<HashMap<SegmentId, Lent>>,
}

/// A segment of the worker's, and what of it is in use here: bytes by their offset.
#[derive(Debug)]
struct Lent {
    /// None for what lies in this process's own memory.
    segment: Option<Weak<Segment>>,
    spans: BTreeMap<u64, u64>,
}

impl Lent {
    /// The segment, while somebody uses it.
    fn segment(&self) -> Option<Arc<Segment>> {
        self.segment.as_ref().and_then(Weak::upgrade)
    }

    /// Whether there is such a span.
    fn has(&self, span: Span) -> bool {
        self.segment.is_none()
            || self.segment().is_some_and(|segment| {
                span.offset.checked_add(span.bytes).is_some_and(|end| end <= segment.bytes())
            })
    }
}

impl ReturnDesk {
    fn segments(&self) -> Held<'_, HashMap<SegmentId, Lent>> {
        self.segments.lock()
    }

    /// Bytes of the worker's that are in use here.
    fn bytes(&self) -> u64 {
        self.segments().values().flat_map(|lent| lent.spans.values()).sum()
    }

    /// Notes a span that is about to be viewed. What does not lie in its segment will not be.
    fn enter(&self, span: Span) {
        if let Some(lent) = self.segments().get_mut(&span.segment)
            && lent.has(span)
        {
            lent.spans.insert(span.offset, span.bytes);
            self.stock.enter(span.bytes);
        }
    }

    /// The worker has this segment no more. Then nothing of it may be in use here.
    fn forget(&self, id: SegmentId) -> Result<()> {
        match self.segments().entry(id) {
            Entry::Occupied(lent) if lent.get().segment.is_some() && lent.get().spans.is_empty() => {
                lent.remove();
                Ok(())
            }
            _ => Err(Error::Malformed("a segment is said to be gone that is in use, or that nobody knows")),
        }
    }

    /// The worker is dead: gives the pages back that nothing here is built upon.
    fn close(&self) {
        self.gone.store(true, Ordering::Release);
        for lent in self.segments().values() {
            let Some(segment) = lent.segment() else { continue };
            let mut free = 0;
            for (&offset, &bytes) in &lent.spans {
                // Pages that cannot be punched out go with their segment.
                let _ = segment.punch(free, offset.saturating_sub(free));
                free = free.max(offset + bytes);
            }
            let _ = segment.punch(free, segment.bytes().saturating_sub(free));
        }
    }
}

impl Release for ReturnDesk {
    fn release(&self, span: Span) {
        if !self.mailbox.is_ours() {
            // A fork of this process has let go of its copy of a view. The bytes are still its parent's.
            return;
        }
        let segment = {
            let mut segments = self.segments();
            let Some(lent) = segments.get_mut(&span.segment) else { return };
            if let Some(bytes) = lent.spans.remove(&span.offset) {
                self.stock.leave(bytes);
            }
            lent.segment()
        };
        if near::is_near(span.segment) {
            return; // It was taken for good.
        }
        if !self.gone.load(Ordering::Acquire) {
            self.mailbox.send(Request::Release { worker: self.worker, span });
        } else if let Some(segment) = segment {
            // Pages that cannot be punched out go with their segment.
            let _ = segment.punch(span.offset, span.bytes);
        }
    }
}

/// A value that crosses once to each worker that may need it.
pub(crate) struct SharedValue {
    /// Its name in pickles.
    pub(crate) key: u64,
    /// Whether one object serves all tasks of a worker.
    pub(crate) keep: bool,
    pub(crate) value: Payload,
}

/// A worker.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    /// Tells its descriptors apart in the driver's list of what to watch.
    pub(crate) serial: u64,
    pub(crate) channel: Private<ParentEnd>,
    _life: Private<OwnedFd>,
    pub(crate) process: Option<Process>,
    pub(crate) line: u32,
    pub(crate) state: &'static str,
    pub(crate) calls: u64,
    pub(crate) pieces: VecDeque<Piece>,
    /// Pieces that it was ever given.
    pub(crate) given: u64,
    /// Why it was used up, if it is: another takes its seat.
    pub(crate) wear: Option<Wear>,
    /// Results of it are being moved to a disk; what it has said since waits.
    pub(crate) moving: bool,
    pub(crate) unheard: VecDeque<Word>,
    /// It is dead, and buried once nothing of it is left unheard.
    pub(crate) awaits_burial: bool,
    pub(crate) knows: HashSet<JobId>,
    /// How many of a job's shared values it has been told of.
    pub(crate) told: HashMap<JobId, usize>,
    pub(crate) loans: Loans,
    pub(crate) announced: Announced,
    pub(crate) messages: u64,
    pub(crate) watched_for_room: bool,
    /// What it said before its birth was reported.
    pub(crate) early: Option<Event>,
    /// Killed for what it did at the piece of this number. It begins nothing behind it.
    pub(crate) stopped: Option<u64>,
    /// Killed for being at an item for too long.
    pub(crate) overdue: Option<u64>,
    /// Killed for having so much memory.
    pub(crate) excess: Option<Excess>,
    /// Where its memory is looked at, once that was necessary.
    pub(crate) footprint: Option<Footprint>,
    /// Killed by us, for this reason.
    pub(crate) expelled: Option<Arc<str>>,
    /// What stood in for it has said why it ends.
    pub(crate) account: Option<Arc<str>>,
    /// Killed by us, or to be as soon as it is born.
    pub(crate) doomed: bool,
    pub(crate) status: Option<i32>,
    pub(crate) hung_up: bool,
    /// Segments whose descriptors did not come through, and what was said since: it may speak of them.
    missing: HashSet<SegmentId>,
    stalled: VecDeque<ToParent>,
    reserve: Arc<Reserve>,
    atlas: Atlas,
    /// Where a relay puts what need not cross.
    pub(crate) shelf: Arc<Shelf>,
    desk: Arc<ReturnDesk>,
}

/// The child's ends of what a [`Worker`] is reached by.
pub(crate) struct ChildEnds {
    pub(crate) channel: OwnedFd,
    pub(crate) life: OwnedFd,
}

impl Worker {
    pub(crate) fn new(
        id: WorkerId,
        serial: u64,
        line: u32,
        mailbox: &Arc<Mailbox>,
        stock: &Arc<Stock>,
        reserve: &Arc<Reserve>,
    ) -> Result<(Self, ChildEnds)> {
        let (channel, theirs) = channel::pair()?;
        let (ours, life) = life()?;
        let desk = ReturnDesk {
            worker: id,
            mailbox: Arc::clone(mailbox),
            gone: AtomicBool::new(false),
            stock: Arc::clone(stock),
            segments: Lock::new(HashMap::from([(
                near::segment(),
                Lent { segment: None, spans: BTreeMap::new() },
            )])),
        };
        let worker = Self {
            id,
            serial,
            channel: Private::new(channel),
            _life: ours,
            process: None,
            line,
            state: "starting",
            calls: 0,
            pieces: VecDeque::new(),
            given: 0,
            wear: None,
            moving: false,
            unheard: VecDeque::new(),
            awaits_burial: false,
            knows: HashSet::new(),
            told: HashMap::new(),
            loans: Loans::default(),
            announced: Announced::default(),
            messages: 0,
            watched_for_room: false,
            early: None,
            stopped: None,
            overdue: None,
            excess: None,
            footprint: None,
            expelled: None,
            account: None,
            doomed: false,
            status: None,
            hung_up: false,
            missing: HashSet::new(),
            stalled: VecDeque::new(),
            reserve: Arc::clone(reserve),
            atlas: Atlas::default(),
            shelf: Shelf::new(),
            desk: Arc::new(desk),
        };
        Ok((worker, ChildEnds { channel: theirs, life }))
    }

    pub(crate) fn send(&mut self, message: &ToWorker, arenas: &Arenas) -> Result<()> {
        self.send_with(message, Vec::new(), arenas)
    }

    pub(crate) fn send_with(
        &mut self,
        message: &ToWorker,
        with: Vec<Arc<OwnedFd>>,
        arenas: &Arenas,
    ) -> Result<()> {
        let packet = message.encode();
        self.messages += 1;
        if packet.len() <= PACKET_BYTES_MAX {
            return self.channel.send(packet, with);
        }
        let payload = Payload::pack(&arenas.inbound, &[&packet], &[])?;
        self.lend(&payload)?;
        let Some(loan) = payload.loans().next() else {
            return Err(Error::Malformed("a long message in no block"));
        };
        let announcement = ToWorker::Long { span: loan.span() };
        self.channel.send(announcement.encode(), with)
    }

    /// Keeps what the worker is about to be told of, and shows it the segments it lies in.
    pub(crate) fn lend(&mut self, payload: &Payload) -> Result<()> {
        for loan in payload.loans() {
            let id = loan.span().segment;
            if let Some(segment) = loan.segment()
                && self.announced.is_news(id, segment)
            {
                self.withdraw()?;
                let (bytes, sharing, sealed) = (segment.bytes(), sharing_of(id), segment.is_sealed());
                let message = ToWorker::Segment { id, bytes, sharing, sealed };
                let file = segment.fd().try_clone_to_owned().map_err(|error| Error::System {
                    attempt: "duplicate a segment's descriptor",
                    errno: rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::BADF),
                })?;
                self.messages += 1;
                self.channel.send(message.encode(), vec![Arc::new(file)])?;
            }
        }
        self.loans.lend(payload);
        Ok(())
    }

    /// Tells the worker of segments that it was shown and that are gone.
    pub(crate) fn withdraw(&mut self) -> Result<()> {
        for segments in self.announced.take_gone().chunks(DROPPED_MAX) {
            self.messages += 1;
            self.channel.send(ToWorker::Dropped { segments: segments.into() }.encode(), Vec::new())?;
        }
        Ok(())
    }

    /// Tells of those shared values of a job (0: of the pool) that are news.
    pub(crate) fn tell_of(&mut self, job: JobId, shares: &[SharedValue], arenas: &Arenas) -> Result<()> {
        let told = self.told.get(&job).copied().unwrap_or(0);
        for shared in shares.iter().skip(told) {
            self.lend(&shared.value)?;
            let (key, keep, value) = (shared.key, shared.keep, shared.value.outline());
            self.send(&ToWorker::Share { job, key, keep, value }, arenas)?;
        }
        if shares.len() > told {
            self.told.insert(job, shares.len());
        }
        Ok(())
    }

    /// The next message, if one has come. Segments are taken in on the way; what comes after one that is missing waits for
    /// it.
    pub(crate) fn receive(&mut self) -> Result<Option<ToParent>> {
        loop {
            if self.missing.is_empty()
                && let Some(message) = self.stalled.pop_front()
            {
                return self.read(message).map(Some);
            }
            let Some(packet) = self.channel.receive()? else { return Ok(None) };
            match ToParent::decode(&packet.bytes)? {
                ToParent::Segment { id, .. } if packet.truncated => self.ask_again(id)?,
                ToParent::Segment { id, bytes } => {
                    let file = packet.descriptors.into_iter().next().ok_or(Error::Malformed("no segment"))?;
                    let segment = Segment::open(file, bytes, Sharing::Shared)?;
                    let lent = Lent { segment: Some(Arc::downgrade(&segment)), spans: BTreeMap::new() };
                    self.desk.segments().insert(id, lent);
                    self.atlas.add(id, segment);
                    self.missing.remove(&id);
                }
                ToParent::Dropped { segments } => {
                    for id in segments {
                        self.desk.forget(id)?;
                        self.atlas.remove(id);
                        self.missing.remove(&id);
                    }
                }
                message if self.missing.is_empty() => return self.read(message).map(Some),
                message => self.stalled.push_back(message),
            }
        }
    }

    /// A message itself, where another one only says where it lies.
    fn read(&self, message: ToParent) -> Result<ToParent> {
        let ToParent::Long { span } = message else { return Ok(message) };
        if near::is_near(span.segment) {
            return Err(Error::Malformed("a message that lies in no block"));
        }
        let owner: Arc<dyn Release> = self.desk.clone();
        self.desk.enter(span);
        let view = self.atlas.view(span, &owner)?;
        match ToParent::decode(view.as_slice())? {
            ToParent::Long { .. } | ToParent::Segment { .. } => {
                Err(Error::Malformed("what a long message cannot be"))
            }
            message => Ok(message),
        }
    }

    /// This process had no room for a segment's descriptor. The worker sends it again, and there is room now; if there is
    /// none to be made, nothing can be had of the worker any more.
    fn ask_again(&mut self, id: SegmentId) -> Result<()> {
        if !self.reserve.make_room() {
            return Err(Error::Descriptors { limit: descriptors_max(), place: "the pool's own process" });
        }
        self.missing.insert(id);
        self.messages += 1;
        self.channel.send(ToWorker::Again { id }.encode(), Vec::new())
    }

    pub(crate) fn open(&self, outline: crate::payload::Outline) -> Result<Parcel> {
        self.atlas.open(outline, &self.shelf, &|span| {
            self.desk.enter(span);
            self.desk.clone()
        })
    }

    /// Bytes of its results that are in use here.
    pub(crate) fn results_bytes(&self) -> u64 {
        self.desk.bytes()
    }

    /// Kills it for what it did, or for what could not be done with it.
    pub(crate) fn expel(&mut self, reason: &Error) {
        self.expelled.get_or_insert_with(|| reason.to_string().into());
        self.kill();
    }

    pub(crate) fn kill(&mut self) {
        match &self.process {
            Some(process) if process.is_elsewhere() => self.channel.shut(),
            Some(process) => process.kill(),
            None => {}
        }
        self.doomed = true;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.desk.close();
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
