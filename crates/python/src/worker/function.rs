//! The function of a job, in a worker.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// A function as it crossed: pickled as `(function, shape)`, or as a pair of that and of the parts that items refer to.
pub(super) struct Function {
    callable: Py<PyAny>,
    shape: Shape,
    pub(super) parts: Option<Py<PyTuple>>,
}

/// How an item becomes arguments.
#[derive(Clone, Copy)]
enum Shape {
    /// `f(item)`
    One,
    /// `f(*item)`
    Star,
    /// `f(*item[0], **item[1])`
    Apply,
}

impl Function {
    pub(super) fn new(crossed: &Bound<'_, PyAny>) -> PyResult<Self> {
        let with_parts = crossed.extract::<(Bound<'_, PyTuple>, Py<PyTuple>)>().ok();
        let (crossed, parts) = match with_parts {
            Some((function, parts)) => (function.into_any(), Some(parts)),
            None => (crossed.clone(), None),
        };
        let (callable, shape): (Py<PyAny>, u8) = crossed.extract()?;
        let shape = match shape {
            0 => Shape::One,
            1 => Shape::Star,
            _ => Shape::Apply,
        };
        Ok(Self { callable, shape, parts })
    }

    pub(super) fn call<'py>(&self, py: Python<'py>, item: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let callable = self.callable.bind(py);
        match self.shape {
            Shape::One => callable.call1((item,)),
            Shape::Star => match item.cast_into::<PyTuple>() {
                Ok(arguments) => callable.call1(arguments),
                Err(other) => {
                    let arguments = py.get_type::<PyTuple>().call1((other.into_inner(),))?;
                    callable.call1(arguments.cast_into::<PyTuple>()?)
                }
            },
            Shape::Apply => {
                let (arguments, options): (Bound<'py, PyTuple>, Bound<'py, PyAny>) = item.extract()?;
                if options.is_none() {
                    return callable.call1(arguments);
                }
                let options = options.cast_into::<PyDict>()?;
                callable.call(arguments, Some(&options))
            }
        }
    }
}
