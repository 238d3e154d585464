//! What can fail below the machines: shared memory, system calls, and peers that say what they must not.

use rustix::io::Errno;

/// Why an operation of the core failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Shared memory could not be had, mapped or understood.
    #[error(transparent)]
    Memory(#[from] forklift_shm::Error),
    /// A system call failed.
    #[error("cannot {attempt}: {errno}{}", advice(attempt, *errno))]
    System {
        /// What was tried, as a verb phrase.
        attempt: &'static str,
        /// What the system said.
        errno: Errno,
    },
    /// A process could not be started.
    #[error("cannot start {program}: {source}{}", launch_advice(source))]
    Launch {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A peer sent bytes that are not a message, or one that contradicts what it sent before.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// A long copy was broken off, since somebody said that it should not go on: see [`crate::copying`].
    #[error("stopped while a large value was copied: {0}")]
    Stopped(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A variable of the environment has a value that means nothing.
    #[error("the environment variable {name} should be {wanted}, and is {value:?}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What it is.
        value: std::ffi::OsString,
        /// What it may be.
        wanted: &'static str,
    },
    /// Descriptors were sent, and dropped by the kernel, since this process has as many open as it may.
    #[error(
        "the limit on open files of {limit} (ulimit -n) is reached in {place}, which could not receive shared memory: \
         raise it, or close some"
    )]
    Descriptors {
        /// How many it may have open.
        limit: u64,
        /// Which process, in words.
        place: &'static str,
    },
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

/// How many descriptors this process may have open.
pub(crate) fn descriptors_max() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// What a user can do about the limits that pools run into.
fn advice(attempt: &str, errno: Errno) -> String {
    let words = match errno {
        Errno::MFILE => {
            " (the limit on open files is reached: raise `ulimit -n`, or use fewer processes or pools)"
        }
        Errno::NFILE => " (the system's limit on open files is reached)",
        Errno::AGAIN if attempt.starts_with(BIRTHS) => {
            " (the limit on processes is reached: raise `ulimit -u` or the cgroup's pids.max)"
        }
        Errno::NOMEM => " (out of memory, or a limit on address space, `ulimit -v`)",
        Errno::FBIG => " (files may not become that large here: raise the limit with `ulimit -f`)",
        Errno::NOSYS | Errno::PERM | Errno::ACCESS => return refusal(attempt),
        _ => "",
    };
    words.into()
}

/// How attempts begin that ask for a process.
const BIRTHS: &str = "fork";

/// A kernel or sandbox that does not let us: which call it is, for whoever writes its rules.
fn refusal(attempt: &str) -> String {
    let call = match attempt {
        "make a memory file" => "memfd_create",
        "write to a memory file" => "write",
        "rewind a memory file" => "lseek",
        "make a pipe" => "pipe2",
        "make a socket pair" => "socketpair",
        "make an eventfd" => "eventfd2",
        "make an epoll" => "epoll_create1",
        "fork a worker" => "clone",
        _ if attempt.starts_with("watch") => "epoll_ctl",
        _ if attempt.starts_with("wait for") => "epoll_pwait2 and poll",
        _ if attempt.starts_with("send") => "sendmsg",
        _ if attempt.starts_with("receive") => "recvmsg",
        _ => return String::new(),
    };
    format!(
        " (the kernel or a sandbox refuses the call: its rules, such as a seccomp profile, must allow {call})"
    )
}

fn launch_advice(source: &std::io::Error) -> String {
    Errno::from_io_error(source).map_or_else(String::new, |errno| match errno {
        // Of a program that is there, this is about its file or the rules of the system, and they say so themselves.
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => String::new(),
        errno => advice(BIRTHS, errno),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_named_exactly() {
        for (attempt, errno, word) in [
            ("make a memory file", Errno::PERM, "memfd_create"),
            ("make a socket pair", Errno::NOSYS, "socketpair"),
            ("watch a worker", Errno::ACCESS, "epoll_ctl"),
            ("fork a worker", Errno::AGAIN, "ulimit -u"),
            ("make a pipe", Errno::MFILE, "ulimit -n"),
        ] {
            let text = system(attempt)(errno).to_string();
            assert!(text.contains(attempt) && text.contains(word), "{text}");
        }
        let text = system("send to a worker")(Errno::AGAIN).to_string();
        assert!(!text.contains("ulimit"), "{text}");
        let source = std::io::Error::from(Errno::AGAIN);
        let text = Error::Launch { program: "python".into(), source }.to_string();
        assert!(text.contains("cannot start python") && text.contains("ulimit -u"), "{text}");
    }
}
