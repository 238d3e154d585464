//! Whether values can share one pickle, and still be as separate as with a pickle each.
//!
//! A pickle for each item costs about a microsecond on either side, which is much beside an integer and little beside a
//! record. So a short look decides: values are pickled together if all of them consist of what cannot be changed, and of
//! plain containers and arrays that only one of them holds. The look is short and knows few types. Whatever it does not
//! know, or does not come to an end with, has a pickle of its own.

use crate::buffer::Buffer;
use crate::numbers::holds_only_numbers;
use crate::refcount::references;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString,
    PyTuple,
};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// So many parts of a value are looked at.
const PARTS_MAX: usize = 16;

/// So deep.
const DEPTH_MAX: usize = 4;

/// References to a part of a container that nobody else holds, when it is looked at: the container's and ours.
const REFERENCES_ALONE: isize = 2;

/// Whether these items may share one pickle: no object that could be changed is in two of them.
#[pyfunction]
pub(crate) fn are_separate(items: &Bound<'_, PyList>) -> PyResult<bool> {
    if holds_only_numbers(items) {
        return Ok(true);
    }
    let mut look = Look { held_once: HashSet::new(), parts: 0, alone: false };
    for item in items.iter() {
        look.parts = 0;
        if !look.passes(&item, 0)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a result may wait for the next to share one pickle with it: it cannot be changed, or is nobody else's. The
/// caller has one reference to it.
pub(crate) fn is_alone(result: &Bound<'_, PyAny>) -> PyResult<bool> {
    if is_constant(result) {
        return Ok(true);
    }
    let mut look = Look { held_once: HashSet::new(), parts: 0, alone: true };
    look.passes_with(result, 0, REFERENCES_ALONE - 1)
}

/// As `is_alone`, for the only element of a list, which nothing else refers to.
#[pyfunction]
pub(crate) fn holds_alone(kept: &Bound<'_, PyList>) -> PyResult<bool> {
    let result = kept.get_item(0)?;
    let mut look = Look { held_once: HashSet::new(), parts: 0, alone: true };
    look.passes_with(&result, 0, REFERENCES_ALONE)
}

struct Look {
    /// Objects that could be changed, by address.
    held_once: HashSet<usize>,
    /// What was seen of the present value.
    parts: usize,
    /// Whether nobody else may hold what could be changed.
    alone: bool,
}

impl Look {
    fn passes(&mut self, object: &Bound<'_, PyAny>, depth: usize) -> PyResult<bool> {
        self.passes_with(object, depth, REFERENCES_ALONE)
    }

    fn passes_with(&mut self, object: &Bound<'_, PyAny>, depth: usize, expected: isize) -> PyResult<bool> {
        if is_constant(object) {
            return Ok(true);
        }
        self.parts += 1;
        if depth > DEPTH_MAX || self.parts > PARTS_MAX {
            return Ok(false);
        }
        if let Ok(tuple) = object.cast_exact::<PyTuple>() {
            return self.all_pass(tuple.iter(), depth);
        }
        if let Ok(set) = object.cast_exact::<PyFrozenSet>() {
            return self.all_pass(set.iter(), depth);
        }
        let kind = kind(object)?;
        if kind == Kind::Constant {
            return Ok(true);
        }
        if kind == Kind::Unknown
            || (self.alone && references(object) > expected)
            || !self.held_once.insert(object.as_ptr().addr())
        {
            return Ok(false);
        }
        match kind {
            Kind::List => {
                let list = object.cast_exact::<PyList>()?;
                Ok(holds_only_numbers(list) || self.all_pass(list.iter(), depth)?)
            }
            Kind::Dict => {
                let dict = object.cast_exact::<PyDict>()?;
                if dict.len() > PARTS_MAX {
                    return Ok(false);
                }
                Ok(self.all_pass(dict.keys().iter(), depth)? && self.all_pass(dict.values().iter(), depth)?)
            }
            Kind::Set => self.all_pass(object.cast_exact::<PySet>()?.iter(), depth),
            Kind::Array => is_plain_array(object, self.alone),
            Kind::Bytes | Kind::Constant | Kind::Unknown => Ok(true),
        }
    }

    fn all_pass<'py>(
        &mut self,
        parts: impl ExactSizeIterator<Item = Bound<'py, PyAny>>,
        depth: usize,
    ) -> PyResult<bool> {
        if parts.len() > PARTS_MAX {
            return Ok(false);
        }
        for part in parts {
            if !self.passes(&part, depth + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It cannot be changed.
    Constant,
    List,
    Dict,
    Set,
    Bytes,
    /// NumPy's own.
    Array,
    Unknown,
}

fn kind(object: &Bound<'_, PyAny>) -> PyResult<Kind> {
    Ok(if object.is_exact_instance_of::<PyList>() {
        Kind::List
    } else if object.is_exact_instance_of::<PyDict>() {
        Kind::Dict
    } else if object.is_exact_instance_of::<PySet>() {
        Kind::Set
    } else if object.is_exact_instance_of::<PyByteArray>() {
        Kind::Bytes
    } else {
        kind_of_other(object)?
    })
}

/// Of a type that is not built in. Asked once for each type, which is kept so that its address means nothing else.
fn kind_of_other(object: &Bound<'_, PyAny>) -> PyResult<Kind> {
    const KINDS_MAX: usize = 256;
    thread_local! {
        static KINDS: RefCell<HashMap<usize, (Py<PyAny>, Kind)>> = RefCell::default();
    }
    let kind = object.get_type();
    let address = kind.as_ptr().addr();
    if let Some(known) = KINDS.with(|kinds| kinds.borrow().get(&address).map(|(_, known)| *known)) {
        return Ok(known);
    }
    let module: String = kind.module()?.extract()?;
    let name: String = kind.name()?.extract()?;
    let found = match (module.as_str(), name.as_str()) {
        ("numpy", "ndarray") => Kind::Array,
        ("numpy", "void" | "object_") => Kind::Unknown,
        ("numpy", _) if is_numpy_scalar(&kind)? => Kind::Constant,
        ("decimal", "Decimal") | ("fractions", "Fraction") | ("datetime", "date" | "timedelta") => {
            Kind::Constant
        }
        _ => Kind::Unknown,
    };
    KINDS.with(|kinds| {
        let mut kinds = kinds.borrow_mut();
        if kinds.len() < KINDS_MAX {
            kinds.insert(address, (kind.into_any().unbind(), found));
        }
    });
    Ok(found)
}

/// Whether a type of NumPy's is that of a number, a time or a text.
fn is_numpy_scalar(kind: &Bound<'_, pyo3::types::PyType>) -> PyResult<bool> {
    let generic = kind.py().import("numpy")?.getattr("generic")?;
    kind.is_subclass(&generic)
}

/// Whether the elements of an array are values, not objects, and its memory is its own, if `alone`. (Of a view pickle takes
/// what it shows.)
fn is_plain_array(array: &Bound<'_, PyAny>, alone: bool) -> PyResult<bool> {
    let py = array.py();
    let dtype = array.getattr(intern!(py, "dtype"))?;
    if dtype.getattr(intern!(py, "hasobject"))?.is_truthy()? {
        return Ok(false);
    }
    if !alone {
        return Ok(true);
    }
    let mut base = array.getattr(intern!(py, "base"))?;
    // An argument that comes back is an array of received memory.
    while !base.is_none() {
        if references(&base) > REFERENCES_ALONE {
            return Ok(false);
        }
        if base.is_exact_instance_of::<Buffer>() {
            return Ok(true);
        }
        if kind_of_other(&base)? != Kind::Array {
            return Ok(false);
        }
        base = base.getattr(intern!(py, "base"))?;
    }
    Ok(true)
}

/// Whether an object is of a built-in type, cannot be changed, and holds no other.
pub(crate) fn is_constant(object: &Bound<'_, PyAny>) -> bool {
    object.is_none()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyBool>()
        || object.is_exact_instance_of::<PyComplex>()
}
