//! A large buffer's contents in a 256th of their size, at the speed of memory: what `forklift._changes` digests to find
//! whether a value has changed in place.
//!
//! Each block of 4 KiB becomes the 128-bit number that NH makes of it (Black, Halevi, Krawczyk, Krovetz, Rogaway: UMAC,
//! 1999): the sum of `(m[2i] + k[2i]) * (m[2i+1] + k[2i+1])` over its 64-bit words `m` with a key `k`, where the sums
//! in brackets are taken modulo 2^64, the whole modulo 2^128. Two blocks that differ have the same number for at most
//! one key in 2^64, whatever they hold. The key is drawn once for the process and told nobody, so no data was made with
//! it in view. A cryptographic digest of the whole would prove as much, and takes ten times as long; a checksum with a
//! key that everybody knows proves nothing.

use crate::buffer::memory;
use crate::once::Once;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::hash::{BuildHasher, RandomState};

/// Words of a block: 4 KiB, so that the key stays in the processor's nearest cache.
const WORDS: usize = 512;
const WORD_BYTES: usize = size_of::<u64>();
const BLOCK_BYTES: usize = WORDS * WORD_BYTES;

/// The process's key. A fork has the same one, and the digests of before.
fn key() -> PyResult<&'static [u64; WORDS]> {
    static KEY: Once<[u64; WORDS]> = Once::new();
    KEY.get(|| {
        let random = RandomState::new();
        Ok(std::array::from_fn(|index| random.hash_one(index)))
    })
}

/// NH of a block of whole pairs of words.
fn nh(block: &[u8], key: &[u64; WORDS]) -> u128 {
    let word = |bytes: &[u8]| {
        let mut word = [0; WORD_BYTES];
        word.copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let pairs = block.chunks_exact(2 * WORD_BYTES).zip(key.chunks_exact(2));
    pairs.fold(0, |sum: u128, (pair, key)| {
        let (one, other) = pair.split_at(WORD_BYTES);
        let product =
            u128::from(word(one).wrapping_add(key[0])) * u128::from(word(other).wrapping_add(key[1]));
        sum.wrapping_add(product)
    })
}

/// The numbers of all blocks. What is left at the end is filled up with zeros: whoever compares compares lengths too.
fn condensed(bytes: &[u8], key: &[u64; WORDS]) -> Vec<u8> {
    let blocks = bytes.chunks_exact(BLOCK_BYTES);
    let mut rest = [0; BLOCK_BYTES];
    rest[..blocks.remainder().len()].copy_from_slice(blocks.remainder());
    blocks.chain([&rest[..]]).flat_map(|block| nh(block, key).to_le_bytes()).collect()
}

/// Condenses a buffer, without the interpreter's lock. The numbers hold for this process and its forks.
#[pyfunction]
pub(crate) fn condense<'py>(py: Python<'py>, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let buffer = PyUntypedBuffer::get(data)?;
    let bytes = memory(&buffer).ok_or_else(|| PyBufferError::new_err("the buffer is in several pieces"))?;
    let key = key()?;
    let numbers = py.detach(|| condensed(bytes, key));
    Ok(PyBytes::new(py, &numbers))
}
