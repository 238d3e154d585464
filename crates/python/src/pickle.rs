//! Objects to payload: pickle protocol 5, its large parts left where they are until the one copy.
//!
//! The C pickler writes to a [`Sink`], which refers to what is large.

use crate::anchors::{Anchors, Function};
use crate::once::Once;
use crate::parcel::PyParcel;
use crate::sink::{Sink, Way};
use crate::standin::substitute;
use forklift_core::payload::Payload;
use forklift_shm::Arena;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Packs, in the place of items for which there is no memory, the failure of each. Any other error stays one.
pub(crate) fn refuse(py: Python<'_>, arena: &Arena, items: Range<u64>, error: PyErr) -> PyResult<Payload> {
    let outcome = py.import("forklift._outcome")?;
    if !error.value(py).is_instance(&outcome.getattr("MemoryLimitExceeded")?)? {
        return Err(error);
    }
    let failures = PyList::empty(py);
    for index in items {
        failures.append(outcome.call_method1("refused_item", (error.value(py), index))?)?;
    }
    encode(py, failures.as_any(), arena, &mut Manner::default())
}

/// The Python side of pickling, looked up once. Picklers of results know what came from their receiver.
struct Tools {
    pickler: Py<PyAny>,
    result_pickler: Py<PyAny>,
    cloud_pickler: Py<PyAny>,
}

static TOOLS: Once<Tools> = Once::new();
static IN_WORKER: AtomicBool = AtomicBool::new(false);

pub(crate) fn in_worker() -> bool {
    IN_WORKER.load(Ordering::Relaxed)
}

/// From now on this process is a worker.
pub(crate) fn become_worker() {
    IN_WORKER.store(true, Ordering::Relaxed);
}

fn tools(py: Python<'_>) -> PyResult<&'static Tools> {
    TOOLS.get(|| {
        let module = py.import("forklift._pickling")?;
        Ok(Tools {
            pickler: module.getattr("Pickler")?.unbind(),
            result_pickler: module.getattr("ResultPickler")?.unbind(),
            cloud_pickler: module.getattr("cloud_pickler_class")?.unbind(),
        })
    })
}

/// How to pickle the objects of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Manner {
    /// With cloudpickle, which can send functions and classes by value, rather than with the interpreter's own pickler.
    /// Once an object of a job needed the slower one, later ones probably do as well.
    pub(crate) cloud: bool,
    /// For a receiver on another machine, which has neither our files nor our descriptors.
    pub(crate) elsewhere: bool,
    /// For the process that this worker serves, which has the definitions that it sent. A pool within a worker pickles as
    /// any other does: its own workers have none of them.
    pub(crate) upward: bool,
}

impl Manner {
    /// That of a pool whose workers are on other machines, or here.
    pub(crate) fn towards(elsewhere: bool) -> Self {
        Self { elsewhere, ..Self::default() }
    }

    /// That of a worker's results.
    pub(crate) fn upward() -> Self {
        Self { upward: true, ..Self::default() }
    }
}

/// Picklers at work for receivers on other machines. Reducers ask for it: they are functions of an object alone. While one
/// is at work, what another thread pickles for this machine is copied as well, which does no harm.
static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);

/// Counts one of them.
struct Departure;

impl Departure {
    fn new() -> Self {
        ELSEWHERE.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        ELSEWHERE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether what is pickled now may be for another machine.
#[pyfunction]
pub(crate) fn departing() -> bool {
    ELSEWHERE.load(Ordering::Relaxed) > 0
}

/// What a pickler has written, and the pickler, unless it was pickled before.
pub(crate) struct Written<'py> {
    pub(crate) sink: Bound<'py, Sink>,
    pickler: Option<Bound<'py, PyAny>>,
    manner: Manner,
}

impl<'py> Written<'py> {
    /// What was pickled, by address: `{address: (number, object)}`.
    pub(crate) fn memo(&self) -> PyResult<Bound<'py, PyDict>> {
        let py = self.sink.py();
        let Some(pickler) = &self.pickler else { return Ok(PyDict::new(py)) };
        let memo = pickler.getattr(intern!(py, "memo"))?.call_method0(intern!(py, "copy"))?;
        Ok(memo.cast_into::<PyDict>()?)
    }

    /// What was written. The pickler is let go of, and with it what it has in its memo.
    pub(crate) fn into_sink(self) -> Bound<'py, Sink> {
        self.sink
    }

    /// A copy of the whole, if it is small, and then the pickler is kept for the next object; or itself.
    pub(crate) fn into_small(self) -> PyResult<Result<Bound<'py, PyBytes>, Self>> {
        let py = self.sink.py();
        let Some(bytes) = self.sink.borrow().small(py) else { return Ok(Err(self)) };
        if let Some(pickler) = self.pickler {
            pickler.call_method0(intern!(py, "clear_memo"))?;
            self.sink.borrow_mut().clear();
            let spare = Spare { manner: self.manner, sink: self.sink.unbind(), pickler: pickler.unbind() };
            drop(SPARE.with(|kept| kept.replace(Some(spare))));
        }
        Ok(Ok(bytes))
    }
}

thread_local! {
    /// A pickler that was used for a small object, and its sink: to make both takes as long as to pickle such an object.
    static SPARE: RefCell<Option<Spare>> = const { RefCell::new(None) };
}

struct Spare {
    manner: Manner,
    sink: Py<Sink>,
    pickler: Py<PyAny>,
}

/// A pickler and its sink.
fn pickler(py: Python<'_>, manner: Manner) -> PyResult<(Bound<'_, Sink>, Bound<'_, PyAny>)> {
    if let Some(spare) = SPARE.with(RefCell::take)
        && spare.manner == manner
    {
        return Ok((spare.sink.into_bound(py), spare.pickler.into_bound(py)));
    }
    let tools = tools(py)?;
    let sink = Bound::new(py, Sink::default())?;
    let options = PyDict::new(py);
    options.set_item(intern!(py, "buffer_callback"), sink.getattr(intern!(py, "buffer"))?)?;
    let class = match (manner.cloud, manner.upward) {
        (false, false) => tools.pickler.bind(py).clone(),
        (false, true) => tools.result_pickler.bind(py).clone(),
        (true, upward) => tools.cloud_pickler.bind(py).call1((upward,))?,
    };
    let pickler = class.call((&sink, 5), Some(&options))?;
    Ok((sink, pickler))
}

fn attempt<'py>(object: &Bound<'py, PyAny>, manner: Manner, anchors: &Anchors) -> PyResult<Written<'py>> {
    let py = object.py();
    if let Ok(parcel) = object.cast_exact::<PyParcel>() {
        return Ok(Written { sink: Bound::new(py, Sink::of(py, parcel.get())?)?, pickler: None, manner });
    }
    let _departure = manner.elsewhere.then(Departure::new);
    let (sink, pickler) = pickler(py, manner)?;
    if let Some((memo, prologue)) = anchors.preset(py) {
        pickler.setattr(intern!(py, "memo"), memo)?;
        sink.borrow_mut().append(prologue);
    }
    pickler.call_method1(intern!(py, "dump"), (object,))?;
    Ok(Written { sink, pickler: Some(pickler), manner })
}

/// Pickles an object, by reference where it is large: plainly if that is possible, else with cloudpickle; `manner` is
/// told.
///
/// # Errors
/// What the second attempt raises.
pub(crate) fn dump<'py>(object: &Bound<'py, PyAny>, manner: &mut Manner) -> PyResult<Bound<'py, Sink>> {
    Ok(write(object, manner, &Anchors::default())?.sink)
}

/// As [`dump`], with references to the anchors in the place of what they are.
///
/// # Errors
/// As [`dump`].
pub(crate) fn write<'py>(
    object: &Bound<'py, PyAny>,
    manner: &mut Manner,
    anchors: &Anchors,
) -> PyResult<Written<'py>> {
    match attempt(object, *manner, anchors) {
        Err(error) if !manner.cloud && error.is_instance_of::<PyException>(object.py()) => {
            let cloud = Manner { cloud: true, ..*manner };
            let written = attempt(object, cloud, anchors)?;
            *manner = cloud;
            Ok(written)
        }
        outcome => outcome,
    }
}

/// Pickles a list of items or results: as [`write`], with stand-ins where pickle would copy more often, but for what
/// `kept` says yes to.
///
/// # Errors
/// As [`dump`].
pub(crate) fn write_list<'py>(
    list: &Bound<'py, PyList>,
    manner: &mut Manner,
    anchors: &Anchors,
    kept: &dyn Fn(&Bound<'_, PyAny>) -> bool,
) -> PyResult<Written<'py>> {
    write(&substitute(list, kept)?, manner, anchors)
}

/// As [`write_list`], without anchors.
///
/// # Errors
/// As [`dump`].
pub(crate) fn dump_list<'py>(list: &Bound<'py, PyList>, manner: &mut Manner) -> PyResult<Written<'py>> {
    write_list(list, manner, &Anchors::default(), &|_| false)
}

/// Pickles a function for a job, as `(callable, shape)`, into blocks of `arena`. Says which parts of it items can refer to.
///
/// # Errors
/// As [`encode`].
pub(crate) fn encode_function(
    crossing: &Bound<'_, PyAny>,
    arena: &Arena,
    manner: &mut Manner,
) -> PyResult<(Payload, Function)> {
    let written = write(crossing, manner, &Anchors::default())?;
    let memo = written.memo()?;
    // The pair itself is nobody's.
    let pair = crossing.as_ptr().addr();
    if memo.contains(pair)? {
        memo.del_item(pair)?;
    }
    let (function, end) = Function::of(&memo)?;
    if !end.is_empty() {
        written.sink.borrow_mut().end_with(crossing.py(), &end);
    }
    let way = if in_worker() { Way::Copy } else { Way::Lend };
    let payload = written.sink.borrow().pack(crossing.py(), arena, way)?;
    Ok((payload, function))
}

/// Which of these addresses are those of objects that others refer to. What lies within one of them is not looked at.
///
/// # Errors
/// As [`dump`].
pub(crate) fn find_parts(
    object: &Bound<'_, PyAny>,
    addresses: &HashSet<usize>,
    manner: Manner,
) -> PyResult<HashSet<usize>> {
    let py = object.py();
    let _departure = manner.elsewhere.then(Departure::new);
    let find = py.import("forklift._pickling")?.getattr(intern!(py, "find_parts"))?;
    find.call1((object, addresses.clone(), manner.cloud))?.extract()
}

/// Pickles an object into blocks of `arena`; see [`dump`].
///
/// # Errors
/// As [`dump`], and when the arena cannot grow.
pub(crate) fn encode(
    py: Python<'_>,
    object: &Bound<'_, PyAny>,
    arena: &Arena,
    manner: &mut Manner,
) -> PyResult<Payload> {
    encode_by(py, object, arena, manner, if in_worker() { Way::Copy } else { Way::Lend })
}

/// As [`encode`]; `way` is what may become of large parts.
///
/// # Errors
/// As [`encode`].
pub(crate) fn encode_by(
    py: Python<'_>,
    object: &Bound<'_, PyAny>,
    arena: &Arena,
    manner: &mut Manner,
    way: Way<'_>,
) -> PyResult<Payload> {
    let sink = dump(object, manner)?;
    let packed = sink.borrow().pack(py, arena, way)?;
    Ok(packed)
}
