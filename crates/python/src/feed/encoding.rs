//! How a job's items become payload, the first time and again.

use super::Job;
use crate::parcel::PyParcel;
use crate::pickle::{Manner, Sink, Way, dump, dump_list, encode, encode_by, refuse};
use crate::store::Lease;
use forklift_core::id::ChunkId;
use forklift_core::payload::Payload;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyRange, PyTuple};

impl Job {
    /// Encodes a list of items, the first of which has index `first`.
    pub(super) fn encode(
        &self,
        py: Python<'_>,
        items: &Bound<'_, PyList>,
        first: u64,
        way: Way<'_>,
    ) -> PyResult<Payload> {
        let sink = self.dump(py, items, first)?;
        let packed = sink.bind(py).borrow().pack(py, self.arena(), way);
        packed.or_else(|error| refuse(py, self.arena(), first..first + items.len() as u64, error))
    }

    /// Pickles a list of items. Those that cannot be sent are replaced by their failures, which the worker hands back
    /// in their places, so that nothing else is disturbed.
    pub(super) fn dump(&self, py: Python<'_>, items: &Bound<'_, PyList>, first: u64) -> PyResult<Py<Sink>> {
        let mut manner = self.progress().manner;
        let attempt = dump_list(py, items, &mut manner);
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
                dump(py, PyList::new(py, [&item])?.as_any(), &mut manner).err()
            };
            if let Some(error) = culprit {
                items
                    .set_item(index, unsendable.call1((item, first + index as u64, error.into_value(py)))?)?;
            }
        }
        dump_list(py, items, &mut manner)
    }

    /// Submits the next numbers of so many in all. Whether there are more.
    pub(super) fn pull_numbers(&self, py: Python<'_>, numbers: u64, count: u32) -> PyResult<bool> {
        let first = self.position();
        let count = u32::try_from(numbers.saturating_sub(first)).unwrap_or(u32::MAX).min(count);
        let end = first + u64::from(count);
        if count > 0 {
            let range = PyRange::new(py, first.cast_signed() as isize, end.cast_signed() as isize)?;
            let payload = encode(py, range.as_any(), self.arena(), &mut Manner::default())?;
            self.submit(count, payload, None);
        }
        Ok(end < numbers)
    }

    pub(super) fn restore(&self, py: Python<'_>, chunk: ChunkId) -> PyResult<()> {
        let (first, items) = {
            let progress = self.progress();
            let found = progress.retained.iter().find(|(_, retained)| retained.chunk == chunk);
            let Some((first, retained)) = found else {
                return Err(PyRuntimeError::new_err(format!(
                    "chunk {} came back, and nobody has kept its items",
                    chunk.0
                )));
            };
            (*first, retained.items.clone_ref(py))
        };
        // One by one: the chunk may come back because one of its items cannot be rebuilt, and only that one shall fail.
        let mut alone = Vec::new();
        for (index, item) in items.bind(py).iter().enumerate() {
            let sink = self.dump(py, &PyList::new(py, [item])?, first + index as u64)?;
            alone.push(sink.bind(py).borrow().apart(py)?);
        }
        let together = PyTuple::new(py, alone)?;
        let sink = dump(py, together.as_any(), &mut Manner::default())?;
        let payload = sink.bind(py).borrow().pack(py, self.arena(), Way::Lend)?;
        self.pool.restore(chunk, payload);
        Ok(())
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
