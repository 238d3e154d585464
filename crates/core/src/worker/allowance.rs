//! A worker's own memory, beside the limit that it has.

use super::Station;
use crate::error::Result;
use crate::footprint::Footprint;
use crate::id::Time;
use crate::message::ToParent;

/// How much memory of its own this worker may have after a call.
pub(super) struct Allowance {
    pub(super) limit: u64,
    pub(super) footprint: Footprint,
    /// When it was last looked at.
    pub(super) looked: Time,
    /// It has too much, and begins on nothing more.
    pub(super) outgrown: bool,
}

impl Station {
    /// Whether the limit on this worker's memory is to be looked at after a call that ended at this time. Once in each
    /// tick of the clock that [`Station::mark`] returns is enough, whatever calls cost.
    pub fn is_look_due(&mut self, now: Time) -> bool {
        let Some(allowance) = self.allowance.as_mut().filter(|allowance| allowance.looked != now) else {
            return false;
        };
        allowance.looked = now;
        true
    }

    /// Whether this worker may have outgrown its limit. Cheap. `held_bytes` are those of arrays in its blocks; with
    /// `done` there is no piece in hand, and what it kept of its arguments counts.
    #[must_use]
    pub fn may_have_outgrown(&self, held_bytes: u64, done: bool) -> bool {
        let held = self.held(held_bytes, done);
        let allowance = self.allowance.as_ref().filter(|allowance| !allowance.outgrown);
        allowance.is_some_and(|allowance| allowance.footprint.suspect(held, allowance.limit))
    }

    fn held(&self, held_bytes: u64, done: bool) -> u64 {
        held_bytes.saturating_add(if done { self.holdings.returns.kept_bytes() } else { 0 })
    }

    /// Whether it has, to be asked when nothing is encoded and not sent, and freed memory was given back. Then the parent
    /// is told, and pieces that come are surrendered.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn has_outgrown(&mut self, held_bytes: u64, done: bool) -> Result<bool> {
        let held = self.held(held_bytes, done);
        let Some(allowance) = &mut self.allowance else { return Ok(false) };
        let Some(own_bytes) = allowance.footprint.above(held, allowance.limit) else { return Ok(false) };
        allowance.outgrown = true;
        self.send(&ToParent::Outgrown { own_bytes })?;
        Ok(true)
    }
}
