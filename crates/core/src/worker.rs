//! The child's end: receive, let the binding run the function, send.
//!
//! A [`Station`] hides what travels along with the work: descriptors of segments, blocks given back, messages too
//! long for a packet, the line of the scoreboard. The binding asks for the next [`Order`], and answers.

mod allowance;
mod orders;

use crate::channel::{PACKET_BYTES_MAX, Packet, WorkerEnd};
use crate::commons::Holdings;
use crate::config::TRIM_AFTER;
use crate::error::{Error, Result, descriptors_max, system};
use crate::footprint::Footprint;
use crate::id::{ChunkId, JobId, Time, WorkerId};
use crate::message::{DROPPED_MAX, ToParent, ToWorker, VERSION};
use crate::near::Shelf;
use crate::payload::{Announced, Loans, Payload};
use crate::telemetry::clock;
use allowance::Allowance;
use forklift_shm::{
    Arena, ArenaLimits, Ledger, Mark, Phase, Scoreboard, Segment, SegmentId, Sharing, Turnstile,
    beside_streams,
};
pub use orders::{Call, Done, Order, Refused};
use rustix::event::EventfdFlags;
use rustix::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// While the parent's blocks are in use here, an idle worker looks this often whether some were given up meanwhile
/// (by a thread of the user's, or the garbage collector).
const RETURN_INTERVAL: Duration = Duration::from_millis(100);

/// A worker whose gate is shut looks this often whether it was opened, and leaves after this time. It is killed or let go in
/// some microseconds, unless the parent was stopped in between.
const GATE_INTERVAL: Duration = Duration::from_micros(100);
const GATE_PATIENCE: Duration = Duration::from_secs(60);

/// What an idle worker keeps warm for its next results.
const TRIM_KEEP_BYTES: u64 = 16 << 20;

/// What interrupts a station's [wait](Station::receive_or). Any thread may ring.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// One that has not rung.
    ///
    /// # Errors
    /// When no descriptor can be had.
    pub fn new() -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(beside_streams(rustix::event::eventfd(0, flags).map_err(system("make an eventfd"))?)))
    }

    /// Has the wait return, now or when it begins.
    pub fn ring(&self) {
        // It can only fail for having rung 2^64 times.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn quiet(&self) {
        // It can only fail for not having rung.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

/// A worker's place in the pool.
pub struct Station {
    channel: WorkerEnd,
    worker: Option<WorkerId>,
    holdings: Holdings,
    arena: Arena,
    announced: Announced,
    loans: Loans,
    /// Of one in the parent's own process.
    shelf: Option<Arc<Shelf>>,
    mark: Option<Mark>,
    /// What it passes before each piece of work.
    turnstile: Option<Turnstile>,
    /// Pieces that it was ever given.
    given: u64,
    idle_since: Time,
    /// Idle for so long, it gives warm memory back to the system.
    trim_after: Duration,
    /// Since when it waits for work, and how long sending the last answer took.
    free_since: Time,
    sending: Duration,
    allowance: Option<Allowance>,
    /// Whether it has answered anything.
    answered: bool,
    /// How many descriptors this process may have open, once one could not be received for that.
    short: Option<u64>,
}

impl Station {
    /// Takes the descriptor that the worker was born with.
    #[must_use]
    pub fn new(channel: OwnedFd) -> Self {
        Self {
            channel: WorkerEnd::new(channel),
            worker: None,
            holdings: Holdings::new(),
            arena: Arena::new(ArenaLimits::default()),
            announced: Announced::default(),
            loans: Loans::default(),
            shelf: None,
            mark: None,
            turnstile: None,
            given: 0,
            idle_since: clock(),
            trim_after: TRIM_AFTER,
            allowance: None,
            free_since: Time(0),
            sending: Duration::ZERO,
            answered: false,
            short: None,
        }
    }

    /// Who this is, once it was told.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        self.worker
    }

    /// After how long a rest it should give warm memory back to the system.
    #[must_use]
    pub fn trim_after(&self) -> Duration {
        self.trim_after
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
            let patience = self.patience();
            let Some(packet) = self.channel.receive(Some(patience))? else {
                self.rest()?;
                return Ok(Order::Pause);
            };
            if let Some(order) = self.accept(packet)? {
                return Ok(order);
            }
        }
    }

    /// As [`Station::receive`], for one that stands in for a worker elsewhere: returns [`Order::Pause`] also when the
    /// bell has rung.
    ///
    /// # Errors
    /// As [`Station::receive`].
    pub fn receive_or(&mut self, bell: &Bell) -> Result<Order> {
        let patience = self.patience();
        let packet = self.channel.receive_or(bell.0.as_fd(), Some(patience))?;
        bell.quiet();
        match packet {
            Some(packet) => Ok(self.accept(packet)?.unwrap_or(Order::Pause)),
            None => {
                self.rest()?;
                Ok(Order::Pause)
            }
        }
    }

    /// Notes what the worker elsewhere is at: the first open item of a job, or nothing.
    pub fn note(&mut self, at: Option<(JobId, u64)>) {
        match at {
            Some((job, item)) => {
                self.mark(job, item, Phase::Calling);
            }
            None => self.mark_idle(),
        }
    }

    /// Says why the worker elsewhere is no more, and at which item it may have been. Then the channel should be closed.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn depart(&mut self, at: Option<(JobId, u64)>, reason: &str) -> Result<()> {
        self.note(at);
        self.send(&ToParent::Lost { reason: reason.into() })
    }

    /// How long an idle worker waits before it looks after its memory.
    fn patience(&self) -> Duration {
        let holding = self.holdings.returns.expected();
        if holding { RETURN_INTERVAL.min(self.trim_after) } else { self.trim_after }
    }

    /// What an idle worker does with its time.
    fn rest(&mut self) -> Result<()> {
        self.send_returns()?;
        if clock().since(self.idle_since) >= self.trim_after {
            self.arena.trim(TRIM_KEEP_BYTES);
            self.withdraw()?;
        }
        Ok(())
    }

    fn accept(&mut self, packet: Packet) -> Result<Option<Order>> {
        self.idle_since = clock();
        let message = ToWorker::decode(&packet.bytes)?;
        if packet.truncated {
            return self.run_short(&message);
        }
        match self.obey(message, packet.descriptors) {
            Err(Error::Malformed(_)) if self.short.is_some() => Err(self.give_up()?),
            outcome => outcome,
        }
    }

    /// A descriptor that came along could not be received. What it was for cannot be had any more: a worker that was of use
    /// before is used up, as one that has outgrown its memory, and what it was given goes to its successor. One that is new
    /// would be succeeded by others that fare no better: it says of each item why it fails.
    fn run_short(&mut self, message: &ToWorker) -> Result<Option<Order>> {
        let limit = descriptors_max();
        if !matches!(message, ToWorker::Segment { .. }) {
            self.short = Some(limit);
            return Err(self.give_up()?);
        }
        if self.short.replace(limit).is_none() && self.answered {
            self.send(&ToParent::Short { limit })?;
        }
        Ok(None)
    }

    fn reason(&self) -> Error {
        Error::Descriptors { limit: self.short.unwrap_or_default(), place: "a worker" }
    }

    /// There is no going on without what could not be received. Tells the parent why.
    fn give_up(&mut self) -> Result<Error> {
        let reason = self.reason();
        self.send(&ToParent::Lost { reason: reason.to_string() })?;
        Ok(reason)
    }

    fn obey(&mut self, message: ToWorker, descriptors: Vec<OwnedFd>) -> Result<Option<Order>> {
        match message {
            ToWorker::Start { worker, slots, line, memory_limit, shelf, trim_after, initializer } => {
                let file = descriptors.into_iter().next().ok_or(Error::Malformed("no scoreboard"))?;
                let board = Scoreboard::open(file, slots)?;
                if line >= slots {
                    return Err(Error::Malformed("no such line of the scoreboard"));
                }
                self.mark = Some(board.writer(line));
                self.turnstile = Some(board.turnstile(line));
                self.worker = Some(worker);
                self.trim_after = trim_after;
                self.shelf = Shelf::find(shelf);
                if memory_limit > 0 {
                    let footprint = Footprint::of(None);
                    let (looked, outgrown) = (Time::default(), false);
                    self.allowance = Some(Allowance { limit: memory_limit, footprint, looked, outgrown });
                }
                let initializer = initializer.map(|outline| self.holdings.open(outline)).transpose()?;
                Ok(Some(Order::Start { initializer }))
            }
            ToWorker::Segment { id, bytes, sharing, sealed } => {
                let file = descriptors.into_iter().next().ok_or(Error::Malformed("no segment"))?;
                let segment = match (sharing, sealed) {
                    (Sharing::Private, false) => Segment::open_unsealed(file, Some(bytes))?,
                    _ => Segment::open(file, bytes, sharing)?,
                };
                self.holdings.add(id, segment);
                Ok(None)
            }
            ToWorker::Dropped { segments } => {
                self.holdings.remove(&segments);
                Ok(None)
            }
            ToWorker::Call { chunk, .. }
                if self.allowance.as_ref().is_some_and(|allowance| allowance.outgrown) =>
            {
                self.given += 1;
                self.surrender(chunk)?;
                Ok(None)
            }
            ToWorker::Call { chunk, .. } if self.short.is_some() && self.answered => {
                self.surrender(chunk)?;
                Ok(None)
            }
            ToWorker::Call { job, chunk, first, skip, items, .. } if self.short.is_some() => {
                let first = first.saturating_add(skip.into());
                Ok(Some(Order::Refuse(Refused { job, chunk, first, items, reason: self.reason() })))
            }
            ToWorker::Call { job, chunk, first, skip, items, retained, patience, function, payload } => {
                let within = skip.checked_add(items).and_then(|end| first.checked_add(u64::from(end)));
                if items == 0 || within.is_none() {
                    return Err(Error::Malformed("a piece of no items, or of more than can be counted"));
                }
                self.given += 1;
                self.enter()?;
                let begun = clock();
                let waited = begun.since(self.free_since);
                let function = function.map(|outline| self.holdings.open(outline)).transpose()?;
                let payload = self.holdings.open(payload)?;
                let until = (patience > 0).then(|| begun.after(Duration::from_micros(patience.into())));
                let call = Call {
                    job,
                    chunk,
                    first,
                    skip,
                    items,
                    retained,
                    until,
                    function,
                    payload,
                    begun,
                    waited,
                };
                Ok(Some(Order::Call(call)))
            }
            // No call comes that would ask for it.
            ToWorker::Share { .. } if self.short.is_some() => Ok(None),
            ToWorker::Share { job, key, keep, value } => {
                let value = self.holdings.share(value)?;
                Ok(Some(Order::Share { job, key, keep, value }))
            }
            ToWorker::Unshare { key } => Ok(Some(Order::Unshare(key))),
            ToWorker::Forget { job } => Ok(Some(Order::Forget(job))),
            ToWorker::Release { spans } => {
                for span in spans {
                    self.loans.give_back(span);
                }
                Ok(None)
            }
            ToWorker::Again { id } => {
                if let Some(segment) = self.arena.segment(id) {
                    self.show(id, &segment)?;
                }
                Ok(None)
            }
            ToWorker::Stop => Ok(Some(Order::Stop)),
            ToWorker::Long { span } => {
                let view = self.holdings.view(span)?;
                match ToWorker::decode(view.as_slice())? {
                    ToWorker::Long { .. } => Err(Error::Malformed("a long message within a long message")),
                    message => self.obey(message, Vec::new()),
                }
            }
        }
    }

    /// Waits until the piece that has just come may be begun: not while this worker is about to be killed.
    fn enter(&mut self) -> Result<()> {
        let piece = self.given;
        let Some(turnstile) = &mut self.turnstile else { return Ok(()) };
        if turnstile.enter(piece) {
            return Ok(());
        }
        let since = Instant::now();
        while turnstile.is_shut() {
            if since.elapsed() > GATE_PATIENCE {
                // Whoever shut it has neither killed nor opened: the piece goes to another worker.
                return Err(Error::Gone);
            }
            std::thread::sleep(GATE_INTERVAL);
        }
        Ok(())
    }

    /// The worker has run its initializer and waits for work.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn ready(&mut self) -> Result<()> {
        self.mark_idle();
        self.free_since = clock();
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
    pub fn answer(&mut self, done: Done, results: &Payload) -> Result<()> {
        let begun = clock();
        self.answered = self.short.is_none();
        self.lend(results)?;
        let released = self.holdings.returns.take();
        let Done { chunk, items, failed, last, spent, mut shift } = done;
        shift.packing = results.packing();
        shift.sending = std::mem::take(&mut self.sending);
        self.send(&ToParent::Return {
            chunk,
            items,
            failed,
            last,
            spent,
            shift,
            handed_bytes: results.lent_bytes(),
            results: results.outline(),
            released,
        })?;
        self.free_since = clock();
        self.idle_since = self.free_since;
        self.sending = self.free_since.since(begun);
        Ok(())
    }

    /// Gives the piece in hand back, because the items of its chunk cannot be rebuilt together.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn give_back(&mut self, chunk: ChunkId) -> Result<()> {
        self.send_returns()?;
        self.send(&ToParent::Unreadable { chunk })
    }

    /// Gives a piece back, or what is not answered of it, since this worker has outgrown its limit, or is at it for longer
    /// than it should.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn surrender(&mut self, chunk: ChunkId) -> Result<()> {
        self.send_returns()?;
        self.send(&ToParent::Surrendered { chunk })
    }

    /// Where bytes are counted that this worker holds, once it knows its place.
    #[must_use]
    pub fn ledger(&self) -> Option<Ledger> {
        self.mark.as_ref().map(Mark::ledger)
    }

    fn send_returns(&mut self) -> Result<()> {
        let spans = self.holdings.returns.take();
        if spans.is_empty() { Ok(()) } else { self.send(&ToParent::Release { spans }) }
    }

    /// Keeps what the parent is about to be told of, and shows it the segments it lies in.
    fn lend(&mut self, payload: &Payload) -> Result<()> {
        for loan in payload.loans() {
            let id = loan.span().segment;
            if let Some(segment) = loan.segment()
                && self.announced.is_news(id, segment)
            {
                self.withdraw()?;
                self.show(id, segment)?;
            }
        }
        match &self.shelf {
            Some(shelf) => self.loans.lend_beside(payload, shelf),
            None => self.loans.lend(payload),
        }
        Ok(())
    }

    fn show(&self, id: SegmentId, segment: &Segment) -> Result<()> {
        let message = ToParent::Segment { id, bytes: segment.bytes() };
        self.channel.send(&message.encode(), &[segment.fd()])
    }

    /// Tells the parent of segments that it was shown and that are gone.
    fn withdraw(&mut self) -> Result<()> {
        for segments in self.announced.take_gone().chunks(DROPPED_MAX) {
            self.channel.send(&ToParent::Dropped { segments: segments.into() }.encode(), &[])?;
        }
        Ok(())
    }

    fn send(&mut self, message: &ToParent) -> Result<()> {
        let packet = message.encode();
        if packet.len() <= PACKET_BYTES_MAX {
            return self.channel.send(&packet, &[]);
        }
        let payload = Payload::pack(&self.arena, &[&packet], &[])?;
        self.lend(&payload)?;
        let Some(loan) = payload.loans().next() else {
            return Err(Error::Malformed("a long message in no block"));
        };
        self.channel.send(&ToParent::Long { span: loan.span() }.encode(), &[])
    }
}
