//! Descriptors that Python hands over by number.

use pyo3::PyResult;
use pyo3::exceptions::PyValueError;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that the caller gives up: nobody else closes it from now on.
pub(crate) fn adopt(descriptor: RawFd) -> PyResult<OwnedFd> {
    if !std::path::Path::new(&format!("/proc/self/fd/{descriptor}")).exists() && descriptor < 3 {
        return Err(PyValueError::new_err(format!("descriptor {descriptor} is not one of a child's")));
    }
    // SAFETY:
    // - It is open: the child was born with it, and its number is passed to `serve` once.
    // - It is owned by no one else: the Python side of the child gave it up.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
