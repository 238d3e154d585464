//! Long lists of floats, or of integers of 64 bits, on their way: eight bytes for each number.
//!
//! Pickle writes each float with a tag and turns its bytes round; reading takes a dispatch each. What remains here is
//! the numbers themselves: they are read, and the new list is filled, where the interpreter keeps them, since a call of
//! its interface for each would take three times as long as the rest. The layout of lists and floats has been the same
//! since long before Python 3.11; it is checked on two objects before it is relied on, and where it is another (an
//! interpreter built for debugging), the calls are made.

use crate::buffer::memory;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyList, PyTuple, PyType};
use std::ffi::c_int;
use std::sync::atomic::{AtomicU8, Ordering};
use std::{ptr, slice};

/// What every object begins with, and a list goes on with.
#[repr(C)]
struct ListHead {
    references: isize,
    kind: *mut ffi::PyTypeObject,
    length: isize,
    elements: *mut *mut ffi::PyObject,
    allocated: isize,
}

#[repr(C)]
struct FloatBody {
    references: isize,
    kind: *mut ffi::PyTypeObject,
    value: f64,
}

/// Whether this interpreter keeps lists and floats as described above.
fn is_known_layout(py: Python<'_>) -> bool {
    const NOT_ASKED: u8 = 2;
    // No cell: a fork could inherit one half made.
    static KNOWN: AtomicU8 = AtomicU8::new(NOT_ASKED);
    match KNOWN.load(Ordering::Relaxed) {
        NOT_ASKED => {
            let known = look_at_layout(py).unwrap_or(false);
            KNOWN.store(known.into(), Ordering::Relaxed);
            known
        }
        known => known != 0,
    }
}

fn look_at_layout(py: Python<'_>) -> PyResult<bool> {
    let basic_size = |kind: Bound<'_, PyType>| kind.getattr("__basicsize__")?.extract::<usize>();
    let floats = [PyFloat::new(py, 1.25), PyFloat::new(py, -2.5)];
    let list = PyList::new(py, &floats)?;
    if basic_size(floats[0].get_type())? != size_of::<FloatBody>()
        || basic_size(list.get_type())? != size_of::<ListHead>()
    {
        return Ok(false);
    }
    let head = head_of(&list);
    if head.length != 2 || head.allocated < 2 || head.elements.is_null() {
        return Ok(false);
    }
    // SAFETY: the words around it are what they are in a list of two elements.
    let held = unsafe { slice::from_raw_parts(head.elements, 2) };
    Ok(floats.iter().zip(held).zip([1.25_f64, -2.5]).all(|((float, held), value)| {
        // SAFETY: a float has as many bytes as `FloatBody`, for whose words any bits will do.
        let body = unsafe { ptr::read(float.as_ptr().cast::<FloatBody>()) };
        *held == float.as_ptr() && body.value.to_bits() == value.to_bits()
    }))
}

fn head_of(list: &Bound<'_, PyList>) -> ListHead {
    // SAFETY: a list has at least as many bytes, here and in every CPython, and any bits will do for their words.
    unsafe { ptr::read(list.as_ptr().cast::<ListHead>()) }
}

/// Calls `visit` with the objects of a list; not at all, if the interpreter keeps them in another way.
///
/// `visit` must run no code of Python's, which could change the list.
fn with_elements<T>(list: &Bound<'_, PyList>, visit: impl FnOnce(&[*mut ffi::PyObject]) -> T) -> Option<T> {
    if !list.is_exact_instance_of::<PyList>() || !is_known_layout(list.py()) {
        return None;
    }
    let length = list.len();
    let elements = if length == 0 {
        &[][..]
    } else {
        // SAFETY: the layout has been checked, a list of `length` elements has that many pointers there, and nothing
        // changes it meanwhile: this thread has the interpreter, and `visit` runs no code of Python's.
        unsafe { slice::from_raw_parts(head_of(list).elements, length) }
    };
    Some(visit(elements))
}

/// Whether an element of a list is of this type and not of one derived from it.
fn is_exactly(element: *mut ffi::PyObject, kind: *mut ffi::PyTypeObject) -> bool {
    // SAFETY: a list's elements are objects, while `with_elements` lends them.
    unsafe { ffi::Py_IS_TYPE(element, kind) != 0 }
}

/// Whether a list holds floats and integers only. A quick look: false also where it cannot be had.
pub(crate) fn holds_only_numbers(list: &Bound<'_, PyList>) -> bool {
    with_elements(list, |elements| {
        elements.iter().all(|element| {
            is_exactly(*element, &raw mut ffi::PyFloat_Type)
                || is_exactly(*element, &raw mut ffi::PyLong_Type)
        })
    })
    .unwrap_or(false)
}

/// A list of numbers. Pickles to a call of `unpack` with its bytes out of band.
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
    /// The numbers of a list; nothing, if one is of another type than the first, or does not fit.
    pub(crate) fn pack(list: &Bound<'_, PyList>) -> Option<Self> {
        let first = list.get_item(0).ok()?;
        if first.is_exact_instance_of::<PyFloat>() {
            return Some(Self { kind: Kind::Floats, bytes: pack_floats(list)? });
        }
        if first.is_exact_instance_of::<PyInt>() {
            return Some(Self { kind: Kind::Integers, bytes: pack_integers(list)? });
        }
        None
    }
}

fn pack_floats(list: &Bound<'_, PyList>) -> Option<Vec<u8>> {
    let pack = |elements: &[*mut ffi::PyObject]| {
        let mut bytes = Vec::with_capacity(8 * elements.len());
        for element in elements {
            if !is_exactly(*element, &raw mut ffi::PyFloat_Type) {
                return None;
            }
            // SAFETY: an object whose type is `float` itself has that layout.
            let body = unsafe { ptr::read(element.cast::<FloatBody>()) };
            bytes.extend_from_slice(&body.value.to_ne_bytes());
        }
        Some(bytes)
    };
    with_elements(list, pack).unwrap_or_else(|| {
        collect(list, |item| Some(item.cast_exact::<PyFloat>().ok()?.value().to_ne_bytes()))
    })
}

fn pack_integers(list: &Bound<'_, PyList>) -> Option<Vec<u8>> {
    let pack = |elements: &[*mut ffi::PyObject]| {
        let mut bytes = Vec::with_capacity(8 * elements.len());
        for element in elements {
            if !is_exactly(*element, &raw mut ffi::PyLong_Type) {
                return None;
            }
            let mut overflow = 0;
            // SAFETY: for an object whose type is `int` itself this runs no code of Python's and raises nothing.
            let value = unsafe { ffi::PyLong_AsLongLongAndOverflow(*element, &raw mut overflow) };
            if overflow != 0 {
                return None;
            }
            bytes.extend_from_slice(&value.to_ne_bytes());
        }
        Some(bytes)
    };
    with_elements(list, pack).unwrap_or_else(|| {
        collect(list, |item| Some(item.cast_exact::<PyInt>().ok()?.extract::<i64>().ok()?.to_ne_bytes()))
    })
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
        let pickle_buffer = py.import(intern!(py, "_pickle"))?.getattr(intern!(py, "PickleBuffer"))?;
        let unpack = py.import(intern!(py, "forklift._native"))?.getattr(intern!(py, "unpack"))?;
        let floats = matches!(slf.get().kind, Kind::Floats);
        let arguments = (floats, pickle_buffer.call1((slf,))?).into_pyobject(py)?;
        Ok((unpack, arguments))
    }

    /// Fills a view of the packed numbers; a writable one is refused.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let bytes = &slf.get().bytes;
        let length =
            isize::try_from(bytes.len()).map_err(|_| PyBufferError::new_err("too long for a buffer"))?;
        let start = bytes.as_ptr().cast_mut().cast();
        // SAFETY:
        // - `view` is the structure that the interpreter wants filled.
        // - `start` and `length` describe memory that `slf` owns, which never changes and lives as long as `slf`, which
        //   the view keeps alive.
        // - The view is marked read-only.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 1, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
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
        // SAFETY: this thread has the interpreter.
        fill(py, numbers, |number| unsafe { ffi::PyFloat_FromDouble(f64::from_ne_bytes(number)) })
    } else {
        // SAFETY: this thread has the interpreter.
        fill(py, numbers, |number| unsafe { ffi::PyLong_FromLongLong(i64::from_ne_bytes(number)) })
    }
}

/// A list of what `make` makes of each number: a new reference, or null with an exception set.
fn fill<'py>(
    py: Python<'py>,
    numbers: &[[u8; 8]],
    make: impl Fn([u8; 8]) -> *mut ffi::PyObject,
) -> PyResult<Bound<'py, PyList>> {
    let length = isize::try_from(numbers.len()).unwrap_or(isize::MAX);
    // SAFETY: makes a list whose elements are null, which the interpreter's own code fills in the same way.
    let new = unsafe { ffi::PyList_New(length) };
    // SAFETY: `new` is a new reference, or null with an exception set.
    let list = unsafe { Bound::from_owned_ptr_or_err(py, new) }?.cast_into::<PyList>()?;
    let elements = is_known_layout(py).then(|| head_of(&list).elements);
    for (index, number) in (0..length).zip(numbers) {
        let object = make(*number);
        if object.is_null() {
            return Err(PyErr::fetch(py));
        }
        if let Some(elements) = elements {
            // SAFETY: `index` is below the list's length, whose elements are null so far, and the reference goes to it.
            // Nobody else has seen the list: making a number runs no code of Python's.
            unsafe { ptr::write(elements.wrapping_offset(index), object) };
        } else {
            // SAFETY: as above; the call takes the reference.
            unsafe { ffi::PyList_SetItem(list.as_ptr(), index, object) };
        }
    }
    Ok(list)
}
