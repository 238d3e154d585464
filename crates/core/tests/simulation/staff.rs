//! The processes of the world: how they are born, what reaches them, and how they end.

use crate::contents::Mend;
use crate::plan::{MICRO, MILLI};
use crate::process::{Errand, Phase, Process, Step};
use crate::world::{Happening, Letter, World};
use forklift_core::event::{Event, Wear, Whereabouts};
use forklift_core::id::WorkerId;

impl World {
    pub(crate) fn bear(&mut self, worker: WorkerId) {
        let mut process = Process::new();
        let plan = &self.plan;
        let at = self.now + self.rng.below(5 * MILLI);
        if self.rng.chance(plan.stillborn) {
            self.at(at, Happening::Tell(Event::Stillborn { worker }));
            return;
        }
        process.phase = Phase::Starting;
        process.mail_at = at;
        process.inbox_at = at;
        let step = match () {
            () if self.rng.chance(plan.refuses) => Some(Step::Refuse),
            () if self.rng.chance(plan.dies_starting) => Some(Step::Die(Whereabouts::Between)),
            () if self.rng.chance(plan.hangs_starting) => None,
            () => Some(Step::BeReady),
        };
        let accident = plan.accident_every.map(|every| self.rng.below(2 * every));
        self.processes.insert(worker, process);
        self.at(at, Happening::Tell(Event::Born { worker }));
        if let Some(step) = step {
            let ready = at + self.rng.below(self.plan.birth);
            self.at(ready, Happening::Step(worker, 0, step));
        }
        if let Some(after) = accident {
            self.at(at + after, Happening::Step(worker, 0, Step::Accident));
        }
    }

    pub(crate) fn send(&mut self, worker: WorkerId, letter: Letter) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        let at = match letter {
            // A signal overtakes messages, or takes its time.
            Letter::Kill => self.now + self.rng.pick(&[0, 20 * MICRO, 3 * MILLI]),
            Letter::Errand(_) | Letter::Stop => process.inbox(self.now, &mut self.rng).0,
        };
        self.at(at, Happening::Arrive(worker, letter));
    }

    pub(crate) fn arrive(&mut self, worker: WorkerId, letter: Letter) {
        let Some(process) = self.processes.get_mut(&worker).filter(|process| process.is_alive()) else {
            return;
        };
        match letter {
            Letter::Errand(errand) => process.queue.push_back(errand),
            Letter::Stop => process.stop = true,
            Letter::Kill => {
                let at = self.whereabouts(worker);
                self.die(worker, at);
                return;
            }
        }
        if process.phase == Phase::Waiting {
            process.phase = Phase::Waking;
            let epoch = process.epoch;
            let at = self.now + self.rng.below(20 * MICRO);
            self.at(at, Happening::Step(worker, epoch, Step::Begin));
        }
    }

    fn whereabouts(&self, worker: WorkerId) -> Whereabouts {
        let process = &self.processes[&worker];
        let job = process.queue.front().map(|errand| &self.plan.jobs[errand.job.0 as usize]);
        job.map_or(Whereabouts::Between, |job| process.whereabouts(self.now, job))
    }

    pub(crate) fn step(&mut self, worker: WorkerId, epoch: u64, step: Step) {
        let Some(process) = self.processes.get_mut(&worker).filter(|process| process.is_alive()) else {
            return;
        };
        if let Step::Accident = step {
            let at = self.whereabouts(worker);
            self.audit.seen.note("accident");
            self.die(worker, at);
            return;
        }
        if process.epoch != epoch {
            return;
        }
        match step {
            Step::BeReady => {
                self.post(worker, Event::Ready { worker });
                self.begin(worker);
            }
            Step::Refuse => {
                self.post(worker, Event::Refused { worker });
                self.die(worker, Whereabouts::Between);
            }
            Step::Begin => self.begin(worker),
            Step::Answer => {
                let job = process.queue.front().map(|errand| &self.plan.jobs[errand.job.0 as usize]);
                let answer = job.and_then(|job| process.answer(worker, job));
                let outgrown = !process.worn && self.rng.chance(self.plan.outgrows);
                process.worn |= outgrown;
                let impatient = process.lose_patience(self.now);
                if let Some((errand, items, event)) = answer {
                    self.begun(worker, errand, items);
                    self.post(worker, event);
                }
                if let Some(chunk) = impatient {
                    self.audit.seen.note("impatient");
                    self.post(worker, Event::Surrendered { worker, chunk });
                }
                if outgrown {
                    self.post(worker, Event::UsedUp { worker, by: Wear::Memory });
                }
                self.begin(worker);
            }
            Step::GiveBack => {
                if let Some(event) = process.give_back(worker) {
                    self.post(worker, event);
                }
                self.begin(worker);
            }
            Step::Die(at) => {
                match at {
                    Whereabouts::Overdue(_) => self.audit.seen.note("overdue"),
                    Whereabouts::Oversized(_) => self.audit.seen.note("oversized"),
                    _ => {}
                }
                self.die(worker, at);
            }
            Step::Leave => self.die(worker, Whereabouts::Between),
            Step::Accident => {}
        }
    }

    /// The process looks for what to do.
    fn begin(&mut self, worker: WorkerId) {
        let Some(process) = self.processes.get_mut(&worker) else { return };
        process.epoch += 1;
        let epoch = process.epoch;
        if process.worn {
            let surrendered: Vec<Errand> = process.queue.drain(..).collect();
            for Errand { chunk, .. } in surrendered {
                self.post(worker, Event::Surrendered { worker, chunk });
            }
        }
        let Some(process) = self.processes.get_mut(&worker) else { return };
        if let Some(errand) = process.queue.front() {
            if process.shut.is_some_and(|shut| shut < errand.number) && !self.contents.lacks(Mend::Gate) {
                self.audit.seen.note("stopped at the gate");
                process.phase = Phase::AtGate;
                return;
            }
            let job = &self.plan.jobs[errand.job.0 as usize];
            let (at, step) = process.begin(self.now, &self.plan, job, &mut self.rng);
            self.at(at, Happening::Step(worker, epoch, step));
            return;
        }
        process.phase = Phase::Waiting;
        if process.stop && !self.rng.chance(self.plan.hangs_leaving) {
            let at = self.now + self.rng.below(MILLI);
            self.at(at, Happening::Step(worker, epoch, Step::Leave));
        }
    }

    fn post(&mut self, worker: WorkerId, event: Event) {
        if let Some(process) = self.processes.get_mut(&worker) {
            let at = process.post(self.now, &mut self.rng);
            self.at(at.0, Happening::Tell(event));
        }
    }

    /// A worker has begun so many items of an errand: each is looked at, and changed.
    fn begun(&mut self, worker: WorkerId, errand: Errand, items: u32) {
        let Some(book) = self.audit.chunks.get(&errand.chunk) else { return };
        let holding = self.plan.jobs[errand.job.0 as usize].holding;
        let index = (errand.next - book.first) as usize;
        for index in index..index + items as usize {
            self.contents.begin(worker, errand.chunk, errand.edition, index, holding);
        }
    }

    fn die(&mut self, worker: WorkerId, at: Whereabouts) {
        let process = &self.processes[&worker];
        let (mut at, mut begun) = (at, 0);
        if let Some(&errand) = process.queue.front() {
            begun = process.begun(self.now, &self.plan.jobs[errand.job.0 as usize]);
            if let Whereabouts::Calling(item) | Whereabouts::Overdue(item) | Whereabouts::Oversized(item) = at
                && let Some(index) = item.checked_sub(errand.next)
            {
                begun = begun.max(index as u32 + 1);
            }
            self.begun(worker, errand, begun);
            if self.processes[&worker].shut.is_some_and(|shut| shut < errand.number) {
                (at, begun) = (Whereabouts::Stopped, 0);
            } else if self.rng.chance(0.05) {
                // What the worker was about to note is torn: all may have begun.
                begun = errand.left;
            }
            // Now and then the scoreboard tells nonsense.
            if matches!(at, Whereabouts::Calling(_)) && self.rng.chance(0.02) {
                (at, begun) = (Whereabouts::Calling(self.rng.next() | 1 << 40), errand.left);
            }
            if self.contents.lacks(Mend::Begun) {
                begun = 0;
            }
        }
        self.post(worker, Event::Exited { worker, at, begun });
        if let Some(process) = self.processes.get_mut(&worker) {
            process.phase = Phase::Dead;
            process.epoch += 1;
        }
    }
}
