//! What travels in place of an object that C's pickler would write into the stream itself: its bulk goes out of band.
//!
//! **Long lists of numbers** (`numbers.rs`). Only items (or results) that *are* such lists are packed, and many items that
//! are numbers: a list inside another object may be shared by its parts, which only pickle knows.
//!
//! **Large `bytearray` and `str`**, which never reach `reducer_override` and would be copied once more: items that are
//! such, or consist of plain containers that hold such. An item is rebuilt around stand-ins only if all of it has been
//! seen and nothing in it could refer to what is replaced, so that one object stays one object. Any other text than
//! ASCII has to be encoded, which pickle does as well.

use crate::numbers::{Numbers, holds_only_numbers};
use crate::text::Text;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple, PyType,
};
use std::collections::HashMap;

/// A shorter list is left to pickle, for which it is no work.
const PACKED_LENGTH_MIN: usize = 256;

/// A smaller `bytearray` or `str` is left to pickle.
const BULK_BYTES_MIN: usize = 64 << 10;

/// Containers longer than this are not searched: long lists hold small things.
const PARTS_MAX: usize = 64;

/// How deep containers are searched: the item, the arguments that it may consist of, what those hold.
const DEPTH_MAX: usize = 3;

/// Whether an object is referred to from elsewhere, so that it has to be pickled as itself.
pub(crate) type Kept<'a> = &'a dyn Fn(&Bound<'_, PyAny>) -> bool;

/// Puts stand-ins into a list of items. Returns the list itself if it needs none, else a copy; for many items that are
/// numbers themselves, one stand-in for the list. What `kept` says yes to stays what it is.
pub(crate) fn substitute<'py>(items: &Bound<'py, PyList>, kept: Kept<'_>) -> PyResult<Bound<'py, PyAny>> {
    let py = items.py();
    if holds_only_numbers(items) {
        let numbers = if items.len() < PACKED_LENGTH_MIN { None } else { Numbers::pack(items) };
        return match numbers {
            Some(numbers) => Ok(Bound::new(py, numbers)?.into_any()),
            None => Ok(items.clone().into_any()),
        };
    }
    let mut replaced: Option<Bound<'py, PyList>> = None;
    let mut rebuilt = Rebuilt::default();
    for (index, item) in items.iter().enumerate() {
        let standin = match item.cast_exact::<PyList>() {
            Ok(list) if list.len() >= PACKED_LENGTH_MIN && !kept(&item) => {
                Numbers::pack(list).map(|numbers| Bound::new(py, numbers)).transpose()?.map(Bound::into_any)
            }
            _ if holds_bulk(&item, 0) && is_closed(&item, kept, &mut Vec::new())? => {
                Some(rebuilt.rebuild(&item)?)
            }
            _ => None,
        };
        if let Some(standin) = standin {
            replaced.get_or_insert(items.get_slice(0, items.len())).set_item(index, standin)?;
        }
    }
    Ok(replaced.unwrap_or_else(|| items.clone()).into_any())
}

/// Whether an object is a large `bytearray` or ASCII text.
fn is_bulk(object: &Bound<'_, PyAny>) -> bool {
    if let Ok(array) = object.cast_exact::<PyByteArray>() {
        return array.len() >= BULK_BYTES_MIN;
    }
    let Ok(text) = object.cast_exact::<PyString>() else { return false };
    text.len().is_ok_and(|length| length >= BULK_BYTES_MIN)
        && text
            .call_method0(intern!(text.py(), "isascii"))
            .is_ok_and(|ascii| ascii.is_truthy().unwrap_or(false))
}

/// Whether an object is, or a plain container in it holds, something large. Costs nothing for what is not a container.
fn holds_bulk(object: &Bound<'_, PyAny>, depth: usize) -> bool {
    if depth > DEPTH_MAX {
        return false;
    }
    if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        return tuple.len() <= PARTS_MAX && tuple.iter().any(|part| holds_bulk(&part, depth + 1));
    }
    if let Ok(list) = object.cast_exact::<PyList>() {
        return list.len() <= PARTS_MAX && list.iter().any(|part| holds_bulk(&part, depth + 1));
    }
    if let Ok(dict) = object.cast_exact::<PyDict>() {
        return dict.len() <= PARTS_MAX && dict.values().iter().any(|part| holds_bulk(&part, depth + 1));
    }
    is_bulk(object)
}

/// Whether an object consists of plain containers and of parts that refer to nothing, without a cycle. `above` holds
/// the containers that it lies in.
fn is_closed<'py>(
    object: &Bound<'py, PyAny>,
    kept: Kept<'_>,
    above: &mut Vec<Bound<'py, PyAny>>,
) -> PyResult<bool> {
    if kept(object) {
        return Ok(false);
    }
    let parts = if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        tuple.to_list()
    } else if let Ok(list) = object.cast_exact::<PyList>() {
        list.clone()
    } else if let Ok(dict) = object.cast_exact::<PyDict>() {
        let parts = dict.keys();
        for value in dict.values().iter() {
            parts.append(value)?;
        }
        parts
    } else {
        return refers_to_nothing(object);
    };
    if parts.len() > 2 * PARTS_MAX || above.len() > DEPTH_MAX || above.iter().any(|outer| outer.is(object)) {
        return Ok(false);
    }
    above.push(object.clone());
    for part in parts.iter() {
        if !is_closed(&part, kept, above)? {
            return Ok(false);
        }
    }
    above.pop();
    Ok(true)
}

fn refers_to_nothing(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    if object.is_none()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyBool>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyByteArray>()
        || object.is_exact_instance_of::<PyComplex>()
    {
        return Ok(true);
    }
    let kind = object.get_type();
    if kind.name()? != "ndarray" || kind.module()? != "numpy" {
        return Ok(false);
    }
    let dtype = object.getattr(intern!(object.py(), "dtype"))?;
    Ok(!dtype.getattr(intern!(object.py(), "hasobject"))?.is_truthy()?)
}

/// What has been rebuilt, by the address of the original, which the list of items keeps alive.
#[derive(Default)]
struct Rebuilt<'py>(HashMap<usize, Bound<'py, PyAny>>);

impl<'py> Rebuilt<'py> {
    fn rebuild(&mut self, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let address = object.as_ptr() as usize;
        if let Some(known) = self.0.get(&address) {
            return Ok(known.clone());
        }
        let py = object.py();
        let new = if let Ok(tuple) = object.cast_exact::<PyTuple>() {
            let parts: Vec<_> = tuple.iter().map(|part| self.rebuild(&part)).collect::<PyResult<_>>()?;
            PyTuple::new(py, parts)?.into_any()
        } else if let Ok(list) = object.cast_exact::<PyList>() {
            let parts: Vec<_> = list.iter().map(|part| self.rebuild(&part)).collect::<PyResult<_>>()?;
            PyList::new(py, parts)?.into_any()
        } else if let Ok(dict) = object.cast_exact::<PyDict>() {
            let new = PyDict::new(py);
            for (key, value) in dict.iter() {
                // A key is hashed here, so it is no stand-in; pickle copies a long one once more.
                new.set_item(key, self.rebuild(&value)?)?;
            }
            new.into_any()
        } else if is_bulk(object) {
            Bound::new(py, Bulk(object.clone().unbind()))?.into_any()
        } else {
            return Ok(object.clone());
        };
        self.0.insert(address, new.clone());
        Ok(new)
    }
}

/// A large `bytearray` or ASCII text on its way. Pickles to a call of its type with its bytes out of band.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Bulk(Py<PyAny>);

#[pymethods]
impl Bulk {
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyType>, Bound<'py, PyTuple>)> {
        let pickle_buffer = py.import(intern!(py, "_pickle"))?.getattr(intern!(py, "PickleBuffer"))?;
        let object = self.0.bind(py);
        let arguments = if let Ok(text) = object.cast_exact::<PyString>() {
            let buffer = pickle_buffer.call1((Bound::new(py, Text::new(text))?,))?;
            (buffer, intern!(py, "ascii")).into_pyobject(py)?
        } else {
            PyTuple::new(py, [pickle_buffer.call1((object,))?])?
        };
        Ok((object.get_type(), arguments))
    }
}
