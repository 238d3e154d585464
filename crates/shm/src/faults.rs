//! How often this process has entered the kernel for a page.

use std::mem::MaybeUninit;

/// Page faults of this process so far, in all its threads, by itself or by the kernel on its behalf; none where the system
/// does not count them.
///
/// As long as the number stays the same, no page of a private mapping has become this process's own, since the first write
/// to each is a fault. (Only a debugger's writes are another process's.) To ask takes less than a microsecond, to look for
/// such pages 10 µs for each megabyte that is in the page tables.
#[must_use]
pub fn page_faults() -> Option<u64> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole `rusage`, to which the call only writes.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    // SAFETY: it is initialised whatever the call did: any bits, zeros as well, are numbers.
    let usage = unsafe { usage.assume_init() };
    let faults = usage.ru_minflt.checked_add(usage.ru_majflt)?;
    u64::try_from(faults).ok().filter(|&faults| faults > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Segment, Sharing};

    #[test]
    fn the_first_write_to_a_page_is_counted_and_reading_it_again_is_not() {
        const BYTES: u64 = 4 << 20;
        let segment = Segment::create(BYTES).unwrap();
        let file = segment.fd().try_clone_to_owned().unwrap();
        let private = Segment::open(file, BYTES, Sharing::Private).unwrap();
        let read = || private.read(0, BYTES).unwrap().len();
        read();
        // Other tests of this process have faults of their own; nextest gives each a process.
        let quiet = (0..50).any(|_| {
            let before = page_faults();
            std::hint::black_box(private.pages(0, BYTES).unwrap());
            before.is_some() && page_faults() == before
        });
        assert!(quiet);
        let before = page_faults().unwrap();
        private.detach(0, BYTES).unwrap();
        assert!(page_faults().unwrap() > before);
    }
}
