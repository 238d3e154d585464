//! Seconds as Python gives them: any float there is, of which not every one is a time.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::time::{Duration, Instant};

/// More than anybody waits, and little enough to be added to any moment.
const SECONDS_MAX: f64 = 1e9;

/// A time to wait. Less than nothing is nothing, and what is endless is a very long time.
///
/// # Errors
/// `ValueError` for what is no number.
pub(crate) fn patience(seconds: f64) -> PyResult<Duration> {
    if seconds.is_nan() {
        return Err(PyValueError::new_err("timeout must be a number of seconds or None, not nan"));
    }
    Ok(Duration::from_secs_f64(seconds.clamp(0.0, SECONDS_MAX)))
}

/// When to stop waiting, after so many seconds (None: never).
///
/// # Errors
/// As [`patience`].
pub(crate) fn deadline(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    timeout.map(|seconds| Ok(Instant::now() + patience(seconds)?)).transpose()
}
