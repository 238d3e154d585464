//! Values that cross once to each worker: in pickles a [`Reference`] stands for them.

use crate::unpickle::decode;
use forklift_core::commons::Shared;
use forklift_core::id::JobId;
use pyo3::exceptions::PyLookupError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The next value's name; no two pools of this process use the same.
pub(crate) fn next_key() -> u64 {
    static KEYS: AtomicU64 = AtomicU64::new(1);
    KEYS.fetch_add(1, Ordering::Relaxed)
}

/// Stands for a shared value in a pickle; arrives as the value itself.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Reference {
    key: u64,
}

impl Reference {
    pub(crate) fn new(key: u64) -> Self {
        Self { key }
    }
}

#[pymethods]
impl Reference {
    #[new]
    fn of(key: u64) -> Self {
        Self::new(key)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let py = slf.py();
        let fetch = py.import(intern!(py, "forklift._native"))?.getattr(intern!(py, "fetch"))?;
        Ok((fetch, PyTuple::new(py, [slf.get().key])?))
    }
}

/// A shared value in the worker.
struct Kept {
    job: JobId,
    value: Arc<Shared>,
    /// One object for all, once there is one; or each asks for its own.
    object: Option<Option<Py<PyAny>>>,
}

static KEPT: Mutex<Option<HashMap<u64, Kept>>> = Mutex::new(None);

fn kept() -> MutexGuard<'static, Option<HashMap<u64, Kept>>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps a value that the parent has sent.
pub(crate) fn keep(job: JobId, key: u64, one_object: bool, value: Shared) {
    let entry = Kept { job, value: Arc::new(value), object: one_object.then_some(None) };
    kept().get_or_insert_default().insert(key, entry);
}

/// Drops the value of a key.
pub(crate) fn drop_key(key: u64) {
    // Objects die outside of the lock: they may run code of the user's.
    let gone = kept().as_mut().and_then(|kept| kept.remove(&key));
    drop(gone);
}

/// Drops the values of a job.
pub(crate) fn drop_job(job: JobId) {
    let gone: Vec<Kept> = kept()
        .as_mut()
        .map(|kept| kept.extract_if(|_, entry| entry.job == job).map(|(_, entry)| entry).collect())
        .unwrap_or_default();
    drop(gone);
}

/// The value of a key: the worker's one object, or one for whoever asks.
///
/// Raises `LookupError` for a value that this pool does not share.
#[pyfunction]
pub(crate) fn fetch(py: Python<'_>, key: u64) -> PyResult<Py<PyAny>> {
    let (value, one_object) = match kept().as_ref().and_then(|kept| kept.get(&key)) {
        Some(Kept { object: Some(Some(object)), .. }) => return Ok(object.clone_ref(py)),
        Some(entry) => (Arc::clone(&entry.value), entry.object.is_some()),
        None => {
            return Err(PyLookupError::new_err(
                "a shared value that this pool does not know: it was shared with another pool, or is shared no longer",
            ));
        }
    };
    let parcel = value.open().map_err(crate::error::raise)?;
    let object = decode(py, parcel)?.unbind();
    if one_object
        && let Some(entry) = kept().as_mut().and_then(|kept| kept.get_mut(&key))
        && let Some(place) = &mut entry.object
    {
        // A recursive value may have been decoded meanwhile: the first one stays.
        return Ok(place.get_or_insert(object).clone_ref(py));
    }
    Ok(object)
}
