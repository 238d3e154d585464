"""Results of iterators stay on the cluster until their consumer wants them."""

from __future__ import annotations

import concurrent.futures
import gc

import pytest

import forklift
from forklift.backends import left
from forklift.backends.agent import Outcome, Reply
from tests.patience import until

from . import work

COUNT = 24


def absent(pool):
    gc.collect()
    return pool._cluster.absent.wholes()


def begun(pool, function=work.blob, chunksize=1, count=COUNT):
    """An iterator of which one item was taken, when several replies have stayed on the cluster, and the first item."""
    results = pool.imap(function, range(count), chunksize)
    first = next(results)
    until(lambda: len(absent(pool)) >= 4, "replies stay there")
    return results, first


def test_they_stay_until_they_are_taken_and_are_sent_a_little_before(pool):
    results, first = begun(pool)
    assert first[0] == 0 and not any(whole.has_begun() for whole in absent(pool))
    # The first replies came at once, since nobody knew what results weigh.
    for i, result in enumerate(results, 1):
        # One that came late may lie between those that were sent for before it was there.
        sent = [whole.first for whole in absent(pool) if whole.has_begun() and whole.first > i]
        assert len(sent) <= 2 * left.AHEAD
        assert result.flags.writeable and (result == i).all()
        result[:] = -1
    assert i == COUNT - 1
    del results, result, first
    until(lambda: not absent(pool), "nothing stays there")


def test_what_nobody_wants_any_more_does_not_stay(pool):
    results, _ = begun(pool)
    del results
    until(lambda: not absent(pool), "nothing stays there")
    assert pool.map(abs, [-1]) == [1]


def test_a_consumer_that_comes_after_the_pool_has_ended(backend, implementation):
    """And with it its connection to the cluster, where that is its own."""
    address = backend.scheduler.address if implementation == "dask" else backend
    with forklift.Pool(2, backend=address) as pool:
        results, first = begun(pool)
        pool.close()
        pool.join()
    assert [first[0], *(result[0] for result in results)] == list(range(COUNT))


def test_one_that_cannot_be_rebuilt_fails_alone(pool):
    results, _ = begun(pool, work.blob_or_unreadable, 2)
    outcomes = []
    for _ in range(COUNT - 1):
        try:
            outcomes.append(next(results)[0][0])
        except forklift.DecodeError as error:
            outcomes.append(str(error))
    assert "not in this world" in outcomes[work.UNREADABLE - 1]
    outcomes[work.UNREADABLE - 1] = work.UNREADABLE
    assert outcomes == list(range(1, COUNT))


def test_small_results_and_those_that_all_are_wanted_come_at_once(pool, monkeypatch):
    entered = []
    monkeypatch.setattr(pool._cluster.absent, "enter", lambda *reply: entered.append(reply))
    assert list(pool.imap(abs, range(2000))) == list(range(2000))
    assert [result[0] for result in pool.map(work.blob, range(COUNT), 2)] == list(range(COUNT))
    assert not entered


def test_no_more_stays_than_there_is_room_for_when_the_pool_ends(Pool, tmp_path):
    """Joined, a pool does all that was begun, and nobody takes it: the rest goes to a disk, as at home."""
    with Pool(2, memory_limit="48MB", spill_dir=tmp_path) as pool:
        results, first = begun(pool, count=60)
        pool.close()
        pool.join()
        assert pool._cluster.absent.bytes_max == 12_000_000
        # And what was under way at the same time.
        assert sum(whole.nbytes for whole in absent(pool)) <= 12_000_000 + 4 * work.blob(0).nbytes
        assert pool.report().spilled_bytes > 0
    assert [first[0], *(result[0] for result in results)] == list(range(60))


# Without a cluster -------------------------------------------------------------------------------------------------


class Parcel:
    nbytes = 3 << 20


def left_there(absent, job, first, begin, lost=lambda: None):
    """What stands for the one result of a reply that has stayed."""
    reply = Reply([Outcome(1, 0, Parcel(), (0.0, 0.0, 0.0))], False, 0.0, None)
    outlined = left.outlined(reply)
    assert left.is_outlined(outlined) and not left.is_outlined(reply)
    (outcome,) = absent.enter(job, first, left.Outline(outlined, begin, lost)).outcomes
    assert outcome.results.nbytes == Parcel.nbytes
    return outcome.results


def test_a_reply_is_asked_for_once_and_those_that_follow_are_with_it():
    asked = []

    def begin(name):
        def begin():
            asked.append(name)
            future = concurrent.futures.Future()
            future.set_result(Reply([Outcome(1, 0, name, (0.0, 0.0, 0.0))], False, 0.0, None))
            return future

        return begin

    absent = left.Absent(lambda reply: None)
    places = {"late": (1, 12), "first": (1, 0), "other": (2, 6), "next": (1, 5), "after": (1, 9)}
    results = {name: left_there(absent, *place, begin(name)) for name, place in places.items()}
    for _ in range(2):
        assert results["first"].fetch() == ("first", None)
    assert asked == ["first", "next", "after"]
    absent.fetch_all()
    assert sorted(asked) == sorted(places)


def test_only_what_is_likely_to_be_large_stays_and_only_as_long_as_there_is_room():
    absent = left.Absent(lambda reply: None)
    absent.bytes_max = 2 * Parcel.nbytes
    assert not absent.may_grow(1, 1000), "nobody knows what results weigh"
    absent.weigh(1, Reply([Outcome(10, 0, Parcel(), (0.0, 0.0, 0.0))], False, 0.0, None))
    assert [absent.may_grow(1, items) for items in (1, 10, 20, 21)] == [False, True, True, False]
    kept = left_there(absent, 1, 0, concurrent.futures.Future)
    assert absent.may_grow(1, 10) and not absent.may_grow(1, 11)
    del kept
    assert absent.may_grow(1, 20)
    absent.forget(1)
    assert not absent.may_grow(1, 20)


def test_a_reply_that_never_comes_is_given_up(monkeypatch):
    monkeypatch.setattr(left, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(left, "PATIENCE_SECONDS", 0.05)
    absent = left.Absent(lambda reply: None)
    result = left_there(absent, 1, 0, concurrent.futures.Future, lambda: "node a was lost")
    with pytest.raises(forklift.ForkliftError, match="node a was lost"):
        result.fetch()
