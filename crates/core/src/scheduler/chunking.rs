//! How many items go into one chunk: learned from what items cost and weigh.
//!
//! ```text
//! nothing observed yet     1; elsewhere ≤ items not yet sent ÷ (16 × workers)   (probe)
//!   function called before what its first items cost then, once the first chunk has shown what they weigh
//! by time                  message cost × 40 ÷ seconds per item       (the message is 2.5 % of the work)
//!   more than 40 workers   message cost × workers ÷ seconds per item  (the parent keeps up)
//! growth                   ≤ 8 × the largest piece that came back     (early mistakes stay cheap)
//! forks to come            ≥ time of a fork × 1.5 ÷ mean seconds per item; growth from 8 on ≤ 64 ×; tail ≤ ⌈… ÷ workers⌉
//!                          (nobody answers meanwhile)
//! tail, length known       ≤ ⌈items not yet sent ÷ (2 × workers)⌉,    (all workers end together)
//!                          but ≥ message cost × 4 ÷ seconds per item  (the tail is not all overhead)
//! by weight                ≤ bytes allowed ÷ bytes per item, in and out
//!   way in                 four times as many, if a byte is no slower then (beyond the processor's cache it may be)
//! always                   ≥ 1
//! given back               what is not begun of it after four times what was expected, 10 ms at least
//! ```
//!
//! "Per item" is the prudent estimate, mean plus spread: items that vary get smaller chunks. Pure arithmetic;
//! called for every grant and every dispatch, constant time.

use super::trend::Trend;
use crate::event::{Chunking, Spent};
use std::time::Duration;

/// The work in a chunk is this many times what its message costs: then the message is 2.5 % of it. Twice as much
/// would win another 1.2 %, and make the unit of balancing and of loss at a death twice as long.
///
/// With more workers than this, their number takes its place: one thread feeds and one drives, each message may take
/// them up to its whole cost, and they cannot keep more workers busy than a chunk is times as long as that.
const WORK_PER_MESSAGE: f64 = 40.0;

/// In the tail a chunk still carries this many times the cost of its message: with less, what better balance wins
/// is lost to messages.
const WORK_PER_MESSAGE_MIN: f64 = 4.0;

/// A chunk has at most this many times the items of the largest piece that came back. Four generations from 1
/// reach 4096; and if the first items were unusually cheap, a chunk of eight times what was seen is no disaster.
const GROWTH_MAX: u32 = 8;

/// While this process forks, a chunk lasts this many times as long as a fork: nobody answers a worker before that is done.
const FORKS_PER_CHUNK: f64 = 1.5;

/// … and it may grow faster, once as many items as a second chunk has were seen: there is time for few chunks before the fork.
const GROWTH_MAX_FORKING: u32 = 64;

/// Chunks per worker over which the tail is spread.
const TAIL_SHARES: u64 = 2;

/// A probe of several items is at most this part of a worker's share of the job.
const PROBE_SHARES: u64 = 16;

/// No chunk has more items, however little they seem to cost: an empty call costs about 40 ns, so more would not
/// lower the overhead further.
const ITEMS_MAX: f64 = 65_536.0;

/// Chunks that weigh more than `bytes_in_max` may weigh up to so many times as much, where they are found to be no slower.
/// On a core with 1 MB of cache, bytes objects that are hashed gain 8 % by it; lists, whose objects are four times as large
/// as their payload, lose 15 %.
pub(super) const FAR_FACTOR: u64 = 4;

/// A chunk is not cut any more if its way and its decoding are more than this share of its time: whoever gets a part of it
/// is sent all and decodes all.
const CARRYING_SHARE_MAX: f64 = 0.2;

/// A piece that takes this many times as long as was thought was thought too small a part: what is left of it is cut anew.
/// Not before it is worth a message, though.
const SURPRISE: f64 = 4.0;

/// Items of one piece from which on an answer is enough of a precedent: what a job costs in the beginning is what the next
/// one is likely to cost in the beginning.
const EARLY_ITEMS: u32 = 32;

/// A first answer that took this many times what a precedent says is another case.
const CONTRADICTION: f64 = 2.0;

/// Pieces of either kind that are looked at before one is preferred.
const LOOKS: u32 = 4;

/// What a message costs is kept within these parts of the figure that was configured. Below: the wait for an answer does not
/// show what the parent spends on it meanwhile. Above: the machine is busy with something else, which longer chunks would
/// not mend.
const MESSAGE_COST_RANGE: (f64, f64) = (2.0 / 3.0, 4.0);

/// By how much of itself the estimate of a message's cost rises if one cost more; it falls three times as fast. So it
/// settles where three of four cost more: what a message costs when nothing comes in between.
const MESSAGE_COST_STEP: f64 = 0.025;

/// What picklers take for a piece whatever is in it, measured with eight integers. It is not its items': counted as theirs
/// it would make the first, short pieces seem ten times as costly for each item as long ones, and growth a slow affair.
const PIECE_COST: Duration = Duration::from_micros(20);

/// What one message costs whatever it carries, both ways, with the wake-ups: learned from pieces that found their worker
/// idle and were answered at once. The time until the answer that was not spent on the piece is the message's.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageCost {
    configured: f64,
    seconds: f64,
}

impl MessageCost {
    pub(super) fn new(configured: Duration) -> Self {
        Self { configured: configured.as_secs_f64(), seconds: configured.as_secs_f64() }
    }

    pub(super) fn learn(&mut self, seconds: f64) {
        let step = if seconds > self.seconds { MESSAGE_COST_STEP } else { -3.0 * MESSAGE_COST_STEP };
        let (least, most) = MESSAGE_COST_RANGE;
        self.seconds = (self.seconds * (1.0 + step)).clamp(self.configured * least, self.configured * most);
    }

    pub(super) fn get(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// Whether heavy chunks pay: seconds per byte of pieces up to `bytes_in_max` and of heavier ones. Equal bytes take longer
/// if all that a chunk's items consist of does not fit into a core's own cache, and how much more than its payload that is
/// hangs on the kind of items.
#[derive(Debug, Clone, Copy, Default)]
struct Reach {
    near: Trend,
    far: Trend,
    looks: [u32; 2],
}

impl Reach {
    fn learn(&mut self, seconds: f64, bytes: f64, bytes_near: u64) {
        // A light piece says nothing: its bytes are not what takes the time.
        if bytes < bytes_near as f64 / 4.0 {
            return;
        }
        let far = bytes > bytes_near as f64;
        self.looks[usize::from(far)] += 1;
        if far { self.far.learn(seconds / bytes, 1) } else { self.near.learn(seconds / bytes, 1) }
    }

    /// Bytes that a chunk may weigh.
    fn bytes_max(&self, bounds: &Bounds) -> u64 {
        let (near, far) = (bounds.bytes_in_max, bounds.bytes_in_far);
        let message = bounds.message_cost.as_secs_f64();
        let cost = |trend: Trend, bytes: u64| trend.mean() + message / bytes.max(1) as f64;
        match self.looks {
            [looks, _] if looks < LOOKS => near,
            [_, looks] if looks < LOOKS => far,
            _ if cost(self.far, far) < cost(self.near, near) => far,
            _ => near,
        }
    }
}

/// What a worker spent on the items of an answer.
pub(super) fn of_items(spent: Spent) -> Duration {
    spent.call.saturating_add(spent.decode.saturating_add(spent.encode).saturating_sub(PIECE_COST))
}

/// What bounds a chunk from outside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) message_cost: Duration,
    pub(super) workers: u32,
    pub(super) probe_items: u32,
    /// How long this process will be busy with a fork; zero if none is due.
    pub(super) forking: Duration,
    /// Items that no worker was given yet, where it is known how many these are.
    pub(super) remaining: Option<u64>,
    pub(super) bytes_in_max: u64,
    /// … and if heavier chunks are found to be no slower.
    pub(super) bytes_in_far: u64,
    pub(super) bytes_out_max: u64,
}

/// What a job with the same function has shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Precedent {
    seconds: Trend,
    bytes_out: Trend,
    proven: u32,
}

/// What was learned about one job's items, and the sizes that follow from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunker {
    chunking: Chunking,
    /// Seconds in a worker, per item: decode, call, encode.
    pub(super) seconds: Trend,
    /// Payload bytes per item, on the way in and out.
    pub(super) bytes_in: Trend,
    pub(super) bytes_out: Trend,
    reach: Reach,
    /// Seconds per item, of whole pieces: on their way, and with their decoding.
    way: Trend,
    carrying: Trend,
    /// Items of the largest piece that came back at the present cost.
    proven: u32,
    /// Until the first answer, what results are assumed to weigh; `seconds` and `proven` are assumed with it.
    assumed: Option<Trend>,
    /// Cost and results of the first items, for a job to come.
    early: Option<(Trend, Trend)>,
}

impl Chunker {
    pub(super) fn new(chunking: Chunking, precedent: Option<Precedent>) -> Self {
        let (bytes_in, bytes_out, reach, way, carrying, early) = Default::default();
        let past = precedent.filter(|_| chunking == Chunking::Automatic);
        let (seconds, proven) = past.map_or((Trend::default(), 1), |past| (past.seconds, past.proven));
        let assumed = past.map(|past| past.bytes_out);
        Self { chunking, seconds, bytes_in, bytes_out, reach, way, carrying, proven, assumed, early }
    }

    /// What a job to come may assume.
    pub(super) fn precedent(&self) -> Option<Precedent> {
        let (seconds, bytes_out) = self.early.unwrap_or((self.seconds, self.bytes_out));
        // As good as one item: what will be seen outweighs it.
        let precedent = Precedent { seconds: seconds.faded(), bytes_out, proven: self.proven };
        (self.chunking == Chunking::Automatic && self.has_seen_any()).then_some(precedent)
    }

    /// Whether any item was answered.
    pub(super) fn has_seen_any(&self) -> bool {
        self.seconds.known() && self.assumed.is_none()
    }

    pub(super) fn is_automatic(&self) -> bool {
        !matches!(self.chunking, Chunking::Fixed(_))
    }

    /// Whether sizes are still a guess: few items are sent.
    pub(super) fn is_probing(&self) -> bool {
        self.is_automatic() && !self.seconds.known()
    }

    /// Whether sizes would follow from what was assumed alone.
    fn is_weight_unseen(&self) -> bool {
        self.assumed.is_some() && !self.bytes_in.known()
    }

    /// A chunk was encoded.
    pub(super) fn encoded(&mut self, items: u32, bytes: u64) {
        self.bytes_in.learn(per_item(bytes as f64, items), items);
    }

    /// A worker answered some items.
    pub(super) fn answered(&mut self, items: u32, spent: Duration, bytes: u64) {
        if self.assumed.take().is_some() {
            let assumed = self.seconds.mean() * f64::from(items) + PIECE_COST.as_secs_f64();
            if spent.as_secs_f64() > CONTRADICTION * assumed {
                (self.seconds, self.proven) = (Trend::default(), 1);
            }
        }
        self.seconds.learn(per_item(spent.as_secs_f64(), items), items);
        self.bytes_out.learn(per_item(bytes as f64, items), items);
    }

    /// … which were a piece of their own, and all of it. `way`: seconds per byte.
    pub(super) fn answered_whole(
        &mut self,
        items: u32,
        spent: Duration,
        decode: Duration,
        way: f64,
        bytes_near: u64,
    ) {
        let (spent, decode) = (spent.as_secs_f64(), decode.as_secs_f64());
        let bytes = self.bytes_in.mean() * f64::from(items);
        self.reach.learn(spent, bytes, bytes_near);
        let way = bytes * way;
        self.way.learn(per_item(way, items), items);
        self.carrying.learn(per_item(way + decode, items), items);
    }

    /// A worker has answered the whole of a piece of so many items.
    pub(super) fn proved(&mut self, piece: u32) {
        self.proven = self.proven.max(piece);
        if piece >= EARLY_ITEMS {
            self.early.get_or_insert((self.seconds, self.bytes_out));
        }
    }

    /// How many items the next chunk should have.
    pub(super) fn items(&self, bounds: &Bounds) -> u32 {
        match self.chunking {
            Chunking::Fixed(items) => items.max(1),
            Chunking::Numbered => ITEMS_MAX as u32,
            Chunking::Automatic if !self.seconds.known() || self.is_weight_unseen() => probe(bounds),
            Chunking::Automatic => whole(self.by_time(bounds).min(self.by_weight(bounds))),
        }
    }

    /// How many items of a chunk that was formed already should go to one worker, if it is to be cut at all: it may have
    /// become too long since, or its results too heavy; its own weight has been paid for.
    pub(super) fn items_of_ready(&self, bounds: &Bounds) -> Option<u32> {
        if self.chunking == Chunking::Numbered && self.is_probing() {
            return Some(probe(bounds));
        }
        if !self.is_automatic() || self.is_probing() {
            return None;
        }
        let results = fitting(bounds.bytes_out_max, self.bytes_out);
        // Beside what items cost by now: if they have turned dear since, it is no matter.
        let whole_cost = self.way.mean() + self.seconds.mean();
        let dear = self.chunking != Chunking::Numbered
            && self.carrying.mean() > CARRYING_SHARE_MAX * whole_cost.max(1e-10);
        Some(whole(if dear { results } else { results.min(self.by_time(bounds)) }))
    }

    /// After how long a worker should give back what it has not begun of so many items, if at all: others may be idle
    /// meanwhile, since they turned dear when these were sent already. `brief`: not before that.
    pub(super) fn patience(&self, items: u32, brief: Duration) -> Option<Duration> {
        if !self.is_automatic() || items == 1 || !self.seconds.known() {
            return None;
        }
        // Whoever gets the rest decodes all again: a part of what was expected, and so of what has been spent by then.
        let expected = SURPRISE * self.seconds.mean() * f64::from(items);
        Some(Duration::try_from_secs_f64(expected).map_or(brief, |expected| expected.max(brief)))
    }

    fn by_time(&self, bounds: &Bounds) -> f64 {
        let message = bounds.message_cost.as_secs_f64();
        // A clock too coarse to see an item must not divide by zero.
        // Before a fork too long is the smaller mistake.
        let forking = !bounds.forking.is_zero();
        let cost = if forking { self.seconds.mean() } else { self.seconds.prudent() }.max(1e-10);
        let work = WORK_PER_MESSAGE.max(f64::from(bounds.workers));
        let seconds = (work * message).max(FORKS_PER_CHUNK * bounds.forking.as_secs_f64());
        let mut items = (seconds / cost).min(ITEMS_MAX);
        let growth = if forking && self.proven >= GROWTH_MAX { GROWTH_MAX_FORKING } else { GROWTH_MAX };
        items = items.min(f64::from(self.proven.saturating_mul(growth)));
        if let Some(remaining) = bounds.remaining {
            let shares = if forking { 1 } else { TAIL_SHARES } * u64::from(bounds.workers.max(1));
            let least = (WORK_PER_MESSAGE_MIN * message / cost).ceil();
            items = items.min((remaining.div_ceil(shares) as f64).max(least));
        }
        items
    }

    fn by_weight(&self, bounds: &Bounds) -> f64 {
        let bytes_in_max = self.reach.bytes_max(bounds);
        let bytes_out = self.assumed.unwrap_or(self.bytes_out);
        fitting(bytes_in_max, self.bytes_in).min(fitting(bounds.bytes_out_max, bytes_out))
    }
}

/// How many items to send while nothing is known of them: of a list, if they were all of one cost, a worker's share at the
/// end would be off by no more than a sixteenth.
fn probe(bounds: &Bounds) -> u32 {
    let shares = PROBE_SHARES * u64::from(bounds.workers.max(1));
    let share = bounds.remaining.map_or(1, |left| left / shares);
    u32::try_from(share).unwrap_or(u32::MAX).clamp(1, bounds.probe_items.max(1))
}

/// Items of which this limit is hardly exceeded.
fn fitting(limit: u64, trend: Trend) -> f64 {
    limit as f64 / trend.prudent().max(1.0)
}

/// At least one. A little is added, so that 47.9999, which is noise in the last digits, is not cut to 47. The cast saturates.
fn whole(items: f64) -> u32 {
    ((items.min(ITEMS_MAX) + 0.01) as u32).max(1)
}

fn per_item(total: f64, items: u32) -> f64 {
    total / f64::from(items.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        message_cost: Duration::from_micros(60),
        workers: 2,
        probe_items: 1,
        forking: Duration::ZERO,
        remaining: None,
        bytes_in_max: 4 << 20,
        bytes_in_far: 16 << 20,
        bytes_out_max: 4 << 20,
    };

    /// Sizes that follow from answering chunk after chunk, each of the size chosen before, `cost(i)` seconds per
    /// item of generation `i`, and `bytes` each way.
    fn check(cost: impl Fn(usize) -> f64, bytes: u64, bounds: Bounds, expected: &[u32]) {
        let mut chunker = Chunker::new(Chunking::Automatic, None);
        let mut sizes = Vec::new();
        for generation in 0..expected.len() {
            let items = chunker.items(&bounds);
            sizes.push(items);
            chunker.encoded(items, bytes * u64::from(items));
            let spent = Duration::from_secs_f64(cost(generation) * f64::from(items));
            chunker.answered(items, spent, bytes * u64::from(items));
            chunker.proved(items);
        }
        assert_eq!(sizes, expected);
    }

    #[test]
    fn where_messages_are_dear_a_probe_is_a_small_share_of_the_job() {
        let items = |remaining| {
            let bounds = Bounds { probe_items: 64, remaining, ..BOUNDS };
            Chunker::new(Chunking::Automatic, None).items(&bounds)
        };
        assert_eq!(items(None), 1, "of an iterator nothing is known");
        assert_eq!([31, 64, 1000, 1_000_000].map(|left| items(Some(left))), [1, 2, 31, 64]);
        let here = Bounds { remaining: Some(1_000_000), ..BOUNDS };
        assert_eq!(Chunker::new(Chunking::Automatic, None).items(&here), 1);
    }

    #[test]
    fn small_items_grow_eightfold_up_to_the_target() {
        check(|_| 50e-6, 8, BOUNDS, &[1, 8, 48, 48, 48]);
        check(|_| 0.1e-6, 8, BOUNDS, &[1, 8, 64, 512, 4096, 24_000, 24_000]);
    }

    #[test]
    fn what_a_piece_costs_whatever_it_holds_is_not_its_items() {
        let spent = |call, carrying| {
            let [call, carrying] = [call, carrying].map(Duration::from_micros);
            of_items(Spent { decode: carrying / 2, call, encode: carrying / 2 }).as_micros()
        };
        assert_eq!([spent(5, 0), spent(5, 20), spent(5, 220)], [5, 5, 205]);
    }

    #[test]
    fn long_or_heavy_items_go_alone() {
        check(|_| 1.0, 8, BOUNDS, &[1, 1, 1]);
        check(|_| 50e-6, 8 << 20, BOUNDS, &[1, 1, 1]);
        check(|_| 50e-6, 1 << 20, BOUNDS, &[1, 4, 4]);
    }

    #[test]
    fn many_workers_get_larger_chunks_since_one_parent_feeds_them() {
        check(|_| 50e-6, 8, Bounds { workers: 200, ..BOUNDS }, &[1, 8, 64, 240, 240]);
    }

    #[test]
    fn items_that_turn_costly_shrink_the_next_chunk_at_once() {
        check(|i| if i < 4 { 50e-6 } else { 50e-3 }, 8, BOUNDS, &[1, 8, 48, 48, 48, 1, 1]);
    }

    #[test]
    fn items_that_turn_cheap_are_followed_within_two_dozen_messages() {
        let mut chunker = Chunker::new(Chunking::Automatic, None);
        chunker.answered(1, Duration::from_millis(50), 8);
        let mut messages = 0;
        while chunker.items(&BOUNDS) < 40 {
            let items = chunker.items(&BOUNDS);
            chunker.answered(items, Duration::from_micros(50) * items, 8);
            chunker.proved(items);
            messages += 1;
        }
        assert!(messages < 24, "took {messages} messages");
    }

    #[test]
    fn varied_items_get_smaller_chunks_than_even_ones_of_the_same_mean() {
        let size = |low: u64, high: u64| {
            let mut chunker = Chunker::new(Chunking::Automatic, None);
            for i in 0..100 {
                let micros = if i % 2 == 0 { low } else { high };
                chunker.answered(8, Duration::from_micros(micros * 8), 8);
            }
            chunker.proved(8);
            chunker.items(&BOUNDS)
        };
        assert!(size(20, 80) < size(50, 50));
    }

    #[test]
    fn the_tail_is_guided_but_not_ground_to_dust() {
        let tail = |left| Bounds { remaining: Some(left), ..BOUNDS };
        let mut chunker = Chunker::new(Chunking::Automatic, None);
        chunker.answered(100, Duration::from_micros(50) * 100, 800);
        chunker.proved(100);
        let sizes: Vec<u32> = [1000, 100, 40, 8, 1].iter().map(|&left| chunker.items(&tail(left))).collect();
        // 240 µs ÷ 50 µs: five items carry four times the cost of their message.
        assert_eq!(sizes, [48, 25, 10, 5, 5]);
    }

    /// The size chosen in the end, where heavy chunks take so many times as long for each byte as light ones.
    fn reached(slowdown: f64) -> u32 {
        let mut chunker = Chunker::new(Chunking::Automatic, None);
        let bounds = Bounds { bytes_out_max: 1 << 30, ..BOUNDS };
        for _ in 0..20 {
            let items = chunker.items(&bounds);
            let bytes = u64::from(items) << 18;
            chunker.encoded(items, bytes);
            let factor = if bytes > bounds.bytes_in_max { slowdown } else { 1.0 };
            let spent = Duration::from_secs_f64(20e-6 * factor * f64::from(items));
            chunker.answered(items, spent, 8);
            chunker.answered_whole(items, spent, Duration::ZERO, 0.0, bounds.bytes_in_max);
            chunker.proved(items);
        }
        chunker.items(&bounds)
    }

    #[test]
    fn heavy_chunks_are_tried_and_kept_where_they_are_no_slower() {
        // 256 kB an item: 16 to 4 MB, 64 to 16 MB. A message costs a fifth of what 16 items do.
        assert_eq!((reached(1.0), reached(1.1)), (64, 64));
        assert_eq!((reached(1.3), reached(3.0)), (16, 16));
    }

    #[test]
    fn a_chunk_that_was_formed_is_cut_if_it_became_long_but_not_if_it_would_be_carried_twice() {
        let micros = Duration::from_micros;
        // By a way of 1 TB/s, or of 1 GB/s.
        let cases = [
            (100, 0.0, Some(10)),
            (4_000, 0.0, Some(65_536)),
            (100, 1e-12, Some(10)),
            (100, 1e-9, Some(65_536)),
        ];
        for (decode, way, expected) in cases {
            let mut chunker = Chunker::new(Chunking::Automatic, None);
            chunker.encoded(100, 400 << 20);
            chunker.answered(100, micros(5_000), 0);
            chunker.answered_whole(100, micros(5_000), micros(decode), way, BOUNDS.bytes_in_max);
            chunker.proved(100);
            // By weight one item would be a chunk.
            assert_eq!(chunker.items(&BOUNDS), 1);
            assert_eq!(chunker.items_of_ready(&Bounds { remaining: Some(40), ..BOUNDS }), expected);
            // What is carried once more is nothing beside items that have turned dear.
            chunker.answered(3, micros(6_000_000), 0);
            assert_eq!(chunker.items_of_ready(&BOUNDS), Some(1));
        }
    }

    #[test]
    fn what_takes_far_longer_than_was_thought_comes_back_unless_the_size_is_the_users() {
        let (brief, micros) = (Duration::from_millis(10), Duration::from_micros);
        let patience = |chunking, decode, items| {
            let mut chunker = Chunker::new(chunking, None);
            chunker.answered(100, micros(5_000), 0);
            chunker.answered_whole(100, micros(5_000), micros(decode), 0.0, BOUNDS.bytes_in_max);
            chunker.patience(items, brief)
        };
        assert_eq!(patience(Chunking::Automatic, 0, 20), Some(brief));
        assert_eq!(patience(Chunking::Automatic, 0, 1_000), Some(micros(200_000)));
        assert_eq!(patience(Chunking::Automatic, 0, 1), None);
        assert_eq!(patience(Chunking::Automatic, 4_000, 20), Some(brief));
        assert_eq!(patience(Chunking::Fixed(20), 0, 20), None);
    }

    #[test]
    fn what_a_message_costs_is_found_out_within_limits() {
        let settled = |micros: fn(u32) -> u32| {
            let mut cost = MessageCost::new(Duration::from_micros(60));
            (0..400).for_each(|i| cost.learn(f64::from(micros(i)) * 1e-6));
            cost.get().as_micros()
        };
        assert_eq!(settled(|_| 5_000), 240);
        assert_eq!(settled(|_| 0), 40);
        let even = settled(|_| 100);
        assert!((90..=105).contains(&even), "{even}");
        // One in ten is late, since something else had the core.
        let disturbed = settled(|i| if i % 10 == 0 { 3_000 } else { 100 });
        assert!((90..=110).contains(&disturbed), "{disturbed}");
    }

    #[test]
    fn before_a_fork_chunks_last_as_long_as_it_will() {
        let bounds = Bounds { forking: Duration::from_millis(20), ..BOUNDS };
        check(|_| 100e-6, 1, bounds, &[1, 8, 300, 300]);
        // Of dear items it is as many as fit, of cheap ones no more than were found to be cheap.
        check(|_| 10e-3, 1, bounds, &[1, 3, 3]);
        check(|_| 1e-6, 1, bounds, &[1, 8, 512, 30_000]);
    }

    #[test]
    fn a_fixed_size_is_kept_whatever_is_learned() {
        let mut chunker = Chunker::new(Chunking::Fixed(7), None);
        chunker.encoded(7, 1 << 30);
        chunker.answered(7, Duration::from_secs(7), 1 << 30);
        assert_eq!(chunker.items(&BOUNDS), 7);
        assert_eq!(Chunker::new(Chunking::Fixed(0), None).items(&BOUNDS), 1);
    }

    #[test]
    fn free_items_stop_at_the_limit() {
        let mut chunker = Chunker::new(Chunking::Automatic, None);
        for _ in 0..20 {
            let items = chunker.items(&BOUNDS);
            chunker.answered(items, Duration::ZERO, 0);
            chunker.proved(items);
        }
        assert_eq!(chunker.items(&BOUNDS), 65_536);
    }
}
