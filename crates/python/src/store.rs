//! Memory of an engine's object store that this process has mapped: lent on, and looked at, without a copy.
//!
//! Ray puts what is large into a memory file that all processes of a node map, and tells its readers that they must not
//! write there. Here the same file is mapped once more, privately, so that whoever writes changes a page of its own. Ray
//! keeps the bytes where they are for as long as the object lives that it gave out for them; so that is held until the
//! last borrower is gone.
//!
//! What is held so the store cannot evict. So there is a limit, beyond which everything is copied as it would be without a
//! store.

use crate::buffer::memory;
use crate::descriptor::adopt;
use crate::error::raise;
use crate::parcel::PyParcel;
use forklift_core::commons::Commons;
use forklift_core::payload::Loan;
use forklift_shm::Segment;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Less is copied: to find its pages takes as long.
const LENT_BYTES_MIN: usize = 64 << 10;

/// The store of this node.
#[pyclass(module = "forklift._native", frozen, weakref)]
pub(crate) struct Store {
    place: Arc<Place>,
    tally: Arc<Tally>,
}

struct Place {
    segment: Arc<Segment>,
    commons: Arc<Commons>,
    /// Where the engine has mapped it in this process.
    start: usize,
    /// Whether values can be [kept](Lease::keep): the engine says when it lets go of the store.
    keeping: AtomicBool,
}

/// How much of a store is held.
struct Tally {
    limit: u64,
    held: AtomicU64,
}

/// What may be held of one object of the store's. The store keeps all of it as long as a part of it is held, so all of
/// it is counted until the last part is let go of.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Lease {
    place: Arc<Place>,
    hold: Arc<Hold>,
}

struct Hold {
    bytes: u64,
    tally: Arc<Tally>,
    creator: u32,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.creator == std::process::id() {
            self.tally.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// What keeps bytes in the store.
struct Pin {
    /// None only while being dropped.
    object: Option<Py<PyAny>>,
    hold: Arc<Hold>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let object = self.object.take();
        if self.hold.creator != std::process::id() {
            // A fork has a copy of the object. To say that it is not needed is its parent's business.
            std::mem::forget(object);
            return;
        }
        // In a thread without the interpreter's lock it is put aside until a thread has it.
        drop(object);
        *letting_go() = true;
        LET_GO.notify_all();
    }
}

static LETTING_GO: Mutex<bool> = Mutex::new(false);
static LET_GO: Condvar = Condvar::new();

fn letting_go() -> MutexGuard<'static, bool> {
    LETTING_GO.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits up to `timeout` seconds until something of a store was let go of, by a thread that could not tell the engine, and
/// has the engine told.
#[pyfunction]
pub(crate) fn let_go(py: Python<'_>, timeout: f64) {
    let patience = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::ZERO);
    // What was put aside ends when the lock is taken again.
    py.detach(|| {
        let waited = LET_GO.wait_timeout_while(letting_go(), patience, |gone| !*gone);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    });
}

impl Lease {
    /// Where bytes lie in the store, and what keeps them there; nothing if they do not, or are few.
    fn pin(&self, bytes: &[u8], object: &Bound<'_, PyAny>) -> Option<(u64, Arc<Pin>)> {
        let offset = bytes.as_ptr().addr().checked_sub(self.place.start)? as u64;
        let end = offset.checked_add(bytes.len() as u64)?;
        if bytes.len() < LENT_BYTES_MIN || end > self.place.segment.bytes() {
            return None;
        }
        let pin = Pin { object: Some(object.clone().unbind()), hold: Arc::clone(&self.hold) };
        Some((offset, Arc::new(pin)))
    }

    /// These bytes for workers of this process, which see them copy-on-write. `object` is what the engine gave out for them.
    pub(crate) fn lend(&self, bytes: &[u8], object: &Bound<'_, PyAny>) -> Option<Loan> {
        let (offset, pin) = self.pin(bytes, object)?;
        Some(Loan::foreign(Arc::clone(&self.place.segment), offset, bytes.len() as u64, pin))
    }

    /// These bytes for this process itself, which may write to them. `object` as for [`Lease::lend`].
    pub(crate) fn keep(&self, bytes: &[u8], object: &Bound<'_, PyAny>) -> Option<Loan> {
        let Place { segment, commons, keeping, .. } = &*self.place;
        if !keeping.load(Ordering::Relaxed) {
            return None;
        }
        let (offset, pin) = self.pin(bytes, object)?;
        let bytes = commons.open_within(segment, offset, bytes.len() as u64, pin).ok()?;
        Some(Loan::of_received(bytes))
    }
}

#[pymethods]
impl Store {
    /// Takes over a descriptor of the store's file, which the engine has mapped at the address `start`. No more than `limit`
    /// bytes are held at a time.
    #[new]
    fn new(file: RawFd, start: usize, limit: u64) -> PyResult<Self> {
        let segment = Segment::open_unsealed(adopt(file)?, None).map_err(|error| raise(error.into()))?;
        let commons = Commons::of_segment(Arc::clone(&segment));
        let tally = Arc::new(Tally { limit, held: AtomicU64::new(0) });
        let place = Place { segment, commons, start, keeping: AtomicBool::new(false) };
        Ok(Self { place: Arc::new(place), tally })
    }

    /// From now on values of this process may be built upon the store. Whoever says so sees to it that `detach` is called
    /// before the engine lets go of the store. Does nothing where that could not be done.
    fn begin_to_keep(&self) {
        // A try, which is forgotten: the kernel may be too old.
        let segment = &self.place.segment;
        let page = segment.detach(0, 1).and_then(|()| segment.discard(0, 1));
        self.place.keeping.store(page.is_ok(), Ordering::Relaxed);
    }

    /// The engine is about to let go of the store, and others may write there: what values here are built upon becomes
    /// memory of this process's own.
    fn detach(&self, py: Python<'_>) -> PyResult<()> {
        self.place.keeping.store(false, Ordering::Relaxed);
        py.detach(|| self.place.commons.detach()).map_err(raise)
    }

    /// What allows parts of an object of the store's, of so many bytes, to be held; None if too much is.
    fn lease(&self, bytes: u64) -> Option<Lease> {
        let held = self.tally.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let tally = Arc::clone(&self.tally);
        // Dropped, it takes off again what was added.
        let hold = Arc::new(Hold { bytes, tally, creator: std::process::id() });
        (held <= self.tally.limit).then(|| Lease { place: Arc::clone(&self.place), hold })
    }

    /// Bytes that are held now.
    #[getter]
    fn held_bytes(&self) -> u64 {
        self.tally.held.load(Ordering::Relaxed)
    }
}

/// Where the largest buffer of a parcel lies; 0 if it has no buffer of so many bytes.
#[pyfunction]
pub(crate) fn place_of(parcel: &Bound<'_, PyParcel>, bytes_min: usize) -> PyResult<usize> {
    let mut largest: &[u8] = &[];
    let buffers: Vec<PyUntypedBuffer> = (parcel.get().buffers.bind(parcel.py()).iter())
        .map(|buffer| PyUntypedBuffer::get(&buffer))
        .collect::<PyResult<_>>()?;
    for bytes in buffers.iter().filter_map(memory) {
        if bytes.len() > largest.len() {
            largest = bytes;
        }
    }
    Ok(if largest.len() < bytes_min.max(1) { 0 } else { largest.as_ptr().addr() })
}
