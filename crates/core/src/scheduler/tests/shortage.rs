//! What is granted while memory is short.

use super::*;

#[test]
fn less_is_admitted_while_memory_is_short_but_never_less_than_a_chunk() {
    let admitted = |bytes| Event::Admitted { window_bytes: bytes, stream_bytes: bytes };
    check(
        SchedulerConfig { window_bytes: 400, ..seats(4) },
        &[
            (0, admitted(1), ""),
            (0, fixed(0, 9, 1), "grant j0 1x1"),
            (0, submit(0, 0, 0, 1, 100), ""),
            (0, born(0), ""),
            (0, ready(0), "send w0 c0 0+1"),
            (0, born(1), ""),
            (0, ready(1), ""),
            (0, answer(0, 0, 1, 50_000), "retire c0, grant j0 1x1"),
            (0, submit(0, 1, 1, 1, 100), "send w0 c1 0+1"),
            // Room for one more of the same weight, then for all that seats and window allow.
            (0, admitted(200), "grant j0 1x1"),
            (0, admitted(400), "grant j0 2x1"),
        ],
    );
}
