"""What the user's own process may do while a pool lives: handle signals, fork, replace itself, use a notebook."""

from __future__ import annotations

import os
import signal

import pytest

from tests import house
from tests.patience import until

HANDLED = {
    "SIGALRM": "signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)",
    "SIGUSR1": "threading.Thread(target=send, daemon=True).start()",
    "SIGCHLD": "threading.Thread(target=bear, daemon=True).start()",
}


@pytest.mark.parametrize(("name", "begin"), HANDLED.items(), ids=HANDLED)
def test_signals_that_the_program_handles(scripts, name, begin):
    """They come by the hundred during calls of every kind; handlers run, and nothing is disturbed."""
    ended = scripts.run(f"""
    import signal, subprocess, threading
    import forklift
    count = 0
    def handle(number, frame):
        global count
        count += 1
    def send():
        while True:
            os.kill(os.getpid(), signal.{name})
            time.sleep(0.002)
    def bear():
        while True:
            subprocess.run(["true"])
    signal.signal(signal.{name}, handle)
    def double(x):
        time.sleep(0.005)
        return x * 2
    with forklift.Pool(2) as pool:
        {begin}
        expected = [2 * x for x in range(40)]
        assert pool.map(double, range(40), 1) == expected
        assert list(pool.imap(double, iter(range(40)))) == expected
        assert pool.map_async(double, range(40)).get(120) == expected
        assert [len(b) for b in pool.map(bytes, [2_000_000] * 6)] == [2_000_000] * 6
        result = pool.map_async(double, range(40))
        result.wait(120)
        assert result.get() == expected
        pool.close()
        pool.join()
    assert count > 0
    signal.signal(signal.{name}, signal.SIG_IGN)
    print("end")
    os._exit(0 if sys.stdout.flush() is None else 1)
    """)
    assert ended.check() == "end\n"


def test_a_handler_that_raises_ends_the_call_only(scripts):
    """As Ctrl-C does: the exception comes out of the call, and the pool is ready for the next."""
    ended = scripts.run("""
    import signal
    import forklift
    class Enough(Exception):
        pass
    def handle(number, frame):
        raise Enough
    signal.signal(signal.SIGALRM, handle)
    with forklift.Pool(2) as pool:
        for call in (
            lambda: pool.map(mark_and_sleep, [1000] * 4, 1),
            lambda: list(pool.imap(mark_and_sleep, [1000] * 4)),
            lambda: pool.apply(mark_and_sleep, (1000,)),
            lambda: pool.map_async(mark_and_sleep, [1000] * 4, 1).get(),
        ):
            for name in os.listdir(MARKS):
                os.unlink(os.path.join(MARKS, name))
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            try:
                call()
            except Enough:
                print("enough")
            if "map_async" in call.__code__.co_names:
                break  # that one goes on; the pool is ended with it
            assert pool.map(abs, range(-20, 0)) == list(range(20, 0, -1))
    pool.join()
    """)
    assert ended.check() == "enough\n" * 4


@pytest.mark.parametrize("context", [None, "fork", "spawn"])
@pytest.mark.parametrize(
    "handler",
    ["signal.SIG_IGN", "lambda *_: reap()"],
    ids=["children ignored", "a handler that reaps all children"],
)
def test_children_that_somebody_else_reaps(scripts, context, handler):
    """Exit codes are lost then, and nothing else."""
    ended = scripts.run(f"""
    import signal
    import forklift
    def reap():
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
    if __name__ == "__main__":
        signal.signal(signal.SIGCHLD, {handler})
        for _ in range(2):
            with forklift.Pool(2, context={context!r}) as pool:
                assert pool.map(abs, range(-100, 0)) == list(range(100, 0, -1))
                results = pool.map(os._exit, [3], on_error="return")
                assert isinstance(results[0], forklift.WorkerDied) and results[0].index == 0
                assert pool.map(abs, range(-100, 0)) == list(range(100, 0, -1))
            pool.join()
        print("end")
    """)
    assert ended.check() == "end\n"


def test_the_program_replaces_itself(scripts):
    """os.execv closes what the workers' lives hang on: they end, and the new program starts afresh."""
    script = scripts.start("""
    import forklift
    if len(sys.argv) > 2:
        await_mark("seen")
        with forklift.Pool(2) as pool:
            print("after", pool.map(abs, [-1, -2]))
        pool.join()
        sys.exit()
    pool = forklift.Pool(2)
    result = pool.map_async(mark_and_sleep, [1000] * 4, 1)
    await_mark("go")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.argv, "again"])
    """)
    workers = script.begun(2)
    (script.marks / "go").touch()
    until(lambda: script.living() == [script.process.pid], f"only the new program lives, not {workers}")
    (script.marks / "seen").touch()
    assert script.run().check() == "after [1, 2]\n"


def test_a_fork_may_not_use_its_parents_pool(scripts):
    """There is nobody in the child to do the work: told at once, and the parent's pool is as it was."""
    ended = scripts.run(
        """
        import forklift
        pool = forklift.Pool(2)
        pool.map(abs, [-1])
        result = pool.map_async(abs, [-1])
        result.wait()
        pid = os.fork()
        if pid == 0:
            told = []
            for call in (
                lambda: pool.map(abs, [-1]),
                lambda: pool.apply(abs, (-1,)),
                lambda: pool.apply_async(abs, (-1,)).get(120),
                lambda: list(pool.imap(abs, [-1])),
            ):
                try:
                    told.append(call())
                except Exception as error:
                    told.append("process" in str(error) or repr(error))
            print(told, flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print(pool.map(abs, [-1, -2]))
        pool.close()
        pool.join()
        """,
        options=("-W", "ignore::DeprecationWarning"),
    )
    assert ended.check() == "[True, True, True, True]\n[1, 2]\n"


@pytest.mark.parametrize(
    "sent", [signal.SIGSEGV, signal.SIGABRT, signal.SIGQUIT, signal.SIGHUP, signal.SIGXCPU]
)
def test_nothing_survives_the_parent_whatever_ends_it(scripts, sent):
    script = scripts.start(f"""
    import forklift, resource, signal
    signal.signal({int(sent)}, signal.SIG_DFL)  # A shell has programs in its background ignore some.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pool = forklift.Pool(2)
    pool.map(mark_and_sleep, [1000] * 4)
    """)
    workers = script.begun(2)
    os.kill(script.process.pid, sent)
    assert script.run().returncode == -sent
    script.gone(workers)


NOTEBOOK = """
import forklift, os, pathlib, time
def square(x):
    return x * x
def sleep(seconds):
    pathlib.Path(FOLDER, f"at-{os.getpid()}").touch()
    time.sleep(seconds)
pool = forklift.Pool(2)
print(pool.map(square, range(5)))
"""


def test_an_interrupted_iterator_that_is_kept_gives_its_workers_back(scripts):
    """Notebooks and debuggers keep the traceback, and with it the iterator."""
    script = scripts.start("""
    import forklift
    with forklift.Pool(2) as pool:
        results = pool.imap(mark_and_sleep, [1000] * 8)
        try:
            next(results)
        except KeyboardInterrupt as error:
            kept = error
        print(pool.map(abs, [-1, -2]))
        try:
            next(results)
        except forklift.CancelledError:
            print("cancelled")
    pool.join()
    """)
    script.begun(2)
    script.interrupt(group=True)
    assert script.run().check() == "[1, 2]\ncancelled\n"


@pytest.mark.untidy("the client's sockets go with its garbage; the kernel and its workers are looked at here")
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")
def test_a_notebook(tmp_path):
    """Functions of cells, and the interrupt button: one KeyboardInterrupt, and the pool is ready for the next cell."""
    client = pytest.importorskip("jupyter_client")
    manager, kernel = client.manager.start_new_kernel(kernel_name="python3", cwd=str(tmp_path))

    def run(code, while_running=lambda: None):
        said, message = [], kernel.execute(code)
        while_running()
        while True:
            answer = kernel.get_iopub_msg(timeout=120)
            if answer["parent_header"].get("msg_id") != message:
                continue
            content = answer["content"]
            if answer["msg_type"] == "stream":
                said.append((content["name"], content["text"]))
            elif answer["msg_type"] == "error":
                said.append(("error", content["ename"]))
            elif answer["msg_type"] == "status" and content["execution_state"] == "idle":
                return said

    def interrupt():
        until(lambda: len(list(tmp_path.glob("at-*"))) == 2, "both workers are at it")
        manager.interrupt_kernel()
        for path in tmp_path.glob("at-*"):
            path.unlink()

    try:
        assert run(f"FOLDER = {str(tmp_path)!r}\n{NOTEBOOK}") == [("stdout", "[0, 1, 4, 9, 16]\n")]
        for call in ("pool.map(sleep, [1000] * 4, 1)", "list(pool.imap(sleep, [1000] * 4, 1))"):
            assert run(call, interrupt) == [("error", "KeyboardInterrupt")]
            assert run("print(pool.map(lambda x: square(x) + 1, [2, 3]))") == [("stdout", "[5, 10]\n")]
        assert run("def square(x):\n    return 'new'\nprint(pool.map(square, [1]))") == [
            ("stdout", "['new']\n")
        ]
        ((_, text),) = run("print(os.getpid(), *(member.pid for member in pool.workers()))")
        pids = [int(word) for word in text.split()]
        assert len(pids) == 3
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)
    until(lambda: not any(map(house.alive, pids)), "the kernel and its workers have gone")


def test_the_end_of_a_pool_waits_for_no_import(scripts, tmp_path):
    """The fork server imports what the function's workers may need, for those to come. With the pool it leaves, in the
    middle of it, as a program leaves; also if the workers have hung up and it has not told what became of them."""
    (tmp_path / "slow.py").write_text("""
import atexit, os, pathlib, time

def double(x):
    return x * 2

here = pathlib.Path(__file__).parent
if os.getppid() == int(os.environ["PROGRAM"]):
    atexit.register((here / "left").touch)
    (here / "begun").touch()
    time.sleep(600)
""")
    ended = scripts.run(f"""
    import pathlib
    import forklift
    os.environ["PROGRAM"] = str(os.getpid())
    here = pathlib.Path({str(tmp_path)!r})
    sys.path.insert(0, str(here))
    from slow import double
    with forklift.Pool(2) as pool:
        pool.map(abs, range(4), 1)
        while any(worker.state == "starting" for worker in pool.workers()):
            time.sleep(0.01)  # Whoever is born later has the module.
        print(pool.map(double, range(3)))
        while not (here / "begun").exists():
            time.sleep(0.01)
    pool.join()
    print((here / "left").exists())
    """)
    assert ended.check() == "[0, 2, 4]\nTrue\n"
