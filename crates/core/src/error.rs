//! What can fail below the machines: shared memory, system calls, and peers that say what they must not.

use rustix::io::Errno;

/// Why an operation of the core failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Shared memory could not be had, mapped or understood.
    #[error(transparent)]
    Memory(#[from] forklift_shm::Error),
    /// A system call failed.
    #[error("cannot {attempt}: {errno}{}", advice(*errno))]
    System {
        /// What was tried, as a verb phrase.
        attempt: &'static str,
        /// What the system said.
        errno: Errno,
    },
    /// A process could not be started.
    #[error("cannot start {program}: {source}")]
    Launch {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A peer sent bytes that are not a message, or one that contradicts what it sent before.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// The other end is closed.
    #[error("the other end of the channel is closed")]
    Gone,
}

/// A result of the core.
pub type Result<T> = std::result::Result<T, Error>;

/// Names a failed system call.
pub(crate) fn system(attempt: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::System { attempt, errno }
}

/// What a user can do about the limits that pools run into.
fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::MFILE => {
            " (the limit on open files is reached: raise `ulimit -n`, or use fewer processes or pools)"
        }
        Errno::NFILE => " (the system's limit on open files is reached)",
        Errno::AGAIN => " (the limit on processes is reached: raise `ulimit -u` or the cgroup's pids.max)",
        Errno::NOMEM => " (out of memory, or a limit on address space, `ulimit -v`)",
        _ => "",
    }
}
