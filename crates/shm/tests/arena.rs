//! Property test: an arena against two oracles, a plain list of what is live and the kernel's own count of pages.

#![allow(clippy::unwrap_used, reason = "all of this file is a test")]

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use forklift_shm::{
    Arena, ArenaLimits, Block, Draft, Error, Release, Segment, SegmentId, Sharing, Span, Usage, View,
};
use proptest::prelude::*;

const SEGMENT_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone)]
enum Step {
    /// Allocate and fill.
    Allocate(u64),
    /// Drop one of the drafts.
    Drop(usize),
    /// Seal one of the drafts and lend it.
    Lend(usize),
    /// Take one of the lent blocks back.
    GiveBack(usize),
    Trim(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop_oneof![1u64..100, 1u64..20_000, 1u64..300_000, Just(4096u64), Just(65_536)];
    let step = prop_oneof![
        5 => bytes.prop_map(Step::Allocate),
        2 => any::<usize>().prop_map(Step::Drop),
        2 => any::<usize>().prop_map(Step::Lend),
        2 => any::<usize>().prop_map(Step::GiveBack),
        1 => (0u64..600_000).prop_map(Step::Trim),
    ];
    prop::collection::vec(step, 1..80)
}

/// An owner of views that does not care.
struct Indifferent;

impl Release for Indifferent {
    fn release(&self, _: Span) {}
}

/// The model: what is live, and which byte it was filled with.
struct Model {
    arena: Arena,
    lent: HashMap<Span, Block>,
    drafts: Vec<(Draft, u8)>,
    lent_spans: Vec<(Span, u8)>,
    /// The peer's mappings.
    peer: HashMap<SegmentId, Arc<Segment>>,
    filled: u8,
    total_bytes: Option<u64>,
    fresh_bytes: u64,
    peak_live_bytes: u64,
    allocations: u64,
}

impl Model {
    fn new(total_bytes: Option<u64>) -> Self {
        Self {
            arena: Arena::new(ArenaLimits {
                segment_bytes: SEGMENT_BYTES,
                total_bytes,
                ..ArenaLimits::default()
            }),
            lent: HashMap::new(),
            drafts: Vec::new(),
            lent_spans: Vec::new(),
            peer: HashMap::new(),
            filled: 0,
            total_bytes,
            fresh_bytes: 0,
            peak_live_bytes: 0,
            allocations: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Allocate(bytes) => self.allocate(bytes),
            Step::Drop(index) => {
                if let Some(index) = index.checked_rem(self.drafts.len()) {
                    self.drafts.swap_remove(index);
                }
            }
            Step::Lend(index) => {
                if let Some(index) = index.checked_rem(self.drafts.len()) {
                    let (draft, byte) = self.drafts.swap_remove(index);
                    let block = draft.seal();
                    self.lent_spans.push((block.span(), byte));
                    self.lent.insert(block.span(), block);
                }
            }
            Step::GiveBack(index) => {
                if let Some(index) = index.checked_rem(self.lent_spans.len()) {
                    let (span, _) = self.lent_spans.swap_remove(index);
                    assert!(self.lent.remove(&span).is_some());
                }
            }
            Step::Trim(keep_warm_bytes) => self.trim(keep_warm_bytes),
        }
    }

    fn allocate(&mut self, bytes: u64) {
        let before = self.resident_bytes();
        let live_bytes = self.live_bytes();
        let mut draft = match self.arena.allocate(bytes) {
            Ok(draft) => draft,
            Err(Error::Exhausted { .. }) => {
                let limit = self.total_bytes.expect("only an arena with a limit is exhausted");
                assert!(live_bytes + whole_pages(bytes) > limit);
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(draft.len() as u64, bytes);
        self.filled = self.filled.wrapping_add(1);
        draft.fill(self.filled);
        self.drafts.push((draft, self.filled));
        self.allocations += 1;
        self.peak_live_bytes = self.peak_live_bytes.max(self.live_bytes());
        let fresh_bytes = self.arena.usage().fresh_bytes - self.fresh_bytes;
        self.fresh_bytes += fresh_bytes;
        if self.total_bytes.is_none() {
            assert_eq!(self.resident_bytes() - before, fresh_bytes, "what was fresh is what became resident");
        }
    }

    fn trim(&mut self, keep_warm_bytes: u64) {
        let before = self.arena.usage();
        let returned_bytes = self.arena.trim(keep_warm_bytes);
        let after = self.arena.usage();
        let kept_bytes = before.warm_bytes.min(keep_warm_bytes / page_bytes() * page_bytes());
        assert_eq!(after.warm_bytes, kept_bytes);
        assert_eq!(returned_bytes, before.warm_bytes - kept_bytes);
    }

    fn spans(&self) -> impl Iterator<Item = Span> {
        let drafts = self.drafts.iter().map(|(draft, _)| draft.span());
        drafts.chain(self.lent_spans.iter().map(|(span, _)| *span))
    }

    fn live_bytes(&self) -> u64 {
        self.spans().map(|span| whole_pages(span.bytes)).sum()
    }

    /// The kernel's count of what the arena holds.
    fn resident_bytes(&self) -> u64 {
        let segments = self.arena.segments().into_iter();
        segments.map(|id| self.arena.segment(id).unwrap().resident_bytes().unwrap()).sum()
    }

    fn check(&mut self) {
        let mut spans: Vec<Span> = self.spans().collect();
        spans.sort();
        for pair in spans.windows(2) {
            let apart = pair[0].segment != pair[1].segment
                || pair[0].offset + whole_pages(pair[0].bytes) <= pair[1].offset;
            assert!(apart, "{pair:?} share a page");
        }
        let usage = self.arena.usage();
        let expected = Usage {
            live_bytes: self.live_bytes(),
            live_blocks: spans.len() as u64,
            warm_bytes: self.resident_bytes() - self.live_bytes(),
            segments: self.arena.segments().len() as u64,
            peak_live_bytes: self.peak_live_bytes,
            allocations: self.allocations,
            fresh_bytes: self.fresh_bytes,
        };
        assert_eq!(usage, expected);
        if let Some(total_bytes) = self.total_bytes {
            assert!(usage.live_bytes + usage.warm_bytes <= total_bytes);
        }
        assert_eq!(self.lent.len(), self.lent_spans.len());
        assert_eq!(self.lent.len(), self.lent_spans.len());
    }

    /// Every live byte is what it was filled with; those of lent blocks are read as the peer would.
    fn check_contents(&mut self) {
        for (draft, byte) in &self.drafts {
            assert!(is_filled(draft, *byte), "{draft:?} lost its contents");
        }
        for (span, byte) in &self.lent_spans {
            let theirs = self.peer.entry(span.segment).or_insert_with(|| {
                let ours = self.arena.segment(span.segment).unwrap();
                let fd = ours.fd().as_fd().try_clone_to_owned().unwrap();
                Segment::open(fd, ours.bytes(), Sharing::Shared).unwrap()
            });
            let view = View::new(theirs, *span, Arc::new(Indifferent)).unwrap();
            assert!(is_filled(view.as_slice(), *byte), "{span:?} lost its contents");
        }
    }
}

fn is_filled(bytes: &[u8], byte: u8) -> bool {
    // A comparison of slices is one call of memcmp, also without optimisation.
    bytes[0] == byte && bytes[1..] == bytes[..bytes.len() - 1]
}

fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

fn whole_pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(page_bytes())
}

/// Whether the kernel counts pages one by one; with huge pages for shared memory its count says nothing.
fn kernel_counts_single_pages() -> bool {
    let arena = Arena::new(ArenaLimits::default());
    let mut draft = arena.allocate(1).unwrap();
    draft[0] = 1;
    let segment = arena.segment(draft.span().segment).unwrap();
    segment.resident_bytes().unwrap() == page_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model(steps in steps(), limited in any::<bool>()) {
        prop_assume!(kernel_counts_single_pages());
        let mut model = Model::new(limited.then_some(900_000));
        for step in steps {
            model.step(step);
            model.check();
        }
        model.check_contents();
        model.drafts.clear();
        model.lent.clear();
        model.lent_spans.clear();
        model.check();
        model.trim(0);
        assert_eq!(model.arena.usage().segments, 0);
    }
}
