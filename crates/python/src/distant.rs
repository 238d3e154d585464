//! Results that stay on a cluster until somebody wants them: what stands for them on their way through the pool.

use crate::buffer::memory;
use crate::error::raise;
use crate::parcel::PyParcel;
use crate::store::Lease;
use forklift_core::payload::{Bytes, Loan, Neighbour, Parcel, Payload, Source};
use forklift_shm::Arena;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use std::any::Any;
use std::sync::Arc;

/// A Python object that fetches them, and what they weigh.
struct Distant {
    /// None only while being dropped.
    object: Option<Py<PyAny>>,
    weight: u64,
    creator: u32,
}

impl Neighbour for Distant {
    fn bytes(&self) -> &[u8] {
        &[]
    }

    fn weight(&self) -> u64 {
        self.weight
    }
}

impl Drop for Distant {
    fn drop(&mut self) {
        // To say that they are not wanted any more is not the business of a fork.
        if self.creator != std::process::id() {
            std::mem::forget(self.object.take());
        }
    }
}

/// What stands for the results that an object's `fetch` returns, `nbytes` of them.
pub(crate) fn stand_in(arena: &Arena, object: &Bound<'_, PyAny>) -> PyResult<Payload> {
    let weight = object.getattr(intern!(object.py(), "nbytes"))?.extract()?;
    let distant = Distant { object: Some(object.clone().unbind()), weight, creator: std::process::id() };
    let loan = Loan::of_neighbour(Arc::new(distant));
    Payload::pack(arena, &[], &[Source::Lend(loan)]).map_err(raise)
}

/// The results themselves, fetched if they are not here. What nobody else has of them stays where it lies.
///
/// # Errors
/// What the object's `fetch` raises.
pub(crate) fn fetched(py: Python<'_>, parcel: Parcel) -> PyResult<Parcel> {
    let [Bytes::Near(loaned)] = &parcel.buffers[..] else { return Ok(parcel) };
    let object: &dyn Any = loaned.object();
    let Some(Distant { object: Some(object), .. }) = object.downcast_ref() else { return Ok(parcel) };
    let (found, lease): (Bound<'_, PyParcel>, Option<Bound<'_, Lease>>) =
        object.bind(py).call_method0(intern!(py, "fetch"))?.extract()?;
    let copied = |object: &Bound<'_, PyAny>| -> PyResult<Bytes> {
        let buffer = PyUntypedBuffer::get(object)?;
        Ok(Bytes::Inline(memory(&buffer).unwrap_or_default().into()))
    };
    let received = |object: Bound<'_, PyAny>| match lease.as_ref().map(|lease| lease.get().receive(&object)) {
        Some(Some(bytes)) => Ok(bytes),
        _ => copied(&object),
    };
    Ok(Parcel {
        stream: copied(found.get().stream.bind(py))?,
        buffers: found.get().buffers.bind(py).iter().map(received).collect::<PyResult<_>>()?,
    })
}
