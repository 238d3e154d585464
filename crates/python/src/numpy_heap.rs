//! NumPy's arrays in shared memory: a data allocator (NEP 49) that places large arrays in the blocks of an arena. UNSAFE:
//! NumPy's C interface, and the memory behind its pointers.
//!
//! ```text
//!   worker    every large array that the user's function makes lies in the outbound arena. A result that nobody
//!             references once it was encoded is handed to the parent as it lies (see [`Offer`]).
//!   parent    within `shared_arrays()`, new large arrays lie in an arena of their own, and cross as references.
//! ```
//!
//! The handler is a context variable of NumPy's: it holds for the thread that sets it. Arrays that other threads of a
//! worker make are the C library's, as ever, and are copied.
//!
//! # What is a pointer's way
//! `malloc` enters the block in a table by its address; `free` looks the address up: ours, or the default handler's.
//! The table is under a lock of its own, since NumPy may free without the interpreter's. In a fork of the process
//! nothing is ours any more: what is allocated is the default handler's, and what is freed stays where it is.

use forklift_core::payload::Loan;
use forklift_shm::{Arena, Block, Draft, Held, Ledger, Lock};
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Smaller arrays are left to NumPy: a block is whole pages, and copying a little costs less than handing it over.
pub(crate) const ARRAY_BYTES_MIN: usize = 64 << 10;

/// Places of NumPy's table of C functions (`numpy/__multiarray_api.h`; there since NumPy 1.22 and never moved).
const SET_HANDLER: usize = 304;
const DEFAULT_HANDLER: usize = 306;

/// The name that NumPy asks of the capsules of handlers.
const CAPSULE_NAME: &CStr = c"mem_handler";

/// `PyDataMemAllocator`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Functions {
    context: *mut c_void,
    malloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void, usize),
}

/// `PyDataMem_Handler`.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    functions: Functions,
}

/// The arrays of one process.
pub(crate) struct Heap {
    arena: Arena,
    fallback: Functions,
    table: Lock<Table>,
    creator: u32,
    /// Whether the arena is known to peers by its own names, or lent to them as foreign memory.
    announced: bool,
    /// How many bytes live arrays hold, for whoever asks without the lock.
    held_bytes: AtomicUsize,
    /// The same, for the parent of a worker.
    ledger: Option<Ledger>,
    /// All addresses that were ever ours lie between these: most of what is freed is small and elsewhere, and need not
    /// be looked up.
    lowest: AtomicUsize,
    highest: AtomicUsize,
}

// SAFETY:
// - The only pointer in it is the default handler's context, which NumPy itself passes from any thread.
unsafe impl Send for Heap {}
// SAFETY: as above; everything else is behind a lock.
unsafe impl Sync for Heap {}

#[derive(Default)]
struct Table {
    /// Live arrays' memory, by address.
    live: BTreeMap<usize, Entry>,
    /// What was freed while it was on offer, with the number of its offers.
    freed: BTreeMap<usize, (Arc<Block>, usize)>,
}

struct Entry {
    block: Arc<Block>,
    offers: usize,
}

impl Heap {
    fn lock(&self) -> Held<'_, Table> {
        self.table.lock()
    }

    /// False for what was never ours.
    fn may_have(&self, address: usize) -> bool {
        let (lowest, highest) = (self.lowest.load(Ordering::Relaxed), self.highest.load(Ordering::Relaxed));
        (lowest..=highest).contains(&address)
    }

    fn ours(&self) -> bool {
        self.creator == std::process::id()
    }

    /// Enters a new array's memory.
    fn enter(&self, mut draft: Draft) -> *mut c_void {
        let address = draft.as_mut_ptr();
        self.held_bytes.fetch_add(draft.len(), Ordering::Relaxed);
        if let Some(ledger) = &self.ledger {
            ledger.add(draft.len() as u64);
        }
        self.lowest.fetch_min(address.addr(), Ordering::Relaxed);
        self.highest.fetch_max(address.addr(), Ordering::Relaxed);
        let entry = Entry { block: Arc::new(draft.seal()), offers: 0 };
        self.lock().live.insert(address.addr(), entry);
        address.cast()
    }

    /// Takes an array's memory out; false if it is not ours.
    fn leave(&self, address: usize) -> bool {
        if !self.may_have(address) {
            return false;
        }
        if !self.ours() {
            // It stays where it is, which is safe.
            return self.lock().live.contains_key(&address);
        }
        let mut table = self.lock();
        let Some(entry) = table.live.remove(&address) else { return false };
        self.held_bytes.fetch_sub(entry.block.bytes() as usize, Ordering::Relaxed);
        if let Some(ledger) = &self.ledger {
            ledger.subtract(entry.block.bytes());
        }
        if entry.offers > 0 {
            table.freed.insert(address, (entry.block, entry.offers));
            return true;
        }
        // The arena has a lock of its own.
        drop(table);
        drop(entry);
        if !self.announced {
            self.trim();
        }
        true
    }

    /// Gives memory back to the system when no array is left and none is being made.
    fn trim(&self) {
        if self.held_bytes() == 0 && SCOPES.load(Ordering::Relaxed) == 0 {
            self.arena.trim(0);
        }
    }

    /// How many bytes an array of ours has; nothing if it is not ours.
    fn bytes_of(&self, address: usize) -> Option<u64> {
        if !self.may_have(address) {
            return None;
        }
        self.lock().live.get(&address).map(|entry| entry.block.bytes())
    }

    /// How many bytes live arrays hold.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Puts the array that these bytes are of on offer. Nothing if they are not in an array of ours, or if they are less
    /// than half of one. Memory is given away once: further offers of the same array are only good for reading.
    pub(crate) fn offer(&'static self, bytes: &[u8]) -> Option<Offer> {
        let mut table = self.lock();
        let (start, entry) = table.find(bytes)?;
        if bytes.len() as u64 * 2 < entry.block.bytes() {
            return None;
        }
        entry.offers += 1;
        let first = entry.offers == 1;
        Some(Offer { heap: self, start, offset: bytes.as_ptr().addr() - start, bytes: bytes.len(), first })
    }

    /// These bytes as they lie, if they are in an array of ours: a receiver gets them copy-on-write.
    pub(crate) fn lend(&self, bytes: &[u8]) -> Option<Loan> {
        let mut table = self.lock();
        let (start, entry) = table.find(bytes)?;
        let block = Arc::clone(&entry.block);
        let offset = block.span().offset + (bytes.as_ptr().addr() - start) as u64;
        Some(Loan::foreign(Arc::clone(block.segment()), offset, bytes.len() as u64, block))
    }
}

impl Table {
    fn find(&mut self, bytes: &[u8]) -> Option<(usize, &mut Entry)> {
        let address = bytes.as_ptr().addr();
        let (&start, entry) = self.live.range_mut(..=address).next_back()?;
        (address + bytes.len() <= start + entry.block.bytes() as usize).then_some((start, entry))
    }
}

/// An array's memory on offer: if NumPy frees it from here on, it is kept, as it lies, until the offer ends.
pub(crate) struct Offer {
    heap: &'static Heap,
    start: usize,
    offset: usize,
    bytes: usize,
    first: bool,
}

impl Offer {
    /// The memory, if nobody references the array any more: whoever gets the loan has it alone.
    pub(crate) fn taken(&self) -> Option<Loan> {
        if !self.first {
            return None;
        }
        let block = Arc::clone(&self.heap.lock().freed.get(&self.start)?.0);
        let (offset, bytes) = (self.offset as u64, self.bytes as u64);
        Some(if self.heap.announced {
            Loan::within_block(block, offset, bytes)
        } else {
            Loan::foreign(Arc::clone(block.segment()), block.span().offset + offset, bytes, block)
        })
    }

    /// The bytes that were offered. Somebody still references them, and may be writing to them: then what is copied is
    /// some mixture of old and new, as with any buffer.
    pub(crate) fn bytes(&self) -> &[u8] {
        let start = std::ptr::with_exposed_provenance::<u8>(self.start + self.offset);
        // SAFETY:
        // - The bytes lie in a block that is live or freed-while-offered; in both cases the table keeps it until the
        //   offer is dropped, to which the result's lifetime is tied.
        // - Every byte of a mapping is initialised.
        unsafe { std::slice::from_raw_parts(start, self.bytes) }
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let mut table = self.heap.lock();
        let Some((_, offers)) = table.freed.get_mut(&self.start) else {
            if let Some(entry) = table.live.get_mut(&self.start) {
                entry.offers -= 1;
            }
            return;
        };
        *offers -= 1;
        let gone = if *offers == 0 { table.freed.remove(&self.start) } else { None };
        // The arena has a lock of its own.
        drop(table);
        drop(gone);
    }
}

/// The heap that a handler's context points to.
fn heap(context: *mut c_void) -> &'static Heap {
    // SAFETY:
    // - `context` is what `install` put into the handler: a leaked `Heap`, which nobody changes but through its locks.
    unsafe { &*context.cast::<Heap>() }
}

unsafe extern "C" fn malloc(context: *mut c_void, bytes: usize) -> *mut c_void {
    let heap = heap(context);
    if bytes >= ARRAY_BYTES_MIN
        && heap.ours()
        && let Ok(draft) = heap.arena.allocate(bytes as u64)
    {
        return heap.enter(draft);
    }
    // SAFETY: NumPy's own function with NumPy's own context.
    unsafe { (heap.fallback.malloc)(heap.fallback.context, bytes) }
}

unsafe extern "C" fn calloc(context: *mut c_void, count: usize, each: usize) -> *mut c_void {
    let heap = heap(context);
    if let Some(bytes) = count.checked_mul(each)
        && bytes >= ARRAY_BYTES_MIN
        && heap.ours()
        && let Ok(draft) = heap.arena.allocate_zeroed(bytes as u64)
    {
        return heap.enter(draft);
    }
    // SAFETY: NumPy's own function with NumPy's own context.
    unsafe { (heap.fallback.calloc)(heap.fallback.context, count, each) }
}

unsafe extern "C" fn realloc(context: *mut c_void, old: *mut c_void, bytes: usize) -> *mut c_void {
    let heap = heap(context);
    let Some(old_bytes) = heap.bytes_of(old.addr()) else {
        // SAFETY: NumPy's own function with NumPy's own context, for memory that came from it.
        return unsafe { (heap.fallback.realloc)(heap.fallback.context, old, bytes) };
    };
    // SAFETY: the handler's own function; `context` is the one that this call came with.
    let new = unsafe { malloc(context, bytes) };
    if !new.is_null() {
        // SAFETY:
        // - `old` is the start of a live block of `old_bytes` bytes, `new` of fresh memory of `bytes` bytes; they are two
        //   allocations, so they do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(old.cast::<u8>(), new.cast(), bytes.min(old_bytes as usize));
        }
        heap.leave(old.addr());
    }
    new
}

unsafe extern "C" fn free(context: *mut c_void, address: *mut c_void, bytes: usize) {
    let heap = heap(context);
    if !heap.leave(address.addr()) {
        // SAFETY: NumPy's own function with NumPy's own context, for memory that came from it.
        unsafe { (heap.fallback.free)(heap.fallback.context, address, bytes) }
    }
}

/// NumPy's table of C functions, if NumPy is imported and has memory handlers.
fn interface(py: Python<'_>) -> PyResult<Option<*const *mut c_void>> {
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    for name in ["numpy._core.multiarray", "numpy.core.multiarray"] {
        let Ok(module) = modules.get_item(name) else { continue };
        // A first import of NumPy that is still under way, in another thread.
        let Ok(capsule) = module.getattr(intern!(py, "_ARRAY_API")) else { continue };
        // SAFETY: an object that is alive, and no name is asked for.
        let table = unsafe { ffi::PyCapsule_GetPointer(capsule.as_ptr(), std::ptr::null()) };
        if table.is_null() {
            return Err(PyErr::fetch(py));
        }
        return Ok(Some(table.cast_const().cast()));
    }
    Ok(None)
}

/// An entry of NumPy's table.
fn entry(table: *const *mut c_void, index: usize) -> *mut c_void {
    // SAFETY:
    // - The table has more entries than `index` in every NumPy that this package allows (1.22 and later).
    let place = unsafe { table.add(index) };
    // SAFETY: as above; the table never changes.
    unsafe { *place }
}

/// Makes a heap in `arena`, with a handler for it; None if NumPy is not imported. `announced`: peers are told of the
/// arena's segments by its own names for them. `ledger`: where held bytes are shown to the parent. Both live for ever: arrays may hold
/// on to them until the last moment.
pub(crate) fn make(
    py: Python<'_>,
    arena: Arena,
    announced: bool,
    ledger: Option<Ledger>,
) -> PyResult<Option<(&'static Heap, Py<PyAny>)>> {
    let Some(table) = interface(py)? else { return Ok(None) };
    let default: *mut *mut ffi::PyObject = entry(table, DEFAULT_HANDLER).cast();
    // SAFETY: this entry of the table is the address of NumPy's variable that holds its default handler's capsule.
    let capsule = unsafe { *default };
    // SAFETY: a capsule that NumPy keeps for ever, asked for by the name that it gave it.
    let handler = unsafe { ffi::PyCapsule_GetPointer(capsule, CAPSULE_NAME.as_ptr()) };
    if handler.is_null() {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: the capsule holds a `PyDataMem_Handler`, whose form is part of NumPy's stable interface.
    let fallback = unsafe { (*handler.cast::<Handler>()).functions };
    let heap: &'static Heap = Box::leak(Box::new(Heap {
        arena,
        fallback,
        table: Lock::default(),
        creator: std::process::id(),
        announced,
        held_bytes: AtomicUsize::new(0),
        ledger,
        lowest: AtomicUsize::new(usize::MAX),
        highest: AtomicUsize::new(0),
    }));
    let mut name = [0; 127];
    for (to, from) in name.iter_mut().zip(b"forklift") {
        *to = *from as c_char;
    }
    let context = std::ptr::from_ref(heap).cast_mut().cast();
    let functions = Functions { context, malloc, calloc, realloc, free };
    let handler: &'static Handler = Box::leak(Box::new(Handler { name, version: 1, functions }));
    let pointer = std::ptr::from_ref(handler).cast_mut().cast();
    // SAFETY: the handler and the name live for ever, and there is nothing to destroy.
    let capsule = unsafe { ffi::PyCapsule_New(pointer, CAPSULE_NAME.as_ptr(), None) };
    // SAFETY: a new reference, or null with an exception set.
    let capsule = unsafe { Bound::from_owned_ptr_or_err(py, capsule) }?;
    Ok(Some((heap, capsule.unbind())))
}

/// Makes `handler` this context's; returns the one before.
pub(crate) fn set_handler<'py>(py: Python<'py>, handler: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let Some(table) = interface(py)? else {
        return Err(PyRuntimeError::new_err("NumPy is not imported"));
    };
    // SAFETY: this entry of the table is `PyDataMem_SetHandler`, of this very type.
    let set: unsafe extern "C" fn(*mut ffi::PyObject) -> *mut ffi::PyObject =
        unsafe { std::mem::transmute(entry(table, SET_HANDLER)) };
    // SAFETY: a capsule of a handler (NumPy looks), under the interpreter's lock.
    let former = unsafe { set(handler.as_ptr()) };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, former) }
}

/// How many `shared_arrays()` are open.
static SCOPES: AtomicUsize = AtomicUsize::new(0);

/// The heap of this process's `shared_arrays()`, once there is one. Not that of a process it was forked from.
static SHARED: Lock<Option<&'static Heap>> = Lock::new(None);

fn shared_heap() -> Held<'static, Option<&'static Heap>> {
    SHARED.lock()
}

/// The heap of `shared_arrays()`, if this process has used that.
pub(crate) fn shared() -> Option<&'static Heap> {
    shared_heap().filter(|heap| heap.ours())
}

/// The handler by which new large arrays lie in shared memory.
fn shared_handler(py: Python<'_>) -> PyResult<Py<PyAny>> {
    /// And the process that made it.
    static HANDLER: Lock<Option<(u32, Py<PyAny>)>> = Lock::new(None);
    let known = || match &*HANDLER.lock() {
        Some((creator, handler)) if *creator == std::process::id() => Some(handler.clone_ref(py)),
        _ => None,
    };
    if let Some(handler) = known() {
        return Ok(handler);
    }
    let Some((heap, handler)) = make(py, Arena::new(forklift_shm::ArenaLimits::default()), false, None)?
    else {
        return Err(PyRuntimeError::new_err("NumPy is not imported"));
    };
    // Python code ran meanwhile, and perhaps another thread: the first heap stays.
    if let Some(first) = known() {
        return Ok(first);
    }
    *shared_heap() = Some(heap);
    let former = HANDLER.lock().replace((std::process::id(), handler.clone_ref(py)));
    drop(former);
    Ok(handler)
}

/// Begins a `shared_arrays()`: returns NumPy's handler of before, to be given to `leave_shared`.
///
/// Raises `RuntimeError` if NumPy is not imported.
#[pyfunction]
pub(crate) fn enter_shared(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let handler = shared_handler(py)?;
    let former = set_handler(py, handler.bind(py))?;
    SCOPES.fetch_add(1, Ordering::Relaxed);
    Ok(former)
}

/// Ends a `shared_arrays()`.
#[pyfunction]
pub(crate) fn leave_shared(py: Python<'_>, former: &Bound<'_, PyAny>) -> PyResult<()> {
    SCOPES.fetch_sub(1, Ordering::Relaxed);
    set_handler(py, former)?;
    trim_shared();
    Ok(())
}

/// Gives the memory of arrays that are gone back to the system, if no array is left.
#[pyfunction]
pub(crate) fn trim_shared() {
    if let Some(heap) = shared() {
        heap.trim();
    }
}

/// What live arrays of `shared_arrays()` hold: `(bytes, segments)`.
#[pyfunction]
pub(crate) fn shared_usage() -> (usize, u64) {
    shared().map_or((0, 0), |heap| (heap.held_bytes(), heap.arena.usage().segments))
}
