//! Objects that the pickle of an item refers to instead of containing them, so that one object stays one object.
//!
//! An item travels in a pickle of its own *beside the function*: what both refer to arrives as one object. The function
//! crosses once a map, so an item's pickle cannot contain its parts; and a large object that many items hold crosses once
//! as well. Both are **anchors**. The pickler is told of them before it begins: it is given a memo that holds them, and
//! writes a reference wherever it meets one, however deep. The pickle begins with a prologue that puts the same objects
//! under the same numbers into the receiver's memo:
//!
//! ```text
//!   sender      memo {anchor 0: 0, anchor 1: 1}   dump(item)   ──▶  … BINGET 1 …
//!   prologue    part(k) MEMOIZE POP   fetch(key) MEMOIZE POP        (one line of calls for each anchor)
//! ```
//!
//! **Parts of the function** are what its own pickle has in its memo and what could be told from a copy. The pickle of the
//! function ends with the list of them (see [`Function::of`]), which the worker keeps beside the function ([`set_parts`]).
//!
//! **Shared objects** are built anew for each item. What lies within one is no anchor: an item that refers to such a
//! part by another way as well is pickled whole (see [`Shared::is_disjoint`]).

use crate::once::Once;
use crate::refcount::references;
use pyo3::exceptions::PyLookupError;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PyModule, PyString, PyTuple,
    PyType,
};
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

/// With more parts than this a function's parts are looked for in each item, rather than told to each pickler and each
/// receiver.
const PRESET_MAX: usize = 12;

/// References to an object that only its pickler knows, when it is looked at: that of the memo, that of the memo's copy,
/// and the one that looks. Reducers make such objects, and no item can hold one.
const REFERENCES_OF_MEMO: isize = 3;

/// Operations of pickle, as `pickletools` names them.
mod op {
    pub(super) const MARK: u8 = b'(';
    pub(super) const STOP: u8 = b'.';
    pub(super) const POP: u8 = b'0';
    pub(super) const DUP: u8 = b'2';
    pub(super) const BININT: u8 = b'J';
    pub(super) const REDUCE: u8 = b'R';
    pub(super) const GLOBAL: u8 = b'c';
    pub(super) const LONG_BINGET: u8 = b'j';
    pub(super) const TUPLE: u8 = b't';
    pub(super) const TUPLE1: u8 = 0x85;
    pub(super) const TUPLE2: u8 = 0x86;
    pub(super) const LONG1: u8 = 0x8a;
    pub(super) const MEMOIZE: u8 = 0x94;
}

/// What is known of the parts of a job's function.
#[derive(Default)]
pub(crate) struct Function {
    /// By number. Held, so that their addresses mean nothing else.
    parts: Vec<Py<PyAny>>,
    addresses: HashSet<usize>,
}

impl Function {
    /// The parts of a function that was just pickled, by the memo of its pickler: `{address: (number, object)}`. Also what
    /// its pickle has to end with, in place of the operation that ends it: the pair of what it is and the tuple of the parts.
    pub(crate) fn of(memo: &Bound<'_, PyDict>) -> PyResult<(Self, Vec<u8>)> {
        let mut found: Vec<(u32, Bound<'_, PyAny>)> = Vec::new();
        for entry in memo.values() {
            let (number, object): (u32, Bound<'_, PyAny>) = entry.extract()?;
            if references(&object) > REFERENCES_OF_MEMO && has_identity(&object)? {
                found.push((number, object));
            }
        }
        if found.is_empty() {
            return Ok((Self::default(), Vec::new()));
        }
        found.sort_unstable_by_key(|(number, _)| *number);
        let mut end = vec![op::MARK];
        for (number, _) in &found {
            end.push(op::LONG_BINGET);
            end.extend_from_slice(&number.to_le_bytes());
        }
        end.extend_from_slice(&[op::TUPLE, op::TUPLE2, op::STOP]);
        let addresses = found.iter().map(|(_, object)| object.as_ptr().addr()).collect();
        Ok((Self { parts: found.into_iter().map(|(_, object)| object.unbind()).collect(), addresses }, end))
    }

    /// Whether an item's pickler has to look for parts itself.
    pub(crate) fn is_large(&self) -> bool {
        self.parts.len() > PRESET_MAX
    }

    pub(crate) fn holds(&self, object: &Bound<'_, PyAny>) -> bool {
        self.addresses.contains(&object.as_ptr().addr())
    }

    /// Whether an object in the memo of an item's pickler is a part.
    pub(crate) fn is_mentioned(&self, memo: &Bound<'_, PyDict>) -> PyResult<bool> {
        mentions(memo, |address| self.addresses.contains(&address))
    }

    pub(crate) fn addresses(&self) -> &HashSet<usize> {
        &self.addresses
    }

    /// Anchors for some of the parts; for all that are not many, without `wanted`.
    fn anchors<'a, 'py>(
        &'a self,
        py: Python<'py>,
        wanted: Option<&'a HashSet<usize>>,
    ) -> impl Iterator<Item = (Bound<'py, PyAny>, Source)> + 'a
    where
        'py: 'a,
    {
        self.parts.iter().enumerate().filter_map(move |(number, part)| {
            let wanted = wanted.is_none_or(|wanted| wanted.contains(&part.as_ptr().addr()));
            wanted.then(|| (part.bind(py).clone(), Source::Part(number as u32)))
        })
    }
}

/// An object that was sent to all workers, for items to refer to.
pub(crate) struct Shared {
    object: Py<PyAny>,
    key: u64,
    /// What lies within it and could be told from a copy. Held, as above.
    within: Vec<Py<PyAny>>,
    addresses: HashSet<usize>,
}

impl Shared {
    /// An object and the memo that its pickler had in the end; nothing if it has a part of the function in it.
    pub(crate) fn new(
        object: &Bound<'_, PyAny>,
        key: u64,
        memo: &Bound<'_, PyDict>,
        function: &Function,
    ) -> PyResult<Option<Arc<Self>>> {
        let mut within = Vec::new();
        for entry in memo.values() {
            let (_, part): (u32, Bound<'_, PyAny>) = entry.extract()?;
            if !part.is(object) && has_identity(&part)? {
                within.push(part.unbind());
            }
        }
        let addresses: HashSet<usize> = within.iter().map(|part| part.as_ptr().addr()).collect();
        if !addresses.is_disjoint(&function.addresses) {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self { object: object.clone().unbind(), key, within, addresses })))
    }

    /// Whether this is the object.
    pub(crate) fn is(&self, object: &Bound<'_, PyAny>) -> bool {
        object.is(&self.object)
    }

    fn address(&self) -> usize {
        self.object.as_ptr().addr()
    }

    /// Whether it has nothing in common with another.
    fn is_disjoint(&self, other: &Self) -> bool {
        let (small, large) =
            if self.within.len() <= other.within.len() { (self, other) } else { (other, self) };
        !self.addresses.contains(&other.address())
            && !other.addresses.contains(&self.address())
            && small.addresses.is_disjoint(&large.addresses)
    }
}

/// Where the receiver finds an anchor.
#[derive(Clone, Copy)]
enum Source {
    Part(u32),
    Key(u64),
}

/// The anchors of one pickle.
#[derive(Default)]
pub(crate) struct Anchors {
    memo: Option<Py<PyDict>>,
    prologue: Vec<u8>,
    addresses: HashSet<usize>,
    shared: Vec<Arc<Shared>>,
}

impl Anchors {
    /// For items that may refer to these parts of the function (all, or those at the addresses in `wanted`), and to
    /// these shared objects.
    pub(crate) fn new(
        py: Python<'_>,
        function: &Function,
        wanted: Option<&HashSet<usize>>,
        shared: &[Arc<Shared>],
    ) -> PyResult<Self> {
        let disjoint = shared
            .iter()
            .enumerate()
            .all(|(index, one)| shared[index + 1..].iter().all(|other| one.is_disjoint(other)));
        let shared = if disjoint { shared.to_vec() } else { Vec::new() };
        let parts: Vec<_> = function.anchors(py, wanted).collect();
        if parts.is_empty() && shared.is_empty() {
            return Ok(Self::default());
        }
        let mut prologue = Vec::new();
        let memo = PyDict::new(py);
        let mut addresses = HashSet::new();
        let keys = shared.iter().map(|one| (one.object.bind(py).clone(), Source::Key(one.key)));
        let mut calling = None;
        for (number, (object, source)) in parts.into_iter().chain(keys).enumerate() {
            let address = object.as_ptr().addr();
            source.write(&mut prologue, &mut calling);
            memo.set_item(address, (number, object))?;
            addresses.insert(address);
        }
        prologue.push(op::POP);
        Ok(Self { memo: Some(memo.unbind()), prologue, addresses, shared })
    }

    /// What the pickler is to know, and what its stream begins with. Nothing if there are no anchors.
    pub(crate) fn preset<'py>(&self, py: Python<'py>) -> Option<(&Bound<'py, PyDict>, &[u8])> {
        self.memo.as_ref().map(|memo| (memo.bind(py), self.prologue.as_slice()))
    }

    pub(crate) fn holds(&self, object: &Bound<'_, PyAny>) -> bool {
        !self.addresses.is_empty() && self.addresses.contains(&object.as_ptr().addr())
    }

    /// Whether there are shared objects, so that [`Anchors::is_entangled`] has to be asked.
    pub(crate) fn has_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    /// Whether what was pickled, by the memo of its pickler, refers to something within a shared object by another way
    /// than through it.
    pub(crate) fn is_entangled(&self, memo: &Bound<'_, PyDict>) -> PyResult<bool> {
        mentions(memo, |address| self.shared.iter().any(|shared| shared.addresses.contains(&address)))
    }
}

/// Whether one of these addresses is in a memo.
fn mentions(memo: &Bound<'_, PyDict>, sought: impl Fn(usize) -> bool) -> PyResult<bool> {
    for address in memo.keys() {
        if sought(address.extract()?) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Source {
    /// Writes the operations that put it into the memo. On the stack lies the function that they call: `calling`.
    fn write(self, prologue: &mut Vec<u8>, calling: &mut Option<&'static [u8]>) {
        let name: &[u8] = match self {
            Source::Part(_) => b"forklift._native\npart\n",
            Source::Key(_) => b"forklift._native\nfetch\n",
        };
        if *calling != Some(name) {
            if calling.replace(name).is_some() {
                prologue.push(op::POP);
            }
            prologue.push(op::GLOBAL);
            prologue.extend_from_slice(name);
        }
        prologue.push(op::DUP);
        match self {
            Source::Part(number) => {
                prologue.push(op::BININT);
                prologue.extend_from_slice(&number.to_le_bytes());
            }
            Source::Key(key) => {
                // Nine bytes, the highest zero: `LONG1` is signed.
                prologue.extend_from_slice(&[op::LONG1, 9]);
                prologue.extend_from_slice(&key.to_le_bytes());
                prologue.push(0);
            }
        }
        prologue.extend_from_slice(&[op::TUPLE1, op::REDUCE, op::MEMOIZE, op::POP]);
    }
}

/// Whether it matters if an object is this one or a copy: not for what can neither be changed nor hold anything, and not
/// for what is known by its name.
fn has_identity(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    if object.is_none()
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyBool>()
        || object.is_exact_instance_of::<PyComplex>()
        || object.is_instance_of::<PyType>()
        || object.is_exact_instance_of::<PyModule>()
    {
        return Ok(false);
    }
    if let Ok(tuple) = object.cast_exact::<PyTuple>() {
        for part in tuple.iter() {
            if has_identity(&part)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    if object.is_exact_instance_of::<PyList>()
        || object.is_exact_instance_of::<PyDict>()
        || object.is_exact_instance_of::<PyFrozenSet>()
    {
        return Ok(true);
    }
    let definitions = definitions(object.py())?;
    if object.is_instance(&definitions.0)? {
        return Ok(!object.getattr(intern!(object.py(), "__closure__"))?.is_none());
    }
    Ok(!object.is_instance(&definitions.1)?)
}

/// The type of functions, and those of other things that are known by their names or never change. A function with a
/// closure has variables of its own.
fn definitions(py: Python<'_>) -> PyResult<(Bound<'_, PyAny>, Bound<'_, PyTuple>)> {
    static TYPES: Once<(Py<PyAny>, Py<PyTuple>)> = Once::new();
    let (function, others) = TYPES.get(|| {
        let module = py.import(intern!(py, "types"))?;
        let others = [module.getattr("BuiltinFunctionType")?, module.getattr("CodeType")?];
        Ok((module.getattr("FunctionType")?.unbind(), PyTuple::new(py, others)?.unbind()))
    })?;
    Ok((function.bind(py).clone(), others.bind(py).clone()))
}

// In the worker ---------------------------------------------------------------------------------------------------

thread_local! {
    /// The parts of the function whose items this thread decodes.
    static PARTS: RefCell<Option<Py<PyTuple>>> = const { RefCell::new(None) };
}

/// From now on items refer to these parts.
pub(crate) fn set_parts(parts: Option<Py<PyTuple>>) {
    let before = PARTS.with(|kept| kept.replace(parts));
    drop(before); // Outside of the cell: what dies may run code of the user's.
}

/// A part of the function whose items are being decoded, by its number.
///
/// Raises `LookupError` where there is no such part.
#[pyfunction]
pub(crate) fn part(py: Python<'_>, number: usize) -> PyResult<Py<PyAny>> {
    let parts = PARTS.with(|kept| kept.borrow().as_ref().map(|parts| parts.clone_ref(py)));
    let parts = parts.ok_or_else(|| PyLookupError::new_err("no function is at work here that has parts"))?;
    Ok(parts.bind(py).get_item(number)?.unbind())
}
