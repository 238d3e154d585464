//! Objects to payload: pickle protocol 5, its large parts left where they are until the one copy.
//!
//! The C pickler writes to a [`Sink`]: small pieces of the stream are appended to a vector; large `bytes` objects,
//! which it passes on as they are, are kept by reference; so are the buffers that objects offer out of band.
//! Then [`Payload::pack`] gathers all of it, without the interpreter's lock.

use crate::anchors::{Anchors, Function};
use crate::buffer::{self, Lent, Neighbouring, memory};
use crate::error::raise;
use crate::numpy_heap::{self, Heap, Offer};
use crate::parcel::PyParcel;
use crate::standin::substitute;
use crate::store::Lease;
use forklift_core::machine;
use forklift_core::payload::{INLINE_BYTES_MAX, Loan, Payload, Source};
use forklift_shm::Arena;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A buffer below this size travels in the stream: a block of its own (a page at least, and its release) would cost
/// more than copying it once more.
const OUT_OF_BAND_BYTES_MIN: usize = 16 << 10;

/// A piece of the stream below this size is appended to its neighbours rather than kept by reference.
const BY_REFERENCE_BYTES_MIN: usize = 8 << 10;

/// A pickle below this size is copied once more rather than sent as a message of its own.
const SMALL_BYTES_MAX: usize = 16 << 10;

enum Piece {
    /// So many bytes of the sink's own vector, after those of earlier pieces.
    Own(usize),
    Bytes(Py<PyBytes>),
    Buffer(PyUntypedBuffer),
}

/// What a pickler writes to.
#[pyclass(module = "forklift._native")]
#[derive(Default)]
pub(crate) struct Sink {
    own: Vec<u8>,
    pieces: Vec<Piece>,
    buffers: Vec<PyUntypedBuffer>,
    /// For each buffer: how it is to be lent, if that is settled already.
    settled: Vec<Option<Loan>>,
    /// What offered the buffers.
    offered: Vec<Py<PyAny>>,
}

#[pymethods]
impl Sink {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Takes a piece of the stream.
    fn write(&mut self, data: &Bound<'_, PyAny>) -> PyResult<usize> {
        if let Ok(bytes) = data.cast::<PyBytes>() {
            let length = bytes.as_bytes().len();
            if length < BY_REFERENCE_BYTES_MIN {
                self.append(bytes.as_bytes());
            } else {
                self.pieces.push(Piece::Bytes(bytes.clone().unbind()));
            }
            return Ok(length);
        }
        let buffer = PyUntypedBuffer::get(data)?;
        let Some(bytes) = memory(&buffer) else {
            let bytes = data.call_method0(intern!(data.py(), "tobytes"))?;
            return self.write(&bytes);
        };
        let length = bytes.len();
        if length < BY_REFERENCE_BYTES_MIN {
            self.append(bytes);
        } else {
            self.pieces.push(Piece::Buffer(buffer));
        }
        Ok(length)
    }

    /// The pickler's `buffer_callback`: a false answer takes the buffer out of band.
    fn buffer(&mut self, offered: &Bound<'_, PyAny>) -> PyResult<bool> {
        let raw = offered.call_method0(intern!(offered.py(), "raw"))?;
        let buffer = PyUntypedBuffer::get(&raw)?;
        let exporter = raw.getattr(intern!(offered.py(), "obj"))?;
        let settled = exporter.cast_exact::<Lent>().ok().map(|lent| lent.get().loan());
        if settled.is_none() && buffer.len_bytes() < OUT_OF_BAND_BYTES_MIN {
            return Ok(true);
        }
        self.buffers.push(buffer);
        self.settled.push(settled);
        self.offered.push(offered.clone().unbind());
        Ok(false)
    }
}

impl Sink {
    /// What was pickled before.
    fn of(py: Python<'_>, parcel: &PyParcel) -> PyResult<Self> {
        let mut sink = Self::default();
        sink.write(parcel.stream.bind(py))?;
        for offered in parcel.buffers.bind(py) {
            sink.buffers.push(PyUntypedBuffer::get(&offered)?);
            sink.settled.push(None);
            sink.offered.push(offered.unbind());
        }
        Ok(sink)
    }

    fn clear(&mut self) {
        self.own.clear();
        self.pieces.clear();
    }

    fn append(&mut self, bytes: &[u8]) {
        self.own.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some(Piece::Own(length)) => *length += bytes.len(),
            _ => self.pieces.push(Piece::Own(bytes.len())),
        }
    }

    /// Replaces the operation that ends the stream.
    fn end_with(&mut self, py: Python<'_>, end: &[u8]) {
        match self.pieces.pop() {
            Some(Piece::Own(length)) => {
                self.own.pop();
                if length > 1 {
                    self.pieces.push(Piece::Own(length - 1));
                }
            }
            Some(Piece::Bytes(bytes)) => {
                let bytes = bytes.as_bytes(py);
                self.append(&bytes[..bytes.len() - 1]);
            }
            Some(Piece::Buffer(buffer)) => {
                let bytes = memory(&buffer).unwrap_or_default();
                self.append(&bytes[..bytes.len() - 1]);
            }
            None => {}
        }
        self.append(end);
    }

    /// A copy of the whole, if it is small: nothing out of band, and a short stream.
    pub(crate) fn small<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let whole = self.buffers.is_empty() && self.own.len() < SMALL_BYTES_MAX;
        (whole && self.pieces.iter().all(|piece| matches!(piece, Piece::Own(_))))
            .then(|| PyBytes::new(py, &self.own))
    }

    /// Where the largest out-of-band buffer lies, and its bytes.
    pub(crate) fn largest(&self) -> Option<(usize, usize)> {
        let largest = self.buffers.iter().max_by_key(|buffer| buffer.len_bytes())?;
        Some((largest.buf_ptr() as usize, largest.len_bytes()))
    }

    /// As something to pickle: the stream, and what offered its buffers. See [`loads`].
    pub(crate) fn apart<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let stream = PyBytes::new(py, &self.stream(py).concat());
        let offered = PyList::new(py, self.offered.iter().map(|offered| offered.bind(py)))?;
        PyTuple::new(py, [stream.into_any(), offered.into_any()])
    }

    /// How many bytes a payload of it would hold, copied or lent.
    pub(crate) fn weight(&self, py: Python<'_>) -> u64 {
        let stream: usize = self.stream(py).iter().map(|piece| piece.len()).sum();
        (stream + self.buffers.iter().map(PyUntypedBuffer::len_bytes).sum::<usize>()) as u64
    }

    /// The pieces of the stream.
    fn stream<'a>(&'a self, py: Python<'a>) -> Vec<&'a [u8]> {
        let mut own = self.own.as_slice();
        let mut stream: Vec<&[u8]> = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            stream.push(match piece {
                Piece::Own(length) => {
                    let (here, rest) = own.split_at(*length);
                    own = rest;
                    here
                }
                Piece::Bytes(bytes) => bytes.as_bytes(py),
                Piece::Buffer(buffer) => memory(buffer).unwrap_or_default(),
            });
        }
        stream
    }

    /// The one copy; what lies in shared memory already is lent as it lies, if the [`Way`] allows it.
    pub(crate) fn pack(&self, py: Python<'_>, arena: &Arena, way: Way<'_>) -> PyResult<Payload> {
        let heap = numpy_heap::shared();
        let mut sources = Vec::with_capacity(self.buffers.len());
        for ((buffer, settled), offered) in self.buffers.iter().zip(&self.settled).zip(&self.offered) {
            let bytes = memory(buffer).unwrap_or_default();
            let lent = settled.clone().or_else(|| match way {
                Way::Copy | Way::Show => None,
                Way::Lend => heap.and_then(|heap| heap.lend(bytes)).or_else(|| buffer::lend(bytes)),
                Way::LendStored(lease) => lease.lend(bytes, offered.bind(py)),
                Way::Keep(lease) => lease.keep(bytes, offered.bind(py)),
            });
            sources.push(match lent {
                Some(loan) => Source::Lend(loan),
                None if matches!(way, Way::Show) => match shown(offered.bind(py), bytes.len())? {
                    Some(object) => Source::Weigh(Loan::of_neighbour(Arc::new(object))),
                    None => Source::Copy(bytes),
                },
                None => Source::Copy(bytes),
            });
        }
        gather(py, arena, &self.stream(py), &sources)
    }

    /// As [`Sink::pack`], when `owner` is all that is left of the value: it is let go of, and arrays of `heap` that die
    /// with it are handed over as they lie. Those that somebody else still references are copied.
    pub(crate) fn hand_over(
        &mut self,
        py: Python<'_>,
        arena: &Arena,
        heap: Option<&'static Heap>,
        owner: Bound<'_, PyList>,
    ) -> PyResult<Payload> {
        let Some(heap) = heap else { return self.pack(py, arena, Way::Copy) };
        self.offered.clear();
        let buffers = std::mem::take(&mut self.buffers).into_iter().zip(std::mem::take(&mut self.settled));
        let kept = buffers.map(|(buffer, settled)| {
            let bytes = memory(&buffer).unwrap_or_default();
            match (settled, heap.offer(bytes)) {
                (Some(loan), _) => Buffers::Settled(loan),
                (None, Some(offer)) => Buffers::Offered(offer),
                (None, None) => Buffers::Kept(buffer),
            }
        });
        let kept: Vec<Buffers> = kept.collect();
        drop(owner);
        let sources = kept.iter().map(|buffer| match buffer {
            Buffers::Kept(buffer) => Source::Copy(memory(buffer).unwrap_or_default()),
            Buffers::Settled(loan) => Source::Lend(loan.clone()),
            Buffers::Offered(offer) => match offer.taken() {
                Some(loan) => Source::Lend(loan),
                None => Source::Copy(offer.bytes()),
            },
        });
        let sources: Vec<Source<'_>> = sources.collect();
        gather(py, arena, &self.stream(py), &sources)
    }
}

/// How an out-of-band buffer is kept until it is copied.
enum Buffers {
    Kept(PyUntypedBuffer),
    Settled(Loan),
    Offered(Offer),
}

/// What may become of memory that is shared already.
#[derive(Clone, Copy)]
pub(crate) enum Way<'a> {
    /// It is copied as any other: whoever owns it may write to it before it is read.
    Copy,
    /// It is lent as it lies: its owner keeps its contents until the call is done.
    Lend,
    /// It need not be shared: the receiver is in this process, and copies what it passes on. Its owner keeps its contents
    /// until the call is done.
    Show,
    /// What lies in an engine's store is lent to workers.
    LendStored(&'a Lease),
    /// What lies in an engine's store, or in memory that nobody else has, becomes a value of this process.
    Keep(&'a Lease),
}

/// A smaller buffer is copied rather than shown: as for [`OUT_OF_BAND_BYTES_MIN`].
const SHOWN_BYTES_MIN: usize = 64 << 10;

/// The memory of an object that can be shown. Only of such as lose nothing by it: what is resized or closed by its owner
/// (`bytearray`, `mmap`) cannot be as long as somebody looks at it.
fn shown(offered: &Bound<'_, PyAny>, bytes: usize) -> PyResult<Option<Neighbouring>> {
    if bytes < SHOWN_BYTES_MIN {
        return Ok(None);
    }
    let raw = offered.call_method0(intern!(offered.py(), "raw"))?;
    let kind = raw.getattr(intern!(offered.py(), "obj"))?.get_type();
    let (module, name) = (kind.module()?, kind.name()?);
    if (module == "numpy" && name == "ndarray") || (module == "pyarrow.lib" && name == "Buffer") {
        Neighbouring::of(&raw, None)
    } else {
        Ok(None)
    }
}

/// Packs without the interpreter's lock.
fn gather(py: Python<'_>, arena: &Arena, stream: &[&[u8]], buffers: &[Source<'_>]) -> PyResult<Payload> {
    let copied = |buffer: &Source<'_>| if let Source::Copy(bytes) = buffer { bytes.len() } else { 0 };
    let bytes =
        stream.iter().map(|piece| piece.len()).sum::<usize>() + buffers.iter().map(copied).sum::<usize>();
    if bytes >= machine::WEIGHED_BYTES_MIN
        && let Err(room) = py.detach(|| machine::find_room(arena, bytes as u64))
    {
        let error = py.import("forklift._outcome")?.call_method1(intern!(py, "too_large"), (bytes, room))?;
        return Err(PyErr::from_value(error));
    }
    let pack = || Payload::pack(arena, stream, buffers);
    // Giving up the lock costs more than copying a little.
    if bytes <= INLINE_BYTES_MAX { pack() } else { py.detach(pack) }.map_err(raise)
}

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

/// The Python side of pickling, looked up once. What a worker pickles are results: its picklers know what came from
/// their receiver. A process can become a worker after it pickled as a parent (the fork context), so both are kept.
struct Tools {
    pickler: Py<PyAny>,
    result_pickler: Py<PyAny>,
    cloud_pickler: Py<PyAny>,
}

static TOOLS: PyOnceLock<Tools> = PyOnceLock::new();
static IN_WORKER: AtomicBool = AtomicBool::new(false);

pub(crate) fn in_worker() -> bool {
    IN_WORKER.load(Ordering::Relaxed)
}

/// From now on this process is a worker, and what it pickles are results.
pub(crate) fn become_worker() {
    IN_WORKER.store(true, Ordering::Relaxed);
}

fn tools(py: Python<'_>) -> PyResult<&Tools> {
    TOOLS.get_or_try_init(py, || {
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
}

impl Manner {
    /// That of a pool whose workers are on other machines, or here.
    pub(crate) fn towards(elsewhere: bool) -> Self {
        Self { elsewhere, ..Self::default() }
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
    let upward = in_worker();
    let class = match (manner.cloud, upward) {
        (false, false) => tools.pickler.bind(py).clone(),
        (false, true) => tools.result_pickler.bind(py).clone(),
        (true, _) => tools.cloud_pickler.bind(py).call1((upward,))?,
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
