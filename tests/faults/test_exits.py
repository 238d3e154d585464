"""The end of a program while threads of its pools are in the user's code: its own status, and not a word.

An interpreter does away with such threads by unwinding them, and aborts the process where it meets frames of Rust. Each
program here takes long over its end, so that every thread that still runs is met.
"""

from __future__ import annotations

import pytest

PROGRAM = """
    import queue, select, threading
    import forklift
    class Late:
        def __del__(self, time=time):
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                sum(range(1000))
    late = Late()
    def poll():
        while True:
            time.sleep(0.001)
    def items(wait):
        yield from range(4)
        mark("waits")
        wait()
    class Listed:
        def __len__(self):
            return 10
        def __iter__(self):
            return items(poll)
    def block(*_):
        mark("waits")
        poll()
    class Slow:
        def __reduce__(self):
            mark("waits")
            time.sleep(0.7)
            return int, ()
    pool = forklift.Pool(2)
    {begin}
    await_mark("waits")
    print("end", flush=True)
    sys.exit(3)
"""

BEGINNINGS = {
    "a generator that polls": "results = pool.imap(abs, items(poll), chunksize=1); next(results)",
    "one that sleeps": "results = pool.imap(abs, items(lambda: time.sleep(1000)), chunksize=1); next(results)",
    "one that waits for a queue": "results = pool.imap(abs, items(queue.Queue().get), chunksize=1)",
    "one that waits for a pipe": "results = pool.imap(abs, items(lambda: select.select([os.pipe()[0]], [], [])))",
    "iteration that was broken off": (
        "\n    for number in pool.imap_unordered(abs, items(poll), chunksize=1):"
        "\n        await_mark('waits')\n        break"
    ),
    "map_async": "results = pool.map_async(abs, Listed())",
    "a callback": "results = pool.apply_async(abs, (-1,), callback=block)",
    "a callback of map_async": "results = pool.map_async(abs, [1, 2], callback=block)",
    "an error callback": "results = pool.map_async(divmod, [1], error_callback=block)",
    "progress": "results = pool.map_async(abs, [1, 2], progress=lambda done, total: done and block())",
    "a slow pickle": "results = pool.imap(str, iter([1, Slow(), 2]), chunksize=1)",
    "an executor": (
        "executor = forklift.Executor(2); results = executor.map(abs, items(poll), buffersize=8); next(results)"
    ),
    "a thread of the program's": (
        "threading.Thread(target=lambda: pool.map(abs, items(poll)), daemon=True).start()"
    ),
    "threads that map": (
        "\n    def maps():\n        while True:\n            pool.map(abs, range(10))\n            mark('waits')"
        "\n    threading.excepthook = lambda *_: None"
        "\n    for _ in range(3):\n        threading.Thread(target=maps, daemon=True).start()"
    ),
    "a pool with threads of its own": (
        "other = forklift.Pool(2, context='fork'); other.map(abs, range(4)); mark('waits')"
    ),
    "one-liners": (
        "threading.Thread(target=lambda: forklift.map(abs, items(poll), processes=2), daemon=True).start()"
    ),
    "joblib": (
        "import joblib; forklift.register_joblib(); "
        "call = lambda: joblib.Parallel(2, 'forklift')(joblib.delayed(abs)(i) for i in items(poll)); "
        "threading.Thread(target=call, daemon=True).start()"
    ),
}


@pytest.mark.parametrize("begin", BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_program_ends_with_its_own_status(scripts, begin):
    ended = scripts.run(PROGRAM.replace("{begin}", begin), options=("-W", "ignore"))
    assert (ended.returncode, ended.stderr) == (3, "")
    assert ended.stdout.endswith("end\n")
