//! How often this process has entered the kernel for a page.

use std::mem::MaybeUninit;

/// Page faults of this process so far, in all its threads, by itself or by the kernel on its behalf; none where the system
/// does not count them.
///
/// As long as the number stays the same, no page of a private mapping has become this process's own, since the first write
/// to each is a fault. (Only a debugger's writes are another process's.)
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
    use crate::{Release, Segment, SegmentId, Sharing, Span, View};
    use std::sync::Arc;

    struct Nobody;

    impl Release for Nobody {
        fn release(&self, _: Span) {}
    }

    #[test]
    fn writing_to_a_page_is_counted_and_reading_it_again_is_not() {
        const BYTES: u64 = 4 << 20;
        let segment = Segment::create(BYTES).unwrap();
        let file = segment.fd().try_clone_to_owned().unwrap();
        let private = Segment::open(file, BYTES, Sharing::Private).unwrap();
        let span = Span { segment: SegmentId(0), offset: 0, bytes: BYTES };
        let view = View::new(&private, span, Arc::new(Nobody)).unwrap();
        let faults_of_reading = || {
            let before = page_faults().unwrap();
            assert_eq!(view.as_slice().iter().map(|&byte| u64::from(byte)).sum::<u64>(), 0);
            page_faults().unwrap() - before
        };
        assert!(faults_of_reading() > 0, "no page was mapped");
        // Where tests share a process, others have faults at the same time.
        assert!((0..50).any(|_| faults_of_reading() == 0));
        let before = page_faults().unwrap();
        private.detach(0, BYTES).unwrap(); // To the kernel that is what writing is.
        assert!(page_faults().unwrap() >= before + BYTES / 4096, "each page is one of its own");
    }
}
