//! A few descriptors that are kept open for nothing, so that there is room when this process has as many as it may.
//!
//! What a worker sends of shared memory comes once: where the kernel finds no number for a descriptor it drops it. To be
//! asked to send it again helps only if there is room then, and when the program closes some of its own nobody knows.

use forklift_shm::Lock;
use rustix::fd::{AsFd, OwnedFd};

/// How many are kept: results of so many workers more come through when all others are taken.
const SPARES: usize = 4;

/// The spare descriptors of one pool.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    spares: Lock<Vec<OwnedFd>>,
}

impl Reserve {
    /// Keeps as many as there should be, as far as there is room.
    pub(crate) fn fill(&self, like: impl AsFd) {
        let mut spares = self.spares.lock();
        while spares.len() < SPARES {
            let Ok(spare) = rustix::io::fcntl_dupfd_cloexec(&like, 3) else { return };
            spares.push(spare);
        }
    }

    /// Makes room for one descriptor; whether there was one to spare.
    pub(crate) fn make_room(&self) -> bool {
        let spare = self.spares.lock().pop();
        spare.is_some()
    }
}
