//! What stands in for a worker elsewhere: the channel's end, for a thread of this process that passes on what comes.
#![expect(clippy::disallowed_types, reason = "held while its thread waits; a fork has no use for it")]

use crate::descriptor::adopt;
use crate::distant::stand_in;
use crate::error::raise;
use crate::parcel::PyParcel;
use crate::pickle::{Manner, encode_by};
use crate::sink::Way;
use crate::store::Lease;
use crate::visits::Visit;
use forklift_core::Error;
use forklift_core::event::Spent;
use forklift_core::id::{ChunkId, JobId, Time};
use forklift_core::payload::{Parcel, Payload};
use forklift_core::process::Secret;
use forklift_core::telemetry::Shift;
use forklift_core::worker::{Bell, Done, Order, Station};
use forklift_shm::Arena;
use pyo3::exceptions::PyEOFError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One worker elsewhere, as the pool knows it. One thread asks for orders and answers them; any may ring.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Relay {
    bell: Bell,
    /// Hidden from forks, and only then closed: see [`Secret`].
    end: Mutex<Option<(Secret, Station)>>,
}

impl Relay {
    fn end(&self) -> MutexGuard<'_, Option<(Secret, Station)>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, deed: impl FnOnce(&mut Station) -> forklift_core::Result<T>) -> PyResult<T> {
        match &mut *self.end() {
            Some((_, station)) => deed(station).map_err(gone),
            None => Err(gone(Error::Gone)),
        }
    }

    fn arena(&self) -> PyResult<Arena> {
        match &*self.end() {
            Some((_, station)) => Ok(station.arena().clone()),
            None => Err(gone(Error::Gone)),
        }
    }

    fn pack(&self, py: Python<'_>, parcel: &Bound<'_, PyParcel>, lease: Option<&Lease>) -> PyResult<Payload> {
        let arena = self.arena()?;
        let way = lease.map_or(Way::Copy, Way::Keep);
        encode_by(py, parcel.as_any(), &arena, &mut Manner::default(), way)
    }
}

/// The pool's end of the channel is closed: nothing more is wanted.
fn gone(error: Error) -> PyErr {
    match error {
        Error::Gone => PyEOFError::new_err("the pool has done with this worker"),
        error => raise(error),
    }
}

#[pymethods]
impl Relay {
    /// Takes over the descriptor of a worker's end.
    #[new]
    fn new(channel: RawFd) -> PyResult<Self> {
        let channel = adopt(channel)?;
        let secret = Secret::new(&channel);
        Ok(Self { bell: Bell::new().map_err(raise)?, end: Mutex::new(Some((secret, Station::new(channel)))) })
    }

    /// Waits for the next order, without the interpreter's lock; None when rung at, or for no reason. Raises EOFError when
    /// nothing more is wanted. Orders are tuples that begin with their name:
    ///
    /// ("start", initializer or None) · ("call", job, chunk, first, skip, items, retained, function or None, items'
    /// parcel, when it came, seconds waited for it) · ("share", job, key, one object for all, value) · ("unshare", key) ·
    /// ("forget", job) · ("stop",)
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let _visit = Visit::begin()?;
        let order = py.detach(|| self.with(|station| station.receive_or(&self.bell)))?;
        let parcel = |parcel: Parcel| Bound::new(py, PyParcel::of(py, parcel)?);
        let order = match order {
            Order::Pause => return Ok(None),
            Order::Start { initializer } => {
                ("start", initializer.map(parcel).transpose()?).into_pyobject(py)?
            }
            Order::Call(call) => (
                "call",
                call.job.0,
                call.chunk.0,
                call.first,
                call.skip,
                call.items,
                call.retained,
                call.function.map(parcel).transpose()?,
                parcel(call.payload)?,
                call.begun.0,
                call.waited.as_secs_f64(),
            )
                .into_pyobject(py)?,
            Order::Share { job, key, keep, value } => {
                let value = parcel(value.open().map_err(raise)?)?;
                ("share", job.0, key, keep, value).into_pyobject(py)?
            }
            Order::Unshare(key) => ("unshare", key).into_pyobject(py)?,
            Order::Forget(job) => ("forget", job.0).into_pyobject(py)?,
            Order::Refuse(refused) => {
                let at = Some((refused.job, refused.first));
                self.with(|station| station.depart(at, &refused.reason.to_string()))?;
                return Err(gone(Error::Gone));
            }
            Order::Stop => ("stop",).into_pyobject(py)?,
        };
        Ok(Some(order))
    }

    /// Has `next` return.
    fn ring(&self) {
        self.bell.ring();
    }

    /// The worker is there, and its initializer has run.
    fn ready(&self) -> PyResult<()> {
        self.with(Station::ready)
    }

    /// The initializer raised: the pickled failure.
    fn refuse(&self, py: Python<'_>, failure: &Bound<'_, PyParcel>) -> PyResult<()> {
        let payload = self.pack(py, failure, None)?;
        self.with(|station| station.refuse(&payload))
    }

    /// Answers the next items of a piece. `spent`: seconds of decoding, calling, encoding there; `begun` and `waited` of
    /// the call; `crossing`: seconds of the way there and back. `results`: their parcel, of which stays where it lies what the
    /// `lease` is for, or what `fetch`es it.
    #[expect(clippy::too_many_arguments, reason = "from one place")]
    fn answer(
        &self,
        py: Python<'_>,
        chunk: u64,
        items: u32,
        failed: u32,
        last: bool,
        results: &Bound<'_, PyAny>,
        spent: (f64, f64, f64),
        begun: u64,
        waited: f64,
        crossing: f64,
        lease: Option<&Bound<'_, Lease>>,
    ) -> PyResult<()> {
        let _visit = Visit::begin()?;
        let payload = match results.cast_exact::<PyParcel>() {
            Ok(parcel) => self.pack(py, parcel, lease.map(Bound::get))?,
            Err(_) => stand_in(&self.arena()?, results)?,
        };
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let [decode, call, encode] = [spent.0, spent.1, spent.2].map(seconds);
        let mean = call / items.max(1);
        let shift = Shift {
            // Half of the way was there.
            begun: Time(begun).after(seconds(crossing) / 2),
            waited: seconds(waited),
            crossing: seconds(crossing),
            longest: (0, mean),
            samples: vec![(u64::try_from(mean.as_nanos()).unwrap_or(u64::MAX), items)],
            ..Shift::default()
        };
        let spent = Spent { decode, call, encode };
        let done = Done { chunk: ChunkId(chunk), items, failed, last, spent, shift };
        self.with(|station| station.answer(done, &payload))
    }

    /// Shows onlookers what the worker elsewhere is at: the first open item of a job, or nothing.
    fn note(&self, at: Option<(u64, u64)>) -> PyResult<()> {
        self.with(|station| {
            station.note(at.map(|(job, item)| (JobId(job), item)));
            Ok(())
        })
    }

    /// Gives the piece in hand back: its items cannot be rebuilt together.
    fn give_back(&self, chunk: u64) -> PyResult<()> {
        self.with(|station| station.give_back(ChunkId(chunk)))
    }

    /// The worker elsewhere is no more, for this reason, and may have been at this item of this job.
    fn depart(&self, at: Option<(u64, u64)>, reason: &str) -> PyResult<()> {
        self.with(|station| station.depart(at.map(|(job, item)| (JobId(job), item)), reason))
    }

    /// Closes the channel.
    fn close(&self) {
        // One after the other: no fork may close another's descriptor of this number.
        if let Some((secret, station)) = self.end().take() {
            drop(secret);
            drop(station);
        }
    }
}
