//! Memory across the border: a received block as a Python buffer, a Python buffer as bytes to be copied.
//!
//! The only unsafe code of this crate.

use forklift_core::payload::Bytes;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::c_int;

/// Received memory, lent to Python objects through the buffer protocol: writable, and given back to its owner when the
/// last object that was built upon it is gone.
///
/// It has no methods; arrays keep it as their base.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Buffer {
    start: *mut u8,
    length: usize,
    /// Owns the memory.
    bytes: Bytes,
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
        Self { start: bytes.as_mut_ptr(), length: bytes.as_slice().len(), bytes }
    }
}

#[pymethods]
impl Buffer {
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
        self.bytes.as_slice().len()
    }

    fn __repr__(&self) -> String {
        format!("<forklift buffer of {} bytes>", self.length)
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
