//! What must be true, kept apart from the machines: a second, slow and simple account of everything.
//!
//! It sees the same events and commands in the same order, and stops the test at the first that is wrong.

use crate::plan::{JobPlan, Plan};
use crate::seats::WorkerBook;
use forklift_core::event::{Command, Delivery, Event, Holding, Kept, Loss, Whereabouts};
use forklift_core::id::{ChunkId, JobId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    NotYet,
    Ready,
    Held,
    Answered,
    Lost,
}

#[derive(Debug, Default)]
pub(crate) struct JobBook {
    pub(crate) items: Vec<Item>,
    pub(crate) submitted: u64,
    pub(crate) over: u64,
    pub(crate) consumed: u64,
    pub(crate) unconsumed_bytes: u64,
    pub(crate) exhausted: bool,
    pub(crate) cancelled: bool,
    pub(crate) finished: bool,
    pub(crate) streamed: bool,
    pub(crate) buffer: Option<u64>,
    pub(crate) largest_chunk: u64,
}

#[derive(Debug)]
pub(crate) struct ChunkBook {
    pub(crate) job: JobId,
    pub(crate) first: u64,
    pub(crate) items: u32,
    pub(crate) bytes: u64,
    pub(crate) holding: Holding,
    /// The feed has not found that its items are not what they were.
    pub(crate) kept: Kept,
    /// How often it was encoded again, and in which edition of it each item was begun last by a worker that is dead.
    pub(crate) edition: u32,
    pub(crate) used: Vec<Option<u32>>,
    pub(crate) reclaiming: bool,
    /// A worker died with a piece of it, or could not decode it, since it was encoded.
    pub(crate) suspect: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) chunk: ChunkId,
    pub(crate) skip: u32,
    pub(crate) items: u32,
    pub(crate) done: u32,
    pub(crate) edition: u32,
    pub(crate) number: u64,
}

/// Outcomes that a run has seen: the tests assert that all of them came up.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen(pub(crate) BTreeMap<&'static str, u64>);

impl Seen {
    pub(crate) fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) plan: Plan,
    pub(crate) jobs: BTreeMap<JobId, JobBook>,
    pub(crate) chunks: BTreeMap<ChunkId, ChunkBook>,
    pub(crate) workers: BTreeMap<WorkerId, WorkerBook>,
    pub(crate) generations: BTreeMap<u32, u32>,
    pub(crate) in_flight: u64,
    pub(crate) processes: u32,
    processes_most: u32,
    /// What may be in flight now.
    window: u64,
    pub(crate) wanted: bool,
    pub(crate) closed: bool,
    pub(crate) terminated: bool,
    pub(crate) unbounded: bool,
    pub(crate) broken: bool,
    /// `Rest` was ordered; what the scheduler orders in the same step may follow it.
    resting: bool,
    pub(crate) rested: bool,
    pub(crate) seen: Seen,
    /// Seats in which a birth has failed since the last succeeded.
    pub(crate) barren: BTreeSet<u32>,
    /// The death that is being told: who, where, and the oldest piece it held.
    death: Option<(WorkerId, Whereabouts, Option<Piece>, bool)>,
    lost_now: u64,
}

impl Audit {
    pub(crate) fn new(plan: Plan) -> Self {
        Audit {
            processes: plan.scheduler.processes,
            processes_most: plan.scheduler.processes,
            window: plan.scheduler.window_bytes,
            plan,
            jobs: BTreeMap::new(),
            chunks: BTreeMap::new(),
            workers: BTreeMap::new(),
            generations: BTreeMap::new(),
            in_flight: 0,
            wanted: false,
            closed: false,
            terminated: false,
            unbounded: false,
            broken: false,
            resting: false,
            rested: false,
            seen: Seen::default(),
            barren: BTreeSet::new(),
            death: None,
            lost_now: 0,
        }
    }

    /// Before the machines are told.
    pub(crate) fn event(&mut self, event: &Event) {
        (self.death, self.lost_now) = (None, 0);
        match *event {
            Event::Opened { job, spec } => self.open(job, spec.delivery),
            Event::Submitted { job, chunk, first, items, bytes, .. } => {
                self.submit(job, chunk, first, items, bytes);
            }
            Event::Exhausted { job, .. } => {
                if let Some(book) = self.jobs.get_mut(&job) {
                    book.exhausted = true;
                }
            }
            Event::Cancelled { job } => self.cancel(job),
            Event::Consumed { job, items, bytes } => {
                if let Some(book) = self.jobs.get_mut(&job) {
                    book.consumed += items;
                    book.unconsumed_bytes -= bytes;
                }
            }
            Event::Restored { chunk, bytes } => self.restore(chunk, bytes),
            Event::Forfeited { chunk } => self.forfeit(chunk),
            Event::Passed { worker, piece } => self.pass(worker, piece),
            Event::Resized { processes } => {
                (self.processes, self.processes_most) = (processes, self.processes_most.max(processes));
            }
            Event::Admitted { window_bytes, .. } => {
                self.window = window_bytes;
                if self.in_flight > self.window {
                    self.seen.note("window shrunk below what is in flight");
                }
            }
            Event::Wanted => self.wanted = true,
            Event::Closed => self.closed = true,
            Event::Unbounded => self.unbounded = true,
            Event::Terminated => self.terminated = true,
            Event::Born { worker } => {
                self.worker(worker).born = true;
                self.barren.remove(&worker.slot);
            }
            Event::Ready { worker } => {
                self.worker(worker).ready = true;
                if self.stands_by(worker) {
                    self.seen.note("stood by");
                }
            }
            Event::Refused { worker } => {
                self.worker(worker).refused = true;
                self.barren.insert(worker.slot);
            }
            Event::Stillborn { worker } => {
                self.workers.remove(&worker);
                self.barren.insert(worker.slot);
            }
            Event::UsedUp { worker, .. } => {
                if let Some(book) = self.workers.get_mut(&worker) {
                    book.used_up = true;
                }
            }
            Event::Excused { worker } => self.worker(worker).excused = true,
            Event::Surrendered { worker, chunk } => self.surrender(worker, chunk),
            Event::Returned { worker, chunk, items, bytes, .. } => self.answer(worker, chunk, items, bytes),
            Event::Unreadable { worker, chunk } => self.give_back(worker, chunk),
            Event::Exited { worker, at, begun } => self.exit(worker, at, begun),
            Event::Forking { .. } | Event::Tick => {}
        }
    }

    pub(crate) fn worker(&mut self, worker: WorkerId) -> &mut WorkerBook {
        self.workers.get_mut(&worker).expect("a worker that was ordered")
    }

    fn open(&mut self, job: JobId, delivery: Delivery) {
        let plan = &self.plan.jobs[job.0 as usize];
        let (streamed, buffer) = match delivery {
            Delivery::Collected => (false, None),
            Delivery::Streamed(limit) => (true, limit),
        };
        let items = vec![Item::NotYet; plan.items as usize];
        let book = JobBook { items, streamed, buffer, ..JobBook::default() };
        assert!(self.jobs.insert(job, book).is_none());
    }

    fn submit(&mut self, job: JobId, chunk: ChunkId, first: u64, items: u32, bytes: u64) {
        let book = self.jobs.get_mut(&job).expect("an open job");
        book.items[first as usize..][..items as usize].fill(Item::Ready);
        book.submitted += u64::from(items);
        book.largest_chunk = book.largest_chunk.max(bytes);
        self.in_flight += bytes;
        let plan = &self.plan.jobs[job.0 as usize];
        let (holding, kept, used) = (plan.holding, plan.kept, vec![None; items as usize]);
        let (edition, reclaiming, suspect) = Default::default();
        let book = ChunkBook { job, first, items, bytes, holding, kept, edition, used, reclaiming, suspect };
        self.chunks.insert(chunk, book);
    }

    fn cancel(&mut self, job: JobId) {
        if let Some(book) = self.jobs.get_mut(&job).filter(|book| !book.finished) {
            book.cancelled = true;
        }
    }

    fn restore(&mut self, chunk: ChunkId, bytes: u64) {
        let Some(book) = self.chunks.get_mut(&chunk) else { return };
        assert!(book.reclaiming);
        (book.reclaiming, book.suspect) = (false, false);
        book.edition += 1;
        self.in_flight = self.in_flight - book.bytes + bytes;
        book.bytes = bytes;
    }

    fn forfeit(&mut self, chunk: ChunkId) {
        let Some(book) = self.chunks.get_mut(&chunk) else { return };
        assert!(book.reclaiming);
        (book.reclaiming, book.kept) = (false, Kept::Not);
        self.seen.note("forfeited");
    }

    /// The worker was not interrupted after all.
    fn pass(&mut self, worker: WorkerId, piece: u64) {
        if let Some(book) = self.workers.get_mut(&worker) {
            (book.interrupted, book.passed) = (false, piece);
        }
    }

    fn answer(&mut self, worker: WorkerId, chunk: ChunkId, items: u32, bytes: u64) {
        let Some(piece) = self.worker(worker).held.front().copied() else {
            assert!(self.terminated, "{worker} answers what it does not hold");
            return;
        };
        assert_eq!(piece.chunk, chunk);
        let book = &self.chunks[&chunk];
        let first = (book.first + u64::from(piece.skip + piece.done)) as usize;
        let job = self.jobs.get_mut(&book.job).expect("its job");
        for item in &mut job.items[first..first + items as usize] {
            assert_eq!(*item, Item::Held, "answered twice or never sent");
            *item = Item::Answered;
        }
        job.over += u64::from(items);
        job.unconsumed_bytes += bytes;
        let held = &mut self.worker(worker).held;
        held[0].done += items;
        if held[0].done == held[0].items {
            held.pop_front();
        } else {
            self.seen.note("answered in parts");
        }
    }

    /// It could not be decoded.
    fn give_back(&mut self, worker: WorkerId, chunk: ChunkId) {
        if let Some(piece) = self.hand_back(worker, chunk) {
            assert_eq!(piece.done, 0);
            self.chunks.get_mut(&chunk).expect("its chunk").suspect = true;
            self.seen.note("given back");
        }
    }

    fn exit(&mut self, worker: WorkerId, at: Whereabouts, begun: u32) {
        let book = self.workers.remove(&worker).expect("a worker that was ordered");
        if !book.ready {
            self.barren.insert(worker.slot);
        }
        let ours = book.interrupted || book.killed || at == Whereabouts::Stopped;
        self.death = Some((worker, at, book.held.front().copied(), ours));
        let wanted = |piece: &Piece| {
            self.chunks.get(&piece.chunk).is_some_and(|chunk| !self.jobs[&chunk.job].cancelled)
        };
        if ours && book.held.front().is_some_and(wanted) {
            self.seen.note(if begun > 0 { "begun and not to blame" } else { "killed for another's sake" });
        }
        for (index, piece) in book.held.iter().enumerate() {
            let Some(chunk) = self.chunks.get_mut(&piece.chunk) else { continue };
            chunk.suspect |= index == 0;
            let next = (piece.skip + piece.done) as usize;
            if index == 0 {
                chunk.used[next..next + begun as usize].fill(Some(piece.edition));
            }
            let first = chunk.first as usize + next;
            let job = self.jobs.get_mut(&chunk.job).expect("its job");
            for item in &mut job.items[first..first + (piece.items - piece.done) as usize] {
                assert_eq!(*item, Item::Held);
                *item = Item::Ready;
            }
        }
    }

    /// Each command, in order.
    pub(crate) fn command(&mut self, command: &Command) {
        assert!(!self.rested, "{command:?} after rest");
        match *command {
            Command::Grant { job, chunks, items } => {
                let full = self.in_flight > 0 && self.in_flight >= self.window;
                assert!(chunks == 0 || !full, "{command:?} with {} bytes in flight", self.in_flight);
                let book = &self.jobs[&job];
                assert!(items > 0 && !book.finished && !book.cancelled && !book.exhausted, "{command:?}");
            }
            Command::Dispatch { worker, chunk, skip, items, .. } => self.dispatch(worker, chunk, skip, items),
            Command::Retire { chunk } => self.retire(chunk),
            Command::Reclaim { chunk } => {
                let book = self.chunks.get_mut(&chunk).expect("a chunk in flight");
                assert!(!book.reclaiming && book.suspect, "{command:?} for nothing");
                assert!(book.kept != Kept::Not, "{command:?} of whom?");
                if book.edition > 0 {
                    self.seen.note("reclaimed again");
                }
                book.reclaiming = true;
            }
            Command::Lose { job, item, worker, loss: Loss::Died } if self.death.is_some() => {
                self.lose(job, item, worker);
            }
            Command::Lose { job, item, .. } => self.lose_used(job, item),
            Command::Finish { job } => self.finish(job),
            Command::Interrupt { worker, piece } => self.interrupt(worker, piece),
            Command::Bear { worker } => self.bear(worker),
            Command::Relieve { worker } => {
                let limit = self.plan.scheduler.tasks_per_worker;
                assert_eq!(Some(self.worker(worker).given), limit, "{command:?}");
            }
            Command::Excuse { worker } => {
                let book = self.worker(worker);
                assert!(book.used_up && book.held.is_empty(), "{command:?}");
            }
            Command::Dismiss { worker } => self.dismiss(worker),
            Command::Kill { worker } => self.kill(worker),
            Command::Break => {
                assert!(!self.broken && !self.closed && !self.terminated);
                self.broken = true;
                self.seen.note("broken");
            }
            Command::Rest => {
                assert!((self.closed || self.terminated) && self.workers.is_empty(), "rest too early");
                assert!(!std::mem::replace(&mut self.resting, true), "rest twice");
            }
        }
    }

    fn dispatch(&mut self, worker: WorkerId, chunk: ChunkId, skip: u32, items: u32) {
        let busy = !self.workers[&worker].held.is_empty();
        if busy {
            self.seen.note("one piece in advance");
            assert!(
                !self.plan.audit || self.idle().next().is_none(),
                "sent to a busy worker, though one is idle"
            );
        }
        assert!(!self.plan.audit || !self.stands_by(worker), "two at work in one seat");
        let slots = self.processes;
        let limit = self.plan.scheduler.tasks_per_worker;
        let book = self.worker(worker);
        assert!(book.ready && !book.dismissed && !book.interrupted && !book.killed && !book.refused);
        assert!(worker.slot < slots, "sent to a worker that is leaving");
        assert!(book.held.len() < 2, "a third piece");
        book.given += u64::from(items);
        assert!(limit.is_none_or(|limit| book.given <= limit), "more calls than tasks_per_worker");
        book.pieces += 1;
        let (number, state) = (book.pieces, &self.chunks[&chunk]);
        let edition = state.edition;
        let piece = Piece { chunk, skip, items, done: 0, edition, number };
        self.workers.get_mut(&worker).expect("a worker").held.push_back(piece);
        assert!(skip + items <= state.items && items > 0);
        assert!(!state.reclaiming, "sent though it waits to be encoded again");
        let used = &state.used[skip as usize..][..items as usize];
        let is_used = used.contains(&Some(edition));
        assert!(!is_used || state.holding == Holding::Lent, "sent though its bytes are used up");
        if is_used {
            self.seen.note("went again from lent bytes");
        }
        if items < state.items {
            self.seen.note("cut");
        }
        let first = (state.first + u64::from(skip)) as usize;
        let job = self.jobs.get_mut(&state.job).expect("its job");
        assert!(!job.cancelled && !job.finished);
        for item in &mut job.items[first..first + items as usize] {
            assert_eq!(*item, Item::Ready, "sent twice");
            *item = Item::Held;
        }
    }

    fn retire(&mut self, chunk: ChunkId) {
        let book = self.chunks.remove(&chunk).expect("a chunk in flight, retired once");
        self.in_flight -= book.bytes;
        let job = &self.jobs[&book.job];
        let items = &job.items[book.first as usize..][..book.items as usize];
        if self.terminated {
            for worker in self.workers.values_mut() {
                worker.held.retain(|piece| piece.chunk != chunk);
            }
        } else if job.cancelled {
            assert!(items.iter().all(|&item| item != Item::Held), "retired under a worker");
        } else {
            assert!(
                items.iter().all(|item| matches!(item, Item::Answered | Item::Lost)),
                "retired too early"
            );
        }
    }

    fn lose(&mut self, job: JobId, item: u64, worker: WorkerId) {
        let (dead, at, piece, ours) = self.death.expect("a death to lose it to");
        assert!(dead == worker && !ours, "lost to a worker that we had killed");
        let piece = piece.expect("a piece it was at");
        let chunk = self.chunks[&piece.chunk].first;
        let rest = chunk + u64::from(piece.skip + piece.done)..chunk + u64::from(piece.skip + piece.items);
        let alone = rest.end - rest.start == 1;
        let named = match at {
            Whereabouts::Calling(item) | Whereabouts::Overdue(item) | Whereabouts::Oversized(item) => {
                Some(item)
            }
            _ => None,
        };
        assert!(rest.contains(&item) && (named == Some(item) || alone), "lost though it was not at it");
        let book = self.jobs.get_mut(&job).expect("its job");
        assert_eq!(book.items[item as usize], Item::Ready, "lost twice");
        book.items[item as usize] = Item::Lost;
        book.over += 1;
        self.lost_now += 1;
        assert_eq!(self.lost_now, 1, "one death costs one item");
        self.seen.note("lost");
    }

    /// Nobody is to blame, but it had begun, and its bytes cannot be had again.
    fn lose_used(&mut self, job: JobId, item: u64) {
        let mut chunks = self.chunks.values();
        let within = |book: &&ChunkBook| {
            book.job == job && (book.first..book.first + u64::from(book.items)).contains(&item)
        };
        let book = chunks.find(within).expect("its chunk");
        assert_eq!((book.holding, book.kept), (Holding::Own, Kept::Not), "lost though it could be had again");
        let used = book.used[(item - book.first) as usize];
        assert_eq!(used, Some(book.edition), "lost though its bytes were as they had been");
        let book = self.jobs.get_mut(&job).expect("its job");
        assert_eq!(book.items[item as usize], Item::Ready, "lost twice");
        book.items[item as usize] = Item::Lost;
        book.over += 1;
        self.seen.note("lost for what cannot be had again");
    }

    fn finish(&mut self, job: JobId) {
        let book = self.jobs.get_mut(&job).expect("a job");
        assert!(!std::mem::replace(&mut book.finished, true), "finished twice");
        if self.terminated {
            return;
        }
        if book.cancelled {
            assert!(book.items.iter().all(|&item| item != Item::Held), "finished under a worker");
            return;
        }
        let items = &book.items[..book.submitted as usize];
        assert!(book.exhausted, "finished before its end");
        assert!(
            items.iter().all(|item| matches!(item, Item::Answered | Item::Lost)),
            "finished with items open"
        );
    }

    fn interrupt(&mut self, worker: WorkerId, number: u64) {
        let piece = *self.workers[&worker].held.front().expect("a worker at something");
        assert!(self.jobs[&self.chunks[&piece.chunk].job].cancelled, "interrupted at what is wanted");
        let book = self.worker(worker);
        assert!(!book.interrupted && book.passed < number && piece.number == number);
        book.interrupted = true;
        if book.held.len() == 2 {
            self.seen.note("interrupted with a piece to follow");
        }
        self.seen.note("interrupted");
    }

    fn bear(&mut self, worker: WorkerId) {
        assert!(self.wanted && !self.closed && !self.terminated && !self.broken);
        let last = self.generations.entry(worker.slot).or_insert(0);
        *last += 1;
        assert_eq!(worker.generation, *last);
        assert!(worker.slot < self.processes);
        self.workers.insert(worker, WorkerBook::default());
        if self.plan.audit {
            let mut staff =
                self.workers.iter().filter(|(_, book)| !book.dismissed && !book.killed && !book.refused);
            let births = staff.clone().filter(|(_, book)| !book.ready).count();
            assert!(births <= self.plan.supervisor.births_at_once as usize, "too many births");
            let mut slots = BTreeSet::new();
            assert!(staff.all(|(id, book)| book.used_up || slots.insert(id.slot)), "two in one seat");
        }
    }

    fn kill(&mut self, worker: WorkerId) {
        let terminated = self.terminated;
        let book = self.worker(worker);
        assert!(book.born && !book.killed, "killed twice or unborn");
        assert!(terminated || book.held.is_empty(), "killed at work");
        book.killed = true;
        self.seen.note(if terminated { "killed at the end" } else { "killed out of patience" });
    }

    fn idle(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.iter().filter_map(move |(&id, book)| {
            let free = book.held.is_empty() && self.may_work(id, book) && !self.stands_by(id);
            free.then_some(id)
        })
    }

    /// After every step.
    pub(crate) fn check(&mut self, in_flight: u64) {
        assert_eq!(in_flight, self.in_flight, "bytes in flight");
        self.rested = self.resting;
        if !self.plan.audit {
            return;
        }
        if self.idle().next().is_some() {
            let waits = |chunk: &&ChunkBook| {
                let items = &self.jobs[&chunk.job].items[chunk.first as usize..][..chunk.items as usize];
                !chunk.reclaiming && items.contains(&Item::Ready)
            };
            let live = |chunk: &&ChunkBook| !self.jobs[&chunk.job].cancelled;
            let waiting = self.chunks.values().filter(live).find(waits);
            assert!(waiting.is_none(), "a worker is idle while {waiting:?} waits");
        }
        let window = self.plan.scheduler.window_bytes;
        if self.plan.steady {
            let heavy = self.chunks.values().filter(|chunk| chunk.bytes > 0).count();
            let fits = self.in_flight <= window || heavy == 1;
            assert!(fits, "{} bytes in {} chunks in flight", self.in_flight, self.chunks.len());
        }
        if self.in_flight > window {
            self.seen.note("window exceeded");
        }
        if self.plan.steady && !self.unbounded {
            self.check_streams();
        }
    }

    fn check_streams(&self) {
        let config = &self.plan.scheduler;
        for (id, book) in
            self.jobs.iter().filter(|(_, book)| book.streamed && !book.finished && !book.cancelled)
        {
            let plan: &JobPlan = &self.plan.jobs[id.0 as usize];
            let weight = plan.bytes_out.of(plan.salt, 0);
            // Until the first answer, each worker may have a chunk; later, one chunk may exceed the limit.
            let chunk = match plan.chunking {
                forklift_core::event::Chunking::Fixed(items) => u64::from(items),
                forklift_core::event::Chunking::Automatic | forklift_core::event::Chunking::Numbered => 1,
            };
            let limit = config.stream_bytes + weight * chunk * u64::from(self.processes_most);
            assert!(book.unconsumed_bytes <= limit, "{} bytes wait for the consumer", book.unconsumed_bytes);
        }
    }

    /// The feed takes items from the iterable: never more than `buffersize` ahead of the consumer.
    pub(crate) fn pull(&self, job: JobId, pulled: u64) {
        let book = &self.jobs[&job];
        if let Some(limit) = book.buffer.filter(|_| !self.unbounded) {
            assert!(
                pulled - book.consumed <= limit,
                "{pulled} pulled, {} consumed of {limit}",
                book.consumed
            );
        }
    }

    pub(crate) fn finished(&self, job: JobId) -> bool {
        self.jobs.get(&job).is_some_and(|book| book.finished)
    }

    /// At the very end.
    pub(crate) fn close(&self) {
        assert!(self.rested, "never came to rest");
        assert!(self.chunks.is_empty(), "chunks left: {:?}", self.chunks);
        assert!(self.workers.is_empty());
        assert!(self.jobs.values().all(|book| book.finished));
    }
}
