//! Items that are kept until they are answered, since they may have to be encoded again.
//!
//! What is encoded again must be what was sent, byte for byte: a call that was not to blame for the end of its worker sees
//! the second time what it saw the first time. Workers may have written to what was sent, so it cannot be compared; and the
//! caller's objects may have changed since, by another thread, or by the caller of an asynchronous method. So a digest is
//! taken when a chunk is encoded, and again before it goes once more. If they differ, the chunk is forfeited: what had begun
//! of it is lost, by name, and the rest goes as it is.
//!
//! That is done where it can be needed: for chunks of several items some of whose bytes workers write to. Of a chunk of one
//! nothing goes again but what had not begun, and streams are only read by workers.

use super::Job;
use crate::anchors::Shared;
use crate::pickle::{Manner, dump};
use crate::sink::{Sink, Way};
use forklift_core::event::Kept;
use forklift_core::id::ChunkId;
use forklift_core::payload::{Digest, Payload};
use forklift_core::telemetry::Doing;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use std::sync::Arc;

/// Items of a chunk that may have to be encoded again.
pub(super) struct Retained {
    chunk: ChunkId,
    pub(super) count: u32,
    pub(super) unanswered: u32,
    items: Arc<KeptItems>,
    /// What they came to when they were sent, and how they were pickled.
    sent: Digest,
    manner: Manner,
}

/// The items of a chunk.
pub(super) struct KeptItems {
    pub(super) items: Py<PyList>,
    /// What each refers to of what was sent to all workers, if each was pickled by itself.
    pub(super) shared: Option<Vec<Vec<Arc<Shared>>>>,
}

impl Job {
    /// Encodes and submits a chunk of separate items that are all there, and keeps them if they could be needed again.
    pub(super) fn submit_held(&self, items: &Bound<'_, PyList>, way: Way<'_>) -> PyResult<()> {
        let (py, count) = (items.py(), items.len() as u32);
        if count < 2 {
            let payload = self.encode(items, self.position(), way)?;
            self.submit(count, payload);
            return Ok(());
        }
        let first = self.position();
        let sink = self.dump(items, first, &[])?.sink;
        let mut sent = Digest::default();
        sink.borrow().add_to(&mut sent, py, way)?;
        let payload = self.pack_dumped(&sink, first..first + u64::from(count), way)?;
        self.submit_kept(count, payload, sent, KeptItems { items: items.clone().unbind(), shared: None });
        Ok(())
    }

    /// Submits a chunk whose items are kept.
    pub(super) fn submit_kept(&self, count: u32, payload: Payload, sent: Digest, items: KeptItems) {
        let manner = self.progress().manner;
        let (first, chunk) = self.hand_in(count, payload, Kept::OneByOne);
        let items = Arc::new(items);
        let retained = Retained { chunk, items, count, unanswered: count, sent, manner };
        self.progress().retained.insert(first, retained);
    }

    /// Submits a chunk that nobody keeps.
    pub(super) fn submit(&self, count: u32, payload: Payload) {
        self.hand_in(count, payload, Kept::Not);
    }

    fn hand_in(&self, count: u32, payload: Payload, kept: Kept) -> (u64, ChunkId) {
        self.recorder.spend(Doing::Copy, payload.packing());
        let first = self.position();
        let chunk = self.pool.submit(self.handle.id(), first, count, payload, kept);
        self.progress().position += u64::from(count);
        (first, chunk)
    }

    /// Encodes the items of a chunk again, one by one: it may come back because one of them cannot be rebuilt, and only
    /// that one shall fail.
    pub(super) fn restore(&self, py: Python<'_>, chunk: ChunkId) -> PyResult<()> {
        let (first, items, sent, manner) = {
            let progress = self.progress();
            let found = progress.retained.iter().find(|(_, retained)| retained.chunk == chunk);
            let Some((first, retained)) = found else {
                return Err(PyRuntimeError::new_err(format!(
                    "chunk {} came back, and nobody has kept its items",
                    chunk.0
                )));
            };
            (*first, Arc::clone(&retained.items), retained.sent, retained.manner)
        };
        let (alone, now) = match self.dump_again(py, &items, first, manner) {
            Ok(dumped) => dumped,
            Err(error) if error.is_instance_of::<PyException>(py) => {
                self.pool.forfeit(chunk);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if now != sent {
            self.pool.forfeit(chunk);
            return Ok(());
        }
        let apart: Vec<_> = alone.iter().map(|sink| sink.borrow().apart(py)).collect::<PyResult<_>>()?;
        let sink = dump(PyTuple::new(py, apart)?.as_any(), &mut Manner::default())?;
        let payload = sink.borrow().pack(py, self.arena(), Way::Lend)?;
        self.pool.restore(chunk, payload);
        Ok(())
    }

    /// Pickles items again, each by itself. Also says what they come to as they were pickled at first.
    fn dump_again<'py>(
        &self,
        py: Python<'py>,
        kept: &KeptItems,
        first: u64,
        mut manner: Manner,
    ) -> PyResult<(Vec<Bound<'py, Sink>>, Digest)> {
        let (items, way) = (kept.items.bind(py), self.way_of_held());
        let mut now = Digest::default();
        if kept.shared.is_none() {
            self.write(items, &mut manner, &[])?.sink.borrow().add_to(&mut now, py, way)?;
        }
        let mut alone = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let shared = kept.shared.as_ref().map_or(&[][..], |shared| &shared[index]);
            let sink = self.dump(&PyList::new(py, [item])?, first + index as u64, shared)?.sink;
            if kept.shared.is_some() {
                sink.borrow().add_to(&mut now, py, way)?;
            }
            alone.push(sink);
        }
        Ok((alone, now))
    }

    /// Items that were answered need not be kept.
    pub(super) fn note_answer(&self, first: u64, items: u32) {
        let mut progress = self.progress();
        let Some((&start, retained)) = progress.retained.range_mut(..=first).next_back() else { return };
        if first >= start + u64::from(retained.count) {
            return; // Of a chunk behind it, which is not kept.
        }
        retained.unanswered = retained.unanswered.saturating_sub(items);
        let gone = (retained.unanswered == 0).then(|| progress.retained.remove(&start));
        // Dropping items runs Python code, which may come back here.
        drop(progress);
        drop(gone);
    }
}
