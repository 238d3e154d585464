//! The world around the machines: a driver, feeds, consumers, processes, and time that jumps.

use crate::audit::{Audit, Item, Seen};
use crate::contents::{Contents, Mend};
use crate::plan::{MICRO, MILLI, Plan, Rng, SECOND};
use crate::process::{Errand, Process, Step};
use forklift_core::event::{Command, Delivery, Event, JobSpec, Kept, Wear};
use forklift_core::id::{ChunkId, JobId, Time, WorkerId};
use forklift_core::pressure::admitted;
use forklift_core::scheduler::Scheduler;
use forklift_core::supervisor::Supervisor;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Tell(Event),
    /// The feed has encoded what it pulled.
    Formed(JobId),
    Consume(JobId),
    Arrive(WorkerId, Letter),
    Step(WorkerId, u64, Step),
}

/// What is sent to a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Letter {
    Errand(Errand),
    Stop,
    Kill,
}

/// The caller's side of a job.
#[derive(Debug, Default)]
struct Feed {
    credit: u32,
    size: u32,
    pulled: u64,
    forming: Option<u32>,
    ended: bool,
    blocked: bool,
    consuming: bool,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    sequence: u64,
    agenda: BTreeMap<(u64, u64), Happening>,
    scheduler: Scheduler,
    supervisor: Supervisor,
    pub(crate) audit: Audit,
    feeds: BTreeMap<JobId, Feed>,
    pub(crate) processes: BTreeMap<WorkerId, Process>,
    pub(crate) contents: Contents,
    /// Chunks that were encoded again, item by item, or never will be.
    divided: BTreeSet<ChunkId>,
    /// Calls that each job had answered when the first of them was finished, in nanoseconds.
    pub(crate) shares: Vec<u64>,
    /// When each job was opened, and when it was finished.
    pub(crate) spans: BTreeMap<JobId, (u64, u64)>,
    /// Time that the scheduler's steps took, if it is measured.
    pub(crate) clock: Option<Duration>,
    unopened: usize,
    told: VecDeque<Event>,
    chunks: u64,
    pub(crate) steps: u64,
    traced: bool,
}

impl World {
    pub(crate) fn new(plan: Plan, rng: Rng, without: Option<Mend>) -> World {
        let mut world = World {
            rng,
            now: 0,
            sequence: 0,
            agenda: BTreeMap::new(),
            scheduler: Scheduler::new(plan.scheduler.clone()),
            supervisor: Supervisor::new(plan.supervisor.clone()),
            audit: Audit::new(plan.clone()),
            feeds: BTreeMap::new(),
            processes: BTreeMap::new(),
            contents: Contents::without(without),
            divided: BTreeSet::new(),
            shares: Vec::new(),
            spans: BTreeMap::new(),
            clock: None,
            unopened: plan.jobs.len(),
            told: VecDeque::new(),
            chunks: 0,
            steps: 0,
            traced: std::env::var_os("TRACE").is_some(),
            plan,
        };
        world.set_out();
        world
    }

    fn set_out(&mut self) {
        let plan = self.plan.clone();
        for (index, job) in plan.jobs.iter().enumerate() {
            let id = JobId(index as u64);
            let spec = JobSpec {
                // Some have little to do with what others with that function were.
                function: (index % 4 > 0).then_some((index % 2) as u64),
                items: job.known.then_some(job.items),
                chunking: job.chunking,
                delivery: job.delivery,
                retries: (index % 3) as u32,
                task_timeout: job.task_timeout.map(Duration::from_nanos),
            };
            self.at(job.opens, Happening::Tell(Event::Wanted));
            self.at(job.opens, Happening::Tell(Event::Opened { job: id, spec }));
            if let Some(at) = job.cancelled {
                self.at(job.opens + at, Happening::Tell(Event::Cancelled { job: id }));
            }
        }
        for &(at, processes) in &plan.resizes {
            self.at(at, Happening::Tell(Event::Resized { processes }));
        }
        for &(at, halvings) in &plan.pressures {
            let window_bytes = admitted(plan.scheduler.window_bytes, halvings);
            let stream_bytes = admitted(plan.scheduler.stream_bytes, halvings);
            self.at(at, Happening::Tell(Event::Admitted { window_bytes, stream_bytes }));
            let lasts = Duration::from_millis(10) * halvings;
            self.at(at, Happening::Tell(Event::Forking { lasts }));
        }
        if let Some(at) = plan.unbounded {
            self.at(at, Happening::Tell(Event::Unbounded));
        }
        if let Some(at) = plan.terminated {
            self.at(at, Happening::Tell(Event::Terminated));
        }
    }

    pub(crate) fn at(&mut self, time: u64, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((time.max(self.now), self.sequence), happening);
    }

    /// Runs until nothing will ever happen again. Returns what was seen.
    pub(crate) fn run(&mut self) -> Seen {
        while !self.audit.rested {
            let deadlines = [self.scheduler.deadline(), self.supervisor.deadline()];
            let deadline = deadlines.into_iter().flatten().min().map(|time| time.0);
            let next = self.agenda.first_key_value().map(|(&(time, _), _)| time);
            match (deadline, next) {
                (Some(deadline), next) if next.is_none_or(|next| deadline <= next) => {
                    assert!(deadline > self.now || self.steps == 0, "a deadline that has passed stays");
                    self.now = deadline.max(self.now);
                    self.tell(Event::Tick);
                }
                (_, Some(_)) => {
                    let Some(((time, _), happening)) = self.agenda.pop_first() else {
                        return self.audit.seen.clone();
                    };
                    self.now = time;
                    self.happen(happening);
                }
                _ => panic!("nothing will ever happen again, and the pool is not at rest: {:#?}", self.feeds),
            }
            assert!(self.steps < 5_000_000 && self.now < 10_000_000 * SECOND, "it goes on for ever");
        }
        self.audit.close();
        assert_eq!(self.supervisor.deadline(), None);
        self.audit.seen.clone()
    }

    /// What a run took: virtual seconds, chunks, and the scheduler's work for each chunk.
    pub(crate) fn bill(&self) -> (f64, u64, f64) {
        let effort = self.scheduler.effort() as f64 / self.chunks as f64;
        (self.now as f64 / SECOND as f64, self.chunks, effort)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tell(event) => self.tell(event),
            Happening::Formed(job) => self.formed(job),
            Happening::Consume(job) => self.consume(job),
            Happening::Arrive(worker, letter) => self.arrive(worker, letter),
            Happening::Step(worker, epoch, step) => self.step(worker, epoch, step),
        }
    }

    /// The driver: shows the event to both machines and does what they say.
    fn tell(&mut self, event: Event) {
        self.told.push_back(event);
        while let Some(event) = self.told.pop_front() {
            if self.is_moot(&event) {
                continue;
            }
            self.steps += 1;
            let mut commands = Vec::new();
            let answered = self.answered(&event);
            match event {
                Event::Restored { chunk, .. } => self.reclaimed(chunk, true),
                Event::Forfeited { chunk } => self.reclaimed(chunk, false),
                _ => {}
            }
            self.audit.event(&event);
            self.supervisor.step(Time(self.now), &event, &mut commands);
            let begun = self.clock.map(|_| Instant::now());
            self.scheduler.step(Time(self.now), &event, &mut commands);
            if let (Some(clock), Some(begun)) = (&mut self.clock, begun) {
                *clock += begun.elapsed();
            }
            for command in commands {
                self.audit.command(&command);
                self.perform(command);
            }
            if self.traced {
                eprintln!("{:>12} {event:?}", self.now);
            }
            self.audit.check(self.scheduler.in_flight_bytes());
            self.react(&event);
            if let Some(job) = answered {
                self.poke(job);
            }
            let open = self.unopened > 0 || self.audit.jobs.values().any(|book| !book.finished);
            if !open && !self.audit.closed && !self.audit.terminated && self.told.is_empty() {
                self.told.push_back(Event::Closed);
            }
        }
    }

    /// The job of which this answers something.
    fn answered(&self, event: &Event) -> Option<JobId> {
        match event {
            Event::Returned { chunk, .. } => self.audit.chunks.get(chunk).map(|book| book.job),
            _ => None,
        }
    }

    /// What a façade would not report.
    fn is_moot(&self, event: &Event) -> bool {
        let ended = self.audit.closed || self.audit.terminated;
        match event {
            Event::Opened { .. }
            | Event::Wanted
            | Event::Resized { .. }
            | Event::Terminated
            | Event::Unbounded => ended,
            Event::Cancelled { job } => !self.audit.jobs.contains_key(job),
            _ => self.audit.rested,
        }
    }

    /// What the outside does once the event is known.
    fn react(&mut self, event: &Event) {
        match *event {
            Event::Opened { job, .. } => {
                self.unopened -= 1;
                self.spans.insert(job, (self.now, 0));
                self.feeds.entry(job).or_default();
                if self.plan.jobs[job.0 as usize].items == 0 && self.plan.jobs[job.0 as usize].known {
                    self.exhaust(job);
                }
            }
            Event::Exited { .. } | Event::Forfeited { .. } | Event::Unbounded => {
                let open: Vec<JobId> = self.feeds.keys().copied().collect();
                open.into_iter().for_each(|job| self.poke(job));
            }
            _ => {}
        }
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Grant { job, chunks, items } => {
                let feed = self.feeds.entry(job).or_default();
                feed.credit += chunks;
                feed.size = items;
                self.feed(job);
            }
            Command::Dispatch { worker, chunk, skip, items, patience } => {
                let book = &self.audit.chunks[&chunk];
                let (job, next) = (book.job, book.first + u64::from(skip));
                let may_come_back = self.plan.jobs[job.0 as usize].kept == Kept::OneByOne;
                let together = may_come_back && book.items > 1 && !self.divided.contains(&chunk);
                let edition = self.contents.edition(chunk);
                let Some(process) = self.processes.get_mut(&worker) else { return };
                process.given += 1;
                let (number, left, until) = (process.given, items, None);
                let errand = Errand { job, chunk, number, edition, next, left, together, patience, until };
                self.send(worker, Letter::Errand(errand));
            }
            Command::Reclaim { chunk } => self.reclaim(chunk),
            Command::Retire { chunk } => self.contents.retire(chunk),
            Command::Finish { job } => self.finish(job),
            Command::Interrupt { worker, piece } => self.interrupt(worker, piece),
            Command::Kill { worker } => self.send(worker, Letter::Kill),
            Command::Relieve { worker } => self.told.push_back(Event::UsedUp { worker, by: Wear::Calls }),
            Command::Excuse { worker } => self.told.push_back(Event::Excused { worker }),
            Command::Bear { worker } => self.bear(worker),
            Command::Dismiss { worker } => self.send(worker, Letter::Stop),
            Command::Break => self.told.push_back(Event::Terminated),
            Command::Lose { .. } | Command::Rest => {}
        }
    }

    /// The feed encodes the chunk again, or finds that its items have changed.
    fn reclaim(&mut self, chunk: ChunkId) {
        let book = &self.audit.chunks[&chunk];
        let forfeits = self.plan.jobs[book.job.0 as usize].forfeits;
        let bytes = book.bytes + if self.plan.steady { 0 } else { self.rng.below(10) };
        let told = if self.rng.chance(forfeits) {
            Event::Forfeited { chunk }
        } else {
            Event::Restored { chunk, bytes }
        };
        if self.rng.chance(0.3) {
            self.told.push_back(told);
        } else {
            let at = self.now + self.rng.below(20 * MILLI);
            self.at(at, Happening::Tell(told));
        }
    }

    /// It has come back from its feed.
    fn reclaimed(&mut self, chunk: ChunkId, again: bool) {
        self.divided.insert(chunk);
        if again && let Some(book) = self.audit.chunks.get(&chunk) {
            self.contents.encode(chunk, book.job, book.first, book.items);
        }
    }

    /// The gate: a worker that has not gone on begins nothing more.
    fn interrupt(&mut self, worker: WorkerId, piece: u64) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        if process.turn > piece && !self.contents.lacks(Mend::Gate) {
            self.audit.seen.note("gone on before it was stopped");
            self.told.push_back(Event::Passed { worker, piece });
        } else {
            process.shut.get_or_insert(piece);
            self.send(worker, Letter::Kill);
        }
    }

    fn finish(&mut self, job: JobId) {
        if self.shares.is_empty() {
            let plans = self.plan.jobs.iter().zip(self.audit.jobs.values());
            self.shares = plans.map(|(plan, book)| plan.cost.sum(plan.salt, 0, book.over)).collect();
        }
        self.spans.entry(job).or_default().1 = self.now;
        self.feeds.entry(job).or_default().ended = true;
        let waiting = |index: &usize| self.plan.jobs[*index].waits_for == Some(job.0 as usize);
        let waiting: Vec<usize> = (0..self.plan.jobs.len()).filter(waiting).collect();
        for index in waiting {
            self.feed(JobId(index as u64));
        }
    }

    /// The feed pulls what it may, if it may.
    fn feed(&mut self, job: JobId) {
        let plan = &self.plan.jobs[job.0 as usize];
        let Some(feed) = self.feeds.get_mut(&job) else { return };
        let book = self.audit.jobs.get(&job);
        if feed.ended || feed.forming.is_some() || feed.credit == 0 || book.is_none_or(|book| book.cancelled)
        {
            return;
        }
        if feed.pulled == plan.items {
            self.exhaust(job);
            return;
        }
        let first = plan.waits_for.map(|other| JobId(other as u64));
        feed.blocked =
            feed.pulled >= plan.items / 2 && first.is_some_and(|other| !self.audit.finished(other));
        if feed.blocked {
            self.audit.seen.note("feed blocked");
            return;
        }
        let items = u64::from(feed.size).min(plan.items - feed.pulled);
        feed.pulled += items;
        feed.credit -= 1;
        feed.forming = Some(items as u32);
        self.audit.pull(job, feed.pulled);
        let pause =
            if self.rng.chance(plan.stalls) { self.rng.below(SECOND) } else { self.rng.below(50 * MICRO) };
        let encoding = if self.plan.audit { self.rng.below(200) * items } else { 0 };
        let at = self.now + pause + encoding;
        self.at(at, Happening::Formed(job));
    }

    fn formed(&mut self, job: JobId) {
        let plan = &self.plan.jobs[job.0 as usize];
        let Some(feed) = self.feeds.get_mut(&job) else { return };
        let Some(items) = feed.forming.take() else { return };
        let first = feed.pulled - u64::from(items);
        let end = plan.known && feed.pulled == plan.items && !feed.ended;
        let bytes = plan.bytes_in.sum(plan.salt, first, u64::from(items));
        let chunk = ChunkId(self.chunks);
        self.chunks += 1;
        if feed.ended {
            self.audit.seen.note("submitted too late");
        }
        let (holding, kept) = (plan.holding, plan.kept);
        if self.plan.audit {
            self.contents.encode(chunk, job, first, items);
        }
        self.tell(Event::Submitted { job, chunk, first, items, bytes, holding, kept });
        if end {
            self.exhaust(job);
        }
        self.feed(job);
    }

    fn exhaust(&mut self, job: JobId) {
        let Some(feed) = self.feeds.get_mut(&job) else { return };
        if !std::mem::replace(&mut feed.ended, true) {
            let at = self.now + self.rng.pick(&[0, 0, MILLI]);
            let items = feed.pulled;
            self.at(at, Happening::Tell(Event::Exhausted { job, items }));
        }
    }

    /// The consumer of a stream may have something to take.
    fn poke(&mut self, job: JobId) {
        let plan = &self.plan.jobs[job.0 as usize];
        let Delivery::Streamed(_) = plan.delivery else { return };
        let (Some((_, pause)), Some(feed)) = (plan.consumer, self.feeds.get_mut(&job)) else { return };
        if !std::mem::replace(&mut feed.consuming, true) {
            let at = self.now + self.rng.below(pause + MICRO);
            self.at(at, Happening::Consume(job));
        }
    }

    fn consume(&mut self, job: JobId) {
        let plan = &self.plan.jobs[job.0 as usize];
        let (Some((most, _)), Some(feed)) = (plan.consumer, self.feeds.get_mut(&job)) else { return };
        feed.consuming = false;
        let book = &self.audit.jobs[&job];
        let waiting = book.items.iter().skip(book.consumed as usize).take(most as usize);
        let over: Vec<Item> =
            waiting.copied().take_while(|item| matches!(item, Item::Answered | Item::Lost)).collect();
        if over.is_empty() || book.finished {
            return;
        }
        let weights = (book.consumed..).zip(&over).map(|(index, item)| match item {
            Item::Answered => plan.bytes_out.of(plan.salt, index),
            _ => 0,
        });
        let bytes = weights.sum();
        self.tell(Event::Consumed { job, items: over.len() as u64, bytes });
        self.poke(job);
    }
}
