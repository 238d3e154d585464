//! The copying of large buffers: by several threads where that is faster, and in slices, so that a copy of gigabytes can
//! be broken off.
//!
//! Between two slices the process is asked whether to go on. What it is that might speak against it (signals that wait
//! for their handlers) only the binding knows: it [says once](ask_between_slices) how to ask. A question handed down with
//! each copy was the alternative; but signals are the process's and not the copy's, and every caller that packs anything
//! would have to have one.

use crate::error::{Error, Result};
use rustix::process::getpid;
use rustix::thread::gettid;
use std::num::NonZero;

/// After so many bytes the process is asked whether to go on: some 10 ms of copying to warm pages, and up to 0.1 s to
/// such as have to be found first. Starting threads for each slice is lost in that.
const SLICE_BYTES: usize = 64 << 20;

/// A buffer of at least this size is copied by several threads, if there are cores for them. Below it, starting
/// threads takes a noticeable part of the time of copying.
const PARALLEL_BYTES_MIN: usize = 64 << 20;

/// Memory does not get faster by more.
const COPIERS_MAX: usize = 4;

/// Why a copy should not go on.
pub type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Asked in the thread that copies, if that is the process's first: signals are handled there, and any other would only
/// wait for whatever lock the answer needs.
pub type Question = fn() -> std::result::Result<(), Reason>;

#[expect(clippy::disallowed_types, reason = "set when the process is young, and never waited for")]
static QUESTION: std::sync::OnceLock<Question> = std::sync::OnceLock::new();

/// From now on copies of this process ask this between slices. The first caller decides.
pub fn ask_between_slices(question: Question) {
    QUESTION.get_or_init(|| question);
}

/// What is copied for one value, buffer after buffer.
pub(crate) struct Copying<'a> {
    question: &'a dyn Fn() -> std::result::Result<(), Reason>,
    slice_bytes: usize,
    /// Bytes since the question was asked: many buffers of less than a slice take as long as a large one.
    unasked: usize,
}

impl Copying<'static> {
    /// One that asks what this process is to be asked.
    pub(crate) fn new() -> Self {
        Self::asking(&ask, SLICE_BYTES)
    }
}

impl<'a> Copying<'a> {
    /// One that asks this after so many bytes.
    pub(crate) fn asking(
        question: &'a dyn Fn() -> std::result::Result<(), Reason>,
        slice_bytes: usize,
    ) -> Self {
        Self { question, slice_bytes, unasked: 0 }
    }

    /// Copies a buffer to memory of the same size.
    ///
    /// # Errors
    /// [`Error::Stopped`] if it should not go on; then some of it is copied.
    pub(crate) fn copy(&mut self, to: &mut [u8], from: &[u8]) -> Result<()> {
        let threads = copiers(from.len());
        for (to, from) in to.chunks_mut(self.slice_bytes).zip(from.chunks(self.slice_bytes)) {
            if self.unasked + from.len() > self.slice_bytes {
                (self.question)().map_err(Error::Stopped)?;
                self.unasked = 0;
            }
            copy(to, from, threads);
            self.unasked += from.len();
        }
        Ok(())
    }
}

/// Asks what this process is to be asked.
fn ask() -> std::result::Result<(), Reason> {
    match QUESTION.get() {
        Some(question) if gettid() == getpid() => question(),
        _ => Ok(()),
    }
}

/// How many threads should copy so many bytes: half of the cores, since the other half has work.
fn copiers(bytes: usize) -> usize {
    if bytes < PARALLEL_BYTES_MIN {
        return 1;
    }
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    (cores / 2).clamp(1, COPIERS_MAX)
}

/// Copies with so many threads, this one included.
fn copy(to: &mut [u8], from: &[u8], threads: usize) {
    let share = from.len().div_ceil(threads).max(1);
    if share >= from.len() {
        to.copy_from_slice(from);
        return;
    }
    std::thread::scope(|scope| {
        let mut parts = to.chunks_mut(share).zip(from.chunks(share));
        let own = parts.next();
        for (to, from) in parts {
            scope.spawn(move || to.copy_from_slice(from));
        }
        if let Some((to, from)) = own {
            to.copy_from_slice(from);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn several_threads_copy_the_same_as_one() {
        for (length, threads) in [(0, 3), (1, 3), (10_000, 3), (10_001, 4), (4, 9)] {
            let from: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let mut to = vec![0; length];
            copy(&mut to, &from, threads);
            assert!(to == from, "{length} bytes by {threads} threads");
        }
    }

    /// Copies buffers of these sizes in slices of 100 bytes, until the question was asked `patience` times; returns how
    /// many bytes arrived, how often it was asked, and whether the copying went to its end.
    fn check(sizes: &[usize], patience: u32) -> (usize, u32, bool) {
        let asked = Cell::new(0);
        let question = || {
            asked.set(asked.get() + 1);
            if asked.get() > patience { Err("enough".into()) } else { Ok(()) }
        };
        let mut copying = Copying::asking(&question, 100);
        let mut arrived = 0;
        for &size in sizes {
            let mut to = vec![0; size];
            let outcome = copying.copy(&mut to, &vec![1; size]);
            arrived += to.iter().filter(|byte| **byte == 1).count();
            if let Err(error) = outcome {
                assert!(
                    matches!(&error, Error::Stopped(reason) if reason.to_string() == "enough"),
                    "{error}"
                );
                return (arrived, asked.get(), false);
            }
        }
        (arrived, asked.get(), true)
    }

    #[test]
    fn a_long_copy_asks_after_each_slice() {
        assert_eq!(check(&[1000], 99), (1000, 9, true));
        assert_eq!(check(&[1001], 99), (1001, 10, true));
    }

    #[test]
    fn what_fits_a_slice_is_copied_without_a_question() {
        assert_eq!(check(&[100], 0), (100, 0, true));
        assert_eq!(check(&[40, 0, 60], 0), (100, 0, true));
    }

    #[test]
    fn many_buffers_ask_as_often_as_a_large_one() {
        assert_eq!(check(&[50; 20], 99), (1000, 9, true));
    }

    #[test]
    fn a_copy_that_should_not_go_on_ends_at_a_slice() {
        assert_eq!(check(&[1000], 3), (400, 4, false));
        assert_eq!(check(&[50; 20], 0), (100, 1, false));
    }
}
