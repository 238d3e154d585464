//! The worker's loop: receive, decode, call, encode, send.

mod function;
mod items;
mod waiting;

use crate::anchors::set_parts;
use crate::bindings::Bindings;
use crate::descriptor::adopt;
use crate::error::raise;
use crate::numpy_heap::{self, Heap};
use crate::pickle::{Manner, Written, become_worker, dump_list, encode};
use crate::private_heap;
use crate::shared;
use crate::sink::Sink;
use crate::unpickle::decode;
use crate::visits;
use forklift_core::Error;
use forklift_core::event::Spent;
use forklift_core::id::{ChunkId, JobId, Time};
use forklift_core::payload::{Parcel, Payload};
use forklift_core::telemetry::{Shift, Stopwatch, clock, switched_on};
use forklift_core::worker::{Call, Done, Order, Refused, Station};
use forklift_shm::Phase;
use function::Function;
use items::Items;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict, PyList, PyTuple, PyType};
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};
use waiting::{Crossing, Place, Waiting};

/// A worker that has results to show and more to do shows them after this time: the consumer of an iterator sees them
/// soon, and little is lost if the next item kills the worker.
const ANSWER_INTERVAL: Duration = Duration::from_millis(20);

/// Failures that one message holds in any case.
const REFUSED_AT_A_TIME: u32 = 1000;

/// What the loop needs of `forklift._outcome`.
struct Failures {
    class: Py<PyType>,
    caught: Py<PyAny>,
    unsendable_result: Py<PyAny>,
    undecodable: Py<PyAny>,
}

impl Failures {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let module = py.import("forklift._outcome")?;
        Ok(Self {
            class: module.getattr("Failure")?.cast_into()?.unbind(),
            caught: module.getattr("caught")?.unbind(),
            unsendable_result: module.getattr("unsendable_result")?.unbind(),
            undecodable: module.getattr("undecodable")?.unbind(),
        })
    }

    fn caught<'py>(&self, py: Python<'py>, error: PyErr) -> PyResult<Bound<'py, PyAny>> {
        self.caught.bind(py).call1((error.into_value(py),))
    }

    fn undecodable<'py>(&self, py: Python<'py>, what: &str, error: PyErr) -> PyResult<Bound<'py, PyAny>> {
        self.undecodable.bind(py).call1((what, error.into_value(py)))
    }
}

/// Serves one pool until it says stop or goes away.
///
/// Blocks without holding the interpreter's lock. `descriptor` is the worker's end of the channel, which this call
/// takes over. Returns the process's exit code.
///
/// # Errors
/// `RuntimeError` if the parent makes no sense.
#[pyfunction]
pub(crate) fn serve(py: Python<'_>, descriptor: RawFd) -> PyResult<i32> {
    become_worker();
    private_heap::keep_warm();
    let hook =
        [(intern!(py, "after_in_child"), wrap_pyfunction!(visits::forget_others, py)?)].into_py_dict(py)?;
    py.import(intern!(py, "os"))?.call_method(intern!(py, "register_at_fork"), (), Some(&hook))?;
    let mut server = Server {
        station: Station::new(adopt(descriptor)?),
        functions: HashMap::new(),
        failures: Failures::new(py)?,
        manner: Manner::upward(),
        heap: None,
        worked: Some(Instant::now()),
        watch: Stopwatch::new(switched_on()),
        modules: Modules::new(py)?,
        bindings: Bindings::new(py)?,
    };
    match server.run(py) {
        Ok(code) => Ok(code),
        Err(Trouble::Gone) => Ok(0),
        Err(Trouble::Python(error)) => Err(error),
    }
}

/// What ends the loop before its time.
enum Trouble {
    /// The parent is gone.
    Gone,
    Python(PyErr),
}

impl From<PyErr> for Trouble {
    fn from(error: PyErr) -> Self {
        Trouble::Python(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Gone => Trouble::Gone,
            error => Trouble::Python(raise(error)),
        }
    }
}

/// Outcomes that have not been sent.
struct Batch<'py> {
    results: Waiting<'py>,
    failed: u32,
    spent: Spent,
    /// When the first of them began.
    begun: Instant,
    /// When the worker turned to them, and how long it had waited before.
    turned: Time,
    waited: Duration,
}

/// Notices when modules are imported.
struct Modules {
    all: Py<PyDict>,
    known: usize,
}

/// Top-level names of imported modules that are told at a time.
const IMPORTED_MAX: usize = 16;

impl Modules {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let all = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?;
        Ok(Self { known: all.len(), all: all.unbind() })
    }

    /// Those that were imported since the last time, by their top-level names, the last first. The dictionary keeps the
    /// order in which imports ended, so this is a comparison of lengths but for the first items of a job; and what the
    /// user's code asked for stands behind all that it imports itself, which may be hundreds.
    fn imported(&mut self, py: Python<'_>) -> String {
        let all = self.all.bind(py);
        let known = std::mem::replace(&mut self.known, all.len());
        if all.len() <= known {
            return String::new();
        }
        let mut names: Vec<String> = Vec::new();
        for name in all.keys().iter().skip(known).filter_map(|name| name.extract::<String>().ok()) {
            if !name.contains('.') && !name.starts_with('_') {
                names.push(name);
            }
        }
        names.reverse();
        names.truncate(IMPORTED_MAX);
        names.join(",")
    }
}

struct Server {
    station: Station,
    functions: HashMap<JobId, Result<Function, Py<PyAny>>>,
    failures: Failures,
    manner: Manner,
    /// Where large arrays are made, once NumPy is imported.
    heap: Option<&'static Heap>,
    /// When it last worked, until what was free since then has been given back.
    worked: Option<Instant>,
    watch: Stopwatch,
    modules: Modules,
    bindings: Bindings,
}

impl Server {
    fn run(&mut self, py: Python<'_>) -> Result<i32, Trouble> {
        loop {
            let station = &mut self.station;
            match py.detach(|| station.receive())? {
                Order::Start { initializer } => {
                    if let Some(code) = self.start(py, initializer)? {
                        return Ok(code);
                    }
                }
                Order::Call(call) => self.call(py, call)?,
                Order::Refuse(refused) => self.refuse(py, refused)?,
                Order::Share { job, key, keep, value } => shared::keep(job, key, keep, value),
                Order::Unshare(key) => shared::drop_key(key),
                Order::Forget(job) => {
                    self.functions.remove(&job);
                    self.bindings.leave(py, job)?;
                    shared::drop_job(job);
                }
                Order::Stop => return Ok(0),
                Order::Pause => {
                    py.check_signals()?;
                    let trim_after = self.station.trim_after();
                    if self.worked.take_if(|worked| worked.elapsed() >= trim_after).is_some() {
                        private_heap::trim();
                    }
                }
            }
        }
    }

    fn start(&mut self, py: Python<'_>, initializer: Option<Parcel>) -> Result<Option<i32>, Trouble> {
        let initialized = match initializer {
            None => Ok(()),
            Some(parcel) => decode(py, parcel).and_then(|crossed| {
                let (initializer, arguments): (Bound<'_, PyAny>, Bound<'_, PyTuple>) = crossed.extract()?;
                initializer.call1(arguments).map(|_| ())
            }),
        };
        match initialized {
            Ok(()) => {
                self.station.ready()?;
                Ok(None)
            }
            Err(error) => {
                let failure = self.failures.caught(py, error)?;
                let payload = self.encode(py, &failure)?;
                self.station.refuse(&payload)?;
                Ok(Some(1))
            }
        }
    }

    fn encode(&mut self, py: Python<'_>, object: &Bound<'_, PyAny>) -> PyResult<Payload> {
        encode(py, object, self.station.arena(), &mut self.manner)
    }

    fn call(&mut self, py: Python<'_>, call: Call) -> Result<(), Trouble> {
        let begun = Instant::now();
        let (job, chunk, skip, count) = (call.job, call.chunk, call.skip, call.items);
        self.bindings.enter(py, job)?;
        let start = call.first + u64::from(skip);
        let mut shown = self.station.mark(job, start, Phase::Decoding);
        if let Some(parcel) = call.function {
            let function = decode(py, parcel).and_then(|crossed| Function::new(&crossed));
            let function = match function {
                Ok(function) => Ok(function),
                Err(error) => Err(self.failures.undecodable(py, "the function", error)?.unbind()),
            };
            self.functions.insert(job, function);
        }
        // Looked up once, not once an item.
        let Some(function) = self.functions.remove(&job) else {
            return Err(PyRuntimeError::new_err("work for a function that was never sent").into());
        };
        let items = match Items::of(py, call.payload, &function) {
            Err(_) if call.retained => {
                // One of them cannot be rebuilt. The parent will send them so that it shows which.
                self.functions.insert(job, function);
                self.station.give_back(chunk)?;
                self.station.mark_idle();
                return Ok(());
            }
            items => items,
        };
        self.make_heap(py)?;
        let spent = Spent { decode: begun.elapsed(), ..Spent::default() };
        let mut batch = Batch {
            results: Waiting::new(py),
            failed: 0,
            spent,
            begun: Instant::now(),
            turned: call.begun,
            waited: call.waited,
        };
        let mut done = count;
        for index in 0..count {
            let item = start + u64::from(index);
            let now = self.station.mark(job, item, Phase::Calling);
            match batch.results.len() {
                0 => self.watch.start(now),
                done => self.watch.lap(now, done - 1),
            }
            if index > 0 && call.until.is_some_and(|until| now >= until) {
                done = index;
                break;
            }
            if now.since(shown) >= ANSWER_INTERVAL && !batch.results.is_empty() {
                let first = item - u64::from(batch.results.len());
                batch = self.answer(py, job, chunk, first, batch, false)?;
                shown = self.station.mark(job, item, Phase::Calling);
                self.watch.start(shown);
            }
            let argument = match &items {
                Ok(items) => items.take((skip + index) as usize),
                Err(error) => Err(error.clone_ref(py)),
            };
            let outcome = self.outcome(py, &function, argument)?;
            batch.failed += u32::from(outcome.is_err());
            let (Ok(result) | Err(result)) = outcome;
            let last = index + 1 == count;
            match batch.results.place(&result, last)? {
                Place::AsItIs => batch.results.push(result)?,
                Place::Pickled => batch = self.pickle_now(py, job, chunk, item, batch, result, last)?,
            }
            if index + 1 < count
                && self.station.is_look_due(now)
                && self.station.may_have_outgrown(self.held_bytes(), false)
            {
                let first = start + u64::from(index + 1) - u64::from(batch.results.len());
                batch = self.answer(py, job, chunk, first, batch, false)?;
                if self.has_outgrown(false)? {
                    drop(items);
                    self.station.surrender(chunk)?;
                    return Ok(());
                }
                shown = now;
                self.watch.start(shown);
            }
        }
        // What lies in the parent's memory goes back with the answer, if nobody kept it.
        drop(items);
        set_parts(None);
        self.functions.insert(job, function);
        let first = start + u64::from(done) - u64::from(batch.results.len());
        if !batch.results.is_empty() {
            self.answer(py, job, chunk, first, batch, done == count)?;
        }
        self.station.mark_idle();
        if done == count {
            self.has_outgrown(true)?;
        } else {
            self.station.surrender(chunk)?;
        }
        self.worked = Some(Instant::now());
        Ok(())
    }

    /// Pickles the result of `item`, which the next call could change, and lets it wait so. If it is large it is sent, but
    /// for the `last` of a piece, which the caller sends.
    #[expect(clippy::too_many_arguments, reason = "from one place")]
    fn pickle_now<'py>(
        &mut self,
        py: Python<'py>,
        job: JobId,
        chunk: ChunkId,
        item: u64,
        mut batch: Batch<'py>,
        result: Bound<'py, PyAny>,
        last: bool,
    ) -> Result<Batch<'py>, Trouble> {
        let alone = PyList::new(py, [result])?;
        let written = self.dump_results(py, &alone, &mut batch.failed)?;
        let small = written.into_small()?.ok();
        let fits = small.is_some() && (batch.results.is_empty() || batch.results.are_pickled());
        if !fits && !batch.results.is_empty() {
            let first = item - u64::from(batch.results.len());
            let failed = std::mem::take(&mut batch.failed);
            let own = u32::from(alone.get_item(0)?.get_type().is(&self.failures.class));
            batch.failed = failed - own;
            batch = self.answer(py, job, chunk, first, batch, false)?;
            batch.failed = own;
        }
        match small {
            Some(pickle) => batch.results.push_pickle(pickle),
            None => {
                batch.results.push(alone.get_item(0)?)?;
                drop(alone);
                if !last {
                    batch = self.answer(py, job, chunk, item, batch, false)?;
                }
            }
        }
        Ok(batch)
    }

    /// Answers all items of a piece with one failure. A few at a time: the answer must not need memory that cannot be had.
    fn refuse(&mut self, py: Python<'_>, refused: Refused) -> Result<(), Trouble> {
        let Refused { chunk, mut items, reason, .. } = refused;
        let failure = self.failures.caught(py, raise(reason))?;
        while items > 0 {
            let count = items.min(REFUSED_AT_A_TIME);
            items -= count;
            let failures = PyList::new(py, std::iter::repeat_n(&failure, count as usize))?;
            let payload = self.encode(py, failures.as_any())?;
            let (spent, shift) = (Spent::default(), Shift::default());
            let done = Done { chunk, items: count, failed: count, last: items == 0, spent, shift };
            self.station.answer(done, &payload)?;
        }
        Ok(())
    }

    /// Bytes of live arrays in this worker's blocks.
    fn held_bytes(&self) -> u64 {
        self.heap.map_or(0, |heap| heap.held_bytes() as u64)
    }

    /// Whether this worker has more memory than it may, once all that was freed is given back. Nothing may wait to be
    /// sent. `done`: no piece is in hand, so that what it kept of its arguments shows.
    fn has_outgrown(&mut self, done: bool) -> Result<bool, Trouble> {
        let held = self.held_bytes();
        if !self.station.may_have_outgrown(held, done) {
            return Ok(false);
        }
        // The parent need not look meanwhile, and no item is to blame if it does.
        self.station.mark_idle();
        private_heap::trim();
        Ok(self.station.has_outgrown(held, done)?)
    }

    /// Sends the outcomes that have gathered, the first of which is that of item `first`; returns an empty batch.
    fn answer<'py>(
        &mut self,
        py: Python<'py>,
        job: JobId,
        chunk: ChunkId,
        first: u64,
        batch: Batch<'py>,
        last: bool,
    ) -> Result<Batch<'py>, Trouble> {
        let Batch { results, mut failed, mut spent, begun, turned, waited } = batch;
        spent.call += begun.elapsed();
        let count = results.len();
        let encoding = Instant::now();
        let now = self.station.mark(job, first, Phase::Encoding);
        if last {
            self.watch.lap(now, count.saturating_sub(1));
        }
        let mut shift = self.watch.finish(spent.call, count);
        (shift.begun, shift.waited, shift.imported) = (turned, waited, self.modules.imported(py));
        // The results die before the answer goes, so that what they held of the parent's memory goes with it.
        let payload = match results.into_crossing(py)? {
            Crossing::Results(results) => self.encode_results(py, results, &mut failed)?,
            Crossing::Pickles(pickles) => self.encode(py, pickles.as_any())?,
        };
        spent.encode += encoding.elapsed();
        self.station.answer(Done { chunk, items: count, failed, last, spent, shift }, &payload)?;
        Ok(Batch {
            results: Waiting::new(py),
            failed: 0,
            spent: Spent::default(),
            begun: Instant::now(),
            turned: clock(),
            waited: Duration::ZERO,
        })
    }

    /// One call: its result, or its failure.
    fn outcome<'py>(
        &self,
        py: Python<'py>,
        function: &Result<Function, Py<PyAny>>,
        item: PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Result<Bound<'py, PyAny>, Bound<'py, PyAny>>> {
        let function = match function {
            Ok(function) => function,
            Err(failure) => return Ok(Err(failure.bind(py).clone())),
        };
        let item = match item {
            Ok(item) if item.get_type().is(&self.failures.class) => return Ok(Err(item)),
            Ok(item) => item,
            Err(error) => return Ok(Err(self.failures.undecodable(py, "the item", error)?)),
        };
        match function.call(py, item) {
            Ok(result) => Ok(Ok(result)),
            Err(error) => self.failures.caught(py, error).map(Err),
        }
    }

    /// Large arrays are made in the outbound arena from now on, if NumPy is imported and they are not yet.
    fn make_heap(&mut self, py: Python<'_>) -> PyResult<()> {
        if self.heap.is_none()
            && let Some((heap, handler)) =
                numpy_heap::make(py, self.station.arena().clone(), true, self.station.ledger())?
        {
            numpy_heap::set_handler(py, handler.bind(py))?;
            self.heap = Some(heap);
        }
        Ok(())
    }

    /// Encodes a list of results and lets go of it. Those that cannot be sent are replaced by their failures.
    fn encode_results<'py>(
        &mut self,
        py: Python<'py>,
        results: Bound<'py, PyList>,
        failed: &mut u32,
    ) -> PyResult<Payload> {
        self.make_heap(py)?;
        let sink = self.dump_results(py, &results, failed)?.sink;
        self.hand_over(py, &sink, results, failed)
    }

    /// Pickles a list of results. Those that cannot be sent are replaced by their failures.
    fn dump_results<'py>(
        &mut self,
        py: Python<'py>,
        results: &Bound<'py, PyList>,
        failed: &mut u32,
    ) -> PyResult<Written<'py>> {
        let error = match dump_list(results, &mut self.manner) {
            Ok(sink) => return Ok(sink),
            // Whatever it is: a result that calls sys.exit() when it is pickled is its own item's failure.
            Err(error) => error,
        };
        for index in 0..results.len() {
            let result = results.get_item(index)?;
            let culprit = if results.len() == 1 {
                Some(error.clone_ref(py))
            } else {
                let alone = PyList::new(py, [&result])?;
                self.encode(py, &alone).err()
            };
            if let Some(error) = culprit
                && !result.get_type().is(&self.failures.class)
            {
                *failed += 1;
                let failure =
                    self.failures.unsendable_result.bind(py).call1((result, error.into_value(py)))?;
                results.set_item(index, failure)?;
            }
        }
        dump_list(results, &mut self.manner)
    }

    /// Packs results. If there is no memory for them, that is the failure of each.
    fn hand_over(
        &mut self,
        py: Python<'_>,
        sink: &Bound<'_, Sink>,
        results: Bound<'_, PyList>,
        failed: &mut u32,
    ) -> PyResult<Payload> {
        let count = results.len();
        let packed = sink.borrow_mut().hand_over(py, self.station.arena(), self.heap, results);
        let error = match packed {
            Ok(payload) => return Ok(payload),
            Err(error) => error,
        };
        let failure = self.failures.caught(py, error)?;
        *failed = count as u32;
        let failures = PyList::new(py, std::iter::repeat_n(failure, count))?;
        self.encode(py, failures.as_any())
    }
}
