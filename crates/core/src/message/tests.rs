//! What was encoded is decoded, and nothing else is.

use super::*;
use crate::id::Time;
use crate::payload::Part;
use proptest::prelude::*;

fn span() -> impl Strategy<Value = Span> {
    (any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(segment, offset, bytes)| Span {
        segment: SegmentId(segment),
        offset,
        bytes,
    })
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![prop::collection::vec(any::<u8>(), 0..40).prop_map(Part::Inline), span().prop_map(Part::Span)]
}

fn outline() -> impl Strategy<Value = Outline> {
    (part(), prop::collection::vec(part(), 0..5)).prop_map(|(stream, buffers)| Outline { stream, buffers })
}

fn segments() -> impl Strategy<Value = Vec<SegmentId>> {
    prop::collection::vec(any::<u32>().prop_map(SegmentId), 0..9)
}

fn to_worker() -> impl Strategy<Value = ToWorker> {
    prop_oneof![
        (any::<[u32; 4]>(), any::<[u64; 3]>(), prop::option::of(outline())).prop_map(
            |([slot, generation, slots, line], [memory_limit, shelf, rest], initializer)| ToWorker::Start {
                worker: WorkerId { slot, generation },
                slots,
                line,
                memory_limit,
                shelf,
                trim_after: Duration::from_nanos(rest),
                initializer
            }
        ),
        (any::<u32>(), any::<u64>(), any::<[bool; 2]>()).prop_map(|(id, bytes, [private, sealed])| {
            let sharing = if private { Sharing::Private } else { Sharing::Shared };
            ToWorker::Segment { id: SegmentId(id), bytes, sharing, sealed }
        }),
        (any::<[u64; 3]>(), any::<[u32; 3]>(), any::<bool>(), prop::option::of(outline()), outline())
            .prop_map(|([job, chunk, first], [skip, items, patience], retained, function, payload)| {
                ToWorker::Call {
                    job: JobId(job),
                    chunk: ChunkId(chunk),
                    first,
                    skip,
                    items,
                    retained,
                    patience,
                    function,
                    payload,
                }
            }),
        (any::<[u64; 2]>(), any::<bool>(), outline())
            .prop_map(|([job, key], keep, value)| { ToWorker::Share { job: JobId(job), key, keep, value } }),
        segments().prop_map(|segments| ToWorker::Dropped { segments }),
        any::<u64>().prop_map(|key| ToWorker::Unshare { key }),
        any::<u32>().prop_map(|id| ToWorker::Again { id: SegmentId(id) }),
        any::<u64>().prop_map(|job| ToWorker::Forget { job: JobId(job) }),
        prop::collection::vec(span(), 0..9).prop_map(|spans| ToWorker::Release { spans }),
        Just(ToWorker::Stop),
        span().prop_map(|span| ToWorker::Long { span }),
    ]
}

fn shift() -> impl Strategy<Value = Shift> {
    let samples = prop::collection::vec(any::<(u64, u32)>(), 0..5);
    (any::<[u64; 8]>(), any::<u32>(), samples, "[a-z,é]{0,9}").prop_map(
        |([begun, durations @ ..], offset, samples, imported)| {
            let [waited, packing, sending, crossing, cpu, helpers, longest] =
                durations.map(Duration::from_nanos);
            let longest = (offset, longest);
            Shift {
                begun: Time(begun),
                waited,
                packing,
                sending,
                crossing,
                cpu,
                helpers,
                longest,
                samples,
                imported,
            }
        },
    )
}

fn to_parent() -> impl Strategy<Value = ToParent> {
    let spent = any::<[u64; 3]>().prop_map(|[a, b, c]| Spent {
        decode: Duration::from_nanos(a),
        call: Duration::from_nanos(b),
        encode: Duration::from_nanos(c),
    });
    prop_oneof![
        any::<u16>().prop_map(|version| ToParent::Ready { version }),
        outline().prop_map(|failure| ToParent::Refused { failure }),
        (any::<u32>(), any::<u64>()).prop_map(|(id, bytes)| ToParent::Segment { id: SegmentId(id), bytes }),
        (
            any::<u64>(),
            any::<[u32; 2]>(),
            any::<bool>(),
            spent,
            shift(),
            any::<u64>(),
            outline(),
            prop::collection::vec(span(), 0..5)
        )
            .prop_map(
                |(chunk, [items, failed], last, spent, shift, handed_bytes, results, released)| {
                    let chunk = ChunkId(chunk);
                    ToParent::Return {
                        chunk,
                        items,
                        failed,
                        last,
                        spent,
                        shift,
                        handed_bytes,
                        results,
                        released,
                    }
                }
            ),
        any::<u64>().prop_map(|chunk| ToParent::Unreadable { chunk: ChunkId(chunk) }),
        segments().prop_map(|segments| ToParent::Dropped { segments }),
        any::<u64>().prop_map(|own_bytes| ToParent::Outgrown { own_bytes }),
        any::<u64>().prop_map(|limit| ToParent::Short { limit }),
        any::<u64>().prop_map(|chunk| ToParent::Surrendered { chunk: ChunkId(chunk) }),
        prop::collection::vec(span(), 0..9).prop_map(|spans| ToParent::Release { spans }),
        "[a-z,é]{0,9}".prop_map(|reason| ToParent::Lost { reason }),
        span().prop_map(|span| ToParent::Long { span }),
    ]
}

proptest! {
    #[test]
    fn messages_survive_the_way_to_a_worker(message in to_worker()) {
        prop_assert_eq!(ToWorker::decode(&message.encode()).expect("own message"), message);
    }

    #[test]
    fn messages_survive_the_way_to_the_parent(message in to_parent()) {
        prop_assert_eq!(ToParent::decode(&message.encode()).expect("own message"), message);
    }

    #[test]
    fn garbage_is_refused_or_means_itself(packet in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = ToWorker::decode(&packet) {
            prop_assert_eq!(message.encode(), packet.clone());
        }
        if let Ok(message) = ToParent::decode(&packet) {
            prop_assert_eq!(message.encode(), packet);
        }
    }

    #[test]
    fn a_cut_message_is_refused(message in to_parent(), keep in 0.0..1.0f64) {
        let packet = message.encode();
        let cut = (packet.len() as f64 * keep) as usize;
        prop_assert!(ToParent::decode(&packet[..cut]).is_err());
    }
}
