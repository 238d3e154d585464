//! Forks of this process, whoever makes them: what a child writes to memory that was mapped shared is its own. UNSAFE: the
//! handlers that the C library calls around each fork.
//!
//! `fork` of the C library calls them for `os.fork` and for C code alike. In the child all shared mappings are replaced by
//! private ones of the same files at the same places, before `fork` returns there. What others write to pages that the
//! child has not written to still shows: to copy everything at each fork would cost as much as all that is held, also where
//! the child is about to run another program. A child that is made by a system call of its own (`clone`), past the C library, or
//! by `vfork`, which has its parent's memory anyway, is not seen here.
//!
//! Handlers run in this order: the gate of the [`locks`](crate::locks) is closed, the process forks, and in the child the gate is
//! opened again before anything is locked.

use std::sync::Weak;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::locks::{self, Lock};

/// Memory that is mapped shared.
pub(crate) trait Mapping: Send + Sync {
    /// To be called in a child that was just forked: what it writes from here on reaches nobody.
    fn privatize(&self);
}

/// What this process has mapped shared.
static SHARED: Lock<Vec<Weak<dyn Mapping>>> = Lock::new(Vec::new());

/// What came of registering the handlers.
static ANSWER: AtomicI32 = AtomicI32::new(UNASKED);
const UNASKED: i32 = -1;

/// From here on forks of this process wait until no other thread holds a [`Lock`], and write to copies of what is mapped
/// shared. To be called before there are other threads; a second call changes nothing.
pub fn prepare_for_forks() {
    if ANSWER.swap(0, Ordering::Relaxed) != UNASKED {
        return;
    }
    // SAFETY:
    // - The three functions live as long as this library, whose end the C library sees and forgets them.
    // - They take and return nothing, never panic, and run in the thread that forks.
    let answer = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    ANSWER.store(answer, Ordering::Relaxed);
}

/// Has the forks of this process write to copies of memory that was just mapped shared.
pub(crate) fn enter(mapping: Weak<dyn Mapping>) -> Result<()> {
    prepare_for_forks();
    let answer = ANSWER.load(Ordering::Relaxed);
    if answer != 0 {
        return Err(Error::system("watch for forks", 0, Errno::from_raw_os_error(answer)));
    }
    let mut known = SHARED.lock();
    known.retain(|mapping| mapping.strong_count() > 0);
    known.push(mapping);
    Ok(())
}

extern "C" fn before() {
    locks::close_gate();
}

extern "C" fn in_parent() {
    locks::open_gate();
}

extern "C" fn in_child() {
    locks::open_gate_in_child();
    // They stay private in forks of the fork.
    let known = std::mem::take(&mut *SHARED.lock());
    for mapping in known.iter().filter_map(Weak::upgrade) {
        mapping.privatize();
    }
}
