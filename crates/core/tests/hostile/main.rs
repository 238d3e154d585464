//! Peers that say what they must not: packets that are no messages, messages about memory that is not there, foreign
//! descriptors, answers that nobody asked for. In both directions.
//!
//! Whatever comes, an end refuses it or takes it for what it says; it never panics, and never touches memory outside of
//! what the peer has shown. A pool goes on with the next worker. Packets are made of messages here, and of stored ones in
//! `corpus`. A case that fails is printed by proptest, small: it becomes a packet that was thought up.

#![allow(clippy::unwrap_used, reason = "all of this file is a test")]

mod corpus;

use forklift_core::channel::{self, ParentEnd, WorkerEnd};
use forklift_core::config::{SchedulerConfig, SpillConfig, SupervisorConfig};
use forklift_core::event::{Chunking, Delivery, JobSpec, Kept, Spent};
use forklift_core::handle::{Taking, Turn};
use forklift_core::id::{ChunkId, JobId, Time, WorkerId};
use forklift_core::machine::Machine;
use forklift_core::message::{ToParent, ToWorker, VERSION};
use forklift_core::payload::{BROADCAST_SEGMENTS, Outline, Parcel, Part, Payload};
use forklift_core::pool::{Plan, Pool};
use forklift_core::process::{ForkOrder, Origin};
use forklift_core::telemetry::Shift;
use forklift_core::worker::{Done, Order, Station};
use forklift_shm::{Segment, SegmentId, Sharing, Span};
use proptest::prelude::*;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Pid, Signal};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const SEGMENT_BYTES: u64 = 64 << 10;

/// Numbers at the edges of what is there, and beyond.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..5u64,
        2 => Just(SEGMENT_BYTES),
        2 => SEGMENT_BYTES - 5..SEGMENT_BYTES + 5,
        1 => Just(4096),
        1 => Just(u64::MAX),
        1 => u64::MAX - SEGMENT_BYTES - 5..u64::MAX,
        1 => any::<u64>(),
    ]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..4u32, 1 => Just(u32::MAX), 1 => any::<u32>()]
}

fn segment() -> impl Strategy<Value = SegmentId> {
    prop_oneof![3 => 0..3u32, 2 => BROADCAST_SEGMENTS..BROADCAST_SEGMENTS + 2, 1 => any::<u32>()]
        .prop_map(SegmentId)
}

fn span() -> impl Strategy<Value = Span> {
    (segment(), number(), number()).prop_map(|(segment, offset, bytes)| Span { segment, offset, bytes })
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![prop::collection::vec(any::<u8>(), 0..20).prop_map(Part::Inline), span().prop_map(Part::Span)]
}

/// Boxed, as all that is built of it: unoptimised, strategies within strategies take more stack than a test has.
fn outline() -> BoxedStrategy<Outline> {
    (part(), prop::collection::vec(part(), 0..4))
        .prop_map(|(stream, buffers)| Outline { stream, buffers })
        .boxed()
}

fn to_worker() -> BoxedStrategy<ToWorker> {
    prop_oneof![
        1 => (any::<[u32; 2]>(), small(), small(), number(), prop::option::of(outline())).prop_map(
            |(id, slots, line, memory_limit, initializer)| {
                let worker = WorkerId { slot: id[0], generation: id[1] };
                let (shelf, trim_after) = (memory_limit, Duration::from_secs(10));
                ToWorker::Start { worker, slots, line, memory_limit, shelf, trim_after, initializer }
            }
        ),
        4 => (segment(), number(), any::<[bool; 2]>()).prop_map(|(id, bytes, [private, sealed])| {
            let sharing = if private { Sharing::Private } else { Sharing::Shared };
            ToWorker::Segment { id, bytes, sharing, sealed }
        }),
        4 => (number(), number(), number(), small(), small(), prop::option::of(outline()), outline()).prop_map(
            |(job, chunk, first, skip, items, function, payload)| ToWorker::Call {
                job: JobId(job),
                chunk: ChunkId(chunk),
                first,
                skip,
                items,
                retained: items % 2 == 0,
                patience: skip.min(2),
                function,
                payload
            }
        ),
        2 => (number(), number(), any::<bool>(), outline())
            .prop_map(|(job, key, keep, value)| ToWorker::Share { job: JobId(job), key, keep, value }),
        1 => prop::collection::vec(segment(), 0..4).prop_map(|segments| ToWorker::Dropped { segments }),
        1 => number().prop_map(|key| ToWorker::Unshare { key }),
        1 => number().prop_map(|id| ToWorker::Again { id: SegmentId(id as u32) }),
        1 => number().prop_map(|job| ToWorker::Forget { job: JobId(job) }),
        1 => prop::collection::vec(span(), 0..4).prop_map(|spans| ToWorker::Release { spans }),
        1 => Just(ToWorker::Stop),
        1 => span().prop_map(|span| ToWorker::Long { span }),
    ]
    .boxed()
}

fn to_parent() -> BoxedStrategy<ToParent> {
    prop_oneof![
        1 => any::<u16>().prop_map(|version| ToParent::Ready { version }),
        1 => outline().prop_map(|failure| ToParent::Refused { failure }),
        4 => (segment(), number()).prop_map(|(id, bytes)| ToParent::Segment { id, bytes }),
        4 => (number(), small(), small(), any::<bool>(), any::<[u64; 4]>(), outline(), prop::collection::vec(span(), 0..3))
            .prop_map(|(chunk, items, failed, last, times, results, released)| ToParent::Return {
                chunk: ChunkId(chunk),
                items,
                failed,
                last,
                spent: Spent {
                    decode: Duration::from_nanos(times[0]),
                    call: Duration::from_nanos(times[1]),
                    encode: Duration::from_nanos(times[2]),
                },
                shift: Shift {
                    begun: Time(times[0]),
                    waited: Duration::from_nanos(times[1]),
                    packing: Duration::from_nanos(times[2]),
                    longest: (items, Duration::from_nanos(times[3])),
                    samples: vec![(times[0], failed), (u64::MAX, items)],
                    imported: "numpy,hostile".into(),
                    ..Shift::default()
                },
                handed_bytes: times[3],
                results,
                released
            }),
        1 => number().prop_map(|chunk| ToParent::Unreadable { chunk: ChunkId(chunk) }),
        1 => prop::collection::vec(segment(), 0..4).prop_map(|segments| ToParent::Dropped { segments }),
        1 => number().prop_map(|own_bytes| ToParent::Outgrown { own_bytes }),
        1 => number().prop_map(|limit| ToParent::Short { limit }),
        1 => number().prop_map(|chunk| ToParent::Surrendered { chunk: ChunkId(chunk) }),
        1 => prop::collection::vec(span(), 0..4).prop_map(|spans| ToParent::Release { spans }),
        1 => "[a-z]{0,9}".prop_map(|reason| ToParent::Lost { reason }),
        1 => span().prop_map(|span| ToParent::Long { span }),
    ]
    .boxed()
}

/// What comes along with a packet.
#[derive(Debug, Clone, Copy)]
enum With {
    Nothing,
    /// A sealed segment of [`SEGMENT_BYTES`].
    Segment,
    /// A memory file that could become shorter.
    Unsealed,
    /// One that is shorter than a page.
    Short,
    /// Something else altogether.
    Pipe,
    /// Four of them.
    Several,
}

fn with() -> impl Strategy<Value = With> {
    prop_oneof![
        2 => Just(With::Nothing),
        6 => Just(With::Segment),
        1 => Just(With::Unsealed),
        1 => Just(With::Short),
        1 => Just(With::Pipe),
        1 => Just(With::Several),
    ]
}

impl With {
    fn descriptors(self) -> Vec<OwnedFd> {
        let file = |bytes| {
            let file = rustix::fs::memfd_create("hostile", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&file, bytes).unwrap();
            file
        };
        let sealed = || {
            let segment = Segment::create(SEGMENT_BYTES).unwrap();
            segment.fd().try_clone_to_owned().unwrap()
        };
        match self {
            With::Nothing => vec![],
            With::Segment => vec![sealed()],
            With::Unsealed => vec![file(SEGMENT_BYTES)],
            With::Short => vec![file(100)],
            With::Pipe => vec![rustix::pipe::pipe().unwrap().0],
            With::Several => (0..4).map(|_| sealed()).collect(),
        }
    }
}

/// A packet on its way, perhaps damaged.
#[derive(Debug, Clone)]
struct Packet {
    bytes: Vec<u8>,
    with: With,
}

fn damaged(message: impl Strategy<Value = Vec<u8>> + 'static) -> BoxedStrategy<Packet> {
    let damage = prop_oneof![
        6 => Just(None),
        1 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(Some),
    ];
    (message, damage, with())
        .prop_map(|(mut bytes, damage, with)| {
            if let Some((index, value)) = damage {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
            Packet { bytes, with }
        })
        .boxed()
}

/// Looks at every byte.
fn touch(parcel: Parcel) -> usize {
    std::iter::once(&parcel.stream)
        .chain(&parcel.buffers)
        .map(|bytes| bytes.as_slice().iter().filter(|byte| **byte != 0).count())
        .sum()
}

/// A worker obeys packets until it refuses one, or there are no more.
fn obey(packets: &[Packet]) {
    let (mut parent, theirs): (ParentEnd, OwnedFd) = channel::pair().unwrap();
    let mut station = Station::new(theirs);
    for packet in packets.iter().filter(|packet| !packet.bytes.is_empty()) {
        let descriptors = packet.with.descriptors().into_iter().map(Arc::new).collect();
        parent.send(packet.bytes.clone(), descriptors).unwrap();
    }
    drop(parent);
    let mut kept = Vec::new();
    while let Ok(order) = station.receive() {
        match order {
            Order::Start { initializer } => {
                initializer.map(touch);
            }
            Order::Call(call) => {
                assert!(call.first.checked_add(u64::from(call.skip) + u64::from(call.items)).is_some());
                call.function.map(touch);
                touch(call.payload);
            }
            Order::Share { value, .. } => {
                if let Ok(parcel) = value.open() {
                    touch(parcel);
                }
                kept.push(value);
            }
            _ => {}
        }
    }
}

#[test]
fn packets_that_were_thought_up() {
    let many = u32::MAX.to_le_bytes();
    let mut packets: Vec<Vec<u8>> = (0..=255).map(|tag| vec![tag]).collect();
    packets.push([&b"R"[..], &many].concat());
    packets.push([&b"R"[..], &[1, 0, 0, 0], &[0xff; 20]].concat());
    packets.push([&b"g"[..], &many, &[0; 40]].concat());
    packets.push([&b"V"[..], &[0; 17], &[0], &many].concat());
    packets.push([&b"V"[..], &[0; 17], &[0, 0, 0, 0, 0], &many, &[0; 500]].concat());
    packets.push(vec![b'C'; 60_000]);
    for packet in packets {
        if let Ok(message) = ToWorker::decode(&packet) {
            assert_eq!(message.encode(), packet);
        }
        if let Ok(message) = ToParent::decode(&packet) {
            assert_eq!(message.encode(), packet);
        }
        obey(&[Packet { bytes: packet, with: With::Segment }]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_worker_survives_its_parent(
        packets in prop::collection::vec(damaged(to_worker().prop_map(|message| message.encode())), 1..12)
    ) {
        obey(&packets);
    }
}

// The parent's side ------------------------------------------------------------------------------------------------

/// A pool whose workers are threads of this test, each with a process to be killed in its place.
struct Stage {
    pool: Pool,
    births: Receiver<ForkOrder>,
}

impl Stage {
    fn new() -> Self {
        let (sender, births) = channel();
        let supervisor = SupervisorConfig { processes: 1, ..SupervisorConfig::default() };
        let origin = Origin::Fork(Box::new(move |order| {
            // Nobody listens when the test is over.
            let _ = sender.send(order);
        }));
        let scheduler = SchedulerConfig { processes: 1, ..SchedulerConfig::default() };
        let (spill, machine) = (SpillConfig::default(), Machine::default());
        let plan = Plan { scheduler, supervisor, origin, spill, machine, worker_memory_limit: None };
        let pool = Pool::start(plan, |_| Ok(None)).unwrap();
        Self { pool, births }
    }

    /// The next worker, as the end of its channel and the process in whose place it is.
    #[expect(clippy::zombie_processes, reason = "the pool reaps it, as every worker")]
    fn birth(&self) -> Option<(OwnedFd, Pid)> {
        let order = self.births.recv_timeout(Duration::from_millis(20)).ok()?;
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        self.pool.forked(order.worker, Ok(child.id()));
        Some((order.channel, Pid::from_child(&child)))
    }
}

/// A worker that does what it should.
fn be_honest(channel: OwnedFd) {
    let mut station = Station::new(channel);
    while let Ok(order) = station.receive() {
        match order {
            Order::Start { .. } => station.ready().unwrap(),
            Order::Call(call) => {
                let results = Payload::pack(station.arena(), &[b"honest"], &[]).unwrap();
                let chunk = call.chunk;
                // The parent may have gone.
                let _ = station.answer(
                    Done {
                        chunk,
                        items: call.items,
                        failed: 0,
                        last: true,
                        spent: Spent::default(),
                        shift: Shift::default(),
                    },
                    &results,
                );
            }
            Order::Stop => return,
            _ => {}
        }
    }
}

/// One call on a pool whose first workers say these things; it must come to an end, and so must the pool.
fn endure(hostile: &[Vec<Packet>]) {
    let stage = Stage::new();
    let function = Payload::pack(stage.pool.broadcast(), &[b"function"], &[]).unwrap();
    let spec = JobSpec {
        function: None,
        items: Some(1),
        chunking: Chunking::Fixed(1),
        delivery: Delivery::Collected,
        retries: 1000,
        task_timeout: None,
    };
    let job = stage.pool.open(function, spec, None, stage.pool.record());
    let (mut hostile, mut threads) = (hostile.iter(), Vec::new());
    let deadline = Instant::now() + Duration::from_secs(40);
    let mut fed = false;
    loop {
        assert!(Instant::now() < deadline, "the call does not end");
        if let Some((channel, pid)) = stage.birth() {
            let said = hostile.next().cloned();
            threads.push(std::thread::spawn(move || match said {
                None => be_honest(channel),
                Some(packets) => {
                    let end = WorkerEnd::new(channel);
                    let _ = end.send(&ToParent::Ready { version: VERSION }.encode(), &[]);
                    for packet in packets.iter().filter(|packet| !packet.bytes.is_empty()) {
                        let descriptors = packet.with.descriptors();
                        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                        if end.send(&packet.bytes, &borrowed).is_err() {
                            break;
                        }
                    }
                    // Gone already, if the parent had enough of it.
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }));
        }
        match job.turn(!fed, Taking::Any, Duration::from_millis(5)) {
            Turn::Feed(_) => {
                let payload = Payload::pack(stage.pool.arena(), &[b"item"], &[]).unwrap();
                stage.pool.submit(job.id(), 0, 1, payload, Kept::Not);
                stage.pool.exhaust(job.id(), 1);
                fed = true;
            }
            Turn::Finished | Turn::Failed(_) => break,
            _ => {}
        }
    }
    stage.pool.terminate();
    while !stage.pool.join(Duration::from_millis(5)) {
        assert!(Instant::now() < deadline, "the pool does not end");
        stage.birth();
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn a_parent_survives_its_workers(
        hostile in prop::collection::vec(
            prop::collection::vec(damaged(to_parent().prop_map(|message| message.encode())), 1..8),
            1..4
        )
    ) {
        endure(&hostile);
    }
}
