//! Which workers live, when to replace them, what to do about a death: a pure state machine.
//!
//! # Rules
//!
//! 1. Nobody is born before `Wanted`. Then every seat below `processes` is filled, at most `births_at_once` births
//!    at a time; a birth lasts until its worker is ready, or has failed. Stages: see `lifecycle`.
//! 2. A serving worker that exits is replaced at once: the same seat, the next generation.
//! 3. A worker that is used up (`UsedUp`: it holds the last of its calls, or has outgrown its memory) gets a successor
//!    in its seat, whose birth overlaps with what the old one still does. The old one is dismissed when it has answered
//!    all (`Excused`) and its successor is born, not before: so a recycle costs no more than it must. If that birth
//!    fails, the old one goes all the same, and the seat is filled by rule 1. A successor takes the seat, at whatever
//!    stage it is, as soon as the old one gives it up or exits.
//! 4. A birth fails if the child cannot be made, exits before it is ready, refuses, or takes longer than
//!    `birth_patience` (then it is killed). It is tried again after a pause. After `failed_births_max` failures in a
//!    row the pool is broken (`Break`, once), and nobody is born any more. Births that overlap fail as one.
//! 5. An initializer that raises will raise again: `Refused` breaks the pool at once, unless some worker of this
//!    pool had been ready before.
//! 6. `Resized` to fewer: the workers in seats at or above `processes` are dismissed; the scheduler gives these
//!    nothing more, by the same rule from the same events. They may be in the middle of a long item, so no
//!    patience runs out for them before `Closed`.
//! 7. `Closed`: all are dismissed, and killed after `leave_patience`. The supervisor knows no jobs: **the driver
//!    reports `Closed` only when no job is open.** A worker may be dismissed before it is ready.
//! 8. `Terminated`: all are killed, one whose birth is under way as soon as it exists.
//! 9. `Rest` comes once, when the pool was closed or terminated and nobody lives.
//! 10. Odd events (an unknown worker, a second `Ready`) are ignored.
//!
//! O(log n) in workers per event, except for those that concern all of them: `Wanted`, `Resized`, `Closed`,
//! `Terminated`.

mod lifecycle;
#[cfg(test)]
mod tests;

pub use lifecycle::Stage;

use crate::config::SupervisorConfig;
use crate::event::{Command, Event, Wear};
use crate::id::{Time, WorkerId};
use lifecycle::{Departing, Failures, Occupant, Seat};
use std::collections::{BTreeMap, BTreeSet};

/// What the supervisor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Aim {
    /// Nobody needs workers yet.
    Sleep,
    /// Every seat filled.
    Staff,
    /// Everybody leaves when done.
    Close,
    /// Everybody dies.
    Terminate,
}

/// One worker of the staff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub worker: WorkerId,
    /// What it is at.
    pub stage: Stage,
    /// Calls of the function that it has answered.
    pub calls: u64,
}

/// How many workers were used up, by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recycled {
    /// By `tasks_per_worker`.
    pub calls: u64,
    /// By the limit on a worker's memory.
    pub memory: u64,
}

/// The supervisor of one pool. See the module's page for its rules.
#[derive(Debug)]
pub struct Supervisor {
    config: SupervisorConfig,
    aim: Aim,
    /// Never shrinks: a seat keeps its generation.
    seats: Vec<Seat>,
    /// Seats of the staff without an occupant.
    vacant: BTreeSet<u32>,
    /// Seats whose occupant is used up and has no successor yet.
    heirless: BTreeSet<u32>,
    /// Occupants and successors that are not ready.
    births: u32,
    /// Occupants and successors in all.
    seated: u32,
    recycled: Recycled,
    departing: BTreeMap<WorkerId, Departing>,
    /// When whom is to be killed.
    alarms: BTreeSet<(Time, WorkerId)>,
    failures: Failures,
    /// Some worker was ready: the initializer can succeed.
    was_ready: bool,
    broken: bool,
    rested: bool,
}

impl Supervisor {
    /// A supervisor of an empty staff.
    #[must_use]
    pub fn new(config: SupervisorConfig) -> Self {
        let processes = config.processes.max(1);
        Self {
            config: SupervisorConfig { processes, births_at_once: config.births_at_once.max(1), ..config },
            aim: Aim::Sleep,
            seats: vec![Seat::default(); processes as usize],
            vacant: (0..processes).collect(),
            heirless: BTreeSet::new(),
            births: 0,
            seated: 0,
            recycled: Recycled::default(),
            departing: BTreeMap::new(),
            alarms: BTreeSet::new(),
            failures: Failures::default(),
            was_ready: false,
            broken: false,
            rested: false,
        }
    }

    /// Takes in one event and appends the commands that follow from it.
    pub fn step(&mut self, now: Time, event: &Event, out: &mut Vec<Command>) {
        match *event {
            Event::Wanted => self.aim = self.aim.max(Aim::Staff),
            Event::Resized { processes } => self.resized(processes.max(1), out),
            Event::Closed if self.aim < Aim::Close => self.closed(now, out),
            Event::Terminated if self.aim < Aim::Terminate => self.terminated(out),
            Event::Born { worker } => self.born(now, worker, out),
            Event::Ready { worker } => self.ready(worker),
            Event::Stillborn { worker } => self.stillborn(now, worker, out),
            Event::Refused { worker } => self.refused(now, worker, out),
            Event::Returned { worker, items, .. } => self.returned(worker, items),
            Event::UsedUp { worker, by } => self.used_up(worker, by),
            Event::Excused { worker } => self.excused(now, worker, out),
            Event::Exited { worker, .. } => self.exited(now, worker, out),
            _ => {}
        }
        self.ring(now, out);
        self.bear(now, out);
        if self.aim >= Aim::Close && self.seated == 0 && self.departing.is_empty() && !self.rested {
            self.rested = true;
            out.push(Command::Rest);
        }
    }

    /// When it wants a [`Event::Tick`], if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let alarm = self.alarms.first().map(|&(at, _)| at);
        let birth = self.may_bear().then(|| self.failures.resume());
        [alarm, birth].into_iter().flatten().min()
    }

    /// How many workers there shall be.
    #[must_use]
    pub fn processes(&self) -> u32 {
        self.config.processes
    }

    /// How many workers were used up since the pool was made.
    #[must_use]
    pub fn recycled(&self) -> Recycled {
        self.recycled
    }

    /// Everybody who is alive or about to be: those in seats, by seat, then those who leave. Linear.
    #[must_use]
    pub fn staff(&self) -> Vec<Member> {
        let seated = (0..).zip(&self.seats).flat_map(|(slot, seat)| {
            seat.occupant.into_iter().chain(seat.successor).map(move |occupant| {
                let worker = WorkerId { slot, generation: occupant.generation };
                Member { worker, stage: occupant.stage, calls: occupant.calls }
            })
        });
        let departing = self.departing.iter();
        seated
            .chain(departing.map(|(&worker, gone)| Member {
                worker,
                stage: Stage::Leaving,
                calls: gone.calls,
            }))
            .collect()
    }

    fn may_bear(&self) -> bool {
        self.aim == Aim::Staff
            && !self.broken
            && !(self.vacant.is_empty() && self.heirless.is_empty())
            && self.births < self.config.births_at_once
    }

    fn bear(&mut self, now: Time, out: &mut Vec<Command>) {
        while self.may_bear() && self.failures.resume() <= now {
            let next = self.vacant.pop_first().or_else(|| self.heirless.pop_first());
            let Some(slot) = next else { return };
            let Some(seat) = self.seats.get_mut(slot as usize) else { return };
            out.push(Command::Bear { worker: seat.bear(slot, now) });
            self.births += 1;
            self.seated += 1;
        }
    }

    /// Kills those whose time is up.
    fn ring(&mut self, now: Time, out: &mut Vec<Command>) {
        while let Some(&(at, worker)) = self.alarms.first().filter(|(at, _)| *at <= now) {
            self.alarms.remove(&(at, worker));
            let late = self.occupant(worker).map(|occupant| occupant.since);
            if let Some(since) = late {
                self.kill(worker, out);
                self.birth_failed(now, since, self.config.failed_births_max, out);
                self.give_up_heir(now, worker.slot, out);
            } else if let Some(gone) = self.departing.get_mut(&worker) {
                gone.alarm = None;
                gone.killed = true;
                out.push(Command::Kill { worker });
            }
        }
    }

    fn born(&mut self, now: Time, worker: WorkerId, out: &mut Vec<Command>) {
        let patience = now.after(self.config.birth_patience);
        let Some(occupant) = self.occupant(worker).filter(|occupant| occupant.stage == Stage::Bearing) else {
            return;
        };
        occupant.stage = Stage::Starting;
        occupant.alarm = Some(patience);
        self.alarms.insert((patience, worker));
        match self.aim {
            Aim::Terminate => self.kill(worker, out),
            Aim::Close => self.dismiss(worker, Some(now.after(self.config.leave_patience)), out),
            // The pool was made smaller while this birth was under way.
            _ if worker.slot >= self.config.processes => self.dismiss(worker, None, out),
            _ => self.hand_over(now, worker.slot, out),
        }
    }

    fn ready(&mut self, worker: WorkerId) {
        let Some(occupant) = self.occupant(worker).filter(|occupant| occupant.stage == Stage::Starting)
        else {
            return;
        };
        occupant.stage = Stage::Serving;
        if let Some(alarm) = occupant.alarm.take() {
            self.alarms.remove(&(alarm, worker));
        }
        self.births -= 1;
        self.was_ready = true;
        self.failures.clear();
    }

    fn stillborn(&mut self, now: Time, worker: WorkerId, out: &mut Vec<Command>) {
        if self.occupant(worker).is_none_or(|occupant| occupant.stage != Stage::Bearing) {
            return;
        }
        if let Some(occupant) = self.vacate(worker) {
            self.birth_failed(now, occupant.since, self.config.failed_births_max, out);
            self.give_up_heir(now, worker.slot, out);
        }
    }

    fn refused(&mut self, now: Time, worker: WorkerId, out: &mut Vec<Command>) {
        if self.occupant(worker).is_none_or(|occupant| occupant.stage != Stage::Starting) {
            return;
        }
        let Some(occupant) = self.vacate(worker) else { return };
        // It exits of its own accord; should it hang on its way out, it is helped.
        self.depart(worker, Departing { alarm: None, killed: false, calls: 0 });
        self.set_alarm(worker, now.after(self.config.leave_patience));
        let failures_max = if self.was_ready { self.config.failed_births_max } else { 1 };
        self.birth_failed(now, occupant.since, failures_max, out);
        self.give_up_heir(now, worker.slot, out);
    }

    fn returned(&mut self, worker: WorkerId, items: u32) {
        if let Some(gone) = self.departing.get_mut(&worker) {
            gone.calls = gone.calls.saturating_add(u64::from(items));
        }
        if let Some(occupant) = self.occupant(worker) {
            occupant.calls = occupant.calls.saturating_add(u64::from(items));
        }
    }

    fn used_up(&mut self, worker: WorkerId, by: Wear) {
        let serving = |occupant: &&mut Occupant| occupant.stage == Stage::Serving && !occupant.used_up;
        let Some(occupant) = self.occupant(worker).filter(serving) else { return };
        occupant.used_up = true;
        match by {
            Wear::Calls => self.recycled.calls += 1,
            Wear::Memory => self.recycled.memory += 1,
            Wear::Descriptors => {}
        }
        self.seek_heir(worker.slot);
    }

    /// The occupant has answered all that it was given, and gets nothing more.
    fn excused(&mut self, now: Time, worker: WorkerId, out: &mut Vec<Command>) {
        let Some(occupant) = self.occupant(worker).filter(|occupant| occupant.used_up) else { return };
        occupant.excused = true;
        if self.aim == Aim::Staff && !self.broken {
            self.hand_over(now, worker.slot, out);
        } else {
            self.dismiss(worker, Some(now.after(self.config.leave_patience)), out);
        }
    }

    /// A seat whose occupant is used up needs a successor, if it has none.
    fn seek_heir(&mut self, slot: u32) {
        let Some(seat) = self.seats.get(slot as usize) else { return };
        let used_up = seat.occupant.is_some_and(|occupant| occupant.used_up);
        if used_up && seat.successor.is_none() && slot < self.config.processes {
            self.heirless.insert(slot);
        } else {
            self.heirless.remove(&slot);
        }
    }

    /// The occupant goes, if it has nothing more to do and its successor exists.
    fn hand_over(&mut self, now: Time, slot: u32, out: &mut Vec<Command>) {
        let Some(seat) = self.seats.get(slot as usize) else { return };
        let born = seat.successor.is_some_and(|successor| successor.stage != Stage::Bearing);
        if let Some(occupant) = seat.occupant.filter(|occupant| occupant.excused && born) {
            let worker = WorkerId { slot, generation: occupant.generation };
            self.dismiss(worker, Some(now.after(self.config.leave_patience)), out);
        }
    }

    /// A birth in this seat has failed: whoever waits only for a successor waits no longer.
    fn give_up_heir(&mut self, now: Time, slot: u32, out: &mut Vec<Command>) {
        let occupant = self.seats.get(slot as usize).and_then(|seat| seat.occupant);
        if let Some(occupant) = occupant.filter(|occupant| occupant.excused) {
            let worker = WorkerId { slot, generation: occupant.generation };
            self.dismiss(worker, Some(now.after(self.config.leave_patience)), out);
        }
    }

    fn exited(&mut self, now: Time, worker: WorkerId, out: &mut Vec<Command>) {
        if let Some(gone) = self.departing.remove(&worker) {
            if let Some(alarm) = gone.alarm {
                self.alarms.remove(&(alarm, worker));
            }
            return;
        }
        let Some(occupant) = self.vacate(worker) else { return };
        if occupant.stage != Stage::Serving {
            self.birth_failed(now, occupant.since, self.config.failed_births_max, out);
            self.give_up_heir(now, worker.slot, out);
        }
    }

    fn birth_failed(&mut self, now: Time, since: Time, failures_max: u32, out: &mut Vec<Command>) {
        let count = self.failures.add(now, since);
        if count >= failures_max.max(1) && !self.broken && self.aim < Aim::Close {
            self.broken = true;
            out.push(Command::Break);
        }
    }

    fn resized(&mut self, processes: u32, out: &mut Vec<Command>) {
        let before = std::mem::replace(&mut self.config.processes, processes);
        if self.seats.len() < processes as usize {
            self.seats.resize(processes as usize, Seat::default());
        }
        for slot in processes..before {
            self.vacant.remove(&slot);
            self.heirless.remove(&slot);
            // A birth under way is waited for: it may be wanted again by then.
            for (worker, stage) in self.occupants_of(slot) {
                if stage != Stage::Bearing {
                    self.dismiss(worker, None, out);
                }
            }
        }
        for slot in before..processes {
            if self.occupants_of(slot).is_empty() {
                self.vacant.insert(slot);
            }
        }
    }

    fn closed(&mut self, now: Time, out: &mut Vec<Command>) {
        self.aim = Aim::Close;
        let patience = now.after(self.config.leave_patience);
        let waiting: Vec<WorkerId> = self
            .departing
            .iter()
            .filter(|(_, gone)| gone.alarm.is_none() && !gone.killed)
            .map(|(&id, _)| id)
            .collect();
        for worker in waiting {
            self.set_alarm(worker, patience);
        }
        for (worker, stage) in self.occupants() {
            if stage != Stage::Bearing {
                self.dismiss(worker, Some(patience), out);
            }
        }
    }

    fn terminated(&mut self, out: &mut Vec<Command>) {
        self.aim = Aim::Terminate;
        self.alarms.clear();
        for (&worker, gone) in &mut self.departing {
            gone.alarm = None;
            if !std::mem::replace(&mut gone.killed, true) {
                out.push(Command::Kill { worker });
            }
        }
        for (worker, stage) in self.occupants() {
            if stage != Stage::Bearing {
                self.kill(worker, out);
            }
        }
    }

    fn dismiss(&mut self, worker: WorkerId, alarm: Option<Time>, out: &mut Vec<Command>) {
        let Some(occupant) = self.vacate(worker) else { return };
        self.depart(worker, Departing { alarm: None, killed: false, calls: occupant.calls });
        if let Some(alarm) = alarm {
            self.set_alarm(worker, alarm);
        }
        out.push(Command::Dismiss { worker });
    }

    fn kill(&mut self, worker: WorkerId, out: &mut Vec<Command>) {
        let Some(occupant) = self.vacate(worker) else { return };
        self.depart(worker, Departing { alarm: None, killed: true, calls: occupant.calls });
        out.push(Command::Kill { worker });
    }

    fn depart(&mut self, worker: WorkerId, departing: Departing) {
        self.departing.insert(worker, departing);
    }

    fn set_alarm(&mut self, worker: WorkerId, at: Time) {
        if let Some(gone) = self.departing.get_mut(&worker) {
            gone.alarm = Some(at);
            self.alarms.insert((at, worker));
        }
    }

    /// The worker has its seat no longer. Its successor takes it; else it is vacant, if it is one of the staff's.
    fn vacate(&mut self, worker: WorkerId) -> Option<Occupant> {
        let slot = worker.slot;
        let seat = self.seats.get_mut(slot as usize)?;
        let occupant = seat.leave(worker)?;
        if let Some(alarm) = occupant.alarm {
            self.alarms.remove(&(alarm, worker));
        }
        self.births -= u32::from(occupant.stage != Stage::Serving);
        self.seated -= 1;
        if seat.occupant.is_none() && slot < self.config.processes {
            self.vacant.insert(slot);
        }
        self.seek_heir(slot);
        Some(occupant)
    }

    fn occupant(&mut self, worker: WorkerId) -> Option<&mut Occupant> {
        self.seats.get_mut(worker.slot as usize)?.occupied_by(worker)
    }

    /// The occupant of a seat and its successor.
    fn occupants_of(&self, slot: u32) -> Vec<(WorkerId, Stage)> {
        let Some(seat) = self.seats.get(slot as usize) else { return Vec::new() };
        let name = |occupant: Occupant| (WorkerId { slot, generation: occupant.generation }, occupant.stage);
        seat.occupant.into_iter().chain(seat.successor).map(name).collect()
    }

    fn occupants(&self) -> Vec<(WorkerId, Stage)> {
        let slots = 0..u32::try_from(self.seats.len()).unwrap_or(u32::MAX);
        slots.flat_map(|slot| self.occupants_of(slot)).collect()
    }
}
