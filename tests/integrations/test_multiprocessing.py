"""What programs written for `multiprocessing.Pool` pass to workers, and expect of their random numbers and streams."""

from __future__ import annotations

import multiprocessing
import socket

import numpy as np
import pytest

import forklift
from tests.integrations import work


@pytest.mark.parametrize("kind", ["Lock", "Queue", "Event", "SimpleQueue", "Semaphore"])
def test_what_can_only_be_inherited_is_refused_as_by_multiprocessing(pool, kind):
    made = getattr(multiprocessing, kind)()
    with pytest.raises(RuntimeError, match="through inheritance") as caught:
        pool.apply(str, (made,))
    assert isinstance(caught.value, forklift.EncodeError)
    assert pool.apply(abs, (-1,)) == 1
    if kind.endswith("Queue"):
        made.close()


def test_locks_and_queues_reach_workers_by_the_initializer():
    queue = multiprocessing.Queue()
    with forklift.Pool(2, work.keep, (multiprocessing.Lock(), queue)) as pool:
        pool.map(work.put_kept, range(6))
        assert sorted(queue.get(timeout=120) for _ in range(6)) == list(range(6))
    queue.close()
    queue.join_thread()


@pytest.mark.untidy("multiprocessing's resource tracker stays")
def test_objects_of_a_manager_can_be_arguments(pool):
    with multiprocessing.get_context("spawn").Manager() as manager:
        queue, lock = manager.Queue(), manager.Lock()
        pool.starmap(work.put, [(queue, lock, number) for number in range(6)])
        assert sorted(queue.get() for _ in range(6)) == list(range(6))


@pytest.mark.untidy("multiprocessing keeps a thread and a socket that hand descriptors over")
def test_connections_and_sockets_arrive_open(pool):
    here, there = multiprocessing.Pipe()
    pool.apply(work.send, (there, "by a pipe"))
    assert here.recv() == "by a pipe"
    ours, theirs = socket.socketpair()
    pool.apply(socket.socket.sendall, (theirs, b"by a socket"))
    assert ours.recv(100) == b"by a socket"
    for end in (here, there, ours, theirs):
        end.close()


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
def test_workers_have_random_numbers_of_their_own(context):
    np.random.seed(1)
    with forklift.Pool(2, context=context) as pool:
        drawn = pool.map(work.nap_and_draw, range(8), chunksize=1)
    assert len({pid for pid, _, _ in drawn}) == 2
    assert len({number for _, number, _ in drawn}) == 8
    assert len({number for _, _, number in drawn}) == 8


def test_nor_do_they_share_a_generator_that_a_module_has_chosen(tmp_path, monkeypatch):
    source = "import numpy\nnumpy.random.set_bit_generator(numpy.random.PCG64(1))\n"
    (tmp_path / "chooses_pcg64.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with forklift.Pool(2, preload=["numpy", "chooses_pcg64"]) as pool:
        drawn = pool.map(work.nap_and_draw, range(8), chunksize=1)
        kinds = pool.map(work.kind_of_generator, range(2))
    assert kinds == ["PCG64"] * 2
    assert len({pid for pid, _, _ in drawn}) == 2
    assert len({number for _, _, number in drawn}) == 8


def test_seeds_that_travel_with_items_give_the_same_numbers_whoever_draws(pool):
    seeds = np.random.SeedSequence(7).spawn(20)
    expected = [work.draw(seed) for seed in seeds]
    assert pool.map(work.draw, seeds) == expected
    assert pool.map(work.draw, seeds, chunksize=1) == expected


def test_warnings_and_logging_of_workers_are_seen(scripts):
    ended = scripts.run(
        """
        import logging, warnings
        from forklift import Pool
        def work(number):
            warnings.warn(f"warned of {number}")
            logging.getLogger("work").warning("logged %d", number)
            print("printed", number)
            return number
        with Pool(2) as pool:
            assert pool.map(work, range(3)) == [0, 1, 2]
            pool.close()
            pool.join()
        """
    )
    assert ended.returncode == 0
    for number in range(3):
        assert f"UserWarning: warned of {number}" in ended.stderr
        assert f"logged {number}\n" in ended.stderr
        assert f"printed {number}\n" in ended.stdout


def test_a_breakpoint_in_a_worker_ends_its_call_and_does_not_hang(scripts):
    """Workers read nothing, as with `multiprocessing`: the debugger meets the end of its input."""
    ended = scripts.run(
        """
        from forklift import Pool
        def work(number):
            breakpoint()
            return number
        with Pool(1) as pool:
            try:
                pool.apply(work, (1,))
            except Exception as error:
                print(type(error).__name__, pool.apply(abs, (-2,)))
        """
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("BdbQuit 2\n")


@pytest.mark.parametrize("context", [None, "spawn"])
def test_faulthandler_shows_where_a_worker_crashed(scripts, context):
    ended = scripts.run(
        f"""
        import faulthandler, os, signal
        import forklift
        faulthandler.enable()
        def crash_here(number):
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(1000)
        with forklift.Pool(1, context={context!r}) as pool:
            try:
                pool.apply(crash_here, (1,))
            except forklift.WorkerDied as error:
                print(error.signal)
        """
    )
    assert ended.stdout == "SIGSEGV\n"
    assert "Fatal Python error: Segmentation fault" in ended.stderr
    assert "crash_here" in ended.stderr
