//! Every error of the core as a Python exception. Nowhere else are they made.

use forklift_core::Error;
use forklift_core::handle::{Cause, Death, Excess, Fault};
use forklift_core::machine::MemoryShort;
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The exception that stands for an error of the core.
pub(crate) fn raise(error: Error) -> PyErr {
    match error {
        Error::Memory(ref memory) if memory.is_shortage() => PyMemoryError::new_err(error.to_string()),
        Error::Memory(ref memory) if memory.errno().is_some() => {
            PyOSError::new_err((memory.errno(), error.to_string()))
        }
        Error::Memory(_) | Error::Launch { .. } => PyOSError::new_err(error.to_string()),
        Error::Descriptors { .. } => PyOSError::new_err((libc::EMFILE, error.to_string())),
        Error::System { errno, .. } => PyOSError::new_err((errno.raw_os_error(), error.to_string())),
        Error::Stopped(reason) => match reason.downcast::<PyErr>() {
            // What a signal's handler raised between two slices of a copy.
            Ok(raised) => *raised,
            Err(reason) => PyRuntimeError::new_err(reason.to_string()),
        },
        Error::Variable { .. } => PyValueError::new_err(error.to_string()),
        Error::Malformed(_) | Error::Gone => PyRuntimeError::new_err(error.to_string()),
    }
}

/// What a fork of the process gets that asks for what only that process has.
pub(crate) fn not_ours() -> PyErr {
    PyRuntimeError::new_err(
        "this pool, and the results that it owes, belong to the process that this one was forked from",
    )
}

/// The exception for a job that cannot go on.
pub(crate) fn fault(py: Python<'_>, fault: &Fault) -> PyErr {
    let exception = py.import("forklift._outcome").and_then(|module| match fault {
        Fault::Initializer(failure) => {
            module.call_method1("initializer_failed", (PyBytes::new(py, failure),))
        }
        Fault::Births(reason) => module.call_method1("births_failed", (&**reason,)),
        Fault::Deaths(death) => {
            module.call_method1("births_died", (death.pid, death.status, evidence(&death.cause)))
        }
        Fault::Terminated => module.call_method0("terminated"),
        Fault::Cancelled => module.call_method0("cancelled"),
        Fault::Room(shortage) => {
            let shortage = (shortage.asked, shortage.limit, &shortage.holder, shortage.item);
            module.call_method1("no_room", shortage)
        }
    });
    exception.map_or_else(|error| error, PyErr::from_value)
}

/// The `WorkerDied`, `TaskTimeout` or `MemoryLimitExceeded` for one item.
pub(crate) fn death(py: Python<'_>, item: u64, death: &Death) -> PyResult<Py<PyAny>> {
    let module = py.import("forklift._outcome")?;
    if let Some(limit) = death.overdue {
        return Ok(module.call_method1("timed_out", (item, limit.as_secs_f64()))?.unbind());
    }
    if let Some(excess) = death.excess {
        let Excess { own_bytes, held_bytes, limit } = excess;
        let error = module.call_method1("outgrown", (item, death.pid, own_bytes, held_bytes, limit))?;
        return Ok(error.unbind());
    }
    Ok(module.call_method1("worker_died", (item, death.pid, death.status, evidence(&death.cause)))?.unbind())
}

/// What is known beyond the status, as `errors.death_in_words` takes it: a word, and a text.
fn evidence(cause: &Cause) -> Option<(&'static str, &str)> {
    match cause {
        Cause::Unknown => None,
        Cause::MemoryShort(MemoryShort::Cgroup) => Some(("memory", "cgroup")),
        Cause::MemoryShort(MemoryShort::Machine) => Some(("memory", "machine")),
        Cause::Sent => Some(("sent", "")),
        Cause::Expelled(reason) => Some(("expelled", reason)),
        Cause::Told(words) => Some(("told", words)),
        Cause::Aside => Some(("aside", "")),
    }
}
