//! Outcomes of a piece that wait to be sent with those after them.
//!
//! A result is what the call returned at the moment at which it returned it, and no other call sees or changes it. So only
//! results that cannot be changed any more wait as they are, and share a pickle; any other is pickled at once. One that is
//! too large for that is sent at once.

use crate::separate::is_alone;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

/// What to do with a result.
pub(super) enum Place {
    /// It can wait as it is.
    AsItIs,
    /// It has to be pickled now.
    Pickled,
}

/// Outcomes as they cross.
pub(super) enum Crossing<'py> {
    Results(Bound<'py, PyList>),
    Pickles(Bound<'py, PyTuple>),
}

/// The outcomes that wait: either all as they are, or all pickled, as lists of one.
pub(super) struct Waiting<'py> {
    objects: Bound<'py, PyList>,
    pickles: Vec<Bound<'py, PyBytes>>,
}

impl<'py> Waiting<'py> {
    pub(super) fn new(py: Python<'py>) -> Self {
        Self { objects: PyList::empty(py), pickles: Vec::new() }
    }

    pub(super) fn len(&self) -> u32 {
        (self.objects.len() + self.pickles.len()) as u32
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn are_pickled(&self) -> bool {
        !self.pickles.is_empty()
    }

    /// Where a result belongs. After the `last` of a piece nothing is called before all are sent.
    pub(super) fn place(&self, result: &Bound<'py, PyAny>, last: bool) -> PyResult<Place> {
        let as_it_is = !self.are_pickled() && (last || is_alone(result)?);
        Ok(if as_it_is { Place::AsItIs } else { Place::Pickled })
    }

    pub(super) fn push(&mut self, result: Bound<'py, PyAny>) -> PyResult<()> {
        self.objects.append(result)
    }

    pub(super) fn push_pickle(&mut self, pickle: Bound<'py, PyBytes>) {
        self.pickles.push(pickle);
    }

    /// What crosses: a list of results, or a tuple of pickles of lists of one result each.
    pub(super) fn into_crossing(self, py: Python<'py>) -> PyResult<Crossing<'py>> {
        Ok(if self.pickles.is_empty() {
            Crossing::Results(self.objects)
        } else {
            Crossing::Pickles(PyTuple::new(py, self.pickles)?)
        })
    }
}
