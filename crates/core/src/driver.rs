//! The parent's loop: the one thread that acts.
//!
//! ```text
//!   requests ─┐                                             ┌─ grants, answers → handles
//!   messages ─┼─▶ Event ─▶ supervisor ─▶ scheduler ─▶ Command ─┼─ calls, releases → workers
//!   deaths   ─┤            (decide; no clock, no I/O)         └─ births, kills → processes
//!   deadlines ┘
//! ```
//!
//! Collect what happened, tell the machines, perform what they order, sleep until the next happening or the earliest
//! deadline. It owns workers, chunks and jobs; nothing of that is shared, so nothing is locked. It never holds the
//! interpreter's lock, never waits for a child, and does nothing whose time grows with the size of an item.

mod children;

use crate::config::{SchedulerConfig, SupervisorConfig};
use crate::crew::{Arenas, Worker};
use crate::error::{Result, system};
use crate::event::{Command, Event, JobSpec};
use crate::handle::{Answer, Death, Fault, Handle, Outcome};
use crate::id::{ChunkId, JobId, Time, WorkerId};
use crate::mailbox::{Counters, Mailbox, Member, Request, Status};
use crate::message::ToWorker;
use crate::payload::Payload;
use crate::process::{Birthplace, Origin};
use crate::scheduler::Scheduler;
use crate::supervisor::Supervisor;
use forklift_shm::Scoreboard;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Lines of a pool's scoreboard: workers that may live at one time, those that are leaving included. A line that
/// is never used costs no memory.
const SCOREBOARD_LINES: u32 = 16 << 10;

/// A pool without jobs gives warm memory back to the system after this time.
const TRIM_AFTER: Duration = Duration::from_secs(10);

/// What an idle pool keeps warm for the next job.
const TRIM_KEEP_BYTES: u64 = 16 << 20;

/// Happenings taken from the kernel at a time.
const HAPPENINGS_MAX: usize = 256;

/// The bell's and the zygote's places in the list of what to watch; workers' follow (see [`Watch`]).
const BELL: u64 = 0;
const ZYGOTE: u64 = 1;

/// What became readable. A worker has two descriptors: its channel and its pidfd.
enum Watch {
    Bell,
    Zygote,
    Channel(u64),
    Pidfd(u64),
}

impl Watch {
    fn token(&self) -> epoll::EventData {
        epoll::EventData::new_u64(match self {
            Watch::Bell => BELL,
            Watch::Zygote => ZYGOTE,
            Watch::Channel(serial) => serial * 2,
            Watch::Pidfd(serial) => serial * 2 + 1,
        })
    }

    fn from_token(token: u64) -> Self {
        match token {
            BELL => Watch::Bell,
            ZYGOTE => Watch::Zygote,
            token if token % 2 == 0 => Watch::Channel(token / 2),
            token => Watch::Pidfd(token / 2),
        }
    }
}

/// A chunk whose items are not all answered.
struct Chunk {
    job: JobId,
    first: u64,
    payload: Payload,
}

/// A job that is not finished.
struct Job {
    handle: Arc<Handle>,
    function: Payload,
    cancelled: bool,
    /// Workers that have its function.
    known_by: HashSet<WorkerId>,
}

/// What a pool's thread is started with.
pub(crate) struct Charter {
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) supervisor: SupervisorConfig,
    pub(crate) origin: Origin,
    pub(crate) initializer: Option<Payload>,
    pub(crate) arenas: Arenas,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) bell: Arc<OwnedFd>,
    pub(crate) status: Arc<Status>,
}

/// The parent's loop.
pub(crate) struct Driver {
    epoll: OwnedFd,
    mailbox: Arc<Mailbox>,
    bell: Arc<OwnedFd>,
    status: Arc<Status>,
    scheduler: Scheduler,
    supervisor: Supervisor,
    birthplace: Birthplace,
    zygote_watched: bool,
    arenas: Arenas,
    initializer: Option<Payload>,
    scoreboard: Scoreboard,
    free_lines: Vec<u32>,
    lines_used: u32,
    workers: HashMap<WorkerId, Worker>,
    by_serial: HashMap<u64, WorkerId>,
    serials: u64,
    jobs: HashMap<JobId, Job>,
    chunks: HashMap<ChunkId, Chunk>,
    /// Workers of which a first sign of death was seen, and when they must have been buried.
    dying: Vec<(Time, WorkerId)>,
    /// Events that performing commands brought about.
    events: VecDeque<Event>,
    fault: Option<Fault>,
    /// What the last worker said that could not start, and what the system said when one could not be born: the
    /// reason to give if the supervisor gives up.
    refusal: Option<Fault>,
    birth_trouble: Option<String>,
    last_death: Option<Death>,
    closing: bool,
    closed: bool,
    resting: bool,
    idle_since: Option<Time>,
    counters: Counters,
}

/// The monotonic clock.
pub(crate) fn now() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Time(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}

impl Driver {
    pub(crate) fn new(charter: Charter) -> Result<Self> {
        let Charter { scheduler, supervisor, origin, initializer, arenas, mailbox, bell, status } = charter;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("make an epoll"))?;
        epoll::add(&epoll, &bell, Watch::Bell.token(), epoll::EventFlags::IN)
            .map_err(system("watch an eventfd"))?;
        let mut driver = Self {
            epoll,
            mailbox,
            bell,
            status,
            scheduler: Scheduler::new(scheduler),
            supervisor: Supervisor::new(supervisor),
            birthplace: Birthplace::open(origin)?,
            zygote_watched: false,
            arenas,
            initializer,
            scoreboard: Scoreboard::create(SCOREBOARD_LINES)?,
            free_lines: Vec::new(),
            lines_used: 0,
            workers: HashMap::new(),
            by_serial: HashMap::new(),
            // The first serials' places are the bell's and the zygote's.
            serials: 1,
            jobs: HashMap::new(),
            chunks: HashMap::new(),
            dying: Vec::new(),
            events: VecDeque::new(),
            fault: None,
            refusal: None,
            birth_trouble: None,
            last_death: None,
            closing: false,
            closed: false,
            resting: false,
            idle_since: None,
            counters: Counters::default(),
        };
        driver.watch_zygote()?;
        Ok(driver)
    }

    /// Runs until the pool is over. An error of the system in the loop itself (never seen; it would take a kernel
    /// out of memory) breaks the pool rather than the process.
    pub(crate) fn run(mut self) {
        while !self.resting {
            if let Err(error) = self.turn() {
                self.fail(Fault::Births(error.to_string().into()));
                break;
            }
        }
        let fault = self.fault.clone().unwrap_or(Fault::Terminated);
        for (_, job) in self.jobs.drain() {
            job.handle.finish(Some(fault.clone()));
        }
        for worker in self.workers.values_mut() {
            worker.kill();
        }
        self.workers.clear();
        let (status, mailbox, arenas) =
            (Arc::clone(&self.status), Arc::clone(&self.mailbox), self.arenas.clone());
        // The birthplace ends its zygote before anyone is told that the pool is over.
        drop(self);
        arenas.inbound.trim(0);
        arenas.broadcast.trim(0);
        status.end();
        for request in mailbox.shut() {
            refuse(request, &fault);
        }
    }

    fn turn(&mut self) -> Result<()> {
        let mut happened = Vec::with_capacity(HAPPENINGS_MAX);
        let patience = self.deadline().map(|deadline| crate::channel::timespec(deadline.since(now())));
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut happened), patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(system("wait for workers")(errno)),
        }
        for happening in happened {
            match Watch::from_token(happening.data.u64()) {
                Watch::Bell => {
                    for request in self.mailbox.empty(&self.bell) {
                        self.grant_request(request);
                    }
                }
                Watch::Zygote => self.hear_zygote()?,
                Watch::Channel(serial) => self.hear_worker(serial),
                Watch::Pidfd(serial) => self.see_death(serial),
            }
            self.settle();
        }
        self.watch_time();
        self.settle();
        Ok(())
    }

    fn deadline(&self) -> Option<Time> {
        let machines = self.scheduler.deadline().into_iter().chain(self.supervisor.deadline());
        let deaths = self.dying.iter().map(|(by, _)| *by).min();
        let trim = self.idle_since.map(|since| since.after(TRIM_AFTER));
        machines.chain(deaths).chain(trim).min()
    }

    /// What is due because time has passed.
    fn watch_time(&mut self) {
        let now = now();
        self.bury_overdue(now);
        let due = |deadline: Option<Time>| deadline.is_some_and(|deadline| deadline <= now);
        if due(self.scheduler.deadline()) || due(self.supervisor.deadline()) {
            self.events.push_back(Event::Tick);
        }
        match self.idle_since {
            _ if !self.jobs.is_empty() => self.idle_since = None,
            Some(since) if due(Some(since.after(TRIM_AFTER))) => {
                self.arenas.inbound.trim(TRIM_KEEP_BYTES);
                self.arenas.broadcast.trim(0);
                self.idle_since = None;
            }
            _ => {}
        }
    }

    /// Tells the machines what happened, and does what they say, until there is nothing left to tell.
    fn settle(&mut self) {
        let mut commands = Vec::new();
        while let Some(event) = self.events.pop_front() {
            let now = now();
            self.supervisor.step(now, &event, &mut commands);
            self.scheduler.step(now, &event, &mut commands);
            for command in commands.drain(..) {
                self.perform(command);
            }
        }
        if self.closing && !self.closed && self.jobs.is_empty() {
            self.closed = true;
            self.events.push_back(Event::Closed);
            self.settle();
        }
    }

    fn grant_request(&mut self, request: Request) {
        match request {
            Request::Open { handle, spec, function } => self.open(handle, spec, function),
            Request::Submit { job, chunk, first, items, payload } => {
                self.counters.chunks += 1;
                self.count_payload(&payload);
                let bytes = payload.bytes();
                self.chunks.insert(chunk, Chunk { job, first, payload });
                self.events.push_back(Event::Submitted { job, chunk, first, items, bytes });
            }
            Request::Restore { chunk, payload } => {
                self.count_payload(&payload);
                let bytes = payload.bytes();
                if let Some(known) = self.chunks.get_mut(&chunk) {
                    known.payload = payload;
                }
                self.events.push_back(Event::Restored { chunk, bytes });
            }
            Request::Exhaust { job, items } => self.events.push_back(Event::Exhausted { job, items }),
            Request::Cancel { job } => {
                if let Some(known) = self.jobs.get_mut(&job) {
                    known.cancelled = true;
                }
                self.events.push_back(Event::Cancelled { job });
            }
            Request::Consume { job, items, bytes } => {
                self.events.push_back(Event::Consumed { job, items, bytes });
            }
            Request::Release { worker, span } => self.return_block(worker, span),
            Request::Resize { processes } => self.events.push_back(Event::Resized { processes }),
            Request::Want => self.events.push_back(Event::Wanted),
            Request::Import { modules } => self.birthplace.import(&modules),
            Request::Forked { worker, outcome } => self.forked(worker, outcome),
            Request::Staff { reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.staff());
            }
            Request::Count { reply } => {
                let fresh_bytes =
                    self.arenas.inbound.usage().fresh_bytes + self.arenas.broadcast.usage().fresh_bytes;
                let messages_sent = self.counters.messages_sent
                    + self.workers.values().map(|worker| worker.messages).sum::<u64>();
                let _ = reply.send(Counters { fresh_bytes, messages_sent, ..self.counters });
            }
            Request::Close => self.closing = true,
            Request::Unbound => self.events.push_back(Event::Unbounded),
            Request::Terminate => {
                self.fail(Fault::Terminated);
                self.events.push_back(Event::Terminated);
            }
        }
    }

    fn open(&mut self, handle: Arc<Handle>, spec: JobSpec, function: Payload) {
        if let Some(fault) = &self.fault {
            handle.finish(Some(fault.clone()));
            return;
        }
        let job = handle.id();
        self.count_payload(&function);
        self.jobs.insert(job, Job { handle, function, cancelled: false, known_by: HashSet::new() });
        self.events.push_back(Event::Wanted);
        self.events.push_back(Event::Opened { job, spec });
    }

    fn count_payload(&mut self, payload: &Payload) {
        let copied: u64 = payload.blocks().map(|block| block.bytes()).sum();
        self.counters.bytes_copied_in += copied;
        self.counters.bytes_in_messages += payload.bytes() - copied;
    }

    /// Everything that waits gets this fault, and all that comes.
    fn fail(&mut self, fault: Fault) {
        let fault = self.fault.get_or_insert(fault).clone();
        self.status.break_with(&fault);
        for job in self.jobs.values() {
            job.handle.finish(Some(fault.clone()));
        }
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Grant { job, chunks, items } => {
                if let Some(job) = self.jobs.get(&job) {
                    job.handle.grant(chunks, items);
                }
            }
            Command::Dispatch { worker, chunk, skip, items } => self.dispatch(worker, chunk, skip, items),
            Command::Retire { chunk } => {
                self.chunks.remove(&chunk);
            }
            Command::Reclaim { chunk } => self.reclaim(chunk),
            Command::Lose { job, item, worker } => self.lose(job, item, worker),
            Command::Finish { job } => self.finish(job),
            Command::Interrupt { worker } | Command::Kill { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.kill();
                }
            }
            Command::Bear { worker } => self.bear(worker),
            Command::Dismiss { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.state = "leaving";
                }
                self.tell(worker, &ToWorker::Stop);
            }
            Command::Break => {
                let trouble =
                    self.birth_trouble.take().unwrap_or_else(|| "they ended before they were ready".into());
                let fault = self.refusal.take().unwrap_or_else(|| Fault::Births(trouble.into()));
                self.fail(fault);
                self.events.push_back(Event::Terminated);
            }
            Command::Rest => self.resting = true,
        }
    }

    /// A worker may have written to the memory of this chunk. A payload without out-of-band buffers is none the worse
    /// for it, since objects are built out of it; others are encoded again by whoever holds the items.
    fn reclaim(&mut self, chunk: ChunkId) {
        let Some(known) = self.chunks.get(&chunk) else { return };
        if known.payload.mutable()
            && let Some(job) = self.jobs.get(&known.job)
        {
            job.handle.restore(chunk);
        } else {
            self.events.push_back(Event::Restored { chunk, bytes: known.payload.bytes() });
        }
    }

    fn lose(&mut self, job: JobId, item: u64, worker: WorkerId) {
        let Some(job) = self.jobs.get(&job) else { return };
        let unknown = Death { worker, pid: None, status: None };
        let death = self.last_death.filter(|death| death.worker == worker).unwrap_or(unknown);
        job.handle.answer(Answer {
            first: item,
            items: 1,
            failed: 1,
            outcome: Outcome::Lost(death),
            bytes: 0,
            spent: crate::event::Spent::default(),
        });
    }

    fn finish(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else { return };
        job.handle.finish(job.cancelled.then_some(Fault::Cancelled));
        for worker in job.known_by {
            if let Some(worker) = self.workers.get_mut(&worker) {
                worker.knows.remove(&id);
            }
            self.tell(worker, &ToWorker::Forget { job: id });
        }
        if self.jobs.is_empty() {
            self.idle_since = Some(now());
        }
    }

    fn staff(&self) -> Vec<Member> {
        let mut staff: Vec<Member> = self
            .workers
            .values()
            .map(|worker| Member {
                worker: worker.id,
                pid: worker.process.as_ref().map(|process| process.pid()),
                state: if worker.state == "idle" && !worker.pieces.is_empty() {
                    "busy"
                } else {
                    worker.state
                },
                calls: worker.calls,
                held_bytes: worker.loans.bytes(),
            })
            .collect();
        staff.sort_by_key(|member| (member.worker.slot, member.worker.generation));
        staff
    }
}

/// Answers what comes after the end.
fn refuse(request: Request, fault: &Fault) {
    if let Request::Open { handle, .. } = request {
        handle.finish(Some(fault.clone()));
    }
}
