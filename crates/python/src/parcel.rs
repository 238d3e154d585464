//! A value as it crosses, as a Python object: for whoever passes it on without looking inside.

use crate::buffer::{Buffer, Neighbouring};
use forklift_core::payload;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple, PyType};
use std::any::Any;

/// A value that is pickled already: its stream, and its out-of-band buffers. Where a value is encoded this is taken for
/// the value itself, so that its receiver decodes that; pickled with protocol 5 it goes out of band itself.
#[pyclass(name = "Parcel", module = "forklift._native", frozen)]
pub(crate) struct PyParcel {
    #[pyo3(get)]
    pub(crate) stream: Py<PyAny>,
    #[pyo3(get)]
    pub(crate) buffers: Py<PyList>,
}

impl PyParcel {
    /// What was received, as it lies.
    pub(crate) fn of(py: Python<'_>, parcel: payload::Parcel) -> PyResult<Self> {
        let buffers = PyList::empty(py);
        for bytes in parcel.buffers {
            match neighbour(&bytes) {
                // Whoever passes it on reads it where its owner has it.
                Some(object) => buffers.append(object.view())?,
                None => buffers.append(Bound::new(py, Buffer::new(bytes))?)?,
            }
        }
        let stream = Bound::new(py, Buffer::new(parcel.stream))?.into_any().unbind();
        Ok(Self { stream, buffers: buffers.unbind() })
    }
}

/// The object of this process that bytes are, if they are one's.
fn neighbour(bytes: &payload::Bytes) -> Option<&Neighbouring> {
    let payload::Bytes::Near(loaned) = bytes else { return None };
    let object: &dyn Any = loaned.object();
    object.downcast_ref()
}

#[pymethods]
impl PyParcel {
    #[new]
    fn new(stream: Py<PyAny>, buffers: Py<PyList>) -> Self {
        Self { stream, buffers }
    }

    fn __reduce_ex__<'py>(
        slf: &Bound<'py, Self>,
        protocol: i32,
    ) -> PyResult<(Bound<'py, PyType>, Bound<'py, PyTuple>)> {
        let (py, this) = (slf.py(), slf.get());
        // Out of band, where there is such a thing.
        let wrap = if protocol >= 5 {
            py.import(intern!(py, "pickle"))?.getattr(intern!(py, "PickleBuffer"))?
        } else {
            py.get_type::<pyo3::types::PyBytes>().into_any()
        };
        let buffers = PyList::empty(py);
        for buffer in this.buffers.bind(py) {
            buffers.append(wrap.call1((buffer,))?)?;
        }
        let parts = [wrap.call1((&this.stream,))?, buffers.into_any()];
        Ok((py.get_type::<Self>(), PyTuple::new(py, parts)?))
    }

    /// Bytes in all.
    #[getter]
    fn nbytes(&self, py: Python<'_>) -> PyResult<usize> {
        let mut bytes = pyo3::buffer::PyUntypedBuffer::get(self.stream.bind(py))?.len_bytes();
        for buffer in self.buffers.bind(py) {
            bytes += pyo3::buffer::PyUntypedBuffer::get(&buffer)?.len_bytes();
        }
        Ok(bytes)
    }
}
