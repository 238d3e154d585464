"""The joblib back end: all forms of `Parallel`, what crosses how often, and what remains after failures."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config

import forklift
from forklift.integrations import joblib as integration
from tests.patience import until

from .tasks import die, fail_at, first_then_write, mark_and_sleep, square, tell, told, variable, worker


def kept_pool():
    (kept,) = integration._pools
    return kept.pool


# Forms of Parallel -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize("pre_dispatch", ["2*n_jobs", "all", 3])
def test_results_are_those_of_the_loop_in_order(backend, batch_size, pre_dispatch):
    parallel = Parallel(2, backend=backend, batch_size=batch_size, pre_dispatch=pre_dispatch)
    assert parallel(delayed(square)(number) for number in range(200)) == [n * n for n in range(200)]


def test_tasks_run_in_workers_that_are_kept_between_calls(backend):
    first = set(Parallel(2, backend=backend)(delayed(worker)() for _ in range(20)))
    again = set(Parallel(2, backend=backend)(delayed(worker)() for _ in range(20)))
    assert os.getpid() not in first | again
    assert len(first | again) <= 2
    assert kept_pool()._counters()["births"] == 2


def test_another_number_of_workers_replaces_those_that_are_idle(backend):
    Parallel(2, backend=backend)(delayed(worker)() for _ in range(8))
    Parallel(3, backend=backend)(delayed(worker)() for _ in range(8))
    assert kept_pool()._processes == 3


@pytest.mark.parametrize(("n_jobs", "workers"), [(-1, 0), (-2, -1), (3, 3), (1, 1), (None, 1)])
def test_n_jobs_means_what_it_means_to_joblib(backend, n_jobs, workers):
    expected = workers if workers > 0 else max(joblib.cpu_count() + workers, 1)
    assert Parallel(n_jobs, backend=backend)._effective_n_jobs() == expected
    assert Parallel(n_jobs, backend=backend)(delayed(square)(n) for n in range(5)) == [0, 1, 4, 9, 16]


def test_n_jobs_of_zero_is_refused(backend):
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(0, backend=backend)(delayed(square)(n) for n in range(5))


def test_one_job_runs_here(backend):
    assert Parallel(1, backend=backend)(delayed(worker)() for _ in range(3)) == [os.getpid()] * 3
    assert not integration._pools


def test_generators_give_results_in_order_or_as_they_come(backend):
    ordered = Parallel(2, backend=backend, return_as="generator")(delayed(square)(n) for n in range(50))
    assert list(ordered) == [n * n for n in range(50)]
    unordered = Parallel(2, backend=backend, return_as="generator_unordered")(
        delayed(square)(n) for n in range(50)
    )
    assert sorted(unordered) == [n * n for n in range(50)]


def test_an_unordered_generator_does_not_wait_for_a_slow_task(backend, tmp_path):
    gate = tmp_path / "gate"

    def wait_or_square(number):
        while number == 0 and not gate.exists():
            time.sleep(0.005)
        return number

    found = Parallel(2, backend=backend, return_as="generator_unordered", batch_size=1)(
        delayed(wait_or_square)(n) for n in range(10)
    )
    first = next(found)
    gate.touch()
    assert first != 0
    assert sorted([first, *found]) == list(range(10))


def test_a_generator_that_is_dropped_cancels_its_tasks_and_leaves_the_workers_usable(backend, tmp_path):
    found = Parallel(2, backend=backend, return_as="generator", batch_size=1)(
        delayed(mark_and_sleep)(tmp_path, seconds) for seconds in (0, 1000, 1000, 1000)
    )
    next(found)
    until(lambda: list(tmp_path.iterdir()), "a task at work")
    with pytest.warns(UserWarning, match="cancelled"):
        del found
    assert Parallel(2, backend=backend)(delayed(square)(n) for n in range(5)) == [0, 1, 4, 9, 16]


def test_tasks_are_taken_only_as_they_are_dispatched(backend, tmp_path):
    taken = []
    gate = tmp_path / "gate"

    def wait(number):
        while not gate.exists():
            time.sleep(0.005)
        return number

    def tasks():
        for number in range(30):
            taken.append(number)
            yield delayed(wait)(number)

    found = Parallel(2, backend=backend, batch_size=1, pre_dispatch=4, return_as="generator")(tasks())
    assert len(taken) == 4
    gate.touch()
    assert list(found) == taken == list(range(30))


def test_functions_and_classes_that_only_exist_here_can_be_tasks(backend):
    class Adder:
        def __init__(self, more):
            self.more = more

        def __call__(self, number):
            return number + self.more

    assert Parallel(2, backend=backend)(delayed(Adder(3))(n) for n in range(4)) == [3, 4, 5, 6]
    assert Parallel(2, backend=backend)(delayed(lambda n: -n)(n) for n in range(4)) == [0, -1, -2, -3]


def test_a_parallel_that_is_used_as_a_context_runs_several_calls(backend):
    with Parallel(2, backend=backend) as parallel:
        for offset in range(3):
            assert parallel(delayed(square)(n + offset) for n in range(9)) == [
                (n + offset) ** 2 for n in range(9)
            ]
    assert kept_pool()._counters()["births"] == 2


def inner_sum(numbers):
    return sum(Parallel(2)(delayed(square)(n) for n in numbers))


def inner_forklift(numbers):
    forklift.register_joblib()
    return sum(Parallel(2, backend="forklift")(delayed(square)(n) for n in numbers))


@pytest.mark.parametrize("inner", [inner_sum, inner_forklift])
def test_calls_can_be_nested(backend, inner):
    found = Parallel(2, backend=backend)(delayed(inner)(range(n)) for n in (3, 4))
    assert found == [5, 14]


def test_tasks_may_come_from_a_call_of_parallel(backend):
    with parallel_config(backend, n_jobs=2):
        found = Parallel(batch_size=1, pre_dispatch=2)(
            delayed(sum)(Parallel()(delayed(square)(n) for n in range(count))) for count in range(8)
        )
    assert found == [sum(n * n for n in range(count)) for count in range(8)]


def test_threads_share_the_workers(backend):
    found = {}

    def call(name):
        found[name] = Parallel(2, backend=backend)(delayed(square)(n) for n in range(30))

    threads = [threading.Thread(target=call, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [n * n for n in range(30)] for name in range(4)}
    assert kept_pool()._counters()["births"] == 2


def test_inner_max_num_threads_is_what_libraries_in_workers_see(backend):
    with parallel_config(backend, n_jobs=2, inner_max_num_threads=3):
        found = Parallel()(
            delayed(variable)(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        )
    assert found == ["3", "3", "3"]


def test_options_of_pools_can_be_given(backend):
    with parallel_config(backend, n_jobs=2, initializer=tell, initargs=("hello",), memory_limit="1GB"):
        assert Parallel()(delayed(told)() for _ in range(3)) == ["hello"] * 3


def test_an_unknown_option_is_refused_by_name(backend):
    with parallel_config(backend, n_jobs=2, colour="red"), pytest.raises(TypeError, match="colour"):
        Parallel()(delayed(square)(n) for n in range(3))
    assert Parallel(2, backend=backend)(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_an_instance_needs_no_registration():
    backend = integration.ForkliftBackend()
    assert Parallel(2, backend=backend)(delayed(square)(n) for n in range(5)) == [0, 1, 4, 9, 16]
    integration.end_pools()


def test_workers_end_when_they_have_been_idle(backend):
    with parallel_config(backend, n_jobs=2, idle_worker_timeout=0.2):
        pids = set(Parallel()(delayed(worker)() for _ in range(8)))
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the idle workers to end")
    assert not integration._pools


# Failures --------------------------------------------------------------------------------------------------------


def test_an_exception_ends_the_call_and_names_the_task(backend):
    with pytest.raises(ValueError, match="no 5") as caught:
        Parallel(2, backend=backend, batch_size=1)(delayed(fail_at)(n, 5) for n in range(20))
    assert "fail_at" in str(caught.value.__cause__)
    assert caught.value.__notes__ == ["forklift: raised by task 5 of this call of Parallel"]
    assert Parallel(2, backend=backend)(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_an_exception_stops_tasks_that_run(backend, tmp_path):
    tasks = [delayed(mark_and_sleep)(tmp_path, 1000), delayed(fail_at)(1, 1)]
    with pytest.raises(ValueError, match="no 1"):
        Parallel(2, backend=backend, batch_size=1)(tasks)
    for pid in (int(entry.name) for entry in tmp_path.iterdir()):
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "the worker that slept to be gone")


def test_a_task_that_takes_longer_than_the_timeout_ends_the_call(backend, tmp_path):
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(2, backend=backend, timeout=0.3)(delayed(mark_and_sleep)(tmp_path, 1000) for _ in range(2))
    assert Parallel(2, backend=backend)(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_a_worker_that_is_killed_is_named_and_replaced(backend):
    with pytest.raises(forklift.WorkerDied, match="SIGKILL") as caught:
        Parallel(2, backend=backend, batch_size=1)(delayed(die)(n) for n in range(10))
    assert caught.value.index == 3
    assert Parallel(2, backend=backend)(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_what_cannot_be_sent_is_named(backend):
    with pytest.raises(forklift.EncodeError) as caught:
        Parallel(2, backend=backend, batch_size=1)([delayed(square)(1), delayed(square)(threading.Lock())])
    assert caught.value.path == "tasks[0][1][0]"
    assert Parallel(2, backend=backend)(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_what_the_tasks_raise_as_they_are_made_is_raised(backend):
    def tasks():
        yield from (delayed(square)(n) for n in range(8))
        raise KeyError("made badly")

    with pytest.raises(KeyError, match="made badly"):
        Parallel(2, backend=backend)(tasks())


def test_ctrl_c_is_answered_and_the_workers_can_be_used_again(scripts):
    script = scripts.start(
        """
        import forklift, joblib
        forklift.register_joblib()
        with joblib.parallel_config("forklift", n_jobs=2):
            try:
                joblib.Parallel()(joblib.delayed(mark_and_sleep)(1000) for _ in range(4))
            except KeyboardInterrupt:
                print("interrupted", joblib.Parallel()(joblib.delayed(abs)(n) for n in (-1, -2)))
        """
    )
    script.begun(2)
    script.interrupt(group=True)
    assert script.run().check() == "interrupted [1, 2]\n"


def test_joblib_in_a_fork_of_this_process_has_workers_of_its_own(backend):
    Parallel(2, backend=backend)(delayed(square)(n) for n in range(3))
    pid = os.fork()
    if pid == 0:
        try:
            good = Parallel(2, backend=backend)(delayed(square)(n) for n in range(3)) == [0, 1, 4]
            integration.end_pools()
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert Parallel(2, backend=backend)(delayed(square)(n) for n in range(3)) == [0, 1, 4]


# What crosses ----------------------------------------------------------------------------------------------------

LARGE = 5_000_000  # floats: 40 MB


def copied(backend, tasks, **options):
    """How many bytes were copied for a call, and its results."""
    Parallel(2, backend=backend)(delayed(square)(n) for n in range(3))
    before = kept_pool()._counters()["bytes_copied_in"]
    found = Parallel(2, backend=backend, **options)(tasks)
    return kept_pool()._counters()["bytes_copied_in"] - before, found


def test_an_array_that_all_tasks_hold_crosses_once(backend):
    array = np.arange(LARGE, dtype=float)
    weight, _ = copied(backend, (delayed(first_then_write)(array, n) for n in range(20)))
    assert array.nbytes <= weight < array.nbytes * 1.1
    assert array[0] == 0.0


def test_arrays_within_other_objects_cross_once_too(backend):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.ones((LARGE // 10, 10)))
    holder = {"deep": [{"frame": frame}]}
    weight, found = copied(
        backend, (delayed(lambda h: h["deep"][0]["frame"].shape)(holder) for _ in range(12))
    )
    assert found == [frame.shape] * 12
    assert weight < LARGE * 8 * 1.1


@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
def test_no_task_sees_what_another_wrote(backend, batch_size):
    array = np.zeros(LARGE // 10)
    tasks = (delayed(first_then_write)(array, n) for n in range(40))
    _, found = copied(backend, tasks, batch_size=batch_size)
    assert found == [0.0] * 40


def test_max_nbytes_says_from_which_size_arrays_cross_once(backend):
    array = np.zeros(200_000)  # 1.6 MB
    tasks = [delayed(np.sum)(array) for _ in range(16)]
    assert copied(backend, tasks, batch_size=1, max_nbytes="1M")[0] < array.nbytes * 2.1
    assert copied(backend, tasks, batch_size=1, max_nbytes="2M")[0] >= array.nbytes * 16
    assert copied(backend, tasks, batch_size=1, max_nbytes=None)[0] >= array.nbytes * 16


def test_arrays_in_files_are_not_copied(backend, tmp_path):
    np.save(tmp_path / "array.npy", np.ones(LARGE // 10))
    mapped = np.load(tmp_path / "array.npy", mmap_mode="r")
    weight, found = copied(backend, (delayed(np.sum)(part) for part in (mapped, mapped[10:])))
    assert found == [LARGE // 10, LARGE // 10 - 10]
    assert weight < 100_000


def test_arrays_of_one_task_each_do_not_pile_up(backend):
    """Shared at once for their size, they are dropped with their tasks."""
    tasks = (delayed(first_then_write)(np.full(LARGE, float(n)), n) for n in range(12))
    found = Parallel(2, backend=backend, batch_size=1, pre_dispatch=2)(tasks)
    assert found == [float(n) for n in range(12)]
    assert kept_pool()._counters()["fresh_bytes"] < 8 * LARGE * 8


def test_results_are_writable_and_outlive_the_call(backend):
    found = Parallel(2, backend=backend)(delayed(np.full)(LARGE // 10, float(n)) for n in range(4))
    integration.end_pools()
    for number, array in enumerate(found):
        array += 1
        assert array[-1] == number + 1
