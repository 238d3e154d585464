//! Payload to objects.

use crate::buffer::Buffer;
use crate::once::Once;
use crate::pickle::in_worker;
use forklift_core::payload::Parcel;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

/// The interpreter's own `loads`, looked up once.
fn loader(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static LOADS: Once<Py<PyAny>> = Once::new();
    let find = || PyResult::Ok(py.import("_pickle")?.getattr("loads")?.unbind());
    Ok(LOADS.get(find)?.bind(py))
}

/// Builds the object of a parcel. Its buffers become parts of the object as they lie; they go back to their owner when
/// the last part that is built upon them dies.
///
/// # Errors
/// What unpickling raises.
pub(crate) fn decode<'py>(py: Python<'py>, parcel: Parcel) -> PyResult<Bound<'py, PyAny>> {
    Opened::new(py, parcel)?.loads(py)
}

/// A parcel whose parts are Python objects.
pub(crate) struct Opened<'py> {
    pub(crate) stream: Bound<'py, PyAny>,
    pub(crate) buffers: Bound<'py, PyList>,
}

impl<'py> Opened<'py> {
    pub(crate) fn new(py: Python<'py>, parcel: Parcel) -> PyResult<Self> {
        let new = if in_worker() { Buffer::new } else { Buffer::new_lendable };
        let buffers = PyList::empty(py);
        for buffer in parcel.buffers.into_iter().map(new) {
            buffers.append(Bound::new(py, buffer)?)?;
        }
        Ok(Self { stream: Bound::new(py, Buffer::new(parcel.stream))?.into_any(), buffers })
    }

    /// Builds the object; see [`decode`].
    pub(crate) fn loads(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let options = PyDict::new(py);
        if !self.buffers.is_empty() {
            options.set_item(intern!(py, "buffers"), &self.buffers)?;
        }
        loader(py)?.call((&self.stream,), Some(&options))
    }
}

/// Builds the object of a pickle: bytes, or a tuple of bytes and a list of out-of-band buffers.
///
/// # Errors
/// What unpickling raises.
pub(crate) fn loads<'py>(py: Python<'py>, pickle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let loads = loader(py)?;
    let Ok(parts) = pickle.cast::<PyTuple>() else { return loads.call1((pickle,)) };
    let options = PyDict::new(py);
    options.set_item(intern!(py, "buffers"), parts.get_item(1)?)?;
    loads.call((parts.get_item(0)?,), Some(&options))
}
