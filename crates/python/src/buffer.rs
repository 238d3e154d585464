//! Memory across the border: a received block as a Python buffer, a Python buffer as bytes to be copied or lent on.
//! UNSAFE: addresses of received memory, and slices of Python's buffers.

use crate::numpy_heap;
use crate::tally::Hold;
use forklift_core::payload::{Bytes, Loan, Neighbour};
use forklift_shm::{Held, Lock, Sharing};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;
use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::{Arc, Weak};

/// Received memory, lent to Python objects through the buffer protocol: writable, and given back to its owner when the
/// last object that was built upon it is gone.
///
/// It has no methods; arrays keep it as their base.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Buffer {
    start: *mut u8,
    length: usize,
    /// Owns the memory.
    bytes: Arc<Bytes>,
}

/// Memory of workers that objects of this process are built upon, by address: where it goes to a worker again, it goes as
/// it lies.
static RECEIVED: Lock<BTreeMap<usize, Weak<Bytes>>> = Lock::new(BTreeMap::new());

fn received() -> Held<'static, BTreeMap<usize, Weak<Bytes>>> {
    RECEIVED.lock()
}

/// These bytes as they lie, if they are in memory that was received from a worker: whoever gets them sees them
/// copy-on-write.
pub(crate) fn lend(bytes: &[u8]) -> Option<Loan> {
    let address = bytes.as_ptr().addr();
    let (start, owner) = {
        let received = received();
        let (start, owner) = received.range(..=address).next_back()?;
        (*start, owner.upgrade()?)
    };
    let Bytes::View(view) = &*owner else { return None };
    // What a fork of the receiver has written is not in the file that would be lent.
    if address + bytes.len() > start + view.bytes() || view.segment().sharing() == Sharing::Private {
        return None;
    }
    let offset = view.span().offset + (address - start) as u64;
    Some(Loan::foreign(Arc::clone(view.segment()), offset, bytes.len() as u64, owner))
}

// SAFETY:
// - `start` points into the memory that `bytes` owns, which does not move and is itself `Send` and `Sync`.
// - It is only handed to Python, whose objects answer for races on memory that they share, as with `bytearray`.
unsafe impl Send for Buffer {}
// SAFETY: as above; the struct itself is never changed.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Takes over received bytes.
    pub(crate) fn new(mut bytes: Bytes) -> Self {
        Self { start: bytes.as_mut_ptr(), length: bytes.as_slice().len(), bytes: Arc::new(bytes) }
    }

    /// Takes over received bytes that may be lent on.
    pub(crate) fn new_lendable(bytes: Bytes) -> Self {
        let buffer = Self::new(bytes);
        // What is written to a private mapping is not in the file that would be lent.
        if matches!(&*buffer.bytes, Bytes::View(view) if view.segment().sharing() == Sharing::Shared) {
            received().insert(buffer.start.addr(), Arc::downgrade(&buffer.bytes));
        }
        buffer
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut received = received();
        let address = self.start.addr();
        if received.get(&address).is_some_and(|owner| std::ptr::eq(owner.as_ptr(), Arc::as_ptr(&self.bytes)))
        {
            received.remove(&address);
        }
    }
}

#[pymethods]
impl Buffer {
    /// Has the kernel find memory for all of it at once, for whoever is about to write to all of it.
    fn populate(&self) {
        if let Bytes::View(view) = &*self.bytes {
            // A hint: pages that were not found now are found when they are touched.
            let _ = view.segment().populate(view.span().offset, view.span().bytes);
        }
    }

    /// Fills a view of the whole memory, writable.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        let length =
            isize::try_from(this.length).map_err(|_| PyBufferError::new_err("too long for a buffer"))?;
        // SAFETY:
        // - `view` is the structure that the interpreter wants filled.
        // - `start` and `length` describe memory that `slf` owns; the view keeps `slf` alive.
        // - The memory is exclusive to this process (see `Bytes`), so that it may be written to.
        let filled =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), this.start.cast(), length, 0, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }

    fn __len__(&self) -> usize {
        self.length
    }

    fn __repr__(&self) -> String {
        format!("<forklift buffer of {} bytes>", self.length)
    }
}

/// Memory of this process that is to be lent as it lies, because it lies in shared memory. In a pickle its buffer always
/// goes out of band, however small; the receiver finds the lent bytes in its place.
///
/// What an array that lies there is reduced to cannot say this by itself: whether the receiver is to change its own copy
/// of the pages, or the bytes that everybody sees, is known to the call alone.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Lent {
    /// Keeps `loan`'s bytes from being freed by Python, too.
    buffer: PyUntypedBuffer,
    loan: Loan,
}

impl Lent {
    /// What to tell the receiver.
    pub(crate) fn loan(&self) -> Loan {
        self.loan.clone()
    }
}

#[pymethods]
impl Lent {
    /// The memory of a contiguous buffer, if it lies in shared memory, else None. `writable`: the receiver writes to the
    /// bytes where they lie; see `Loan::writable` for what the caller answers for.
    #[staticmethod]
    fn of(memory_of: &Bound<'_, PyAny>, writable: bool) -> PyResult<Option<Self>> {
        let buffer = PyUntypedBuffer::get(memory_of)?;
        let Some(bytes) = memory(&buffer).filter(|bytes| !bytes.is_empty()) else { return Ok(None) };
        let loan = numpy_heap::shared().and_then(|heap| heap.lend(bytes)).or_else(|| lend(bytes));
        Ok(loan.map(|loan| Self { buffer, loan: if writable { loan.writable() } else { loan } }))
    }

    /// Fills a view of the whole memory, for the pickler, which only passes it on.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let buffer = &slf.get().buffer;
        let length = isize::try_from(buffer.len_bytes())
            .map_err(|_| PyBufferError::new_err("too long for a buffer"))?;
        // SAFETY:
        // - `view` is the structure that the interpreter wants filled.
        // - Start and length are those of the buffer that `slf` holds; the view keeps `slf` alive.
        // - It is given out as read-only or writable alike, and neither the pickler nor the sink writes.
        let filled =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), buffer.buf_ptr(), length, 0, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// Memory of a Python object, kept where it is. Nobody but this has the view, so nobody can release it.
pub(crate) struct Neighbouring {
    view: Py<PyMemoryView>,
    start: *mut u8,
    length: usize,
    /// Set if nobody else has the object: what counts it.
    own: Option<Arc<Hold>>,
}

// SAFETY:
// - `start` points into memory that the view keeps from being freed, moved or resized. It is only read through here, but
//   by the one who has it for its own.
// - The view is only touched by whoever has the interpreter's lock, and may be dropped in any thread.
unsafe impl Send for Neighbouring {}
// SAFETY: as above; the struct itself is never changed.
unsafe impl Sync for Neighbouring {}

impl Neighbouring {
    /// The memory of an object that it offers whole; none if it is not contiguous. `own`: nobody else has it, so that its
    /// receiver may write to it, if it is not read-only.
    pub(crate) fn of(object: &Bound<'_, PyAny>, own: Option<Arc<Hold>>) -> PyResult<Option<Self>> {
        let view = PyMemoryView::from(object)?;
        let buffer = PyUntypedBuffer::get(&view)?;
        if !buffer.is_c_contiguous() || (own.is_some() && buffer.readonly()) {
            return Ok(None);
        }
        let (start, length) = (buffer.buf_ptr().cast(), buffer.len_bytes());
        Ok(Some(Self { view: view.unbind(), start, length, own }))
    }

    /// The view, for one who only reads.
    pub(crate) fn view(&self) -> &Py<PyMemoryView> {
        &self.view
    }
}

impl Neighbour for Neighbouring {
    fn bytes(&self) -> &[u8] {
        if self.length == 0 {
            return &[];
        }
        // SAFETY:
        // - The view holds its exporter's buffer, which has so many initialised bytes there, for as long as `self` lives.
        // - Whoever owns the object has promised to leave its contents alone meanwhile; see also `memory`.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }

    fn own(&self) -> Option<*mut u8> {
        self.own.as_ref().map(|_| self.start)
    }
}

/// The memory of a Python buffer, which the caller keeps from being released or resized by holding `buffer`.
///
/// Another thread of the user's may write to it meanwhile, as it may during any operation that lets the interpreter go
/// (`hashlib`, `file.write`): then what is copied is some mixture of old and new, and nothing worse.
pub(crate) fn memory(buffer: &PyUntypedBuffer) -> Option<&[u8]> {
    if !buffer.is_c_contiguous() {
        return None;
    }
    if buffer.len_bytes() == 0 {
        return Some(&[]);
    }
    // SAFETY:
    // - The exporter promises `len_bytes` readable bytes at `buf_ptr` for as long as `buffer` is held, which the
    //   lifetime of the result ties it to.
    // - They are initialised: Python has no uninitialised buffers.
    Some(unsafe { std::slice::from_raw_parts(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) })
}
