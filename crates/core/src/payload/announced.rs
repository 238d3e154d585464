//! Which of our segments a peer was shown, so that it can be told when they are gone, and lets go of them as well.

use super::{BROADCAST_SEGMENTS, FOREIGN_SEGMENTS, WRITABLE_SEGMENTS};
use forklift_shm::{Segment, SegmentId};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// The segments that one peer was shown. They are not kept for it: what it has of them keeps them, see
/// [`Loans`](super::Loans).
#[derive(Debug, Default)]
pub(crate) struct Announced {
    segments: HashMap<SegmentId, Weak<Segment>>,
}

impl Announced {
    /// Whether the peer has to be shown this segment before it is told of bytes in it; from now on it has been.
    pub(crate) fn is_news(&mut self, id: SegmentId, segment: &Arc<Segment>) -> bool {
        // What a `Weak` points to is not used for another segment.
        if self.segments.get(&id).is_some_and(|known| known.as_ptr() == Arc::as_ptr(segment)) {
            return false;
        }
        self.segments.insert(id, Arc::downgrade(segment));
        true
    }

    /// Takes out those that there are no more: of these the peer has nothing, and can have nothing.
    pub(crate) fn take_gone(&mut self) -> Vec<SegmentId> {
        self.segments.extract_if(|_, segment| segment.strong_count() == 0).map(|(id, _)| id).collect()
    }

    /// Whether there are segments among them that can go at any time, since they are not of an arena of ours.
    pub(crate) fn has_foreign(&self) -> bool {
        let lent = WRITABLE_SEGMENTS..BROADCAST_SEGMENTS;
        self.segments.keys().any(|id| id.0 >= FOREIGN_SEGMENTS || lent.contains(&id.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_news_once_until_it_is_gone() {
        let mut announced = Announced::default();
        let (ours, foreign) = (SegmentId(3), SegmentId(FOREIGN_SEGMENTS | 5));
        let (first, second) = (Segment::create(1).unwrap(), Segment::create(1).unwrap());
        assert!(announced.is_news(ours, &first) && !announced.is_news(ours, &first));
        assert!(!announced.has_foreign() && announced.is_news(foreign, &second) && announced.has_foreign());
        assert!(announced.take_gone().is_empty());
        drop(second);
        assert_eq!(announced.take_gone(), [foreign]);
        assert!(!announced.has_foreign() && announced.take_gone().is_empty());
        let again = Segment::create(1).unwrap();
        assert!(announced.is_news(ours, &again), "another one under the same name");
        drop(first);
        assert!(announced.take_gone().is_empty() && !announced.is_news(ours, &again));
    }
}
