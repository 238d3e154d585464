//! Signals that wait for their handlers in Python, Ctrl-C above all, while the core copies without the interpreter's lock.

use forklift_core::copying::{Reason, ask_between_slices};
use pyo3::prelude::*;

/// Has long copies look after signals between two slices.
pub(crate) fn watch() {
    ask_between_slices(look);
}

/// Runs the handlers of signals that have come.
fn look() -> Result<(), Reason> {
    Python::attach(|py| py.check_signals()).map_err(Reason::from)
}
