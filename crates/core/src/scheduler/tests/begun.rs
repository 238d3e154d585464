//! What had begun when its worker ended: it goes again only from what it saw first.

use super::*;
use Whereabouts::Stopped;

fn submit_as(holding: Holding, kept: Kept, items: u32) -> Event {
    let (job, chunk, first, bytes) = (JobId(0), ChunkId(0), 0, 60);
    Event::Submitted { job, chunk, first, items, bytes, holding, kept }
}

/// A chunk of four items at the only worker.
fn four(holding: Holding, kept: Kept, then: &[(u64, Event, &str)]) {
    let mut script = vec![
        (0, born(0), ""),
        (0, ready(0), ""),
        (0, fixed(0, 4, 4), "grant j0 1x4"),
        (0, submit_as(holding, kept, 4), "send w0 c0 0+4"),
        (0, end(0, 4), ""),
    ];
    script.extend(then.iter().cloned());
    check(seats(4), &script);
}

fn forfeited() -> Event {
    Event::Forfeited { chunk: ChunkId(0) }
}

#[test]
fn what_is_lent_goes_again_as_it_is() {
    let again = [
        (0, exit_having_begun(3, 0, Calling(2)), "lose j0 i2"),
        (0, born(1), ""),
        (0, ready(1), "send w1 c0 0+2"),
        (0, answer(1, 0, 2, 5), "send w1 c0 3+1"),
    ];
    four(Holding::Lent, Kept::Not, &again);
}

#[test]
fn what_is_own_and_kept_is_encoded_again_once_for_all() {
    let again = [
        (0, exit_having_begun(3, 0, Calling(2)), "reclaim c0, lose j0 i2"),
        (0, born(1), ""),
        (0, ready(1), ""),
        (0, restored(0, 70), "send w1 c0 0+2"),
        (0, exit_having_begun(2, 1, Calling(1)), "reclaim c0, lose j0 i1"),
    ];
    four(Holding::Own, Kept::OneByOne, &again);
}

#[test]
fn what_is_own_and_kept_by_nobody_is_lost_and_the_rest_goes_as_it_is() {
    let lost = [
        (0, exit_having_begun(3, 0, Calling(2)), "lose j0 i0, lose j0 i1, lose j0 i2"),
        (0, born(1), ""),
        (0, ready(1), "send w1 c0 3+1"),
        (0, answer(1, 0, 1, 5), "retire c0, finish j0"),
    ];
    four(Holding::Own, Kept::Not, &lost);
}

#[test]
fn what_is_not_what_it_was_is_lost_and_the_rest_goes_as_it_is() {
    let lost = [
        (0, exit_having_begun(3, 0, Calling(2)), "reclaim c0, lose j0 i2"),
        (0, born(1), ""),
        (0, ready(1), ""),
        (0, forfeited(), "lose j0 i0, lose j0 i1, send w1 c0 3+1"),
        (0, restored(0, 70), ""),
        (0, exit_having_begun(1, 1, Stopped), "lose j0 i3, retire c0, finish j0"),
    ];
    four(Holding::Own, Kept::OneByOne, &lost);
}

#[test]
fn who_was_not_to_blame_goes_again_if_it_had_not_begun() {
    let again = [
        (0, exit_having_begun(2, 0, Stopped), "lose j0 i0, lose j0 i1"),
        (0, born(1), ""),
        (0, ready(1), "send w1 c0 2+2"),
        // As often as it happens.
        (0, exit(1, Stopped), ""),
        (0, born(2), ""),
        (0, ready(2), "send w2 c0 2+2"),
        (0, exit(2, Stopped), ""),
        (0, born(3), ""),
        (0, ready(3), "send w3 c0 2+2"),
        (0, exit(3, Stopped), ""),
    ];
    four(Holding::Own, Kept::Not, &again);
}

#[test]
fn an_item_that_was_over_when_it_was_found_to_take_too_long_costs_no_other() {
    let late = [
        (0, exit_having_begun(3, 0, Overdue(1)), "reclaim c0, lose j0 i1"),
        (0, born(1), ""),
        (0, ready(1), ""),
        (0, restored(0, 70), "send w1 c0 0+1"),
        (0, answer(1, 0, 1, 5), "send w1 c0 2+1, send w1 c0 3+1"),
    ];
    four(Holding::Own, Kept::OneByOne, &late);
}

#[test]
fn a_death_with_what_was_sent_before_it_was_encoded_again_needs_no_more() {
    check(
        SchedulerConfig { tasks_per_worker: Some(2), ..seats(4) },
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, born(1), ""),
            (0, ready(1), ""),
            (0, fixed(0, 4, 4), "grant j0 1x4"),
            (0, submit(0, 0, 0, 4, 60), "send w1 c0 0+2, relieve w1, send w0 c0 2+2, relieve w0"),
            (0, exit_having_begun(2, 0, Calling(3)), "reclaim c0, lose j0 i3"),
            (0, born(2), ""),
            (0, ready(2), ""),
            (0, restored(0, 60), "send w2 c0 2+1"),
            (0, exit_having_begun(2, 1, Calling(1)), "lose j0 i1"),
            (0, answer(2, 0, 1, 5), "send w2 c0 0+1, relieve w2"),
        ],
    );
}

#[test]
fn one_that_has_gone_on_is_left_alone_and_gets_more() {
    check(
        seats(1),
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, fixed(0, 9, 1), "grant j0 1x1"),
            (0, fixed(1, 9, 1), "grant j1 1x1"),
            (0, submit(0, 0, 0, 1, 9), "send w0 c0 0+1, grant j0 3x1"),
            (0, cancel(0), "interrupt w0"),
            (0, Event::Passed { worker: id(0), piece: 1 }, ""),
            (0, answer(0, 0, 1, 5), "retire c0, finish j0"),
            (0, submit(1, 1, 0, 1, 9), "send w0 c1 0+1, grant j1 3x1"),
            (0, cancel(1), "interrupt w0"),
            // The answer came before it was known that it had passed.
            (0, answer(0, 1, 1, 5), "retire c1, finish j1"),
            (0, Event::Passed { worker: id(0), piece: 2 }, ""),
            (0, fixed(2, 9, 1), "grant j2 1x1"),
            (0, submit(2, 2, 0, 1, 9), "send w0 c2 0+1, grant j2 3x1"),
        ],
    );
}
