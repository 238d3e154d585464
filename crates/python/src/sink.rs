//! What a pickler writes to, and the one copy of it.
//!
//! Small pieces of the stream are appended to a vector; large `bytes` objects, which the pickler passes on as they are, are
//! kept by reference; so are the buffers that objects offer out of band. [`Payload::pack`] gathers all of it, without the
//! interpreter's lock.

use crate::buffer::{self, Lent, Neighbouring, memory};
use crate::error::raise;
use crate::numpy_heap::{self, Heap, Offer};
use crate::parcel::PyParcel;
use crate::store::Lease;
use forklift_core::machine;
use forklift_core::payload::{Digest, INLINE_BYTES_MAX, Loan, Payload, Source};
use forklift_shm::Arena;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};
use std::sync::Arc;

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
    pub(crate) fn of(py: Python<'_>, parcel: &PyParcel) -> PyResult<Self> {
        let mut sink = Self::default();
        sink.write(parcel.stream.bind(py))?;
        for offered in parcel.buffers.bind(py) {
            sink.buffers.push(PyUntypedBuffer::get(&offered)?);
            sink.settled.push(None);
            sink.offered.push(offered.unbind());
        }
        Ok(sink)
    }

    pub(crate) fn clear(&mut self) {
        self.own.clear();
        self.pieces.clear();
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.own.extend_from_slice(bytes);
        match self.pieces.last_mut() {
            Some(Piece::Own(length)) => *length += bytes.len(),
            _ => self.pieces.push(Piece::Own(bytes.len())),
        }
    }

    /// Replaces the operation that ends the stream.
    pub(crate) fn end_with(&mut self, py: Python<'_>, end: &[u8]) {
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
        gather(py, arena, &self.stream(py), &self.sources(py, way)?)
    }

    /// Adds what the value comes to: its stream, and of its buffers those that are not lent.
    pub(crate) fn add_to(&self, digest: &mut Digest, py: Python<'_>, way: Way<'_>) -> PyResult<()> {
        self.stream(py).iter().for_each(|piece| digest.add(piece));
        for source in self.sources(py, way)? {
            if let Source::Copy(bytes) = source {
                digest.add(bytes);
            }
        }
        Ok(())
    }

    /// How each of the buffers goes.
    fn sources(&self, py: Python<'_>, way: Way<'_>) -> PyResult<Vec<Source<'_>>> {
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
        Ok(sources)
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
