//! Which job a worker is at, for `forklift._bindings`: globals that travel by value are those of the moment at which the
//! job was opened, and jobs overlap.

use forklift_core::id::JobId;
use pyo3::prelude::*;

/// Tells Python when the worker turns to another job, and when one is forgotten.
pub(crate) struct Bindings {
    enter: Py<PyAny>,
    leave: Py<PyAny>,
    job: Option<JobId>,
}

impl Bindings {
    pub(crate) fn new(py: Python<'_>) -> PyResult<Self> {
        let module = py.import("forklift._bindings")?;
        Ok(Self {
            enter: module.getattr("enter")?.unbind(),
            leave: module.getattr("leave")?.unbind(),
            job: None,
        })
    }

    pub(crate) fn enter(&mut self, py: Python<'_>, job: JobId) -> PyResult<()> {
        if self.job.replace(job) != Some(job) {
            self.enter.call1(py, (job.0,))?;
        }
        Ok(())
    }

    pub(crate) fn leave(&mut self, py: Python<'_>, job: JobId) -> PyResult<()> {
        self.job.take_if(|last| *last == job);
        self.leave.call1(py, (job.0,)).map(drop)
    }
}
