//! Long lists of numbers, packed: a list that holds only floats, or only integers of 64 bits, crosses as an array.
//!
//! Pickle writes each float with a tag and turns its bytes round; reading takes a dispatch each. Packing a list of
//! 10,000 floats takes a sixth of that time, unpacking about two thirds. Only items (or results) that *are* such lists
//! are packed: a list inside another object may be shared by its parts, which only pickle knows.

use crate::buffer::memory;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyFloat, PyInt, PyList, PyTuple};

/// A shorter list is left to pickle, for which it is no work.
const PACKED_LENGTH_MIN: usize = 256;

/// Replaces the lists of numbers in a list of items. Returns the list itself if there are none, else a copy.
pub(crate) fn pack<'py>(py: Python<'py>, items: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyList>> {
    let mut packed: Option<Bound<'py, PyList>> = None;
    for (index, item) in items.iter().enumerate() {
        let Ok(list) = item.cast_exact::<PyList>() else { continue };
        if list.len() < PACKED_LENGTH_MIN {
            continue;
        }
        if let Some(numbers) = Numbers::new(list) {
            let copy = packed.get_or_insert(items.get_slice(0, items.len()));
            copy.set_item(index, Bound::new(py, numbers)?)?;
        }
    }
    Ok(packed.unwrap_or_else(|| items.clone()))
}

/// A list of numbers on its way. Pickles to a call of `unpack` with its bytes out of band.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Numbers {
    kind: Kind,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Kind {
    Floats,
    Integers,
}

impl Numbers {
    fn new(list: &Bound<'_, PyList>) -> Option<Self> {
        let first = list.get_item(0).ok()?;
        if first.is_exact_instance_of::<PyFloat>() {
            let bytes = collect(list, |item| Some(item.cast_exact::<PyFloat>().ok()?.value().to_ne_bytes()))?;
            return Some(Self { kind: Kind::Floats, bytes });
        }
        if first.is_exact_instance_of::<PyInt>() {
            let bytes = collect(list, |item| {
                let integer = item.cast_exact::<PyInt>().ok()?;
                Some(integer.extract::<i64>().ok()?.to_ne_bytes())
            })?;
            return Some(Self { kind: Kind::Integers, bytes });
        }
        None
    }
}

/// Each element as eight bytes; nothing if one does not fit.
fn collect(
    list: &Bound<'_, PyList>,
    encode: impl Fn(&Bound<'_, PyAny>) -> Option<[u8; 8]>,
) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(8 * list.len());
    for item in list.iter() {
        bytes.extend_from_slice(&encode(&item)?);
    }
    Some(bytes)
}

#[pymethods]
impl Numbers {
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let py = slf.py();
        let this = slf.get();
        let bytes = py.import(intern!(py, "_pickle"))?.getattr(intern!(py, "PickleBuffer"))?;
        let buffer = bytes.call1((PyBytes::new(py, &this.bytes),))?;
        let unpack = py.import(intern!(py, "forklift._native"))?.getattr(intern!(py, "unpack"))?;
        let arguments = (matches!(this.kind, Kind::Floats), buffer).into_pyobject(py)?;
        Ok((unpack, arguments))
    }
}

/// The list whose numbers lie in a buffer.
///
/// Raises `ValueError` for a buffer that is not one of 64-bit numbers.
#[pyfunction]
#[pyo3(signature = (floats, buffer, /))]
pub(crate) fn unpack<'py>(
    py: Python<'py>,
    floats: bool,
    buffer: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyList>> {
    let buffer = PyUntypedBuffer::get(buffer)?;
    let bytes = memory(&buffer).unwrap_or_default();
    let (numbers, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(PyValueError::new_err(format!("{} bytes are no list of 64-bit numbers", bytes.len())));
    }
    if floats {
        PyList::new(py, numbers.iter().map(|number| f64::from_ne_bytes(*number)))
    } else {
        PyList::new(py, numbers.iter().map(|number| i64::from_ne_bytes(*number)))
    }
}
