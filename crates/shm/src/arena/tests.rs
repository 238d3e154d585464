use super::*;
use std::os::fd::AsRawFd;

const MEGABYTE: u64 = 1 << 20;

fn arena(segment_bytes: u64, total_bytes: Option<u64>) -> Arena {
    Arena::new(ArenaLimits { segment_bytes, total_bytes, ..ArenaLimits::default() })
}

fn place(draft: &Draft) -> (SegmentId, u64) {
    (draft.span().segment, draft.span().offset)
}

#[test]
fn extents_are_size_classes_of_the_allocator() {
    for pages in (1..1000).chain([(1 << 30) - 1, 1 << 30]) {
        let extent = extent_of(pages);
        assert!(u64::from(extent) >= pages && u64::from(extent) < 2 * pages, "{pages} became {extent}");
        // An allocator that is exactly as large as the class is filed under it, so it can be had as a whole.
        let whole = Allocator::<u32>::with_max_allocs(extent, 4).allocate(extent);
        assert!(whole.is_some(), "{extent} is not a class");
    }
}

#[test]
fn an_isolated_block_is_found_again_by_a_request_of_its_size() {
    for bytes in [1, 4096, 100_000, 8_000_000, 8 * MEGABYTE, 12_345_678] {
        let arena = arena(64 * MEGABYTE, None);
        let first = arena.allocate(bytes).unwrap();
        let _second = arena.allocate(bytes).unwrap();
        let was = place(&first);
        let fresh_bytes = arena.usage().fresh_bytes;
        drop(first);
        let again = arena.allocate(bytes).unwrap();
        assert_eq!(place(&again), was, "{bytes} bytes");
        assert_eq!(arena.usage().fresh_bytes, fresh_bytes);
    }
}

#[test]
fn a_window_of_blocks_touches_no_fresh_page_in_steady_state() {
    let arena = arena(64 * MEGABYTE, None);
    let mut window: Vec<Draft> = (0..6).map(|_| arena.allocate(8_000_000).unwrap()).collect();
    let fresh_bytes = arena.usage().fresh_bytes;
    for step in 0..1000 {
        drop(window.remove(step * 7 % 6));
        let bytes = if step % 3 == 0 { 7_500_000 } else { 8_000_000 };
        window.push(arena.allocate(bytes).unwrap());
    }
    assert_eq!(arena.usage().fresh_bytes, fresh_bytes);
    assert_eq!(arena.usage().segments, 1);
    assert_eq!(arena.usage().allocations, 1006);
}

#[test]
fn warm_memory_of_a_newer_segment_goes_before_cold_memory_of_an_older_one() {
    let arena = arena(16 * MEGABYTE, None);
    let small = arena.allocate(MEGABYTE).unwrap();
    let large = arena.allocate(32 * MEGABYTE).unwrap();
    let newer = large.span().segment;
    assert_ne!(small.span().segment, newer);
    drop(large);
    assert_eq!(arena.allocate(2 * MEGABYTE).unwrap().span().segment, newer);
    drop(small);
    assert_eq!(arena.allocate(MEGABYTE).unwrap().span().segment, SegmentId(0), "the older one first");
}

#[test]
fn segments_grow_with_what_exists() {
    let arena = arena(MEGABYTE, None);
    let mut sizes = Vec::new();
    let mut drafts = Vec::new();
    while sizes.len() < 5 {
        drafts.push(arena.allocate(MEGABYTE / 2).unwrap());
        sizes = arena.segments().into_iter().map(|id| arena.segment(id).unwrap().bytes()).collect();
    }
    assert_eq!(sizes, [1, 1, 2, 4, 8].map(|size| size * MEGABYTE));
    let huge = arena.allocate(5 << 30).unwrap();
    assert!(arena.segment(huge.span().segment).unwrap().bytes() >= 5 << 30);
}

#[test]
fn segments_are_numbered_from_where_the_limits_say() {
    let arena = Arena::new(ArenaLimits { first_segment: 1 << 31, ..ArenaLimits::default() });
    let draft = arena.allocate(1).unwrap();
    assert_eq!(draft.span().segment, SegmentId(1 << 31));
    assert!(arena.segment(SegmentId(1 << 31)).is_some() && arena.segment(SegmentId(0)).is_none());
}

#[test]
fn a_huge_block_is_usable_to_its_end() {
    let arena = arena(MEGABYTE, None);
    let mut draft = arena.allocate((4 << 30) + 12_345).unwrap();
    assert_eq!(draft.len(), (4 << 30) + 12_345);
    let last = draft.len() - 1;
    (draft[0], draft[last]) = (1, 2);
    assert_eq!((draft[0], draft[1], draft[last]), (1, 0, 2));
    assert!(matches!(arena.allocate(u64::MAX), Err(Error::OutOfRange { .. })));
}

#[test]
fn empty_and_small_blocks_have_pages_of_their_own() {
    let arena = arena(MEGABYTE, None);
    let (first, second) = (arena.allocate(0).unwrap(), arena.allocate(0).unwrap());
    assert!(first.is_empty());
    assert_ne!(first.span(), second.span());
    assert_eq!(arena.usage().live_bytes, 2 * page_bytes());
}

#[test]
fn a_crowded_segment_is_followed_by_another() {
    let arena = arena(64 * MEGABYTE, None);
    let drafts: Vec<Draft> = (0..EXTENTS_MAX + 10).map(|_| arena.allocate(1).unwrap()).collect();
    assert_eq!(arena.usage().segments, 2);
    drop(drafts);
    assert_eq!(arena.usage().live_blocks, 0);
}

#[test]
fn the_limit_holds_for_live_and_warm_memory_together() {
    let arena = arena(64 * MEGABYTE, Some(10 * MEGABYTE));
    let first = arena.allocate(4 * MEGABYTE).unwrap();
    let second = arena.allocate(4 * MEGABYTE).unwrap();
    let refused = arena.allocate(4 * MEGABYTE).unwrap_err();
    assert!(matches!(refused, Error::Exhausted { live_bytes, .. } if live_bytes == 8 * MEGABYTE));
    assert!(refused.is_shortage());
    drop(first);
    // 5 MiB do not fit into the hole of 4 MiB, some of which has to be given back for them.
    let third = arena.allocate(5 * MEGABYTE).unwrap();
    let usage = arena.usage();
    assert_eq!((usage.live_bytes, usage.warm_bytes), (9 * MEGABYTE, MEGABYTE));
    drop((second, third));
    assert!(arena.allocate(11 * MEGABYTE).is_err(), "larger than the limit is never possible");
    assert!(arena.allocate(10 * MEGABYTE).is_ok());
}

#[test]
fn trimming_keeps_what_it_is_told_to_and_drops_empty_segments() {
    let arena = arena(4 * MEGABYTE, None);
    let mut live = arena.allocate(MEGABYTE).unwrap();
    live.fill(5);
    let mut other = arena.allocate(2 * MEGABYTE).unwrap();
    let mut large = arena.allocate(16 * MEGABYTE).unwrap();
    other.fill(6);
    large.fill(7);
    let (held, newer) = (arena.segment(SegmentId(0)).unwrap(), large.span().segment);
    drop((other, large));
    assert_eq!(arena.usage().warm_bytes, 18 * MEGABYTE);
    assert_eq!(arena.trim(20 * MEGABYTE), 0);
    assert_eq!(arena.trim(3 * MEGABYTE), 15 * MEGABYTE);
    assert_eq!(arena.segments(), [SegmentId(0), newer], "one warm megabyte is left in the newer one");
    assert_eq!(arena.trim(1), 3 * MEGABYTE);
    assert_eq!(arena.segments(), [SegmentId(0)]);
    assert!(arena.segment(newer).is_none());
    assert_eq!(held.resident_bytes().unwrap(), MEGABYTE);
    assert!(live.iter().all(|&byte| byte == 5));
    drop(live);
    assert_eq!(arena.trim(0), MEGABYTE);
    assert_eq!(arena.usage().segments, 0);
    assert_eq!(arena.allocate(1).unwrap().span().segment, SegmentId(2), "ids are not used again");
}

#[test]
fn blocks_outlive_their_arena() {
    let arena = arena(MEGABYTE, None);
    let mut draft = arena.allocate(10).unwrap();
    let clone = arena.clone();
    drop(arena);
    assert_eq!(clone.usage().live_blocks, 1);
    drop(clone);
    draft.fill(1);
    assert_eq!(draft.seal().bytes(), 10);
}

#[test]
fn threads_may_allocate_and_release_at_once() {
    let arena = arena(MEGABYTE, None);
    std::thread::scope(|scope| {
        for thread in 1..=4u8 {
            let arena = &arena;
            scope.spawn(move || {
                for step in 0..500u64 {
                    let mut draft = arena.allocate(1 + step * 97 % 50_000).unwrap();
                    draft.fill(thread);
                    assert!(draft.iter().all(|&byte| byte == thread));
                    if step % 100 == 0 {
                        arena.trim(100_000);
                    }
                }
            });
        }
    });
    assert_eq!((arena.usage().live_bytes, arena.usage().allocations), (0, 2000));
}

#[test]
fn what_is_on_a_disk_is_given_back_at_once() {
    let directory = std::env::temp_dir();
    let arena = Arena::on_disk(directory.clone(), ArenaLimits::default());
    let mut first = arena.allocate(8 * MEGABYTE).unwrap();
    let mut second = arena.allocate(5000).unwrap();
    first.write(MEGABYTE, &[7; 100]).unwrap();
    second.write(0, &[8; 5000]).unwrap();
    assert_eq!((first[MEGABYTE as usize], first[0], second[4999]), (7, 0, 8));
    first[0] = 9;
    let segment = arena.segment(first.span().segment).unwrap();
    let target = std::fs::read_link(format!("/proc/self/fd/{}", segment.fd().as_raw_fd())).unwrap();
    assert!(target.starts_with(&directory), "{target:?}");
    assert!(!target.exists(), "{target:?}");
    assert!(first.write(8 * MEGABYTE, &[1]).is_err() && first.write(u64::MAX, &[1]).is_err());
    let before = segment.resident_bytes().unwrap();
    drop(first);
    assert!(segment.resident_bytes().unwrap() < before);
    drop(second);
    assert_eq!((arena.usage().segments, arena.usage().warm_bytes, arena.usage().live_bytes), (0, 0, 0));
}

#[test]
fn a_directory_that_is_none_is_named() {
    let arena = Arena::on_disk("/nowhere/at/all".into(), ArenaLimits::default());
    let error = arena.allocate(1).unwrap_err();
    assert!(error.is_shortage() && error.to_string().contains("/nowhere/at/all"), "{error}");
}
