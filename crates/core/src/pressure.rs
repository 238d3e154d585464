//! How much a pool admits while memory is short: a pure state machine.
//!
//! # Rules
//!
//! 1. The pool's windows are halved, up to [`HALVINGS_MAX`] times; at the last step they hold one chunk at a time,
//!    whatever that weighs. Less is never admitted: a pool that stood still would not give anything back.
//! 2. Memory is *short* if less than the reserve is available, or if processes wait for memory for a noticeable part of
//!    the time (the kernel's pressure figures, where it gives them). Each look at short memory halves once more. If less
//!    than half the reserve is left, or nearly nothing else goes on any more, one look goes to the last step.
//! 3. Memory is *easy* if twice the reserve is available and hardly anybody waits. After [`EASY_LOOKS`] such looks in a
//!    row the windows are doubled, at each: pressure that comes back would have to be waited for again.
//! 4. In between everything stays as it is.
//! 5. Whatever else holds, the windows fit into what is available beyond the reserve, together with what the pool has
//!    already: so a pool does not bring about what it would then have to react to.

/// Halvings at which one chunk goes at a time.
pub const HALVINGS_MAX: u32 = 7;

/// Easy looks in a row before more is admitted again.
const EASY_LOOKS: u32 = 2;

/// The share of all memory that is left to others, and at most so much of it: what a desktop or a handful of daemons
/// need to go on without swapping.
const RESERVE_SHARE: u64 = 16;
const RESERVE_BYTES_MAX: u64 = 1 << 30;

/// Per cent of the last ten seconds in which some process waited for memory, and in which none did anything else.
const SOME_SHORT: f64 = 25.0;
const SOME_EASY: f64 = 10.0;
const FULL_SHORT: f64 = 5.0;
const FULL_EASY: f64 = 1.0;
const FULL_DIRE: f64 = 40.0;

/// What the machine says at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Reading {
    /// Bytes that may still be used.
    pub available: u64,
    /// Bytes that could be used at most, by all.
    pub total: u64,
    /// Per cent of the time in which some process waited for memory; 0 where the kernel does not say.
    pub some: f64,
    /// Per cent of the time in which all did.
    pub full: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Dire,
    Short,
    Fair,
    Easy,
}

/// What one pool admits.
#[derive(Debug, Default)]
pub struct Valve {
    halvings: u32,
    easy: u32,
    narrowed: u64,
}

impl Valve {
    /// Takes in a look at the machine, for a pool whose windows have `wanted` bytes in all and which has touched `held`
    /// bytes of memory for them. Returns how often the windows are halved now.
    pub fn step(&mut self, reading: &Reading, wanted: u64, held: u64) -> u32 {
        let reserve = (reading.total / RESERVE_SHARE).min(RESERVE_BYTES_MAX);
        let before = self.halvings;
        let weather = weather(reading, reserve);
        self.easy = if weather == Weather::Easy { self.easy + 1 } else { 0 };
        self.halvings = match weather {
            Weather::Dire => HALVINGS_MAX,
            Weather::Short => (before + 1).min(HALVINGS_MAX),
            Weather::Fair => before,
            Weather::Easy if self.easy >= EASY_LOOKS => before.saturating_sub(1),
            Weather::Easy => before,
        };
        let room = reading.available.saturating_add(held).saturating_sub(reserve);
        while self.halvings < HALVINGS_MAX && admitted(wanted, self.halvings) > room {
            self.halvings += 1;
        }
        self.narrowed += u64::from(self.halvings > before);
        self.halvings
    }

    /// How often the windows are halved.
    #[must_use]
    pub fn halvings(&self) -> u32 {
        self.halvings
    }

    /// How many looks have narrowed the windows.
    #[must_use]
    pub fn narrowed(&self) -> u64 {
        self.narrowed
    }

    /// What is admitted, in per cent of what would be otherwise; 0 is one chunk at a time.
    #[must_use]
    pub fn percent(&self) -> u64 {
        if self.halvings < HALVINGS_MAX { 100 >> self.halvings } else { 0 }
    }
}

/// Bytes of a window after so many halvings. With a single byte, a chunk goes when nothing else is on its way.
#[must_use]
pub fn admitted(bytes: u64, halvings: u32) -> u64 {
    if halvings < HALVINGS_MAX { (bytes >> halvings).max(1) } else { 1 }
}

fn weather(reading: &Reading, reserve: u64) -> Weather {
    let Reading { available, some, full, .. } = *reading;
    if available < reserve / 2 || full >= FULL_DIRE {
        Weather::Dire
    } else if available < reserve || some >= SOME_SHORT || full >= FULL_SHORT {
        Weather::Short
    } else if available >= 2 * reserve && some < SOME_EASY && full < FULL_EASY {
        Weather::Easy
    } else {
        Weather::Fair
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1 << 30;
    const MB: u64 = 1 << 20;

    fn reading(available: u64, some: f64, full: f64) -> Reading {
        Reading { available, total: 8 * GB, some, full }
    }

    /// Shows the readings to a valve of windows of 128 MB, and compares how often they are halved after each.
    fn check(script: &[(Reading, u32)]) -> Valve {
        let mut valve = Valve::default();
        for (step, (reading, expected)) in script.iter().enumerate() {
            assert_eq!(valve.step(reading, 128 * MB, 0), *expected, "step {step}: {reading:?}");
        }
        valve
    }

    #[test]
    fn plenty_admits_everything() {
        let valve = check(&[(reading(4 * GB, 0.0, 0.0), 0), (reading(2 * GB, 5.0, 0.5), 0)]);
        assert_eq!((valve.narrowed(), valve.percent()), (0, 100));
    }

    #[test]
    fn pressure_halves_with_each_look_and_recovers_after_it_is_gone() {
        let (short, fair, easy) =
            (reading(4 * GB, 30.0, 2.0), reading(4 * GB, 15.0, 2.0), reading(4 * GB, 0.0, 0.0));
        let valve = check(&[
            (short, 1),
            (short, 2),
            (fair, 2),
            (easy, 2),
            // Not a row yet.
            (fair, 2),
            (easy, 2),
            (easy, 1),
            (easy, 0),
            (easy, 0),
        ]);
        assert_eq!((valve.narrowed(), valve.percent()), (2, 100));
    }

    #[test]
    fn it_is_never_less_than_one_chunk() {
        let short = reading(400 * MB, 0.0, 0.0);
        let mut valve = Valve::default();
        let steps: Vec<u32> = (0..9).map(|_| valve.step(&short, 128 * MB, GB)).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 7, 7]);
        assert_eq!((valve.halvings(), valve.percent(), valve.narrowed()), (HALVINGS_MAX, 0, 7));
        assert_eq!(admitted(128 * MB, HALVINGS_MAX), 1);
        assert_eq!((admitted(128 * MB, 3), admitted(4, 6)), (16 * MB, 1));
    }

    #[test]
    fn dire_straits_go_to_the_last_step_at_once() {
        assert_eq!(check(&[(reading(200 * MB, 0.0, 0.0), HALVINGS_MAX)]).narrowed(), 1);
        check(&[(reading(4 * GB, 90.0, 50.0), HALVINGS_MAX)]);
    }

    #[test]
    fn windows_fit_into_what_is_left_beside_the_reserve() {
        // 8 GB: 512 MB are the others'. 40 MB are left: a window of 128 MB is halved twice.
        check(&[(reading(552 * MB, 0.0, 0.0), 2)]);
        let mut valve = Valve::default();
        assert_eq!(
            valve.step(&reading(552 * MB, 0.0, 0.0), 128 * MB, 100 * MB),
            0,
            "it has most of it already"
        );
    }

    /// A machine whose memory a pool and others use: whatever the others do, what the pool is admitted to never makes
    /// available memory fall below the reserve by the pool's own doing, and all is admitted again when they are gone.
    #[test]
    fn a_pool_does_not_bring_about_pressure_by_itself() {
        let total = 4 * GB;
        let reserve = total / RESERVE_SHARE;
        for others in (0..40).map(|step| step * 100 * MB) {
            let (mut valve, wanted) = (Valve::default(), 2 * GB);
            let mut held = 0;
            for _ in 0..50 {
                let available = total.saturating_sub(others + held);
                let halvings = valve.step(&Reading { available, total, some: 0.0, full: 0.0 }, wanted, held);
                // The pool takes all it may.
                held = admitted(wanted, halvings);
                let left = total.saturating_sub(others + held);
                assert!(left >= reserve || halvings == HALVINGS_MAX, "{others} {held}");
            }
            for _ in 0..20 {
                valve.step(&Reading { available: total, total, some: 0.0, full: 0.0 }, wanted, held);
            }
            assert_eq!(valve.halvings(), 0);
        }
    }
}
