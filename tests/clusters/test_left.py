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
    return list(pool._cluster.absent._wholes)


def begun(pool, function=work.blob, chunksize=1):
    """An iterator of which one item was taken, when several replies have stayed on the cluster, and the first item."""
    results = pool.imap(function, range(COUNT), chunksize)
    first = next(results)
    until(lambda: len(absent(pool)) >= 4, "replies stay there")
    return results, first


def test_they_stay_until_they_are_taken_and_are_sent_a_little_before(pool):
    results, first = begun(pool)
    assert first[0] == 0 and all(whole._coming is None for whole in absent(pool))
    # The first replies came at once, since nobody knew what results weigh.
    for i, result in enumerate(results, 1):
        sent = [whole.place[1] for whole in absent(pool) if whole._coming is not None]
        assert not sent or max(sent) <= i + left.AHEAD
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


def test_a_consumer_that_comes_after_the_pool_has_ended(Pool):
    with Pool(2) as pool:
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


def test_small_results_come_at_once(pool):
    results = pool.imap(abs, range(2000))
    assert next(results) == 0
    assert list(results) == list(range(1, 2000))
    assert not absent(pool)


# Without a cluster -------------------------------------------------------------------------------------------------


class Parcel:
    nbytes = 3 << 20


def outline(whole):
    whole_reply = Reply([Outcome(1, 0, Parcel(), (0.0, 0.0, 0.0))], False, 0.0, None)
    found = left.outlined(whole_reply)
    assert left.is_outline(found) and not left.is_outline(whole_reply)
    return left.stood_for(found, whole)


def test_a_reply_is_asked_for_once_and_those_that_follow_are_with_it():
    asked = []

    def whole(name):
        def begin():
            asked.append(name)
            future = concurrent.futures.Future()
            future.set_result(Reply([Outcome(1, 0, name, (0.0, 0.0, 0.0))], False, 0.0, None))
            return future

        return left.Whole(begin, lambda reply: None, lambda: None)

    shelf = left.Absent()
    wholes = {name: whole(name) for name in ("late", "first", "other", "next", "after")}
    places = {"first": (1, 0), "next": (1, 5), "after": (1, 9), "late": (1, 12), "other": (2, 6)}
    for name, reply in wholes.items():
        shelf.enter(*places[name], reply)
    (outcome,) = outline(wholes["first"]).outcomes
    assert outcome.results.nbytes == Parcel.nbytes
    for _ in range(2):
        assert outcome.results.fetch() == ("first", None)
    assert asked == ["first", "next", "after"]
    shelf.fetch_all()
    assert sorted(asked) == sorted(wholes)


def test_a_reply_that_never_comes_is_given_up(monkeypatch):
    monkeypatch.setattr(left, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(left, "PATIENCE_SECONDS", 0.05)
    whole = left.Whole(concurrent.futures.Future, lambda reply: None, lambda: "node a was lost")
    (outcome,) = outline(whole).outcomes
    with pytest.raises(forklift.ForkliftError, match="node a was lost"):
        outcome.results.fetch()
