//! What a job gives to its caller: results in the order of their items, and failures by index.

use crate::distant;
use crate::error::death;
use crate::parcel::PyParcel;
use crate::unpickle::{Opened, loads};
use forklift_core::handle::{Answer, Outcome};
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

/// A list of outcomes, and those of them that are failures, by index.
pub(crate) type Outcomes<'py> = (Bound<'py, PyList>, Vec<(u64, Py<PyAny>)>);

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
            let built = match opened.loads(py).and_then(|all| one_by_one(all, answer.first)) {
                Ok((list, failures)) => counted(list, answer.items).map(|list| (list, failures)),
                Err(error) => Err(error),
            };
            let (list, mut failures) = match built {
                Ok(outcomes) => outcomes,
                // Ctrl-C is the caller's. Whatever else an object raises is its own item's failure.
                Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => return Err(error),
                Err(error) => failure
                    .call_method1(
                        "undecodable_results",
                        (opened.stream, opened.buffers, answer.first, answer.items, error.into_value(py)),
                    )?
                    .extract()?,
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

/// The results of a worker's answer: they crossed as a list, or as a tuple of pickles of lists of one.
fn one_by_one(answered: Bound<'_, PyAny>, first: u64) -> PyResult<Outcomes<'_>> {
    let py = answered.py();
    let pickles = match answered.cast_into::<PyTuple>() {
        Ok(pickles) => pickles,
        Err(other) => return Ok((other.into_inner().cast_into::<PyList>()?, Vec::new())),
    };
    let (list, mut failures) = (PyList::empty(py), Vec::new());
    for (offset, pickle) in pickles.iter().enumerate() {
        let built = loads(py, &pickle).and_then(|alone| alone.get_item(0));
        list.append(match built {
            Ok(result) => result,
            Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py) => return Err(error),
            Err(error) => {
                let outcome = py.import("forklift._outcome")?;
                let error = outcome.call_method1("undecodable_result", (error.into_value(py),))?;
                failures.push((first + offset as u64, error.unbind()));
                py.None().into_bound(py)
            }
        })?;
    }
    Ok((list, failures))
}

/// What a worker answered for so many items.
fn counted(list: Bound<'_, PyList>, items: u32) -> PyResult<Bound<'_, PyList>> {
    if list.len() == items as usize {
        Ok(list)
    } else {
        let text = format!("a worker answered {items} items with {} results", list.len());
        Err(PyRuntimeError::new_err(text))
    }
}
