//! The record of a call, as plain figures: seconds, bytes and counts. What they mean is said in `forklift.report`.

use forklift_core::id::Time;
use forklift_core::telemetry::{self, Doing, Flow, Happening, Record, Recorder, clock};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use std::sync::Arc;
use std::time::Duration;

/// The record of one call, as long as somebody may ask for it.
#[pyclass(module = "forklift._native", frozen)]
pub(crate) struct Telemetry {
    pub(crate) recorder: Arc<Recorder>,
}

/// Seconds from the begin of a call.
struct Since(Time);

impl Since {
    fn seconds(&self, time: Time) -> f64 {
        // What was before the call (a worker's birth) is negative.
        (time.0 as f64 - self.0.0 as f64) / 1e9
    }
}

type Histogram = (u64, f64, u64, u64, Vec<(u64, u64)>);

#[pymethods]
impl Telemetry {
    /// Payload bytes so far: to the workers, from them.
    fn bytes(&self) -> (u64, u64) {
        self.recorder.bytes()
    }

    /// All figures as they stand.
    fn figures<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (log, now) = (self.recorder.log(), clock());
        let end = log.ended.unwrap_or(now);
        let since = Since(log.opened);
        let census = self.recorder.census();
        let count = log.count_after.unwrap_or_else(|| census.count()).since(&log.count_before);
        let all = PyDict::new(py);
        all.set_item("wall", since.seconds(end))?;
        all.set_item("finished", log.ended.is_some())?;
        all.set_item("chunks", log.chunks)?;
        all.set_item("items", (log.submitted, log.answered, log.failed, log.lost))?;
        let doing = |doing| self.recorder.spent(doing).as_secs_f64();
        let parent = [
            ("pull", doing(Doing::Pull)),
            ("encode", doing(Doing::Encode)),
            ("copy", doing(Doing::Copy)),
            ("wait_for_room", doing(Doing::WaitForRoom)),
            ("wait_for_results", doing(Doing::WaitForResults)),
            ("decode_result", doing(Doing::DecodeResult)),
        ];
        all.set_item("parent", dict(py, parent)?)?;
        let lanes = PyList::empty(py);
        for lane in log.lanes.values() {
            lanes.append(seat(py, lane, &since)?)?;
        }
        all.set_item("lanes", lanes)?;
        all.set_item("bytes_in", flow(py, &log.inbound, "by_reference")?)?;
        all.set_item("bytes_out", flow(py, &log.outbound, "handed_over")?)?;
        all.set_item("spilled_bytes", log.spilled_bytes)?;
        all.set_item("repeated_bytes", log.repeated_bytes)?;
        all.set_item("item_nanoseconds", histogram(&log.times))?;
        all.set_item("item_bytes_in", histogram(&log.sizes_in))?;
        all.set_item("item_bytes_out", histogram(&log.sizes_out))?;
        let longest = log.longest.map(|longest| (longest.item, seconds(longest.time), longest.worker.slot));
        all.set_item("longest", longest)?;
        let firsts = log.firsts;
        all.set_item(
            "firsts",
            (firsts.workers, firsts.items, seconds(firsts.time), seconds(firsts.shortest)),
        )?;
        all.set_item("imported", log.imported.iter().collect::<Vec<_>>())?;
        let staff = [
            ("births", count.births),
            ("failed_births", count.stillbirths),
            ("deaths", count.deaths),
            ("recycles", count.recycles()),
            ("recycles_by_calls", count.recycles_by_calls),
            ("recycles_by_memory", count.recycles_by_memory),
            ("stopped_for_memory", count.stopped),
            ("retries", count.retries),
        ];
        all.set_item("staff", dict(py, staff)?)?;
        let incidents = census.incidents(log.opened, end).into_iter().map(|incident| {
            let what = match incident.what {
                Happening::Born => "born",
                Happening::Stillborn => "stillborn",
                Happening::Ready => "ready",
                Happening::Left => "left",
                Happening::Died => "died",
            };
            (since.seconds(incident.at), what, incident.worker.slot, incident.pid)
        });
        all.set_item("incidents", incidents.collect::<Vec<_>>())?;
        let admissions = census.admissions(log.opened, end).into_iter();
        let admitted = admissions.map(|admission| (since.seconds(admission.at), admission.percent));
        all.set_item("admitted", admitted.collect::<Vec<_>>())?;
        let looks = census.looks(log.opened, end).into_iter().map(|look| {
            let bytes = (look.parent_bytes, look.workers_bytes, look.payload_bytes, look.results_bytes);
            (since.seconds(look.at), bytes.0, bytes.1, bytes.2, bytes.3)
        });
        all.set_item("memory", looks.collect::<Vec<_>>())?;
        all.set_item("fold", log.records.fold())?;
        let records = log.records.all().map(|record| row(py, record, &since));
        all.set_item("records", records.collect::<PyResult<Vec<_>>>()?)?;
        Ok(all)
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn dict<'py, V: IntoPyObject<'py>>(
    py: Python<'py>,
    entries: impl IntoIterator<Item = (&'static str, V)>,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in entries {
        dict.set_item(name, value)?;
    }
    Ok(dict)
}

fn flow<'py>(py: Python<'py>, flow: &Flow, lent: &'static str) -> PyResult<Bound<'py, PyDict>> {
    let ways = [
        ("in_message", flow.message_bytes),
        ("copied", flow.copied_bytes),
        (lent, flow.lent_bytes),
        ("once_per_call", flow.once_bytes),
    ];
    dict(py, ways)
}

fn seat<'py>(py: Python<'py>, lane: &telemetry::Lane, since: &Since) -> PyResult<Bound<'py, PyDict>> {
    let times = [
        ("wait_for_work", lane.waited),
        ("decode", lane.spent.decode),
        ("compute", lane.spent.call),
        ("encode_result", lane.spent.encode.saturating_sub(lane.packing)),
        ("hand_over", lane.packing + lane.sending),
        ("crossing", lane.crossing),
        ("cpu", lane.cpu),
        ("cpu_of_other_threads", lane.helpers),
    ];
    let seat = dict(py, times.map(|(name, time)| (name, seconds(time))))?;
    seat.set_item("slot", lane.worker.slot)?;
    seat.set_item("items", lane.items)?;
    seat.set_item("answers", lane.answers)?;
    seat.set_item("begin", since.seconds(lane.begun))?;
    seat.set_item("end", since.seconds(lane.ended))?;
    Ok(seat)
}

/// A histogram as `(count, mean, least, greatest, [(upper end of a bucket, count), …])`.
fn histogram(histogram: &telemetry::Histogram<u64>) -> Histogram {
    let buckets =
        histogram.iter_recorded().map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()));
    let least = if histogram.is_empty() { 0 } else { histogram.min() };
    (histogram.len(), histogram.mean(), least, histogram.max(), buckets.collect())
}

/// A record as `(begin, end, slot, pid, first, items, answers, bytes in, bytes out, decode, compute, encode, hand over)`.
fn row<'py>(py: Python<'py>, record: &Record, since: &Since) -> PyResult<Bound<'py, PyTuple>> {
    let Record { worker, pid, first, items, answers, bytes_in, bytes_out, spent, packing, .. } = *record;
    let (begin, end) = (since.seconds(record.begun), since.seconds(record.ended));
    let encode = seconds(spent.encode.saturating_sub(packing));
    let times = (seconds(spent.decode), seconds(spent.call), encode, seconds(packing));
    let fields = [
        begin.into_pyobject(py)?.into_any(),
        end.into_pyobject(py)?.into_any(),
        worker.slot.into_pyobject(py)?.into_any(),
        pid.into_pyobject(py)?.into_any(),
        first.into_pyobject(py)?.into_any(),
        items.into_pyobject(py)?.into_any(),
        answers.into_pyobject(py)?.into_any(),
        bytes_in.into_pyobject(py)?.into_any(),
        bytes_out.into_pyobject(py)?.into_any(),
        times.0.into_pyobject(py)?.into_any(),
        times.1.into_pyobject(py)?.into_any(),
        times.2.into_pyobject(py)?.into_any(),
        times.3.into_pyobject(py)?.into_any(),
    ];
    PyTuple::new(py, fields)
}
