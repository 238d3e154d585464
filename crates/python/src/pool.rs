//! A pool as Python holds it: options in, jobs out.
#![expect(
    clippy::disallowed_types,
    reason = "what is received is waited for under a mutex; a fork turns back before"
)]

use crate::error::{not_ours, raise};
use crate::feed::Job;
use crate::pickle::{Manner, encode, encode_by, encode_function};
use crate::seconds::{deadline, patience};
use crate::shared::next_key;
use crate::sink::Way;
use crate::store::Lease;
use crate::visits::{Visit, welcome};
use forklift_core::config::{SchedulerConfig, SpillConfig, SupervisorConfig};
use forklift_core::event::{Chunking, Delivery, JobSpec};
use forklift_core::id::{JobId, WorkerId};
use forklift_core::machine::Machine;
use forklift_core::pool::{self, Plan};
use forklift_core::process::{ForkOrder, Origin, Recipe};
use forklift_core::telemetry::Recorder;
use forklift_core::{Counters, machine};
use forklift_shm::Lock;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::os::fd::{IntoRawFd, RawFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting thread looks after signals.
const TICK: Duration = Duration::from_millis(50);

/// What is announced to wake whoever waits for announcements. Jobs are counted from 1.
const NO_JOB: u64 = 0;

/// Calls of `apply` that follow one another faster than this are one call to a report.
const APPLY_PAUSE: Duration = Duration::from_secs(1);

/// Cores that this process may use: affinity and cgroup quota.
#[pyfunction]
pub(crate) fn cores() -> u32 {
    machine::cores().get()
}

/// Bytes of memory that this machine or its cgroup has.
#[pyfunction]
pub(crate) fn memory_total() -> u64 {
    machine::memory_total()
}

/// Bytes of memory that this process can still count on.
#[pyfunction]
pub(crate) fn memory_available() -> u64 {
    machine::memory_available()
}

/// Descriptors that a fork of this process has to close.
#[pyfunction]
pub(crate) fn private_descriptors() -> Vec<RawFd> {
    forklift_core::process::private_descriptors()
}

/// Raises `ValueError` for a variable of the environment that means nothing to a pool.
#[pyfunction]
pub(crate) fn check_environment() -> PyResult<()> {
    forklift_core::config::trim_after().map(drop).map_err(raise)
}

/// Raises `OSError` unless files can be made in this directory.
#[pyfunction]
pub(crate) fn check_spill_dir(py: Python<'_>, directory: PathBuf) -> PyResult<()> {
    py.detach(|| forklift_core::spill::check_directory(&directory)).map_err(raise)
}

/// A pool of workers.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Pool {
    pool: Arc<pool::Pool>,
    /// Locked while a thread waits, so a fork may inherit it locked: it is for the process that made the pool alone.
    orders: Mutex<Receiver<ForkOrder>>,
    announce: Sender<JobId>,
    /// As `orders`.
    announced: Mutex<Receiver<JobId>>,
    /// How many bytes of what items share may be sent for one job.
    share_bytes: u64,
    /// How many bytes calls of `apply` may hold together.
    load_bytes: u64,
    /// Workers are on other machines.
    elsewhere: bool,
    /// The record of the last call, if that was one of `apply`.
    applying: Lock<Option<Arc<Recorder>>>,
}

impl Pool {
    /// Fails in a fork of the process that made the pool, where nothing will ever come.
    fn check_ours(&self) -> PyResult<()> {
        if self.pool.is_ours() { Ok(()) } else { Err(not_ours()) }
    }

    /// The record for a job that is opened now.
    fn record(&self, apply: bool) -> Arc<Recorder> {
        let mut applying = self.applying.lock();
        if !apply {
            *applying = None;
            return self.pool.record();
        }
        match &*applying {
            Some(recorder) if recorder.continues(APPLY_PAUSE) => Arc::clone(recorder),
            _ => Arc::clone(applying.insert(self.pool.record())),
        }
    }
}

/// The first chunks for workers elsewhere may have so many items: see `SchedulerConfig::probe_items`.
const PROBE_ITEMS_ELSEWHERE: u32 = 64;

/// Two pieces at one worker take no longer than this many messages together: see `SchedulerConfig::brief`.
const BRIEF_PER_MESSAGE: u32 = 100;

#[pymethods]
impl Pool {
    /// Starts the driver, and the zygote if `origin` says so; no worker yet.
    #[new]
    #[pyo3(signature = (*, processes, origin, command, environment, preparation, initializer, maxtasksperchild, worker_memory_limit, machine_root=None, message_cost=None, seconds_per_byte=0.0, chunk_bytes=None, window_bytes, stream_bytes, share_bytes, results_bytes, memory_limit, spill_dirs, spill_named, spill_strict))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only, from one place")]
    fn new(
        py: Python<'_>,
        processes: u32,
        origin: &str,
        command: Vec<String>,
        environment: Vec<(String, String)>,
        preparation: Vec<u8>,
        initializer: Option<Bound<'_, PyAny>>,
        maxtasksperchild: Option<u64>,
        worker_memory_limit: Option<u64>,
        machine_root: Option<PathBuf>,
        message_cost: Option<f64>,
        seconds_per_byte: f64,
        chunk_bytes: Option<u64>,
        window_bytes: u64,
        stream_bytes: u64,
        share_bytes: u64,
        results_bytes: u64,
        memory_limit: u64,
        spill_dirs: Vec<PathBuf>,
        spill_named: bool,
        spill_strict: bool,
    ) -> PyResult<Self> {
        welcome();
        let _visit = Visit::begin()?;
        let (order, orders) = channel();
        let elsewhere = origin == "relays";
        let recipe = Recipe { command, environment, preparation };
        let origin = match origin {
            "spawn" => Origin::Spawn(recipe),
            // Nobody listens any more once the pool is gone.
            "fork" => Origin::Fork(Box::new(move |wanted| drop(order.send(wanted)))),
            "relays" => Origin::Relays(Box::new(move |wanted| drop(order.send(wanted)))),
            _ => Origin::Zygote(recipe),
        };
        let usual = SchedulerConfig::default();
        let message_cost = message_cost.map(patience).transpose()?.unwrap_or(usual.message_cost);
        let plan = Plan {
            scheduler: SchedulerConfig {
                processes,
                window_bytes,
                stream_bytes,
                // A chunk's objects need not fit a cache where its way takes longer than its reading.
                chunk_bytes_max: chunk_bytes.unwrap_or(usual.chunk_bytes_max),
                result_bytes_max: usual.result_bytes_max.max(chunk_bytes.unwrap_or(0)),
                message_cost,
                seconds_per_byte,
                probe_items: if elsewhere { PROBE_ITEMS_ELSEWHERE } else { usual.probe_items },
                brief: usual.brief.max(message_cost * BRIEF_PER_MESSAGE),
                tasks_per_worker: maxtasksperchild,
            },
            supervisor: SupervisorConfig { processes, ..SupervisorConfig::default() },
            worker_memory_limit,
            machine: machine_root.map_or_else(Machine::default, Machine::below),
            spill: SpillConfig {
                results_bytes_max: results_bytes,
                memory_limit,
                directories: spill_dirs,
                named: spill_named,
                strict: spill_strict,
            },
            origin,
        };
        let mut refused = None;
        let pool = pool::Pool::start(plan, |arena| {
            let Some(initializer) = initializer else { return Ok(None) };
            match encode(py, &initializer, arena, &mut Manner::towards(elsewhere)) {
                Ok(payload) => Ok(Some(payload)),
                Err(error) => {
                    refused = Some(error);
                    Err(forklift_core::Error::Malformed("the initializer cannot be pickled"))
                }
            }
        });
        if let Some(error) = refused {
            return Err(error);
        }
        let (announce, announced) = channel();
        Ok(Self {
            pool: Arc::new(pool.map_err(raise)?),
            orders: Mutex::new(orders),
            announce,
            announced: Mutex::new(announced),
            elsewhere,
            share_bytes,
            load_bytes: window_bytes,
            applying: Lock::new(None),
        })
    }

    /// Begins a job. `function` is `(callable, shape)`, which crosses once per worker; `chunksize` 0 means chosen while
    /// running; `held` if all items exist before they are pulled; a `streamed` job waits for its consumer, at most `buffersize` items ahead of it (0: bytes alone count); `apply` jobs that follow one another share a record; `sharing`: whether items are looked through for what they share; `numbered`: the items are those of `range(items)`.
    #[expect(clippy::too_many_arguments, reason = "keyword-only, from one place")]
    #[pyo3(signature = (function, *, items=None, chunksize=0, held=true, streamed=false, buffersize=0, announce=false, retries=0, task_timeout=None, apply=false, sharing=true, numbered=false))]
    fn open(
        &self,
        py: Python<'_>,
        function: &Bound<'_, PyAny>,
        items: Option<u64>,
        chunksize: u32,
        held: bool,
        streamed: bool,
        buffersize: u64,
        announce: bool,
        retries: u32,
        task_timeout: Option<f64>,
        apply: bool,
        sharing: bool,
        numbered: bool,
    ) -> PyResult<Job> {
        let _visit = Visit::begin()?;
        let mut manner = Manner::towards(self.elsewhere);
        let (payload, parts) = encode_function(function, self.pool.broadcast(), &mut manner)?;
        let spec = JobSpec {
            function: payload.fingerprint(),
            items,
            chunking: match chunksize {
                0 if numbered && !streamed => Chunking::Numbered,
                0 => Chunking::Automatic,
                items => Chunking::Fixed(items),
            },
            delivery: match (streamed, buffersize) {
                (false, _) => Delivery::Collected,
                (true, 0) => Delivery::Streamed(None),
                (true, ahead) => Delivery::Streamed(Some(ahead)),
            },
            retries,
            task_timeout: task_timeout.map(patience).transpose()?,
        };
        let recorder = self.record(apply);
        let announce = announce.then(|| self.announce.clone());
        let bytes = payload.bytes();
        let handle = self.pool.open(payload, spec, announce, Arc::clone(&recorder));
        if apply {
            handle.weigh(self.pool.load(), bytes);
        }
        let (pool, fixed) = (Arc::clone(&self.pool), chunksize != 0);
        let share_bytes = sharing.then_some(self.share_bytes);
        let numbers = items.filter(|_| spec.chunking == Chunking::Numbered);
        Job::new(py, pool, handle, recorder, held, retries > 0, fixed, manner, share_bytes, numbers, parts)
    }

    /// Sends a value once to each worker that may need it, from now on until `unshare`; returns its key. A worker has
    /// one object for all its calls, or, without `one_object`, builds one for each over the same memory.
    /// `key`: under the name that another process gave it. What a `lease` is for is lent from there.
    #[pyo3(signature = (value, one_object=true, key=None, lease=None))]
    fn share(
        &self,
        py: Python<'_>,
        value: &Bound<'_, PyAny>,
        one_object: bool,
        key: Option<u64>,
        lease: Option<&Bound<'_, Lease>>,
    ) -> PyResult<u64> {
        let _visit = Visit::begin()?;
        let way = lease.map_or(Way::Lend, |lease| Way::LendStored(lease.get()));
        let manner = &mut Manner::towards(self.elsewhere);
        let payload = encode_by(py, value, self.pool.broadcast(), manner, way)?;
        let key = key.unwrap_or_else(next_key);
        self.pool.share(None, key, one_object, payload);
        Ok(key)
    }

    /// Whether one more call may be encoded without credit: what those hold that are not done is less than the window.
    fn has_room(&self) -> bool {
        self.pool.load().has_room(self.load_bytes)
    }

    /// Waits up to `timeout` seconds for such room; whether there is some.
    fn wait_for_room(&self, py: Python<'_>, timeout: f64) -> bool {
        let patience = Duration::from_secs_f64(timeout.clamp(0.0, 1e9));
        py.detach(|| self.pool.load().wait_for_room(self.load_bytes, patience))
    }

    /// Drops a shared value everywhere.
    fn unshare(&self, key: u64) {
        self.pool.unshare(key);
    }

    /// Waits up to `timeout` seconds (None: for ever) for the end of a job that was opened with `announce`; its number.
    /// None when the time is up, or for `wake`. One thread only may wait.
    #[pyo3(signature = (timeout=None))]
    fn ended(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<u64>> {
        let _visit = Visit::begin()?;
        self.check_ours()?;
        let announced = || self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        // The interpreter is not let go of where something is there already: getting it back may take a while.
        let at_once = announced().try_recv();
        let timeout = timeout.map(patience).transpose()?;
        let wait = || match timeout {
            None => announced().recv().ok(),
            Some(timeout) => announced().recv_timeout(timeout).ok(),
        };
        let job = at_once.ok().or_else(|| py.detach(wait));
        Ok(job.map(|job| job.0).filter(|job| *job != NO_JOB))
    }

    /// Has `ended` return.
    fn wake(&self) {
        if self.pool.is_ours() {
            // Nobody listens any more once the pool is gone.
            let _ = self.announce.send(JobId(NO_JOB));
        }
    }

    /// Waits up to `timeout` seconds for a worker to be forked from this process: `(slot, generation, channel, life)`,
    /// None if there is none, or False when no more will come.
    fn fork_order<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Bound<'py, PyAny>> {
        let _visit = Visit::begin()?;
        self.check_ours()?;
        let timeout = patience(timeout)?;
        let wait = || {
            let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            orders.recv_timeout(timeout)
        };
        match py.detach(wait) {
            Ok(ForkOrder { worker, channel, life }) => {
                let order = (worker.slot, worker.generation, channel.into_raw_fd(), life.into_raw_fd());
                Ok(order.into_pyobject(py)?.into_any())
            }
            Err(RecvTimeoutError::Timeout) => Ok(py.None().into_bound(py)),
            Err(RecvTimeoutError::Disconnected) => Ok(false.into_pyobject(py)?.to_owned().into_any()),
        }
    }

    /// How a fork order went: the child's pid, or why there is none.
    fn forked(&self, slot: u32, generation: u32, pid: Option<u32>, reason: String) {
        self.pool.forked(WorkerId { slot, generation }, pid.ok_or(reason));
    }

    /// Whether this process made the pool.
    fn is_ours(&self) -> bool {
        self.pool.is_ours()
    }

    /// Workers are wanted before the first job.
    fn want(&self) {
        self.pool.want();
    }

    /// Modules (a pickled list of names) that the zygote imports before further births.
    fn preload(&self, modules: Vec<u8>) {
        self.pool.import(modules);
    }

    /// Another number of seats.
    fn resize(&self, processes: u32) {
        self.pool.resize(processes);
    }

    /// No more jobs come.
    fn close(&self) {
        self.pool.close();
    }

    /// Streamed jobs no longer wait for their consumers.
    fn unbound(&self) {
        self.pool.unbound();
    }

    /// Everything ends now.
    fn terminate(&self) {
        self.pool.terminate();
    }

    /// Waits up to `timeout` seconds (None: for ever) for the last worker to go; whether it has.
    #[pyo3(signature = (timeout=None))]
    fn join(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let _visit = Visit::begin()?;
        let deadline = deadline(timeout)?;
        loop {
            let patience =
                deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()));
            if py.detach(|| self.pool.join(patience.min(TICK))) {
                self.wake();
                return Ok(true);
            }
            py.check_signals()?;
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
        }
    }

    /// Whether the last worker is gone.
    fn is_over(&self) -> bool {
        self.pool.is_over()
    }

    /// The workers: `(slot, generation, pid or None, state, calls, held bytes)` each.
    #[expect(clippy::type_complexity, reason = "a row")]
    fn staff(&self, py: Python<'_>) -> PyResult<Vec<(u32, u32, Option<u32>, &'static str, u64, u64)>> {
        let _visit = Visit::begin()?;
        let staff = py.detach(|| self.pool.staff());
        let row = |member: forklift_core::Member| {
            let WorkerId { slot, generation } = member.worker;
            (slot, generation, member.pid, member.state, member.calls, member.held_bytes)
        };
        Ok(staff.into_iter().map(row).collect())
    }

    /// What the pool has done since it was made, by name.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let _visit = Visit::begin()?;
        let Counters {
            births,
            deaths,
            recycled_tasks,
            recycled_memory,
            stopped_memory,
            throttled,
            admitted_percent,
            messages_sent,
            messages_received,
            chunks,
            retried,
            functions_sent,
            bytes_copied_in,
            bytes_lent,
            bytes_in_messages,
            result_bytes,
            result_bytes_handed,
            fresh_bytes,
            spilled_bytes,
            payload_bytes_peak,
            results_bytes_peak,
        } = py.detach(|| self.pool.counters());
        let counters = PyDict::new(py);
        for (name, value) in [
            ("births", births),
            ("deaths", deaths),
            ("recycled_tasks", recycled_tasks),
            ("recycled_memory", recycled_memory),
            ("stopped_memory", stopped_memory),
            ("throttled", throttled),
            ("admitted_percent", admitted_percent),
            ("messages_sent", messages_sent),
            ("messages_received", messages_received),
            ("chunks", chunks),
            ("retried", retried),
            ("functions_sent", functions_sent),
            ("bytes_copied_in", bytes_copied_in),
            ("bytes_lent", bytes_lent),
            ("bytes_in_messages", bytes_in_messages),
            ("result_bytes", result_bytes),
            ("result_bytes_handed", result_bytes_handed),
            ("fresh_bytes", fresh_bytes),
            ("spilled_bytes", spilled_bytes),
            ("payload_bytes_peak", payload_bytes_peak),
            ("results_bytes_peak", results_bytes_peak),
        ] {
            counters.set_item(name, value)?;
        }
        Ok(counters)
    }
}
