use super::*;
use forklift_shm::ArenaLimits;

/// A second mapping of the sender's segments, as a receiver has it.
fn receive(arena: &Arena, payload: &Payload) -> Parcel {
    struct Nobody;
    impl Release for Nobody {
        fn release(&self, _: Span) {}
    }
    let mut atlas = Atlas::default();
    for id in arena.segments() {
        let segment = arena.segment(id).unwrap();
        let file = segment.fd().try_clone_to_owned().unwrap();
        let mapped = Segment::open(file, segment.bytes(), forklift_shm::Sharing::Shared).unwrap();
        atlas.add(id, mapped);
    }
    atlas.open(payload.outline(), &Shelf::new(), &|_| Arc::new(Nobody)).unwrap()
}

fn sources<'a>(buffers: &[&'a [u8]]) -> Vec<Source<'a>> {
    buffers.iter().map(|buffer| Source::Copy(buffer)).collect()
}

#[test]
fn what_is_lent_is_neither_copied_nor_weighed() {
    let (home, arena) = (Arena::new(ArenaLimits::default()), Arena::new(ArenaLimits::default()));
    let mut draft = home.allocate(50_000).unwrap();
    draft.fill(7);
    let block = Arc::new(draft.seal());
    let loan = Loan::foreign(Arc::clone(block.segment()), block.span().offset + 10, 30_000, block);
    let payload = Payload::pack(&arena, &[b"abc"], &[Source::Lend(loan)]).unwrap();
    assert_eq!((payload.bytes(), payload.lent_bytes(), payload.copied_bytes()), (3, 30_000, 0));
    assert_eq!(payload.holding(), Holding::Lent, "a receiver sees it copy-on-write");
    let written = payload.loans().next().unwrap().clone().writable().span();
    assert_eq!(sharing_of(written.segment), Sharing::Shared, "one that is to write to it does not");
    assert_eq!((arena.usage().allocations, home.usage().live_blocks), (0, 1));
    drop(payload);
    assert_eq!(home.usage().live_blocks, 0);
}

fn check(stream: &[&[u8]], buffers: &[&[u8]], live_blocks: u64) {
    let arena = Arena::new(ArenaLimits::default());
    let payload = Payload::pack(&arena, stream, &sources(buffers)).unwrap();
    assert_eq!(arena.usage().live_blocks, live_blocks);
    let parcel = receive(&arena, &payload);
    assert_eq!(parcel.stream.as_slice(), stream.concat());
    let received: Vec<&[u8]> = parcel.buffers.iter().map(Bytes::as_slice).collect();
    assert_eq!(received, buffers);
    assert_eq!(parcel.bytes(), payload.bytes());
    drop(payload);
    assert_eq!(arena.usage().live_blocks, 0);
}

#[test]
fn a_small_value_touches_no_block() {
    check(&[b"abc", b"", b"de"], &[b"xyz"], 0);
}

#[test]
fn a_value_whose_copying_is_stopped_leaves_nothing_in_the_arena() {
    let arena = Arena::new(ArenaLimits::default());
    let no = || Err("enough".into());
    let parts = [&[2; 30_000][..], &[3; 30_000]];
    let outcome = Payload::pack_with(Copying::asking(&no, 30_000), &arena, &[&[1; 20_000]], &sources(&parts));
    assert!(matches!(outcome, Err(Error::Stopped(_))), "{outcome:?}");
    assert_eq!((arena.usage().allocations, arena.usage().live_blocks), (2, 0));
}

#[test]
fn every_large_part_has_a_block_of_its_own() {
    check(&[&[1; 20_000], b"tail"], &[&[2; 70_000], b"", &[3; 5]], 3);
}

#[test]
fn a_block_comes_back_with_its_last_borrower() {
    let arena = Arena::new(ArenaLimits::default());
    let payload = Payload::pack(&arena, &[&[1; 20_000]], &sources(&[&[2; 20_000]])).unwrap();
    let (mut one, mut two) = (Loans::default(), Loans::default());
    one.lend(&payload);
    one.lend(&payload);
    two.lend(&payload);
    let spans: Vec<Span> = payload.loans().map(Loan::span).collect();
    drop(payload);
    assert_eq!((one.len(), one.bytes()), (2, 40_000));
    for span in &spans {
        one.give_back(*span);
        one.give_back(*span);
        one.give_back(*span);
    }
    assert!(one.is_empty());
    assert_eq!(arena.usage().live_blocks, 2);
    drop(two);
    assert_eq!(arena.usage().live_blocks, 0);
}

#[test]
fn what_a_peer_never_announced_is_refused() {
    let outline = Outline {
        stream: Part::Span(Span { segment: SegmentId(7), offset: 0, bytes: 10 }),
        buffers: Vec::new(),
    };
    struct Nobody;
    impl Release for Nobody {
        fn release(&self, _: Span) {}
    }
    assert!(Atlas::default().open(outline, &Shelf::new(), &|_| Arc::new(Nobody)).is_err());
}

struct Bystander(Vec<u8>);

impl Neighbour for Bystander {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Counts what it is told of.
#[derive(Default)]
struct Owner(forklift_shm::Lock<Vec<Span>>);

impl Release for Owner {
    fn release(&self, span: Span) {
        self.0.lock().push(span);
    }
}

#[test]
fn what_is_shown_is_weighed_and_not_copied() {
    let arena = Arena::new(ArenaLimits::default());
    let object: Arc<dyn Neighbour> = Arc::new(Bystander(vec![3; 50_000]));
    let loan = Loan::of_neighbour(Arc::clone(&object));
    let payload = Payload::pack(&arena, &[b"abc"], &[Source::Weigh(loan)]).unwrap();
    assert_eq!((payload.bytes(), payload.lent_bytes(), payload.copied_bytes()), (50_003, 50_000, 0));
    assert_eq!((payload.total_bytes(), arena.usage().allocations), (50_003, 0));
    assert_eq!(payload.holding(), Holding::Lent, "whoever gets it copies it");
    let span = payload.loans().next().unwrap().span();
    let owner = Arc::new(Owner::default());
    // It can be sent again, when the first receiver has died.
    for _ in 0..2 {
        let mut received = open_near(span, owner.clone()).unwrap();
        assert_eq!(received.as_slice().as_ptr(), object.bytes().as_ptr());
        assert_ne!(received.as_mut_ptr().cast_const(), object.bytes().as_ptr(), "nobody writes to it");
        assert_eq!(received.as_slice(), object.bytes());
    }
    assert_eq!(owner.0.lock()[..], [span, span]);
    drop(payload);
    assert_eq!(Arc::strong_count(&object), 1);
    assert!(matches!(open_near(span, owner), Err(Error::Gone)));
}

#[test]
fn what_was_received_is_taken_over_once() {
    let (home, arena) = (Arena::new(ArenaLimits::default()), Arena::new(ArenaLimits::default()));
    let block = home.allocate(50_000).unwrap().seal();
    let (inner, outer) = (Arc::new(Owner::default()), Arc::new(Owner::default()));
    let view = View::new(block.segment(), block.span(), inner.clone()).unwrap();
    let address = view.as_ptr();
    let loan = Loan::of_received(Bytes::View(view));
    let payload = Payload::pack(&arena, &[b"abc"], &[Source::Lend(loan)]).unwrap();
    let shelf = Shelf::new();
    let mut loans = Loans::default();
    loans.lend_beside(&payload, &shelf);
    assert!(loans.is_empty());
    let outline = payload.outline();
    drop(payload);
    let mut parcel = Atlas::default().open(outline.clone(), &shelf, &|_| outer.clone()).unwrap();
    assert_eq!((parcel.buffers[0].as_mut_ptr(), parcel.lent_bytes()), (address, 50_000));
    assert!(Atlas::default().open(outline, &shelf, &|_| outer.clone()).is_err(), "it is gone");
    assert!(inner.0.lock().is_empty());
    drop(parcel);
    assert_eq!((inner.0.lock().len(), outer.0.lock().len()), (1, 1));
}

#[test]
fn equal_streams_of_equal_size_have_one_fingerprint() {
    let arena = Arena::new(ArenaLimits::default());
    let print = |stream: &[u8], buffers: &[&[u8]]| {
        Payload::pack(&arena, &[stream], &sources(buffers)).unwrap().fingerprint()
    };
    assert_eq!(print(b"abc", &[]), print(b"abc", &[]));
    assert_eq!(
        print(b"abc", &[&[1; 90_000]]),
        print(b"abc", &[&[2; 90_000]]),
        "bytes beside it are not read"
    );
    let all = [print(b"abc", &[]), print(b"abd", &[]), print(b"abc", &[b"x"])];
    assert!(all[0] != all[1] && all[0] != all[2] && all.iter().all(Option::is_some));
    assert_eq!(print(&[0; 1 << 20], &[]), None);
}
