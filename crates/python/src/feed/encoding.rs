//! How a job's items become payload, the first time and again.

use super::Job;
use crate::anchors::{Anchors, Function, Shared};
use crate::parcel::PyParcel;
use crate::pickle::{Manner, Written, encode, encode_by, find_parts, refuse, write_list};
use crate::sink::{Sink, Way};
use crate::store::Lease;
use forklift_core::payload::Payload;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyRange};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Job {
    /// Encodes a list of separate items, the first of which has index `first`.
    pub(super) fn encode(&self, items: &Bound<'_, PyList>, first: u64, way: Way<'_>) -> PyResult<Payload> {
        let sink = self.dump(items, first, &[])?.sink;
        self.pack_dumped(&sink, first..first + items.len() as u64, way)
    }

    /// Packs the items of these indices that were pickled.
    pub(super) fn pack_dumped(
        &self,
        sink: &Bound<'_, Sink>,
        items: Range<u64>,
        way: Way<'_>,
    ) -> PyResult<Payload> {
        let py = sink.py();
        let packed = sink.borrow().pack(py, self.arena(), way);
        packed.or_else(|error| refuse(py, self.arena(), items, error))
    }

    /// Pickles a list of separate items, which may refer to what the function has and to `shared`. Those that cannot be
    /// sent are replaced by their failures, which the worker hands back in their places, so that nothing else is disturbed.
    pub(super) fn dump<'py>(
        &self,
        items: &Bound<'py, PyList>,
        first: u64,
        shared: &[Arc<Shared>],
    ) -> PyResult<Written<'py>> {
        let py = items.py();
        let mut manner = self.progress().manner;
        let attempt = self.write(items, &mut manner, shared);
        self.progress().manner = manner;
        let error = match attempt {
            Ok(sink) => return Ok(sink),
            Err(error) if !error.is_instance_of::<PyException>(py) => return Err(error),
            Err(error) => error,
        };
        let unsendable = py.import("forklift._outcome")?.getattr("unsendable_item")?;
        for index in 0..items.len() {
            let item = items.get_item(index)?;
            let culprit = if items.len() == 1 {
                Some(error.clone_ref(py))
            } else {
                self.write(&PyList::new(py, [&item])?, &mut manner, shared).err()
            };
            if let Some(error) = culprit {
                items
                    .set_item(index, unsendable.call1((item, first + index as u64, error.into_value(py)))?)?;
            }
        }
        self.write(items, &mut manner, shared)
    }

    /// Pickles a list of separate items beside the function: what they have in common with it, or with what was sent to
    /// all workers, they refer to.
    pub(super) fn write<'py>(
        &self,
        items: &Bound<'py, PyList>,
        manner: &mut Manner,
        shared: &[Arc<Shared>],
    ) -> PyResult<Written<'py>> {
        let py = items.py();
        let function = &self.function;
        let mut found = None;
        if function.is_large() {
            if !self.referring.load(Ordering::Relaxed) {
                let anchors = Anchors::new(py, &Function::default(), None, shared)?;
                let kept = |object: &Bound<'_, PyAny>| function.holds(object) || anchors.holds(object);
                let written = write_list(items, manner, &anchors, &kept)?;
                let memo = written.memo()?;
                let mentioned = function.is_mentioned(&memo)?;
                let entangled = anchors.has_shared() && anchors.is_entangled(&memo)?;
                if !mentioned && !entangled {
                    return Ok(written);
                }
                self.referring.store(mentioned, Ordering::Relaxed);
            }
            found = Some(find_parts(items.as_any(), function.addresses(), *manner)?);
        }
        let made;
        let anchors = if found.is_none() && shared.is_empty() {
            &self.anchors
        } else {
            made = Anchors::new(py, function, found.as_ref(), shared)?;
            &made
        };
        let written = write_list(items, manner, anchors, &|object| anchors.holds(object))?;
        if !anchors.has_shared() || !anchors.is_entangled(&written.memo()?)? {
            return Ok(written);
        }
        // One of the items refers to what a shared object has in it: as two objects they would not be the same.
        self.write(items, manner, &[])
    }

    /// Submits the next numbers of so many in all. Whether there are more.
    pub(super) fn pull_numbers(&self, py: Python<'_>, numbers: u64, count: u32) -> PyResult<bool> {
        let first = self.position();
        let count = u32::try_from(numbers.saturating_sub(first)).unwrap_or(u32::MAX).min(count);
        let end = first + u64::from(count);
        if count > 0 {
            let range = PyRange::new(py, first.cast_signed() as isize, end.cast_signed() as isize)?;
            let payload = encode(py, range.as_any(), self.arena(), &mut Manner::default())?;
            self.submit(count, payload);
        }
        Ok(end < numbers)
    }

    /// How items go that exist before they are pulled and keep their contents until the job is done.
    pub(super) fn way_of_held(&self) -> Way<'static> {
        if self.progress().manner.elsewhere { Way::Show } else { Way::Lend }
    }

    /// Packs what was encoded elsewhere. What a `lease` is for is lent from there.
    pub(super) fn pack(
        &self,
        py: Python<'_>,
        parcel: &Bound<'_, PyParcel>,
        lease: Option<&Lease>,
    ) -> PyResult<Payload> {
        let way = lease.map_or(Way::Copy, Way::LendStored);
        encode_by(py, parcel.as_any(), self.arena(), &mut Manner::default(), way)
    }
}
