//! What items of a job share: an object that many of them hold crosses once.
//!
//! Only where all items exist before they are pulled, so that an object's identity means something, and only for an
//! item itself and for what it holds directly (elements of a tuple or a short list, values of a dict): that is how
//! `starmap` and records pass a common table. The second item that holds an object (or the first, if its reference count
//! says that more will) has it sent to all workers; in its place goes a [`Reference`]. Each item gets its own object in
//! the worker, as if it had been sent with it, unless it is one that cannot change.

use crate::numbers::holds_only_numbers;
use crate::shared::Reference;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple};
use std::collections::{HashMap, HashSet};

/// Less is not worth a reference.
pub(crate) const SHARED_BYTES_MIN: u64 = 64 << 10;

/// Lists longer than this are not searched for parts that they share with other items: long lists hold numbers.
const PARTS_MAX: usize = 64;

/// A list or dict of fewer elements is taken for small without being encoded.
const ELEMENTS_MIN: usize = 1000;

/// Items that are nested deeper are not looked through.
const DEPTH_MAX: u32 = 50;

/// An object of which so many references exist (a handful are ours) is taken for one that many items hold.
const REFERENCES_MANY: usize = 12;

/// What is known of a part.
enum Seen {
    /// One item holds it.
    Once,
    /// It is not worth a reference. Kept, so that its address means nothing else.
    Small(#[expect(dead_code, reason = "held")] Py<PyAny>),
    /// It was sent under this key.
    Sent(#[expect(dead_code, reason = "held")] Py<PyAny>, u64),
}

/// What the items of one job were seen to share.
#[derive(Default)]
pub(crate) struct Sharing {
    seen: HashMap<usize, Seen>,
    /// How much more may be sent.
    bytes_left: u64,
}

/// Sends an object: `(object, one for all, room)` to its key and weight, or nothing if it is too small or too large.
pub(crate) type Send<'a, 'py> = dyn FnMut(&Bound<'py, PyAny>, bool, u64) -> PyResult<Option<(u64, u64)>> + 'a;

impl Sharing {
    /// Values up to this weight in all may be sent.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { seen: HashMap::new(), bytes_left: bytes }
    }

    /// Replaces in a list of items what should not cross again; whether there was any.
    pub(crate) fn refer<'py>(
        &mut self,
        items: &Bound<'py, PyList>,
        send: &mut Send<'_, 'py>,
    ) -> PyResult<bool> {
        if holds_only_numbers(items) {
            return Ok(false);
        }
        let mut any = false;
        for (index, item) in items.iter().enumerate() {
            if let Some(substitute) = self.substitute(&item, send)? {
                items.set_item(index, substitute)?;
                any = true;
            }
        }
        Ok(any)
    }

    fn substitute<'py>(
        &mut self,
        item: &Bound<'py, PyAny>,
        send: &mut Send<'_, 'py>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if is_small(item) {
            return Ok(None);
        }
        let py = item.py();
        let parts: Vec<Bound<'py, PyAny>> = if let Ok(tuple) = item.cast_exact::<PyTuple>() {
            tuple.iter().collect()
        } else if let Ok(dict) = item.cast_exact::<PyDict>() {
            dict.values().iter().collect()
        } else if let Ok(list) = item.cast_exact::<PyList>()
            && list.len() <= PARTS_MAX
        {
            list.iter().collect()
        } else {
            return match self.key(item, send)? {
                Some(key) => Ok(Some(Bound::new(py, Reference::new(key))?.into_any())),
                None => Ok(None),
            };
        };
        // What one item holds twice is one object there as well.
        let mut references: HashMap<usize, Bound<'py, PyAny>> = HashMap::new();
        for part in &parts {
            if !is_small(part)
                && !references.contains_key(&(part.as_ptr().addr()))
                && let Some(key) = self.key(part, send)?
            {
                let reference = Bound::new(py, Reference::new(key))?.into_any();
                references.insert(part.as_ptr().addr(), reference);
            }
        }
        if references.is_empty() {
            return Ok(None);
        }
        let replaced = parts.iter().map(|part| references.get(&part.as_ptr().addr()).unwrap_or(part));
        Ok(Some(if item.is_exact_instance_of::<PyTuple>() {
            PyTuple::new(py, replaced)?.into_any()
        } else if let Ok(dict) = item.cast_exact::<PyDict>() {
            let copy = PyDict::new(py);
            for (key, value) in dict.keys().iter().zip(replaced) {
                copy.set_item(key, value)?;
            }
            copy.into_any()
        } else {
            PyList::new(py, replaced)?.into_any()
        }))
    }

    /// The key under which an object was sent, or is sent now.
    fn key<'py>(&mut self, object: &Bound<'py, PyAny>, send: &mut Send<'_, 'py>) -> PyResult<Option<u64>> {
        let address = object.as_ptr().addr();
        match self.seen.get(&address) {
            Some(Seen::Sent(_, key)) => return Ok(Some(*key)),
            Some(Seen::Small(_)) => return Ok(None),
            Some(Seen::Once) => {}
            None if references(object)? < REFERENCES_MANY => {
                self.seen.insert(address, Seen::Once);
                return Ok(None);
            }
            None => {}
        }
        let immutable = object.is_exact_instance_of::<PyBytes>() || object.is_exact_instance_of::<PyString>();
        let sent = send(object, immutable, self.bytes_left)?;
        let kept = object.clone().unbind();
        let (seen, key) = match sent {
            Some((key, bytes)) => {
                self.bytes_left = self.bytes_left.saturating_sub(bytes);
                (Seen::Sent(kept, key), Some(key))
            }
            None => (Seen::Small(kept), None),
        };
        self.seen.insert(address, seen);
        Ok(key)
    }
}

/// How many references to an object exist, those of the caller's included.
fn references(object: &Bound<'_, PyAny>) -> PyResult<usize> {
    let py = object.py();
    py.import(intern!(py, "sys"))?.call_method1(intern!(py, "getrefcount"), (object,))?.extract()
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

/// Whether two items are, or directly hold, one and the same object that could be changed.
pub(crate) fn share_parts(items: &Bound<'_, PyList>) -> PyResult<bool> {
    if holds_only_numbers(items) {
        return Ok(false);
    }
    let mut seen = HashSet::new();
    // Items are mostly of one kind: that of the last constant is asked for first.
    let mut constant = std::ptr::null_mut();
    for item in items.iter() {
        if item.get_type_ptr() == constant {
            continue;
        }
        if is_constant(&item) {
            constant = item.get_type_ptr();
            continue;
        }
        if let Ok(tuple) = item.cast_exact::<PyTuple>() {
            // A part that one item holds twice is no sharing between items.
            let parts: HashSet<usize> =
                tuple.iter().filter(|part| !is_constant(part)).map(|part| part.as_ptr() as usize).collect();
            if parts.into_iter().any(|part| !seen.insert(part)) {
                return Ok(true);
            }
            continue;
        }
        let mut parts = HashSet::from([item.as_ptr() as usize]);
        if let Ok(dict) = item.cast_exact::<PyDict>() {
            parts.extend(
                dict.values().iter().filter(|part| !is_constant(part)).map(|part| part.as_ptr() as usize),
            );
        } else if let Ok(list) = item.cast_exact::<PyList>()
            && list.len() <= PARTS_MAX
        {
            parts.extend(list.iter().filter(|part| !is_constant(part)).map(|part| part.as_ptr() as usize));
        }
        if parts.into_iter().any(|part| !seen.insert(part)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an object cannot be changed and holds no other.
fn is_constant(object: &Bound<'_, PyAny>) -> bool {
    object.is_none()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyBool>()
}
