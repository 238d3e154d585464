//! What a seed decides before anything happens: the pool, its jobs, and what will go wrong.

use forklift_core::config::{SchedulerConfig, SupervisorConfig};
use forklift_core::event::{Chunking, Delivery, Holding, Kept};
use forklift_core::pressure::HALVINGS_MAX;
use std::time::Duration;

pub(crate) const MICRO: u64 = 1_000;
pub(crate) const MILLI: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Splitmix64: a few lines, good enough, and the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From 0 to `limit`, without it.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        unit(self.next()) < probability
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// From 0 to 1.
pub(crate) fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// How a number depends on the item's index.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Spread {
    Even(u64),
    /// From the first to the second.
    Uniform(u64, u64),
    Exponential(u64),
    /// One in a hundred is three hundred times as much.
    Tailed(u64),
    /// The first up to this item, then the second.
    Step(u64, u64, u64),
}

impl Spread {
    pub(crate) fn of(self, salt: u64, item: u64) -> u64 {
        let random = mix(salt ^ mix(item));
        match self {
            Spread::Even(value) => value,
            Spread::Uniform(low, high) => low + random % (high - low + 1),
            Spread::Exponential(mean) => (-(1.0 - unit(random)).ln() * mean as f64) as u64,
            Spread::Tailed(value) => value * if random.is_multiple_of(100) { 300 } else { 1 },
            Spread::Step(at, before, after) => {
                if item < at {
                    before
                } else {
                    after
                }
            }
        }
    }

    pub(crate) fn sum(self, salt: u64, first: u64, items: u64) -> u64 {
        match self {
            Spread::Even(value) => value * items,
            _ => (first..first + items).map(|item| self.of(salt, item)).sum(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct JobPlan {
    pub(crate) opens: u64,
    pub(crate) items: u64,
    pub(crate) known: bool,
    pub(crate) chunking: Chunking,
    pub(crate) delivery: Delivery,
    pub(crate) cost: Spread,
    pub(crate) bytes_in: Spread,
    pub(crate) bytes_out: Spread,
    pub(crate) cancelled: Option<u64>,
    /// The consumer of a stream takes at most so many at a time, with this pause; `None` takes nothing at all.
    pub(crate) consumer: Option<(u64, u64)>,
    /// One item in so many kills whoever calls it; 0 is none.
    pub(crate) poison: u64,
    /// … and whoever decodes it.
    pub(crate) poison_decode: u64,
    /// … and whoever is about to begin with it.
    pub(crate) poison_begin: u64,
    /// … or makes him grow until he is stopped.
    pub(crate) poison_size: u64,
    /// One item in so many cannot be rebuilt, nor can those that were encoded with it.
    pub(crate) unreadable: u64,
    /// Whose the items' bytes are, and who could encode them again.
    pub(crate) holding: Holding,
    pub(crate) kept: Kept,
    /// How often the feed finds that items are not what they were.
    pub(crate) forfeits: f64,
    /// Whoever is at an item for so long is stopped.
    pub(crate) task_timeout: Option<u64>,
    /// From its middle on the iterable waits for this job to end.
    pub(crate) waits_for: Option<usize>,
    /// The iterable pauses before some chunks.
    pub(crate) stalls: f64,
    pub(crate) salt: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) supervisor: SupervisorConfig,
    pub(crate) jobs: Vec<JobPlan>,
    /// All items of all jobs weigh the same, no iterable pauses: the window is never exceeded.
    pub(crate) steady: bool,
    pub(crate) crash: f64,
    pub(crate) stillborn: f64,
    pub(crate) refuses: f64,
    pub(crate) dies_starting: f64,
    pub(crate) hangs_starting: f64,
    pub(crate) hangs_leaving: f64,
    /// A worker stands still for a while (swapped out, stopped, starved).
    pub(crate) stalls: f64,
    /// Births take up to so long.
    pub(crate) birth: u64,
    /// A worker has outgrown its memory after an answer.
    pub(crate) outgrows: f64,
    /// Idle or not, workers die of something else about this often.
    pub(crate) accident_every: Option<u64>,
    pub(crate) resizes: Vec<(u64, u32)>,
    /// Memory is short: when, and how often the windows are halved from then on.
    pub(crate) pressures: Vec<(u64, u32)>,
    pub(crate) terminated: Option<u64>,
    /// `join`: streams wait for nobody any more.
    pub(crate) unbounded: Option<u64>,
    /// Look at everything after every step; too slow for very large pools.
    pub(crate) audit: bool,
}

impl Plan {
    /// A pool without faults, with one job.
    pub(crate) fn calm(processes: u32, job: JobPlan) -> Plan {
        Plan {
            scheduler: SchedulerConfig { processes, ..SchedulerConfig::default() },
            supervisor: SupervisorConfig {
                processes,
                births_at_once: processes,
                ..SupervisorConfig::default()
            },
            jobs: vec![job],
            steady: true,
            crash: 0.0,
            stillborn: 0.0,
            refuses: 0.0,
            dies_starting: 0.0,
            hangs_starting: 0.0,
            hangs_leaving: 0.0,
            stalls: 0.0,
            birth: 20 * MILLI,
            outgrows: 0.0,
            accident_every: None,
            resizes: Vec::new(),
            pressures: Vec::new(),
            terminated: None,
            unbounded: None,
            audit: false,
        }
    }

    pub(crate) fn random(rng: &mut Rng) -> Plan {
        let processes = rng.pick(&[1, 1, 2, 2, 3, 4, 8, 20]);
        let tasks_per_worker = if rng.chance(0.3) { Some(rng.pick(&[1, 2, 7, 50])) } else { None };
        let mut scheduler = SchedulerConfig {
            processes,
            window_bytes: rng.pick(&[1_000, 100_000, 64 << 20]),
            stream_bytes: rng.pick(&[500, 50_000, 64 << 20]),
            chunk_bytes_max: rng.pick(&[400, 10_000, 4 << 20]),
            result_bytes_max: rng.pick(&[400, 10_000, 4 << 20]),
            message_cost: Duration::from_micros(rng.pick(&[20, 60, 200])),
            tasks_per_worker,
            ..SchedulerConfig::default()
        };
        scheduler.brief = scheduler.message_cost * 100;
        let supervisor = SupervisorConfig {
            processes,
            births_at_once: rng.pick(&[1, 2, 8]),
            birth_patience: Duration::from_secs(2),
            failed_births_max: rng.pick(&[1, 3, 5]),
            leave_patience: Duration::from_millis(300),
        };
        let faulty = rng.chance(0.7);
        let mut some = |probability: f64, much: f64| {
            if faulty && rng.chance(probability) { much } else { 0.0 }
        };
        let (crash, stillborn, refuses) = (some(0.5, 0.05), some(0.3, 0.1), some(0.1, 0.05));
        let (dies_starting, hangs_starting, hangs_leaving) =
            (some(0.3, 0.1), some(0.2, 0.05), some(0.3, 0.2));
        let (outgrows, stalls) = (some(0.3, 0.1), some(0.3, 0.02));
        let birth = if some(0.2, 1.0) > 0.0 { 1_900 * MILLI } else { 20 * MILLI };
        let accident_every = (some(0.3, 1.0) > 0.0).then(|| rng.between(10, 200) * MILLI);
        let steady = rng.chance(0.4);
        let bytes_in = rng.pick(&[Spread::Even(8), Spread::Even(300), Spread::Even(5000)]);
        let mut jobs: Vec<JobPlan> = Vec::new();
        // A storm: many short jobs at once, of which many are cancelled.
        let storm = rng.chance(0.25);
        // A crowd: brief items of many jobs, that are cancelled while their pieces lie behind each other.
        let crowd = !storm && rng.chance(0.25);
        // Before anything is known of weights, each of several jobs that open at once is granted a chunk.
        let steady = steady && !crowd;
        let count = match () {
            () if crowd => rng.between(20, 40),
            () if storm => rng.between(8, 20),
            () => rng.between(1, 5),
        };
        for index in 0..count as usize {
            let mut job = JobPlan::random(rng, index, faulty, steady);
            if storm {
                job.items %= 40;
                job.cost = Spread::Uniform(0, rng.pick(&[10 * MICRO, MILLI, 3 * MILLI]));
                job.opens = rng.below(60 * MILLI);
                let soon = rng.pick(&[2 * MILLI, 10 * MILLI, 60 * MILLI]);
                job.cancelled = rng.chance(0.5).then(|| rng.below(soon));
            }
            if crowd {
                job.items = if index == 0 { 600 } else { 20 };
                (job.poison, job.poison_begin, job.poison_decode, job.task_timeout) = (0, 0, 0, None);
                job.cost = Spread::Uniform(20 * MICRO, rng.pick(&[50 * MICRO, 200 * MICRO]));
                (job.chunking, job.consumer) = (Chunking::Fixed(1), Some((100, 0)));
                job.opens = rng.below(20 * MILLI);
                job.cancelled = (index % 4 > 0).then(|| rng.below(2 * MILLI));
            }
            if steady {
                (job.bytes_in, job.stalls, job.waits_for) = (bytes_in, 0.0, None);
            }
            if job.salt.is_multiple_of(5) && job.known && job.delivery == Delivery::Collected {
                (job.chunking, job.bytes_in, job.unreadable) = (Chunking::Numbered, Spread::Even(0), 0);
                (job.holding, job.kept) = (Holding::Lent, Kept::Not);
            }
            jobs.push(job);
        }
        let resizes = resizes(rng);
        let mut pressures = Vec::new();
        while faulty && rng.chance(0.5) {
            pressures.push((rng.below(SECOND), rng.below(u64::from(HALVINGS_MAX) + 1) as u32));
        }
        let terminated = rng.chance(0.15).then(|| rng.below(2 * SECOND));
        Plan {
            unbounded: jobs.iter().any(|job| job.consumer.is_none()).then(|| rng.below(3 * SECOND)),
            audit: true,
            scheduler,
            supervisor,
            jobs,
            steady,
            crash,
            stillborn,
            refuses,
            dies_starting,
            hangs_starting,
            hangs_leaving,
            stalls,
            birth,
            outgrows,
            accident_every,
            resizes,
            pressures,
            terminated,
        }
    }
}

fn resizes(rng: &mut Rng) -> Vec<(u64, u32)> {
    let mut resizes = Vec::new();
    while rng.chance(0.4) {
        let within = rng.pick(&[SECOND, 30 * MILLI]);
        resizes.push((rng.below(within), rng.pick(&[1, 2, 5, 9])));
    }
    resizes
}

impl JobPlan {
    pub(crate) fn even(items: u64, cost: u64, bytes: u64) -> JobPlan {
        JobPlan {
            opens: 0,
            items,
            known: true,
            chunking: Chunking::Automatic,
            delivery: Delivery::Collected,
            cost: Spread::Even(cost),
            bytes_in: Spread::Even(bytes),
            bytes_out: Spread::Even(bytes),
            cancelled: None,
            consumer: Some((1, 0)),
            poison: 0,
            poison_decode: 0,
            poison_begin: 0,
            poison_size: 0,
            unreadable: 0,
            holding: Holding::Own,
            kept: Kept::OneByOne,
            forfeits: 0.0,
            task_timeout: None,
            waits_for: None,
            stalls: 0.0,
            salt: 0,
        }
    }

    fn random(rng: &mut Rng, index: usize, faulty: bool, steady: bool) -> JobPlan {
        let base = rng.pick(&[100, 1_000, 50 * MICRO, MILLI, 20 * MILLI]);
        let items = match rng.below(8) {
            0 => 0,
            1 => 1,
            2..=4 => rng.between(2, 60),
            _ => rng.between(60, 1500),
        };
        let weight = rng.pick(&[0, 8, 300, 5000]);
        let weights = [Spread::Even(weight), Spread::Uniform(0, weight), Spread::Tailed(weight)];
        let even = [Spread::Even(weight)];
        let streamed = rng.chance(0.5);
        let buffer = rng.pick(&[None, None, Some(1), Some(5), Some(64), Some(700)]);
        let costs = [
            Spread::Even(base),
            Spread::Uniform(base / 10, base * 2),
            Spread::Exponential(base),
            Spread::Tailed(base),
            Spread::Step(items / 2, base, base * 30),
            Spread::Step(items / 2, base * 30, base),
        ];
        JobPlan {
            opens: rng.below(200 * MILLI),
            items,
            known: rng.chance(0.6),
            chunking: rng.pick(&[
                Chunking::Automatic,
                Chunking::Automatic,
                Chunking::Fixed(1),
                Chunking::Fixed(13),
            ]),
            delivery: if streamed { Delivery::Streamed(buffer) } else { Delivery::Collected },
            cost: rng.pick(&costs),
            bytes_in: rng.pick(&weights),
            bytes_out: if steady { even[0] } else { rng.pick(&weights) },
            cancelled: rng.chance(0.15).then(|| rng.below(SECOND)),
            consumer: if rng.chance(0.1) {
                None
            } else {
                Some((rng.pick(&[1, 3, 100]), rng.pick(&[0, 5 * MILLI])))
            },
            poison: if faulty && rng.chance(0.2) { rng.pick(&[7, 50, 300]) } else { 0 },
            poison_decode: if faulty && rng.chance(0.15) { rng.pick(&[50, 300]) } else { 0 },
            poison_begin: if faulty && rng.chance(0.1) { 100 } else { 0 },
            poison_size: if faulty && rng.chance(0.1) { 100 } else { 0 },
            unreadable: if rng.chance(0.15) { rng.pick(&[7, 50, 300]) } else { 0 },
            holding: rng.pick(&[Holding::Own, Holding::Own, Holding::Lent]),
            kept: rng.pick(&[Kept::Not, Kept::AsSent, Kept::OneByOne, Kept::OneByOne]),
            forfeits: rng.pick(&[0.0, 0.0, 0.3]),
            task_timeout: (faulty && rng.chance(0.2)).then_some(base * 10),
            waits_for: (index > 0 && rng.chance(0.15)).then(|| rng.below(index as u64) as usize),
            stalls: rng.pick(&[0.0, 0.0, 0.02]),
            salt: rng.next(),
        }
    }
}
