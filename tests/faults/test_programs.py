"""Whole programs: no guard, piped, ending with work pending, forking with a pool open, other start methods."""

from __future__ import annotations

import pytest

VIA = pytest.mark.parametrize("via", ["file", "stdin", "-c"])

NO_GUARD = {
    "function": (
        "def f(x):\n    return x + 1\npool = forklift.Pool(2)\nprint(pool.map(f, [1, 2]))",
        "[2, 3]",
    ),
    "function defined after the pool": (
        "pool = forklift.Pool(2)\npool.map(abs, [1])\ndef f(x):\n    return x + 1\nprint(pool.map(f, [1, 2]))",
        "[2, 3]",
    ),
    "function redefined": (
        "pool = forklift.Pool(2)\n"
        "def f(x):\n    return x + 1\na = pool.map(f, [1, 2])\n"
        "def f(x):\n    return x + 10\nprint(a, pool.map(f, [1, 2]))",
        "[2, 3] [11, 12]",
    ),
    "lambda": ("pool = forklift.Pool(2)\nprint(pool.map(lambda x: x * 2, [1, 2]))", "[2, 4]"),
    "lambda with a global defined later": (
        "f = lambda x: x * factor\npool = forklift.Pool(2)\nfactor = 3\nprint(pool.map(f, [1, 2]))",
        "[3, 6]",
    ),
    "closure": (
        "def make(n):\n    def f(x):\n        return x + n\n    return f\n"
        "pool = forklift.Pool(2)\nprint(pool.map(make(5), [1, 2]), pool.map(make(7), [1, 2]))",
        "[6, 7] [8, 9]",
    ),
    "recursive function": (
        "def fact(n):\n    return 1 if n < 2 else n * fact(n - 1)\n"
        "pool = forklift.Pool(2)\nprint(pool.map(fact, [3, 4]))",
        "[6, 24]",
    ),
    "generator and decorated function": (
        "import functools\n"
        "def loud(f):\n    @functools.wraps(f)\n    def g(*a):\n        return (f.__name__, f(*a))\n    return g\n"
        "@loud\ndef f(x):\n    return x\n"
        "pool = forklift.Pool(2)\nprint(list(pool.imap(f, (i for i in range(2)))))",
        "[('f', 0), ('f', 1)]",
    ),
    "cached function": (
        "import functools\n@functools.cache\ndef f(x):\n    return x + 1\n"
        "pool = forklift.Pool(2)\nprint(pool.map(f, [1, 1, 2]))",
        "[2, 2, 3]",
    ),
    "class": (
        "class Thing:\n    def __init__(self, x):\n        self.x = x\n    def grow(self):\n"
        "        return Thing(self.x + 1)\n"
        "pool = forklift.Pool(2)\nback = pool.map(Thing.grow, [Thing(1), Thing(2)])\n"
        "print(all(isinstance(b, Thing) and type(b) is Thing for b in back), [b.x for b in back])",
        "True [2, 3]",
    ),
    "dataclass, enum, namedtuple": (
        "import dataclasses, enum, typing\n"
        "@dataclasses.dataclass\nclass D:\n    x: int\n"
        "class E(enum.Enum):\n    A = 1\n"
        "class N(typing.NamedTuple):\n    x: int\n"
        "items = [D(1), E.A, N(2)]\n"
        "pool = forklift.Pool(2)\nback = pool.map(lambda x: x, items)\n"
        "print(back == items, back[1] is E.A, [type(a) is type(b) for a, b in zip(back, items)])",
        "True True [True, True, True]",
    ),
    "exception caught by type": (
        "class Oops(Exception):\n    pass\ndef fail(x):\n    raise Oops(x)\n"
        "pool = forklift.Pool(2)\ntry:\n    pool.map(fail, [5])\nexcept Oops as e:\n    print(type(e) is Oops, e.args)",
        "True (5,)",
    ),
    "isinstance in the worker, across calls": (
        "class Thing:\n    pass\ndef make(_):\n    return Thing()\ndef check(t):\n    return type(t) is Thing\n"
        "pool = forklift.Pool(2)\nprint(pool.map(check, pool.map(make, range(4))))",
        "[True, True, True, True]",
    ),
    "global set by the initializer": (
        "value = None\ndef setup(x):\n    global value\n    value = x\ndef read(_):\n    return value\n"
        "pool = forklift.Pool(2, setup, (7,))\nprint(pool.map(read, range(3)), value)",
        "[7, 7, 7] None",
    ),
    "lambda as the initializer": (
        "table = {}\npool = forklift.Pool(2, lambda: table.update(a=1))\n"
        "print(pool.map(lambda k: table[k], ['a', 'a']), table)",
        "[1, 1] {}",
    ),
    "state kept between calls": (
        "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)\n"
        "pool = forklift.Pool(1)\nprint(pool.map(f, 'ab', 1), pool.map(f, 'cd', 1), seen)",
        "[1, 2] [3, 4] []",
    ),
    "global replaced between calls": (
        "n = 1\ndef f(x):\n    return x + n\n"
        "pool = forklift.Pool(1)\na = pool.map(f, [0])\nn = 100\nprint(a, pool.map(f, [0]))",
        "[1] [100]",
    ),
}


@VIA
@pytest.mark.parametrize(("source", "expected"), NO_GUARD.values(), ids=NO_GUARD)
def test_no_guard_is_needed(scripts, via, source, expected):
    """Nothing re-imports the script: its one line of output comes once."""
    ended = scripts.run(f"import forklift\n{source}\npool.close()\npool.join()\n", via=via)
    assert ended.check() == expected + "\n"


PENDING = {
    "nothing pending": "",
    "results pending": "r = pool.map_async(mark_and_sleep, [1000] * 8)",
    "work that runs": "r = pool.map_async(mark_and_sleep, [1000] * 8, 1)\nwhile len(os.listdir(MARKS)) < 2: pass",
    "imap half consumed": "it = pool.imap(abs, range(1000))\nnext(it)",
    "endless imap": "import itertools\nit = pool.imap(abs, itertools.count())\nnext(it)",
    "closed, not joined": "r = pool.map_async(abs, range(1000))\npool.close()",
    "in a cycle": "class A: pass\na = A()\na.pool, a.self, pool = pool, a, None",
    "global of a module": "import json\njson.pool = pool",
    "held by a thread": (
        "import threading\nthreading.Thread(target=lambda p=pool: time.sleep(1000), daemon=True).start()"
    ),
    "sys.exit": "r = pool.map_async(mark_and_sleep, [1000] * 8)\nsys.exit(0)",
}


@VIA
@pytest.mark.parametrize("rest", PENDING.values(), ids=PENDING)
def test_exit_with_a_pool_open(scripts, via, rest):
    ended = scripts.run(f"import forklift\npool = forklift.Pool(2)\npool.map(abs, [-1])\n{rest}\n", via=via)
    assert ended.check() == ""


def test_exit_with_large_results_alive(scripts):
    ended = scripts.run("""
    import forklift
    pool = forklift.Pool(2)
    kept = pool.map(bytes, [3_000_000] * 4)
    """)
    assert ended.check() == ""


def test_exit_by_an_exception(scripts):
    ended = scripts.run("""
    import forklift
    with forklift.Pool(2) as pool:
        r = pool.map_async(mark_and_sleep, [1000] * 8)
        raise RuntimeError("the user's own")
    """)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().splitlines()[-1] == "RuntimeError: the user's own"
    assert ended.stderr.count("Traceback") == 1


def test_atexit_may_use_a_pool(scripts):
    ended = scripts.run("""
    import atexit
    import forklift
    @atexit.register
    def last():
        with forklift.Pool(2) as pool:
            print(pool.map(abs, [-1]))
        pool.join()
    """)
    assert ended.check() == "[1]\n"


FORKS = {
    "_exit": "os._exit(0)",
    "sys.exit": "sys.exit(0)",
    "collected": "import gc\ndel pool\ngc.collect()\nos._exit(0)",
    "collected, then sys.exit": "import gc\ndel pool\ngc.collect()\nsys.exit(0)",
    "its own pool": "p = forklift.Pool(2)\nassert p.map(abs, [-1]) == [1]\np.terminate()\np.join()\nos._exit(0)",
    "results dropped": "import gc\ndel kept\ngc.collect()\nos._exit(0)",
    "results read": "assert sum(map(len, kept)) == 4_000_000\nos._exit(0)",
}


@pytest.mark.parametrize("child", FORKS.values(), ids=FORKS)
def test_fork_of_the_users_process(scripts, child):
    """The child neither disturbs the parent's pool nor hangs."""
    indented = "\n".join(f"        {line}" for line in child.splitlines())
    source = f"""
import forklift
pool = forklift.Pool(2)
kept = pool.map(bytes, [1_000_000] * 4)
for _ in range(2):
    pid = os.fork()
    if pid == 0:
{indented}
    assert os.waitpid(pid, 0)[1] == 0
    assert pool.map(abs, range(-100, 0)) == list(range(100, 0, -1))
    assert [len(k) for k in kept] == [1_000_000] * 4
pool.close()
pool.join()
print("end")
"""
    ended = scripts.run(source, options=("-W", "ignore::DeprecationWarning"))
    assert ended.check() == "end\n"


def test_fork_while_a_call_runs(scripts):
    ended = scripts.run(
        """
        import forklift
        def wait(_):
            mark()
            await_mark("go")
            return 5
        pool = forklift.Pool(2)
        result = pool.map_async(wait, range(4), 1)
        while len(os.listdir(MARKS)) < 2:
            pass
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        mark("go")
        print(result.get(120))
        pool.close()
        pool.join()
        """,
        options=("-W", "ignore::DeprecationWarning"),
    )
    assert ended.check() == "[5, 5, 5, 5]\n"


def test_a_pool_in_a_multiprocessing_process(scripts):
    ended = scripts.run("""
    import multiprocessing
    import forklift
    def child():
        with forklift.Pool(2) as pool:
            print(pool.map(abs, [-1, -2]), flush=True)
        pool.join()
    if __name__ == "__main__":
        for context in ("fork", "spawn", "forkserver"):
            process = multiprocessing.get_context(context).Process(target=child)
            process.start()
            process.join()
            assert process.exitcode == 0
    """)
    assert ended.check() == "[1, 2]\n" * 3


def test_a_pool_in_a_worker_of_another_pool(scripts):
    ended = scripts.run("""
    import forklift
    def inner(n):
        with forklift.Pool(2) as pool:
            return pool.map(abs, range(-n, 0))
    with forklift.Pool(2) as pool:
        print(pool.map(inner, [1, 2, 3], 1))
    pool.join()
    """)
    assert ended.check() == "[[1], [2, 1], [3, 2, 1]]\n"


CONTEXTS = {
    "fork": ('"fork"', 5),
    "spawn": ('"spawn"', None),
    "forkserver": ('"forkserver"', None),
    "fork object": ('multiprocessing.get_context("fork")', 5),
    "spawn object": ('multiprocessing.get_context("spawn")', None),
    "forkserver object": ('multiprocessing.get_context("forkserver")', None),
    "multiprocessing itself": ("multiprocessing.get_context()", "any"),
}


@pytest.mark.parametrize(("context", "inherited"), CONTEXTS.values(), ids=CONTEXTS)
def test_contexts_of_multiprocessing(scripts, context, inherited):
    """fork sees what the parent's modules hold at that moment; the others start clean. All do the same work."""
    ended = scripts.run(f"""
    import json
    import multiprocessing
    import forklift
    def look(x):
        return x, getattr(json, "probe", None)
    def setup(x):
        global value
        value = x
    def read(x):
        return value + x
    class Thing:
        pass
    if __name__ == "__main__":
        json.probe = 5
        with forklift.Pool(2, setup, (10,), context={context}) as pool:
            seen = pool.map(look, [1, 2])
            assert [x for x, _ in seen] == [1, 2]
            print({{probe for _, probe in seen}})
            assert pool.map(read, [1, 2]) == [11, 12]
            assert pool.map(lambda x: x + 1, [1, 2]) == [2, 3]
            assert isinstance(pool.apply(Thing), Thing)
            data = bytes(3_000_000)
            assert pool.map(len, [data] * 4) == [3_000_000] * 4
            assert [len(b) for b in pool.imap(bytes, [3_000_000] * 4)] == [3_000_000] * 4
            try:
                pool.apply(os._exit, (3,))
            except forklift.WorkerDied as error:
                assert error.exitcode == 3
            assert pool.map(read, [1, 2]) == [11, 12]
        pool.join()
    """)
    out = ended.check()
    assert inherited == "any" or out == f"{{{inherited}}}\n"


def test_default_context_does_not_fork_the_users_process(scripts):
    """The zygote is a fresh interpreter: what the parent changed in a module is not there, nor are its threads."""
    ended = scripts.run("""
    import json, threading
    import forklift
    json.probe = 5
    stop = threading.Event()
    threading.Thread(target=stop.wait, daemon=True).start()
    with forklift.Pool(2) as pool:
        print(pool.map(lambda _: (hasattr(json, "probe"), threading.active_count()), [0]))
    pool.join()
    stop.set()
    """)
    assert ended.check() == "[(False, 1)]\n"


def test_start_method_that_was_set(scripts):
    ended = scripts.run("""
    import multiprocessing
    import forklift
    if __name__ == "__main__":
        multiprocessing.set_start_method("spawn")
        with forklift.Pool(2) as pool:
            print(pool.map(lambda x: x + 1, [1, 2]))
        pool.join()
    """)
    assert ended.check() == "[2, 3]\n"


def test_nothing_is_said_by_default(scripts):
    ended = scripts.run(
        """
        import forklift
        for _ in range(3):
            with forklift.Pool(2, maxtasksperchild=2) as pool:
                pool.map(abs, range(100))
                list(pool.imap(abs, range(100)))
                try:
                    pool.map(int, ["x"])
                except ValueError:
                    pass
                try:
                    pool.map(os._exit, [1])
                except forklift.WorkerDied:
                    pass
            pool.join()
        """,
        options=("-X", "dev", "-W", "error"),
    )
    assert ended.check() == ""


def test_blas_threads_are_capped(scripts):
    ended = scripts.run("""
    import forklift
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    for name in names:
        os.environ.pop(name, None)
    cores = len(os.sched_getaffinity(0))
    with forklift.Pool(2 * cores) as pool:
        seen = pool.map(lambda n: os.environ.get(n), names)
    pool.join()
    assert all(value is not None and int(value) >= 1 for value in seen), seen
    assert [os.environ.get(name) for name in names] == [None] * 3
    os.environ["OMP_NUM_THREADS"] = "3"
    with forklift.Pool(2) as pool:
        print(pool.map(lambda n: os.environ.get(n), names[:1]))
    pool.join()
    """)
    assert ended.check() == "['3']\n"  # what the user has set stands
