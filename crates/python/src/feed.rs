//! One job as Python holds it: pulls items while there is credit, encodes and submits them, takes results.
//!
//! ```text
//!   iterator ── Feed(n) ──▶ list of n items ── encode ──▶ submit        (with the interpreter's lock)
//!   results  ◀── decode ◀── Answer ◀── turn (waits without it, in ticks, so that Ctrl-C is seen)
//! ```

use crate::error::{death, fault};
use crate::pickle::{Manner, Sink, decode, dump, dump_list, encode};
use forklift_core::handle::{Answer, Handle, Outcome, Taking, Turn};
use forklift_core::id::ChunkId;
use forklift_core::payload::Payload;
use forklift_core::pool;
use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyIterator, PyList, PyString, PyTuple};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting thread looks after signals.
const TICK: Duration = Duration::from_millis(50);

/// Lists longer than this are not searched for parts that they share with other items: long lists hold numbers.
const PARTS_MAX: usize = 64;

/// Items of a chunk that may have to be encoded again.
struct Retained {
    chunk: ChunkId,
    items: Py<PyList>,
    unanswered: u32,
}

/// How far the items have been taken.
#[derive(Default)]
struct Progress {
    position: u64,
    exhausted: bool,
    manner: Manner,
    /// Whether a chunk is one pickle: all its items exist before they are pulled, keep their contents, and share nothing.
    together: bool,
    /// Items that were pulled and are not encoded.
    backlog: VecDeque<Py<PyAny>>,
    /// A chunk that was encoded and waits for credit.
    pending: Option<Payload>,
    /// By the index of their first item.
    retained: BTreeMap<u64, Retained>,
}

/// One job.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Job {
    pool: Arc<pool::Pool>,
    handle: Arc<Handle>,
    progress: Mutex<Progress>,
    /// Whether the user gave the chunk size.
    fixed: bool,
    /// Nobody will take results any more: whoever feeds drops them.
    abandoned: AtomicBool,
}

/// A list of outcomes, and those of them that are failures, by index.
type Outcomes<'py> = (Bound<'py, PyList>, Vec<(u64, Py<PyAny>)>);

impl Job {
    pub(crate) fn new(
        pool: Arc<pool::Pool>,
        handle: Arc<Handle>,
        held: bool,
        fixed: bool,
        manner: Manner,
    ) -> Self {
        let progress = Mutex::new(Progress { manner, together: held, ..Progress::default() });
        Self { pool, handle, progress, fixed, abandoned: AtomicBool::new(false) }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, py: Python<'_>, feeding: bool, taking: Taking, patience: Duration) -> PyResult<Turn> {
        let turn = self.handle.turn(feeding, taking, Duration::ZERO);
        if !matches!(turn, Turn::Nothing) || patience.is_zero() {
            return Ok(turn);
        }
        let turn = py.detach(|| self.handle.turn(feeding, taking, patience.min(TICK)));
        py.check_signals()?;
        Ok(turn)
    }

    /// Pulls a chunk of up to `count` items and submits it. Python code runs here, so no lock is held meanwhile: only
    /// one thread feeds a job.
    fn pull(&self, py: Python<'_>, iterator: &Bound<'_, PyIterator>, count: u32) -> PyResult<()> {
        let together = self.progress().together;
        let more = if together {
            self.pull_together(py, iterator, count)
        } else {
            self.pull_one_by_one(py, iterator, count)
        };
        if !more? {
            self.exhaust();
        }
        Ok(())
    }

    /// From a list or the like: all items exist already, so a chunk is one pickle. Whether there may be more.
    ///
    /// Where items share an object, one pickle would make them share its copy too, and whether one sees what another
    /// wrote would hang on how they were cut into chunks: from there on the job goes on one by one.
    fn pull_together(&self, py: Python<'_>, iterator: &Bound<'_, PyIterator>, count: u32) -> PyResult<bool> {
        // list(islice(iterator, count)): a third of the time of taking the items one by one.
        let slice =
            py.import(intern!(py, "itertools"))?.call_method1(intern!(py, "islice"), (iterator, count))?;
        let items = py.get_type::<PyList>().call1((slice,))?.cast_into::<PyList>()?;
        let more = items.len() == count as usize;
        if items.len() > 1 && share_parts(&items)? {
            let mut progress = self.progress();
            progress.together = false;
            progress.backlog = items.iter().map(Bound::unbind).collect();
            drop(progress);
            return self.pull_one_by_one(py, iterator, count);
        }
        if !items.is_empty() {
            let payload = self.encode(py, &items, self.position())?;
            self.submit(items.len() as u32, payload, Some(&items));
        }
        Ok(more)
    }

    /// From an iterator, which may yield one buffer again and again with new contents: each item is encoded before the
    /// next is pulled. Small ones travel together, each a pickle of its own; a large one travels alone.
    fn pull_one_by_one(
        &self,
        py: Python<'_>,
        iterator: &Bound<'_, PyIterator>,
        count: u32,
    ) -> PyResult<bool> {
        let mut pickles: Vec<Bound<'_, PyBytes>> = Vec::new();
        let pending = self.progress().pending.take();
        if let Some(alone) = pending {
            self.submit(1, alone, None);
            return Ok(true);
        }
        let mut items = iterator.clone();
        let ended = loop {
            if pickles.len() == count as usize {
                break Ok(true);
            }
            let waiting = self.progress().backlog.pop_front();
            let item = match waiting.map(|item| Ok(item.into_bound(py))).or_else(|| items.next()) {
                Some(Ok(item)) => item,
                Some(Err(error)) => break Err(error),
                None => break Ok(false),
            };
            let list = PyList::new(py, [item])?;
            let position = self.position() + pickles.len() as u64;
            let sink = self.dump(py, &list, position)?;
            let sink = sink.bind(py).borrow();
            if count > 1
                && let Some(bytes) = sink.small(py)
            {
                pickles.push(bytes);
                continue;
            }
            let alone = sink.pack(py, self.pool.arena())?;
            if pickles.is_empty() {
                self.submit(1, alone, None);
                return Ok(true);
            }
            self.progress().pending = Some(alone);
            break Ok(true);
        };
        // As with the standard library, what an iterable gave of a chunk of the user's size before it raised is lost.
        if !pickles.is_empty() && (ended.is_ok() || !self.fixed) {
            let together = PyTuple::new(py, &pickles)?;
            let payload = encode(py, together.as_any(), self.pool.arena(), &mut Manner::Plain)?;
            self.submit(pickles.len() as u32, payload, None);
        }
        ended
    }

    fn position(&self) -> u64 {
        self.progress().position
    }

    /// Submits a chunk; `items` if it may have to be encoded again.
    fn submit(&self, count: u32, payload: Payload, items: Option<&Bound<'_, PyList>>) {
        let mutable = payload.mutable() && count > 1;
        let first = self.position();
        let chunk = self.pool.submit(self.handle.id(), first, count, payload);
        let mut progress = self.progress();
        progress.position += u64::from(count);
        if let Some(items) = items
            && mutable
        {
            let retained = Retained { chunk, items: items.clone().unbind(), unanswered: count };
            progress.retained.insert(first, retained);
        }
    }

    /// Encodes a list of items, the first of which has index `first`.
    fn encode(&self, py: Python<'_>, items: &Bound<'_, PyList>, first: u64) -> PyResult<Payload> {
        let sink = self.dump(py, items, first)?;
        sink.bind(py).borrow().pack(py, self.pool.arena())
    }

    /// Pickles a list of items. Those that cannot be sent are replaced by their failures, which the worker hands back
    /// in their places, so that nothing else is disturbed.
    fn dump(&self, py: Python<'_>, items: &Bound<'_, PyList>, first: u64) -> PyResult<Py<Sink>> {
        let mut manner = self.progress().manner;
        let attempt = dump_list(py, items, &mut manner);
        self.progress().manner = manner;
        let error = match attempt {
            Ok(sink) => return Ok(sink),
            Err(error) if !error.is_instance_of::<PyException>(py) => return Err(error),
            Err(error) => error,
        };
        let unsendable = py.import("forklift._outcome")?.getattr("unsendable_item")?;
        for index in 0..items.len() {
            let item = items.get_item(index)?;
            let culprit = if items.len() == 1 {
                Some(error.clone_ref(py))
            } else {
                dump(py, PyList::new(py, [&item])?.as_any(), &mut manner).err()
            };
            if let Some(error) = culprit {
                items
                    .set_item(index, unsendable.call1((item, first + index as u64, error.into_value(py)))?)?;
            }
        }
        dump_list(py, items, &mut manner)
    }

    fn restore(&self, py: Python<'_>, chunk: ChunkId) -> PyResult<()> {
        let (first, items) = {
            let progress = self.progress();
            let found = progress.retained.iter().find(|(_, retained)| retained.chunk == chunk);
            let Some((first, retained)) = found else { return Ok(()) };
            (*first, retained.items.clone_ref(py))
        };
        let payload = self.encode(py, items.bind(py), first)?;
        self.pool.restore(chunk, payload);
        Ok(())
    }

    fn decode<'py>(&self, py: Python<'py>, answer: Answer) -> PyResult<Outcomes<'py>> {
        self.note_answer(answer.first, answer.items);
        let failure = py.import("forklift._outcome")?;
        match answer.outcome {
            Outcome::Lost(end) => {
                let error = death(py, answer.first, &end)?;
                Ok((PyList::new(py, [py.None()])?, vec![(answer.first, error)]))
            }
            Outcome::Values(parcel) => {
                let list = match decode(py, parcel).and_then(|list| Ok(list.cast_into::<PyList>()?)) {
                    Ok(list) => list,
                    Err(error) if !error.is_instance_of::<PyException>(py) => return Err(error),
                    Err(error) => {
                        let error =
                            failure.call_method1("undecodable_result", (error.into_value(py),))?.unbind();
                        let nothing = PyList::new(py, (0..answer.items).map(|_| py.None()))?;
                        let range = answer.first..answer.first + u64::from(answer.items);
                        return Ok((nothing, range.map(|index| (index, error.clone_ref(py))).collect()));
                    }
                };
                let mut failures = Vec::new();
                if answer.failed > 0 {
                    let class = failure.getattr("Failure")?;
                    for (offset, value) in list.iter().enumerate() {
                        if value.get_type().is(&class) {
                            let index = answer.first + offset as u64;
                            let error = failure.call_method1("revive", (value, index))?;
                            failures.push((index, error.unbind()));
                            list.set_item(offset, py.None())?;
                        }
                    }
                }
                Ok((list, failures))
            }
        }
    }

    /// Items that were answered need not be kept.
    fn note_answer(&self, first: u64, items: u32) {
        let mut progress = self.progress();
        let Some((&start, retained)) = progress.retained.range_mut(..=first).next_back() else { return };
        retained.unanswered = retained.unanswered.saturating_sub(items);
        let gone = (retained.unanswered == 0).then(|| progress.retained.remove(&start));
        // Dropping items runs Python code, which may come back here.
        drop(progress);
        drop(gone);
    }
}

#[pymethods]
impl Job {
    /// Feeds the job from `iterator` and takes all its results, until it is finished. Returns the list of results in
    /// order, with None where an item failed, and a list of `(index, exception)` in order of index.
    ///
    /// Raises what the iterator raises, `KeyboardInterrupt`, and the fault of a job that cannot go on; the caller then
    /// cancels. The interpreter's lock is released while nothing has come. `done(items)` is called after each answer.
    #[pyo3(signature = (iterator, done=None))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        iterator: &Bound<'py, PyIterator>,
        done: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Outcomes<'py>> {
        let results = PyList::empty(py);
        let mut failures = Vec::new();
        loop {
            let feeding = !self.progress().exhausted;
            match self.turn(py, feeding, Taking::Any, TICK)? {
                Turn::Feed(count) => self.pull(py, iterator, count)?,
                Turn::Restore(chunk) => self.restore(py, chunk)?,
                Turn::Answer(answer) => {
                    let (first, count) = (answer.first as usize, answer.items);
                    let (list, failed) = self.decode(py, answer)?;
                    failures.extend(failed);
                    place(py, &results, first, &list)?;
                    if let Some(done) = done {
                        done.call1((count,))?;
                    }
                }
                Turn::Finished => break,
                Turn::Failed(reason) => return Err(fault(py, &reason)),
                Turn::Nothing => {}
            }
        }
        failures.sort_by_key(|(index, _)| *index);
        Ok((results, failures))
    }

    /// Feeds the job from `iterator` until it is finished, however it ends. Somebody else takes the results, or nobody:
    /// see `abandon`.
    fn feed(&self, py: Python<'_>, iterator: &Bound<'_, PyIterator>) -> PyResult<()> {
        loop {
            let feeding = !self.progress().exhausted;
            let taking = if self.abandoned.load(Ordering::Relaxed) { Taking::Any } else { Taking::Nothing };
            match self.turn(py, feeding, taking, TICK)? {
                Turn::Feed(count) => self.pull(py, iterator, count)?,
                Turn::Restore(chunk) => self.restore(py, chunk)?,
                Turn::Finished | Turn::Failed(_) => return Ok(()),
                Turn::Answer(answer) => {
                    self.note_answer(answer.first, answer.items);
                    self.pool.consume(self.handle.id(), u64::from(answer.items), answer.bytes);
                }
                Turn::Nothing => {}
            }
        }
    }

    /// Nobody will take the results: they are dropped as they come, and the job runs to its end.
    fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// No more items come: those that were taken are all.
    fn exhaust(&self) {
        let mut progress = self.progress();
        if !progress.exhausted && progress.pending.is_none() && progress.backlog.is_empty() {
            progress.exhausted = true;
            self.pool.exhaust(self.handle.id(), progress.position);
        }
    }

    /// Submits one item, as its own chunk, without waiting for credit: `apply`.
    fn submit_one(&self, py: Python<'_>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let items = PyList::new(py, [item])?;
        let payload = self.encode(py, &items, 0)?;
        self.submit(1, payload, None);
        self.exhaust();
        Ok(())
    }

    /// Waits up to `timeout` seconds (None: for ever) for results: those from item `first` on, or any. Returns
    /// `(first, values, failures, weight)`, `()` when all have been taken, None when the time is up. `weight` is what to
    /// tell `consume`, in bytes; None for an item that was lost, which nobody has to be told of.
    #[pyo3(signature = (first=None, timeout=None))]
    fn take<'py>(
        &self,
        py: Python<'py>,
        first: Option<u64>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let deadline =
            timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
        let taking = first.map_or(Taking::Any, Taking::From);
        loop {
            let patience =
                deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()));
            match self.turn(py, false, taking, patience)? {
                Turn::Restore(chunk) => self.restore(py, chunk)?,
                Turn::Answer(answer) => {
                    let first = answer.first;
                    let weight = matches!(answer.outcome, Outcome::Values(_)).then_some(answer.bytes);
                    let (list, failures) = self.decode(py, answer)?;
                    return Ok((first, list, failures, weight).into_pyobject(py)?.into_any());
                }
                Turn::Finished => return Ok(PyTuple::empty(py).into_any()),
                Turn::Failed(reason) => return Err(fault(py, &reason)),
                Turn::Feed(_) | Turn::Nothing => {
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Ok(py.None().into_bound(py));
                    }
                }
            }
        }
    }

    /// Waits up to `timeout` seconds (None: for ever) until nothing more will come; whether that is so.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let deadline =
            timeout.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 1e9)));
        while !self.handle.finished() {
            let patience =
                deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()));
            if patience.is_zero() {
                return Ok(false);
            }
            if let Turn::Restore(chunk) = self.turn(py, false, Taking::Nothing, patience)? {
                self.restore(py, chunk)?;
            }
        }
        Ok(true)
    }

    /// Whether nothing more will come.
    fn finished(&self) -> bool {
        self.handle.finished()
    }

    /// Items answered so far.
    fn answered(&self) -> u64 {
        self.handle.answered()
    }

    /// The number under which the end of this job is announced.
    fn id(&self) -> u64 {
        self.handle.id().0
    }

    /// The consumer of a streamed job has taken so many items, and results of this weight.
    fn consume(&self, items: u64, bytes: u64) {
        self.pool.consume(self.handle.id(), items, bytes);
    }

    /// Nothing more is wanted.
    fn cancel(&self) {
        self.pool.cancel(self.handle.id());
    }
}

/// Puts values into a list from `first` on, which grows as far as needed.
fn place<'py>(
    py: Python<'py>,
    results: &Bound<'py, PyList>,
    first: usize,
    values: &Bound<'py, PyList>,
) -> PyResult<()> {
    let length = results.len();
    if length == first {
        return results.set_slice(length, length, values);
    }
    let end = first + values.len();
    if length < end {
        let missing = PyList::new(py, (length..end).map(|_| py.None()))?;
        results.set_slice(length, length, &missing)?;
    }
    results.set_slice(first, end, values)
}

/// Whether two items are, or directly hold, one and the same object that could be changed.
fn share_parts(items: &Bound<'_, PyList>) -> PyResult<bool> {
    let mut seen = HashSet::new();
    // Items are mostly of one kind: that of the last constant is asked for first.
    let mut constant = std::ptr::null_mut();
    for item in items.iter() {
        if item.get_type_ptr() == constant {
            continue;
        }
        if is_constant(&item) {
            constant = item.get_type_ptr();
            continue;
        }
        if let Ok(tuple) = item.cast_exact::<PyTuple>() {
            // A part that one item holds twice is no sharing between items.
            let parts: HashSet<usize> =
                tuple.iter().filter(|part| !is_constant(part)).map(|part| part.as_ptr() as usize).collect();
            if parts.into_iter().any(|part| !seen.insert(part)) {
                return Ok(true);
            }
            continue;
        }
        let mut parts = HashSet::from([item.as_ptr() as usize]);
        if let Ok(dict) = item.cast_exact::<PyDict>() {
            parts.extend(
                dict.values().iter().filter(|part| !is_constant(part)).map(|part| part.as_ptr() as usize),
            );
        } else if let Ok(list) = item.cast_exact::<PyList>()
            && list.len() <= PARTS_MAX
        {
            parts.extend(list.iter().filter(|part| !is_constant(part)).map(|part| part.as_ptr() as usize));
        }
        if parts.into_iter().any(|part| !seen.insert(part)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an object cannot be changed and holds no other.
fn is_constant(object: &Bound<'_, PyAny>) -> bool {
    object.is_none()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyBool>()
}
