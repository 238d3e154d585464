//! What a job gives to its caller: results in the order of their items, and failures by index.

use crate::distant;
use crate::error::death;
use crate::parcel::PyParcel;
use crate::pickle::Opened;
use forklift_core::handle::{Answer, Outcome};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyList;

/// A list of outcomes, and those of them that are failures, by index.
pub(crate) type Outcomes<'py> = (Bound<'py, PyList>, Vec<(u64, Py<PyAny>)>);

/// Puts values into a list from `first` on, which grows as far as needed.
pub(crate) fn place<'py>(
    py: Python<'py>,
    results: &Bound<'py, PyList>,
    first: usize,
    values: &Bound<'py, PyList>,
) -> PyResult<()> {
    let length = results.len();
    if length == first {
        return results.set_slice(length, length, values);
    }
    let end = first + values.len();
    if length < end {
        let missing = PyList::new(py, (length..end).map(|_| py.None()))?;
        results.set_slice(length, length, &missing)?;
    }
    results.set_slice(first, end, values)
}

/// The results of an answer, with None where an item failed, and those failures.
pub(crate) fn open(py: Python<'_>, answer: Answer) -> PyResult<Outcomes<'_>> {
    let failure = py.import("forklift._outcome")?;
    match answer.outcome {
        Outcome::Lost(end) => {
            let error = death(py, answer.first, &end)?;
            Ok((PyList::new(py, [py.None()])?, vec![(answer.first, error)]))
        }
        Outcome::Values(parcel) => {
            let parcel = match distant::fetched(py, parcel) {
                Ok(parcel) => parcel,
                Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => return Err(error),
                Err(error) => {
                    let lost = (answer.first, answer.items, error.into_value(py));
                    return failure.call_method1("unfetched_results", lost)?.extract();
                }
            };
            let opened = Opened::new(py, parcel)?;
            let mut failures = Vec::new();
            let list = match opened.loads(py).and_then(|list| counted(list, answer.items)) {
                Ok(list) => list,
                // Ctrl-C is the caller's. Whatever else an object raises is its own item's failure.
                Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => return Err(error),
                Err(error) => {
                    let salvaged = failure.call_method1(
                        "undecodable_results",
                        (opened.stream, opened.buffers, answer.first, answer.items, error.into_value(py)),
                    )?;
                    let (list, lost): (Bound<'_, PyList>, Vec<(u64, Py<PyAny>)>) = salvaged.extract()?;
                    failures = lost;
                    list
                }
            };
            if answer.failed > 0 {
                let class = failure.getattr("Failure")?;
                for (offset, value) in list.iter().enumerate() {
                    if value.get_type().is(&class) {
                        let index = answer.first + offset as u64;
                        let error = failure.call_method1("revive", (value, index))?;
                        failures.push((index, error.unbind()));
                        list.set_item(offset, py.None())?;
                    }
                }
            }
            Ok((list, failures))
        }
    }
}

/// An answer as it came, for whoever passes it on; see `Job.take_parcel`.
pub(crate) fn pass_on(py: Python<'_>, answer: Answer) -> PyResult<Bound<'_, PyAny>> {
    let spent = answer.spent;
    let seconds = (spent.decode.as_secs_f64(), spent.call.as_secs_f64(), spent.encode.as_secs_f64());
    let outcome = match answer.outcome {
        Outcome::Values(parcel) => Py::new(py, PyParcel::of(py, parcel)?)?.into_any(),
        Outcome::Lost(end) => death(py, answer.first, &end)?,
    };
    let row = (answer.first, answer.items, answer.failed, outcome, seconds);
    Ok(row.into_pyobject(py)?.into_any())
}

/// What a worker answered for so many items.
fn counted(answered: Bound<'_, PyAny>, items: u32) -> PyResult<Bound<'_, PyList>> {
    let list = answered.cast_into::<PyList>()?;
    if list.len() == items as usize {
        Ok(list)
    } else {
        let text = format!("a worker answered {items} items with {} results", list.len());
        Err(PyRuntimeError::new_err(text))
    }
}
