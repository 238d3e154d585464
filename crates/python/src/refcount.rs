//! How many references to an object exist.

use pyo3::ffi;
use pyo3::prelude::*;

/// References to an object, the caller's included.
pub(crate) fn references(object: &Bound<'_, PyAny>) -> isize {
    // SAFETY: `object` is an object, and this thread has the interpreter.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}
