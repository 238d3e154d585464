//! Bytes of calls that were submitted without waiting for credit, so that whoever submits them can wait for room.
//!
//! Maps have the scheduler's window. A call of `apply` asks nobody before it is encoded, or it would take a turn of the
//! driver's more; so what such calls hold is counted here, from their encoding to the end of their job, and a caller that
//! finds too much keeps the next ones as they are.

use forklift_shm::Waiters;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What all such calls of a pool hold together.
#[derive(Debug, Default)]
pub struct Load {
    bytes: AtomicU64,
    eased: Waiters,
}

impl Load {
    /// Whether one more may be encoded: there is less than this, or nothing at all.
    #[must_use]
    pub fn has_room(&self, bytes_max: u64) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed);
        bytes == 0 || bytes < bytes_max
    }

    /// Waits up to `patience` for room; whether there is some.
    #[must_use]
    pub fn wait_for_room(&self, bytes_max: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let looked = self.eased.look();
            if self.has_room(bytes_max) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.eased.wait(looked, left);
        }
    }
}

/// What one call holds. It is let go of when this is dropped.
#[derive(Debug)]
pub(crate) struct Weight {
    load: Arc<Load>,
    bytes: u64,
}

impl Weight {
    /// Nothing yet.
    pub(crate) fn of(load: Arc<Load>) -> Self {
        Self { load, bytes: 0 }
    }

    /// So much more.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.load.eased.announce();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(load: &Arc<Load>, bytes: u64) -> Weight {
        let mut weight = Weight::of(Arc::clone(load));
        weight.add(bytes);
        weight
    }

    #[test]
    fn one_goes_beyond_the_limit_and_no_second() {
        let load = Arc::new(Load::default());
        assert!(load.has_room(0), "one alone may have any weight");
        let first = weight(&load, 60);
        assert!(load.has_room(100));
        let second = weight(&load, 60);
        assert!(!load.has_room(100) && !load.wait_for_room(100, Duration::ZERO));
        drop(first);
        assert!(load.has_room(100));
        drop(second);
        assert!(load.has_room(0));
    }

    #[test]
    fn whoever_waits_is_woken() {
        let load = Arc::new(Load::default());
        let held = weight(&load, 1);
        let waiter = Arc::clone(&load);
        let thread = std::thread::spawn(move || waiter.wait_for_room(1, Duration::from_secs(60)));
        drop(held);
        assert!(thread.join().unwrap());
    }
}
