//! A pool as Python holds it: options in, jobs out.

use crate::error::raise;
use crate::feed::Job;
use crate::pickle::{Manner, encode};
use forklift_core::config::{SchedulerConfig, SupervisorConfig};
use forklift_core::event::{Chunking, Delivery, JobSpec};
use forklift_core::id::WorkerId;
use forklift_core::pool::{self, Plan};
use forklift_core::process::{ForkOrder, Origin, Recipe};
use forklift_core::{Counters, machine};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting thread looks after signals.
const TICK: Duration = Duration::from_millis(50);

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

/// A pool of workers.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Pool {
    pool: Arc<pool::Pool>,
    orders: Mutex<Receiver<ForkOrder>>,
    announce: Sender<forklift_core::id::JobId>,
    announced: Mutex<Receiver<forklift_core::id::JobId>>,
}

#[pymethods]
impl Pool {
    /// Starts the driver, and the zygote if `origin` says so; no worker yet.
    #[new]
    #[pyo3(signature = (*, processes, origin, command, environment, preparation, initializer, maxtasksperchild, window_bytes, stream_bytes))]
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
        window_bytes: u64,
        stream_bytes: u64,
    ) -> PyResult<Self> {
        let (order, orders) = channel();
        let recipe = Recipe { command, environment, preparation };
        let origin = match origin {
            "spawn" => Origin::Spawn(recipe),
            // Nobody listens any more once the pool is gone.
            "fork" => Origin::Fork(Box::new(move |wanted| drop(order.send(wanted)))),
            _ => Origin::Zygote(recipe),
        };
        let plan = Plan {
            scheduler: SchedulerConfig {
                processes,
                window_bytes,
                stream_bytes,
                tasks_per_worker: maxtasksperchild,
                ..SchedulerConfig::default()
            },
            supervisor: SupervisorConfig {
                processes,
                tasks_per_worker: maxtasksperchild,
                ..SupervisorConfig::default()
            },
            origin,
        };
        let mut refused = None;
        let pool = pool::Pool::start(plan, |arena| {
            let Some(initializer) = initializer else { return Ok(None) };
            match encode(py, &initializer, arena, &mut Manner::default()) {
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
        })
    }

    /// Begins a job. `function` is `(callable, shape)`, which crosses once per worker; `chunksize` 0 means chosen while
    /// running; `held` if all items exist before they are pulled; a `streamed` job waits for its consumer, at most `buffersize` items ahead of it (0: bytes alone count).
    #[expect(clippy::too_many_arguments, reason = "keyword-only, from one place")]
    #[pyo3(signature = (function, *, items=None, chunksize=0, held=true, streamed=false, buffersize=0, announce=false))]
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
    ) -> PyResult<Job> {
        let mut manner = Manner::default();
        let payload = encode(py, function, self.pool.broadcast(), &mut manner)?;
        let spec = JobSpec {
            items,
            chunking: if chunksize == 0 { Chunking::Automatic } else { Chunking::Fixed(chunksize) },
            delivery: match (streamed, buffersize) {
                (false, _) => Delivery::Collected,
                (true, 0) => Delivery::Streamed(None),
                (true, ahead) => Delivery::Streamed(Some(ahead)),
            },
        };
        let handle = self.pool.open(payload, spec, announce.then(|| self.announce.clone()));
        Ok(Job::new(Arc::clone(&self.pool), handle, held, chunksize != 0, manner))
    }

    /// Waits up to `timeout` seconds for the end of a job that was opened with `announce`; its number.
    fn ended(&self, py: Python<'_>, timeout: f64) -> Option<u64> {
        let wait = || {
            let announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
            announced.recv_timeout(Duration::from_secs_f64(timeout)).ok().map(|job| job.0)
        };
        py.detach(wait)
    }

    /// Waits up to `timeout` seconds for a worker to be forked from this process: `(slot, generation, channel, life)`,
    /// None if there is none, or False when no more will come.
    fn fork_order<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Bound<'py, PyAny>> {
        let wait = || {
            let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            orders.recv_timeout(Duration::from_secs_f64(timeout))
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
        let deadline =
            timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
        loop {
            let patience =
                deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()));
            if py.detach(|| self.pool.join(patience.min(TICK))) {
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
    fn staff(&self, py: Python<'_>) -> Vec<(u32, u32, Option<u32>, &'static str, u64, u64)> {
        let staff = py.detach(|| self.pool.staff());
        let row = |member: forklift_core::Member| {
            let WorkerId { slot, generation } = member.worker;
            (slot, generation, member.pid, member.state, member.calls, member.held_bytes)
        };
        staff.into_iter().map(row).collect()
    }

    /// What the pool has done since it was made, by name.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let Counters {
            births,
            messages_sent,
            messages_received,
            chunks,
            functions_sent,
            bytes_copied_in,
            bytes_in_messages,
            result_bytes,
            fresh_bytes,
        } = py.detach(|| self.pool.counters());
        let counters = PyDict::new(py);
        for (name, value) in [
            ("births", births),
            ("messages_sent", messages_sent),
            ("messages_received", messages_received),
            ("chunks", chunks),
            ("functions_sent", functions_sent),
            ("bytes_copied_in", bytes_copied_in),
            ("bytes_in_messages", bytes_in_messages),
            ("result_bytes", result_bytes),
            ("fresh_bytes", fresh_bytes),
        ] {
            counters.set_item(name, value)?;
        }
        Ok(counters)
    }
}
