//! Parts of a value for a receiver in the sender's own process: see [`near`](crate::near).

use super::{Bytes, Loan};
use crate::error::{Error, Result};
use crate::near::{self, Ticket};
use forklift_shm::{Lock, Release, Span, View};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// An object of this process whose bytes a receiver in this process is to have as they lie.
pub trait Neighbour: Any + Send + Sync {
    /// Its bytes, which stay as they are for as long as it lives.
    fn bytes(&self) -> &[u8];

    /// What it is to weigh: more than its bytes if it stands for something else.
    fn weight(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Where they start, if nobody else has them, so that their receiver may write there.
    fn own(&self) -> Option<*mut u8> {
        None
    }
}

/// What a receiver in this process finds [on the table](crate::near).
enum Near {
    Object(Arc<dyn Neighbour>),
    /// For whoever takes them first.
    Bytes(Lock<Option<Bytes>>),
}

impl Loan {
    /// An object of this process, for a receiver in it, which can be told of it several times.
    #[must_use]
    pub fn of_neighbour(object: Arc<dyn Neighbour>) -> Self {
        let bytes = object.bytes().len() as u64;
        Self::near(Near::Object(object), bytes)
    }

    /// Bytes that this process has received, for a receiver in it, which takes them over.
    #[must_use]
    pub fn of_received(bytes: Bytes) -> Self {
        let length = bytes.as_slice().len() as u64;
        Self::near(Near::Bytes(Lock::new(Some(bytes))), length)
    }

    fn near(near: Near, bytes: u64) -> Self {
        let ticket = Ticket::new(Arc::new(near));
        Self { segment: None, span: ticket.span(bytes), keeper: Arc::new(ticket) }
    }
}

/// An object of this process that its sender lent.
pub struct Loaned {
    object: Arc<dyn Neighbour>,
    /// Whom to tell when it is not used any more.
    lender: Option<(Span, Arc<dyn Release>)>,
}

impl Loaned {
    /// One that came by no channel.
    #[must_use]
    pub fn new(object: Arc<dyn Neighbour>) -> Self {
        Self { object, lender: None }
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> &dyn Neighbour {
        &*self.object
    }
}

impl Drop for Loaned {
    fn drop(&mut self) {
        if let Some((span, owner)) = &self.lender {
            owner.release(*span);
        }
    }
}

impl fmt::Debug for Loaned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Loaned").finish_non_exhaustive()
    }
}

/// A view that was handed over within this process: there are two to be told of its end.
struct Passed {
    #[expect(dead_code, reason = "ends with this")]
    view: View,
    span: Span,
    owner: Arc<dyn Release>,
}

impl Release for Passed {
    fn release(&self, _: Span) {
        self.owner.release(self.span);
    }
}

/// Takes bytes that are there for whoever comes first.
fn take(bytes: &Lock<Option<Bytes>>) -> Option<Bytes> {
    bytes.lock().take()
}

/// What a sender in this process lent under this name; `owner` is told when it is not used any more.
///
/// # Errors
/// [`Error::Gone`] if it is not there any more, and so its sender has done with whoever asks.
pub(crate) fn open_near(span: Span, owner: Arc<dyn Release>) -> Result<Bytes> {
    let thing = near::find(span);
    match thing.as_ref().and_then(|thing| thing.downcast_ref::<Near>()) {
        Some(Near::Object(object)) => {
            Ok(Bytes::Near(Loaned { object: Arc::clone(object), lender: Some((span, owner)) }))
        }
        Some(Near::Bytes(bytes)) => match take(bytes) {
            Some(Bytes::View(view)) => {
                let (segment, place) = (Arc::clone(view.segment()), view.span());
                Ok(Bytes::View(View::new(&segment, place, Arc::new(Passed { view, span, owner }))?))
            }
            Some(bytes) => {
                owner.release(span);
                Ok(bytes)
            }
            None => Err(Error::Malformed("bytes that were taken over before")),
        },
        None => Err(Error::Gone),
    }
}
