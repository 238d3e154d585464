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
mod chunks;
mod forks;
mod graves;
mod limits;
mod looks;
mod memory;
mod moving;
mod outlook;
mod recovery;
mod rest;
mod stops;

use crate::config::{SchedulerConfig, SpillConfig, SupervisorConfig};
use crate::crew::{Arenas, SharedValue, Stock, Worker};
use crate::error::{Result, system};
use crate::event::{Chunking, Command, Event, JobSpec, Wear};
use crate::handle::{Death, Fault, Handle};
use crate::id::{ChunkId, JobId, Time, WorkerId};
use crate::machine::{Machine, MemoryKills};
use crate::mailbox::{Counters, Mailbox, Request, Status};
use crate::message::ToWorker;
use crate::payload::Payload;
use crate::process::{Birthplace, Origin};
use crate::reserve::Reserve;
use crate::scheduler::Scheduler;
use crate::spill::Spiller;
use crate::supervisor::Supervisor;
use crate::telemetry::{Census, Flow, Recorder, clock};
use chunks::Chunk;
use forklift_shm::{Figures, Scoreboard, beside_streams};
use forks::Forks;
use outlook::Outlook;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Lines of a pool's scoreboard: workers that may live at one time, those that are leaving included. A line that
/// is never used costs no memory.
const SCOREBOARD_LINES: u32 = 16 << 10;

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

/// A job that is not finished.
struct Job {
    handle: Arc<Handle>,
    recorder: Arc<Recorder>,
    function: Payload,
    /// A consumer takes its results, and makes room for others by that.
    streamed: bool,
    /// All its items have been submitted.
    exhausted: bool,
    task_timeout: Option<Duration>,
    numbered: bool,
    /// Values that its items refer to, in the order in which workers are told of them.
    shares: Vec<SharedValue>,
    cancelled: bool,
    /// Workers that have its function.
    known_by: HashSet<WorkerId>,
}

/// What a pool's thread is started with.
pub(crate) struct Charter {
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) supervisor: SupervisorConfig,
    pub(crate) worker_memory_limit: Option<u64>,
    /// A pool without jobs gives warm memory back to the system after this time.
    pub(crate) trim_after: Duration,
    pub(crate) machine: Machine,
    pub(crate) spill: SpillConfig,
    pub(crate) origin: Origin,
    pub(crate) initializer: Option<Payload>,
    pub(crate) arenas: Arenas,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) bell: Arc<OwnedFd>,
    pub(crate) status: Arc<Status>,
    pub(crate) census: Arc<Census>,
}

/// The parent's loop.
pub(crate) struct Driver {
    epoll: OwnedFd,
    mailbox: Arc<Mailbox>,
    bell: Arc<OwnedFd>,
    status: Arc<Status>,
    census: Arc<Census>,
    scheduler: Scheduler,
    supervisor: Supervisor,
    birthplace: Birthplace,
    forks: Forks,
    zygote_watched: bool,
    arenas: Arenas,
    initializer: Option<Payload>,
    stock: Arc<Stock>,
    reserve: Arc<Reserve>,
    spiller: Spiller,
    unbound: bool,
    scoreboard: Scoreboard,
    free_lines: Vec<u32>,
    lines_used: u32,
    workers: HashMap<WorkerId, Worker>,
    /// Those that were given up and whose processes may live, by serial.
    graves: HashMap<u64, Worker>,
    by_serial: HashMap<u64, WorkerId>,
    serials: u64,
    jobs: HashMap<JobId, Job>,
    chunks: HashMap<ChunkId, Chunk>,
    /// Values for all jobs.
    shares: Vec<SharedValue>,
    /// When to look next at workers whose items have a time limit.
    watched: BTreeSet<(Time, WorkerId)>,
    worker_memory_limit: Option<u64>,
    trim_after: Duration,
    /// When to look next at the memory of workers, if any is busy and there is a limit.
    memory_look: Option<Time>,
    outlook: Outlook,
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
    /// The kernel's kills for want of memory when we last looked.
    memory_kills: MemoryKills,
    closing: bool,
    closed: bool,
    resting: bool,
    idle_since: Option<Time>,
    counters: Counters,
    /// What onlookers see; some of it is only counted here.
    figures: Figures,
}

/// The monotonic clock.
pub(crate) fn now() -> Time {
    clock()
}

impl Driver {
    pub(crate) fn new(charter: Charter) -> Result<Self> {
        let Charter {
            scheduler,
            supervisor,
            worker_memory_limit,
            trim_after,
            machine,
            spill,
            origin,
            initializer,
            arenas,
            mailbox,
            bell,
            status,
            census,
        } = charter;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("make an epoll"))?;
        let epoll = beside_streams(epoll);
        epoll::add(&epoll, &bell, Watch::Bell.token(), epoll::EventFlags::IN)
            .map_err(system("watch an eventfd"))?;
        let stock = Arc::new(Stock::default());
        let mut driver = Self {
            epoll,
            spiller: Spiller::new(spill, Arc::clone(&stock), Arc::clone(&mailbox)),
            stock,
            reserve: Arc::default(),
            unbound: false,
            mailbox,
            bell,
            status,
            census,
            outlook: Outlook::new(machine, &scheduler),
            scheduler: Scheduler::new(scheduler),
            supervisor: Supervisor::new(supervisor),
            birthplace: Birthplace::open(origin)?,
            forks: Forks::default(),
            zygote_watched: false,
            arenas,
            initializer,
            scoreboard: Scoreboard::create(SCOREBOARD_LINES)?,
            free_lines: Vec::new(),
            lines_used: 0,
            workers: HashMap::new(),
            graves: HashMap::new(),
            by_serial: HashMap::new(),
            // The first serials' places are the bell's and the zygote's.
            serials: 1,
            jobs: HashMap::new(),
            chunks: HashMap::new(),
            shares: Vec::new(),
            watched: BTreeSet::new(),
            worker_memory_limit,
            trim_after,
            memory_look: None,
            dying: Vec::new(),
            events: VecDeque::new(),
            fault: None,
            refusal: None,
            birth_trouble: None,
            last_death: None,
            memory_kills: MemoryKills::now(),
            closing: false,
            closed: false,
            resting: false,
            idle_since: None,
            counters: Counters::default(),
            figures: Figures::default(),
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
            job.recorder.finished();
            job.handle.finish(Some(fault.clone()));
        }
        for worker in self.workers.values_mut() {
            worker.kill();
        }
        self.spiller.stop();
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
        self.post_figures();
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
        self.fork_next();
        Ok(())
    }

    fn deadline(&self) -> Option<Time> {
        let machines = self.scheduler.deadline().into_iter().chain(self.supervisor.deadline());
        let deaths = self.dying.iter().map(|(by, _)| *by).min();
        let overdue = self.watched.first().map(|(at, _)| *at);
        machines
            .chain(deaths)
            .chain(self.next_rest())
            .chain(overdue)
            .chain(self.memory_look)
            .chain(self.next_fork())
            .chain(self.next_look())
            .chain(self.next_outlook())
            .min()
    }

    /// What is due because time has passed.
    fn watch_time(&mut self) {
        let now = now();
        self.bury_overdue(now);
        self.watch_items(now);
        self.watch_memory(now);
        if self.next_outlook().is_some() {
            self.look_around();
        }
        self.look_at_memory(now);
        let due = |deadline: Option<Time>| deadline.is_some_and(|deadline| deadline <= now);
        if due(self.scheduler.deadline()) || due(self.supervisor.deadline()) {
            self.events.push_back(Event::Tick);
        }
        self.rest(now);
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
            Request::Open { handle, spec, function, recorder } => self.open(handle, spec, function, recorder),
            Request::Submit(submission) => self.submit(submission),
            Request::Restore { chunk, payload } => self.restore(chunk, payload),
            Request::Forfeit { chunk } => self.forfeit(chunk),
            Request::Share { job, key, keep, value } => {
                self.count_payload(&value);
                let shares = match self.jobs.get_mut(&job) {
                    Some(job) => {
                        job.recorder.shared(value.total_bytes());
                        &mut job.shares
                    }
                    None if job == JobId(0) => &mut self.shares,
                    None => return,
                };
                shares.push(SharedValue { key, keep, value });
            }
            Request::Unshare { key } => self.unshare(key),
            Request::Exhaust { job, items } => {
                if let Some(known) = self.jobs.get_mut(&job) {
                    known.exhausted = true;
                }
                self.events.push_back(Event::Exhausted { job, items });
            }
            Request::Cancel { job } => {
                if let Some(known) = self.jobs.get_mut(&job) {
                    known.cancelled = true;
                }
                self.events.push_back(Event::Cancelled { job });
            }
            Request::Consume { job, items, bytes } => {
                self.events.push_back(Event::Consumed { job, items, bytes });
            }
            Request::Moved { answered, shortage } => self.moved(answered, shortage),
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
                let _ = reply.send(self.count());
            }
            Request::Close => self.closing = true,
            Request::Unbound => {
                self.unbound = true;
                self.events.push_back(Event::Unbounded);
            }
            Request::Terminate => {
                self.fail(Fault::Terminated);
                self.events.push_back(Event::Terminated);
            }
        }
    }

    /// A value that was shared with all jobs is dropped everywhere.
    fn unshare(&mut self, key: u64) {
        let Some(index) = self.shares.iter().position(|shared| shared.key == key) else { return };
        self.shares.remove(index);
        let mut told = Vec::new();
        for worker in self.workers.values_mut() {
            if worker.told.get(&JobId(0)).is_some_and(|told| *told > index) {
                worker.told.entry(JobId(0)).and_modify(|told| *told -= 1);
                told.push(worker.id);
            }
        }
        for worker in told {
            self.tell(worker, &ToWorker::Unshare { key });
        }
    }

    fn open(&mut self, handle: Arc<Handle>, spec: JobSpec, function: Payload, recorder: Arc<Recorder>) {
        recorder.opened(function.bytes());
        if self.jobs.is_empty() {
            self.census.forget_looks(now());
        }
        if let Some(fault) = &self.fault {
            recorder.finished();
            handle.finish(Some(fault.clone()));
            return;
        }
        let job = handle.id();
        // Before the job begins: it may be the one that would be too much.
        self.look_around();
        self.count_payload(&function);
        let opened = Job {
            handle,
            recorder,
            function,
            exhausted: false,
            streamed: spec.is_streamed(),
            task_timeout: spec.task_timeout,
            numbered: spec.chunking == Chunking::Numbered,
            shares: Vec::new(),
            cancelled: false,
            known_by: HashSet::new(),
        };
        self.jobs.insert(job, opened);
        self.events.push_back(Event::Wanted);
        self.events.push_back(Event::Opened { job, spec });
    }

    fn count_payload(&mut self, payload: &Payload) -> Flow {
        let flow = Flow {
            copied_bytes: payload.copied_bytes(),
            message_bytes: payload.message_bytes(),
            lent_bytes: payload.lent_bytes(),
            once_bytes: 0,
        };
        self.counters.bytes_copied_in += flow.copied_bytes;
        self.counters.bytes_in_messages += flow.message_bytes;
        self.counters.bytes_lent += flow.lent_bytes;
        flow
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Grant { job, chunks, items } => {
                if let Some(job) = self.jobs.get(&job) {
                    job.handle.grant(chunks, items);
                }
            }
            Command::Dispatch { worker, chunk, skip, items, patience } => {
                self.dispatch(worker, chunk, skip, items, patience);
            }
            Command::Retire { chunk } => {
                self.chunks.remove(&chunk);
            }
            Command::Reclaim { chunk } => self.reclaim(chunk),
            Command::Lose { job, item, worker, loss } => self.lose(job, item, worker, loss),
            Command::Finish { job } => self.finish(job),
            Command::Interrupt { worker, piece } => self.interrupt(worker, piece),
            Command::Kill { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.kill();
                }
            }
            Command::Relieve { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.wear = Some(Wear::Calls);
                }
                self.events.push_back(Event::UsedUp { worker, by: Wear::Calls });
            }
            Command::Excuse { worker } => self.events.push_back(Event::Excused { worker }),
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

    fn finish(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else { return };
        job.recorder.finished();
        job.handle.finish(job.cancelled.then_some(Fault::Cancelled));
        for worker in job.known_by {
            if let Some(worker) = self.workers.get_mut(&worker) {
                worker.knows.remove(&id);
                worker.told.remove(&id);
            }
            self.tell(worker, &ToWorker::Forget { job: id });
        }
        if self.jobs.is_empty() {
            self.idle_since = Some(now());
        }
    }
}

/// Answers what comes after the end.
fn refuse(request: Request, fault: &Fault) {
    if let Request::Open { handle, .. } = request {
        handle.finish(Some(fault.clone()));
    }
}
