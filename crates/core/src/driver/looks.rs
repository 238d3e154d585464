//! Looking: at memory while a call runs and at what happens to workers, for reports; at who works here, and what was done,
//! also for onlookers from other processes.

use super::{Driver, now};
use crate::id::{Time, WorkerId};
use crate::mailbox::{Counters, Member};
use crate::process::Process;
use crate::telemetry::{Happening, Incident, Memory};
use forklift_shm::Figures;

impl Driver {
    /// When memory should be looked at, while there are calls.
    pub(super) fn next_look(&self) -> Option<Time> {
        if self.jobs.is_empty() { None } else { self.census.next_look() }
    }

    /// Notes how much memory everybody holds, if it is time to.
    pub(super) fn look_at_memory(&mut self, now_is: Time) {
        if self.next_look().is_none_or(|due| due > now_is) {
            return;
        }
        let pids = self.workers.values().filter_map(|worker| worker.process.as_ref().and_then(Process::pid));
        let arenas = [&self.arenas.inbound, &self.arenas.broadcast];
        let memory = Memory {
            at: now_is,
            parent_bytes: private_bytes(std::process::id()),
            workers_bytes: pids.map(private_bytes).sum(),
            payload_bytes: arenas.map(|arena| arena.usage().live_bytes).iter().sum(),
            results_bytes: self.workers.values().map(|worker| worker.results_bytes()).sum(),
        };
        self.census.look(memory, now());
    }

    /// Notes what happened to a worker.
    pub(super) fn note(&self, worker: WorkerId, what: Happening) {
        let known = self.workers.get(&worker);
        let pid = known.and_then(|known| known.process.as_ref().and_then(Process::pid));
        let incident = Incident { at: now(), worker, pid: pid.unwrap_or(0), what };
        let replaced = !self.closing || !self.jobs.is_empty();
        self.census.note(incident, known.and_then(|known| known.wear).filter(|_| replaced));
    }

    /// Who works here, by seat.
    pub(super) fn staff(&self) -> Vec<Member> {
        let mut staff: Vec<Member> = self
            .workers
            .values()
            .map(|worker| Member {
                worker: worker.id,
                pid: worker.process.as_ref().and_then(Process::pid),
                state: if worker.state == "idle" && !worker.pieces.is_empty() {
                    "busy"
                } else {
                    worker.state
                },
                calls: worker.calls,
                held_bytes: worker.loans.bytes(),
            })
            .collect();
        staff.sort_by_key(|member| (member.worker.slot, member.worker.generation));
        staff
    }

    /// Writes what onlookers may see. This is done before each wait: two short locks, and a store for each
    /// figure.
    pub(super) fn post_figures(&mut self) {
        let recycled = self.supervisor.recycled();
        let usage = [&self.arenas.inbound, &self.arenas.broadcast].map(|arena| arena.usage().live_bytes);
        self.figures = Figures {
            lines: u64::from(self.lines_used),
            processes: u64::from(self.supervisor.processes()),
            workers: self.workers.len() as u64,
            calls: self.jobs.len() as u64,
            chunks: self.chunks.len() as u64,
            retried: self.scheduler.retried(),
            copied_bytes: self.counters.bytes_copied_in,
            message_bytes: self.counters.bytes_in_messages,
            lent_bytes: self.counters.bytes_lent,
            result_bytes: self.counters.result_bytes,
            spilled_bytes: self.stock.spilled_bytes(),
            payload_bytes: usage.iter().sum(),
            results_bytes: self.stock.held_bytes(),
            admitted_percent: self.outlook.valve().percent(),
            births: self.counters.births,
            deaths: self.counters.deaths,
            recycled: recycled.calls + recycled.memory,
            ..self.figures
        };
        self.scoreboard.post(&self.figures);
    }

    /// What was done so far.
    pub(super) fn count(&self) -> Counters {
        let (inbound, broadcast) = (self.arenas.inbound.usage(), self.arenas.broadcast.usage());
        let recycled = self.supervisor.recycled();
        let messages = self.workers.values().map(|worker| worker.messages).sum::<u64>();
        Counters {
            fresh_bytes: inbound.fresh_bytes + broadcast.fresh_bytes,
            messages_sent: self.counters.messages_sent + messages,
            retried: self.scheduler.retried(),
            spilled_bytes: self.stock.spilled_bytes(),
            payload_bytes_peak: inbound.peak_live_bytes,
            results_bytes_peak: self.stock.held_bytes_peak(),
            throttled: self.outlook.valve().narrowed(),
            admitted_percent: self.outlook.valve().percent(),
            recycled_tasks: recycled.calls,
            recycled_memory: recycled.memory,
            ..self.counters
        }
    }
}

/// Resident memory of a process that it shares with no file; 0 if it has gone.
fn private_bytes(pid: u32) -> u64 {
    let Ok(pages) = std::fs::read_to_string(format!("/proc/{pid}/statm")) else { return 0 };
    let mut fields = pages.split_ascii_whitespace().skip(1).map_while(|field| field.parse::<u64>().ok());
    let (resident, shared) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64
}
