//! Memory files (memfd) before they are mapped: made and sealed here, examined when a peer sends one.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::pages::page_bytes;

/// The seals that an owner puts on its segments: no shorter, no longer, and no further seals, so that nobody can
/// forbid the writing that all of this is for.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Creates a memory file of so many bytes, whole pages, all zero and none of them in memory yet, sealed against changes
/// of its size. Where a sandbox does not allow seals, it is made without.
pub(crate) fn create(name: &str, bytes: u64) -> Result<OwnedFd> {
    let (fd, sealable) = create_file(name, bytes)?;
    rustix::fs::ftruncate(&fd, bytes).map_err(|errno| Error::system("size a memory file", bytes, errno))?;
    if sealable {
        match rustix::fs::fcntl_add_seals(&fd, SEALS) {
            // Without seals a peer could shorten the file and kill us by it. Peers are children of our own and
            // trusted not to be hostile, so that is better than not to work at all.
            Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {}
            Err(errno) => return Err(Error::system("seal a memory file", bytes, errno)),
        }
    }
    Ok(fd)
}

/// Fails unless a file that a peer announced with so many bytes has `mapped_bytes` at least, and cannot become shorter.
pub(crate) fn examine(fd: &OwnedFd, bytes: u64, mapped_bytes: u64) -> Result<()> {
    let status = rustix::fs::fstat(fd)
        .map_err(|errno| Error::system("examine a received descriptor", bytes, errno))?;
    let found_bytes = u64::try_from(status.st_size).unwrap_or(0);
    let foreign = |reason| Error::Foreign { announced_bytes: bytes, found_bytes, reason };
    if found_bytes < mapped_bytes {
        return Err(foreign("it is shorter than announced"));
    }
    if !found_bytes.is_multiple_of(page_bytes()) {
        return Err(foreign("its size is not a multiple of the page size"));
    }
    let sealed = rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK));
    if !sealed && seals_work() {
        return Err(foreign("it is not sealed against shrinking"));
    }
    Ok(())
}

/// What tells a file from all others that there are at one time.
pub(crate) fn identity(fd: &OwnedFd) -> Option<(u64, u64)> {
    rustix::fs::fstat(fd).ok().map(|status| (status.st_dev, status.st_ino))
}

/// How many bytes of a file are in whole pages of it: no more than these can be mapped without a part beyond its end.
pub(crate) fn whole_pages_of(fd: &OwnedFd) -> Result<u64> {
    let status =
        rustix::fs::fstat(fd).map_err(|errno| Error::system("examine a file of another's", 0, errno))?;
    let found = u64::try_from(status.st_size).unwrap_or(0);
    Ok(found / page_bytes() * page_bytes())
}

/// A descriptor that does not stand where a standard stream belongs. In a process that has closed those, what any code prints
/// would be written to it.
#[must_use]
pub fn beside_streams(fd: OwnedFd) -> OwnedFd {
    if fd.as_raw_fd() > 2 {
        return fd;
    }
    // Where there is no room for another it stays where it is.
    rustix::io::fcntl_dupfd_cloexec(&fd, 3).unwrap_or(fd)
}

/// Creates an empty memory file, and says whether it can be sealed.
pub(crate) fn create_file(name: &str, bytes: u64) -> Result<(OwnedFd, bool)> {
    let failed = |errno| Error::system("create a memory file", bytes, errno);
    match rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING) {
        Ok(fd) => Ok((beside_streams(fd), true)),
        // An emulation of memfd_create that knows no seals says so by refusing the flag.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
            .map(|fd| (beside_streams(fd), false))
            .map_err(failed),
        Err(errno) => Err(failed(errno)),
    }
}

/// Whether this process can seal memory files, tried once. If it cannot, neither could the peer that sent us one
/// without, since workers live in the same sandbox.
fn seals_work() -> bool {
    const UNKNOWN: u8 = 2;
    // Not a `OnceLock`, which a fork could inherit half made. Two threads that ask at the same time find the same.
    static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);
    match ANSWER.load(Ordering::Relaxed) {
        UNKNOWN => {
            let works = try_seals();
            ANSWER.store(works.into(), Ordering::Relaxed);
            works
        }
        known => known != 0,
    }
}

fn try_seals() -> bool {
    match create_file("forklift", 0) {
        Ok((fd, true)) => {
            let sealed = rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK);
            sealed.is_ok() && rustix::fs::fcntl_get_seals(&fd).is_ok()
        }
        // Where no probe can be made (no descriptors left), the strict answer is the safe one.
        Ok((_, false)) => false,
        Err(_) => true,
    }
}
