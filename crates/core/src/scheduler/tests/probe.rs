//! What is sent while nothing is known of the items.

use super::*;

#[test]
fn where_a_probe_has_several_items_every_worker_gets_one() {
    let config = SchedulerConfig { probe_items: 64, ..seats(2) };
    check(
        config,
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, born(1), ""),
            (0, ready(1), ""),
            (0, open(0, Some(2000), Chunking::Automatic, Delivery::Collected), "grant j0 1x62"),
            // The first tells what the others weigh.
            (0, submit(0, 0, 0, 62, 100), "send w1 c0 0+62, grant j0 1x60"),
            (0, submit(0, 1, 62, 60, 100), "send w0 c1 0+60"),
        ],
    );
}

#[test]
fn where_a_function_is_called_again_nothing_waits_for_the_first_answer() {
    let called = |job, function| {
        let (chunking, delivery) = (Chunking::Automatic, Delivery::Collected);
        let items = Some(10_000);
        let spec = JobSpec { function, items, chunking, delivery, retries: 0, task_timeout: None };
        Event::Opened { job: JobId(job), spec }
    };
    check(
        seats(1),
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, called(0, Some(7)), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 8), "send w0 c0 0+1, grant j0 1x1"),
            (1, answer(0, 0, 1, 100), "retire c0, grant j0 2x8"),
            (1, submit(0, 1, 1, 8, 64), "send w0 c1 0+8, grant j0 1x8"),
            (2, answer(0, 1, 8, 100), "retire c1"),
            (2, cancel(0), "finish j0"),
            (3, called(1, Some(7)), "grant j1 1x1"),
            (3, submit(1, 2, 0, 1, 8), "send w0 c2 0+1, grant j1 3x25"),
            (4, cancel(1), "interrupt w0"),
            // Another function, or one of which nothing is known.
            (5, called(2, Some(8)), "grant j2 1x1"),
            (5, submit(2, 3, 0, 1, 8), "grant j2 1x1"),
            (6, cancel(2), "retire c3, finish j2"),
            (7, called(3, None), "grant j3 1x1"),
            (7, submit(3, 4, 0, 1, 8), "grant j3 1x1"),
        ],
    );
}
