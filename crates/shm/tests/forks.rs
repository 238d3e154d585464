//! Forks beside threads that are in and out of the locks all the time: no child finds one locked.
//!
//! The only test of its program, since a fork copies whatever the others hold.

use forklift_shm::{Arena, ArenaLimits, Lock, Segment, Sharing, Waiters, prepare_for_forks};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A child that was forked with a lock held by another thread stands still; the first few hundred would show it.
const FORKS: u32 = 20_000;

/// How long a child may take that only takes and releases locks.
const CHILD_SECONDS: u32 = 30;

struct Shared {
    arena: Arena,
    numbers: Lock<Vec<u64>>,
    waiters: Waiters,
    over: AtomicBool,
}

impl Shared {
    /// Takes all kinds of locks: a lock alone, one within another, and those of arena, segments and claims.
    fn touch(&self, number: u64) {
        let mut numbers = self.numbers.lock();
        numbers.push(number);
        if numbers.len() > 100 {
            numbers.clear();
        }
        drop(self.arena.allocate(1 + number % 9000).expect("a block"));
        drop(numbers);
        self.touch_inherited();
    }

    /// In a child too, which has an arena's lock like any other, and none of its memory to give away.
    fn touch_inherited(&self) {
        self.numbers.lock().push(0);
        assert!(self.arena.usage().segments <= 1);
        self.waiters.announce();
        let segment = Segment::create(4096).expect("a segment");
        let file = segment.fd().try_clone_to_owned().expect("a descriptor");
        drop(Segment::open(file, 4096, Sharing::Shared).expect("a segment"));
    }
}

#[test]
fn no_child_inherits_a_lock_that_is_held() {
    prepare_for_forks();
    let shared = Arc::new(Shared {
        arena: Arena::new(ArenaLimits::default()),
        numbers: Lock::default(),
        waiters: Waiters::new(),
        over: AtomicBool::new(false),
    });
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut number = 0;
                while !shared.over.load(Ordering::Relaxed) {
                    number += 1;
                    shared.touch(number);
                    let looked = shared.waiters.look();
                    if number % 64 == 0 {
                        shared.waiters.wait(looked, Duration::from_micros(50));
                    }
                }
                number
            })
        })
        .collect();
    for fork in 0..FORKS {
        // SAFETY: the child runs what is below alone, which takes no lock but those that this is about, and exits.
        match unsafe { libc::fork() } {
            -1 => panic!("no fork {fork}: {}", std::io::Error::last_os_error()),
            0 => {
                // SAFETY: it asks the kernel for a signal that ends this process, and touches no memory.
                unsafe { libc::alarm(CHILD_SECONDS) };
                let touched = std::panic::catch_unwind(AssertUnwindSafe(|| shared.touch_inherited()));
                // SAFETY: it ends the process, and runs nothing of it.
                unsafe { libc::_exit(i32::from(touched.is_err())) };
            }
            child => {
                let mut status = 0;
                // SAFETY: `status` is a number that the call may write to; the child is ours, and reaped once.
                let reaped = unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert_eq!((reaped, status), (child, 0), "fork {fork} did not come to its end");
            }
        }
    }
    shared.over.store(true, Ordering::Relaxed);
    for thread in threads {
        assert!(thread.join().unwrap() > 0);
    }
}
