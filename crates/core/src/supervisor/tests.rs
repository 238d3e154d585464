//! Scripts: events in, expected commands out.
//!
//! Commands are written short: `bear 0.1` (slot 0, generation 1), `dismiss 0.1`, `kill 0.1`, `break`, `rest`.

use super::*;
use crate::event::{Spent, Wear, Whereabouts};
use crate::id::ChunkId;
use std::time::Duration;

/// Shows the events to a supervisor, one by one at the times given (in ms), and compares what it orders.
fn check(config: SupervisorConfig, script: &[(u64, Event, &str)]) -> Supervisor {
    let mut supervisor = Supervisor::new(config);
    for (step, (at, event, expected)) in script.iter().enumerate() {
        let mut commands = Vec::new();
        supervisor.step(ms(*at), event, &mut commands);
        let commands: Vec<String> = commands.iter().map(short).collect();
        assert_eq!(commands.join(", "), *expected, "step {step}: {event:?}");
    }
    supervisor
}

fn short(command: &Command) -> String {
    let name = |worker: &WorkerId| format!("{}.{}", worker.slot, worker.generation);
    match command {
        Command::Bear { worker } => format!("bear {}", name(worker)),
        Command::Dismiss { worker } => format!("dismiss {}", name(worker)),
        Command::Kill { worker } => format!("kill {}", name(worker)),
        Command::Break => "break".into(),
        Command::Rest => "rest".into(),
        other => panic!("{other:?} is not the supervisor's to give"),
    }
}

fn ms(at: u64) -> Time {
    Time(at * 1_000_000)
}

fn seats(processes: u32) -> SupervisorConfig {
    SupervisorConfig {
        processes,
        birth_patience: Duration::from_millis(1000),
        leave_patience: Duration::from_millis(100),
        ..SupervisorConfig::default()
    }
}

fn id(slot: u32, generation: u32) -> WorkerId {
    WorkerId { slot, generation }
}

fn born(slot: u32, generation: u32) -> Event {
    Event::Born { worker: id(slot, generation) }
}

fn ready(slot: u32, generation: u32) -> Event {
    Event::Ready { worker: id(slot, generation) }
}

fn stillborn(slot: u32, generation: u32) -> Event {
    Event::Stillborn { worker: id(slot, generation) }
}

fn refused(slot: u32, generation: u32) -> Event {
    Event::Refused { worker: id(slot, generation) }
}

fn exited(slot: u32, generation: u32) -> Event {
    Event::Exited { worker: id(slot, generation), at: Whereabouts::Between, begun: 0 }
}

fn returned(slot: u32, generation: u32, items: u32) -> Event {
    let (chunk, bytes, spent, last) = (ChunkId(0), 0, Spent::default(), true);
    Event::Returned { worker: id(slot, generation), chunk, items, last, bytes, spent }
}

fn used_up(slot: u32, generation: u32) -> Event {
    Event::UsedUp { worker: id(slot, generation), by: Wear::Calls }
}

fn excused(slot: u32, generation: u32) -> Event {
    Event::Excused { worker: id(slot, generation) }
}

fn resized(processes: u32) -> Event {
    Event::Resized { processes }
}

#[test]
fn nobody_is_born_before_someone_is_wanted() {
    check(
        seats(2),
        &[(0, Event::Tick, ""), (0, Event::Wanted, "bear 0.1, bear 1.1"), (0, Event::Wanted, "")],
    );
    check(seats(2), &[(0, resized(3), ""), (0, Event::Closed, "rest"), (0, Event::Wanted, "")]);
}

#[test]
fn births_overlap_up_to_the_limit() {
    check(
        SupervisorConfig { births_at_once: 2, ..seats(4) },
        &[
            (0, Event::Wanted, "bear 0.1, bear 1.1"),
            (0, born(0, 1), ""),
            (0, born(1, 1), ""),
            (0, ready(1, 1), "bear 2.1"),
            (0, ready(0, 1), "bear 3.1"),
        ],
    );
}

#[test]
fn a_death_is_followed_by_a_birth() {
    check(
        seats(1),
        &[
            (0, Event::Wanted, "bear 0.1"),
            (0, born(0, 1), ""),
            (0, ready(0, 1), ""),
            (0, exited(0, 1), "bear 0.2"),
            (0, exited(0, 1), ""),
            (0, born(0, 2), ""),
            (0, ready(0, 2), ""),
            (0, Event::Closed, "dismiss 0.2"),
            (0, exited(0, 2), "rest"),
            (0, Event::Terminated, ""),
        ],
    );
}

/// The worker in seat 0 is ready.
fn at_work() -> Vec<(u64, Event, &'static str)> {
    vec![(0, Event::Wanted, "bear 0.1"), (0, born(0, 1), ""), (0, ready(0, 1), "")]
}

fn check_at_work(script: &[(u64, Event, &'static str)]) -> Supervisor {
    check(seats(1), &[at_work().as_slice(), script].concat())
}

#[test]
fn a_successor_is_born_before_the_one_that_is_used_up_leaves() {
    let supervisor = check_at_work(&[
        (0, returned(0, 1, 3), ""),
        (0, used_up(0, 1), "bear 0.2"),
        (0, used_up(0, 1), ""),
        (0, returned(0, 1, 2), ""),
        (0, excused(0, 1), ""),
        (0, born(0, 2), "dismiss 0.1"),
        (50, ready(0, 2), ""),
        // The old one does not leave.
        (99, Event::Tick, ""),
        (100, Event::Tick, "kill 0.1"),
    ]);
    let member = |generation, stage, calls| Member { worker: id(0, generation), stage, calls };
    assert_eq!(supervisor.staff(), [member(2, Stage::Serving, 0), member(1, Stage::Leaving, 5)]);
    assert_eq!(supervisor.deadline(), None);
    assert_eq!(supervisor.recycled(), Recycled { calls: 1, memory: 0 });
}

#[test]
fn a_successor_waits_for_one_that_is_still_at_its_last_call() {
    let supervisor = check_at_work(&[
        (0, used_up(0, 1), "bear 0.2"),
        (0, born(0, 2), ""),
        (0, ready(0, 2), ""),
        (9000, Event::Tick, ""),
        (9000, excused(0, 1), "dismiss 0.1"),
        (9001, exited(0, 1), ""),
    ]);
    let successor = Member { worker: id(0, 2), stage: Stage::Serving, calls: 0 };
    assert_eq!(supervisor.staff(), [successor]);
}

#[test]
fn who_cannot_be_succeeded_leaves_all_the_same() {
    check_at_work(&[
        (0, used_up(0, 1), "bear 0.2"),
        // Tried again for as long as the old one is at work.
        (0, stillborn(0, 2), "bear 0.3"),
        (0, excused(0, 1), ""),
        (0, stillborn(0, 3), "dismiss 0.1"),
        (0, exited(0, 1), ""),
        (100, Event::Tick, "bear 0.4"),
    ]);
}

#[test]
fn a_successor_takes_the_seat_of_one_that_died() {
    check_at_work(&[
        (0, used_up(0, 1), "bear 0.2"),
        (0, exited(0, 1), ""),
        (0, born(0, 2), ""),
        (0, ready(0, 2), ""),
        (0, exited(0, 2), "bear 0.3"),
    ]);
    check_at_work(&[
        (0, used_up(0, 1), "bear 0.2"),
        (0, born(0, 2), ""),
        (0, ready(0, 2), ""),
        (0, exited(0, 2), "bear 0.3"),
        (0, exited(0, 1), ""),
    ]);
}

#[test]
fn successors_leave_with_their_seat_and_with_the_pool() {
    let begin = [
        (0, Event::Wanted, "bear 0.1, bear 1.1"),
        (0, born(0, 1), ""),
        (0, born(1, 1), ""),
        (0, ready(0, 1), ""),
        (0, ready(1, 1), ""),
        (0, used_up(0, 1), "bear 0.2"),
        (0, used_up(1, 1), "bear 1.2"),
        (0, born(1, 2), ""),
    ];
    let smaller = [
        (0, resized(1), "dismiss 1.1, dismiss 1.2"),
        (0, Event::Closed, "dismiss 0.1"),
        (0, exited(1, 1), ""),
        (0, exited(1, 2), ""),
        (0, exited(0, 1), ""),
        (0, born(0, 2), "dismiss 0.2"),
        (0, exited(0, 2), "rest"),
    ];
    check(seats(2), &[begin.as_slice(), &smaller].concat());
    let terminated = [
        (0, Event::Terminated, "kill 0.1, kill 1.1, kill 1.2"),
        (0, born(0, 2), "kill 0.2"),
        (0, exited(0, 1), ""),
        (0, exited(1, 1), ""),
        (0, exited(1, 2), ""),
        (0, exited(0, 2), "rest"),
    ];
    check(seats(2), &[begin.as_slice(), &terminated].concat());
}

#[test]
fn births_that_fail_are_tried_again_with_pauses_until_the_pool_breaks() {
    let script = [
        (0, Event::Wanted, "bear 0.1"),
        (0, stillborn(0, 1), "bear 0.2"),
        (0, born(0, 2), ""),
        (5, exited(0, 2), ""),
        (104, Event::Tick, ""),
        (105, Event::Tick, "bear 0.3"),
        (105, stillborn(0, 3), "break"),
        (900, Event::Wanted, ""),
        (900, Event::Closed, "rest"),
    ];
    check(seats(1), &script);
    let supervisor = check(seats(1), &script[..4]);
    assert_eq!(supervisor.deadline(), Some(ms(105)));
}

#[test]
fn one_that_becomes_ready_clears_the_count() {
    check(
        seats(1),
        &[
            (0, Event::Wanted, "bear 0.1"),
            (0, stillborn(0, 1), "bear 0.2"),
            (0, stillborn(0, 2), ""),
            (100, Event::Tick, "bear 0.3"),
            (100, born(0, 3), ""),
            (100, ready(0, 3), ""),
            (100, exited(0, 3), "bear 0.4"),
            (100, stillborn(0, 4), "bear 0.5"),
        ],
    );
}

#[test]
fn births_that_overlap_fail_as_one() {
    check(
        seats(4),
        &[
            (0, Event::Wanted, "bear 0.1, bear 1.1, bear 2.1, bear 3.1"),
            (1, stillborn(0, 1), "bear 0.2"),
            (1, stillborn(1, 1), "bear 1.2"),
            (1, stillborn(2, 1), "bear 2.2"),
            (1, stillborn(3, 1), "bear 3.2"),
        ],
    );
}

#[test]
fn who_takes_too_long_to_start_is_killed_and_counts_as_failed() {
    check(
        SupervisorConfig { failed_births_max: 1, ..seats(1) },
        &[
            (0, Event::Wanted, "bear 0.1"),
            (10, born(0, 1), ""),
            (1009, Event::Tick, ""),
            (1010, Event::Tick, "kill 0.1, break"),
            (1010, ready(0, 1), ""),
            (1011, exited(0, 1), ""),
            (1011, Event::Terminated, "rest"),
        ],
    );
}

#[test]
fn an_initializer_that_raises_breaks_the_pool_at_once() {
    check(
        seats(2),
        &[
            (0, Event::Wanted, "bear 0.1, bear 1.1"),
            (0, born(0, 1), ""),
            (0, born(1, 1), ""),
            (0, refused(0, 1), "break"),
            (0, exited(0, 1), ""),
            (0, refused(1, 1), ""),
            (0, Event::Terminated, "kill 1.1"),
            (0, exited(1, 1), "rest"),
        ],
    );
}

#[test]
fn an_initializer_that_had_not_raised_before_gets_more_chances() {
    check(
        seats(1),
        &[
            (0, Event::Wanted, "bear 0.1"),
            (0, born(0, 1), ""),
            (0, ready(0, 1), ""),
            (0, exited(0, 1), "bear 0.2"),
            (0, born(0, 2), ""),
            (0, refused(0, 2), "bear 0.3"),
            (0, exited(0, 2), ""),
        ],
    );
}

#[test]
fn a_smaller_pool_dismisses_the_last_seats_without_haste() {
    check(
        seats(3),
        &[
            (0, Event::Wanted, "bear 0.1, bear 1.1, bear 2.1"),
            (0, born(0, 1), ""),
            (0, born(1, 1), ""),
            (0, ready(0, 1), ""),
            (0, ready(1, 1), ""),
            (0, resized(1), "dismiss 1.1"),
            (0, born(2, 1), "dismiss 2.1"),
            (9000, Event::Tick, ""),
            (9000, exited(2, 1), ""),
            (9000, resized(2), "bear 1.2"),
            (9000, stillborn(1, 2), "bear 1.3"),
            (9000, Event::Closed, "dismiss 0.1"),
            (9000, exited(0, 1), ""),
            (9100, Event::Tick, "kill 1.1"),
            (9100, exited(1, 1), ""),
            (9100, born(1, 3), "dismiss 1.3"),
            (9100, exited(1, 3), "rest"),
        ],
    );
}

#[test]
fn a_birth_under_way_is_kept_if_it_is_wanted_again_by_then() {
    check(
        seats(2),
        &[
            (0, Event::Wanted, "bear 0.1, bear 1.1"),
            (0, resized(1), ""),
            (0, resized(2), ""),
            (0, born(1, 1), ""),
        ],
    );
}

#[test]
fn termination_kills_everyone_even_the_unborn() {
    check(
        seats(3),
        &[
            (0, Event::Wanted, "bear 0.1, bear 1.1, bear 2.1"),
            (0, born(0, 1), ""),
            (0, ready(0, 1), ""),
            (0, born(1, 1), ""),
            (0, Event::Terminated, "kill 0.1, kill 1.1"),
            (0, Event::Terminated, ""),
            (0, exited(0, 1), ""),
            (0, exited(1, 1), ""),
            (0, born(2, 1), "kill 2.1"),
            (0, Event::Closed, ""),
            (0, exited(2, 1), "rest"),
            (0, exited(2, 1), ""),
        ],
    );
}

#[test]
fn termination_kills_those_who_were_leaving() {
    check(
        seats(1),
        &[
            (0, Event::Wanted, "bear 0.1"),
            (0, born(0, 1), ""),
            (0, ready(0, 1), ""),
            (0, Event::Closed, "dismiss 0.1"),
            (0, Event::Terminated, "kill 0.1"),
            (500, exited(0, 1), "rest"),
        ],
    );
}

#[test]
fn what_makes_no_sense_is_ignored() {
    check(
        seats(1),
        &[
            (0, born(0, 1), ""),
            (0, ready(7, 1), ""),
            (0, exited(0, 0), ""),
            (0, refused(0, 1), ""),
            (0, Event::Wanted, "bear 0.1"),
            (0, ready(0, 1), ""),
            (0, born(0, 2), ""),
            (0, born(0, 1), ""),
            (0, stillborn(0, 1), ""),
            (0, returned(3, 1, 9), ""),
            (0, ready(0, 1), ""),
            (0, ready(0, 1), ""),
            (0, refused(0, 1), ""),
        ],
    );
}
