//! Jobs whose items are numbers, and what is sent before this process forks.

use super::*;

const FORK: Duration = Duration::from_millis(20);

fn numbered(items: u64) -> Event {
    open(0, Some(items), Chunking::Numbered, Delivery::Collected)
}

#[test]
fn numbers_are_granted_at_once_and_cut_when_they_are_sent() {
    check(
        seats(2),
        &[
            (0, numbered(1000), "grant j0 1x65536"),
            (0, submit(0, 0, 0, 1000, 40), ""),
            (0, end(0, 1000), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+1"),
            (0, born(1), ""),
            (0, ready(1), "send w1 c0 1+1"),
            (0, answer(0, 0, 1, 100), "send w0 c0 2+8, send w1 c0 10+8, send w0 c0 18+8"),
            (0, answer(1, 0, 1, 100), "send w1 c0 26+8"),
            // What a dead worker had not begun goes to the next as it was.
            (0, exit(0, Between), ""),
            (0, answer(1, 0, 8, 100), "send w1 c0 2+8"),
        ],
    );
}

#[test]
fn before_a_fork_a_worker_gets_what_lasts_until_it_is_done() {
    let forking = |lasts| Event::Forking { lasts };
    check(
        seats(2),
        &[
            (0, numbered(4000), "grant j0 1x65536"),
            (0, submit(0, 0, 0, 4000, 40), ""),
            (0, end(0, 4000), ""),
            (0, forking(FORK), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+1"),
            (0, answer(0, 0, 1, 100), "send w0 c0 1+8"),
            // 30 ms.
            (0, answer(0, 0, 8, 100), "send w0 c0 9+300"),
            (0, forking(Duration::ZERO), ""),
            (0, born(1), ""),
            (0, ready(1), "send w1 c0 309+20, send w1 c0 329+20"),
        ],
    );
}

#[test]
fn what_is_left_to_do_is_known_when_items_are_and_who_has_enough_to_do() {
    let mut scheduler = Scheduler::new(seats(2));
    let mut out = Vec::new();
    let mut tell = |scheduler: &mut Scheduler, event: Event| scheduler.step(Time(0), &event, &mut out);
    for event in [numbered(1000), submit(0, 0, 0, 1000, 40), end(0, 1000), Event::Forking { lasts: FORK }] {
        tell(&mut scheduler, event);
    }
    tell(&mut scheduler, born(0));
    assert!(!scheduler.all_busy_for(Duration::ZERO), "it is not ready");
    tell(&mut scheduler, ready(0));
    assert_eq!(scheduler.time_left(), None);
    assert!(!scheduler.all_busy_for(FORK), "nobody knows how long an item takes");
    for items in [1, 8] {
        tell(&mut scheduler, answer(0, 0, items, 100));
    }
    assert_eq!(scheduler.time_left().map(|left| left.as_micros() / 100), Some(991));
    assert!(scheduler.all_busy_for(FORK) && !scheduler.all_busy_for(5 * FORK));
}
