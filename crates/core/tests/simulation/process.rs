//! Worker processes as they really are: what they do with the pieces that reach them, and how they die.
//!
//! Messages take time in both directions and keep their order; the last thing heard of a process is its exit.

use crate::plan::{JobPlan, MICRO, MILLI, Plan, Rng, SECOND};
use forklift_core::event::{Event, Spent, Whereabouts};
use forklift_core::id::{ChunkId, JobId, Time, WorkerId};
use std::collections::VecDeque;
use std::time::Duration;

/// What a worker was sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Errand {
    pub(crate) job: JobId,
    pub(crate) chunk: ChunkId,
    /// How many the worker had been given with it.
    pub(crate) number: u64,
    /// The edition of its chunk.
    pub(crate) edition: u32,
    /// Index in the job of its next item.
    pub(crate) next: u64,
    pub(crate) left: u32,
    /// Its items were encoded together, and none of them was answered.
    pub(crate) together: bool,
    pub(crate) patience: Option<Duration>,
    /// When it gives back what is not begun of it, once it has begun.
    pub(crate) until: Option<u64>,
}

/// Items that it answers together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stint {
    errand: Errand,
    items: u32,
    begun: u64,
    decoded: u64,
    ends: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Unborn,
    Starting,
    Waiting,
    /// A message has come and is about to be read.
    Waking,
    Working,
    /// It waits at its gate to be killed.
    AtGate,
    Dead,
}

/// What a process does next of its own accord.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    BeReady,
    Refuse,
    Begin,
    Answer,
    /// The piece cannot be decoded as it is.
    GiveBack,
    Die(Whereabouts),
    /// It has nothing to do and was told to stop.
    Leave,
    /// Something from outside hits it.
    Accident,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) phase: Phase,
    pub(crate) queue: VecDeque<Errand>,
    pub(crate) stop: bool,
    /// Errands that were sent to it, the one that it is at or was at last, and the one behind which it begins nothing.
    pub(crate) given: u64,
    pub(crate) turn: u64,
    pub(crate) shut: Option<u64>,
    /// It has said that it is used up: it begins on nothing more.
    pub(crate) worn: bool,
    /// Steps that were planned before it changed its mind are void.
    pub(crate) epoch: u64,
    stint: Option<Stint>,
    pub(crate) mail_at: u64,
    pub(crate) inbox_at: u64,
}

impl Process {
    pub(crate) fn new() -> Self {
        Process {
            phase: Phase::Unborn,
            queue: VecDeque::new(),
            stop: false,
            given: 0,
            turn: 0,
            shut: None,
            worn: false,
            epoch: 0,
            stint: None,
            mail_at: 0,
            inbox_at: 0,
        }
    }

    /// Begins on the first piece it has. Returns when and how this will end.
    pub(crate) fn begin(&mut self, now: u64, plan: &Plan, job: &JobPlan, rng: &mut Rng) -> (u64, Step) {
        self.phase = Phase::Working;
        let Some(front) = self.queue.front_mut() else { return (now, Step::Leave) };
        // Something else may have had the core.
        let lost = if rng.chance(0.2) { 20 * MILLI } else { 0 };
        let until = front.patience.map(|patience| (now + patience.as_nanos() as u64).saturating_sub(lost));
        front.until = front.until.or(until);
        let errand = *front;
        self.turn = errand.number;
        let items =
            if rng.chance(0.85) { errand.left } else { rng.between(1, u64::from(errand.left)) as u32 };
        let decoded = now + 100 * u64::from(items);
        let calls = job.cost.sum(job.salt, errand.next, u64::from(items));
        let pause = if rng.chance(plan.stalls) { rng.below(SECOND) } else { 0 };
        let ends = decoded + calls + pause + 100 * u64::from(items);
        self.stint = Some(Stint { errand, items, begun: now, decoded, ends });
        let indices = errand.next..errand.next + u64::from(items);
        let killer = |one_in: u64, salt: u64| {
            let kills = |item: &u64| crate::plan::mix(job.salt ^ salt ^ item).is_multiple_of(one_in);
            if one_in == 0 { None } else { indices.clone().find(kills) }
        };
        if killer(job.poison_begin, 3).is_some() {
            self.stint = None;
            return (now, Step::Die(Whereabouts::Between));
        }
        if killer(job.poison_decode, 1).is_some() {
            return (decoded, Step::Die(Whereabouts::Translating));
        }
        if errand.together && killer(job.unreadable, 4).is_some() {
            return (decoded, Step::GiveBack);
        }
        if let Some(item) = killer(job.poison, 2) {
            return (decoded + calls / 2, Step::Die(Whereabouts::Calling(item)));
        }
        if let Some(item) = killer(job.poison_size, 5) {
            return (decoded + calls / 2, Step::Die(Whereabouts::Oversized(item)));
        }
        if let Some(limit) = job.task_timeout {
            let mut at = decoded;
            for item in indices.clone() {
                let cost = job.cost.of(job.salt, item);
                if cost > limit {
                    // Now and then it is over when the signal comes, and the worker is at another.
                    let late = if rng.chance(0.3) { rng.below(ends - at - limit) } else { 0 };
                    return (at + limit + late, Step::Die(Whereabouts::Overdue(item)));
                }
                at += cost;
            }
        }
        if rng.chance(plan.crash) {
            let at = rng.between(now, ends);
            return (at, Step::Die(self.whereabouts(at, job)));
        }
        (ends, Step::Answer)
    }

    /// The answer to the stint that has just ended.
    pub(crate) fn answer(&mut self, worker: WorkerId, job: &JobPlan) -> Option<(Errand, u32, Event)> {
        let Stint { errand, items, begun, decoded, ends } = self.stint.take()?;
        let front = self.queue.front_mut()?;
        front.next += u64::from(items);
        front.left -= items;
        front.together = false;
        let last = front.left == 0;
        if last {
            self.queue.pop_front();
        }
        let encode = 100 * u64::from(items);
        let spent = Spent {
            decode: Duration::from_nanos(decoded - begun),
            call: Duration::from_nanos(ends - encode - decoded),
            encode: Duration::from_nanos(encode),
        };
        let bytes = job.bytes_out.sum(job.salt, errand.next, u64::from(items));
        let event = Event::Returned { worker, chunk: errand.chunk, items, last, bytes, spent };
        Some((errand, items, event))
    }

    /// The chunk of which it gives the rest back, since it is at it for longer than it should.
    pub(crate) fn lose_patience(&mut self, now: u64) -> Option<ChunkId> {
        let front = self.queue.front()?;
        front.until.filter(|&until| now >= until)?;
        self.queue.pop_front().map(|errand| errand.chunk)
    }

    /// Gives back the piece that it could not decode.
    pub(crate) fn give_back(&mut self, worker: WorkerId) -> Option<Event> {
        self.stint = None;
        self.queue.pop_front().map(|errand| Event::Unreadable { worker, chunk: errand.chunk })
    }

    /// What its line of the scoreboard says.
    pub(crate) fn whereabouts(&self, now: u64, job: &JobPlan) -> Whereabouts {
        let Some(stint) = &self.stint else { return Whereabouts::Between };
        let mut at = stint.decoded;
        if now < at {
            return Whereabouts::Translating;
        }
        for item in stint.errand.next..stint.errand.next + u64::from(stint.items) {
            at += job.cost.of(job.salt, item);
            if now < at {
                return Whereabouts::Calling(item);
            }
        }
        Whereabouts::Translating
    }

    /// How many items of its oldest errand it has begun, after those that it has answered.
    pub(crate) fn begun(&self, now: u64, job: &JobPlan) -> u32 {
        let Some(stint) = &self.stint else { return 0 };
        let mut at = stint.decoded;
        for index in 0..stint.items {
            if now < at {
                return index;
            }
            at += job.cost.of(job.salt, stint.errand.next + u64::from(index));
        }
        stint.items
    }

    /// When a message that is sent now is heard of.
    pub(crate) fn post(&mut self, now: u64, rng: &mut Rng) -> Time {
        self.mail_at = self.mail_at.max(now + rng.between(5 * MICRO, 40 * MICRO));
        Time(self.mail_at)
    }

    /// When a message to it arrives.
    pub(crate) fn inbox(&mut self, now: u64, rng: &mut Rng) -> Time {
        self.inbox_at = self.inbox_at.max(now + rng.between(5 * MICRO, 40 * MICRO));
        Time(self.inbox_at)
    }

    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Unborn | Phase::Dead)
    }
}
