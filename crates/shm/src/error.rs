//! What can go wrong with shared memory, told so that a user can act on it.
//!
//! [`Error`] is mostly reported and seldom branched upon, so it carries words: what was attempted, on how many bytes,
//! and, where the system refuses because of a limit, which limit that is and how to raise it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The result of an operation on shared memory.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on shared memory failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("could not {attempted} ({bytes} bytes): {source}{}", advice(attempted, source))]
    System {
        /// What was attempted, as a verb phrase.
        attempted: &'static str,
        /// How many bytes the attempt was about; 0 where size plays no part.
        bytes: u64,
        /// The system's answer.
        source: io::Error,
    },

    /// Memory on a disk cannot be had.
    #[error("could not {attempted} in {} ({bytes} bytes): {source}{}", directory.display(), advice_on_disk(source))]
    Disk {
        /// What was attempted, as a verb phrase.
        attempted: &'static str,
        /// Where.
        directory: PathBuf,
        /// How many bytes the attempt was about.
        bytes: u64,
        /// The system's answer.
        source: io::Error,
    },

    /// A descriptor that a peer sent is not a memory file that could be mapped without danger.
    #[error(
        "the descriptor received as a segment of {announced_bytes} bytes is not one: {reason} \
         (found {found_bytes} bytes); the peer that sent it cannot be trusted any more and should be replaced"
    )]
    Foreign {
        /// The size that the peer announced.
        announced_bytes: u64,
        /// The size that the descriptor has.
        found_bytes: u64,
        /// Which check failed.
        reason: &'static str,
    },

    /// A span reaches over the end of its segment.
    #[error(
        "bytes {offset} to {offset}+{bytes} lie outside of their segment of {segment_bytes} bytes; \
         a span that a peer named wrongly means that the peer should be replaced"
    )]
    OutOfRange {
        /// Where the span begins in the segment.
        offset: u64,
        /// The span's length.
        bytes: u64,
        /// The segment's length.
        segment_bytes: u64,
    },

    /// The pages are held by a live block of this process, so they can be neither handed out again nor given back.
    #[error(
        "bytes {offset} to {offset}+{bytes} belong to a live block; drop it before its memory is used again"
    )]
    Claimed {
        /// Where the pages begin in the segment.
        offset: u64,
        /// The length of the pages.
        bytes: u64,
    },

    /// The arena's own limit is reached: the live blocks leave no room for this one.
    #[error(
        "no room for a block of {bytes} bytes: {live_bytes} of at most {total_bytes} bytes are in live blocks; \
         release some of them first, or raise the pool's memory limit"
    )]
    Exhausted {
        /// The size that was asked for.
        bytes: u64,
        /// What live blocks hold, in whole pages.
        live_bytes: u64,
        /// The limit that was hit.
        total_bytes: u64,
    },
}

impl Error {
    /// A failed system call, with what was attempted and on how many bytes.
    pub(crate) fn system(attempted: &'static str, bytes: u64, errno: Errno) -> Self {
        Self::System { attempted, bytes, source: errno.into() }
    }

    /// A failed operation on a disk.
    pub fn disk(attempted: &'static str, directory: &Path, bytes: u64, source: io::Error) -> Self {
        Self::Disk { attempted, directory: directory.into(), bytes, source }
    }

    /// The number of the system's answer, if it refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } | Self::Disk { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether memory is short (in the machine, in the address space or in the arena's limit), so that waiting for
    /// blocks to be released may help.
    pub fn is_shortage(&self) -> bool {
        match self {
            Self::Exhausted { .. } | Self::Disk { .. } => true,
            Self::System { source, .. } => {
                matches!(Errno::from_io_error(source), Some(Errno::NOMEM | Errno::NOSPC))
            }
            _ => false,
        }
    }
}

/// Names the limit behind an error number, and what to do about it.
fn advice(attempted: &str, source: &io::Error) -> String {
    let words = match Errno::from_io_error(source) {
        Some(Errno::NOMEM) => {
            "; memory, address space (ulimit -v) or the number of mappings (vm.max_map_count) is used up: \
             use fewer workers, smaller items in flight, or raise that limit"
        }
        Some(Errno::MFILE) => {
            "; this process has as many open descriptors as it may: raise the limit with `ulimit -n`"
        }
        Some(Errno::NFILE) => {
            "; the whole machine has as many open files as it may: raise fs.file-max, or close something"
        }
        Some(Errno::NOSPC) => {
            "; there is no room left for shared memory: use fewer workers or smaller items in flight"
        }
        Some(Errno::FBIG) => "; files may not become that large here: raise the limit with `ulimit -f`",
        Some(Errno::NOSYS | Errno::PERM | Errno::ACCESS) => return refusal(attempted),
        _ => "",
    };
    words.into()
}

/// A kernel or sandbox that does not let us: which call it is, for whoever writes its rules.
fn refusal(attempted: &str) -> String {
    let call = match attempted {
        "create a memory file" => "memfd_create (and the kernel must be Linux 3.17 or newer)",
        "size a memory file" => "ftruncate",
        "seal a memory file" => "fcntl with F_ADD_SEALS",
        "map a memory file" => "mmap of a memory file, shared and writable",
        "punch pages out of a memory file" => "fallocate",
        "discard private pages" => "madvise",
        "read a memory file" => "pread64",
        "examine a memory file" | "examine a received descriptor" => "fstat and fcntl with F_GET_SEALS",
        _ => return String::new(),
    };
    format!(
        "; the kernel or a sandbox refuses the call: its rules (seccomp, SELinux, AppArmor) must allow {call}"
    )
}

/// What to do about a disk that gives no memory.
fn advice_on_disk(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::NOSPC | Errno::DQUOT) => {
            "; the disk or the quota is full: make room, or name a directory of a larger disk"
        }
        Some(Errno::FBIG) => "; files may not become that large here: raise the limit with `ulimit -f`",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named_in_words() {
        for (errno, word) in [
            (Errno::NOMEM, "max_map_count"),
            (Errno::MFILE, "ulimit -n"),
            (Errno::NOSPC, "no room left"),
            (Errno::NOSYS, "memfd_create"),
        ] {
            let text = Error::system("create a memory file", 4096, errno).to_string();
            assert!(text.starts_with("could not create a memory file (4096 bytes)"), "{text}");
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn shortages_are_told_from_other_failures() {
        assert!(Error::system("map", 1, Errno::NOMEM).is_shortage());
        assert!(!Error::system("map", 1, Errno::BADF).is_shortage());
        let exhausted = Error::Exhausted { bytes: 1, live_bytes: 2, total_bytes: 2 };
        assert!(exhausted.is_shortage());
    }
}
