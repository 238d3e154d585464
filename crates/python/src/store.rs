//! Memory of an engine's object store that this process has mapped: lent on, and looked at, without a copy.
//!
//! Ray puts what is large into a memory file that all processes of a node map, and tells its readers that they must not
//! write there. Here the same file is mapped once more, privately, so that whoever writes changes a page of its own. Ray
//! keeps the bytes where they are for as long as the object lives that it gave out for them; so that is held until the
//! last borrower is gone.
//!
//! What is held so the store cannot evict. So there is a limit, beyond which everything is copied as it would be without a
//! store.
//!
//! An engine without a store reads what comes into memory that it gives away. That can be kept, too, within a limit.

use crate::buffer::{Neighbouring, memory};
use crate::descriptor::adopt;
use crate::error::raise;
use crate::parcel::PyParcel;
use crate::tally::{Hold, Tally};
use crate::visits::Visit;
use forklift_core::commons::Commons;
use forklift_core::payload::{Bytes, Loan, Loaned};
use forklift_shm::{Segment, Waiters};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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

/// How much of this process's own memory may be results that lie where an engine has read them.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Room(Arc<Tally>);

/// What may be held of an object that an engine gave out. All of it is counted until its last part is let go of: a store
/// keeps all as long as a part is held.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Lease {
    /// None for memory that nobody else has.
    place: Option<Arc<Place>>,
    hold: Arc<Hold>,
}

/// What is read into memory of its own is kept if it is at least this part of it, one in so many: the rest is held as well.
const OWN_PART: usize = 2;

/// What keeps bytes in the store.
struct Pin {
    /// None only while being dropped.
    object: Option<Py<PyAny>>,
    hold: Arc<Hold>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let object = self.object.take();
        if !self.hold.is_ours() {
            // To say that the object is not needed is the business of this process's parent.
            std::mem::forget(object);
            return;
        }
        // In a thread without the interpreter's lock it is put aside until a thread has it.
        drop(object);
        LETTING_GO.store(true, Ordering::Release);
        LET_GO.announce();
    }
}

static LETTING_GO: AtomicBool = AtomicBool::new(false);
static LET_GO: Waiters = Waiters::new();

/// Waits up to `timeout` seconds until something of a store was let go of, by a thread that could not tell the engine, and
/// has the engine told.
#[pyfunction]
pub(crate) fn let_go(py: Python<'_>, timeout: f64) -> PyResult<()> {
    let _visit = Visit::begin()?;
    let patience = Duration::try_from_secs_f64(timeout).unwrap_or(Duration::ZERO);
    // What was put aside ends when the lock is taken again.
    py.detach(|| {
        let begun = Instant::now();
        loop {
            let looked = LET_GO.look();
            let left = patience.saturating_sub(begun.elapsed());
            if LETTING_GO.swap(false, Ordering::Acquire) || left.is_zero() {
                return;
            }
            LET_GO.wait(looked, left);
        }
    });
    Ok(())
}

impl Place {
    /// Where bytes lie in the store, and what keeps them there; nothing if they do not.
    fn pin(&self, bytes: &[u8], object: &Bound<'_, PyAny>, hold: &Arc<Hold>) -> Option<(u64, Arc<Pin>)> {
        let offset = bytes.as_ptr().addr().checked_sub(self.start)? as u64;
        let end = offset.checked_add(bytes.len() as u64)?;
        let pin = || Pin { object: Some(object.clone().unbind()), hold: Arc::clone(hold) };
        (end <= self.segment.bytes()).then(|| (offset, Arc::new(pin())))
    }
}

/// An array of bytes that nobody else has, as the value that it is to be; nothing if it is something else, or only a small
/// part of what would be held.
fn own(bytes: &[u8], object: &Bound<'_, PyAny>, hold: &Arc<Hold>) -> PyResult<Option<Neighbouring>> {
    let py = object.py();
    let view = PyMemoryView::from(object)?;
    let array = view.getattr(intern!(py, "obj"))?;
    let kind = array.get_type();
    if kind.name()? != "ndarray" || kind.module()? != "numpy" {
        return Ok(None);
    }
    let whole: bool = array.getattr(intern!(py, "flags"))?.getattr(intern!(py, "owndata"))?.extract()?;
    let held: usize = array.getattr(intern!(py, "nbytes"))?.extract()?;
    if !whole || held > bytes.len().saturating_mul(OWN_PART) {
        return Ok(None);
    }
    Neighbouring::of(&view, Some(Arc::clone(hold)))
}

/// What this process may build values upon, and write to.
enum Kept {
    Own(Arc<Neighbouring>),
    Stored(Bytes),
}

impl Lease {
    /// These bytes for workers of this process, which see them copy-on-write. `object` is what the engine gave out for them.
    pub(crate) fn lend(&self, bytes: &[u8], object: &Bound<'_, PyAny>) -> Option<Loan> {
        let place = self.place.as_ref().filter(|_| bytes.len() >= LENT_BYTES_MIN)?;
        let (offset, pin) = place.pin(bytes, object, &self.hold)?;
        Some(Loan::foreign(Arc::clone(&place.segment), offset, bytes.len() as u64, pin))
    }

    /// These bytes for this process itself, which may write to them. `object` as for [`Lease::lend`].
    fn kept(&self, bytes: &[u8], object: &Bound<'_, PyAny>) -> Option<Kept> {
        if bytes.len() < LENT_BYTES_MIN {
            return None;
        }
        let Some(place) = &self.place else {
            // What cannot be looked at is copied.
            let own = own(bytes, object, &self.hold).ok().flatten()?;
            return Some(Kept::Own(Arc::new(own)));
        };
        if !place.keeping.load(Ordering::Relaxed) {
            return None;
        }
        let (offset, pin) = place.pin(bytes, object, &self.hold)?;
        let bytes = place.commons.open_within(&place.segment, offset, bytes.len() as u64, pin).ok()?;
        Some(Kept::Stored(bytes))
    }

    /// These bytes for a value of this process, as a relay sends them. `object` as for [`Lease::lend`].
    pub(crate) fn keep(&self, bytes: &[u8], object: &Bound<'_, PyAny>) -> Option<Loan> {
        Some(match self.kept(bytes, object)? {
            Kept::Own(own) => Loan::of_neighbour(own),
            Kept::Stored(bytes) => Loan::of_received(bytes),
        })
    }

    /// The same, as they are received: the bytes that an object offers.
    pub(crate) fn receive(&self, object: &Bound<'_, PyAny>) -> Option<Bytes> {
        let buffer = PyUntypedBuffer::get(object).ok()?;
        Some(match self.kept(memory(&buffer)?, object)? {
            Kept::Own(own) => Bytes::Near(Loaned::new(own)),
            Kept::Stored(bytes) => bytes,
        })
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
        let place = Place { segment, commons, start, keeping: AtomicBool::new(false) };
        Ok(Self { place: Arc::new(place), tally: Tally::new(limit) })
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
        self.tally.hold(bytes).map(|hold| Lease { place: Some(Arc::clone(&self.place)), hold })
    }

    /// Bytes that are held now.
    #[getter]
    fn held_bytes(&self) -> u64 {
        self.tally.held()
    }
}

#[pymethods]
impl Room {
    #[new]
    fn new(limit: u64) -> Self {
        Self(Tally::new(limit))
    }

    /// What allows so many bytes, which nobody else has, to stay where they lie; None if too many do.
    fn lease(&self, bytes: u64) -> Option<Lease> {
        self.0.hold(bytes).map(|hold| Lease { place: None, hold })
    }

    /// Bytes that are held now.
    #[getter]
    fn held_bytes(&self) -> u64 {
        self.0.held()
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
