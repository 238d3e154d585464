//! What a feed is allowed to form, and how large: the scheduler's dealings with feeds.
//!
//! A job *asks* when an event of its own may have changed what it can be granted. It then stands in one queue with
//! the others that ask, and leaves it when its own limits allow nothing more (the event that changes that brings it
//! back), or waits at its head for room in the window that all share. So nobody looks through the jobs.

use super::Scheduler;
use super::chunking::Bounds;
use super::job::Job;
use crate::event::Command;
use crate::id::{JobId, Time};

/// Chunks beyond one per seat that a job may have ready or granted: enough for the feed to refill while all workers
/// take one at the same moment.
const RESERVE_MIN: u32 = 2;

/// … and one more for every so many seats.
const SEATS_PER_RESERVE: u32 = 4;

/// Chunks ready or granted over all jobs, for each chunk that one job may have. So many small jobs at once do not
/// fill the window with payload long before its time.
const AHEAD_PER_DEPTH: u64 = 8;

/// A new size is sent to a feed that still holds credit if it is smaller than this share of the old, in quarters.
const SHRUNK_QUARTERS: u64 = 3;

/// What a job can be given now.
enum Offer {
    /// Nothing, until an event of its own.
    Nothing,
    /// Nothing, until the window has room.
    Wait,
    Chunks(u32, u32),
    /// Only a smaller size, for what was granted before.
    Size(u32),
}

impl Scheduler {
    /// The job may be granted something: it joins the queue.
    pub(super) fn ask(&mut self, job: JobId) {
        if let Some(state) = self.jobs.get_mut(&job).filter(|state| !state.asking) {
            state.asking = true;
            self.asking.push_back(job);
        }
    }

    pub(super) fn ask_all(&mut self) {
        let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
        self.effort += jobs.len() as u64;
        for job in jobs {
            self.ask(job);
        }
    }

    /// Chunks that a job may have ready or granted.
    pub(super) fn depth(&self) -> u32 {
        let seats = self.config.processes;
        seats.saturating_add(RESERVE_MIN.max(seats / SEATS_PER_RESERVE))
    }

    /// Gives the jobs that ask what there is, in turn.
    pub(super) fn grant(&mut self, now: Time, out: &mut Vec<Command>) {
        if self.is_waiting {
            self.effort += self.window.lapse(now) as u64;
        }
        self.is_waiting = false;
        while let Some(&job) = self.asking.front() {
            self.effort += 1;
            let offer = self.jobs.get(&job).map_or(Offer::Nothing, |state| self.offer(state));
            if let Offer::Wait = offer {
                self.is_waiting = true;
                // A pledge may have become too old long before anyone had to wait for it.
                let lapsed = self.window.lapse(now);
                self.effort += lapsed as u64;
                if lapsed == 0 {
                    return;
                }
                continue;
            }
            self.asking.pop_front();
            if let Some(state) = self.jobs.get_mut(&job) {
                state.asking = false;
            }
            match offer {
                Offer::Chunks(chunks, items) => {
                    // Not all at once if others ask too: each gets its share.
                    let chunks = chunks.div_ceil(self.asking.len() as u32 + 1);
                    self.give(now, job, chunks, items, out);
                    self.ask(job);
                }
                Offer::Size(items) => self.give(now, job, 0, items, out),
                Offer::Nothing | Offer::Wait => {}
            }
        }
        self.is_waiting = false;
    }

    fn give(&mut self, now: Time, job: JobId, chunks: u32, items: u32, out: &mut Vec<Command>) {
        if let Some(state) = self.jobs.get_mut(&job) {
            state.credit.grant(chunks, items);
            out.push(Command::Grant { job, chunks, items });
        }
        if chunks > 0 {
            self.pledge(now, job);
        }
    }

    /// Sets aside room in the window for what the feed was granted.
    pub(super) fn pledge(&mut self, now: Time, job: JobId) {
        let Some(state) = self.jobs.get(&job) else { return };
        let bytes = self.item_weight(state) * state.credit.items() as f64;
        self.window.pledge(now, job, state.credit.chunks(), bytes as u64);
    }

    /// Bytes that one item of the job is expected to weigh.
    fn item_weight(&self, job: &Job) -> f64 {
        let (own, others) = (job.chunker.bytes_in, self.first_weights);
        if job.is_numbered() {
            0.0
        } else if own.known() {
            own.prudent()
        } else if others.known() {
            others.prudent()
        } else {
            // The first job of the pool: a guess on the safe side.
            self.config.chunk_bytes_max as f64
        }
    }

    fn offer(&self, job: &Job) -> Offer {
        if job.exhausted || job.cancelled {
            return Offer::Nothing;
        }
        let bounds = self.bounds(job);
        let mut size = self.granted_size(job, &bounds);
        let mut chunks = self.chunks_by_own_limits(job, size);
        if chunks == 0 && !job.is_busy() {
            // Nothing of the job is on its way, so no answer will make room: what does not depend on the consumer
            // yields, or the job would never go on.
            let room = self.buffer_room(job).min(self.least_stream_room(job, size));
            size = size.min(u32::try_from(room).unwrap_or(u32::MAX));
            chunks = u32::from(room > 0);
        }
        if chunks == 0 {
            let shrunk = u64::from(size) * 4 < u64::from(job.credit.size()) * SHRUNK_QUARTERS;
            let matters = job.chunker.is_automatic() && job.credit.chunks() > 0;
            return if shrunk && matters { Offer::Size(size) } else { Offer::Nothing };
        }
        match self.chunks_by_window(job, size).min(chunks) {
            0 => Offer::Wait,
            chunks => Offer::Chunks(chunks, size),
        }
    }

    /// Items of a chunk formed now.
    fn granted_size(&self, job: &Job, bounds: &Bounds) -> u32 {
        let size = job.chunker.items(bounds);
        let Some(buffer) = job.buffer_items().filter(|_| !self.unbounded) else { return size };
        // Learned sizes leave something for every worker; the user's own is only cut where it could never fit.
        let shares = if job.chunker.is_automatic() { 2 * u64::from(bounds.workers) } else { 1 };
        size.min(u32::try_from((buffer / shares).max(1)).unwrap_or(u32::MAX))
    }

    /// Chunks of this size that the job may be granted, as far as it alone is concerned.
    fn chunks_by_own_limits(&self, job: &Job, size: u32) -> u32 {
        let credit = &job.credit;
        let ahead = u32::try_from(job.ready.len()).unwrap_or(u32::MAX).saturating_add(credit.chunks());
        let mut chunks = self.depth().saturating_sub(ahead);
        if !job.chunker.bytes_in.known() {
            // The first chunk tells what the others will weigh.
            chunks = chunks.min(1u32.saturating_sub(credit.chunks()));
        }
        let growth = credit.growth(size);
        let fitting =
            |room: u64| u32::try_from(room.saturating_sub(growth) / u64::from(size)).unwrap_or(u32::MAX);
        if job.chunker.is_probing() && !job.is_numbered() {
            // A second for each worker, to follow at once, where messages are cheap.
            let each = if self.config.probe_items > 1 { 1 } else { 2 };
            let probes = each * u64::from(self.config.processes) * u64::from(size);
            let room = probes.saturating_sub(job.unanswered() + credit.items());
            chunks = chunks.min(fitting(room.next_multiple_of(u64::from(size))));
        }
        chunks = chunks.min(fitting(self.stream_room(job, size))).min(fitting(self.buffer_room(job)));
        match job.unformed() {
            // The last chunk may be shorter.
            Some(left) => {
                let left = left.saturating_sub(credit.items() + growth).div_ceil(u64::from(size));
                chunks.min(u32::try_from(left).unwrap_or(u32::MAX))
            }
            // All that was announced has come: `Exhausted` should be next.
            None if job.spec.items == Some(job.submitted) => 0,
            None => chunks,
        }
    }

    /// Bytes of results that one streamed job may have waiting: they share what there is.
    pub(super) fn stream_bytes(&self) -> u64 {
        self.stream_bytes / self.streams.max(1)
    }

    /// Items beyond its credit that a streamed job may be granted for the sake of its results' bytes.
    fn stream_room(&self, job: &Job, size: u32) -> u64 {
        if !job.is_streamed() || self.unbounded {
            return u64::MAX;
        }
        let weight = job.chunker.bytes_out;
        let free = self.stream_bytes().saturating_sub(job.unconsumed_bytes);
        let items = if weight.known() {
            (free as f64 / weight.prudent().max(1e-9)) as u64
        } else {
            // Nobody knows what results weigh: one chunk for each worker, until the first tells.
            u64::from(self.config.processes) * u64::from(size)
        };
        items.saturating_sub(job.unanswered() + job.credit.items())
    }

    /// The same for a job of which nothing is on its way. If its consumer has taken all there is, one chunk may
    /// go whatever it weighs; it will be of the user's own size, or as small as can be.
    fn least_stream_room(&self, job: &Job, size: u32) -> u64 {
        let room = self.stream_room(job, size);
        match (job.unconsumed_bytes, job.chunker.is_automatic()) {
            (0, true) => room.max(1),
            (0, false) => room.max(u64::from(size)),
            (_, true) => room,
            (_, false) => u64::from(room >= u64::from(size)) * room,
        }
    }

    /// Items beyond its credit that a streamed job may be granted within its `buffersize`.
    fn buffer_room(&self, job: &Job) -> u64 {
        let Some(buffer) = job.buffer_items().filter(|_| !self.unbounded) else { return u64::MAX };
        buffer.saturating_sub(job.submitted - job.consumed + job.credit.items())
    }

    /// Chunks of this size that fit into what all jobs share.
    fn chunks_by_window(&self, job: &Job, size: u32) -> u32 {
        let Some(room) = self.window.room() else {
            return 1.max(self.chunks_in(job, size, self.window.bytes_max()));
        };
        let ahead_max = AHEAD_PER_DEPTH * u64::from(self.depth());
        let ahead = self.ready_pieces + self.window.pledged_chunks();
        self.chunks_in(job, size, room)
            .min(u32::try_from(ahead_max.saturating_sub(ahead)).unwrap_or(u32::MAX))
    }

    fn chunks_in(&self, job: &Job, size: u32, bytes: u64) -> u32 {
        let items = bytes as f64 / self.item_weight(job).max(1.0);
        let items = items - job.credit.growth(size) as f64;
        (items / f64::from(size)) as u32
    }
}
