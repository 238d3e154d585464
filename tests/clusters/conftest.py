"""Real clusters on loopback, one for a test process, with two nodes each; and the pools that use them."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Generator
from typing import Any

import pytest

import forklift
from tests.conftest import kept_clean
from tests.patience import until

BACKENDS = ("ray", "dask")

#: All tests of a kind of cluster run in one process, which starts it once; but see below.
EACH = [
    pytest.param(kind, marks=[pytest.mark.xdist_group(kind), pytest.mark.timeout(310)]) for kind in BACKENDS
]

#: Cores that each node says it has: tests open several pools at a time.
CORES = 8


#: Conformance tests that are of one machine's processes, and why.
EXCLUDED = {
    "test_shared_things_in_initargs": "locks and queues of multiprocessing are inherited, by processes of this machine",
    "test_shared_value_is_shared": "multiprocessing's shared memory is of this machine",
    "test_shared_queue_is_shared": "a queue of multiprocessing is inherited, by processes of this machine",
    "test_environment": "nodes have an environment of their own",
    "test_process_objects": "the parent of a worker is its node's agent",
    "test_names_differ": "each node counts its workers by itself",
}


def kind_of(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    kind = None if callspec is None else callspec.params.get("implementation")
    return kind if kind in BACKENDS else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Conformance tests of each kind run in a process of their own, beside the others: half of a test is waiting."""
    for item in items:
        function = getattr(item, "function", None)
        if kind_of(item) and getattr(function, "__module__", "").startswith("tests.conformance"):
            item.add_marker(pytest.mark.xdist_group("conformance"))


@pytest.fixture(autouse=True)
def clean_house(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """As for all tests; but the cluster is there before, and what it keeps is its own."""
    kind = kind_of(request.node)
    if kind is not None and request.node.originalname in EXCLUDED:
        pytest.skip(EXCLUDED[request.node.originalname])
    if kind is not None:
        request.getfixturevalue(f"{kind}_cluster")
    if "pool" in request.fixturenames:
        yield  # It is kept for the next test.
    else:
        yield from kept_clean(request, engine=kind is not None)


def start_ray() -> Generator[Any, None, None]:
    ray = pytest.importorskip("ray", reason="Ray has no wheel for this interpreter", exc_type=ImportError)
    from ray.cluster_utils import Cluster

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_RAYLET_START_WAIT_TIME_S"] = "60"
    # Other tests fill the machine's memory on purpose, and Ray would kill our agents for it.
    os.environ["RAY_MEMORY_MONITOR_REFRESH_MS"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of Ray's own about its future.
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": CORES, "object_store_memory": 200 << 20, "include_dashboard": False},
        )
        cluster.add_node(num_cpus=CORES, object_store_memory=200 << 20)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, configure_logging=False, log_to_driver=False)
    try:
        yield cluster
    finally:
        end_kept("ray")
        ray.shutdown()
        cluster.shutdown()


def start_dask() -> Generator[Any, None, None]:
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=CORES, processes=True, dashboard_address="127.0.0.1:0", memory_limit=0
    )
    client = distributed.Client(cluster, set_as_default=False)
    try:
        yield client
    finally:
        end_kept("dask")
        client.close()
        cluster.close()


@pytest.fixture(scope="session")
def ray_cluster() -> Generator[Any, None, None]:
    """A Ray of two nodes, to which this process is connected."""
    yield from start_ray()


@pytest.fixture(scope="session")
def dask_cluster() -> Generator[Any, None, None]:
    """A client of a Dask with two workers, each a process."""
    yield from start_dask()


@pytest.fixture(params=EACH)
def implementation(request: pytest.FixtureRequest) -> str:
    """The back end under test, for the tests of `tests.conformance`."""
    return request.param


@pytest.fixture
def backend(implementation: str, request: pytest.FixtureRequest) -> Any:
    """What to give to `forklift.Pool(backend=...)`."""
    cluster = request.getfixturevalue(f"{implementation}_cluster")
    return "ray" if implementation == "ray" else cluster


@pytest.fixture
def Pool(backend: Any) -> Callable[..., Any]:
    """A class of pools on a cluster; without a number, of two workers."""

    def make(processes: int | None = 2, *arguments: Any, **options: Any) -> forklift.Pool:
        return forklift.Pool(processes, *arguments, backend=backend, **options)

    return functools.wraps(forklift.Pool)(make)


#: Pools of two workers, by back end: starting one takes longer than most tests.
_kept: dict[str, forklift.Pool] = {}


def end_kept(kind: str) -> None:
    pool = _kept.pop(kind, None)
    if pool is not None:
        pool.terminate()
        pool.join()


@pytest.fixture
def alone(implementation: str, request: pytest.FixtureRequest) -> None:
    """No kept pool, which would replace its workers while the test kills nodes; and all nodes are there.

    Of Dask, whose nannies start again what a test before killed. A pool that finds one node has all its seats there.
    """
    end_kept(implementation)
    if implementation == "dask":
        client = request.getfixturevalue("dask_cluster")
        until(lambda: len(client.sync(client.scheduler.ncores)) == 2, "both workers of Dask")


@pytest.fixture
def pool(Pool: Callable[..., Any], implementation: str) -> forklift.Pool:
    """A pool of two workers, of which other tests have made use before."""
    if implementation not in _kept or _kept[implementation]._state != "RUN":
        _kept[implementation] = Pool(2)
    return _kept[implementation]
