//! The characters of a long ASCII text as a read-only buffer, so that pickle can leave them where they are.

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;
use std::ffi::c_int;

/// Lends out the memory of a text. Only made for ASCII, whose memory is its UTF-8: for any other text the interpreter
/// would make, and keep, an encoded copy.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Text {
    text: Py<PyString>,
}

impl Text {
    /// Takes a text for which `isascii` is true.
    pub(crate) fn new(text: &Bound<'_, PyString>) -> Self {
        Self { text: text.clone().unbind() }
    }
}

#[pymethods]
impl Text {
    /// Fills a view of the characters; a writable one is refused.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let text = slf.get().text.bind(slf.py()).to_str()?;
        let length =
            isize::try_from(text.len()).map_err(|_| PyBufferError::new_err("too long for a buffer"))?;
        let start = text.as_ptr().cast_mut().cast();
        // SAFETY:
        // - `view` is the structure that the interpreter wants filled.
        // - `start` and `length` describe memory that the text owns, which never moves and lives as long as `slf`,
        //   which the view keeps alive.
        // - The view is marked read-only, so that nobody writes to the text.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 1, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
