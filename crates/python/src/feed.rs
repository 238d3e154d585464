//! One job as Python holds it: pulls items while there is credit, encodes and submits them, takes results.
//!
//! ```text
//!   items   ── asked for ──▶ given by Python code ── encode ──▶ submit  (with the interpreter's lock)
//!   results ◀── decode ◀── Answer ◀── turn (waits without it, in ticks, so that Ctrl-C is seen)
//! ```

mod encoding;
mod keeping;
mod pulling;

use crate::anchors::{Anchors, Function, Shared};
use crate::error::{fault, not_ours};
use crate::outcomes::{self, Outcomes};
use crate::parcel::PyParcel;
use crate::pickle::Manner;
use crate::seconds::deadline;
use crate::sharing::Sharing;
use crate::sink::Way;
use crate::store::Lease;
use crate::telemetry::Telemetry;
use crate::visits::Visit;
use forklift_core::event::Kept;
use forklift_core::handle::{Answer, Handle, Taking, Turn};
use forklift_core::payload::Payload;
use forklift_core::pool;
use forklift_core::telemetry::{Doing, Recorder};
use forklift_shm::{Arena, Held, Lock};
use keeping::Retained;
use pulling::Begun;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a waiting thread looks after signals.
const TICK: Duration = Duration::from_millis(50);

fn patience(deadline: Option<Instant>) -> Duration {
    deadline.map_or(TICK, |deadline| deadline.saturating_duration_since(Instant::now()))
}

/// An item that waits to be encoded, and what it holds of what was sent to all workers; None if that was not looked for.
struct Pulled {
    item: Py<PyAny>,
    shared: Option<Vec<Arc<Shared>>>,
}

/// How far the items have been taken.
#[derive(Default)]
struct Progress {
    position: u64,
    exhausted: bool,
    manner: Manner,
    /// Whether a chunk is one pickle: all its items exist before they are pulled, keep their contents, and are separate.
    together: bool,
    /// Items that were pulled and are not encoded.
    backlog: VecDeque<Pulled>,
    /// A chunk that was encoded and waits for credit.
    pending: Option<Payload>,
    /// What items were seen to share.
    sharing: Sharing,
    /// Where the last item's largest buffer was, and its bytes.
    place: Option<(usize, usize)>,
    /// A chunk whose next item was asked for.
    begun: Option<Begun>,
    /// When a list of items was asked for.
    asked: Option<Instant>,
    /// By the index of their first item.
    retained: BTreeMap<u64, Retained>,
}

/// One job.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Job {
    pool: Arc<pool::Pool>,
    handle: Arc<Handle>,
    recorder: Arc<Recorder>,
    progress: Lock<Progress>,
    /// What items may refer to in the function, and the anchors for it, if that is little.
    function: Function,
    anchors: Anchors,
    /// Whether an item was seen to refer to a function that has many parts.
    referring: AtomicBool,
    /// Whether all items exist before they are pulled, and keep their contents until the job is done.
    held: bool,
    /// Whether an item is tried again after its worker died.
    tried_again: bool,
    /// Whether the user gave the chunk size.
    fixed: bool,
    /// Whether items are looked through for what they share: not if they are made as they are pulled, and addresses recur.
    sharing: bool,
    /// How many there are, if they are numbers from 0 on. Then they are not pulled, but sent as ranges.
    numbers: Option<u64>,
    /// Nobody will take results any more: whoever feeds drops them.
    abandoned: AtomicBool,
}

impl Job {
    #[expect(clippy::too_many_arguments, reason = "from one place")]
    pub(crate) fn new(
        py: Python<'_>,
        pool: Arc<pool::Pool>,
        handle: Arc<Handle>,
        recorder: Arc<Recorder>,
        held: bool,
        tried_again: bool,
        fixed: bool,
        manner: Manner,
        share_bytes: Option<u64>,
        numbers: Option<u64>,
        function: Function,
    ) -> PyResult<Self> {
        let sharing = Sharing::new(share_bytes.unwrap_or(0));
        let progress = Lock::new(Progress { manner, together: held, sharing, ..Progress::default() });
        let anchors =
            if function.is_large() { Anchors::default() } else { Anchors::new(py, &function, None, &[])? };
        Ok(Self {
            pool,
            handle,
            recorder,
            progress,
            function,
            anchors,
            referring: AtomicBool::new(false),
            held,
            tried_again,
            fixed,
            sharing: share_bytes.is_some(),
            numbers,
            abandoned: AtomicBool::new(false),
        })
    }

    /// Where items are packed. One that may be tried again must be as it was, whatever a worker that died has done to it:
    /// then it goes where workers see it copy-on-write.
    fn arena(&self) -> &Arena {
        if self.tried_again { self.pool.broadcast() } else { self.pool.arena() }
    }

    fn progress(&self) -> Held<'_, Progress> {
        self.progress.lock()
    }

    fn turn(&self, py: Python<'_>, feeding: bool, taking: Taking, patience: Duration) -> PyResult<Turn> {
        let turn = self.handle.turn(feeding, taking, Duration::ZERO);
        if !matches!(turn, Turn::Nothing) || patience.is_zero() {
            return Ok(turn);
        }
        self.check_ours()?;
        let begun = Instant::now();
        let turn = py.detach(|| self.handle.turn(feeding, taking, patience.min(TICK)));
        match taking {
            _ if feeding => self.recorder.spend(Doing::WaitForRoom, begun.elapsed()),
            Taking::Any | Taking::From(_) => self.recorder.spend(Doing::WaitForResults, begun.elapsed()),
            Taking::Nothing => {}
        }
        py.check_signals()?;
        Ok(turn)
    }

    fn position(&self) -> u64 {
        self.progress().position
    }

    fn decode<'py>(&self, py: Python<'py>, answer: Answer) -> PyResult<Outcomes<'py>> {
        let begun = Instant::now();
        self.note_answer(answer.first, answer.items);
        let outcomes = outcomes::open(py, answer);
        self.recorder.spend(Doing::DecodeResult, begun.elapsed());
        outcomes
    }
}

#[pymethods]
impl Job {
    /// Waits for what is to be done next, for a while: None, nothing more will come; a number, so many items are to be given
    /// (0: nothing has come); `(first, values, failures, items)`, results, with None where an item failed.
    ///
    /// With `taking` the caller takes the results, and the fault of a job that cannot go on is raised. Without, somebody
    /// else does, or nobody: see `abandon`.
    fn next_turn<'py>(&self, py: Python<'py>, taking: bool) -> PyResult<Option<Bound<'py, PyAny>>> {
        let _visit = Visit::begin()?;
        let feeding = !self.progress().exhausted;
        let abandoned = self.abandoned.load(Ordering::Relaxed);
        let wanted = if taking || abandoned { Taking::Any } else { Taking::Nothing };
        match self.turn(py, feeding, wanted, TICK)? {
            Turn::Feed(count) => {
                if !self.feed_numbers(py, count)? {
                    self.progress().asked = Some(Instant::now());
                    return Ok(Some(count.into_pyobject(py)?.into_any()));
                }
            }
            Turn::Restore { chunk, .. } => self.restore(py, chunk)?,
            Turn::Answer(answer) if taking => {
                let (first, items) = (answer.first, answer.items);
                let (list, failed) = self.decode(py, answer)?;
                return Ok(Some((first, list, failed, items).into_pyobject(py)?.into_any()));
            }
            Turn::Answer(answer) => {
                self.note_answer(answer.first, answer.items);
                self.pool.consume(self.handle.id(), u64::from(answer.items), answer.bytes);
            }
            Turn::Failed(reason) if taking => return Err(fault(py, &reason)),
            Turn::Finished | Turn::Failed(_) => return Ok(None),
            Turn::Nothing => {}
        }
        Ok(Some(0u32.into_pyobject(py)?.into_any()))
    }

    /// Whether a chunk's items are to be given together.
    fn takes_lists(&self) -> bool {
        self.progress().together
    }

    /// Takes the items that were asked for, all that there are if they are fewer than `count`. False if they are to go one
    /// by one: they are kept, and `wants` says what is missing.
    fn give_list(&self, items: &Bound<'_, PyList>, count: u32) -> PyResult<bool> {
        let _visit = Visit::begin()?;
        self.pull_together(items, count)
    }

    /// Begins a chunk of up to `count` items that are given one by one; whether one is wanted.
    fn wants(&self, py: Python<'_>, count: u32) -> PyResult<bool> {
        let _visit = Visit::begin()?;
        self.begin_chunk(py, count)
    }

    /// Takes an item, out of a list of one; whether another one is wanted.
    fn give(&self, py: Python<'_>, item: &Bound<'_, PyList>) -> PyResult<bool> {
        let _visit = Visit::begin()?;
        self.take_in(py, item)
    }

    /// There is no item to be given: the iterable has ended, or has raised.
    fn give_up(&self, py: Python<'_>, raised: bool) -> PyResult<()> {
        let _visit = Visit::begin()?;
        self.end_chunk(py, raised)
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

    /// Submits one item, as its own chunk, without waiting for credit: `apply`. Returns its weight in bytes, which counts
    /// in the pool's load (see `Pool.has_room`) until the job ends. Where it raises, Ctrl-C above all, nobody will have the job's result: it is cancelled.
    fn submit_one(&self, py: Python<'_>, item: &Bound<'_, PyAny>) -> PyResult<u64> {
        let _visit = Visit::begin()?;
        let begun = Instant::now();
        let items = PyList::new(py, [item])?;
        let payload = self.encode(&items, 0, Way::Lend).inspect_err(|_| self.cancel())?;
        let bytes = payload.bytes();
        self.recorder.spend(Doing::Encode, begun.elapsed().saturating_sub(payload.packing()));
        self.handle.weigh(self.pool.load(), bytes);
        self.submit(1, payload);
        self.exhaust();
        Ok(bytes)
    }

    /// Submits a chunk that was encoded elsewhere, the only one of its job: of `lead` and `count` items, those after the
    /// first `lead` are to be done, and the first of these is called `first`. What `take_parcel` gives is for it. What a
    /// `lease` is for is lent from there.
    #[pyo3(signature = (parcel, first, count, lead, retained, lease=None))]
    #[expect(clippy::too_many_arguments, reason = "from one place")]
    fn submit_parcel(
        &self,
        py: Python<'_>,
        parcel: &Bound<'_, PyParcel>,
        first: u64,
        count: u32,
        lead: u32,
        retained: bool,
        lease: Option<&Bound<'_, Lease>>,
    ) -> PyResult<()> {
        let _visit = Visit::begin()?;
        let payload = self.pack(py, parcel, lease.map(Bound::get))?;
        // The parcel stays as it came, whatever workers do to what is made of it.
        let kept = if retained { Kept::OneByOne } else { Kept::AsSent };
        self.pool.submit_rest(self.handle.id(), first, count, payload, lead, kept);
        self.pool.exhaust(self.handle.id(), u64::from(count));
        Ok(())
    }

    /// As `take`, for results that are passed on as they are: `(first, items, failed, outcome, seconds)`, where `outcome`
    /// is their parcel, or the exception of one item that was lost, and `seconds` those of decoding, calling, encoding.
    /// What was submitted is submitted again from `parcel` when a worker has damaged it; False if it has to come in
    /// another form, its items apart.
    fn take_parcel<'py>(
        &self,
        py: Python<'py>,
        parcel: &Bound<'py, PyParcel>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _visit = Visit::begin()?;
        loop {
            match self.turn(py, false, Taking::Any, TICK)? {
                Turn::Restore { apart: true, .. } => {
                    return Ok(false.into_pyobject(py)?.to_owned().into_any());
                }
                Turn::Restore { chunk, .. } => self.pool.restore(chunk, self.pack(py, parcel, None)?),
                Turn::Answer(answer) => return outcomes::pass_on(py, answer),
                Turn::Finished => return Ok(py.None().into_bound(py)),
                Turn::Failed(reason) => return Err(fault(py, &reason)),
                Turn::Feed(_) | Turn::Nothing => {}
            }
        }
    }

    /// Waits up to `timeout` seconds (None: for ever) for results: those from item `first` on, or any. Returns
    /// `(first, values, failures, weight)`, `()` when all have been taken, None when the time is up. `weight` is what to
    /// tell `consume`, in bytes; an item that was lost weighs nothing, and is taken like any other.
    #[pyo3(signature = (first=None, timeout=None))]
    fn take<'py>(
        &self,
        py: Python<'py>,
        first: Option<u64>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _visit = Visit::begin()?;
        let deadline = deadline(timeout)?;
        let taking = first.map_or(Taking::Any, Taking::From);
        loop {
            let patience = patience(deadline);
            match self.turn(py, false, taking, patience)? {
                Turn::Restore { chunk, .. } => self.restore(py, chunk)?,
                Turn::Answer(answer) => {
                    let first = answer.first;
                    let weight = answer.bytes;
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
        let _visit = Visit::begin()?;
        let deadline = deadline(timeout)?;
        while !self.handle.finished() {
            let patience = patience(deadline);
            if patience.is_zero() {
                return Ok(false);
            }
            if let Turn::Restore { chunk, .. } = self.turn(py, false, Taking::Nothing, patience)? {
                self.restore(py, chunk)?;
            }
        }
        Ok(true)
    }

    /// Raises `RuntimeError` in a fork of the process that made the call, where nothing more will ever come.
    fn check_ours(&self) -> PyResult<()> {
        if self.pool.is_ours() { Ok(()) } else { Err(not_ours()) }
    }

    /// Whether nothing more will come.
    fn finished(&self) -> bool {
        self.handle.finished()
    }

    /// What can be asked the same when this is gone.
    fn ending(&self) -> Ending {
        Ending(self.handle.ended())
    }

    /// Items submitted so far.
    fn submitted(&self) -> u64 {
        self.position()
    }

    /// Items answered so far.
    fn answered(&self) -> u64 {
        self.handle.answered()
    }

    /// The record of the call.
    fn telemetry(&self) -> Telemetry {
        Telemetry { recorder: Arc::clone(&self.recorder) }
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

/// The end of a job. It keeps no answers alive.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Ending(Arc<AtomicBool>);

#[pymethods]
impl Ending {
    /// Whether nothing more will come.
    fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
