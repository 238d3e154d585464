//! Values that cross once to each worker: in pickles a [`Reference`] stands for them.

use crate::unpickle::decode;
use forklift_core::commons::Shared;
use forklift_core::id::JobId;
use forklift_shm::{Held, Lock};
use pyo3::exceptions::PyLookupError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

static KEPT: Lock<BTreeMap<u64, Kept>> = Lock::new(BTreeMap::new());

/// Objects die outside of the lock: they may run code of the user's.
fn kept() -> Held<'static, BTreeMap<u64, Kept>> {
    KEPT.lock()
}

/// Keeps a value that the parent has sent.
pub(crate) fn keep(job: JobId, key: u64, one_object: bool, value: Shared) {
    let entry = Kept { job, value: Arc::new(value), object: one_object.then_some(None) };
    let former = kept().insert(key, entry);
    drop(former);
}

/// Drops the value of a key.
pub(crate) fn drop_key(key: u64) {
    let gone = kept().remove(&key);
    drop(gone);
}

/// Drops the values of a job.
pub(crate) fn drop_job(job: JobId) {
    let gone: Vec<Kept> = {
        let mut kept = kept();
        let keys: Vec<u64> = kept.iter().filter(|(_, entry)| entry.job == job).map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| kept.remove(key)).collect()
    };
    drop(gone);
}

/// The value of a key: the worker's one object, or one for whoever asks.
///
/// Raises `LookupError` for a value that this pool does not share.
#[pyfunction]
pub(crate) fn fetch(py: Python<'_>, key: u64) -> PyResult<Py<PyAny>> {
    let found = kept().get(&key).map(|entry| match &entry.object {
        Some(Some(object)) => Err(object.clone_ref(py)),
        object => Ok((Arc::clone(&entry.value), object.is_some())),
    });
    let (value, one_object) = match found {
        Some(Err(object)) => return Ok(object),
        Some(Ok(found)) => found,
        None => {
            return Err(PyLookupError::new_err(
                "a shared value that this pool does not know: it was shared with another pool, or is shared no longer",
            ));
        }
    };
    let parcel = value.open().map_err(crate::error::raise)?;
    let object = decode(py, parcel)?.unbind();
    // A recursive value may have been decoded meanwhile: the first one stays.
    let first = match kept().get_mut(&key) {
        Some(Kept { object: Some(place), .. }) if one_object => match place {
            Some(first) => Some(first.clone_ref(py)),
            None => {
                *place = Some(object.clone_ref(py));
                None
            }
        },
        _ => None,
    };
    Ok(first.unwrap_or(object))
}
