//! Births and deaths of child processes: the zygote, fresh interpreters, forks of the user's process; and workers that
//! are no processes of this machine, for which a thread of ours stands in.
//!
//! Only this file names a pid. A child is born with two descriptors: its end of the channel, and the read end of a
//! pipe whose write end only this process holds (its *life*): the kernel kills the child when that end closes,
//! whatever the reason. Both reach a zygote's children as ancillary data; a fresh interpreter finds its channel as
//! standard input and takes the rest from it, so that no descriptor has to be inheritable even for a moment.

use crate::channel::{self, ParentEnd};
use crate::error::{Error, Result, system};
use crate::id::WorkerId;
use forklift_shm::{Held, Lock, beside_streams};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How long a zygote that was told to quit may take before it is killed.
const QUIT_PATIENCE: Duration = Duration::from_secs(2);

/// How to start a fresh interpreter.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables to set beyond those inherited.
    pub environment: Vec<(String, String)>,
    /// What the interpreter needs to know before anything else; the core does not look inside.
    pub preparation: Vec<u8>,
}

/// A worker to be forked from the user's process, by whoever may do so.
#[derive(Debug)]
pub struct ForkOrder {
    /// Who.
    pub worker: WorkerId,
    /// Its end of the channel.
    pub channel: OwnedFd,
    /// Its life.
    pub life: OwnedFd,
}

/// Where workers come from.
pub enum Origin {
    /// Forked from a clean process that is started once.
    Zygote(Recipe),
    /// A fresh interpreter each.
    Spawn(Recipe),
    /// Forked from the user's process by the given function, which reports to the pool how it went.
    Fork(Box<dyn Fn(ForkOrder) + Send>),
    /// Elsewhere: the given function has a thread serve the channel, which ends when the worker does.
    Relays(Box<dyn Fn(ForkOrder) + Send>),
}

/// What a birthplace has to tell.
#[derive(Debug)]
pub enum Notice {
    /// A child exists.
    Born {
        /// Who.
        worker: WorkerId,
        /// How to reach it.
        child: Process,
    },
    /// A child could not be made.
    Stillborn {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: String,
    },
    /// A child of the zygote ended: exit code, or minus the signal.
    Exited {
        /// Who.
        worker: WorkerId,
        /// How.
        status: i32,
    },
    /// The zygote is gone; children that it announced live on.
    Closed,
}

/// A living child.
#[derive(Debug)]
pub struct Process {
    /// None for a worker elsewhere.
    pid: Option<Pid>,
    /// Absent where the kernel has none (before 5.3, or under seccomp).
    pidfd: Option<OwnedFd>,
    /// Whether it is our own child, so that we must reap it.
    own: bool,
}

impl Process {
    /// The process of this number, which must not have been reaped yet.
    ///
    /// # Errors
    /// For a number that cannot be a pid.
    pub fn new(pid: u32, own: bool) -> Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Error::Malformed("not a pid"))?;
        Ok(Self {
            pid: Some(pid),
            pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok().map(beside_streams),
            own,
        })
    }

    /// A worker that is no process of this machine: its channel is all there is of it.
    #[must_use]
    pub fn elsewhere() -> Self {
        Self { pid: None, pidfd: None, own: false }
    }

    /// Whether it is no process of this machine. Then it cannot be killed, only hung up on.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.pid.is_none()
    }

    /// Its number, if it is a process of this machine.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid.map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// What becomes readable when it ends.
    #[must_use]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Sends SIGKILL. One that is gone already is no error.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // A child that cannot be killed (it is gone, or changed its user) shows in its channel or its silence.
        let _ = match (&self.pidfd, self.pid) {
            (Some(pidfd), _) => rustix::process::pidfd_send_signal(pidfd, signal),
            (None, Some(pid)) => rustix::process::kill_process(pid, signal),
            (None, None) => Ok(()),
        };
    }

    /// Whether it may not have ended yet. False where the kernel does not tell.
    #[must_use]
    pub fn may_live(&self) -> bool {
        self.pidfd.as_ref().is_some_and(|pidfd| {
            let mut ended = [PollFd::new(pidfd, PollFlags::IN)];
            rustix::event::poll(&mut ended, Some(&Timespec::default())) == Ok(0)
        })
    }

    /// Reaps it if it is our own child and has ended: exit code, or minus the signal.
    #[must_use]
    pub fn reap(&self) -> Option<i32> {
        if !self.own {
            return None;
        }
        let id = match &self.pidfd {
            Some(pidfd) => WaitId::PidFd(pidfd.as_fd()),
            None => WaitId::Pid(self.pid?),
        };
        let status = rustix::process::waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok()??;
        status.exit_status().or_else(|| status.terminating_signal().map(|signal| -signal))
    }
}

/// Descriptors of this process that must not live on in its forks: lives and channels. A fork that kept them would
/// keep workers alive after their parent's death.
static PRIVATE: Lock<BTreeSet<RawFd>> = Lock::new(BTreeSet::new());

fn private() -> Held<'static, BTreeSet<RawFd>> {
    PRIVATE.lock()
}

/// The descriptors that a fork of this process has to close at once.
#[must_use]
pub fn private_descriptors() -> Vec<RawFd> {
    private().iter().copied().collect()
}

/// Forks of this process have to close a descriptor for as long as this lives. It must be dropped before that is closed.
#[derive(Debug)]
pub struct Secret(RawFd);

impl Secret {
    /// Marks it.
    pub fn new(descriptor: impl AsFd) -> Self {
        let number = descriptor.as_fd().as_raw_fd();
        private().insert(number);
        Self(number)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        private().remove(&self.0);
    }
}

/// A descriptor that forks of this process have to close; it is known as such for as long as this lives.
#[derive(Debug)]
pub struct Private<T: AsFd> {
    _secret: Secret,
    descriptor: T,
}

impl<T: AsFd> Private<T> {
    /// Marks it.
    pub fn new(descriptor: T) -> Self {
        Self { _secret: Secret::new(&descriptor), descriptor }
    }
}

impl<T: AsFd> std::ops::Deref for Private<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.descriptor
    }
}

impl<T: AsFd> std::ops::DerefMut for Private<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.descriptor
    }
}

/// A pipe that only ever says "closed": our end, and the child's.
///
/// # Errors
/// When no descriptor can be had.
pub fn life() -> Result<(Private<OwnedFd>, OwnedFd)> {
    let (theirs, ours) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(system("make a pipe"))?;
    Ok((Private::new(beside_streams(ours)), beside_streams(theirs)))
}

/// Where the workers of one pool are born.
pub struct Birthplace {
    origin: Origin,
    zygote: Option<Zygote>,
}

/// The zygote process as its parent sees it.
struct Zygote {
    child: Child,
    /// The same. It is signalled by this: the program may have reaped it, with all its children, and its number may be
    /// another's.
    process: Process,
    socket: Private<ParentEnd>,
    _life: Private<OwnedFd>,
}

impl Birthplace {
    /// Prepares births; with a zygote, starts it, which then prepares itself while we go on.
    ///
    /// # Errors
    /// When the zygote cannot be started.
    pub fn open(origin: Origin) -> Result<Self> {
        let mut place = Self { origin, zygote: None };
        place.ensure_zygote()?;
        Ok(place)
    }

    /// What becomes readable when there are notices.
    #[must_use]
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.zygote.as_ref().map(|zygote| zygote.socket.as_fd())
    }

    /// Whether workers are elsewhere, and what is born here only stands in for them.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        matches!(self.origin, Origin::Relays(_))
    }

    fn ensure_zygote(&mut self) -> Result<()> {
        let Origin::Zygote(recipe) = &self.origin else { return Ok(()) };
        if self.zygote.is_none() {
            let (socket, theirs) = channel::pair()?;
            let (ours, life) = life()?;
            let child = start(recipe, theirs)?;
            let process = Process::new(child.id(), true)?;
            let mut socket = Private::new(socket);
            prepare(&mut socket, recipe, b"P", Some(life))?;
            self.zygote = Some(Zygote { child, process, socket, _life: ours });
        }
        Ok(())
    }

    /// Begins one birth. Returns a notice at once where it is known already how it went; otherwise
    /// [`Birthplace::receive`] or the fork function's report tells. Returns whether a new zygote had to be started.
    ///
    /// # Errors
    /// When the child, or a zygote in place of one that died, cannot be started.
    pub fn bear(&mut self, worker: WorkerId, channel: OwnedFd, life: OwnedFd) -> Result<Option<Notice>> {
        self.ensure_zygote()?;
        match &self.origin {
            Origin::Zygote(_) => {
                let zygote = self.zygote.as_mut().ok_or(Error::Gone)?;
                let mut packet = b"B".to_vec();
                packet.extend(worker.slot.to_le_bytes());
                packet.extend(worker.generation.to_le_bytes());
                zygote.socket.send(packet, vec![Arc::new(channel), Arc::new(life)])?;
                Ok(None)
            }
            Origin::Spawn(recipe) => {
                // The interpreter reads its preparation from a socket of its own, which then has served its time.
                let (mut socket, theirs) = channel::pair()?;
                let child = start(recipe, theirs)?;
                let mut head = b"W".to_vec();
                head.extend(worker.slot.to_le_bytes());
                head.extend(worker.generation.to_le_bytes());
                socket.send(head, vec![Arc::new(channel), Arc::new(life)])?;
                prepare(&mut socket, recipe, b"P", None)?;
                Ok(Some(Notice::Born { worker, child: Process::new(child.id(), true)? }))
            }
            Origin::Fork(order) => {
                order(ForkOrder { worker, channel, life });
                Ok(None)
            }
            Origin::Relays(order) => {
                order(ForkOrder { worker, channel, life });
                Ok(Some(Notice::Born { worker, child: Process::elsewhere() }))
            }
        }
    }

    /// Asks the zygote to import these modules before the next birth. The bytes are a list that only it reads.
    pub fn import(&mut self, modules: &[u8]) {
        if let Some(zygote) = &mut self.zygote {
            let packet = [b"I", modules].concat();
            if packet.len() <= channel::PACKET_BYTES_MAX {
                // A zygote that is gone shows when the next birth is asked for.
                let _ = zygote.socket.send(packet, vec![]);
            }
        }
    }

    /// What the zygote has to tell, oldest first.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what is no notice.
    pub fn receive(&mut self) -> Result<Vec<Notice>> {
        let mut notices = Vec::new();
        let Some(zygote) = &mut self.zygote else { return Ok(notices) };
        loop {
            match zygote.socket.receive() {
                Ok(Some(packet)) => notices.extend(notice(packet)?),
                Ok(None) => return Ok(notices),
                Err(Error::Gone) => break,
                Err(error) => return Err(error),
            }
        }
        if let Some(zygote) = self.zygote.take() {
            end(zygote);
        }
        notices.push(Notice::Closed);
        Ok(notices)
    }
}

impl Drop for Birthplace {
    fn drop(&mut self) {
        if let Some(mut zygote) = self.zygote.take() {
            // One that cannot be told is killed below.
            let _ = zygote.socket.send(b"Q".to_vec(), vec![]);
            // It need not finish what it imports; at any other time it ignores this.
            zygote.process.signal(Signal::URG);
            end(zygote);
        }
    }
}

/// Waits for the zygote to end, not for ever.
fn end(zygote: Zygote) {
    let Zygote { mut child, process, socket, .. } = zygote;
    drop(socket);
    let ended = process.pidfd().is_some_and(|pidfd| {
        let timeout = channel::timespec(QUIT_PATIENCE);
        let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
        rustix::event::poll(&mut watched, Some(&timeout)).is_ok_and(|ready| ready > 0)
    });
    if !ended {
        process.kill();
    }
    let _ = child.wait();
}

fn start(recipe: &Recipe, stdin: OwnedFd) -> Result<Child> {
    let (program, arguments) =
        recipe.command.split_first().ok_or(Error::Malformed("a recipe without a program"))?;
    Command::new(program)
        .args(arguments)
        .envs(recipe.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(stdin))
        .spawn()
        .map_err(|source| Error::Launch { program: program.clone(), source })
}

/// Sends the preparation as a memory file, whose size has no limit, with the child's own life if it has one. Unlike a
/// segment it needs no seal: the reader reads it, it does not map it.
fn prepare(socket: &mut ParentEnd, recipe: &Recipe, tag: &[u8], life: Option<OwnedFd>) -> Result<()> {
    let file = rustix::fs::memfd_create("forklift-preparation", MemfdFlags::CLOEXEC)
        .map_err(system("make a memory file"))?;
    let mut rest = recipe.preparation.as_slice();
    while !rest.is_empty() {
        let count = rustix::io::write(&file, rest).map_err(system("write to a memory file"))?;
        rest = &rest[count..];
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).map_err(system("rewind a memory file"))?;
    let mut packet = tag.to_vec();
    packet.extend((recipe.preparation.len() as u64).to_le_bytes());
    let descriptors = std::iter::once(file).chain(life).map(Arc::new).collect();
    socket.send(packet, descriptors)
}

/// Reads one packet of the zygote. `r` (it is prepared) is no notice.
fn notice(packet: channel::Packet) -> Result<Option<Notice>> {
    let malformed = || Error::Malformed("what the zygote says");
    let (tag, body) = packet.bytes.split_first().ok_or_else(malformed)?;
    if *tag == b'r' {
        return Ok(None);
    }
    let word = |index: usize| -> Result<u32> {
        let bytes = body.get(4 * index..4 * index + 4).ok_or_else(malformed)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let worker = WorkerId { slot: word(0)?, generation: word(1)? };
    match tag {
        b'b' => {
            let pid = i32::try_from(word(2)?).ok().and_then(Pid::from_raw).ok_or_else(malformed)?;
            let child = Process { pid: Some(pid), pidfd: packet.descriptors.into_iter().next(), own: false };
            Ok(Some(Notice::Born { worker, child }))
        }
        b'f' => {
            let errno = Errno::from_raw_os_error(word(2)?.cast_signed());
            let text = String::from_utf8_lossy(body.get(12..).unwrap_or_default()).into_owned();
            Ok(Some(Notice::Stillborn {
                worker,
                reason: format!("{}: {text}", system("fork a worker")(errno)),
            }))
        }
        b'x' => Ok(Some(Notice::Exited { worker, status: word(2)?.cast_signed() })),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::time::Instant;

    #[test]
    fn a_process_may_live_until_it_has_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::new(child.id(), true).unwrap();
        // Where the kernel has no descriptors of processes, nobody tells.
        assert!(process.may_live() || process.pidfd().is_none());
        process.kill();
        let begun = Instant::now();
        while process.may_live() {
            assert!(begun.elapsed() < Duration::from_secs(20), "SIGKILL ends it");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(!Process::elsewhere().may_live());
    }
}
