//! Reads the scoreboard of another process, for a live view. It writes nothing, and nobody notices.
//!
//! The file is found by a descriptor of the other process (`/proc/PID/fd/N`), opened for reading, and read; it is not
//! mapped. So a file that is cut short while it is read is the end of a file and not SIGBUS, no page is made for
//! lines that nobody has used, and no unsafe code is needed. Whatever the file holds, what comes out is numbers: a file without
//! the head of a scoreboard, or with that of another layout, is refused.
//!
//! A slot is read twice, and taken when both readings are the same with an even sequence: a writer that was at work during the
//! first has changed the sequence by the second. See `scoreboard` for what happens if that does not come about.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::figures::{FIGURE_WORDS, Figures};
use crate::scoreboard::{
    CALLS, HEAD_BEGUN, HEAD_LAYOUT, HEAD_LINES, HEAD_MAGIC, HEAD_PID, HEAD_SLOTS, HELD, ITEM, JOB, LAYOUT,
    MAGIC, PHASE, PID, Phase, Reading, SEQUENCE, SINCE,
};
use crate::segment::LINE_WORDS;

/// How often undisturbed words of a slot are tried for.
const READ_TRIES: usize = 16;

/// More lines than any version has given out.
const LINES_MAX: u64 = 1 << 20;

const WORD_BYTES: usize = size_of::<u64>();
const LINE_BYTES: usize = LINE_WORDS * WORD_BYTES;

/// A scoreboard as an onlooker saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The process that made it, in its own PID namespace.
    pub pid: u64,
    /// When, on CLOCK_MONOTONIC in nanoseconds.
    pub begun_nanoseconds: u64,
    /// The pool's figures.
    pub figures: Figures,
    /// The slots that a worker has ever written to.
    pub slots: Vec<SeenSlot>,
}

/// One slot. Its worker may be dead; then these are the last things that it noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenSlot {
    /// Which line.
    pub slot: u64,
    /// The worker, in its own PID namespace.
    pub pid: u64,
    /// What it noted.
    pub reading: Reading,
    /// Bytes of its blocks that it says it holds.
    pub held: u64,
}

/// Looks at the scoreboard that can be opened under this path.
///
/// # Errors
/// The system's, when it cannot be opened or read; [`io::ErrorKind::InvalidData`] when it is no scoreboard, or one of
/// another layout than this version's.
pub fn look(path: &Path) -> io::Result<Seen> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let head = line(&file, 0)?.ok_or_else(|| foreign("it is too short to be a scoreboard".into()))?;
    if head[HEAD_MAGIC] != MAGIC {
        return Err(foreign("it is no scoreboard of a pool".into()));
    }
    if head[HEAD_LAYOUT] != LAYOUT {
        return Err(foreign(format!(
            "its layout is number {}, and this version of forklift reads number {LAYOUT}: \
             look at it with the version that the program uses",
            head[HEAD_LAYOUT]
        )));
    }
    let mut words = [0; FIGURE_WORDS];
    for (index, chunk) in words.chunks_mut(LINE_WORDS).enumerate() {
        let found = line(&file, 1 + index)?.ok_or_else(|| foreign("it ends within its head".into()))?;
        chunk.copy_from_slice(&found);
    }
    let figures = Figures::of(&words);
    let lines = figures.lines.min(head[HEAD_SLOTS]).min(LINES_MAX);
    let mut slots = Vec::new();
    for slot in 0..lines {
        let Some(words) = undisturbed(&file, HEAD_LINES + slot as usize)? else { break };
        if words[PID] != 0 {
            slots.push(SeenSlot { slot, pid: words[PID], reading: reading(&words), held: words[HELD] });
        }
    }
    Ok(Seen { pid: head[HEAD_PID], begun_nanoseconds: head[HEAD_BEGUN], figures, slots })
}

/// The words of a slot at one moment, or after some tries as they are; None beyond the end of the file.
fn undisturbed(file: &File, index: usize) -> io::Result<Option<[u64; LINE_WORDS]>> {
    let Some(mut before) = line(file, index)? else { return Ok(None) };
    for _ in 0..READ_TRIES {
        let Some(after) = line(file, index)? else { return Ok(None) };
        // `held` is no part of what belongs together.
        let same = (0..LINE_WORDS).all(|word| word == HELD || before[word] == after[word]);
        if same && after[SEQUENCE].is_multiple_of(2) {
            return Ok(Some(after));
        }
        before = after;
    }
    Ok(Some(before))
}

/// The words of a line; None beyond the end of the file.
fn line(file: &File, index: usize) -> io::Result<Option<[u64; LINE_WORDS]>> {
    let mut bytes = [0; LINE_BYTES];
    match file.read_exact_at(&mut bytes, (index * LINE_BYTES) as u64) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut words = [0; LINE_WORDS];
    let (chunks, _) = bytes.as_chunks::<WORD_BYTES>();
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_ne_bytes(*chunk);
    }
    Ok(Some(words))
}

fn reading(words: &[u64; LINE_WORDS]) -> Reading {
    Reading {
        job: words[JOB],
        item: words[ITEM],
        since_nanoseconds: words[SINCE],
        calls: words[CALLS],
        phase: Phase::of(words[PHASE]),
    }
}

fn foreign(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use proptest::prelude::*;

    use super::*;
    use crate::scoreboard::Scoreboard;

    fn seen(board: &Scoreboard) -> io::Result<Seen> {
        look(Path::new(&format!("/proc/self/fd/{}", board.fd().as_raw_fd())))
    }

    fn look_at(bytes: &[u8]) -> io::Result<Seen> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), bytes)?;
        look(file.path())
    }

    fn head(words: [u64; 3]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn an_onlooker_sees_what_driver_and_workers_wrote() {
        let board = Scoreboard::create(100).unwrap();
        let mut mark = board.writer(1);
        mark.set_at(3, 4, Phase::Calling, 5);
        mark.ledger().add(6);
        let figures = Figures { lines: 3, done: 7, ..Figures::default() };
        board.post(&figures);
        let found = seen(&board).unwrap();
        assert_eq!((found.pid, found.figures), (u64::from(std::process::id()), figures));
        assert!(found.begun_nanoseconds > 0);
        let reading = Reading { job: 3, item: 4, since_nanoseconds: 5, calls: 1, phase: Phase::Calling };
        let slot = SeenSlot { slot: 1, pid: u64::from(std::process::id()), reading, held: 6 };
        assert_eq!(found.slots, [slot], "slots that nobody took are not there");
        board.post(&Figures { lines: u64::MAX, ..figures });
        assert_eq!(seen(&board).unwrap().slots, [slot], "no more lines than there are");
    }

    #[test]
    fn what_is_no_scoreboard_is_refused_with_words() {
        for (bytes, word) in [
            (Vec::new(), "too short"),
            (vec![0; 4096], "no scoreboard"),
            ([head([MAGIC, LAYOUT + 1, 1]), vec![0; 4096]].concat(), "the version that the program uses"),
            ([head([MAGIC, LAYOUT, u64::MAX]), vec![0; 64]].concat(), "ends within its head"),
        ] {
            let error = look_at(&bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn garbage_behind_a_good_head_is_read_as_something(garbage in prop::collection::vec(any::<u8>(), 0..2000)) {
            let bytes = [head([MAGIC, LAYOUT, u64::MAX]), garbage].concat();
            if let Ok(seen) = look_at(&bytes) {
                prop_assert!(seen.slots.len() <= bytes.len() / LINE_BYTES);
            }
        }
    }
}
