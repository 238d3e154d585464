//! Items that go once more: after a death, after a chunk that could not be decoded, from a worker that is used up.

use super::*;

/// One item in a chunk of its own, tried again so often, on the worker in seat 0.
fn at_work(retries: u32) -> Vec<(u64, Event, &'static str)> {
    let (chunking, delivery) = (Chunking::Fixed(1), Delivery::Collected);
    let spec = JobSpec { function: None, items: Some(1), chunking, delivery, retries, task_timeout: None };
    vec![
        (0, Event::Opened { job: JobId(0), spec }, "grant j0 1x1"),
        (0, submit(0, 0, 0, 1, 100), ""),
        (0, end(0, 1), ""),
        (0, born(0), ""),
        (0, ready(0), "send w0 c0 0+1"),
    ]
}

#[test]
fn an_item_is_tried_again_as_often_as_was_asked_for() {
    let mut script = at_work(1);
    script.extend([
        (1, exit(0, Calling(0)), "reclaim c0"),
        (2, born(1), ""),
        (2, ready(1), ""),
        (3, restored(0, 100), "send w1 c0 0+1"),
        (4, exit(1, Calling(0)), "lose j0 i0, retire c0, finish j0"),
    ]);
    check(seats(2), &script);
}

#[test]
fn an_item_that_took_too_long_is_not_tried_again() {
    let mut script = at_work(5);
    script.push((1, exit(0, Whereabouts::Overdue(0)), "lose j0 i0, retire c0, finish j0"));
    check(seats(1), &script);
}

#[test]
fn a_piece_that_cannot_be_decoded_goes_again_when_it_was_encoded_anew() {
    check(
        seats(1),
        &[
            (0, fixed(0, 3, 3), "grant j0 1x3"),
            (0, submit(0, 0, 0, 3, 100), ""),
            (0, end(0, 3), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+3"),
            (1, Event::Unreadable { worker: id(0), chunk: ChunkId(0) }, "reclaim c0"),
            (2, restored(0, 120), "send w0 c0 0+3"),
            (3, answer(0, 0, 3, 10), "retire c0, finish j0"),
        ],
    );
}

#[test]
fn a_worker_that_is_used_up_surrenders_what_it_has_not_begun() {
    let answered = |items, last| {
        let spent = Spent { call: Duration::from_micros(50), ..Spent::default() };
        Event::Returned { worker: id(0), chunk: ChunkId(0), items, last, bytes: 8, spent }
    };
    let successor = WorkerId { slot: 0, generation: 2 };
    check(
        seats(1),
        &[
            (0, fixed(0, 4, 4), "grant j0 1x4"),
            (0, submit(0, 0, 0, 4, 80), ""),
            (0, end(0, 4), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+4"),
            (0, answered(1, false), ""),
            (0, Event::UsedUp { worker: id(0), by: Wear::Memory }, ""),
            (0, Event::Born { worker: successor }, ""),
            // It stands by: its predecessor still holds something.
            (0, Event::Ready { worker: successor }, ""),
            (0, Event::Surrendered { worker: id(0), chunk: ChunkId(0) }, "excuse w0, send w0 c0 1+3"),
            (0, exit(0, Between), ""),
        ],
    );
}

#[test]
fn a_successor_stands_by_until_the_last_call_is_answered() {
    let successor = WorkerId { slot: 0, generation: 2 };
    check(
        SchedulerConfig { tasks_per_worker: Some(1), ..seats(1) },
        &[
            (0, fixed(0, 2, 1), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 9), "grant j0 1x1"),
            (0, submit(0, 1, 1, 1, 9), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+1, relieve w0"),
            (0, Event::UsedUp { worker: id(0), by: Wear::Calls }, ""),
            (0, Event::Born { worker: successor }, ""),
            (0, Event::Ready { worker: successor }, ""),
            (9, answer(0, 0, 1, 9_000), "retire c0, excuse w0, send w0 c1 0+1, relieve w0"),
        ],
    );
}

#[test]
fn an_item_that_took_too_much_memory_is_not_tried_again() {
    let mut script = at_work(5);
    script.push((1, exit(0, Whereabouts::Oversized(0)), "lose j0 i0, retire c0, finish j0"));
    check(seats(1), &script);
}
