//! Shared memory for Forklift: sealed memory files, cut into blocks by the one process that owns them.
//!
//! Bytes go from one process to another without being copied: their owner [allocates](Arena::allocate) a [`Draft`],
//! writes, [seals](Draft::seal) it into a [`Block`], keeps that for as long as the peer has it and tells the peer the
//! [`Span`]; the peer makes a [`View`] of the span and, when the view is dropped, tells the owner, who drops the block.
//! How spans and descriptors travel is no business of this crate.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use forklift_shm::{Arena, ArenaLimits, Release, Segment, Sharing, Span, View};
//!
//! // The owner.
//! let arena = Arena::new(ArenaLimits::default());
//! let mut draft = arena.allocate(5)?;
//! draft.copy_from_slice(b"bytes");
//! let block = draft.seal();
//! let (ours, span) = (block.segment().clone(), block.span());
//! let descriptor = ours.fd().try_clone_to_owned().expect("a descriptor");
//!
//! // The peer, told of the descriptor, the segment's size and the span.
//! struct Back(Mutex<Vec<Span>>);
//! impl Release for Back {
//!     fn release(&self, span: Span) {
//!         self.0.lock().expect("a lock").push(span);
//!     }
//! }
//! let back = Arc::new(Back(Mutex::default()));
//! let theirs = Segment::open(descriptor, ours.bytes(), Sharing::Shared)?;
//! let view = View::new(&theirs, span, back.clone())?;
//! assert_eq!(view.as_slice(), b"bytes");
//! drop(view);
//!
//! // The owner again, told what was released.
//! assert_eq!(back.0.lock().expect("a lock").pop(), Some(span));
//! drop(block);
//! assert_eq!(arena.usage().live_bytes, 0);
//! # Ok::<(), forklift_shm::Error>(())
//! ```
//!
//! # Trust
//! The peers are the pool's parent and its workers. A worker runs whatever its pickles say, with the same rights as
//! the parent, so there is no defence here against a peer that wants to do harm. What *is* defended against is a peer
//! that dies at any instruction, or that has lost its mind: nothing it does to its own memory, and no number it
//! sends, makes this process crash, hang or hand out the same page twice. (Where a sandbox forbids seals, a peer could still
//! cut its file short, and reading it would end in SIGBUS.) What it can do is write to
//! bytes that it was lent and should have given back; that spoils the bytes of another task, or those of a result,
//! and is the one thing that has to be taken on trust.
//!
//! # Laws
//! 1. **One allocator for each segment**, in the private memory of the process that created it. There is no lock,
//!    free list or counter in shared memory, so a process that is killed leaves nothing half done.
//! 2. **One writer for each shared word.** Only the scoreboard has such words; their writer computes from copies of
//!    its own and does not read back what it wrote (but for a count that its threads add to, each by one operation).
//! 3. **Offsets, not addresses, and none is believed**: a [`Span`] is checked against its segment when it is used, a
//!    received descriptor before it is mapped, a span given back against the table of what was lent.
//! 4. **Exclusive until sealed, the holder's until released.** The types say so: a draft can be written, a block
//!    cannot even be read by its owner, a view ends with a release.
//! 5. **A child's death and its garbage are normal.** They cost the owner nothing but the time to look.
//!
//! After a fork the child has copies of arenas, drafts and views that are not its own. It may read and write what they
//! show, which reaches nobody, and must neither allocate from nor drop them (a process that ends by `_exit` does not): dropping
//! a view tells an owner a second time.
//!
//! # Map, in reading order
//! Each module imports only what stands left of it:
//!
//! locks · error · pages · pagemap · file · forks · segment · block · arena · figures · gate · scoreboard · onlooker
//!
//! | module | what it is | unsafe |
//! |---|---|---|
//! | `locks` | locks that no fork inherits locked | |
//! | `error` | what can fail, in words | |
//! | `pages` | the size of a page, and a set of pages | |
//! | `pagemap` | which pages this process has changed, as the kernel tells | |
//! | `file` | memory files before they are mapped | |
//! | `forks` | what forks of this process write is theirs | yes |
//! | `segment` | one memory file and its mapping | yes |
//! | `block` | a run of bytes and who may touch it | yes |
//! | `arena` | the segments of one owner, allocated from | |
//! | `figures` | what a pool has done and holds, as words of its scoreboard | |
//! | `gate` | stops a worker between two pieces of work | |
//! | `scoreboard` | what each worker is doing, readable also after its death | |
//! | `onlooker` | reads the scoreboard of another process, of which nothing is believed | |
#![cfg(target_os = "linux")]

mod arena;
mod block;
mod error;
mod figures;
mod file;
mod forks;
mod gate;
mod locks;
mod onlooker;
mod pagemap;
mod pages;
mod scoreboard;
mod segment;

pub use arena::{Arena, ArenaLimits, Usage};
pub use block::{Block, Draft, Release, View};
pub use error::{Error, Result};
pub use figures::Figures;
pub use file::beside_streams;
pub use forks::prepare_for_forks;
pub use gate::{Gate, Turnstile};
pub use locks::{Held, Lock, Looked, Waiters};
pub use onlooker::{Seen, SeenSlot, look};
pub use scoreboard::{Ledger, Mark, Phase, Reading, SCOREBOARD_NAME, Scoreboard};
pub use segment::{SEGMENT_BYTES_MAX, Segment, SegmentId, Sharing, Span};
