//! How items come: asked for one chunk at a time, and given by Python code, which takes them from the user's iterable.
//!
//! ```text
//!   Job.next_turn ─▶ so many ─▶ together? ── yes ─▶ list(islice(items, so many)) ─▶ Job.give_list ─┬▶ submitted
//!                                   no ─▶ Job.wants ─▶ one item ─▶ Job.give ─▶ one more ─▶ …      ◀┘ its items go apart
//! ```
//!
//! The iterable is not called from here, since its code may never come back: see [`visits`](crate::visits).

use super::keeping::KeptItems;
use super::{Job, Pulled};
use crate::anchors::{Anchors, Shared};
use crate::numbers::holds_only_numbers;
use crate::numpy_heap;
use crate::pickle::{Manner, encode_by, refuse, write};
use crate::pulls::Pulls;
use crate::separate::are_separate;
use crate::shared::next_key;
use crate::sharing::SHARED_BYTES_MIN;
use crate::sink::Way;
use forklift_core::payload::{Digest, Payload};
use forklift_core::telemetry::Doing;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A chunk whose items are pickled one by one, as far as it has come.
pub(super) struct Begun {
    count: u32,
    pickles: Vec<Py<PyAny>>,
    kept: Kept,
    pulls: Pulls,
    at: Instant,
    apart: Duration,
}

/// Of a chunk whose items are held: what they are and refer to, and what they come to.
#[derive(Default)]
struct Kept {
    items: Vec<Py<PyAny>>,
    shared: Vec<Vec<Arc<Shared>>>,
    sent: Digest,
    /// Whether workers will write to some of what is sent.
    own: bool,
}

impl Job {
    /// What is measured apart from encoding while items are pulled.
    fn apart(&self) -> Duration {
        self.recorder.spent(Doing::Pull) + self.recorder.spent(Doing::Copy)
    }

    fn note_encoding(&self, begun: Instant, apart: Duration) {
        self.recorder.spend(Doing::Encode, begun.elapsed().saturating_sub(self.apart() - apart));
    }

    /// Submits numbers, which nobody has to give; whether this job is of numbers.
    pub(super) fn feed_numbers(&self, py: Python<'_>, count: u32) -> PyResult<bool> {
        let Some(numbers) = self.numbers else { return Ok(false) };
        let (begun, apart) = (Instant::now(), self.apart());
        let more = self.pull_numbers(py, numbers, count);
        self.note_encoding(begun, apart);
        if !more? {
            self.exhaust();
        }
        Ok(true)
    }

    /// From a list or the like: all items exist already, so a chunk is one pickle. Whether the items were submitted.
    ///
    /// Where an item may have an object in common with another, one pickle would make them share its copy too, and whether
    /// one sees what another wrote would hang on how they were cut into chunks: from there on the job goes on one by one.
    pub(super) fn pull_together(&self, items: &Bound<'_, PyList>, count: u32) -> PyResult<bool> {
        if let Some(asked) = self.progress().asked.take() {
            self.recorder.spend(Doing::Pull, asked.elapsed());
        }
        let (begun, apart) = (Instant::now(), self.apart());
        let more = items.len() == count as usize;
        if let Some(backlog) = self.set_apart(items)? {
            let mut progress = self.progress();
            progress.together = false;
            let former = std::mem::replace(&mut progress.backlog, backlog);
            drop(progress);
            drop(former);
            return Ok(false);
        }
        if !items.is_empty() {
            self.submit_held(items, self.way_of_held())?;
        }
        self.note_encoding(begun, apart);
        if !more {
            self.exhaust();
        }
        Ok(true)
    }

    /// The items, if they cannot share one pickle.
    fn set_apart(&self, items: &Bound<'_, PyList>) -> PyResult<Option<VecDeque<Pulled>>> {
        let mut apart = !are_separate(items)?;
        let looked_for = self.sharing && !holds_only_numbers(items);
        let mut pulled = VecDeque::new();
        if apart || looked_for {
            for item in items.iter() {
                let shared = if looked_for { Some(self.refer(&item)?) } else { None };
                apart |= shared.as_ref().is_some_and(|shared| !shared.is_empty());
                pulled.push_back(Pulled { item: item.unbind(), shared });
            }
        }
        Ok(apart.then_some(pulled))
    }

    /// Begins a chunk of items that are pickled one by one; whether an item is wanted.
    ///
    /// An iterator may yield one buffer again and again with new contents: each item is encoded before the next is
    /// pulled. Of such small ones travel together, each a pickle of its own, and a large one alone; what is held travels
    /// together in any case.
    pub(super) fn begin_chunk(&self, py: Python<'_>, count: u32) -> PyResult<bool> {
        let pending = self.progress().pending.take();
        if let Some(alone) = pending {
            self.submit(1, alone);
            return Ok(false);
        }
        let (pulls, kept) = (Pulls::new(self.recorder.is_on()), Kept::default());
        let begun =
            Begun { count, pickles: Vec::new(), kept, pulls, at: Instant::now(), apart: self.apart() };
        self.go_on(py, begun, None)
    }

    /// Takes the item that was wanted, out of a list of its own; whether another one is wanted.
    pub(super) fn take_in(&self, py: Python<'_>, item: &Bound<'_, PyList>) -> PyResult<bool> {
        let mut begun = self.begun()?;
        begun.pulls.end();
        // Nobody else shall have it, so that it can be handed over.
        let given = item.get_item(0)?;
        item.del_item(0)?;
        self.go_on(py, begun, Some(given))
    }

    /// The iterable has ended, or has raised.
    pub(super) fn end_chunk(&self, py: Python<'_>, raised: bool) -> PyResult<()> {
        let mut begun = self.begun()?;
        begun.pulls.end();
        // As with the standard library, what an iterable gave of a chunk of the user's size before it raised is lost.
        if !raised || !self.fixed {
            self.close_chunk(py, begun)?;
        }
        if !raised {
            self.exhaust();
        }
        Ok(())
    }

    fn begun(&self) -> PyResult<Begun> {
        let begun = self.progress().begun.take();
        begun.ok_or_else(|| PyRuntimeError::new_err("an item that was not asked for"))
    }

    fn go_on(&self, py: Python<'_>, mut begun: Begun, given: Option<Bound<'_, PyAny>>) -> PyResult<bool> {
        let mut given = given.map(|item| (item, None));
        loop {
            if begun.pickles.len() == begun.count as usize {
                self.close_chunk(py, begun)?;
                return Ok(false);
            }
            let next = given.take().or_else(|| {
                let waiting = self.progress().backlog.pop_front();
                waiting.map(|Pulled { item, shared }| (item.into_bound(py), shared))
            });
            let Some((item, shared)) = next else {
                begun.pulls.begin();
                self.progress().begun = Some(begun);
                return Ok(true);
            };
            let shared = match shared {
                Some(shared) => shared,
                None if self.held && self.sharing => self.refer(&item)?,
                None => Vec::new(),
            };
            let Some(alone) = self.put(&mut begun, item, shared)? else { continue };
            if begun.pickles.is_empty() {
                self.note_chunk(&begun);
                self.submit(1, alone);
            } else {
                self.progress().pending = Some(alone);
                self.close_chunk(py, begun)?;
            }
            return Ok(false);
        }
    }

    /// Pickles an item for the chunk that has begun. One that is to go alone is returned.
    fn put(
        &self,
        begun: &mut Begun,
        item: Bound<'_, PyAny>,
        shared: Vec<Arc<Shared>>,
    ) -> PyResult<Option<Payload>> {
        let py = item.py();
        let list = PyList::new(py, [item])?;
        let position = self.position() + begun.pickles.len() as u64;
        let mut written = self.dump(&list, position, &shared)?;
        if !self.held {
            self.note_place(written.sink.borrow().largest());
        }
        if begun.count > 1 {
            if self.held {
                written.sink.borrow().add_to(&mut begun.kept.sent, py, self.way_of_held())?;
                begun.kept.items.push(list.get_item(0)?.unbind());
                begun.kept.shared.push(shared);
            }
            written = match written.into_small()? {
                Ok(bytes) => {
                    begun.pickles.push(bytes.into_any().unbind());
                    return Ok(None);
                }
                Err(written) => written,
            };
            if self.held {
                begun.kept.own = true;
                begun.pickles.push(written.sink.borrow().apart(py)?.into_any().unbind());
                return Ok(None);
            }
        }
        let sink = written.into_sink();
        let mut sink = sink.borrow_mut();
        let alone = if self.held {
            sink.pack(py, self.arena(), self.way_of_held())
        } else {
            sink.hand_over(py, self.arena(), numpy_heap::shared(), list)
        };
        alone.or_else(|error| refuse(py, self.arena(), position..position + 1, error)).map(Some)
    }

    fn note_chunk(&self, begun: &Begun) {
        self.recorder.spend(Doing::Pull, begun.pulls.all());
        self.note_encoding(begun.at, begun.apart);
    }

    fn close_chunk(&self, py: Python<'_>, begun: Begun) -> PyResult<()> {
        self.note_chunk(&begun);
        if begun.pickles.is_empty() {
            return Ok(());
        }
        let (first, count) = (self.position(), begun.pickles.len() as u32);
        let way = if self.held { self.way_of_held() } else { Way::Copy };
        let together = PyTuple::new(py, &begun.pickles)?;
        let payload = encode_by(py, together.as_any(), self.arena(), &mut Manner::default(), way)
            .or_else(|error| refuse(py, self.arena(), first..first + u64::from(count), error))?;
        let Kept { items, shared, sent, own } = begun.kept;
        if own && count > 1 {
            let items = PyList::new(py, items)?.unbind();
            self.submit_kept(count, payload, sent, KeptItems { items, shared: Some(shared) });
        } else {
            self.submit(count, payload);
        }
        Ok(())
    }

    /// What an item holds of what others of the job hold as well and what is large, once it was sent to all workers.
    fn refer(&self, item: &Bound<'_, PyAny>) -> PyResult<Vec<Arc<Shared>>> {
        let py = item.py();
        // Taken out while Python code runs: only one thread feeds a job.
        let mut sharing = std::mem::take(&mut self.progress().sharing);
        let mut send = |object: &Bound<'_, PyAny>, one_object: bool, bytes_left: u64| {
            let mut manner = self.progress().manner;
            let written = match write(object, &mut manner, &Anchors::default()) {
                Ok(written) => written,
                // Its items will say so.
                Err(error) if error.is_instance_of::<PyException>(py) => return Ok(None),
                Err(error) => return Err(error),
            };
            let sink = written.sink.borrow();
            if !(SHARED_BYTES_MIN..=bytes_left).contains(&sink.weight(py)) {
                return Ok(None);
            }
            let key = next_key();
            let Some(shared) = Shared::new(object, key, &written.memo()?, &self.function)? else {
                return Ok(None);
            };
            let payload = sink.pack(py, self.pool.broadcast(), Way::Lend)?;
            self.recorder.spend(Doing::Copy, payload.packing());
            let bytes = payload.bytes();
            self.pool.share(Some(self.handle.id()), key, one_object, payload);
            Ok(Some((shared, bytes)))
        };
        let referred = sharing.refer(item, &self.function, &mut send);
        self.progress().sharing = sharing;
        referred
    }

    /// Notes where an item's largest buffer lies. If that of the item before lay there too, an iterator yields the same
    /// object again and again, or another in its place.
    fn note_place(&self, place: Option<(usize, usize)>) {
        let before = std::mem::replace(&mut self.progress().place, place);
        if let Some((_, bytes)) = place.filter(|_| place == before) {
            self.recorder.repeated(bytes as u64);
        }
    }
}
