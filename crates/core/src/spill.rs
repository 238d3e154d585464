//! Results on a disk: where what `memory_limit` has no room for goes.
//!
//! A thread of the pool's copies results out of workers' blocks into an arena that lies in files without names, and gives
//! the blocks back. It begins with the first results that need it. Whoever gets the results reads and writes the files'
//! mappings as any memory: the kernel brings pages in and out as there is room.
//!
//! Only results that are still unseen are moved, the newest, for nothing points into them yet.
//!
//! *Not here*: the decision what to move ([`Driver`](crate::driver)), and payload in flight, which stays in memory.

use crate::config::SpillConfig;
use crate::crew::Stock;
use crate::error::{Error, Result};
use crate::handle::{Handle, Outcome, Shortage};
use crate::machine;
use crate::mailbox::{Answered, Mailbox, Request};
use crate::payload::{Bytes, Moved, Parcel};
use forklift_shm::{Arena, ArenaLimits, Segment};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Bytes written at a time: between two writes the thread sees whether it should stop.
const WRITE_BYTES: usize = 4 << 20;

/// Results of a pool whose user has set no limit stay in memory where no disk takes them, if this share of the memory is
/// available: one part in so many.
const PLENTY_SHARE: u64 = 8;

/// Moves results, in a thread of its own once there are any to move.
pub(crate) struct Spiller {
    config: SpillConfig,
    stock: Arc<Stock>,
    mailbox: Arc<Mailbox>,
    stopped: Arc<AtomicBool>,
    thread: Option<(Sender<Task>, JoinHandle<()>)>,
}

/// Results to move.
pub(crate) struct Task {
    pub(crate) answered: Answered,
    /// Who waits for them.
    pub(crate) handle: Arc<Handle>,
    /// Whether they may stay where they are if no disk takes them: there will not be many more of them.
    pub(crate) may_stay: bool,
}

impl Spiller {
    pub(crate) fn new(config: SpillConfig, stock: Arc<Stock>, mailbox: Arc<Mailbox>) -> Self {
        Self { config, stock, mailbox, stopped: Arc::default(), thread: None }
    }

    /// Whether results hold more memory than they may, with so much more to come.
    pub(crate) fn is_needed(&self, expected_bytes: u64) -> bool {
        self.stock.held_bytes().saturating_add(expected_bytes) > self.config.results_bytes_max
    }

    /// Whether results and so much payload together are over the whole budget.
    pub(crate) fn is_over(&self, payload_bytes: u64) -> bool {
        self.stock.held_bytes().saturating_add(payload_bytes) > self.config.memory_limit
    }

    /// Has results moved; [`Request::Moved`] follows. Gives them back if there is nobody to do it.
    pub(crate) fn send(&mut self, task: Task) -> Option<Task> {
        if self.thread.is_none() {
            self.thread = self.begin().ok();
        }
        match &self.thread {
            Some((sender, _)) => sender.send(task).err().map(|refused| refused.0),
            None => Some(task),
        }
    }

    fn begin(&self) -> std::io::Result<(Sender<Task>, JoinHandle<()>)> {
        let (sender, tasks) = channel();
        let mover = Mover {
            config: self.config.clone(),
            stock: Arc::clone(&self.stock),
            mailbox: Arc::clone(&self.mailbox),
            stopped: Arc::clone(&self.stopped),
            place: None,
        };
        let thread =
            std::thread::Builder::new().name("forklift-spill".into()).spawn(move || mover.run(&tasks))?;
        Ok((sender, thread))
    }

    /// Ends the thread; what it has not moved is dropped.
    pub(crate) fn stop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some((sender, thread)) = self.thread.take() {
            drop(sender);
            // It does not panic; if it did, there is nobody left to care.
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Mover {
    config: SpillConfig,
    stock: Arc<Stock>,
    mailbox: Arc<Mailbox>,
    stopped: Arc<AtomicBool>,
    /// Once there was something to move.
    place: Option<Place>,
}

/// Where results are moved to.
#[derive(Clone)]
struct Place {
    arena: Arena,
    directory: PathBuf,
}

impl Mover {
    fn run(mut self, tasks: &Receiver<Task>) {
        while let Ok(Task { mut answered, handle, may_stay }) = tasks.recv() {
            let unwanted = handle.finished() || self.stopped.load(Ordering::Relaxed);
            let shortage = if unwanted { None } else { self.relieve(&mut answered, may_stay) };
            drop(handle);
            self.mailbox.send(Request::Moved { answered, shortage });
        }
    }

    /// Moves the results of an answer; what is short if that cannot be.
    fn relieve(&mut self, answered: &mut Answered, may_stay: bool) -> Option<Shortage> {
        let answer = &mut answered.answer;
        let Outcome::Values(parcel) = &mut answer.outcome else { return None };
        let trouble = self.move_parcel(parcel).err()?;
        let (held, spilled) = (self.stock.held_bytes(), self.stock.spilled_bytes());
        if may_stay || held <= self.config.results_bytes_max {
            // They were moved with foresight. As yet there is room.
            return None;
        }
        if !self.config.strict && machine::memory_available() > machine::memory_total() / PLENTY_SHARE {
            return None;
        }
        let holder = format!(
            "results of this pool ({held} bytes in memory, {spilled} moved to disk so far); no more of them could be \
             moved: {trouble}. Name another directory with spill_dir, raise memory_limit, or take results one by one \
             with imap"
        );
        Some(Shortage { item: answer.first, asked: parcel.bytes(), limit: self.config.memory_limit, holder })
    }

    fn move_parcel(&mut self, parcel: &mut Parcel) -> Result<()> {
        for bytes in std::iter::once(&mut parcel.stream).chain(&mut parcel.buffers) {
            if let Bytes::View(view) = bytes {
                // The view goes with this, and its block back to the worker.
                *bytes = Bytes::Moved(self.copy(view.as_slice())?);
            }
        }
        Ok(())
    }

    fn copy(&mut self, bytes: &[u8]) -> Result<Moved> {
        let Place { arena, directory } = self.place()?;
        let mut draft = arena.allocate(bytes.len() as u64)?;
        let mut written = 0;
        for part in bytes.chunks(WRITE_BYTES) {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(Error::Gone);
            }
            draft.write(written, part).map_err(|error| {
                forklift_shm::Error::disk("write results", &directory, bytes.len() as u64, error)
            })?;
            written += part.len() as u64;
        }
        self.stock.note_spilled(bytes.len() as u64);
        Ok(Moved::new(draft))
    }

    fn place(&mut self) -> Result<Place> {
        if let Some(place) = &self.place {
            return Ok(place.clone());
        }
        let directory = find_directory(&self.config)?;
        let arena = Arena::on_disk(directory.clone(), ArenaLimits::default());
        Ok(self.place.insert(Place { arena, directory }).clone())
    }
}

/// The first directory where files can be made, and where that relieves the memory.
fn find_directory(config: &SpillConfig) -> Result<PathBuf> {
    let mut trouble = Error::Malformed("no directory for them");
    for directory in &config.directories {
        match check_directory(directory) {
            Ok(()) if config.named || !is_in_memory(directory) => return Ok(directory.clone()),
            Ok(()) => {
                let reason = std::io::Error::other("it lies in memory itself");
                trouble = forklift_shm::Error::disk("move results", directory, 0, reason).into();
            }
            Err(error) => trouble = error,
        }
    }
    Err(trouble)
}

/// Whether files can be made in this directory.
///
/// # Errors
/// What the system says if not.
pub fn check_directory(directory: &Path) -> Result<()> {
    Segment::create_in(directory, 1)?;
    Ok(())
}

/// Whether files of this directory take memory, as in a tmpfs.
fn is_in_memory(directory: &Path) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    rustix::fs::statfs(directory).is_ok_and(|status| matches!(status.f_type as u64, TMPFS | RAMFS))
}
