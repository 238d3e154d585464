//! Whether this process has copies of its own of the pages of a private mapping, as the kernel's page map tells.
//!
//! The kernel is asked for the first such page (PAGEMAP_SCAN, Linux 6.7), which costs little where few pages are in the
//! page tables: it passes over tables that do not exist. Older ones only let the map be read, with a word for each page
//! of the range, whether there is such a page or not. The question is put here, and asked in segment.rs, since asking is
//! unsafe.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::ioctl::{Opcode, opcode};

use crate::pages::page_bytes;

/// The page map of this process. It has to be opened each time: in a child, an open one would show its parent's pages.
pub(crate) fn open() -> Option<File> {
    File::open("/proc/self/pagemap").ok()
}

/// What the kernel calls PAGEMAP_SCAN.
pub(crate) const SCAN: Opcode = opcode::read_write::<Question>(b'f', 16);

/// The kernel's `pm_scan_arg`.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Question {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    answer: u64,
    answer_length: u64,
    max_pages: u64,
    inverted: u64,
    required: u64,
    any_of: u64,
    returned: u64,
}

/// The kernel's `page_region`: the first run of pages that was found; nothing if none was.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Answer {
    start: u64,
    end: u64,
    categories: u64,
}

impl Question {
    /// For a page that is this process's own: one that is in memory or swapped out, and not the file's.
    pub(crate) fn new(addresses: &Range<u64>, answer: &mut Answer) -> Self {
        const OF_A_FILE: u64 = 1 << 2;
        const PRESENT: u64 = 1 << 3;
        const SWAPPED: u64 = 1 << 4;
        Self {
            size: size_of::<Self>() as u64,
            start: addresses.start,
            end: addresses.end,
            answer: (&raw mut *answer).expose_provenance() as u64,
            answer_length: 1,
            max_pages: 1,
            inverted: OF_A_FILE,
            required: OF_A_FILE,
            any_of: PRESENT | SWAPPED,
            returned: PRESENT | SWAPPED,
            ..Self::default()
        }
    }
}

impl Answer {
    /// Whether there is such a page.
    pub(crate) fn found(&self) -> bool {
        self.end > 0
    }
}

/// Reads the map of a range of addresses. True also where the kernel does not tell.
pub(crate) fn read(map: &File, addresses: &Range<u64>) -> bool {
    const ENTRY_BYTES: u64 = 8;
    const OF_A_FILE: u64 = 1 << 61;
    const SWAPPED: u64 = 1 << 62;
    const PRESENT: u64 = 1 << 63;
    let own = |entry: u64| entry & SWAPPED != 0 || (entry & PRESENT != 0 && entry & OF_A_FILE == 0);
    let (mut at, end) =
        (addresses.start / page_bytes() * ENTRY_BYTES, addresses.end / page_bytes() * ENTRY_BYTES);
    let mut entries = vec![0; 64 << 10];
    while at < end {
        let wanted = entries.len().min((end - at) as usize);
        if map.read_exact_at(&mut entries[..wanted], at).is_err() {
            return true;
        }
        let (words, _) = entries[..wanted].as_chunks::<8>();
        if words.iter().any(|word| own(u64::from_ne_bytes(*word))) {
            return true;
        }
        at += wanted as u64;
    }
    false
}
