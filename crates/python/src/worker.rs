//! The worker's loop: receive, decode, call, encode, send.

use crate::descriptor::adopt;
use crate::error::raise;
use crate::pickle::{Manner, become_worker, decode, dump_list, encode, loads};
use forklift_core::Error;
use forklift_core::event::Spent;
use forklift_core::id::{ChunkId, JobId};
use forklift_core::payload::{Parcel, Payload};
use forklift_core::worker::{Call, Order, Station};
use forklift_shm::Phase;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};
use std::collections::HashMap;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// A worker that has results to show and more to do shows them after this time: the consumer of an iterator sees them
/// soon, and little is lost if the next item kills the worker.
const ANSWER_INTERVAL: Duration = Duration::from_millis(20);

/// A function as it crossed: pickled as `(function, shape)`.
struct Function {
    callable: Py<PyAny>,
    shape: Shape,
}

/// How an item becomes arguments.
#[derive(Clone, Copy)]
enum Shape {
    /// `f(item)`
    One,
    /// `f(*item)`
    Star,
    /// `f(*item[0], **item[1])`
    Apply,
}

impl Function {
    fn new(crossed: &Bound<'_, PyAny>) -> PyResult<Self> {
        let (callable, shape): (Py<PyAny>, u8) = crossed.extract()?;
        let shape = match shape {
            0 => Shape::One,
            1 => Shape::Star,
            _ => Shape::Apply,
        };
        Ok(Self { callable, shape })
    }

    fn call<'py>(&self, py: Python<'py>, item: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let callable = self.callable.bind(py);
        match self.shape {
            Shape::One => callable.call1((item,)),
            Shape::Star => match item.cast_into::<PyTuple>() {
                Ok(arguments) => callable.call1(arguments),
                Err(other) => {
                    let arguments = py.get_type::<PyTuple>().call1((other.into_inner(),))?;
                    callable.call1(arguments.cast_into::<PyTuple>()?)
                }
            },
            Shape::Apply => {
                let (arguments, options): (Bound<'py, PyTuple>, Bound<'py, PyAny>) = item.extract()?;
                if options.is_none() {
                    return callable.call1(arguments);
                }
                let options = options.cast_into::<pyo3::types::PyDict>()?;
                callable.call(arguments, Some(&options))
            }
        }
    }
}

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
    let mut server = Server {
        station: Station::new(adopt(descriptor)?),
        functions: HashMap::new(),
        failures: Failures::new(py)?,
        manner: Manner::default(),
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
    results: Bound<'py, PyList>,
    failed: u32,
    spent: Spent,
    begun: Instant,
}

struct Server {
    station: Station,
    functions: HashMap<JobId, Result<Function, Py<PyAny>>>,
    failures: Failures,
    manner: Manner,
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
                Order::Forget(job) => {
                    self.functions.remove(&job);
                }
                Order::Stop => return Ok(0),
                Order::Pause => py.check_signals()?,
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
        let items = decode(py, call.payload).and_then(|crossed| unpack(py, crossed));
        let spent = Spent { decode: begun.elapsed(), ..Spent::default() };
        // Looked up once, not once an item.
        let Some(function) = self.functions.remove(&job) else {
            return Err(PyRuntimeError::new_err("work for a function that was never sent").into());
        };
        let mut batch = Batch { results: PyList::empty(py), failed: 0, spent, begun: Instant::now() };
        for index in 0..count {
            let item = start + u64::from(index);
            let now = self.station.mark(job, item, Phase::Calling);
            if now.since(shown) >= ANSWER_INTERVAL && !batch.results.is_empty() {
                let first = item - batch.results.len() as u64;
                batch = self.answer(py, job, chunk, first, batch, false)?;
                shown = self.station.mark(job, item, Phase::Calling);
            }
            let outcome = match &items {
                Ok(items) => self.outcome(py, &function, items, (skip + index) as usize)?,
                Err(error) => Err(self.failures.undecodable(py, "the item", error.clone_ref(py))?),
            };
            batch.failed += u32::from(outcome.is_err());
            match outcome {
                Ok(result) | Err(result) => batch.results.append(result)?,
            }
        }
        if let Ok(items) = &items {
            // What lies in the parent's memory goes back with the answer, if nobody kept it.
            items.call_method0(intern!(py, "clear"))?;
        }
        self.functions.insert(job, function);
        let first = start + u64::from(count) - batch.results.len() as u64;
        self.answer(py, job, chunk, first, batch, true)?;
        self.station.mark_idle();
        Ok(())
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
        let Batch { results, mut failed, mut spent, begun } = batch;
        spent.call += begun.elapsed();
        let encoding = Instant::now();
        self.station.mark(job, first, Phase::Encoding);
        let payload = self.encode_results(py, &results, &mut failed)?;
        let count = results.len() as u32;
        // The results die before the answer goes, so that what they held of the parent's memory goes with it.
        drop(results);
        spent.encode += encoding.elapsed();
        self.station.answer(chunk, count, failed, last, spent, &payload)?;
        Ok(Batch { results: PyList::empty(py), failed: 0, spent: Spent::default(), begun: Instant::now() })
    }

    /// One call: its result, or its failure.
    fn outcome<'py>(
        &self,
        py: Python<'py>,
        function: &Result<Function, Py<PyAny>>,
        items: &Bound<'py, PyList>,
        index: usize,
    ) -> PyResult<Result<Bound<'py, PyAny>, Bound<'py, PyAny>>> {
        let item = items.get_item(index)?;
        // Each item may die as soon as its call is over.
        items.set_item(index, py.None())?;
        if item.get_type().is(&self.failures.class) {
            return Ok(Err(item));
        }
        let function = match function {
            Ok(function) => function,
            Err(failure) => return Ok(Err(failure.bind(py).clone())),
        };
        match function.call(py, item) {
            Ok(result) => Ok(Ok(result)),
            Err(error) => self.failures.caught(py, error).map(Err),
        }
    }

    /// Encodes a list of results. Those that cannot be sent are replaced by their failures.
    fn encode_results(
        &mut self,
        py: Python<'_>,
        results: &Bound<'_, PyList>,
        failed: &mut u32,
    ) -> PyResult<Payload> {
        let error = match self.encode_list(py, results) {
            Ok(payload) => return Ok(payload),
            Err(error) if !error.is_instance_of::<PyException>(py) => return Err(error),
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
        self.encode_list(py, results)
    }

    fn encode_list(&mut self, py: Python<'_>, list: &Bound<'_, PyList>) -> PyResult<Payload> {
        let sink = dump_list(py, list, &mut self.manner)?;
        sink.bind(py).borrow().pack(py, self.station.arena())
    }
}

/// The items of a chunk: a list, or a tuple of pickles of lists.
fn unpack<'py>(py: Python<'py>, crossed: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    let pickles = match crossed.cast_into::<PyList>() {
        Ok(items) => return Ok(items),
        Err(other) => other.into_inner().cast_into::<PyTuple>()?,
    };
    let items = PyList::empty(py);
    for pickle in pickles.iter() {
        items.call_method1(intern!(py, "extend"), (loads(py, &pickle)?,))?;
    }
    Ok(items)
}
