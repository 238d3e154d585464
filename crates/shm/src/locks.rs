//! Locks that no fork of this process can inherit locked.
//!
//! A forked child has the one thread that forked, and a copy of every lock as it was in that moment. One that another
//! thread held then is locked in the child for ever. The story: a pool's driver notes each birth under a lock, without the
//! interpreter's; a program that forks beside it stood still after some hundred forks, in the child's first line.
//!
//! # Why it cannot happen
//! All locks of this package are of one kind, [`Lock`], and who holds one, or is about to take one, is counted in one word,
//! the *gate*. Before a fork, whoever makes it (the interpreter, or C code that it knows nothing of), the gate is closed:
//! threads that hold no lock wait outside, and the fork waits until those inside have left. Afterwards both processes
//! open it. So there is no order among locks that a fork would have to keep, and none that it could forget: also a lock
//! that was made a moment ago is free.
//!
//! ```text
//!   thread   enter: count 1 ──▶ (closed? count back, wait for the opening, again) ──▶ lock ··· unlock ──▶ count back
//!   fork     close ──▶ wait until nobody is inside ──▶ fork ──▶ open                          [edge: gate/left]
//!   child                                                  └──▶ nobody is inside but who forked
//! ```
//!
//! A thread that is inside enters again without asking, so locks can be nested. One that forks while it is inside does not
//! wait for itself; what it holds is its own in the child as well.
//!
//! # What a holder must not do
//! Wait for the interpreter's lock, run Python code, or let go of a Python object: a thread that forks holds the interpreter
//! while it waits for the gate. Nor wait for anything else: for that there are [`Waiters`], which hold no lock.
//!
//! # Limitations
//! `vfork`, `posix_spawn` and a bare `clone` ask nobody. What they make runs another program, or uses nothing of ours.
#![expect(clippy::disallowed_types, reason = "the one place where a mutex becomes a lock")]

use rustix::thread::futex;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Set in the gate while a thread forks. The other bits count the threads that are inside.
const CLOSED: u32 = 1 << 31;

/// How long a thread sleeps at most before it looks at the gate again. Every change is announced; this is for none that
/// was missed.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

static GATE: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// How many times this thread is inside.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Waits while a word has a value, but not for long.
fn sleep_while(word: &AtomicU32, value: u32, patience: Duration) {
    let timeout = futex::Timespec {
        tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(patience.subsec_nanos()),
    };
    // Whatever ends it, the caller looks at the word again.
    let _ = futex::wait(word, futex::Flags::PRIVATE, value, Some(&timeout));
}

fn wake_all(word: &AtomicU32) {
    // Nobody may be waiting.
    let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
}

/// The proof that its thread is inside. Ends when dropped.
#[derive(Debug)]
struct Inside;

impl Inside {
    fn enter() -> Self {
        let depth = DEPTH.get();
        DEPTH.set(depth + 1);
        if depth == 0 && GATE.fetch_add(1, Ordering::Acquire) & CLOSED != 0 {
            Self::wait_and_enter();
        }
        Self
    }

    /// The gate was found closed, and this thread has counted itself.
    #[cold]
    fn wait_and_enter() {
        loop {
            GATE.fetch_sub(1, Ordering::Release);
            wake_all(&GATE);
            loop {
                let gate = GATE.load(Ordering::Relaxed);
                if gate & CLOSED == 0 {
                    break;
                }
                sleep_while(&GATE, gate, LOOK_AGAIN);
            }
            if GATE.fetch_add(1, Ordering::Acquire) & CLOSED == 0 {
                return;
            }
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let depth = DEPTH.get() - 1;
        DEPTH.set(depth);
        // Release, edge gate/left: whoever closes the gate sees what was unlocked.
        if depth == 0 && GATE.fetch_sub(1, Ordering::Release) & CLOSED != 0 {
            wake_all(&GATE);
        }
    }
}

/// One if this thread is inside.
fn own() -> u32 {
    u32::from(DEPTH.get() > 0)
}

/// Before a fork: closes the gate, and waits until nobody else is inside.
pub(crate) fn close_gate() {
    loop {
        let gate = GATE.fetch_or(CLOSED, Ordering::Relaxed);
        if gate & CLOSED == 0 {
            break;
        }
        // Another thread forks at the same time. It has closed the gate, and will open it.
        sleep_while(&GATE, gate, LOOK_AGAIN);
    }
    loop {
        // Acquire, edge gate/left.
        let gate = GATE.load(Ordering::Acquire);
        if gate & !CLOSED <= own() {
            return;
        }
        sleep_while(&GATE, gate, LOOK_AGAIN);
    }
}

/// After it, in the parent.
pub(crate) fn open_gate() {
    GATE.fetch_and(!CLOSED, Ordering::Release);
    wake_all(&GATE);
}

/// After it, in the child.
pub(crate) fn open_gate_in_child() {
    GATE.store(own(), Ordering::Relaxed);
}

/// A value for one thread at a time, of which a forked child never inherits the locked state. See the module's
/// documentation for what its holder must not do.
#[derive(Debug, Default)]
pub struct Lock<T> {
    value: Mutex<T>,
}

/// A [`Lock`] that is held.
#[derive(Debug)]
pub struct Held<'a, T> {
    // In this order: unlocked first.
    value: MutexGuard<'a, T>,
    _inside: Inside,
}

impl<T> Lock<T> {
    /// A lock that nobody holds.
    pub const fn new(value: T) -> Self {
        Self { value: Mutex::new(value) }
    }

    /// Waits until nobody else has it. What a holder's panic has left is passed on: nothing that is kept under these locks
    /// is half changed where something can panic.
    pub fn lock(&self) -> Held<'_, T> {
        let inside = Inside::enter();
        Held { value: self.value.lock().unwrap_or_else(PoisonError::into_inner), _inside: inside }
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// Threads that wait for something under a [`Lock`] to change. They hold neither the lock nor the gate meanwhile, which is
/// why this is no `Condvar`: one that wakes takes its mutex again by itself, whatever the gate says.
///
/// Look at what is waited for between [`Waiters::look`] and [`Waiters::wait`]: a change in between ends the wait at once.
#[derive(Debug, Default)]
pub struct Waiters {
    changes: AtomicU32,
}

/// How many changes had been announced.
#[derive(Debug, Clone, Copy)]
pub struct Looked(u32);

impl Waiters {
    /// Nobody.
    pub const fn new() -> Self {
        Self { changes: AtomicU32::new(0) }
    }

    /// To be called before what is waited for is looked at.
    pub fn look(&self) -> Looked {
        Looked(self.changes.load(Ordering::Acquire))
    }

    /// Waits until a change is announced that came after the look, and at most `patience`. May return early.
    pub fn wait(&self, looked: Looked, patience: Duration) {
        sleep_while(&self.changes, looked.0, patience);
    }

    /// Something has changed.
    pub fn announce(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        wake_all(&self.changes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_change_between_look_and_wait_is_not_slept_through() {
        let waiters = Waiters::new();
        let looked = waiters.look();
        waiters.announce();
        waiters.wait(looked, Duration::from_secs(3600));
    }

    #[test]
    fn whoever_waits_is_woken_and_finds_the_change() {
        let shared = Arc::new((Lock::new(false), Waiters::new()));
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let (done, waiters) = &*theirs;
            loop {
                let looked = waiters.look();
                if *done.lock() {
                    return;
                }
                waiters.wait(looked, Duration::from_secs(3600));
            }
        });
        *shared.0.lock() = true;
        shared.1.announce();
        thread.join().unwrap();
    }

    #[test]
    fn locks_nest_and_count_a_thread_once() {
        let (one, two) = (Lock::new(1), Lock::new(2));
        let outer = one.lock();
        let inner = two.lock();
        assert_eq!((*outer, *inner, DEPTH.get()), (1, 2, 2));
        drop(outer);
        assert_eq!(own(), 1);
        drop(inner);
        assert_eq!(own(), 0);
    }
}
