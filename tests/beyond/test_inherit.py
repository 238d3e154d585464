"""Maps by inheritance: workers forked for one call, to which only the items' numbers travel."""

from __future__ import annotations

import datetime
import decimal
import fractions
import functools
import os
import signal
import socket
import threading
import time

import pytest

import forklift
from forklift import _estimate, _inherit, _native, _threads, _zygote
from tests.patience import until

# pytest-xdist's threads are foreign ones.
pytestmark = pytest.mark.filterwarnings("ignore:inherit=True forks this process:RuntimeWarning")

STATE: dict[str, int] = {}


@pytest.fixture
def pool():
    with forklift.Pool(2, inherit=True) as pool:
        yield pool
    pool.join()


def kind(item):
    return type(item).__name__


def fail_on_three(item):
    if item == [3]:
        raise ValueError("three")
    return item[0]


def die_on_three(item):
    if item == [3]:
        os.kill(os.getpid(), signal.SIGKILL)
    return item[0]


def set_state(value, lock):
    with lock:
        STATE["value"] = value


def read_state(_):
    return STATE["value"], os.getpid()


def items_of(count):
    return [[number] for number in range(count)]


def test_items_and_functions_that_cannot_be_pickled(pool):
    with socket.socket() as unbound:
        items = [threading.Lock(), (number for number in range(3)), unbound, lambda: 3]
        lock = threading.Lock()

        def locked(item):
            with lock:
                return kind(item)

        expected = ["lock", "generator", "socket", "function"]
        assert pool.map(locked, items) == expected
        assert pool.map_async(locked, items).get(120) == expected
        assert list(pool.imap(locked, items)) == expected
        assert sorted(pool.imap_unordered(locked, items)) == sorted(expected)
        pairs = [(item, number) for number, item in enumerate(items)]
        assert pool.starmap(lambda item, number: (locked(item), number), pairs) == list(
            zip(expected, range(4), strict=True)
        )
        assert pool.starmap_async(lambda item, number: number, pairs).get(120) == [0, 1, 2, 3]
    counters = pool._counters()
    assert (counters["births"], counters["bytes_copied_in"]) == (0, 0)


@pytest.mark.parametrize("chunksize", [None, 1, 7])
@pytest.mark.parametrize(
    "items",
    [[], (), range(50), "text", b"bytes", {1: 2, 3: 4}, items_of(3000)],
    ids=lambda items: kind(items),
)
def test_results_are_those_of_a_loop(pool, items, chunksize):
    expected = [repr(item) for item in items]
    assert pool.map(repr, items, chunksize) == expected
    assert list(pool.imap(repr, items, chunksize)) == expected


def test_an_iterator_is_made_a_list_for_map_and_refused_for_imap(pool):
    assert pool.map(str, iter(range(5))) == list("01234")
    assert pool.map_async(str, (x for x in range(5))).get(120) == list("01234")
    with pytest.raises(TypeError, match="give imap a list, not range_iterator"):
        pool.imap(str, iter(range(5)))
    assert list(pool.imap(str, iter(range(5)), inherit=False)) == list("01234")


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="inherit must be"):
        forklift.Pool(2, inherit="yes")
    with pytest.raises(ValueError, match="spawn"):
        forklift.Pool(2, context="spawn", inherit=True)
    with forklift.Pool(1) as pool, pytest.raises(ValueError, match="inherit must be"):
        pool.map(str, [1], inherit=2)
    with forklift.Pool(1, context="spawn") as pool, pytest.raises(ValueError, match="spawn"):
        pool.imap(str, [1], inherit=True)


class Adder:
    """Holds what is shared; it and its method are mapped."""

    def __init__(self, table):
        self.table = table

    def __call__(self, item):
        return self.table["one"] + item

    add = __call__


def look_up(item, table=None, *, other=None):
    table = table or other or TABLE
    return table["one"] + item


def nested(table):
    add = functools.partial(look_up, other=table)
    return lambda item: add(item) if type(table) is dict else None


# As a function of a module has it, which would be pickled by reference.
TABLE: object = None

HOLDERS = {
    "closure": lambda table: lambda item: table["one"] + item,
    "closure within a partial": lambda table: functools.partial(lambda item: table["one"] + item),
    "partial": lambda table: functools.partial(look_up, table=table),
    "partial within a closure": nested,
    "list in a closure": lambda table: (lambda tables: lambda item: tables[0]["one"] + item)([table]),
    "default": lambda table: lambda item, table=table: table["one"] + item,
    "keyword's default": lambda table: lambda item, *, table=table: table["one"] + item,
    "object": Adder,
    "method": lambda table: Adder(table).add,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_is_shared_is_its_value_in_a_function(pool, holder):
    with pool.share({"one": 1}) as table:
        function = HOLDERS[holder](table)
        for inherit in (True, False):
            assert pool.map(function, range(6), inherit=inherit) == [1, 2, 3, 4, 5, 6]
        assert type(table) is forklift.Shared, "this process keeps what it has"


def test_what_is_shared_is_its_value_in_a_global(pool, monkeypatch):
    with pool.share({"one": 1}) as table:
        monkeypatch.setitem(globals(), "TABLE", table)
        assert pool.map(look_up, range(6)) == [1, 2, 3, 4, 5, 6]


def parts(item):
    return item if type(item) is str else [parts(part) for part in item]


def same(first, second):
    return first is second and type(first).__name__


def test_what_is_shared_is_its_value_in_an_item(pool):
    with pool.share("value") as value, pool.share([5]) as other:
        items = [value, (value, "a"), [value, [value, ("b", value)]], ["c"] * 2]
        expected = ["value", ["value", "a"], ["value", ["value", ["b", "value"]]], ["c", "c"]]
        for inherit in (True, False):
            assert pool.map(parts, items, inherit=inherit) == expected
            assert list(pool.imap(parts, items, inherit=inherit)) == expected
            assert pool.map(dict.copy, [{"a": value}, {"b": [1]}], inherit=inherit) == [
                {"a": "value"},
                {"b": [1]},
            ]
            assert pool.starmap(same, [(other, other), [other, other]], inherit=inherit) == ["list"] * 2
        assert items[0] is value
    for inherit in (True, False):
        with pytest.raises((ValueError, forklift.EncodeError), match="closed"):
            pool.map(parts, items, inherit=inherit)


def test_the_initializer_runs_in_each_worker_with_what_only_a_fork_can_carry():
    with forklift.Pool(2, set_state, (7, threading.Lock()), context="fork", inherit=True) as pool:
        assert {value for value, _ in pool.map(read_state, items_of(20))} == {7}
    pool.join()
    assert STATE == {}


def test_a_failing_initializer_fails_the_call():
    with (
        forklift.Pool(2, fail_on_three, ([3],), inherit=True) as pool,
        pytest.raises(ValueError, match="three"),
    ):
        pool.map(kind, items_of(4))
    pool.join()


def test_failures_are_those_of_an_ordinary_map(pool):
    with pytest.raises(ValueError, match="three"):
        pool.map(fail_on_three, items_of(9))
    results = pool.map(fail_on_three, items_of(9), on_error="return")
    assert isinstance(results.pop(3), ValueError)
    assert results == [0, 1, 2, 4, 5, 6, 7, 8]
    ordinary = pool.map(fail_on_three, items_of(9), on_error="return", inherit=False)[3]
    inherited = pool.map(fail_on_three, items_of(9), on_error="return")[3]
    assert getattr(inherited, "__notes__", None) == getattr(ordinary, "__notes__", None)
    assert "three" in str(inherited.__cause__)


def test_a_killed_worker_costs_its_item_alone(pool):
    results = pool.map(die_on_three, items_of(40), 4, on_error="return")
    died = results.pop(3)
    assert isinstance(died, forklift.WorkerDied) and died.index == 3
    assert results == [0, 1, 2, *range(4, 40)]


def test_a_killed_worker_costs_its_item_alone_in_chunks_that_the_pool_chooses(pool):
    results = pool.map(die_on_three, items_of(3000), on_error="return")
    died = results.pop(3)
    assert isinstance(died, forklift.WorkerDied) and died.index == 3
    assert results == [0, 1, 2, *range(4, 3000)]
    assert pool.map(die_on_three, items_of(3), retries=2) == [0, 1, 2]


@pytest.fixture
def slow_forks(monkeypatch):
    """Forks take half a second in the parent, as those of a process with gigabytes do."""
    fork = _zygote._fork_quietly
    made = []

    def forked():
        pid = fork()
        if pid != 0:
            made.append(pid)
            time.sleep(0.5)
        return pid

    monkeypatch.setattr(_zygote, "_fork_quietly", forked)
    return made


def test_a_worker_that_would_come_too_late_is_not_forked(pool, slow_forks):
    assert pool.map(lambda item: item[0], items_of(1000)) == list(range(1000))
    assert pool.map_async(lambda item: item[0], items_of(1000)).get(120) == list(range(1000))
    until(lambda: not pool._crews, "the end of the workers")
    assert len(slow_forks) == 2


@pytest.mark.parametrize("count", [2, 3])
def test_workers_that_are_needed_are_forked_however_long_it_takes(slow_forks, tmp_path, count):
    def meet(item):
        (tmp_path / str(item[0])).touch()
        until(lambda: len(list(tmp_path.iterdir())) == count, "all items have begun")
        return os.getpid()

    with forklift.Pool(count, inherit=True) as pool:
        assert len(set(pool.map(meet, items_of(count)))) == count
    pool.join()
    assert len(slow_forks) == count


def test_an_end_while_forks_wait_for_their_turn(slow_forks):
    pool = forklift.Pool(4, inherit=True)
    result = pool.map_async(time.sleep, [1000] * 8)
    until(lambda: slow_forks, "the first fork")
    pool.terminate()
    with pytest.raises(forklift.ForkliftError, match="terminated"):
        result.get(120)
    pool.join()
    assert len(slow_forks) < 4 and not _inherit._held


def test_maxtasksperchild_counts_calls():
    with forklift.Pool(2, maxtasksperchild=5, inherit=True) as pool:
        pids = pool.map(lambda _: os.getpid(), items_of(40))
    pool.join()
    assert max(map(pids.count, pids)) <= 5 and os.getpid() not in pids


def test_what_workers_write_stays_with_them(pool):
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.zeros(10_000) for _ in range(8)]

    def fill(array):
        array += 1
        return array

    for result, array in zip(pool.map(fill, arrays), arrays, strict=True):
        assert result.sum() == 10_000 and array.sum() == 0


def test_an_iterator_that_is_dropped_ends_its_workers(pool, tmp_path):
    def report(item):
        (tmp_path / str(os.getpid())).touch()
        if item[0] > 3:
            time.sleep(1000)
        return item[0]

    iterator = pool.imap(report, items_of(1000), 1)
    assert [next(iterator), next(iterator)] == [0, 1]
    del iterator
    until(lambda: not pool._crews, "the end of the workers")
    assert not any(os.path.exists(f"/proc/{path.name}") for path in tmp_path.iterdir())
    assert not _inherit._held
    assert pool.map(kind, [1]) == ["int"]


def test_a_cancelled_call_says_so_and_ends_its_workers(pool, tmp_path):
    def report(_):
        (tmp_path / str(os.getpid())).touch()
        time.sleep(1000)

    result = pool.map_async(report, items_of(4), 1)
    until(lambda: len(list(tmp_path.iterdir())) == 2, "both workers are at it")
    assert result.cancel() is True
    with pytest.raises(forklift.CancelledError):
        result.get(120)
    until(lambda: not pool._crews, "the end of the workers")
    assert not any(os.path.exists(f"/proc/{path.name}") for path in tmp_path.iterdir())
    assert pool.map(kind, [1]) == ["int"]


def test_terminate_ends_the_workers_of_calls():
    pool = forklift.Pool(2, inherit=True)
    result = pool.map_async(time.sleep, [1000] * 4)
    until(lambda: pool._crews, "a crew")
    pool.terminate()
    with pytest.raises(forklift.ForkliftError, match="terminated"):
        result.get(120)
    pool.join()
    assert not _inherit._held


def test_close_and_join_let_calls_finish():
    pool = forklift.Pool(2, inherit=True)
    result = pool.map_async(lambda item: item[0], items_of(500))
    pool.close()
    pool.join()
    assert result.get(0) == list(range(500))
    with pytest.raises(ValueError, match="not running"):
        pool.map(str, [1])


def test_pools_in_workers(pool):
    def nest(item):
        with forklift.Pool(2) as inner:
            return inner.map(lambda x: [x], item, inherit=True)

    assert pool.map(nest, [[1, 2], [3]]) == [[[1], [2]], [[3]]]


def test_threads_that_map_at_once(pool):
    found: dict[int, list[int]] = {}

    def run(number):
        for _ in range(5):
            found[number] = pool.map(lambda item: item[0] * number, items_of(50))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {number: [x * number for x in range(50)] for number in range(4)}


def test_foreign_threads_are_named_in_one_warning(recwarn):
    leave = threading.Event()
    stranger = threading.Thread(target=leave.wait, name="stranger")
    stranger.start()
    try:
        with forklift.Pool(1, inherit=True) as pool:
            with pytest.warns(RuntimeWarning, match="stranger"):
                pool.map(str, [1])
            recwarn.clear()
            pool.map(str, [1])
            assert not [warning for warning in recwarn if "stranger" in str(warning.message)]
        pool.join()
        assert "stranger" in _threads.foreign()
    finally:
        leave.set()
        stranger.join()


@pytest.mark.parametrize(
    "items",
    [
        [1] * 10**6,
        ["text"] * 10**6,
        [(1, 2.0)] * 1000,
        [[0.5] * 100] * 1000,
        [object()] * 10**6,
        [{"a": 1}] * 1000,
    ],
    ids=["int", "str", "tuples", "lists", "objects", "dicts"],
)
def test_cheap_items_are_not_sampled(items):
    assert not _estimate.may_be_costly(items)


def test_a_sample_runs_no_code_of_others():
    class Spy:
        def __reduce__(self):
            raise AssertionError("pickled")

    _, _, why_not = _estimate.copying([[Spy()] * 100] * 100, 2)
    assert "Spy" in why_not


class Fields(datetime.timedelta):
    """Could be changed: it has a `__dict__`."""


@pytest.mark.parametrize(
    ("part", "unshared"),
    [
        (datetime.timedelta(1), True),
        (datetime.date(2020, 1, 1), True),
        (datetime.datetime(2020, 1, 1), True),
        (datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), False),
        (decimal.Decimal(1), True),
        (fractions.Fraction(1, 3), True),
        (Fields(1), False),
        ([1], False),
        ({1: 2}, False),
        (object(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_could_be_changed_counts_as_shared(part, unshared):
    assert _native.unshared([[part, 1], [part, 2]]) is unshared


# What "auto" does is looked at in processes of their own: this one has threads of pytest-xdist.

ITEMS = """
import datetime, forklift, threading, warnings
warnings.simplefilter("error")
def count(item):
    return len(item)
def make(rows=800):
    # Dear to pickle beside what it takes of memory, so that the choice is the same on any machine.
    return [[datetime.timedelta(seconds=row * 1000 + n) for n in range(1000)] for row in range(rows)]
"""


def test_auto_inherits_where_encoding_dominates_and_forking_is_safe(scripts):
    source = """
    items = make()
    with forklift.Pool(2) as pool:
        assert pool.map(count, items) == [1000] * 800
        print(pool.report().inherit)
        assert pool._counters()["births"] == 0
    """
    out = scripts.run(ITEMS + _dedent(source)).check()
    assert out.startswith("inherit: encoding and decoding is estimated at"), out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("threading.Thread(target=time.sleep, args=(3,), name='stranger', daemon=True).start()", "stranger"),
        ("import multiprocessing; multiprocessing.set_start_method('spawn')", "would not fork"),
        ("options['maxtasksperchild'] = 1000", "maxtasksperchild"),
        ("options['context'] = 'forkserver'", "context"),
        ("options['inherit'] = False", "inherit=False"),
        ("items[7] = items[9]", "share an object"),
        (
            "forklift.Pool.__enter__ = lambda pool: (setattr(pool, 'kept', pool.share([1])), pool)[1]",
            "shares values",
        ),
        ("part = ['shared']; items = [[item, part] for item in items]", "share an object"),
        ("items = make(2)", "estimated"),
        ("items = iter(items)", "in no list or tuple"),
    ],
)
def test_auto_copies_if_in_doubt(scripts, change, reason):
    source = f"""
    items = make()
    options = {{}}
    {change}
    with forklift.Pool(2, **options) as pool:
        pool.map(count, items)
        print(pool.report().inherit)
        assert pool._counters()["births"] > 0
    """
    out = scripts.run(ITEMS + _dedent(source)).check()
    assert out.startswith("copy: ") and reason in out, out


class Meanwhile(list):
    """Items of which another thread makes a call of the same pool before this one has begun."""

    def __init__(self, items, call):
        super().__init__(items)
        self._call = call

    def __iter__(self):
        other = threading.Thread(target=self._call)
        other.start()
        other.join()
        return super().__iter__()


@pytest.mark.parametrize("method", ["map", "map_async", "imap"])
def test_the_choice_of_another_thread_s_call_is_not_reported(pool, method):
    def inherited():
        assert pool.map(kind, items_of(3), inherit=True) == ["list"] * 3
        assert pool.report().inherit == "inherit: inherit=True" and pool.report().inherited_bytes > 0

    results = getattr(pool, method)(kind, Meanwhile(items_of(3), inherited), inherit=False)
    assert list(results.get() if method == "map_async" else results) == ["list"] * 3
    report = pool.report()
    assert (report.call, report.inherit, report.inherited_bytes) == (method, "copy: inherit=False", 0)


def test_blocks_of_an_object_are_not_inherited(pool):
    pool.map(kind, items_of(3))
    assert pool.map_blocks(len, b"abcdef", combine="list") == [6]
    report = pool.report()
    assert report.inherit.startswith("copy: the blocks of one object") and report.inherited_bytes == 0


def test_threads_that_call_and_report_see_what_belongs_together():
    ways = {"abs": (False, "copy: inherit=False"), "str": ("auto", "copy: the items are in no list")}
    wrong = []

    def call_and_report(function):
        inherit, _ = ways[function.__name__]
        for _ in range(50):
            list(pool.imap(function, range(3), inherit=inherit))
            pool.map(function, range(3), inherit=inherit)
            report = pool.report()
            if report.call == "map" and not report.inherit.startswith(ways[report.function][1]):
                wrong.append((report.function, report.inherit))

    with forklift.Pool(2) as pool:
        threads = [threading.Thread(target=call_and_report, args=(one,)) for one in (abs, str) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_ctrl_c_ends_an_inherited_map(scripts):
    script = scripts.start("""
    import forklift
    pool = forklift.Pool(2)
    pool.map(mark_and_sleep, [1000] * 10, inherit=True)
    """)
    script.begun(2)
    script.interrupt(group=True)
    ended = script.run()
    assert ended.returncode != 0 and "KeyboardInterrupt" in ended.stderr


def test_the_end_of_the_interpreter_ends_the_workers(scripts):
    script = scripts.start("""
    import forklift
    pool = forklift.Pool(2)
    result = pool.map_async(mark_and_sleep, [1000] * 10, inherit=True)
    while len(os.listdir(MARKS)) < 2:
        time.sleep(0.01)
    """)
    assert script.run().returncode == 0


def _dedent(source):
    return "\n".join(line[4:] for line in source.split("\n"))
