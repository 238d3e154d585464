//! Scripts: events in, expected commands out.
//!
//! Commands are written short: `grant j0 2x8` (two chunks of eight), `send w0 c1 3+5` (five items of chunk 1 after
//! its first three), `retire c1`, `reclaim c1`, `lose j0 i7`, `finish j0`, `interrupt w0`.

mod again;
mod begun;
mod numbered;
mod probe;
mod shortage;

use super::*;
use crate::event::{Chunking, Delivery, Holding, Kept, Wear, Whereabouts};
use Whereabouts::{Between, Calling, Overdue, Oversized, Translating};

/// Shows the events to a scheduler, one by one at the times given (in ms), and compares what it orders.
fn check(config: SchedulerConfig, script: &[(u64, Event, &str)]) {
    let mut scheduler = Scheduler::new(config);
    for (step, (at, event, expected)) in script.iter().enumerate() {
        let mut commands = Vec::new();
        scheduler.step(Time(at * 1_000_000), event, &mut commands);
        let commands: Vec<String> = commands.iter().map(short).collect();
        assert_eq!(commands.join(", "), *expected, "step {step}: {event:?}");
    }
}

fn short(command: &Command) -> String {
    match command {
        Command::Grant { job, chunks, items } => format!("grant j{} {chunks}x{items}", job.0),
        Command::Dispatch { worker, chunk, skip, items, .. } => {
            format!("send w{} c{} {skip}+{items}", worker.slot, chunk.0)
        }
        Command::Retire { chunk } => format!("retire c{}", chunk.0),
        Command::Reclaim { chunk } => format!("reclaim c{}", chunk.0),
        Command::Lose { job, item, .. } => format!("lose j{} i{item}", job.0),
        Command::Finish { job } => format!("finish j{}", job.0),
        Command::Interrupt { worker, .. } => format!("interrupt w{}", worker.slot),
        Command::Relieve { worker } => format!("relieve w{}", worker.slot),
        Command::Excuse { worker } => format!("excuse w{}", worker.slot),
        other => panic!("{other:?} is not the scheduler's to give"),
    }
}

fn seats(processes: u32) -> SchedulerConfig {
    SchedulerConfig { processes, ..SchedulerConfig::default() }
}

fn id(slot: u32) -> WorkerId {
    WorkerId { slot, generation: 1 }
}

fn born(slot: u32) -> Event {
    Event::Born { worker: id(slot) }
}

fn ready(slot: u32) -> Event {
    Event::Ready { worker: id(slot) }
}

fn open(job: u64, items: Option<u64>, chunking: Chunking, delivery: Delivery) -> Event {
    let spec = JobSpec { function: None, items, chunking, delivery, retries: 0, task_timeout: None };
    Event::Opened { job: JobId(job), spec }
}

/// A job of known length in chunks of a fixed size.
fn fixed(job: u64, items: u64, size: u32) -> Event {
    open(job, Some(items), Chunking::Fixed(size), Delivery::Collected)
}

fn submit(job: u64, chunk: u64, first: u64, items: u32, bytes: u64) -> Event {
    let (holding, kept) = (Holding::Own, Kept::OneByOne);
    Event::Submitted { job: JobId(job), chunk: ChunkId(chunk), first, items, bytes, holding, kept }
}

fn end(job: u64, items: u64) -> Event {
    Event::Exhausted { job: JobId(job), items }
}

fn cancel(job: u64) -> Event {
    Event::Cancelled { job: JobId(job) }
}

/// Answers that took `micros` for each item, and weigh 10 bytes each.
fn answer(slot: u32, chunk: u64, items: u32, micros: u64) -> Event {
    let spent = Spent { call: Duration::from_micros(micros) * items, ..Spent::default() };
    let bytes = u64::from(items) * 10;
    Event::Returned { worker: id(slot), chunk: ChunkId(chunk), items, last: true, bytes, spent }
}

/// A worker that had begun one item if it was calling it, else none.
fn exit(slot: u32, at: Whereabouts) -> Event {
    exit_having_begun(u32::from(matches!(at, Calling(_) | Overdue(_) | Oversized(_))), slot, at)
}

fn exit_having_begun(begun: u32, slot: u32, at: Whereabouts) -> Event {
    Event::Exited { worker: id(slot), at, begun }
}

fn restored(chunk: u64, bytes: u64) -> Event {
    Event::Restored { chunk: ChunkId(chunk), bytes }
}

#[test]
fn a_job_from_its_opening_to_its_end() {
    check(
        seats(1),
        &[
            (0, fixed(0, 4, 2), "grant j0 1x2"),
            (0, submit(0, 0, 0, 2, 100), "grant j0 1x2"),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+2"),
            (0, submit(0, 1, 2, 2, 100), ""),
            (0, end(0, 4), ""),
            (1, answer(0, 0, 2, 50_000), "retire c0, send w0 c1 0+2"),
            (2, answer(0, 1, 2, 50_000), "retire c1, finish j0"),
            (3, answer(0, 1, 2, 50_000), ""),
        ],
    );
}

#[test]
fn an_empty_job_ends_whoever_finds_out() {
    check(seats(1), &[(0, fixed(0, 0, 1), "grant j0 1x1"), (0, end(0, 0), "finish j0")]);
    let unknown = open(0, None, Chunking::Automatic, Delivery::Collected);
    check(seats(1), &[(0, unknown, "grant j0 1x1"), (0, end(0, 0), "finish j0")]);
}

#[test]
fn an_announced_length_that_is_wrong_does_not_stop_the_feed() {
    check(
        seats(1),
        &[
            (0, fixed(0, 1, 1), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 9), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+1"),
            (0, answer(0, 0, 1, 5), "retire c0, grant j0 1x1"),
            (0, submit(0, 1, 1, 1, 9), "send w0 c1 0+1, grant j0 3x1"),
        ],
    );
}

#[test]
fn a_long_piece_has_its_worker_for_itself() {
    check(
        seats(1),
        &[
            (0, fixed(0, 9, 1), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 9), "grant j0 2x1"),
            (0, submit(0, 1, 1, 1, 9), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+1, grant j0 1x1"),
            (0, answer(0, 0, 1, 6_000), "retire c0, send w0 c1 0+1, grant j0 1x1"),
            (0, submit(0, 2, 2, 1, 9), ""),
        ],
    );
}

#[test]
fn short_pieces_are_sent_one_in_advance_but_never_two() {
    check(
        seats(1),
        &[
            (0, fixed(0, 9, 1), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 9), "grant j0 2x1"),
            (0, submit(0, 1, 1, 1, 9), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+1, grant j0 1x1"),
            (0, answer(0, 0, 1, 4_000), "retire c0, send w0 c1 0+1, grant j0 1x1"),
            (0, submit(0, 2, 2, 1, 9), "send w0 c2 0+1, grant j0 1x1"),
            (0, submit(0, 3, 3, 1, 9), ""),
        ],
    );
}

#[test]
fn calls_are_counted_and_pieces_cut_to_fit() {
    check(
        SchedulerConfig { tasks_per_worker: Some(3), ..seats(2) },
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, fixed(0, 8, 8), "grant j0 1x8"),
            (0, submit(0, 0, 0, 8, 80), "send w0 c0 0+3, relieve w0"),
            (0, Event::UsedUp { worker: id(0), by: Wear::Calls }, ""),
            (0, end(0, 8), ""),
            (0, answer(0, 0, 3, 5), "excuse w0"),
            (0, born(1), ""),
            (0, ready(1), "send w1 c0 3+3, relieve w1"),
            (0, exit(1, Calling(4)), "reclaim c0, lose j0 i4"),
        ],
    );
}

#[test]
fn the_rest_of_a_cut_piece_goes_to_the_front() {
    check(
        SchedulerConfig { tasks_per_worker: Some(1), ..seats(4) },
        &[
            (0, fixed(0, 4, 2), "grant j0 1x2"),
            (0, submit(0, 0, 0, 2, 80), "grant j0 1x2"),
            (0, submit(0, 1, 2, 2, 80), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+1, relieve w0"),
            (0, born(1), ""),
            (0, ready(1), "send w1 c0 1+1, relieve w1"),
            (0, born(2), ""),
            (0, ready(2), "send w2 c1 0+1, relieve w2"),
        ],
    );
}

#[test]
fn the_window_bounds_what_is_granted_but_an_oversized_chunk_goes_alone() {
    check(
        SchedulerConfig { window_bytes: 250, ..seats(4) },
        &[
            (0, fixed(0, 9, 1), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 100), "grant j0 1x1"),
            (0, submit(0, 1, 1, 1, 900), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+1"),
            (0, answer(0, 0, 1, 50_000), "retire c0, send w0 c1 0+1"),
            (0, answer(0, 1, 1, 50_000), "retire c1, grant j0 1x1"),
        ],
    );
}

#[test]
fn what_a_feed_sits_on_lapses_when_others_wait() {
    let mut scheduler = Scheduler::new(SchedulerConfig { window_bytes: 100, ..seats(1) });
    let mut out = Vec::new();
    scheduler.step(Time(0), &fixed(0, 9, 1), &mut out);
    scheduler.step(Time(7), &fixed(1, 9, 1), &mut out);
    assert_eq!(out.iter().map(short).collect::<Vec<_>>(), ["grant j0 1x1"]);
    let deadline = scheduler.deadline().unwrap();
    assert_eq!(deadline, Time(0).after(budget::PLEDGE_PATIENCE));
    out.clear();
    scheduler.step(deadline, &Event::Tick, &mut out);
    assert_eq!(out.iter().map(short).collect::<Vec<_>>(), ["grant j1 1x1"]);
    assert_eq!(scheduler.deadline(), None);
}

#[test]
fn a_buffersize_is_never_exceeded() {
    let stream = open(0, None, Chunking::Fixed(2), Delivery::Streamed(Some(5)));
    let consumed = |items| Event::Consumed { job: JobId(0), items, bytes: 10 * items };
    check(
        seats(4),
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, stream, "grant j0 1x2"),
            (0, submit(0, 0, 0, 2, 9), "send w0 c0 0+2, grant j0 1x2"),
            (0, submit(0, 1, 2, 2, 9), ""),
            (0, answer(0, 0, 2, 50_000), "retire c0, send w0 c1 0+2"),
            (0, consumed(1), "grant j0 1x2"),
            (0, submit(0, 2, 4, 2, 9), ""),
            (0, Event::Unbounded, "grant j0 5x2"),
        ],
    );
}

#[test]
fn a_buffersize_below_the_chunk_cuts_it() {
    let stream = open(0, None, Chunking::Fixed(9), Delivery::Streamed(Some(3)));
    check(seats(4), &[(0, stream, "grant j0 1x3"), (0, submit(0, 0, 0, 3, 9), "")]);
}

#[test]
fn results_that_wait_hold_the_stream() {
    let stream = || open(0, None, Chunking::Fixed(1), Delivery::Streamed(None));
    let consumed = |items| Event::Consumed { job: JobId(0), items, bytes: 10 * items };
    check(
        SchedulerConfig { stream_bytes: 25, ..seats(2) },
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, stream(), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 9), "send w0 c0 0+1, grant j0 1x1"),
            (0, answer(0, 0, 1, 50_000), "retire c0"),
            (0, submit(0, 1, 1, 1, 9), "send w0 c1 0+1"),
            (0, answer(0, 1, 1, 50_000), "retire c1"),
            (0, consumed(1), "grant j0 1x1"),
        ],
    );
    // One result alone is above the limit: still one goes, whenever the consumer has taken all.
    check(
        SchedulerConfig { stream_bytes: 5, ..seats(1) },
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, stream(), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 9), "send w0 c0 0+1"),
            (0, answer(0, 0, 1, 50_000), "retire c0"),
            (0, consumed(1), "grant j0 1x1"),
        ],
    );
}

#[test]
fn streams_share_what_may_wait() {
    let stream = |job| open(job, None, Chunking::Fixed(1), Delivery::Streamed(None));
    check(
        SchedulerConfig { stream_bytes: 50, ..seats(2) },
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, stream(1), "grant j1 1x1"),
            (0, stream(0), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 9), "send w0 c0 0+1, grant j0 1x1"),
            (0, answer(0, 0, 1, 50_000), "retire c0"),
            (0, submit(0, 1, 1, 1, 9), "send w0 c1 0+1"),
            (0, answer(0, 1, 1, 50_000), "retire c1"),
            // The other one ends: what waits of the first is within all of it.
            (0, Event::Exhausted { job: JobId(1), items: 0 }, "finish j1"),
            (0, Event::Consumed { job: JobId(0), items: 0, bytes: 0 }, "grant j0 3x1"),
        ],
    );
}

/// A chunk of six items of which the only worker has answered the first two; then it dies.
fn death(at: Whereabouts, then: &[(u64, Event, &str)]) {
    let mut script = vec![
        (0, born(0), ""),
        (0, ready(0), ""),
        (0, fixed(0, 6, 6), "grant j0 1x6"),
        (0, submit(0, 0, 0, 6, 60), "send w0 c0 0+6"),
        (0, end(0, 6), ""),
        (0, answer(0, 0, 2, 5), ""),
    ];
    let (first, rest) = then.split_first().unwrap();
    script.push((first.0, exit(0, at), first.2));
    script.extend(rest.iter().cloned());
    check(seats(4), &script);
}

#[test]
fn the_item_a_worker_died_in_is_lost_and_the_others_go_again() {
    let again = [
        (0, Event::Tick, "reclaim c0, lose j0 i3"),
        (0, born(1), ""),
        (0, ready(1), ""),
        (0, restored(0, 70), "send w1 c0 2+1, send w1 c0 4+2"),
        (0, answer(1, 0, 1, 5), ""),
        (0, answer(1, 0, 2, 5), "retire c0, finish j0"),
    ];
    death(Calling(3), &again);
}

#[test]
fn who_died_translating_names_no_item_so_they_go_one_by_one() {
    let singly = [
        (0, Event::Tick, "reclaim c0"),
        (0, born(1), ""),
        (0, ready(1), ""),
        (0, restored(0, 60), "send w1 c0 2+1, send w1 c0 3+1"),
        (0, exit(1, Translating), "lose j0 i2"),
        (0, born(2), ""),
        (0, ready(2), "send w2 c0 3+1, send w2 c0 4+1"),
    ];
    death(Translating, &singly);
    death(Calling(99), &singly);
    death(Calling(1), &singly);
    death(Between, &singly);
}

#[test]
fn a_piece_that_was_not_begun_is_blamed_at_the_third_time_only() {
    check(
        seats(4),
        &[
            (0, fixed(0, 2, 2), "grant j0 1x2"),
            (0, submit(0, 0, 0, 2, 60), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+2"),
            (0, exit(0, Between), ""),
            (0, born(1), ""),
            (0, ready(1), "send w1 c0 0+2"),
            (0, exit(1, Between), ""),
            (0, born(2), ""),
            (0, ready(2), "send w2 c0 0+2"),
            (0, exit(2, Between), "reclaim c0"),
            (0, born(3), ""),
            (0, ready(3), ""),
            (0, restored(0, 60), "send w3 c0 0+1"),
        ],
    );
}

#[test]
fn cancelling_drops_interrupts_and_ends_when_nothing_runs() {
    check(
        seats(1),
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, fixed(0, 9, 1), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 9), "send w0 c0 0+1, grant j0 3x1"),
            (0, submit(0, 1, 1, 1, 9), ""),
            (0, cancel(0), "retire c1, interrupt w0"),
            (0, cancel(0), ""),
            (0, submit(0, 2, 2, 1, 9), "retire c2"),
            (0, exit(0, Calling(0)), "retire c0, finish j0"),
            (0, submit(0, 3, 3, 1, 9), "retire c3"),
            (0, cancel(0), ""),
        ],
    );
}

/// One worker at a short piece of job 0, with one of job 1 to follow.
fn two_jobs(then: &[(u64, Event, &str)]) {
    let mut script = vec![
        (0, born(0), ""),
        (0, ready(0), ""),
        (0, fixed(0, 9, 1), "grant j0 1x1"),
        (0, submit(0, 0, 0, 1, 9), "send w0 c0 0+1, grant j0 3x1"),
        (0, fixed(1, 9, 1), "grant j1 1x1"),
        (0, submit(1, 1, 0, 1, 9), "grant j1 2x1"),
        (0, answer(0, 0, 1, 5), "retire c0, send w0 c1 0+1, grant j1 1x1"),
        (0, answer(0, 1, 1, 5), "retire c1"),
        (0, submit(0, 2, 1, 1, 9), "send w0 c2 0+1, grant j0 1x1"),
        (0, submit(1, 3, 1, 1, 9), "send w0 c3 0+1, grant j1 1x1"),
    ];
    script.extend(then.iter().cloned());
    check(seats(1), &script);
}

#[test]
fn who_is_killed_for_one_job_does_not_cost_another_its_item() {
    let successor = WorkerId { slot: 0, generation: 2 };
    let restarted = [
        (0, cancel(0), "interrupt w0"),
        (0, answer(0, 2, 1, 5), "retire c2, finish j0"),
        (0, exit(0, Between), ""),
        (0, Event::Born { worker: successor }, ""),
        (0, Event::Ready { worker: successor }, "send w0 c3 0+1"),
    ];
    two_jobs(&restarted);
}

#[test]
fn a_piece_to_follow_is_interrupted_when_its_turn_comes() {
    two_jobs(&[(0, cancel(1), ""), (0, answer(0, 2, 1, 5), "retire c2, interrupt w0")]);
}

#[test]
fn termination_drops_everything() {
    let ended = [
        (0, Event::Terminated, "retire c2, retire c3, finish j0, finish j1"),
        (0, answer(0, 2, 1, 5), ""),
        (0, submit(1, 4, 2, 1, 9), "retire c4"),
        (0, exit(0, Calling(1)), ""),
        (0, fixed(2, 9, 1), "finish j2"),
    ];
    two_jobs(&ended);
}

#[test]
fn workers_above_the_new_size_get_nothing_more() {
    check(
        seats(2),
        &[
            (0, born(0), ""),
            (0, born(1), ""),
            (0, ready(1), ""),
            (0, fixed(0, 9, 1), "grant j0 1x1"),
            (0, Event::Resized { processes: 1 }, ""),
            (0, submit(0, 0, 0, 1, 9), "grant j0 2x1"),
            (0, Event::Resized { processes: 2 }, "grant j0 1x1"),
            (0, ready(0), "send w0 c0 0+1, grant j0 1x1"),
        ],
    );
}

#[test]
fn a_worker_born_above_the_new_size_gets_nothing_even_if_the_pool_grows_again() {
    check(
        seats(2),
        &[
            (0, fixed(0, 9, 1), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 9), "grant j0 3x1"),
            (0, Event::Resized { processes: 1 }, ""),
            (0, born(1), ""),
            (0, Event::Resized { processes: 2 }, ""),
            (0, ready(1), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+1, grant j0 1x1"),
        ],
    );
}

#[test]
fn what_makes_no_sense_is_ignored() {
    check(
        seats(1),
        &[
            (0, ready(0), ""),
            (0, exit(0, Calling(0)), ""),
            (0, answer(0, 0, 1, 5), ""),
            (0, end(7, 1), ""),
            (0, cancel(7), ""),
            (0, restored(7, 1), ""),
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, fixed(0, 9, 2), "grant j0 1x2"),
            (0, fixed(0, 9, 2), ""),
            (0, submit(0, 0, 0, 2, 9), "send w0 c0 0+2, grant j0 3x2"),
            (0, submit(0, 0, 0, 2, 9), ""),
            (0, answer(0, 1, 2, 5), ""),
            (0, answer(0, 0, 0, 5), ""),
            (0, restored(0, 9), ""),
            (0, answer(0, 0, 9, 5), "retire c0"),
        ],
    );
}

#[test]
fn the_tail_is_cut_so_that_all_have_a_share() {
    let job = open(0, Some(21), Chunking::Automatic, Delivery::Collected);
    check(
        seats(2),
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, job, "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 9), "send w0 c0 0+1, grant j0 3x1"),
            // Even if a feed forms more than it was told, what is sent is cut.
            (0, submit(0, 1, 1, 20, 180), ""),
            (0, end(0, 21), ""),
            (0, born(1), ""),
            (0, answer(0, 0, 1, 100), "retire c0, send w0 c1 0+5, send w0 c1 5+4"),
            (0, ready(1), "send w1 c1 9+3, send w1 c1 12+3"),
        ],
    );
}

#[test]
fn a_smaller_size_reaches_a_feed_that_holds_credit() {
    let job = open(0, None, Chunking::Automatic, Delivery::Collected);
    check(
        seats(1),
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, job, "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 9), "send w0 c0 0+1, grant j0 1x1"),
            (0, answer(0, 0, 1, 100), "retire c0, grant j0 2x8"),
            (0, submit(0, 1, 1, 8, 72), "send w0 c1 0+8, grant j0 1x8"),
            (0, answer(0, 1, 8, 100_000), "retire c1, grant j0 0x1"),
        ],
    );
}

#[test]
fn jobs_take_turns() {
    check(
        seats(1),
        &[
            (0, fixed(0, 9, 1), "grant j0 1x1"),
            (0, fixed(1, 9, 1), "grant j1 1x1"),
            (0, submit(0, 0, 0, 1, 9), "grant j0 2x1"),
            (0, submit(0, 1, 1, 1, 9), ""),
            (0, submit(1, 2, 0, 1, 9), "grant j1 2x1"),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+1, grant j0 1x1"),
            (0, answer(0, 0, 1, 50_000), "retire c0, send w0 c2 0+1, grant j1 1x1"),
        ],
    );
}
