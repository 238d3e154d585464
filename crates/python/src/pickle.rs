//! Objects to payload and back: pickle protocol 5, its large parts left where they are until the one copy.
//!
//! The C pickler writes to a [`Sink`]: small pieces of the stream are appended to a vector; large `bytes` objects,
//! which it passes on as they are, are kept by reference; so are the buffers that objects offer out of band.
//! Then [`Payload::pack`] gathers all of it, without the interpreter's lock.

use crate::buffer::{Buffer, memory};
use crate::error::raise;
use crate::numbers;
use forklift_core::payload::{INLINE_BYTES_MAX, Parcel, Payload};
use forklift_shm::Arena;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use std::sync::atomic::{AtomicBool, Ordering};

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
        if buffer.len_bytes() < OUT_OF_BAND_BYTES_MIN {
            return Ok(true);
        }
        self.buffers.push(buffer);
        Ok(false)
    }
}

impl Sink {
    fn append(&mut self, bytes: &[u8]) {
        self.own.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some(Piece::Own(length)) => *length += bytes.len(),
            _ => self.pieces.push(Piece::Own(bytes.len())),
        }
    }

    /// A copy of the whole, if it is small: nothing out of band, and a short stream.
    pub(crate) fn small<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let whole = self.buffers.is_empty() && self.own.len() < SMALL_BYTES_MAX;
        (whole && self.pieces.iter().all(|piece| matches!(piece, Piece::Own(_))))
            .then(|| PyBytes::new(py, &self.own))
    }

    /// The one copy.
    pub(crate) fn pack(&self, py: Python<'_>, arena: &Arena) -> PyResult<Payload> {
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
        let buffers: Vec<&[u8]> =
            self.buffers.iter().map(|buffer| memory(buffer).unwrap_or_default()).collect();
        let bytes = stream.iter().chain(&buffers).map(|piece| piece.len()).sum::<usize>();
        let pack = || Payload::pack(arena, &stream, &buffers);
        // Giving up the lock costs more than copying a little.
        if bytes <= INLINE_BYTES_MAX { pack() } else { py.detach(pack) }.map_err(raise)
    }
}

/// The Python side of pickling, looked up once. What a worker pickles are results: its picklers know what came from
/// their receiver. A process can become a worker after it pickled as a parent (the fork context), so both are kept.
struct Tools {
    pickler: Py<PyAny>,
    result_pickler: Py<PyAny>,
    cloud_pickler: Py<PyAny>,
    loads: Py<PyAny>,
}

static TOOLS: PyOnceLock<Tools> = PyOnceLock::new();
static IN_WORKER: AtomicBool = AtomicBool::new(false);

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
            loads: py.import("_pickle")?.getattr("loads")?.unbind(),
        })
    })
}

/// Which pickler to begin with. Once an object of a job needed the slower one, later ones probably do as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Manner {
    /// The interpreter's own.
    #[default]
    Plain,
    /// cloudpickle, which can send functions and classes by value.
    Cloud,
}

fn attempt(py: Python<'_>, object: &Bound<'_, PyAny>, manner: Manner) -> PyResult<Py<Sink>> {
    let tools = tools(py)?;
    let sink = Bound::new(py, Sink::default())?;
    let options = PyDict::new(py);
    options.set_item(intern!(py, "buffer_callback"), sink.getattr(intern!(py, "buffer"))?)?;
    let upward = IN_WORKER.load(Ordering::Relaxed);
    let class = match (manner, upward) {
        (Manner::Plain, false) => tools.pickler.bind(py).clone(),
        (Manner::Plain, true) => tools.result_pickler.bind(py).clone(),
        (Manner::Cloud, _) => tools.cloud_pickler.bind(py).call1((upward,))?,
    };
    class.call((&sink, 5), Some(&options))?.call_method1(intern!(py, "dump"), (object,))?;
    Ok(sink.unbind())
}

/// Pickles an object, by reference where it is large: plainly if that is possible, else with cloudpickle; `manner` is
/// told.
///
/// # Errors
/// What the second attempt raises.
pub(crate) fn dump(py: Python<'_>, object: &Bound<'_, PyAny>, manner: &mut Manner) -> PyResult<Py<Sink>> {
    match attempt(py, object, *manner) {
        Err(error) if *manner == Manner::Plain && error.is_instance_of::<PyException>(py) => {
            let sink = attempt(py, object, Manner::Cloud)?;
            *manner = Manner::Cloud;
            Ok(sink)
        }
        outcome => outcome,
    }
}

/// Pickles a list of items or results: as [`dump`], with lists of numbers among them packed.
///
/// # Errors
/// As [`dump`].
pub(crate) fn dump_list(py: Python<'_>, list: &Bound<'_, PyList>, manner: &mut Manner) -> PyResult<Py<Sink>> {
    dump(py, numbers::pack(py, list)?.as_any(), manner)
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
    let sink = dump(py, object, manner)?;
    sink.bind(py).borrow().pack(py, arena)
}

/// Builds the object of a parcel. Its buffers become parts of the object as they lie; they go back to their owner when
/// the last part that is built upon them dies.
///
/// # Errors
/// What unpickling raises.
pub(crate) fn decode<'py>(py: Python<'py>, parcel: Parcel) -> PyResult<Bound<'py, PyAny>> {
    let tools = tools(py)?;
    let buffers = parcel.buffers.into_iter().map(Buffer::new);
    let options = PyDict::new(py);
    if buffers.len() > 0 {
        let list = PyList::empty(py);
        for buffer in buffers {
            list.append(Bound::new(py, buffer)?)?;
        }
        options.set_item(intern!(py, "buffers"), list)?;
    }
    let stream = Bound::new(py, Buffer::new(parcel.stream))?;
    tools.loads.bind(py).call(PyTuple::new(py, [stream])?, Some(&options))
}

/// Builds the object of a pickle without out-of-band buffers.
///
/// # Errors
/// What unpickling raises.
pub(crate) fn loads<'py>(py: Python<'py>, pickle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    tools(py)?.loads.bind(py).call1((pickle,))
}
