//! Threads of the interpreter's that are in here, and its end.
//!
//! An interpreter that ends does away with every thread that asks for its lock from then on, by unwinding it
//! (`pthread_exit`, before Python 3.14). A thread that has frames of Rust beneath it cannot be unwound: the process would be
//! aborted. So before the interpreter ends, whoever ends it waits until no other thread is in here ([`await_visits`]), and
//! those that come later are turned away by `SystemExit`, which ends a thread without a word.
//!
//! What makes that wait short: pools have been ended before, which ends all waiting in here; and what a user's code can be
//! in for ever (an iterable, a callback, a bar's function) is called by Python code, with nothing of ours beneath it. What is
//! called from here are picklers and unpicklers, and with them methods of the objects that they are given.
//!
//! Only methods that let go of the interpreter or run Python code are visits. In others nobody is stopped.

use pyo3::exceptions::PySystemExit;
use pyo3::prelude::*;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How often the thread that ends the interpreter looks whether the others are out.
const LOOK: Duration = Duration::from_millis(2);

/// Threads that are in here.
static INSIDE: AtomicU32 = AtomicU32::new(0);

/// The interpreter is about to end.
static ENDING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// How many visits of this thread there are, one within another.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Whether it is this thread that ends the interpreter.
    static ENDS: Cell<bool> = const { Cell::new(false) };
}

/// A stay of a thread. Ends when dropped.
pub(crate) struct Visit(());

impl Visit {
    /// Begins one.
    ///
    /// # Errors
    /// `SystemExit` when the interpreter is about to end.
    pub(crate) fn begin() -> PyResult<Self> {
        let depth = DEPTH.get();
        DEPTH.set(depth + 1);
        if depth == 0 {
            INSIDE.fetch_add(1, Ordering::SeqCst);
        }
        let visit = Self(());
        if depth == 0 && ENDING.load(Ordering::SeqCst) && !ENDS.get() {
            return Err(PySystemExit::new_err("the interpreter ends"));
        }
        Ok(visit)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let depth = DEPTH.get() - 1;
        DEPTH.set(depth);
        if depth == 0 {
            INSIDE.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn others() -> u32 {
    INSIDE.load(Ordering::SeqCst).saturating_sub(u32::from(DEPTH.get() > 0))
}

/// The interpreter is about to end, by this thread: waits until no other is in here, at most `timeout` seconds; whether
/// that is so.
#[pyfunction]
pub(crate) fn await_visits(py: Python<'_>, timeout: f64) -> bool {
    ENDS.set(true);
    ENDING.store(true, Ordering::SeqCst);
    let (begun, patience) = (Instant::now(), Duration::try_from_secs_f64(timeout).unwrap_or_default());
    while others() > 0 {
        if begun.elapsed() >= patience {
            return false;
        }
        py.detach(|| std::thread::sleep(LOOK));
    }
    true
}

/// A pool is made although the interpreter is about to end (another exit function does it): its threads are let in.
pub(crate) fn welcome() {
    ENDING.store(false, Ordering::SeqCst);
}

/// In a fork of this process: the others are not here.
#[pyfunction]
pub(crate) fn forget_others() {
    INSIDE.store(u32::from(DEPTH.get() > 0), Ordering::SeqCst);
}
