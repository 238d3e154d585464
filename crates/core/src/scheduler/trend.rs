//! What to expect of something that is observed again and again: pure arithmetic, constant time.

/// Weight of a usual observation in the mean; an unusual one (outside of ×¼ … ×2) weighs [`ABRUPT`], so that a job
/// whose items change half-way is followed within one or two dozen messages even if their cost changes a thousandfold.
const USUAL: f64 = 0.25;
const ABRUPT: f64 = 0.5;

/// An exponentially weighted mean, with the mean deviation from it.
///
/// An observation of many items says more than all those of few before it, and weighs more accordingly: while chunks grow
/// eightfold, what was learned from short ones is soon forgotten. Equal ones weigh [`USUAL`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Trend {
    mean: f64,
    spread: f64,
    /// Of how many items it has the memory.
    items: f64,
}

impl Trend {
    /// Learns that each of so many items had this value.
    pub(super) fn learn(&mut self, value: f64, items: u32) {
        let items = f64::from(items.max(1));
        let share = items / (items + self.items);
        if !self.known() {
            *self = Trend { mean: value, spread: 0.0, items };
            return;
        }
        // Of the deviation, what it would be from a mean that knows these items.
        let deviation = (value - self.mean).abs() * ((1.0 - share) / (1.0 - USUAL)).min(1.0);
        self.spread += weight(deviation, self.spread).max(share) * (deviation - self.spread);
        self.mean += weight(value, self.mean).max(share) * (value - self.mean);
        self.items = (self.items + items) * (1.0 - USUAL);
    }

    /// The same, of one item's memory.
    pub(super) fn faded(self) -> Trend {
        Trend { items: self.items.min(1.0), ..self }
    }

    pub(super) fn known(&self) -> bool {
        self.items > 0.0
    }

    pub(super) fn mean(&self) -> f64 {
        self.mean
    }

    /// What to expect if one had rather be surprised by less: mean plus spread.
    pub(super) fn prudent(&self) -> f64 {
        self.mean + self.spread
    }

    /// What `count` of them together will hardly exceed.
    pub(super) fn at_most(&self, count: u32) -> f64 {
        self.mean * f64::from(count) + 2.0 * self.spread
    }
}

fn weight(value: f64, mean: f64) -> f64 {
    if value <= 2.0 * mean && value >= 0.25 * mean { USUAL } else { ABRUPT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_items_show_outweighs_what_few_did() {
        let mut trend = Trend::default();
        trend.learn(100.0, 1);
        trend.learn(1.0, 8);
        trend.learn(1.0, 64);
        assert!(trend.prudent() < 5.0, "{trend:?}");
        // And a few are no reason to forget many, nor are they passed over.
        trend.learn(4.0, 1);
        assert!((2.4..2.7).contains(&trend.mean()), "{trend:?}");
    }
}
