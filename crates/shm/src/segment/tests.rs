use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::file::create_file;
use rustix::fs::SealFlags;

fn duplicate(segment: &Segment) -> OwnedFd {
    segment.fd().try_clone_to_owned().unwrap()
}

#[test]
fn sizes_are_whole_pages() {
    let segment = Segment::create(1).unwrap();
    assert_eq!(segment.bytes(), page_bytes());
    assert_eq!(segment.sharing(), Sharing::Shared);
    assert!(matches!(Segment::create(0), Err(Error::OutOfRange { .. })));
    assert!(matches!(Segment::create(u64::MAX), Err(Error::OutOfRange { .. })));
}

#[test]
fn a_sealed_segment_keeps_its_size() {
    let segment = Segment::create(3 * page_bytes()).unwrap();
    assert_eq!(rustix::fs::ftruncate(segment.fd(), 0), Err(Errno::PERM));
    assert_eq!(rustix::fs::ftruncate(segment.fd(), 4 * page_bytes()), Err(Errno::PERM));
    assert_eq!(rustix::fs::fcntl_add_seals(segment.fd(), SealFlags::WRITE), Err(Errno::PERM));
}

#[test]
fn foreign_descriptors_are_refused() {
    let page = page_bytes();
    let refused = |fd: OwnedFd, bytes| match Segment::open(fd, bytes, Sharing::Shared) {
        Err(Error::Foreign { reason, .. }) => reason,
        other => panic!("expected a refusal, found {other:?}"),
    };
    let segment = Segment::create(page).unwrap();
    assert_eq!(refused(duplicate(&segment), page + 1), "it is shorter than announced");
    let (unsealed, _) = create_file("forklift", 0).unwrap();
    rustix::fs::ftruncate(&unsealed, page).unwrap();
    assert_eq!(refused(unsealed, page), "it is not sealed against shrinking");
    let (odd, _) = create_file("forklift", 0).unwrap();
    rustix::fs::ftruncate(&odd, 2 * page + 1).unwrap();
    assert_eq!(refused(odd, page), "its size is not a multiple of the page size");
    let (end, _other_end) = rustix::pipe::pipe().unwrap();
    assert_eq!(refused(end, page), "it is shorter than announced");
}

#[test]
fn words_are_seen_through_every_shared_mapping() {
    let ours = Segment::create(page_bytes()).unwrap();
    let theirs = Segment::open(duplicate(&ours), ours.bytes(), Sharing::Shared).unwrap();
    let (ours, theirs) = (Words::new(&ours).unwrap(), Words::new(&theirs).unwrap());
    ours.line(3)[7].store(42, Relaxed);
    assert_eq!(theirs.line(3)[7].load(Relaxed), 42);
    assert!(matches!(Words::new(ours.segment()), Err(Error::Claimed { .. })));
}

#[test]
fn punching_gives_memory_back_but_never_that_of_a_claim() {
    let page = page_bytes();
    let segment = Segment::create(4 * page).unwrap();
    let words = Words::new(&segment).unwrap();
    for index in 0..4 {
        words.line(index * page as usize / size_of::<Line>())[0].store(1, Relaxed);
    }
    assert_eq!(segment.resident_bytes().unwrap(), 4 * page);
    assert!(matches!(segment.punch(0, page), Err(Error::Claimed { .. })));
    drop(words);
    segment.punch(1, 2 * page).unwrap();
    assert_eq!(segment.resident_bytes().unwrap(), 3 * page, "only the page wholly inside is punched");
    segment.punch(0, 4 * page).unwrap();
    assert_eq!(segment.resident_bytes().unwrap(), 0);
    segment.punch(5, 7).unwrap();
    assert!(matches!(segment.punch(page, u64::MAX), Err(Error::OutOfRange { .. })));
    assert!(segment.discard(3 * page, page + 1).is_err());
}

#[test]
fn a_sparse_segment_may_be_larger_than_memory() {
    let segment = Segment::create((4 << 30) + (1 << 30)).unwrap();
    let words = Words::new(&segment).unwrap();
    let last = words.line(segment.bytes() as usize / size_of::<Line>() - 1);
    last[7].store(9, Relaxed);
    assert_eq!(last[7].load(Relaxed), 9);
    // A machine that uses huge pages for shared memory may have taken one.
    assert!(segment.resident_bytes().unwrap() <= 4 << 20);
}

#[test]
#[should_panic(expected = "expected a line below")]
fn lines_are_bounded() {
    let words = Words::new(&Segment::create(1).unwrap()).unwrap();
    words.line(page_bytes() as usize / size_of::<Line>());
}

#[test]
fn the_file_of_another_is_mapped_as_far_as_it_has_pages() {
    let page = page_bytes();
    let file = tempfile::tempfile().unwrap();
    file.set_len(3 * page + 8).unwrap();
    let open = |bytes| Segment::open_unsealed(file.try_clone().unwrap().into(), bytes);
    let whole = open(None).unwrap();
    assert_eq!((whole.bytes(), whole.sharing(), whole.is_sealed()), (3 * page, Sharing::Private, false));
    assert!(!whole.again().unwrap().is_sealed());
    assert_eq!(open(Some(2 * page)).unwrap().bytes(), 2 * page);
    assert!(matches!(open(Some(4 * page)), Err(Error::Foreign { .. })));
    let refused = Segment::open(file.into(), 3 * page, Sharing::Private);
    assert!(refused.is_err(), "as a peer's it would have to be sealed");
}
