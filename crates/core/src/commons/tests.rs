use super::*;
use crate::payload::BROADCAST_SEGMENTS;

const ID: SegmentId = SegmentId(BROADCAST_SEGMENTS);
const LARGE: u64 = COPIED_BYTES_MAX + 1;

/// A worker that was told of one segment of 1 MB.
fn worker() -> Holdings {
    let ours = Segment::create(1 << 20).unwrap();
    assert_eq!(rustix::io::pwrite(ours.fd(), b"word", 0), Ok(4));
    let file = ours.fd().try_clone_to_owned().unwrap();
    let mut holdings = Holdings::new();
    holdings.add(ID, Segment::open(file, ours.bytes(), Sharing::Private).unwrap());
    holdings
}

fn view(holdings: &Holdings, offset: u64, bytes: u64) -> Bytes {
    holdings.view(Span { segment: ID, offset, bytes }).unwrap()
}

/// The mapping that a view lies in, by its serial number.
fn place(bytes: &Bytes) -> u32 {
    let Bytes::View(view) = bytes else { panic!("expected a view, found {bytes:?}") };
    view.segment().serial()
}

fn mappings(holdings: &Holdings) -> usize {
    holdings.commons.mappings().segments[&ID].len()
}

#[test]
fn views_that_live_together_share_no_page_of_a_mapping() {
    let holdings = worker();
    let first = view(&holdings, 0, LARGE);
    let beside = view(&holdings, LARGE.next_multiple_of(1 << 16), LARGE);
    assert_eq!(place(&first), place(&beside), "pages of its own are all that a view needs");
    let (second, third) = (view(&holdings, 0, LARGE), view(&holdings, LARGE - 1, LARGE));
    let mut places = [place(&first), place(&second), place(&third)];
    places.sort_unstable();
    assert!(places[0] < places[1] && places[1] < places[2], "{places:?}");
    assert_eq!(&second.as_slice()[..4], b"word");
    drop((first, second, third, beside));
    assert_eq!(holdings.returns.take().len(), 4);
    assert!(!holdings.returns.expected());
}

/// As `mlockall` and writers from elsewhere do it.
#[test]
fn a_copy_that_was_made_before_a_view_began_does_not_show() {
    let ours = Segment::create(1 << 20).unwrap();
    let mut holdings = Holdings::new();
    let file = ours.fd().try_clone_to_owned().unwrap();
    holdings.add(ID, Segment::open(file, ours.bytes(), Sharing::Private).unwrap());
    for (word, bytes) in [(b"once", COPIED_BYTES_MAX), (b"more", LARGE), (b"else", 1 << 20)] {
        let mapping = Arc::clone(&holdings.commons.mappings().segments[&ID][0].segment);
        mapping.detach(0, 1 << 20).unwrap(); // To the kernel that is what writing is.
        assert_eq!(rustix::io::pwrite(ours.fd(), word, 0), Ok(4));
        let shown = view(&holdings, 0, bytes);
        assert_eq!(&shown.as_slice()[..4], word);
        assert_eq!(place(&shown), mapping.serial());
    }
}

#[test]
fn one_after_another_they_are_in_one_mapping() {
    let holdings = worker();
    let places: Vec<u32> = (0..5).map(|_| place(&view(&holdings, 0, LARGE))).collect();
    assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
    assert_eq!(mappings(&holdings), 1);
}

#[test]
fn few_mappings_stay_when_their_views_are_gone() {
    let holdings = worker();
    let mut views: Vec<Bytes> = (0..20).map(|_| view(&holdings, 0, LARGE)).collect();
    assert_eq!((mappings(&holdings), holdings.commons.mappings().extra), (20, 19));
    views.swap(0, 19);
    let last = views.pop();
    drop(views);
    assert_eq!(mappings(&holdings), 1 + SPARE_MAPPINGS_MAX);
    assert_eq!(holdings.commons.mappings().extra, SPARE_MAPPINGS_MAX);
    drop(last);
    assert_eq!(mappings(&holdings), 1 + SPARE_MAPPINGS_MAX);
}

#[test]
fn of_a_segment_that_is_gone_nothing_stays() {
    let mut holdings = worker();
    drop([view(&holdings, 0, LARGE), view(&holdings, 0, LARGE)]);
    let kept = view(&holdings, 0, LARGE);
    holdings.remove(&[ID, SegmentId(7)]);
    {
        let mappings = holdings.commons.mappings();
        assert!(mappings.segments.is_empty() && mappings.habits.as_ref().is_some_and(HashMap::is_empty));
        assert_eq!(mappings.extra, 0);
    }
    assert_eq!(&kept.as_slice()[..4], b"word");
    drop(kept);
    assert!(holdings.view(Span { segment: ID, offset: 0, bytes: 1 }).is_err());
}

#[test]
fn what_is_detached_stays_as_it_was() {
    let ours = Segment::create(1 << 20).unwrap();
    let write = |word: &[u8; 4]| assert_eq!(rustix::io::pwrite(ours.fd(), word, 1 << 17), Ok(4));
    write(b"word");
    let file = ours.fd().try_clone_to_owned().unwrap();
    let theirs = Segment::open(file, ours.bytes(), Sharing::Private).unwrap();
    let commons = Commons::of_segment(Arc::clone(&theirs));
    let open = || commons.open_within(&theirs, 1 << 17, LARGE, Arc::new(())).unwrap();
    let views = [open(), open()];
    commons.detach().unwrap();
    write(b"else");
    assert!(views.iter().all(|view| &view.as_slice()[..4] == b"word"));
    let late = open();
    assert!(matches!(late, Bytes::Inline(_)) && &late.as_slice()[..4] == b"else");
}

/// Writes to all of a view, if it is one and not a copy; whether it is.
fn scribble(holdings: &Holdings, written: u64) -> bool {
    let bytes = view(holdings, 0, 1 << 20);
    let Bytes::View(view) = &bytes else { return false };
    view.segment().detach(0, written).unwrap(); // To the kernel that is what writing is.
    true
}

#[test]
fn where_views_are_written_to_all_over_the_next_are_copies() {
    let holdings = worker();
    let mapped = |written| scribble(&holdings, written);
    assert!(mapped(1 << 20) && mapped(1) && mapped(1 << 20) && mapped(1 << 20));
    for _ in 0..2 {
        let copied = (0..LOOKED_AT_EACH - 1).filter(|_| !mapped(1 << 20)).count();
        assert_eq!(copied, 15);
        assert!(mapped(1 << 20), "now and then one is looked at");
    }
    let copied = (0..LOOKED_AT_EACH - 1).filter(|_| !mapped(1)).count();
    assert_eq!(copied, 15);
    assert!((0..20).all(|_| mapped(1)), "it is written to in places only");
    assert_eq!(&view(&holdings, 0, 1 << 20).as_slice()[..4], b"word");
}

#[test]
fn what_is_small_or_too_much_is_copied() {
    let holdings = worker();
    let _first = view(&holdings, 0, COPIED_BYTES_MAX);
    let small = view(&holdings, 0, COPIED_BYTES_MAX);
    holdings.commons.mappings().extra = EXTRA_MAPPINGS_MAX;
    let large = view(&holdings, 0, LARGE);
    for copy in [small, large] {
        assert!(matches!(copy, Bytes::Inline(_)), "{copy:?}");
        assert_eq!(&copy.as_slice()[..4], b"word");
    }
    assert_eq!(mappings(&holdings), 1);
    assert_eq!(holdings.returns.take().len(), 2, "the parent is told at once");
}
