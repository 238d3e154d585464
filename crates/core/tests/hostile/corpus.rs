//! Stored packets, as they are and changed at random: what fuzzers call a corpus.
//!
//! Each line of `corpus.txt` is one packet: whom it is for, and its bytes. A packet that did harm is added by hand;
//! `cargo test -p forklift-core --test hostile -- --ignored` adds some of each kind of message that has none.

use super::{Packet, With, endure, obey, to_parent, to_worker, with};
use forklift_core::message::{ToParent, ToWorker};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::fmt::Write;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/corpus.txt");
const STORED: &str = include_str!("corpus.txt");

/// So many packets of each kind of message are stored.
const OF_EACH_KIND: usize = 4;
/// Longer ones say nothing new.
const BYTES_MAX: usize = 200;
/// So many messages are looked at for kinds that are not stored.
const LOOKED_AT: usize = 3000;

fn stored(receiver: &str) -> Vec<Vec<u8>> {
    let lines = STORED.lines().filter_map(|line| line.strip_prefix(receiver)?.strip_prefix(' '));
    lines.map(|hex| unhex(hex).expect("pairs of hexadecimal digits")).collect()
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("a string grows");
        digits
    })
}

/// Messages by their first byte, which is their kind; the same each time.
fn messages(strategy: &BoxedStrategy<Vec<u8>>) -> BTreeMap<u8, Vec<Vec<u8>>> {
    let mut runner = TestRunner::deterministic();
    let mut kinds: BTreeMap<u8, Vec<Vec<u8>>> = BTreeMap::new();
    for _ in 0..LOOKED_AT {
        let bytes = strategy.new_tree(&mut runner).expect("nothing is filtered").current();
        let kind = kinds.entry(bytes[0]).or_default();
        if kind.len() < OF_EACH_KIND && bytes.len() <= BYTES_MAX && !kind.contains(&bytes) {
            kind.push(bytes);
        }
    }
    kinds
}

fn directions() -> [(&'static str, BoxedStrategy<Vec<u8>>); 2] {
    [
        ("to_worker", to_worker().prop_map(|message| message.encode()).boxed()),
        ("to_parent", to_parent().prop_map(|message| message.encode()).boxed()),
    ]
}

#[test]
#[ignore = "adds to the corpus"]
fn store_kinds_that_are_missing() {
    let mut lines = STORED.to_string();
    for (receiver, strategy) in directions() {
        let known = stored(receiver);
        for (kind, packets) in messages(&strategy) {
            if known.iter().all(|packet| packet.first() != Some(&kind)) {
                packets.iter().for_each(|packet| lines += &format!("{receiver} {}\n", hex(packet)));
            }
        }
    }
    std::fs::write(PATH, lines).expect("a checkout can be written to");
}

#[test]
fn every_kind_of_message_is_stored() {
    for (receiver, strategy) in directions() {
        let known = stored(receiver);
        for kind in messages(&strategy).into_keys() {
            assert!(known.iter().any(|packet| packet.first() == Some(&kind)), "{receiver} {kind:02x}");
        }
    }
}

#[test]
fn stored_packets_mean_themselves_or_are_refused() {
    let whole = |bytes: Vec<u8>| Packet { bytes, with: With::Segment };
    for bytes in stored("to_worker") {
        if let Ok(message) = ToWorker::decode(&bytes) {
            assert_eq!(message.encode(), bytes);
        }
        obey(&[whole(bytes)]);
    }
    let mut lives = Vec::new();
    for bytes in stored("to_parent") {
        if let Ok(message) = ToParent::decode(&bytes) {
            assert_eq!(message.encode(), bytes);
        }
        lives.push(vec![whole(bytes)]);
    }
    endure(&lives);
}

#[derive(Debug, Clone)]
enum Change {
    Byte(Index, u8),
    /// Eight bytes become a number at an edge.
    Number(Index, u64),
    Cut(Index),
    Insert(Index, Vec<u8>),
    /// The rest becomes another packet's.
    Splice(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<Index>;
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, value)| Change::Byte(at, value)),
        (place(), super::number()).prop_map(|(at, value)| Change::Number(at, value)),
        place().prop_map(Change::Cut),
        (place(), prop::collection::vec(any::<u8>(), 1..20))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (place(), place(), place()).prop_map(|(at, other, from)| Change::Splice(at, other, from)),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        let place = |at: &Index, bytes: &[u8]| if bytes.is_empty() { 0 } else { at.index(bytes.len()) };
        match self {
            Self::Byte(at, value) => {
                let at = place(at, bytes);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = *value;
                }
            }
            Self::Number(at, value) => {
                let at = place(at, bytes);
                for (byte, new) in bytes[at..].iter_mut().zip(value.to_le_bytes()) {
                    *byte = new;
                }
            }
            Self::Cut(at) => bytes.truncate(place(at, bytes)),
            Self::Insert(at, new) => {
                let at = place(at, bytes);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Splice(at, other, from) => {
                bytes.truncate(place(at, bytes));
                let other = other.get(others);
                bytes.extend_from_slice(&other[place(from, other)..]);
            }
        }
    }
}

/// A stored packet for this receiver, changed; now and then one for the other.
fn changed(receiver: &str) -> BoxedStrategy<Packet> {
    let (own, all) = (stored(receiver), [stored("to_worker"), stored("to_parent")].concat());
    let original = prop_oneof![9 => prop::sample::select(own), 1 => prop::sample::select(all.clone())];
    (original, prop::collection::vec(change(), 0..4), with())
        .prop_map(move |(mut bytes, changes, with)| {
            changes.iter().for_each(|change| change.apply(&mut bytes, &all));
            Packet { bytes, with }
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_worker_survives_changed_packets(packets in prop::collection::vec(changed("to_worker"), 1..12)) {
        obey(&packets);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn a_parent_survives_changed_packets(
        hostile in prop::collection::vec(prop::collection::vec(changed("to_parent"), 1..8), 1..4)
    ) {
        endure(&hostile);
    }
}
