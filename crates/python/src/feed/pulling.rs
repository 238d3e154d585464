//! How items are pulled: a chunk at a time, in one pickle or in one each.

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
use forklift_core::payload::Digest;
use forklift_core::telemetry::Doing;
use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyTuple};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An item, and what it holds of what was sent to all workers.
type Next<'py> = (Bound<'py, PyAny>, Vec<Arc<Shared>>);

impl Job {
    /// Pulls a chunk of up to `count` items and submits it. Python code runs here, so no lock is held meanwhile: only
    /// one thread feeds a job.
    pub(super) fn pull(&self, py: Python<'_>, iterator: &Bound<'_, PyIterator>, count: u32) -> PyResult<()> {
        let together = self.progress().together;
        let (begun, apart) = (Instant::now(), self.apart());
        let more = if let Some(numbers) = self.numbers {
            self.pull_numbers(py, numbers, count)
        } else if together {
            self.pull_together(py, iterator, count)
        } else {
            self.pull_one_by_one(py, iterator, count)
        };
        self.recorder.spend(Doing::Encode, begun.elapsed().saturating_sub(self.apart() - apart));
        if !more? {
            self.exhaust();
        }
        Ok(())
    }

    /// What is measured apart from encoding while items are pulled.
    fn apart(&self) -> Duration {
        self.recorder.spent(Doing::Pull) + self.recorder.spent(Doing::Copy)
    }

    /// From a list or the like: all items exist already, so a chunk is one pickle. Whether there may be more.
    ///
    /// Where an item may have an object in common with another, one pickle would make them share its copy too, and whether
    /// one sees what another wrote would hang on how they were cut into chunks: from there on the job goes on one by one.
    fn pull_together(&self, py: Python<'_>, iterator: &Bound<'_, PyIterator>, count: u32) -> PyResult<bool> {
        let begun = Instant::now();
        // list(islice(iterator, count)): a third of the time of taking the items one by one.
        let slice =
            py.import(intern!(py, "itertools"))?.call_method1(intern!(py, "islice"), (iterator, count))?;
        let items = py.get_type::<PyList>().call1((slice,))?.cast_into::<PyList>()?;
        self.recorder.spend(Doing::Pull, begun.elapsed());
        let more = items.len() == count as usize;
        let mut apart = !are_separate(&items)?;
        let mut pulled = VecDeque::new();
        if self.sharing && !holds_only_numbers(&items) {
            for item in items.iter() {
                let shared = self.refer(&item)?;
                apart |= !shared.is_empty();
                pulled.push_back(Pulled { item: item.unbind(), shared: Some(shared) });
            }
        } else if apart {
            pulled.extend(items.iter().map(|item| Pulled { item: item.unbind(), shared: None }));
        }
        if apart {
            let mut progress = self.progress();
            progress.together = false;
            progress.backlog = pulled;
            drop(progress);
            return self.pull_one_by_one(py, iterator, count);
        }
        if !items.is_empty() {
            self.submit_held(&items, self.way_of_held())?;
        }
        Ok(more)
    }

    /// The next item that was pulled and not encoded, or that the iterator gives.
    fn next_item<'py>(
        &self,
        py: Python<'py>,
        iterator: &mut Bound<'py, PyIterator>,
        pulls: &mut Pulls,
    ) -> Option<PyResult<Next<'py>>> {
        let waiting = self.progress().backlog.pop_front();
        let (item, shared) = match waiting {
            Some(Pulled { item, shared }) => (item.into_bound(py), shared),
            None => match pulls.time(|| iterator.next())? {
                Ok(item) => (item, None),
                Err(error) => return Some(Err(error)),
            },
        };
        let shared = match shared {
            Some(shared) => Ok(shared),
            None if self.held && self.sharing => self.refer(&item),
            None => Ok(Vec::new()),
        };
        Some(shared.map(|shared| (item, shared)))
    }

    /// Each item is a pickle of its own, encoded before the next is pulled: an iterator may yield one buffer again and
    /// again with new contents. Of such small ones travel together, and a large one alone; what is held travels together in
    /// any case.
    fn pull_one_by_one(
        &self,
        py: Python<'_>,
        iterator: &Bound<'_, PyIterator>,
        count: u32,
    ) -> PyResult<bool> {
        let mut pickles: Vec<Bound<'_, PyAny>> = Vec::new();
        // Of those that are held: what they are, what they come to, and whether workers will write to some of it.
        let (originals, mut shares, mut sent) = (PyList::empty(py), Vec::new(), Digest::default());
        let mut own = false;
        let pending = self.progress().pending.take();
        if let Some(alone) = pending {
            self.submit(1, alone);
            return Ok(true);
        }
        let mut items = iterator.clone();
        let mut pulls = Pulls::new(self.recorder.is_on());
        let ended = loop {
            if pickles.len() == count as usize {
                break Ok(true);
            }
            let (item, shared) = match self.next_item(py, &mut items, &mut pulls) {
                Some(Ok(next)) => next,
                Some(Err(error)) => break Err(error),
                None => break Ok(false),
            };
            let list = PyList::new(py, [item])?;
            let position = self.position() + pickles.len() as u64;
            let mut written = self.dump(&list, position, &shared)?;
            if !self.held {
                self.note_place(written.sink.borrow().largest());
            }
            if count > 1 {
                if self.held {
                    written.sink.borrow().add_to(&mut sent, py, self.way_of_held())?;
                    originals.append(list.get_item(0)?)?;
                    shares.push(shared);
                }
                written = match written.into_small()? {
                    Ok(bytes) => {
                        pickles.push(bytes.into_any());
                        continue;
                    }
                    Err(written) => written,
                };
                if self.held {
                    own = true;
                    pickles.push(written.sink.borrow().apart(py)?.into_any());
                    continue;
                }
            }
            let mut sink = written.sink.borrow_mut();
            let alone = if self.held {
                sink.pack(py, self.arena(), self.way_of_held())
            } else {
                sink.hand_over(py, self.arena(), numpy_heap::shared(), list)
            };
            let alone = alone.or_else(|error| refuse(py, self.arena(), position..position + 1, error))?;
            if pickles.is_empty() {
                self.recorder.spend(Doing::Pull, pulls.all());
                self.submit(1, alone);
                return Ok(true);
            }
            self.progress().pending = Some(alone);
            break Ok(true);
        };
        self.recorder.spend(Doing::Pull, pulls.all());
        // As with the standard library, what an iterable gave of a chunk of the user's size before it raised is lost.
        if !pickles.is_empty() && (ended.is_ok() || !self.fixed) {
            let (first, count) = (self.position(), pickles.len() as u32);
            let way = if self.held { self.way_of_held() } else { Way::Copy };
            let together = PyTuple::new(py, &pickles)?;
            let payload = encode_by(py, together.as_any(), self.arena(), &mut Manner::default(), way)
                .or_else(|error| refuse(py, self.arena(), first..first + u64::from(count), error))?;
            if own && count > 1 {
                self.submit_kept(
                    count,
                    payload,
                    sent,
                    KeptItems { items: originals.unbind(), shared: Some(shares) },
                );
            } else {
                self.submit(count, payload);
            }
        }
        ended
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
