//! What crosses a channel whose two ends are in one process: a thing itself, under a number.
//!
//! A relay sits at the worker's end of its channel, but in the parent's process. To copy bytes for it into shared memory, or
//! for the parent what it has in its memory already, would be a copy for nobody. So the sender puts the thing on a
//! table and sends the number, and the receiver looks there. What lies on the table is gone with the last [`Ticket`].
//!
//! Downwards the parent keeps the tickets, as it keeps all that it lends: a relay that finds nothing reads what was sent
//! by a pool that has given it up. Upwards that will not do: a relay answers, ends, and is read afterwards. So the
//! tickets of answers lie on a [`Shelf`] that the two ends have in common. The parent takes nothing from elsewhere: what a
//! worker in another process says of numbers means nothing here.

use forklift_shm::{Held, Lock, SegmentId, Span};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// Spans of this segment, which there is not, name things on the table by their offsets. Mapped nowhere, and counted among
/// those that nobody sees another's writes in.
const SEGMENT: SegmentId = SegmentId(u32::MAX);

/// Anything.
pub(crate) type Thing = Arc<dyn Any + Send + Sync>;

static TABLE: Lock<BTreeMap<u64, Thing>> = Lock::new(BTreeMap::new());

fn table() -> Held<'static, BTreeMap<u64, Thing>> {
    TABLE.lock()
}

/// Whether a span names a thing on the table.
pub(crate) fn is_near(segment: SegmentId) -> bool {
    segment == SEGMENT
}

/// The segment that stands for the table.
pub(crate) fn segment() -> SegmentId {
    SEGMENT
}

/// A thing's place on the table. When it ends, the thing is not there any more; whoever has found it keeps it.
#[derive(Debug)]
pub(crate) struct Ticket(u64);

impl Ticket {
    /// Puts a thing there.
    pub(crate) fn new(thing: Thing) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        table().insert(number, thing);
        Self(number)
    }

    /// How a message names it; `bytes` is what it weighs.
    pub(crate) fn span(&self, bytes: u64) -> Span {
        Span { segment: SEGMENT, offset: self.0, bytes }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // It ends outside of the lock, for that may run code that comes back here.
        let gone = table().remove(&self.0);
        drop(gone);
    }
}

/// The thing that a span names.
pub(crate) fn find(span: Span) -> Option<Thing> {
    if is_near(span.segment) { table().get(&span.offset).cloned() } else { None }
}

/// What keeps a thing on the table.
type Keeper = Arc<dyn Send + Sync>;

static SHELVES: Lock<BTreeMap<u64, Weak<Shelf>>> = Lock::new(BTreeMap::new());

fn shelves() -> Held<'static, BTreeMap<u64, Weak<Shelf>>> {
    SHELVES.lock()
}

/// What one end of a channel has sent up and the other has not read. It is found by its number, in this process.
pub(crate) struct Shelf {
    number: u64,
    keepers: Lock<BTreeMap<u64, Keeper>>,
}

impl Shelf {
    /// A new one.
    pub(crate) fn new() -> Arc<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let shelf = Arc::new(Self { number, keepers: Lock::default() });
        shelves().insert(number, Arc::downgrade(&shelf));
        shelf
    }

    /// The one of this number.
    pub(crate) fn find(number: u64) -> Option<Arc<Self>> {
        shelves().get(&number).and_then(Weak::upgrade)
    }

    /// What the other end is told.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn keepers(&self) -> Held<'_, BTreeMap<u64, Keeper>> {
        self.keepers.lock()
    }

    /// Keeps what a span names on the table until it is taken.
    pub(crate) fn put(&self, span: Span, keeper: Keeper) {
        self.keepers().insert(span.offset, keeper);
    }

    /// Takes what keeps it there.
    pub(crate) fn take(&self, span: Span) -> Option<Keeper> {
        if is_near(span.segment) { self.keepers().remove(&span.offset) } else { None }
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        shelves().remove(&self.number);
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Shelf").field(&self.number).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_stays_for_the_other_end_also_when_the_sender_has_ended() {
        let ours = Shelf::new();
        let number = ours.number();
        let theirs = Shelf::find(number).unwrap();
        let keep = |value: i32| {
            let ticket = Ticket::new(Arc::new(value));
            let span = ticket.span(4);
            theirs.put(span, Arc::new(ticket));
            span
        };
        let (read, unread) = (keep(1), keep(2));
        drop(theirs);
        let keeper = ours.take(read).unwrap();
        assert!(ours.take(read).is_none() && find(read).is_some());
        drop(keeper);
        assert!(find(read).is_none() && find(unread).is_some());
        assert!(Shelf::new().take(unread).is_none(), "it is another's");
        drop(ours);
        assert!(find(unread).is_none() && Shelf::find(number).is_none());
    }

    #[test]
    fn a_thing_is_found_until_its_ticket_ends() {
        let thing: Thing = Arc::new(5);
        let (ticket, other) = (Ticket::new(thing.clone()), Ticket::new(Arc::new("other")));
        let span = ticket.span(8);
        let found = find(span).unwrap();
        assert_eq!(found.downcast_ref(), Some(&5));
        drop(ticket);
        assert!(find(span).is_none() && find(other.span(1)).is_some());
        drop(found);
        assert_eq!(Arc::strong_count(&thing), 1);
        assert!(find(Span { segment: SegmentId(0), ..other.span(1) }).is_none());
    }
}
