//! Looks at the machine while there is work, and tells the scheduler how much to admit. What that is, `pressure` decides.

use super::{Driver, now};
use crate::config::SchedulerConfig;
use crate::event::Event;
use crate::id::Time;
use crate::machine::Machine;
use crate::pressure::{Valve, admitted};
use crate::telemetry::Admission;
use std::time::Duration;

/// How often the machine is looked at: a few small files, some tenths of a millisecond. The kernel's figures are means
/// of ten seconds and grow by the second.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The machine, and what follows from it.
pub(super) struct Outlook {
    machine: Machine,
    valve: Valve,
    /// The scheduler's windows when nothing is short: in flight, and results of one stream.
    window_bytes: u64,
    stream_bytes: u64,
    next: Time,
}

impl Outlook {
    pub(super) fn new(machine: Machine, config: &SchedulerConfig) -> Self {
        let SchedulerConfig { window_bytes, stream_bytes, .. } = *config;
        Self { machine, valve: Valve::default(), window_bytes, stream_bytes, next: Time::default() }
    }

    pub(super) fn valve(&self) -> &Valve {
        &self.valve
    }
}

impl Driver {
    /// When to look next, if anybody works.
    pub(super) fn next_outlook(&self) -> Option<Time> {
        (!self.jobs.is_empty()).then_some(self.outlook.next)
    }

    /// Looks, if it is time.
    pub(super) fn look_around(&mut self) {
        let now = now();
        if self.outlook.next > now {
            return;
        }
        let usage = self.arenas.inbound.usage();
        let held = usage.live_bytes + usage.warm_bytes;
        let outlook = &mut self.outlook;
        outlook.next = now.after(LOOK_INTERVAL);
        let before = outlook.valve.halvings();
        let wanted = outlook.window_bytes.saturating_add(outlook.stream_bytes);
        let halvings = outlook.valve.step(&outlook.machine.memory_reading(), wanted, held);
        if halvings != before {
            self.census.admits(Admission { at: now, percent: outlook.valve.percent() });
            let window_bytes = admitted(outlook.window_bytes, halvings);
            let stream_bytes = admitted(outlook.stream_bytes, halvings);
            self.events.push_back(Event::Admitted { window_bytes, stream_bytes });
        }
    }
}
