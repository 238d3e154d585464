//! What may be on its way: credit of the feeds, and the window of bytes.
//!
//! A job's [`Credit`] is what its feed was granted and has not formed yet. The [`Window`] adds up the bytes of all
//! chunks in flight and the bytes that credit is expected to turn into (its *pledge*), over all jobs.
//!
//! A feed may sit on its credit for ever: its generator waits for the network, or for another job of this very pool.
//! If its pledge kept others from their first chunk, that would be a deadlock. So a pledge *lapses* when its feed
//! has formed nothing for [`PLEDGE_PATIENCE`] while others wait: it is no longer counted until the feed goes on.
//! The window may then be exceeded by what was pledged, which is the lesser evil.

use crate::id::{JobId, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// How long a feed may form nothing before others get what was set aside for it. Longer than encoding the largest
/// usual chunk (4 MB, some milliseconds), shorter than what a person notices.
pub(super) const PLEDGE_PATIENCE: Duration = Duration::from_millis(100);

/// Chunks granted and not yet formed, and how large each may turn out at most.
///
/// The feed cuts each chunk to the size it knows at that moment. A new size reaches it too late for a chunk that it
/// is just forming, so a smaller one is not relied upon: chunks granted before it count as before. A larger one
/// counts for all. So the runs, oldest first, have strictly falling sizes.
#[derive(Debug, Clone, Default)]
pub(super) struct Credit {
    runs: VecDeque<Run>,
    chunks: u32,
    items: u64,
    size: u32,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    chunks: u32,
    size: u32,
}

impl Credit {
    /// Chunks that the feed may still form.
    pub(super) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Items in these at most.
    pub(super) fn items(&self) -> u64 {
        self.items
    }

    /// The size that the feed was told last.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// By how much `items()` grows if the chunks granted before grow to `size`. Linear in the runs that are smaller,
    /// which a grant of that size merges into one.
    pub(super) fn growth(&self, size: u32) -> u64 {
        let smaller = self.runs.iter().rev().take_while(|run| run.size < size);
        smaller.map(|run| u64::from(run.chunks) * u64::from(size - run.size)).sum()
    }

    /// The feed is told: so many more chunks, and from now on of this size.
    pub(super) fn grant(&mut self, chunks: u32, size: u32) {
        self.items += self.growth(size) + u64::from(chunks) * u64::from(size);
        self.chunks += chunks;
        self.size = size;
        let mut merged = chunks;
        while let Some(run) = self.runs.back().filter(|run| run.size <= size) {
            merged += run.chunks;
            self.runs.pop_back();
        }
        if merged > 0 {
            self.runs.push_back(Run { chunks: merged, size });
        }
    }

    /// The feed has formed a chunk. One that was never granted changes nothing.
    pub(super) fn formed(&mut self) {
        let Some(run) = self.runs.front_mut() else { return };
        run.chunks -= 1;
        self.chunks -= 1;
        self.items -= u64::from(run.size);
        if run.chunks == 0 {
            self.runs.pop_front();
        }
    }

    /// The feed forms nothing more.
    pub(super) fn void(&mut self) {
        *self = Credit { size: self.size, ..Credit::default() };
    }
}

/// Bytes in flight and pledged, over all jobs.
#[derive(Debug)]
pub(super) struct Window {
    bytes_max: u64,
    in_flight: u64,
    pledged_bytes: u64,
    pledged_chunks: u64,
    pledges: BTreeMap<JobId, Pledge>,
    /// The pledges that count, by the time their feed last moved.
    by_age: BTreeSet<(Time, JobId)>,
}

#[derive(Debug, Clone, Copy)]
struct Pledge {
    chunks: u32,
    bytes: u64,
    since: Time,
    counts: bool,
}

impl Window {
    pub(super) fn new(bytes_max: u64) -> Self {
        let (pledges, by_age) = Default::default();
        Self { bytes_max, in_flight: 0, pledged_bytes: 0, pledged_chunks: 0, pledges, by_age }
    }

    /// Bytes of all chunks that were submitted and not retired.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// What is in flight already may exceed a smaller window; nothing is added to it until it has shrunk.
    pub(super) fn resize(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Chunks that feeds may form and are believed to form soon.
    pub(super) fn pledged_chunks(&self) -> u64 {
        self.pledged_chunks
    }

    /// Bytes that may still be pledged; `None` if nothing at all is on its way, and one chunk may have any size.
    pub(super) fn room(&self) -> Option<u64> {
        let taken = self.in_flight.saturating_add(self.pledged_bytes);
        if taken == 0 && self.pledged_chunks == 0 { None } else { Some(self.bytes_max.saturating_sub(taken)) }
    }

    pub(super) fn enter(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_add(bytes);
    }

    pub(super) fn leave(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }

    /// What the job's feed is now expected to form. Its patience starts anew.
    pub(super) fn pledge(&mut self, now: Time, job: JobId, chunks: u32, bytes: u64) {
        self.unpledge(job);
        if chunks == 0 {
            return;
        }
        self.pledged_chunks += u64::from(chunks);
        self.pledged_bytes = self.pledged_bytes.saturating_add(bytes);
        self.pledges.insert(job, Pledge { chunks, bytes, since: now, counts: true });
        self.by_age.insert((now, job));
    }

    /// The job's feed forms nothing more.
    pub(super) fn unpledge(&mut self, job: JobId) {
        if let Some(pledge) = self.pledges.remove(&job) {
            self.discount(job, pledge);
        }
    }

    /// When the oldest pledge lapses.
    pub(super) fn earliest_lapse(&self) -> Option<Time> {
        self.by_age.first().map(|(since, _)| since.after(PLEDGE_PATIENCE))
    }

    /// Counts no longer what was pledged too long ago. Returns how many lapsed.
    pub(super) fn lapse(&mut self, now: Time) -> usize {
        let mut lapsed = 0;
        while let Some(&(since, job)) = self.by_age.first() {
            if since.after(PLEDGE_PATIENCE) > now {
                break;
            }
            match self.pledges.get(&job).copied() {
                Some(pledge) => self.discount(job, pledge),
                None => drop(self.by_age.pop_first()),
            }
            lapsed += 1;
        }
        lapsed
    }

    fn discount(&mut self, job: JobId, pledge: Pledge) {
        if pledge.counts {
            self.pledged_chunks -= u64::from(pledge.chunks);
            self.pledged_bytes = self.pledged_bytes.saturating_sub(pledge.bytes);
            self.by_age.remove(&(pledge.since, job));
        }
        if let Some(kept) = self.pledges.get_mut(&job) {
            kept.counts = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grants `(chunks, size)`, or `(0, 0)` for a chunk formed; then chunks and items of the credit.
    fn check(script: &[(u32, u32)], expected: &[(u32, u64)]) {
        let mut credit = Credit::default();
        let mut seen = Vec::new();
        for &(chunks, size) in script {
            match size {
                0 => credit.formed(),
                _ => credit.grant(chunks, size),
            }
            seen.push((credit.chunks(), credit.items()));
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_larger_size_counts_for_what_was_granted_before() {
        check(&[(2, 1), (1, 8), (0, 0), (0, 0), (0, 0)], &[(2, 2), (3, 24), (2, 16), (1, 8), (0, 0)]);
    }

    #[test]
    fn a_smaller_size_does_not() {
        check(&[(2, 8), (1, 2), (0, 0), (0, 0), (0, 0)], &[(2, 16), (3, 18), (2, 10), (1, 2), (0, 0)]);
        check(&[(2, 8), (1, 2), (1, 4)], &[(2, 16), (3, 18), (4, 24)]);
        check(&[(2, 8), (0, 2), (0, 9)], &[(2, 16), (2, 16), (2, 18)]);
    }

    #[test]
    fn forming_without_credit_changes_nothing() {
        check(&[(0, 0), (1, 3), (0, 0), (0, 0)], &[(0, 0), (1, 3), (0, 0), (0, 0)]);
    }

    #[test]
    fn the_growth_foretold_is_the_growth_that_comes() {
        let mut credit = Credit::default();
        for (chunks, size) in [(3, 8), (2, 4), (1, 1)] {
            credit.grant(chunks, size);
        }
        let before = credit.items();
        let growth = credit.growth(6);
        credit.grant(0, 6);
        assert_eq!(credit.items() - before, growth);
        assert_eq!(growth, 2 * 2 + 5);
    }

    #[test]
    fn one_chunk_of_any_size_enters_an_empty_window() {
        let mut window = Window::new(100);
        assert_eq!(window.room(), None);
        window.pledge(Time(0), JobId(1), 1, 1000);
        assert_eq!(window.room(), Some(0));
        window.unpledge(JobId(1));
        window.enter(1000);
        assert_eq!(window.room(), Some(0));
        window.leave(1000);
        assert_eq!(window.room(), None);
    }

    #[test]
    fn a_pledge_lapses_until_the_feed_moves_again() {
        let mut window = Window::new(100);
        window.pledge(Time(0), JobId(1), 2, 60);
        window.pledge(Time(5), JobId(2), 1, 30);
        assert_eq!(window.room(), Some(10));
        let patience = window.earliest_lapse().unwrap();
        assert_eq!(window.lapse(Time(patience.0 - 1)), 0);
        assert_eq!(window.lapse(patience), 1);
        assert_eq!((window.room(), window.pledged_chunks()), (Some(70), 1));
        window.pledge(patience, JobId(1), 1, 30);
        assert_eq!((window.room(), window.pledged_chunks()), (Some(40), 2));
        window.unpledge(JobId(1));
        window.unpledge(JobId(2));
        window.unpledge(JobId(2));
        assert_eq!((window.room(), window.earliest_lapse()), (None, None));
    }
}
