//! What items of a job share: an object that many of them hold crosses once.
//!
//! Only where all items exist before they are pulled, so that an object's identity means something, and only for an
//! item itself and for what it holds directly (elements of a tuple or a short list, values of a dict): that is how
//! `starmap` and records pass a common table. The second item that holds an object (or the first, if its reference count
//! says that more will) has it sent to all workers. Items' pickles refer to it from then on, wherever they hold it
//! (`anchors.rs`). Each item gets its own object in the worker, as if it had been sent with it, unless it is one that
//! cannot change.

use crate::anchors::{Function, Shared};
use crate::numbers::holds_only_numbers;
use crate::refcount::references;
use crate::separate::is_constant;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet, PyList, PySet, PyString, PyTuple};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Less is not worth a reference.
pub(crate) const SHARED_BYTES_MIN: u64 = 64 << 10;

/// Lists longer than this are not searched for parts that they share with other items: long lists hold numbers.
const PARTS_MAX: usize = 64;

/// A list or dict of fewer elements is taken for small without being encoded.
const ELEMENTS_MIN: usize = 1000;

/// Items that are nested deeper are not looked through.
const DEPTH_MAX: u32 = 50;

/// An object of which so many references exist (a handful are ours) is taken for one that many items hold.
const REFERENCES_MANY: isize = 12;

/// What is known of a part.
enum Seen {
    /// One item holds it.
    Once,
    /// It is not worth a reference. Kept, so that its address means nothing else.
    Small(#[expect(dead_code, reason = "held")] Py<PyAny>),
    /// It was sent.
    Sent(Arc<Shared>),
}

/// What the items of one job were seen to share.
#[derive(Default)]
pub(crate) struct Sharing {
    seen: HashMap<usize, Seen>,
    /// How much more may be sent.
    bytes_left: u64,
}

/// Sends an object: `(object, one for all, room)` to what was sent and its weight, or nothing if it is too small or too
/// large, or has something in common with the function.
pub(crate) type Send<'a, 'py> =
    dyn FnMut(&Bound<'py, PyAny>, bool, u64) -> PyResult<Option<(Arc<Shared>, u64)>> + 'a;

impl Sharing {
    /// Values up to this weight in all may be sent.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { seen: HashMap::new(), bytes_left: bytes }
    }

    /// What an item of a job with this function holds that was sent, or is sent now.
    pub(crate) fn refer<'py>(
        &mut self,
        item: &Bound<'py, PyAny>,
        function: &Function,
        send: &mut Send<'_, 'py>,
    ) -> PyResult<Vec<Arc<Shared>>> {
        if is_small(item) {
            return Ok(Vec::new());
        }
        let parts: Vec<Bound<'py, PyAny>> = if let Ok(tuple) = item.cast_exact::<PyTuple>() {
            tuple.iter().collect()
        } else if let Ok(dict) = item.cast_exact::<PyDict>() {
            dict.values().iter().collect()
        } else if let Ok(list) = item.cast_exact::<PyList>()
            && list.len() <= PARTS_MAX
        {
            list.iter().collect()
        } else {
            vec![item.clone()]
        };
        let mut found: Vec<Arc<Shared>> = Vec::new();
        for part in parts {
            // What one item holds twice is one object there as well.
            if !is_small(&part)
                && !function.holds(&part)
                && !found.iter().any(|shared| shared.is(&part))
                && let Some(shared) = self.shared(&part, send)?
            {
                found.push(shared);
            }
        }
        Ok(found)
    }

    /// An object as it was sent, or is sent now.
    fn shared<'py>(
        &mut self,
        object: &Bound<'py, PyAny>,
        send: &mut Send<'_, 'py>,
    ) -> PyResult<Option<Arc<Shared>>> {
        let address = object.as_ptr().addr();
        match self.seen.get(&address) {
            Some(Seen::Sent(shared)) => return Ok(Some(Arc::clone(shared))),
            Some(Seen::Small(_)) => return Ok(None),
            Some(Seen::Once) => {}
            None if references(object) < REFERENCES_MANY => {
                self.seen.insert(address, Seen::Once);
                return Ok(None);
            }
            None => {}
        }
        let immutable = object.is_exact_instance_of::<PyBytes>() || object.is_exact_instance_of::<PyString>();
        let (seen, shared) = match send(object, immutable, self.bytes_left)? {
            Some((shared, bytes)) => {
                self.bytes_left = self.bytes_left.saturating_sub(bytes);
                (Seen::Sent(Arc::clone(&shared)), Some(shared))
            }
            None => (Seen::Small(object.clone().unbind()), None),
        };
        self.seen.insert(address, seen);
        Ok(shared)
    }
}

/// Whether an object is obviously not worth a reference.
fn is_small(object: &Bound<'_, PyAny>) -> bool {
    if let Ok(bytes) = object.cast_exact::<PyBytes>() {
        return (bytes.as_bytes().len() as u64) < SHARED_BYTES_MIN;
    }
    if let Ok(text) = object.cast_exact::<PyString>() {
        return text.len().is_ok_and(|length| (length as u64) < SHARED_BYTES_MIN);
    }
    if let Ok(list) = object.cast_exact::<PyList>()
        && list.len() > PARTS_MAX
    {
        return list.len() < ELEMENTS_MIN;
    }
    is_constant(object)
}

/// Whether no object that could be changed is in two places of these items, however deep: what a function does to one item
/// then is seen by no other. Only plain containers, numbers, text, arrays, times, decimals and fractions are known; false for
/// anything else.
#[pyfunction]
pub(crate) fn unshared(items: &Bound<'_, PyAny>) -> PyResult<bool> {
    fn alone(object: &Bound<'_, PyAny>, seen: &mut HashSet<usize>, depth: u32) -> PyResult<bool> {
        if is_constant(object) {
            return Ok(true);
        }
        let plain = object.is_exact_instance_of::<PyList>()
            || object.is_exact_instance_of::<PyTuple>()
            || object.is_exact_instance_of::<PySet>()
            || object.is_exact_instance_of::<PyFrozenSet>()
            || object.is_exact_instance_of::<PyDict>();
        if !plain && is_fixed(object)? {
            return Ok(true);
        }
        if depth == DEPTH_MAX || !seen.insert(object.as_ptr().addr()) {
            return Ok(false);
        }
        if let Ok(dict) = object.cast_exact::<PyDict>() {
            for (key, value) in dict.iter() {
                if !alone(&key, seen, depth + 1)? || !alone(&value, seen, depth + 1)? {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        if !plain {
            let kind = object.get_type();
            let array = kind.name()? == "ndarray" && kind.module()? == "numpy";
            return Ok(array && object.getattr(intern!(object.py(), "base"))?.is_none());
        }
        if object.cast_exact::<PyList>().is_ok_and(holds_only_numbers) {
            return Ok(true);
        }
        for part in object.try_iter()? {
            if !alone(&part?, seen, depth + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
    alone(items, &mut HashSet::new(), 0)
}

/// Whether this is a time, decimal or fraction of the standard library, which cannot be changed. Those that know a zone are
/// not, for it may be anybody's.
fn is_fixed(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let module = object.get_type().module()?;
    if module == "datetime" {
        return Ok(object.getattr_opt(intern!(object.py(), "tzinfo"))?.is_none_or(|zone| zone.is_none()));
    }
    Ok(module == "decimal" || module == "fractions")
}
