//! A worker's private memory, kept warm between chunks.
//!
//! A worker frees all that a chunk's items were made of when it is done with them, and needs as much again a moment later.
//! In between, two allocators would give it back to the system, and every chunk would be decoded into pages that nobody
//! has touched before, which costs more than the decoding:
//!
//! - The C library gives back what is free at the top of its heap, from 128 KiB on, and takes larger blocks from the
//!   system one by one. [`keep_warm`] raises both limits.
//! - Python's allocator of small objects gives back each arena (1 MB) in which nothing lives. [`keep_warm`] puts a shelf
//!   in between: arenas that are freed wait there to be taken again.
//!
//! An idle worker gives all of it back.

use forklift_shm::{Held, Lock};
use std::ffi::c_void;

/// Memory that is free at the top of the C library's heap stays up to this size. The library itself comes to allow as
/// much, once a block of half the size was freed.
#[cfg(target_env = "gnu")]
const TOP_BYTES_MAX: libc::c_int = 64 << 20;

/// Blocks below this size are of the heap. The library's own upper limit.
#[cfg(target_env = "gnu")]
const HEAP_BLOCK_BYTES: libc::c_int = 32 << 20;

/// Arenas on the shelf at most, all together.
const SHELF_BYTES_MAX: usize = 32 << 20;

/// Smaller requests to the allocator of arenas are something else (stacks of frames).
const ARENA_BYTES_MIN: usize = 256 << 10;

/// `PyObjectArenaAllocator` of CPython's `objimpl.h`, the same since 3.4. It is not in the stable ABI that this crate is
/// built for, so its two functions are looked up by name, and without them nothing is changed.
#[repr(C)]
#[derive(Clone, Copy)]
struct ArenaAllocator {
    context: *mut c_void,
    allocate: Option<extern "C" fn(*mut c_void, usize) -> *mut c_void>,
    free: Option<extern "C" fn(*mut c_void, *mut c_void, usize)>,
}

type Accessor = unsafe extern "C" fn(*mut ArenaAllocator);

/// Freed arenas, all of one size, and whose they are. Python calls with its lock held, so nobody waits here.
struct Shelf {
    owner: ArenaAllocator,
    arena_bytes: usize,
    free: Vec<*mut c_void>,
}

// SAFETY:
// - The arenas on the shelf are nobody else's memory, whichever thread freed them.
// - The owner is a table of functions that Python calls from any thread.
unsafe impl Send for Shelf {}

static SHELF: Lock<Option<Shelf>> = Lock::new(None);

fn shelf() -> Held<'static, Option<Shelf>> {
    SHELF.lock()
}

/// From here on what is freed stays warm.
pub(crate) fn keep_warm() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_TRIM_THRESHOLD, TOP_BYTES_MAX), (libc::M_MMAP_THRESHOLD, HEAP_BLOCK_BYTES)]
    {
        // SAFETY:
        // - It takes two numbers, touches no memory of ours, and takes the heap's own lock.
        // - It refuses what it cannot do by its result, which leaves things as they were.
        unsafe { libc::mallopt(parameter, value) };
    }
    put_shelf();
}

/// Gives what is free back to the system.
pub(crate) fn trim() {
    if let Some(shelf) = shelf().as_mut() {
        shelf.clear();
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: it gives back only pages on which nothing lives, and takes the heap's own lock.
    unsafe {
        libc::malloc_trim(0)
    };
}

fn accessor(name: &std::ffi::CStr) -> Option<Accessor> {
    // SAFETY: the name ends with a zero byte; the default handle is that of this process as it is linked.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY:
    // - It is not null, and functions and data have addresses of one size here.
    // - CPython declares both names as functions that take a pointer to this struct and return nothing.
    Some(unsafe { std::mem::transmute::<*mut c_void, Accessor>(found) })
}

/// Puts the shelf between Python and its allocator of arenas, if it is not there yet.
fn put_shelf() {
    let names = (accessor(c"PyObject_GetArenaAllocator"), accessor(c"PyObject_SetArenaAllocator"));
    let (Some(get), Some(set)) = names else { return };
    let mut shelf = shelf();
    if shelf.is_some() {
        return;
    }
    let mut owner = ArenaAllocator { context: std::ptr::null_mut(), allocate: None, free: None };
    // SAFETY: it fills in the struct that it is given, which lives until it returns; Python's lock is held.
    unsafe { get(&raw mut owner) };
    if owner.allocate.is_none() || owner.free.is_none() {
        return;
    }
    *shelf = Some(Shelf { owner, arena_bytes: 0, free: Vec::new() });
    drop(shelf);
    let mut ours = ArenaAllocator { allocate: Some(allocate), free: Some(free), ..owner };
    // SAFETY:
    // - It copies the struct; Python's lock is held, so nobody is within the allocator.
    // - Arenas that the owner allocated are freed through us by the owner; ours were the owner's.
    unsafe { set(&raw mut ours) };
}

impl Shelf {
    fn clear(&mut self) {
        for arena in std::mem::take(&mut self.free) {
            self.give_back(arena, self.arena_bytes);
        }
    }

    fn give_back(&self, memory: *mut c_void, bytes: usize) {
        if let Some(free) = self.owner.free {
            free(self.owner.context, memory, bytes);
        }
    }
}

extern "C" fn allocate(context: *mut c_void, bytes: usize) -> *mut c_void {
    let mut shelf = shelf();
    let Some(shelf) = shelf.as_mut() else { return std::ptr::null_mut() };
    if bytes == shelf.arena_bytes
        && let Some(arena) = shelf.free.pop()
    {
        return arena;
    }
    shelf.owner.allocate.map_or(std::ptr::null_mut(), |allocate| allocate(context, bytes))
}

extern "C" fn free(_context: *mut c_void, memory: *mut c_void, bytes: usize) {
    let mut shelf = shelf();
    let Some(shelf) = shelf.as_mut() else { return };
    if shelf.free.is_empty() && bytes >= ARENA_BYTES_MIN {
        shelf.arena_bytes = bytes;
    }
    if bytes == shelf.arena_bytes && (shelf.free.len() + 1) * bytes <= SHELF_BYTES_MAX {
        shelf.free.push(memory);
    } else {
        shelf.give_back(memory, bytes);
    }
}
