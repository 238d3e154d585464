"""What goes wrong on a cluster: workers, nodes, the cluster itself. A pool says so, names the item, and goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Generator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import forklift
from forklift import _native
from forklift.backends.agent import Hello, python_version
from forklift.backends.cluster import Lost, Node, _check
from tests.patience import until

from . import work

# Workers -----------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_costs_its_item(pool):
    results = pool.map(work.die_at_three, range(12), on_error="return")
    died = results.pop(3)
    assert isinstance(died, forklift.WorkerDied) and died.index == 3 and "on node" in str(died)
    assert results == [0, 1, 2, *range(4, 12)]
    with pytest.raises(forklift.WorkerDied, match="item 3"):
        pool.map(work.die_at_three, range(12), 6)
    assert pool.map(abs, range(5)) == list(range(5))


def test_retries(pool, tmp_path):
    items = [(str(tmp_path), i) for i in range(8)]
    assert pool.map(work.die_once, items, 4, retries=1) == list(range(8))


def test_a_time_limit(pool):
    results = pool.map(work.sleep_at_two, range(6), task_timeout=2, on_error="return")
    late = results.pop(2)
    assert isinstance(late, forklift.TaskTimeout) and late.index == 2 and late.seconds == 2
    assert results == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("chunksize", [1, 4])
def test_what_cannot_be_rebuilt_fails_alone(pool, chunksize):
    results = pool.map(type, [1, work.Unreadable(), "a", 2.0], chunksize, on_error="return")
    bad = results.pop(1)
    assert isinstance(bad, forklift.DecodeError) and "not in this world" in str(bad)
    assert results == [int, str, float]


def test_what_cannot_be_sent_is_named(pool):
    with pytest.raises(forklift.EncodeError, match=r"items\[1\]\[0\]"):
        pool.map(abs, [1, [threading.Lock()]])
    with socket_pair() as one, pytest.raises(forklift.EncodeError, match="cannot be sent to another"):
        pool.map(abs, [one])
    assert pool.map(abs, [-1]) == [1]


def socket_pair():
    import socket

    one, other = socket.socketpair()
    other.close()
    return one


def test_a_module_that_the_nodes_do_not_have(pool, monkeypatch):
    ghost = types.ModuleType("ghost_of_forklift")
    exec("def work(x): return x", ghost.__dict__)
    ghost.work.__module__ = ghost.__name__
    monkeypatch.setitem(sys.modules, ghost.__name__, ghost)
    with pytest.raises(forklift.DecodeError, match="ghost_of_forklift") as caught:
        pool.map(ghost.work, range(3))
    assert "on node" in str(caught.value)
    assert any("installed on the nodes" in note for note in caught.value.__notes__)
    assert pool.map(abs, [-1]) == [1]


def test_an_initializer(Pool):
    with Pool(2, initializer=work.remember, initargs=(5,)) as pool:
        assert pool.map(work.recall, range(6), 1) == [5] * 6
    pool.join()
    with (
        Pool(2, initializer=work.fail, initargs=("no luck",)) as pool,
        pytest.raises(LookupError, match="no luck"),
    ):
        pool.map(abs, range(3))
    pool.join()


def test_calls_are_counted_on_the_nodes(Pool):
    with Pool(1, maxtasksperchild=3) as pool:
        seats = pool.map(work.seat, range(9), 3)
    pool.join()
    assert [len({pid for _, pid in seats[at : at + 3]}) for at in (0, 3, 6)] == [1, 1, 1]
    assert len(set(seats)) == 3


def test_a_cancelled_call_gives_its_workers_back(pool, tmp_path):
    call = pool.map_async(work.wait_for, [str(tmp_path / "never")] * 4)
    until(lambda: any(worker.state == "busy" for worker in pool.workers()), "busy workers")
    assert call.cancel()
    with pytest.raises(CancelledError):
        call.get(120)
    assert pool.map(abs, range(-6, 0)) == [6, 5, 4, 3, 2, 1]


def test_workers_and_another_number_of_them(Pool):
    with Pool(2) as pool:
        pool.map(abs, range(4))
        workers = pool.workers()
        assert [worker.pid for worker in workers] == [None, None] and all(worker.node for worker in workers)
        pool.resize(3)
        pool.map(work.slow_square, range(30), 1)
        until(lambda: len(pool.workers()) == 3, "a third worker")
        pool.resize(1)
        until(lambda: len(pool.workers()) == 1, "one worker")
        assert pool.map(abs, range(-3, 0)) == [3, 2, 1]
    pool.join()


def test_an_executor_and_joblib(backend):
    joblib = pytest.importorskip("joblib")
    from forklift.integrations.joblib import end_pools

    with forklift.Executor(2, backend=backend) as executor:
        assert executor.submit(pow, 2, 5).result(120) == 32
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
    forklift.register_joblib()
    with joblib.parallel_config("forklift", n_jobs=2, cluster=backend):
        assert joblib.Parallel()(joblib.delayed(pow)(i, 2) for i in range(9)) == [i * i for i in range(9)]
    end_pools()


def test_progress(pool):
    seen: list[tuple[int, int | None]] = []
    pool.map(abs, range(10), 2, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 10) and seen[-1] == (10, 10)


# Nodes -------------------------------------------------------------------------------------------------------------


class DaskOfProcesses:
    """A scheduler and two workers, each started as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.file = folder / "scheduler.json"
        self.start("scheduler", "--port", "0", "--no-dashboard")
        until(self.address, "a scheduler", 120)
        for _ in range(2):
            self.start("worker", "--nthreads", "2", "--no-nanny", "--no-dashboard", "--memory-limit", "0")

    def start(self, kind: str, *options: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "dask", kind, "--host", "127.0.0.1", *options]
        command += ["--scheduler-file", str(self.file)]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes.append(subprocess.Popen(command, **quiet))

    def address(self) -> str:
        import json

        try:
            address: str = json.loads(self.file.read_text())["address"]
        except (FileNotFoundError, ValueError):  # Not there, or not written to its end.
            return ""
        return address

    def wait(self) -> None:
        """Wait until both workers are there."""
        import distributed

        with distributed.Client(self.address(), set_as_default=False) as client:
            until(lambda: len(client.sync(client.scheduler.ncores)) == 2, "workers", 120)

    def kill_a_node(self) -> None:
        self.processes[-1].send_signal(signal.SIGKILL)

    def end(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


class RayOfNodes:
    """A node more than the cluster has, which can be killed."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.node = cluster.add_node(num_cpus=8, object_store_memory=100 << 20)
        cluster.wait_for_nodes()

    def kill_a_node(self) -> None:
        self.cluster.remove_node(self.node, allow_graceful=False)

    def end(self) -> None:
        if self.node in self.cluster.worker_nodes:
            self.cluster.remove_node(self.node, allow_graceful=False)


@pytest.fixture
def mortal(
    implementation: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Generator[tuple[Any, Any, int], None, None]:
    """A cluster of which a node can be killed, what to give to `backend=`, and how many workers reach each node."""
    if implementation == "ray":
        nodes: Any = RayOfNodes(request.getfixturevalue("ray_cluster"))
        yield nodes, "ray", 3
        nodes.end()
        return
    nodes = DaskOfProcesses(tmp_path)
    try:
        nodes.wait()
        yield nodes, nodes.address(), 2
    finally:
        nodes.end()


def killed_midway(nodes: Any, seconds: float = 0.7) -> threading.Timer:
    timer = threading.Timer(seconds, nodes.kill_a_node)
    timer.start()
    return timer


def staff_everywhere(pool: forklift.Pool, nodes: int) -> None:
    """Have workers on so many nodes: agents do not all start at the same moment."""
    until(lambda: len({node for node, _ in pool.map(work.seat, range(40), 1)}) == nodes, "all agents", 120)


def test_a_node_that_dies_in_the_middle(mortal):
    nodes, backend, workers = mortal
    with forklift.Pool(workers, backend=backend) as pool:
        staff_everywhere(pool, workers)
        timer = killed_midway(nodes)
        assert pool.map(work.slow_square, range(100), retries=2) == [i * i for i in range(100)]
        timer.join()
        assert pool.map(abs, range(-20, 0)) == list(range(20, 0, -1))
        assert pool.report().staff["deaths"] == 0
    pool.join()


def test_what_a_node_had_in_hand_is_reported(mortal):
    nodes, backend, workers = mortal
    with forklift.Pool(workers, backend=backend) as pool:
        staff_everywhere(pool, workers)
        timer = killed_midway(nodes)
        results = pool.map(work.slow_square, range(100), 2, on_error="return")
        timer.join()
    pool.join()
    lost = [i for i, result in enumerate(results) if isinstance(result, BaseException)]
    assert 1 <= len(lost) <= 2 * workers
    for i in lost:
        error = results[i]
        assert isinstance(error, forklift.WorkerDied) and error.index == i
        assert "node" in str(error) and "was lost" in str(error)
    assert all(result == i * i for i, result in enumerate(results) if i not in lost)


def test_results_that_were_left_on_a_node_that_dies(mortal):
    nodes, backend, workers = mortal
    count = 30
    with forklift.Pool(workers, backend=backend) as pool:
        staff_everywhere(pool, workers)
        results = pool.imap(work.blob, range(count), 1)
        assert next(results)[0] == 0
        until(lambda: len(pool._cluster.absent.wholes()) >= 8, "replies stay on the nodes")
        nodes.kill_a_node()
        lost = []
        for i in range(1, count):
            try:
                assert next(results)[0] == i
            except forklift.WorkerDied as error:
                assert error.index == i and "lost" in str(error)
                lost.append(i)
        assert lost and len(lost) < count - 1
        assert pool.map(abs, [-1]) == [1]
    pool.join()


def test_a_cluster_that_dies_ends_the_call(implementation, tmp_path):
    if implementation != "dask":
        pytest.skip("a Ray that dies ends this process's own connection, which other tests need")
    nodes = DaskOfProcesses(tmp_path)
    try:
        nodes.wait()
        with forklift.Pool(2, backend=nodes.address()) as pool:
            pool.map(abs, range(4))
            for process in nodes.processes:
                process.kill()
            begun = time.monotonic()
            with pytest.raises(forklift.ForkliftError):
                pool.map(work.slow_square, range(50))
            assert time.monotonic() - begun < 90, "it should be given up within a bounded time"
    finally:
        nodes.end()


def test_nothing_remains_of_a_head_that_is_killed(mortal, scripts):
    """Its agents, and their workers, end with it."""
    _, backend, workers = mortal
    if backend == "ray":
        backend = ray_address()
    script = f"""
import os, signal, sys, time
import forklift
if {backend!r}.startswith("tcp"):
    from forklift.backends import dask
    backend = {backend!r}
else:
    import ray
    ray.init(address={backend!r}, configure_logging=False, log_to_driver=False)
    backend = "ray"
pool = forklift.Pool({workers}, backend=backend)
print(*[pid for _, pid in pool.map(lambda _: (time.sleep(0.05), os.getpid()), range(30), 1)], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = {int(pid) for pid in done.stdout.split()}
    assert pids
    if str(backend).startswith("tcp"):
        return  # Agents of Dask have a lease, which a test would wait too long for: see the next one.
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the end of all workers", 120)


def ray_address() -> str:
    import ray

    address: str = ray.get_runtime_context().gcs_address
    return address


def test_an_agent_without_a_head_ends(implementation, monkeypatch):
    if implementation != "dask":
        pytest.skip("Ray ends actors with their owner")
    from forklift import _zygote
    from forklift.backends import dask
    from forklift.backends.agent import Agent, Terms

    monkeypatch.setattr(dask, "LEASE_SECONDS", 0.2)
    agent = Agent("here", 1, Terms(_zygote.preparation(), None, None, None))
    dask._Lease(agent)
    until(agent._native.is_over, "the end of the agent", 120)


# The cluster itself ------------------------------------------------------------------------------------------------


@pytest.mark.untidy("Dask's client, which could not connect, keeps descriptors of its own for a while")
def test_what_cannot_be_reached_is_said_soon():
    with pytest.raises(forklift.ForkliftError, match="Dask cannot reach tcp://127.0.0.1:9"):
        forklift.Pool(2, backend="tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        ("rya", ValueError),
        ("http://a:1", ValueError),
        ("tcp://", ValueError),
        (7, TypeError),
        (None, TypeError),
    ],
)
def test_bad_backends_are_refused_by_name(backend, kind):
    with pytest.raises(kind, match=r"^backend must be 'local', 'ray'"):
        forklift.Pool(2, backend=backend)


def test_options_of_this_machine_are_refused():
    with pytest.raises(ValueError, match="excludes backend"):
        forklift.Pool(2, context="fork", backend="ray")
    with pytest.raises(ValueError, match=r"inherit=True .* on other machines"):
        forklift.Pool(2, inherit=True, backend="dask")


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("dask", "distributed")])
def test_an_engine_that_is_not_installed(engine, module):
    script = f"""
import sys
sys.modules[{module!r}] = None
import forklift
try:
    forklift.Pool(2, backend={engine!r})
except ImportError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert f"pip install 'forklift[{engine}]'" in said.stdout


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        (Hello("0.0.1", python_version(), 1), "has forklift 0.0.1"),
        (Hello(_native.VERSION, "CPython 2.7", 1), "has CPython 2.7"),
    ],
)
def test_versions_that_differ(hello, words):
    with pytest.raises(Lost, match=words):
        _check(hello, Node("key", "there", 1))


def test_a_full_store_is_named(implementation):
    if implementation != "ray":
        pytest.skip("only Ray has a store")
    import ray

    from forklift.backends.ray import RayEngine

    error = RayEngine.explain(RayEngine.__new__(RayEngine), ray.exceptions.ObjectStoreFullError("no room"))
    assert isinstance(error, forklift.MemoryLimitExceeded) and "object store" in str(error)


def test_a_dask_of_its_own():
    """Without a client there is one within this process, for as long as the pool is."""
    script = """
import forklift
with forklift.Pool(2, backend="dask") as pool:
    print(pool.map(lambda i: i * i, range(5)), {worker.node[:9] for worker in pool.workers()})
"""
    said = subprocess.run(
        [sys.executable, "-W", "error", "-"],
        input=script,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert said.stdout == "[0, 1, 4, 9, 16] {'inproc://'}\n" and said.stderr == ""


@pytest.mark.usefixtures("alone")
def test_an_agent_that_dies_on_a_living_node_is_succeeded(Pool):
    """With Ray an agent is a process of its own; with Dask the worker's, whose nanny starts another."""
    with Pool(1, retries=2) as pool:
        (counters,) = pool.map(abs, [1]) and pool._cluster.counters()
        assert counters["births"] >= 1
        agent = living(pool)[0].ask("hello").pid
        killer = threading.Timer(0.3, lambda: psutil.Process(agent).kill())
        killer.start()
        assert pool.map(work.slow_square, range(30)) == [i * i for i in range(30)]
        killer.join()
        until(lambda: pool.map(abs, [-3]) == [3], "an answer", 120)
    pool.join()


@pytest.mark.usefixtures("alone")
def test_an_agent_that_dies_with_nothing_to_do_costs_nothing(Pool, tmp_path):
    """No item is blamed, nobody waits for a node that is gone, and there are as many workers as before."""
    with Pool(2) as pool:
        assert pool.map(abs, range(-9, 0)) == [*range(9, 0, -1)]
        until(lambda: len(living(pool)) == 2, "both agents", 120)
        psutil.Process(living(pool)[0].ask("hello").pid).kill()
        until(lambda: len(living(pool)) == 1, "the news", 120)
        gate, opened = tmp_path / "gate", tmp_path / "open"
        opened.touch()
        assert list(pool.imap(abs, range(-1, 1))) == [1, 0]
        results = pool.imap_unordered(work.wait_for, [str(gate), str(opened)], chunksize=1)
        assert results.next(60) == str(opened)
        gate.touch()
        assert results.next(60) == str(gate)
    pool.join()


def living(pool):
    """The agents that are not known to be dead."""
    return pool._cluster._remotes()


def test_ctrl_c_is_answered_and_leaves_the_pool_usable():
    script = """
import signal, threading, time, os
import forklift

def wait(i):
    time.sleep(600)

with forklift.Pool(2, backend="dask") as pool:
    pool.map(abs, range(4))
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        pool.map(wait, range(4))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(pool.map(abs, range(-3, 0)), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "interrupted\n[3, 2, 1]\n", done.stderr
    assert "Traceback" not in done.stderr and done.returncode == 0


def test_what_a_cancelled_call_has_sent_is_dropped_on_the_nodes(Pool, tmp_path):
    """Also what had not been answered for when the call was cancelled."""
    table = np.ones(1 << 20)
    begun, never = tmp_path / "begun", str(tmp_path / "never")
    with Pool(1) as pool:
        pool.map(abs, range(2))
        (post,) = pool._cluster._posts.values()
        call = pool.map_async(lambda path: (begun.touch(), work.wait_for(path), table), [never])
        until(begun.exists, "the call")
        assert post.remote.ask("values") == 1, (
            "the function; that of the call before went with this one's arrival"
        )
        call.cancel()
        until(call.ready, "its end")
        assert pool.map(abs, [-1]) == [1]
        until(lambda: post.remote.ask("values") == 1, "an agent with the function of the last call alone")
    pool.join()
