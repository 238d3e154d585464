//! One worker as the driver knows it: its channel, what it was lent, what it has been told.

use crate::channel::{self, PACKET_BYTES_MAX, ParentEnd};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::id::{ChunkId, JobId, WorkerId};
use crate::mailbox::{Mailbox, Request};
use crate::message::{ToParent, ToWorker};
use crate::payload::{Atlas, Loans, Parcel, Payload};
use crate::process::{Private, Process, life};
use forklift_shm::{Arena, Release, Segment, SegmentId, Sharing, Span};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The memory that the parent allocates from.
#[derive(Debug, Clone)]
pub(crate) struct Arenas {
    /// For what one task gets: mapped shared, so that its worker reads and writes the very bytes.
    pub(crate) inbound: Arena,
    /// For what many tasks get: mapped copy-on-write.
    pub(crate) broadcast: Arena,
}

impl Arenas {
    fn find(&self, id: SegmentId) -> Option<(Arc<Segment>, Sharing)> {
        let inbound = self.inbound.segment(id).map(|segment| (segment, Sharing::Shared));
        inbound.or_else(|| self.broadcast.segment(id).map(|segment| (segment, Sharing::Private)))
    }
}

/// A piece that a worker was given and has not answered completely.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) chunk: ChunkId,
    pub(crate) job: JobId,
    /// The job's index of the next item to be answered.
    pub(crate) next: u64,
    /// Items still to be answered.
    pub(crate) left: u32,
}

/// Takes back, on behalf of one worker, the blocks of its that the parent has done with.
#[derive(Debug)]
pub(crate) struct ReturnDesk {
    worker: WorkerId,
    mailbox: Arc<Mailbox>,
    /// Set when the worker is dead: then nobody will use its blocks again, and their pages are given back.
    gone: AtomicBool,
    segments: Mutex<HashMap<SegmentId, Weak<Segment>>>,
}

impl Release for ReturnDesk {
    fn release(&self, span: Span) {
        if !self.gone.load(Ordering::Acquire) {
            self.mailbox.send(Request::Release { worker: self.worker, span });
            return;
        }
        let segment = {
            let segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
            segments.get(&span.segment).and_then(Weak::upgrade)
        };
        if let Some(segment) = segment {
            // Pages that cannot be punched out go with their segment.
            let _ = segment.punch(span.offset, span.bytes);
        }
    }
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
    pub(crate) knows: HashSet<JobId>,
    pub(crate) loans: Loans,
    pub(crate) announced: HashSet<SegmentId>,
    pub(crate) messages: u64,
    pub(crate) watched_for_room: bool,
    /// What it said before its birth was reported.
    pub(crate) early: Option<Event>,
    /// Ordered to die before it was born.
    pub(crate) doomed: bool,
    pub(crate) status: Option<i32>,
    pub(crate) hung_up: bool,
    atlas: Atlas,
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
    ) -> Result<(Self, ChildEnds)> {
        let (channel, theirs) = channel::pair()?;
        let (ours, life) = life()?;
        let desk = ReturnDesk {
            worker: id,
            mailbox: Arc::clone(mailbox),
            gone: AtomicBool::new(false),
            segments: Mutex::default(),
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
            knows: HashSet::new(),
            loans: Loans::default(),
            announced: HashSet::new(),
            messages: 0,
            watched_for_room: false,
            early: None,
            doomed: false,
            status: None,
            hung_up: false,
            atlas: Atlas::default(),
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
        self.lend(&payload, arenas)?;
        let Some(block) = payload.blocks().next() else {
            return Err(Error::Malformed("a long message in no block"));
        };
        let announcement = ToWorker::Long { span: block.span() };
        self.channel.send(announcement.encode(), with)
    }

    /// Keeps what the worker is about to be told of, and shows it the segments it lies in.
    pub(crate) fn lend(&mut self, payload: &Payload, arenas: &Arenas) -> Result<()> {
        for block in payload.blocks() {
            let id = block.span().segment;
            if self.announced.insert(id) {
                let (segment, sharing) =
                    arenas.find(id).ok_or(Error::Malformed("a block without a segment"))?;
                let message = ToWorker::Segment { id, bytes: segment.bytes(), sharing };
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

    /// The next message, if one has come. Segments are taken in on the way.
    pub(crate) fn receive(&mut self) -> Result<Option<ToParent>> {
        while let Some(packet) = self.channel.receive()? {
            let message = match ToParent::decode(&packet.bytes)? {
                ToParent::Long { span } => {
                    let owner: Arc<dyn Release> = self.desk.clone();
                    let view = self.atlas.view(span, &owner)?;
                    ToParent::decode(view.as_slice())?
                }
                message => message,
            };
            match message {
                ToParent::Segment { id, bytes } => {
                    let file = packet.descriptors.into_iter().next().ok_or(Error::Malformed("no segment"))?;
                    let segment = Segment::open(file, bytes, Sharing::Shared)?;
                    let mut known = self.desk.segments.lock().unwrap_or_else(PoisonError::into_inner);
                    known.insert(id, Arc::downgrade(&segment));
                    drop(known);
                    self.atlas.add(id, segment);
                }
                ToParent::Long { .. } => {
                    return Err(Error::Malformed("a long message within a long message"));
                }
                message => return Ok(Some(message)),
            }
        }
        Ok(None)
    }

    pub(crate) fn open(&self, outline: crate::payload::Outline) -> Result<Parcel> {
        self.atlas.open(outline, &|_| self.desk.clone())
    }

    pub(crate) fn kill(&mut self) {
        match &self.process {
            Some(process) => process.kill(),
            None => self.doomed = true,
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.desk.gone.store(true, Ordering::Release);
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
