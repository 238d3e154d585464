//! The child's end: receive, let the binding run the function, send.
//!
//! A [`Station`] hides what travels along with the work: descriptors of segments, blocks given back, messages too
//! long for a packet, the line of the scoreboard. The binding asks for the next [`Order`], and answers.

use crate::channel::{PACKET_BYTES_MAX, Packet, WorkerEnd};
use crate::error::{Error, Result};
use crate::event::Spent;
use crate::id::{ChunkId, JobId, Time, WorkerId};
use crate::message::{ToParent, ToWorker, VERSION};
use crate::payload::{Atlas, Loans, Parcel, Payload};
use forklift_shm::{Arena, ArenaLimits, Mark, Phase, Release, Scoreboard, Segment, SegmentId, Sharing, Span};
use rustix::fd::OwnedFd;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// While the parent's blocks are in use here, an idle worker looks this often whether some were given up meanwhile
/// (by a thread of the user's, or the garbage collector).
const RETURN_INTERVAL: Duration = Duration::from_millis(100);

/// An idle worker gives warm memory back to the system after this time.
const TRIM_AFTER: Duration = Duration::from_secs(10);

/// What an idle worker keeps warm for its next results.
const TRIM_KEEP_BYTES: u64 = 16 << 20;

/// What the parent wants of this worker.
#[derive(Debug)]
pub enum Order {
    /// Run the initializer, if there is one, then report [`Station::ready`] or [`Station::refuse`].
    Start {
        /// The pickled `(initializer, initargs)`.
        initializer: Option<Parcel>,
    },
    /// Call the function of `job` for some items, and answer them in order.
    Call(Call),
    /// Drop the function of this job.
    Forget(JobId),
    /// Leave.
    Stop,
    /// A signal came, or nothing did for a while: look after the interpreter, then ask again.
    Pause,
}

/// A piece of work.
#[derive(Debug)]
pub struct Call {
    /// Whose.
    pub job: JobId,
    /// Of which chunk.
    pub chunk: ChunkId,
    /// The job's index of the chunk's first item.
    pub first: u64,
    /// Items to leave out at the front of the chunk.
    pub skip: u32,
    /// Items to do.
    pub items: u32,
    /// The function, the first time.
    pub function: Option<Parcel>,
    /// The pickled list of the chunk's items.
    pub payload: Parcel,
}

/// Blocks of the parent's that are given up here, until the parent is told. Shared by all views in this process.
struct Returns {
    spans: Mutex<Vec<Span>>,
    /// Views whose end the parent has not been told of.
    outstanding: AtomicU64,
}

impl Release for Returns {
    fn release(&self, span: Span) {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }
}

/// Blocks of broadcast segments. They are mapped privately, and what the user wrote to them must not meet the next
/// value that comes to lie there.
struct BroadcastReturns {
    segments: Mutex<Vec<(SegmentId, Arc<Segment>)>>,
    returns: Arc<Returns>,
}

impl Release for BroadcastReturns {
    fn release(&self, span: Span) {
        let segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, segment)) = segments.iter().find(|(id, _)| *id == span.segment) {
            // Pages that cannot be dropped would show the old value's changes: then the block is kept for ever.
            if segment.discard(span.offset, span.bytes).is_err() {
                return;
            }
        }
        drop(segments);
        self.returns.release(span);
    }
}

/// A worker's place in the pool.
pub struct Station {
    channel: WorkerEnd,
    worker: Option<WorkerId>,
    atlas: Atlas,
    broadcast: HashSet<SegmentId>,
    arena: Arena,
    announced: HashSet<SegmentId>,
    loans: Loans,
    returns: Arc<Returns>,
    broadcast_returns: Arc<BroadcastReturns>,
    mark: Option<Mark>,
    idle_since: Option<Instant>,
}

impl Station {
    /// Takes the descriptor that the worker was born with.
    #[must_use]
    pub fn new(channel: OwnedFd) -> Self {
        let returns = Arc::new(Returns { spans: Mutex::default(), outstanding: AtomicU64::new(0) });
        Self {
            channel: WorkerEnd::new(channel),
            worker: None,
            atlas: Atlas::default(),
            broadcast: HashSet::new(),
            arena: Arena::new(ArenaLimits::default()),
            announced: HashSet::new(),
            loans: Loans::default(),
            broadcast_returns: Arc::new(BroadcastReturns {
                segments: Mutex::default(),
                returns: returns.clone(),
            }),
            returns,
            mark: None,
            idle_since: None,
        }
    }

    /// Who this is, once it was told.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        self.worker
    }

    /// Where results are packed.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Notes on the scoreboard what this worker is doing, and returns the time it notes with it: that of the coarse
    /// clock, which is a few milliseconds behind at most and costs a fifth of the exact one. This is called for each
    /// item, however small.
    pub fn mark(&mut self, job: JobId, item: u64, phase: Phase) -> Time {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        let now = Time(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs());
        if let Some(mark) = &mut self.mark {
            mark.set_at(job.0, item, phase, now.0);
        }
        now
    }

    /// Notes that this worker does nothing.
    pub fn mark_idle(&mut self) {
        if let Some(mark) = &mut self.mark {
            mark.idle();
        }
    }

    /// Waits for the next order. Must be called without the interpreter's lock.
    ///
    /// # Errors
    /// [`Error::Gone`] when the parent is, [`Error::Malformed`] when it makes no sense.
    pub fn receive(&mut self) -> Result<Order> {
        loop {
            let holding = self.returns.outstanding.load(Ordering::Relaxed) > 0;
            let patience = if holding { RETURN_INTERVAL } else { TRIM_AFTER };
            let Some(packet) = self.channel.receive(Some(patience))? else {
                self.rest()?;
                return Ok(Order::Pause);
            };
            self.idle_since = None;
            if let Some(order) = self.accept(packet)? {
                return Ok(order);
            }
        }
    }

    /// What an idle worker does with its time.
    fn rest(&mut self) -> Result<()> {
        self.send_returns()?;
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= TRIM_AFTER {
            self.arena.trim(TRIM_KEEP_BYTES);
        }
        Ok(())
    }

    fn accept(&mut self, packet: Packet) -> Result<Option<Order>> {
        let message = ToWorker::decode(&packet.bytes)?;
        self.obey(message, packet.descriptors)
    }

    fn obey(&mut self, message: ToWorker, descriptors: Vec<OwnedFd>) -> Result<Option<Order>> {
        match message {
            ToWorker::Start { worker, slots, line, initializer } => {
                let file = descriptors.into_iter().next().ok_or(Error::Malformed("no scoreboard"))?;
                let board = Scoreboard::open(file, slots)?;
                if line >= slots {
                    return Err(Error::Malformed("no such line of the scoreboard"));
                }
                self.mark = Some(board.writer(line));
                self.worker = Some(worker);
                let initializer = initializer.map(|outline| self.open(outline)).transpose()?;
                Ok(Some(Order::Start { initializer }))
            }
            ToWorker::Segment { id, bytes, sharing } => {
                let file = descriptors.into_iter().next().ok_or(Error::Malformed("no segment"))?;
                let segment = Segment::open(file, bytes, sharing)?;
                if sharing == Sharing::Private {
                    let mut known =
                        self.broadcast_returns.segments.lock().unwrap_or_else(PoisonError::into_inner);
                    known.push((id, Arc::clone(&segment)));
                    self.broadcast.insert(id);
                }
                self.atlas.add(id, segment);
                Ok(None)
            }
            ToWorker::Call { job, chunk, first, skip, items, function, payload } => {
                let function = function.map(|outline| self.open(outline)).transpose()?;
                let payload = self.open(payload)?;
                Ok(Some(Order::Call(Call { job, chunk, first, skip, items, function, payload })))
            }
            ToWorker::Forget { job } => Ok(Some(Order::Forget(job))),
            ToWorker::Release { spans } => {
                for span in spans {
                    self.loans.give_back(span);
                }
                Ok(None)
            }
            ToWorker::Stop => Ok(Some(Order::Stop)),
            ToWorker::Long { span } => {
                let view = self.atlas.view(span, &self.owner(span.segment))?;
                self.returns.outstanding.fetch_add(1, Ordering::Relaxed);
                match ToWorker::decode(view.as_slice())? {
                    ToWorker::Long { .. } => Err(Error::Malformed("a long message within a long message")),
                    message => self.obey(message, Vec::new()),
                }
            }
        }
    }

    fn owner(&self, segment: SegmentId) -> Arc<dyn Release> {
        if self.broadcast.contains(&segment) { self.broadcast_returns.clone() } else { self.returns.clone() }
    }

    fn open(&self, outline: crate::payload::Outline) -> Result<Parcel> {
        self.returns.outstanding.fetch_add(outline.spans() as u64, Ordering::Relaxed);
        self.atlas.open(outline, &|segment| self.owner(segment))
    }

    /// The worker has run its initializer and waits for work.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn ready(&mut self) -> Result<()> {
        self.mark_idle();
        self.send(&ToParent::Ready { version: VERSION })
    }

    /// The initializer raised. The worker should leave.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn refuse(&mut self, failure: &Payload) -> Result<()> {
        self.lend(failure)?;
        self.send(&ToParent::Refused { failure: failure.outline() })
    }

    /// Answers the next items of the piece in hand. Blocks that the parent lent and that were given up before this
    /// call go back with the same message.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn answer(
        &mut self,
        chunk: ChunkId,
        items: u32,
        failed: u32,
        last: bool,
        spent: Spent,
        results: &Payload,
    ) -> Result<()> {
        self.lend(results)?;
        let released = self.take_returns();
        self.send(&ToParent::Return {
            chunk,
            items,
            failed,
            last,
            spent,
            results: results.outline(),
            released,
        })
    }

    fn take_returns(&mut self) -> Vec<Span> {
        let spans = std::mem::take(&mut *self.returns.spans.lock().unwrap_or_else(PoisonError::into_inner));
        self.returns.outstanding.fetch_sub(spans.len() as u64, Ordering::Relaxed);
        spans
    }

    fn send_returns(&mut self) -> Result<()> {
        let spans = self.take_returns();
        if spans.is_empty() { Ok(()) } else { self.send(&ToParent::Release { spans }) }
    }

    /// Keeps what the parent is about to be told of, and shows it the segments it lies in.
    fn lend(&mut self, payload: &Payload) -> Result<()> {
        for block in payload.blocks() {
            let id = block.span().segment;
            if self.announced.insert(id) {
                let segment = self.arena.segment(id).ok_or(Error::Malformed("a block without a segment"))?;
                let message = ToParent::Segment { id, bytes: segment.bytes() };
                self.channel.send(&message.encode(), &[segment.fd()])?;
            }
        }
        self.loans.lend(payload);
        Ok(())
    }

    fn send(&mut self, message: &ToParent) -> Result<()> {
        let packet = message.encode();
        if packet.len() <= PACKET_BYTES_MAX {
            return self.channel.send(&packet, &[]);
        }
        let payload = Payload::pack(&self.arena, &[&packet], &[])?;
        self.lend(&payload)?;
        let Some(block) = payload.blocks().next() else {
            return Err(Error::Malformed("a long message in no block"));
        };
        self.channel.send(&ToParent::Long { span: block.span() }.encode(), &[])
    }
}
