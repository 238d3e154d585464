//! Scheduler and supervisor together, in a simulated world, under virtual time and seeded faults.
//!
//! A seed makes a [`plan`](plan::Plan) (pool, jobs, faults); the [`world`] plays driver, feeds, consumers and
//! [processes](process); the [`audit`] keeps its own account of every item, chunk and worker, and stops at the first
//! step after which something is wrong that must always hold. One seed again: `SEED=42 cargo test --test simulation`;
//! with `TRACE=1` it prints the events; `SEEDS=20000` tries more of them.

#[path = "simulation/audit.rs"]
mod audit;
#[path = "simulation/contents.rs"]
mod contents;
#[path = "simulation/plan.rs"]
mod plan;
#[path = "simulation/process.rs"]
mod process;
#[path = "simulation/seats.rs"]
mod seats;
#[path = "simulation/staff.rs"]
mod staff;
#[path = "simulation/world.rs"]
mod world;

use audit::Seen;
use contents::Mend;
use plan::{JobPlan, MILLI, Plan, Rng};
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use world::World;

/// Enough to see each interesting outcome several times, few enough for a quick test.
const SEEDS: u64 = 500;

/// Within so many seeds each mend is missed.
const SEEDS_TO_MISS: u64 = 2_000;

fn run(seed: u64, without: Option<Mend>) -> (Seen, u64) {
    let mut rng = Rng(seed);
    let plan = Plan::random(&mut rng);
    let mut world = World::new(plan, rng, without);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| world.run()));
    match outcome {
        Ok(seen) => (seen, world.steps),
        Err(cause) => {
            eprintln!("failed after {} steps: run again with SEED={seed}", world.steps);
            std::panic::resume_unwind(cause)
        }
    }
}

#[test]
fn many_seeds() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let one = number("SEED");
    let seeds = one.map_or(0..number("SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let mut all = Seen::default();
    let mut steps = 0;
    for seed in seeds {
        let (seen, taken) = run(seed, None);
        steps += taken;
        for (what, count) in seen.0 {
            *all.0.entry(what).or_default() += count;
        }
    }
    println!("{steps} steps; seen: {:#?}", all.0);
    for what in INTERESTING.iter().filter(|_| one.is_none()) {
        assert!(all.0.contains_key(what), "no seed has seen: {what}");
    }
}

/// Outcomes without which the many seeds would prove little.
const INTERESTING: [&str; 28] = [
    "accident",
    "answered in parts",
    "broken",
    "cut",
    "feed blocked",
    "forfeited",
    "given back",
    "gone on before it was stopped",
    "impatient",
    "interrupted",
    "interrupted with a piece to follow",
    "killed at the end",
    "killed for another's sake",
    "killed out of patience",
    "lost",
    "lost for what cannot be had again",
    "not succeeded",
    "one piece in advance",
    "overdue",
    "oversized",
    "reclaimed again",
    "stood by",
    "stopped at the gate",
    "submitted too late",
    "succeeded",
    "surrendered",
    "went again from lent bytes",
    "window shrunk below what is in flight",
];

/// Each of these holds what a call is promised: without it, calls see what they must not.
#[test]
fn a_mend_that_is_taken_out_is_missed() {
    for mend in [Mend::Encoding, Mend::Gate, Mend::Begun, Mend::Separation, Mend::Drop] {
        let found = (0..SEEDS_TO_MISS).find_map(|seed| {
            let cause = std::panic::catch_unwind(|| run(seed, Some(mend))).err()?;
            let text = cause.downcast_ref::<String>().cloned().unwrap_or_default();
            let is_seen = text.contains("is not what it was") || text.contains("sees what another wrote");
            is_seen.then_some((seed, text))
        });
        let (seed, text) = found.unwrap_or_else(|| panic!("nothing is wrong without {mend:?}"));
        println!("without {mend:?}: seed {seed}: {text}");
    }
}

/// Chunks, and how much longer the job took than its calls on so many workers would.
fn measure(processes: u32, job: JobPlan) -> (u64, f64) {
    let ideal = job.cost.sum(0, 0, job.items) as f64 / 1e9 / f64::from(processes);
    let mut world = World::new(Plan::calm(processes, job), Rng(1), None);
    world.run();
    let (seconds, chunks, _) = world.bill();
    println!("{chunks} chunks, {:.1} ms, ideal {:.1} ms", seconds * 1e3, ideal * 1e3);
    (chunks, seconds - ideal)
}

#[test]
fn chunks_fit_their_items() {
    // Births take up to 25 ms here, and nobody knows in advance what the first items cost.
    let (chunks, lag) = measure(2, JobPlan::even(200_000, 100, 8));
    assert!((20..80).contains(&chunks) && lag < 0.08, "{chunks} chunks, {lag} s");
    let (chunks, lag) = measure(2, JobPlan::even(2_000, 50_000, 8));
    assert!((2_000 / 50..2_000 / 20).contains(&chunks) && lag < 0.04, "{chunks} chunks, {lag} s");
    let (chunks, lag) = measure(2, JobPlan::even(100, 1_000_000, 8 << 20));
    assert!(chunks == 100 && lag < 0.04, "{chunks} chunks, {lag} s");
}

#[test]
fn a_chunk_costs_the_scheduler_the_same_in_a_large_pool() {
    let effort = |processes: u32, items: u64| {
        let mut world = World::new(Plan::calm(processes, JobPlan::even(items, 20_000, 8)), Rng(1), None);
        world.run();
        println!("{processes} workers: {:?}", world.bill());
        world.bill().2
    };
    let (small, large) = (effort(10, 1_000_000), effort(10_000, 12_000_000));
    assert!(large < small * 1.2, "{small} and {large} operations per chunk");
}

/// Jobs that compete: the shares they had when the first was finished, and the longest that one took, in ms.
fn compete(processes: u32, jobs: &[(u64, u64, u64)]) -> (Vec<u64>, Vec<u64>) {
    let mut plan = Plan::calm(processes, JobPlan::even(0, 0, 8));
    plan.jobs = jobs
        .iter()
        .map(|&(opens, items, cost)| JobPlan { opens: opens * MILLI, ..JobPlan::even(items, cost, 8) })
        .collect();
    let mut world = World::new(plan, Rng(1), None);
    world.run();
    let took = world.spans.values().map(|(opened, finished)| (finished - opened) / MILLI).collect();
    (world.shares.iter().map(|nanos| nanos / MILLI).collect(), took)
}

#[test]
fn jobs_share_a_pool_by_time_whatever_their_items_cost() {
    // Each has six seconds of work: 20 µs, 1 ms and 30 ms an item.
    let jobs = [(0, 300_000, 20_000), (0, 6_000, 1_000_000), (0, 200, 30_000_000)];
    let (shares, _) = compete(4, &jobs);
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(*least * 5 > *most * 4, "{shares:?} ms of work each");
}

#[test]
fn a_small_job_does_not_wait_for_a_large_one() {
    // It has 10 ms of work for itself, and half of the pool.
    let (_, took) = compete(4, &[(0, 400_000, 100_000), (2_000, 10, 1_000_000)]);
    assert!(took[1] < 40 && took[0] > 9_000, "{took:?} ms");
}

/// The schedule at any scale, as a table: `cargo test --release -p forklift-core --test simulation -- --ignored
/// --nocapture`. Items are as many as make the same number of chunks in each pool.
#[test]
#[ignore = "takes some seconds, and the memory of 10^8 items"]
fn a_hundred_million_items_in_a_pool_of_ten_thousand() {
    println!(
        "| workers | items | chunks | items per chunk | scheduler, ns per chunk | its passes through loops |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut efforts = Vec::new();
    for (processes, items) in [(10, 400_000), (1_000, 10_000_000), (10_000, 100_000_000)] {
        let mut world = World::new(Plan::calm(processes, JobPlan::even(items, MILLI, 8)), Rng(1), None);
        world.clock = Some(Duration::ZERO);
        world.run();
        let (_, chunks, effort) = world.bill();
        let nanos = world.clock.unwrap_or_default().as_nanos() / u128::from(chunks);
        println!("| {processes} | {items} | {chunks} | {} | {nanos} | {effort:.1} |", items / chunks);
        efforts.push(effort);
    }
    assert!(efforts[2] < efforts[0] * 1.5, "{efforts:?} operations per chunk");
}
