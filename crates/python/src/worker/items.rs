//! The items of a chunk, in a worker.

use super::function::Function;
use crate::anchors::set_parts;
use crate::unpickle::{decode, loads};
use forklift_core::payload::Parcel;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyRange, PyTuple};

/// The items of a chunk.
pub(super) enum Items<'py> {
    /// All of one pickle.
    Together(Bound<'py, PyList>),
    /// Pickles of lists of one item each: an item is built when its turn comes.
    OneByOne(Bound<'py, PyTuple>),
    /// Nothing but numbers.
    Numbers(Bound<'py, PyRange>),
    /// The function could not be rebuilt.
    Unwanted,
}

impl<'py> Items<'py> {
    /// The items of a payload, for a function, whose parts they may refer to.
    pub(super) fn of(
        py: Python<'py>,
        payload: Parcel,
        function: &Result<Function, Py<PyAny>>,
    ) -> PyResult<Self> {
        let Ok(function) = function else { return Ok(Self::Unwanted) };
        set_parts(function.parts.as_ref().map(|parts| parts.clone_ref(py)));
        let crossed = decode(py, payload)?;
        let crossed = match crossed.cast_into::<PyList>() {
            Ok(items) => return Ok(Self::Together(items)),
            Err(other) => other.into_inner(),
        };
        match crossed.cast_into::<PyRange>() {
            Ok(numbers) => Ok(Self::Numbers(numbers)),
            Err(other) => Ok(Self::OneByOne(other.into_inner().cast_into::<PyTuple>()?)),
        }
    }

    /// Takes an item out, so that it may die as soon as its call is over.
    pub(super) fn take(&self, index: usize) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Together(items) => {
                let item = items.get_item(index)?;
                items.set_item(index, items.py().None())?;
                Ok(item)
            }
            Self::OneByOne(pickles) => {
                let pickle = pickles.get_item(index)?;
                let alone = loads(pickles.py(), &pickle)?;
                // The item alone keeps its memory from now on.
                if let Ok(parts) = pickle.cast::<PyTuple>() {
                    parts.get_item(1)?.call_method0(intern!(pickles.py(), "clear"))?;
                }
                alone.get_item(0)
            }
            Self::Numbers(numbers) => numbers.get_item(index),
            Self::Unwanted => Err(PyRuntimeError::new_err("there is no function for this item")),
        }
    }
}
