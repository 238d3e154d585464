//! How much of something may be held at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts bytes that are held, up to a limit.
pub(crate) struct Tally {
    limit: u64,
    held: AtomicU64,
}

/// Some bytes that are counted for as long as this lives.
pub(crate) struct Hold {
    bytes: u64,
    tally: Arc<Tally>,
    creator: u32,
}

impl Tally {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicU64::new(0) })
    }

    /// Counts so many bytes more; None if that is too much.
    pub(crate) fn hold(self: &Arc<Self>, bytes: u64) -> Option<Arc<Hold>> {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // Dropped, it takes off again what was added.
        let hold = Hold { bytes, tally: Arc::clone(self), creator: std::process::id() };
        (held <= self.limit).then(|| Arc::new(hold))
    }

    /// Bytes that are held now.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

impl Hold {
    /// Whether this process has made it. A fork of it has a copy, which is not its to let go of.
    pub(crate) fn is_ours(&self) -> bool {
        self.creator == std::process::id()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.is_ours() {
            self.tally.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}
