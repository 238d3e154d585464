//! Which chunk, to whom, how large, when to wait: a pure state machine.
//!
//! ```text
//!            Grant             Submitted          Dispatch            Returned
//!   feed ◄────────── credit ──────────► ready ──────────────► worker ──────────► over ──► Retire, Finish
//!                   (budget)    ▲  queue of the job  (placement)  │
//!                               │                                 │ Exited
//!                               └──── parked ◄────────────────────┘ (recovery)
//!                                Restored   Reclaim
//! ```
//!
//! # Rules
//!
//! 1. *Late binding.* A piece is bound to a worker when that worker is idle; see `placement` for the exception.
//! 2. *Credit.* A feed forms only what it was granted. Per job, ready pieces and granted chunks are no more than
//!    there are seats, and a small reserve. Over all jobs, bytes in flight and expected stay within `window_bytes`;
//!    when nothing at all is on its way, one chunk of any weight goes.
//! 3. *Streams.* Results not consumed and results expected of what is in flight stay within its share
//!    of `stream_bytes`, but one chunk goes if the consumer has taken all there is. With a `buffersize`, items submitted or granted are
//!    never more than that ahead of the items consumed, exactly. `Unbounded` ends both.
//!    Both limits are smaller while memory is short ([`Event::Admitted`]), and these exceptions stand.
//! 4. *Counted calls.* A worker is never given more items than it has calls left; the rest of the piece goes back
//!    to the front of its queue. With its last call it is to be [relieved](Command::Relieve); when it holds nothing any
//!    more it is [excused](Command::Excuse), and so is one that is used up otherwise ([`Event::UsedUp`]). Its successor
//!    stands by until then.
//! 5. *Blame.* An item is lost if its worker died in it, or while translating it alone; see `recovery`. Others go again:
//!    those that had not begun as they are, those that had only from bytes that are as they were; see `ownership`.
//! 6. *Cancelling* drops what no worker holds, and interrupts each worker that is at work on the job. A worker that
//!    holds a piece of it behind one of another job is interrupted when it comes to it. One that has gone on meanwhile
//!    is left alone ([`Event::Passed`]).
//! 7. *Odd events* are ignored: they may come late. A chunk submitted to a job that is over is retired at once.
//! 8. *Workers in seats at or above `processes` leave* ([`Event::Resized`]): the supervisor dismisses exactly these,
//!    by the same rule from the same events.
//!
//! # What a step costs
//!
//! O(log n) in workers, jobs and chunks. Nothing looks through all workers, jobs or chunks but `Resized` and `Admitted` (all
//! workers or jobs) and `Terminated` (everything); `Cancelled` and `Exited` look through what that job or worker
//! holds. [`Scheduler::effort`] counts, and the simulation checks it.
//!
//! # What it is not
//!
//! It knows no payload, no clock and no process. It does not wait for a feed: a grant that is never used is the
//! feed's affair (but see `budget` on pledges that lapse). A piece that was sent is never taken back.

mod budget;
mod chunking;
mod dispatch;
mod grants;
mod job;
mod lessons;
mod outlook;
mod ownership;
mod placement;
mod precedents;
mod recovery;
mod seats;
#[cfg(test)]
mod tests;
mod trend;

use crate::config::SchedulerConfig;
use crate::event::{Command, Event, JobSpec, Spent};
use crate::id::{ChunkId, JobId, Time, WorkerId};
use budget::Window;
use chunking::{Bounds, FAR_FACTOR, MessageCost};
use job::{Chunk, Job};
use ownership::{Goods, Piece};
pub(crate) use placement::HELD_MAX;
use placement::{Bench, Hand, Turns};
use precedents::Precedents;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use trend::Trend;

/// What the scheduler expects of one item of a job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Time in a worker, all told.
    pub time: Duration,
    /// Payload bytes on the way in.
    pub bytes_in: u64,
    /// Payload bytes on the way out.
    pub bytes_out: u64,
    /// Items that a chunk formed now would have.
    pub chunk_items: u32,
}

/// The scheduler of one pool. See the module's page for its rules.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    jobs: BTreeMap<JobId, Job>,
    chunks: BTreeMap<ChunkId, Chunk>,
    workers: BTreeMap<WorkerId, Hand>,
    bench: Bench,
    turns: Turns,
    window: Window,
    /// `stream_bytes`, or less while memory is short.
    stream_bytes: u64,
    /// Jobs that may be granted something, in turn. Others wait for an event of their own to bring them here.
    asking: VecDeque<JobId>,
    /// The first of `asking` waits for the window.
    is_waiting: bool,
    /// Ready pieces of all jobs.
    ready_pieces: u64,
    message_cost: MessageCost,
    /// Bytes per item of jobs' first chunks: what a new job is expected to weigh.
    first_weights: Trend,
    precedents: Precedents,
    /// Streamed jobs that are not finished.
    streams: u64,
    unbounded: bool,
    /// How long this process will be busy with a fork; zero if none is due.
    forking: Duration,
    /// No job is taken any more.
    closed: bool,
    /// Items that were tried again after their worker died.
    retried: u64,
    effort: u64,
}

impl Scheduler {
    /// A scheduler with no workers and no jobs.
    #[must_use]
    pub fn new(config: SchedulerConfig) -> Self {
        Self {
            window: Window::new(config.window_bytes),
            stream_bytes: config.stream_bytes,
            message_cost: MessageCost::new(config.message_cost),
            config: SchedulerConfig { processes: config.processes.max(1), ..config },
            jobs: BTreeMap::new(),
            chunks: BTreeMap::new(),
            workers: BTreeMap::new(),
            bench: Bench::default(),
            turns: Turns::default(),
            asking: VecDeque::new(),
            is_waiting: false,
            ready_pieces: 0,
            first_weights: Trend::default(),
            precedents: Precedents::default(),
            streams: 0,
            unbounded: false,
            forking: Duration::ZERO,
            closed: false,
            retried: 0,
            effort: 0,
        }
    }

    /// Takes in one event and appends the commands that follow from it.
    pub fn step(&mut self, now: Time, event: &Event, out: &mut Vec<Command>) {
        self.effort += 1;
        match *event {
            Event::Opened { job, spec } => self.opened(job, spec, out),
            Event::Submitted { job, chunk, first, items, bytes, holding, kept } => {
                self.submitted(now, job, chunk, first, items, bytes, Goods::new(holding, kept), out);
            }
            Event::Exhausted { job, .. } => self.exhausted(job, out),
            Event::Cancelled { job } => self.cancelled(job, out),
            Event::Consumed { job, items, bytes } => {
                if let Some(state) = self.jobs.get_mut(&job) {
                    state.consume(items, bytes);
                    self.ask(job);
                }
            }
            Event::Restored { chunk, bytes } => self.restored(chunk, bytes),
            Event::Forfeited { chunk } => self.forfeited(chunk, out),
            Event::Passed { worker, piece } => self.passed(worker, piece, out),
            Event::Resized { processes } => self.resized(processes),
            Event::Admitted { window_bytes, stream_bytes } => {
                self.window.resize(window_bytes);
                self.stream_bytes = stream_bytes;
                self.ask_all();
            }
            Event::Closed => self.closed = true,
            Event::Unbounded => {
                self.unbounded = true;
                self.ask_all();
            }
            Event::Terminated => self.terminated(out),
            Event::Born { worker } => {
                let leaving = worker.slot >= self.config.processes;
                let calls = self.config.tasks_per_worker;
                self.workers.entry(worker).or_insert_with(|| Hand::new(calls, leaving));
            }
            Event::Ready { worker } => {
                self.change(worker, |hand| hand.ready = true);
                self.relieve(worker.slot);
            }
            Event::Refused { worker } => self.change(worker, |hand| hand.leaving = true),
            Event::UsedUp { worker, .. } => {
                self.change(worker, |hand| hand.used_up = true);
                self.reseat(worker, out);
            }
            Event::Surrendered { worker, chunk } => self.surrendered(worker, chunk, out),
            Event::Returned { worker, chunk, items, bytes, spent, last: _ } => {
                self.returned(now, worker, chunk, items, bytes, spent, out);
            }
            Event::Unreadable { worker, chunk } => self.unreadable(worker, chunk, out),
            Event::Forking { lasts } => self.forking = lasts,
            Event::Exited { worker, at, begun } => self.exited(worker, at, begun, out),
            Event::Stillborn { .. } | Event::Excused { .. } | Event::Wanted | Event::Tick => {}
        }
        self.place(now, out);
        self.grant(now, out);
    }

    /// When it wants a [`Event::Tick`], if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        if self.is_waiting { self.window.earliest_lapse() } else { None }
    }

    /// Payload bytes of all chunks that were submitted and not retired.
    #[must_use]
    pub fn in_flight_bytes(&self) -> u64 {
        self.window.in_flight()
    }

    /// What it expects of the job's items; nothing before the first answer.
    #[must_use]
    pub fn estimate(&self, job: JobId) -> Option<Estimate> {
        let state = self.jobs.get(&job)?;
        let learned = &state.chunker;
        learned.has_seen_any().then(|| Estimate {
            time: Duration::from_secs_f64(learned.seconds.mean()),
            bytes_in: learned.bytes_in.mean() as u64,
            bytes_out: learned.bytes_out.mean() as u64,
            chunk_items: learned.items(&self.bounds(state)),
        })
    }

    /// How many items were tried again after their worker died.
    #[must_use]
    pub fn retried(&self) -> u64 {
        self.retried
    }

    /// Items per chunk that the job's feed was told last; nothing before the first grant.
    #[must_use]
    pub fn granted_items(&self, job: JobId) -> Option<u32> {
        self.jobs.get(&job).map(|state| state.credit.size()).filter(|&items| items > 0)
    }

    /// How much it has done since it was made: passes through any of its loops. For tests of what a step costs.
    #[must_use]
    pub fn effort(&self) -> u64 {
        self.effort
    }

    fn opened(&mut self, job: JobId, spec: JobSpec, out: &mut Vec<Command>) {
        if self.closed {
            // Nobody would work on it.
            out.push(Command::Finish { job });
        } else {
            self.streams += u64::from(!self.jobs.contains_key(&job) && spec.is_streamed());
            self.jobs.entry(job).or_insert_with(|| Job::new(spec, self.precedents.of(&spec)));
            self.ask(job);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one event")]
    fn submitted(
        &mut self,
        now: Time,
        job: JobId,
        chunk: ChunkId,
        first: u64,
        items: u32,
        bytes: u64,
        goods: Goods,
        out: &mut Vec<Command>,
    ) {
        if self.chunks.contains_key(&chunk) {
            return;
        }
        let Some(state) = self.jobs.get_mut(&job).filter(|state| !state.cancelled && items > 0) else {
            out.push(Command::Retire { chunk });
            return;
        };
        if state.submitted == 0 {
            self.first_weights.learn(bytes as f64 / f64::from(items), 1);
        }
        state.credit.formed();
        state.chunker.encoded(items, bytes);
        state.submitted += u64::from(items);
        state.chunks.insert(chunk);
        let holders = BTreeSet::new();
        self.chunks.insert(chunk, Chunk { job, first, bytes, open: items, holders, goods });
        self.window.enter(bytes);
        self.pledge(now, job);
        self.queue(job, [Piece::whole(chunk, items)], End::Back);
        self.ask(job);
    }

    fn exhausted(&mut self, job: JobId, out: &mut Vec<Command>) {
        let Some(state) = self.jobs.get_mut(&job) else { return };
        state.exhausted = true;
        state.credit.void();
        self.window.unpledge(job);
        self.finish_if_over(job, out);
    }

    fn terminated(&mut self, out: &mut Vec<Command>) {
        self.closed = true;
        out.extend(self.chunks.keys().map(|&chunk| Command::Retire { chunk }));
        out.extend(self.jobs.keys().map(|&job| Command::Finish { job }));
        self.window = Window::new(self.config.window_bytes);
        self.chunks.clear();
        self.jobs.clear();
        self.streams = 0;
        self.asking.clear();
        self.turns = Turns::default();
        self.ready_pieces = 0;
        for (&worker, hand) in &mut self.workers {
            hand.doomed = true;
            hand.held.clear();
            self.bench.remove(worker, hand);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one event")]
    fn returned(
        &mut self,
        now: Time,
        worker: WorkerId,
        chunk: ChunkId,
        items: u32,
        bytes: u64,
        spent: Spent,
        out: &mut Vec<Command>,
    ) {
        let Some(hand) = self.workers.get_mut(&worker) else { return };
        let Some(held) = hand.held.front_mut().filter(|held| held.piece.chunk() == chunk) else { return };
        let items = items.min(held.left());
        if items == 0 {
            return;
        }
        let sent = held.piece.items();
        held.done += items;
        let (job, charge, sent_idle) = (held.job, held.charge_nanos, held.sent_idle);
        let completed = held.left() == 0;
        if completed {
            hand.held.pop_front();
        }
        self.learn(job, items, bytes, spent, charge);
        if items == sent {
            self.learn_whole(now, job, items, spent, sent_idle);
        }
        if completed {
            self.proved(job, sent);
            self.let_go(worker, chunk);
        }
        self.close_items(chunk, items, |job| &mut job.answered, out);
        self.reseat(worker, out);
        self.ask(job);
    }

    /// Some items of the chunk are over.
    fn close_items(
        &mut self,
        chunk: ChunkId,
        items: u32,
        count: impl Fn(&mut Job) -> &mut u64,
        out: &mut Vec<Command>,
    ) {
        let Some(state) = self.chunks.get_mut(&chunk) else { return };
        state.open = state.open.saturating_sub(items);
        if let Some(job) = self.jobs.get_mut(&state.job) {
            *count(job) += u64::from(items);
        }
        self.retire_if_over(chunk, out);
    }

    fn cancelled(&mut self, job: JobId, out: &mut Vec<Command>) {
        let Some(state) = self.jobs.get_mut(&job).filter(|state| !state.cancelled) else { return };
        state.cancelled = true;
        state.credit.void();
        self.window.unpledge(job);
        self.turns.leave(job, state.clock);
        self.ready_pieces -= state.ready.len() as u64;
        state.ready = VecDeque::new();
        let mut holders = BTreeSet::new();
        for chunk in state.chunks.clone() {
            self.effort += 1;
            if let Some(state) = self.chunks.get_mut(&chunk) {
                state.goods.drop_parked();
                holders.extend(&state.holders);
            }
            self.retire_if_over(chunk, out);
        }
        for worker in holders {
            self.effort += 1;
            self.reseat(worker, out);
        }
        self.finish_if_over(job, out);
    }

    /// Nothing of the chunk is left to do: its payload goes, and maybe its job is over.
    fn retire_if_over(&mut self, chunk: ChunkId, out: &mut Vec<Command>) {
        let Some(state) = self.chunks.get(&chunk) else { return };
        let job = state.job;
        let Some(owner) = self.jobs.get_mut(&job) else { return };
        let over = if owner.cancelled { state.holders.is_empty() } else { state.open == 0 };
        if over {
            owner.chunks.remove(&chunk);
            self.window.leave(state.bytes);
            self.chunks.remove(&chunk);
            out.push(Command::Retire { chunk });
            self.finish_if_over(job, out);
        }
    }

    fn finish_if_over(&mut self, job: JobId, out: &mut Vec<Command>) {
        if self.jobs.get(&job).is_some_and(Job::is_over) {
            if let Some(over) = self.jobs.remove(&job) {
                self.streams -= u64::from(over.is_streamed());
                self.precedents.learn(&over);
            }
            self.window.unpledge(job);
            out.push(Command::Finish { job });
        }
    }

    /// Puts pieces into their job's queue, in order. A cancelled job's are dropped.
    fn queue<I>(&mut self, job: JobId, pieces: I, end: End)
    where
        I: IntoIterator<Item = Piece, IntoIter: DoubleEndedIterator>,
    {
        let Some(state) = self.jobs.get_mut(&job).filter(|state| !state.cancelled) else { return };
        let was_empty = state.ready.is_empty();
        let before = state.ready.len();
        let add = |piece: Piece, items: &mut u64| {
            *items += u64::from(piece.items());
            piece
        };
        match end {
            End::Back => pieces.into_iter().for_each(|piece| {
                state.ready.push_back(add(piece, &mut state.ready_items));
            }),
            End::Front => pieces.into_iter().rev().for_each(|piece| {
                state.ready.push_front(add(piece, &mut state.ready_items));
            }),
        }
        let added = (state.ready.len() - before) as u64;
        self.ready_pieces += added;
        self.effort += added;
        if was_empty && added > 0 {
            self.turns.join(job, &mut state.clock);
        }
    }

    fn bounds(&self, job: &Job) -> Bounds {
        // No chunk may fill the window alone: every worker must find something in it.
        let shares = u64::from(self.depth());
        let bytes_max = self.config.chunk_bytes_max;
        let stream = if job.is_streamed() && !self.unbounded { self.stream_bytes() } else { u64::MAX };
        Bounds {
            message_cost: self.message_cost.get(),
            probe_items: self.config.probe_items,
            forking: self.forking,
            workers: self.config.processes,
            remaining: job.undispatched(),
            bytes_in_max: bytes_max.min(self.window.bytes_max() / shares),
            bytes_in_far: bytes_max.saturating_mul(FAR_FACTOR).min(self.window.bytes_max() / shares),
            bytes_out_max: self.config.result_bytes_max.min(stream / shares),
        }
    }
}

/// An end of a job's queue.
#[derive(Debug, Clone, Copy)]
enum End {
    Front,
    Back,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
