//! What an onlooker sees of a pool of another process, as plain dicts.

use forklift_shm::{Phase, Seen, SeenSlot};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::io::ErrorKind;
use std::path::PathBuf;

/// Looks at the scoreboard under this path. Raises `OSError` where it cannot be read, and `ValueError` where it is none, or is
/// of another version.
#[pyfunction]
pub(crate) fn look_at_pool(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let seen = py.detach(|| forklift_shm::look(&path)).map_err(|error| match error.kind() {
        ErrorKind::InvalidData => PyValueError::new_err(error.to_string()),
        _ => error.into(),
    })?;
    let Seen { pid, begun_nanoseconds, figures, slots } = seen;
    let known = PyDict::new(py);
    for (name, figure) in figures.named() {
        known.set_item(name, figure)?;
    }
    let lines = slots.iter().map(|slot| line(py, slot)).collect::<PyResult<Vec<_>>>()?;
    let found = PyDict::new(py);
    found.set_item("pid", pid)?;
    found.set_item("begun", seconds(begun_nanoseconds))?;
    found.set_item("figures", known)?;
    found.set_item("slots", PyList::new(py, lines)?)?;
    Ok(found)
}

fn line<'py>(py: Python<'py>, seen: &SeenSlot) -> PyResult<Bound<'py, PyDict>> {
    let SeenSlot { slot, pid, reading, held } = *seen;
    let line = PyDict::new(py);
    line.set_item("slot", slot)?;
    line.set_item("pid", pid)?;
    line.set_item("call", reading.job)?;
    line.set_item("item", reading.item)?;
    line.set_item("since", seconds(reading.since_nanoseconds))?;
    line.set_item("begun", reading.calls)?;
    line.set_item("held", held)?;
    line.set_item("phase", word(reading.phase))?;
    Ok(line)
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "idle",
        Phase::Decoding => "decoding",
        Phase::Calling => "calling",
        Phase::Encoding => "encoding",
    }
}

/// A moment of CLOCK_MONOTONIC, as `time.monotonic()` gives it.
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
