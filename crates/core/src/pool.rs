//! The façade: what a binding holds of a pool. Any thread may call anything; the work is the driver's.

use crate::config::{SchedulerConfig, SpillConfig, SupervisorConfig, trim_after};
use crate::crew::Arenas;
use crate::driver::{Charter, Driver};
use crate::error::{Error, Result};
use crate::event::{JobSpec, Kept};
use crate::handle::{Fault, Handle};
use crate::id::{ChunkId, JobId, WorkerId};
use crate::load::Load;
use crate::machine::Machine;
use crate::mailbox::{Counters, Mailbox, Member, Request, Status, Submission};
use crate::payload::{BROADCAST_SEGMENTS, Payload};
use crate::process::Origin;
use crate::telemetry::{Census, Recorder, switched_on};
use forklift_shm::{Arena, ArenaLimits};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

/// How long the driver may take to answer a question about itself. It never waits for anything, so this is only
/// reached if it is gone.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// What a pool is made from.
pub struct Plan {
    /// How to schedule.
    pub scheduler: SchedulerConfig,
    /// How to staff.
    pub supervisor: SupervisorConfig,
    /// Bytes of its own that a worker may have after a call.
    pub worker_memory_limit: Option<u64>,
    /// Where it is told how much memory there is.
    pub machine: Machine,
    /// What results may hold of memory.
    pub spill: SpillConfig,
    /// Where workers come from.
    pub origin: Origin,
}

/// A pool of workers.
pub struct Pool {
    mailbox: Arc<Mailbox>,
    arenas: Arenas,
    status: Arc<Status>,
    census: Arc<Census>,
    load: Arc<Load>,
    recording: bool,
    jobs: AtomicU64,
    chunks: AtomicU64,
    creator: u32,
}

impl Pool {
    /// Starts the driver, and the zygote if there is to be one; no worker yet. `initializer` packs the pickled
    /// `(initializer, initargs)` into the given arena, if there are any.
    ///
    /// # Errors
    /// When descriptors, threads or processes cannot be had; [`Error::Variable`] for a setting in the environment that
    /// means nothing.
    pub fn start(plan: Plan, initializer: impl FnOnce(&Arena) -> Result<Option<Payload>>) -> Result<Self> {
        let broadcast = ArenaLimits { first_segment: BROADCAST_SEGMENTS, ..ArenaLimits::default() };
        let arenas = Arenas { inbound: Arena::new(ArenaLimits::default()), broadcast: Arena::new(broadcast) };
        let (mailbox, bell) = Mailbox::new()?;
        let mailbox = Arc::new(mailbox);
        let status = Arc::new(Status::default());
        let recording = switched_on();
        let census = Arc::new(Census::new(recording));
        let driver = Driver::new(Charter {
            scheduler: plan.scheduler,
            supervisor: plan.supervisor,
            worker_memory_limit: plan.worker_memory_limit,
            trim_after: trim_after()?,
            machine: plan.machine,
            spill: plan.spill,
            origin: plan.origin,
            initializer: initializer(&arenas.broadcast)?,
            arenas: arenas.clone(),
            mailbox: Arc::clone(&mailbox),
            bell,
            status: Arc::clone(&status),
            census: Arc::clone(&census),
        })?;
        let begun = Arc::new(Barrier::new(2));
        let begins = Arc::clone(&begun);
        std::thread::Builder::new()
            .name("forklift-driver".into())
            .spawn(move || {
                begins.wait();
                driver.run();
            })
            .map_err(|source| Error::Launch { program: "the driver thread".into(), source })?;
        // A thread takes its name when it begins: until then it would look like one that makes forks unsafe.
        begun.wait();
        Ok(Self {
            mailbox,
            arenas,
            status,
            census,
            load: Arc::default(),
            recording,
            jobs: AtomicU64::new(1),
            chunks: AtomicU64::new(1),
            creator: std::process::id(),
        })
    }

    /// Whether this process made the pool. In a fork of it there is no driver: nothing may be asked.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.creator == std::process::id()
    }

    /// Where items are packed.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arenas.inbound
    }

    /// What calls that are fed without credit hold: see [`Handle::weigh`].
    #[must_use]
    pub fn load(&self) -> &Arc<Load> {
        &self.load
    }

    /// Where functions and other values for all workers are packed.
    #[must_use]
    pub fn broadcast(&self) -> &Arena {
        &self.arenas.broadcast
    }

    /// The record of a call that begins now. One job or several may be [opened](Pool::open) on it.
    #[must_use]
    pub fn record(&self) -> Arc<Recorder> {
        Recorder::new(Arc::clone(&self.census), self.recording)
    }

    /// Begins a job. On a pool that is over the handle is finished at once, with the fault.
    #[must_use]
    pub fn open(
        &self,
        function: Payload,
        spec: JobSpec,
        announce: Option<Sender<JobId>>,
        recorder: Arc<Recorder>,
    ) -> Arc<Handle> {
        let id = JobId(self.jobs.fetch_add(1, Ordering::Relaxed));
        let handle = Arc::new(Handle::new(id, announce));
        self.mailbox.send(Request::Open { handle: Arc::clone(&handle), spec, function, recorder });
        if self.is_over() {
            // The driver may have gone before it saw the request; a second end is ignored.
            handle.finish(Some(self.fault().unwrap_or(Fault::Terminated)));
        }
        handle
    }

    /// Submits one granted chunk. `kept`: who could have its items again; whoever it is answers each
    /// [`crate::handle::Turn::Restore`] with [`Pool::restore`] or [`Pool::forfeit`].
    ///
    /// What `payload` holds of memory that workers write to belongs to one item each, and items share no object: whoever
    /// has one item must not find out what became of another.
    pub fn submit(&self, job: JobId, first: u64, items: u32, payload: Payload, kept: Kept) -> ChunkId {
        self.submit_rest(job, first, items, payload, 0, kept)
    }

    /// As [`Pool::submit`], for a payload that has `lead` items before those that are wanted.
    pub fn submit_rest(
        &self,
        job: JobId,
        first: u64,
        items: u32,
        payload: Payload,
        lead: u32,
        kept: Kept,
    ) -> ChunkId {
        let chunk = ChunkId(self.chunks.fetch_add(1, Ordering::Relaxed));
        let submission = Submission { job, chunk, first, items, payload, lead, kept };
        self.mailbox.send(Request::Submit(submission));
        chunk
    }

    /// Submits a chunk anew that a [`crate::handle::Turn::Restore`] asked for. Its items are what they were, byte for byte.
    pub fn restore(&self, chunk: ChunkId, payload: Payload) {
        self.mailbox.send(Request::Restore { chunk, payload });
    }

    /// The items of a chunk that a [`crate::handle::Turn::Restore`] asked for are not what they were when it was submitted.
    /// Those that had begun are lost.
    pub fn forfeit(&self, chunk: ChunkId) {
        self.mailbox.send(Request::Forfeit { chunk });
    }

    /// A value that items of the job refer to by its key; it crosses once to each worker that may need it. `keep`: one
    /// object serves all tasks of a worker, else each gets its own. Without a job: for all jobs, until
    /// [`Pool::unshare`].
    pub fn share(&self, job: Option<JobId>, key: u64, keep: bool, value: Payload) {
        self.mailbox.send(Request::Share { job: job.unwrap_or(JobId(0)), key, keep, value });
    }

    /// A value that was shared with all jobs is not needed any more.
    pub fn unshare(&self, key: u64) {
        self.mailbox.send(Request::Unshare { key });
    }

    /// The job has so many items in all.
    pub fn exhaust(&self, job: JobId, items: u64) {
        self.mailbox.send(Request::Exhaust { job, items });
    }

    /// Nothing more is wanted of the job: what waits is dropped, workers that run some of it are replaced.
    pub fn cancel(&self, job: JobId) {
        self.mailbox.send(Request::Cancel { job });
    }

    /// The consumer of a streamed job took results.
    pub fn consume(&self, job: JobId, items: u64, bytes: u64) {
        self.mailbox.send(Request::Consume { job, items, bytes });
    }

    /// Another number of seats.
    pub fn resize(&self, processes: u32) {
        self.mailbox.send(Request::Resize { processes });
    }

    /// Workers are wanted before the first job.
    pub fn want(&self) {
        self.mailbox.send(Request::Want);
    }

    /// Modules that the zygote should import before further births, as bytes that it understands.
    pub fn import(&self, modules: Vec<u8>) {
        self.mailbox.send(Request::Import { modules });
    }

    /// How a [`crate::process::ForkOrder`] went: the child's pid, or why there is none.
    pub fn forked(&self, worker: WorkerId, outcome: std::result::Result<u32, String>) {
        self.mailbox.send(Request::Forked { worker, outcome });
    }

    /// No more jobs come; workers leave when those that are open are done.
    pub fn close(&self) {
        self.mailbox.send(Request::Close);
    }

    /// Results of streamed jobs wait no longer for room: someone waits for the end of everything.
    pub fn unbound(&self) {
        self.mailbox.send(Request::Unbound);
    }

    /// Everything ends now.
    pub fn terminate(&self) {
        self.mailbox.send(Request::Terminate);
    }

    /// Whether the last worker is gone.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.status.is_over()
    }

    /// Why the pool can do nothing more, if that is so.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.status.fault()
    }

    /// Waits up to `patience` for the last worker to go; whether it has.
    #[must_use]
    pub fn join(&self, patience: Duration) -> bool {
        self.status.wait(patience)
    }

    /// The workers, by seat. Empty when the pool is over.
    #[must_use]
    pub fn staff(&self) -> Vec<Member> {
        let (reply, answer) = channel();
        self.mailbox.send(Request::Staff { reply });
        self.wait_for(&answer).unwrap_or_default()
    }

    /// What the pool has done so far. Zeros when it is over.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let (reply, answer) = channel();
        self.mailbox.send(Request::Count { reply });
        self.wait_for(&answer).unwrap_or_default()
    }

    fn wait_for<T>(&self, answer: &std::sync::mpsc::Receiver<T>) -> Option<T> {
        let none_comes = self.is_over() || !self.is_ours();
        if none_comes { answer.try_recv().ok() } else { answer.recv_timeout(ANSWER_PATIENCE).ok() }
    }
}
