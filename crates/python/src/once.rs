//! What is looked up once in a process, and kept. No cell: what is made may let go of the interpreter, and a fork in that
//! moment would inherit a cell half made.

use forklift_shm::Lock;
use pyo3::prelude::*;

/// A value that is made when it is first asked for.
pub(crate) struct Once<T: 'static>(Lock<Option<&'static T>>);

impl<T> Once<T> {
    pub(crate) const fn new() -> Self {
        Self(Lock::new(None))
    }

    /// The value, which two threads may make at the same time: then the first one stays.
    pub(crate) fn get(&self, make: impl FnOnce() -> PyResult<T>) -> PyResult<&'static T> {
        let known = *self.0.lock();
        if let Some(known) = known {
            return Ok(known);
        }
        let made: &'static T = Box::leak(Box::new(make()?));
        Ok(self.0.lock().get_or_insert(made))
    }
}
