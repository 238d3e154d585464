//! What is sent while nothing is known of the items.

use super::*;

#[test]
fn where_a_probe_has_several_items_every_worker_gets_one() {
    let config = SchedulerConfig { probe_items: 64, ..seats(2) };
    check(
        config,
        &[
            (0, born(0), ""),
            (0, ready(0), ""),
            (0, born(1), ""),
            (0, ready(1), ""),
            (0, open(0, Some(2000), Chunking::Automatic, Delivery::Collected), "grant j0 1x62"),
            // The first tells what the others weigh.
            (0, submit(0, 0, 0, 62, 100), "send w1 c0 0+62, grant j0 1x60"),
            (0, submit(0, 1, 62, 60, 100), "send w0 c1 0+60"),
        ],
    );
}
