"""Ctrl-C, and the death of the parent: programs in processes of their own."""

from __future__ import annotations

import os
import signal
import sys

import pytest

IN_A_CALL = {
    "map": "pool.map(mark_and_sleep, [1000] * 8, chunksize=1)",
    "map unchunked": "pool.map(mark_and_sleep, [1000] * 8)",
    "starmap": "pool.starmap(mark_and_sleep, [(1000,)] * 8)",
    "apply": "pool.apply_async(mark_and_sleep, (1000,)); pool.apply(mark_and_sleep, (1000,))",
    "get": "pool.map_async(mark_and_sleep, [1000] * 8, chunksize=1).get()",
    "get with a limit": "pool.map_async(mark_and_sleep, [1000] * 8, chunksize=1).get(1000)",
    "wait": "pool.map_async(mark_and_sleep, [1000] * 8, chunksize=1).wait()",
    "imap": "list(pool.imap(mark_and_sleep, [1000] * 8))",
    "imap_unordered": "[x for x in pool.imap_unordered(mark_and_sleep, [1000] * 8)]",
    "next with a limit": "pool.imap(mark_and_sleep, [1000] * 8, 1).next(1000)",
    "join": "pool.map_async(mark_and_sleep, [1000] * 8, chunksize=1); pool.close(); pool.join()",
}
EVERY_CALL = pytest.mark.parametrize("call", IN_A_CALL.values(), ids=IN_A_CALL)
TO_WHOM = pytest.mark.parametrize("group", [True, False], ids=["to the group", "to the parent"])


def check_interrupted(ended) -> None:
    """One traceback, that of KeyboardInterrupt in the user's program, and the exit status that shells know."""
    assert ended.returncode == -signal.SIGINT, ended
    assert ended.stdout == ""
    assert ended.stderr.count("Traceback (most recent call last)") == 1, ended.stderr
    assert ended.stderr.rstrip().splitlines()[-1] == "KeyboardInterrupt", ended.stderr
    assert ended.stderr.count("KeyboardInterrupt") == 1, ended.stderr


@TO_WHOM
@EVERY_CALL
def test_interrupt_ends_the_program(scripts, call, group):
    script = scripts.start(f"""
    import forklift
    with forklift.Pool(2) as pool:
        {call}
    """)
    workers = script.begun(2)
    script.interrupt(group)
    check_interrupted(script.run())
    script.gone(workers)


@TO_WHOM
def test_interrupt_without_with(scripts, group):
    script = scripts.start("""
    import forklift
    pool = forklift.Pool(2)
    pool.map(mark_and_sleep, [1000] * 8)
    """)
    workers = script.begun(2)
    script.interrupt(group)
    check_interrupted(script.run())
    script.gone(workers)


@TO_WHOM
@pytest.mark.parametrize(
    "name", ["map", "map unchunked", "starmap", "imap", "imap_unordered", "next with a limit"]
)
def test_pool_is_usable_at_once_after_an_interrupt(scripts, name, group):
    """The abandoned items do not block it; those that run are stopped."""
    script = scripts.start(f"""
    import forklift
    pool = forklift.Pool(2)
    try:
        {IN_A_CALL[name]}
    except KeyboardInterrupt:
        mark("caught")
    assert pool.map(abs, range(-100, 0)) == list(range(100, 0, -1))
    assert pool.apply(abs, (-3,)) == 3
    pool.close()
    pool.join()
    print("end")
    """)
    script.begun(2)
    script.interrupt(group)
    assert script.run(120).check() == "end\n"


def test_pool_is_usable_at_once_after_an_interrupted_apply(scripts):
    script = scripts.start("""
    import forklift
    pool = forklift.Pool(1)
    try:
        pool.apply(mark_and_sleep, (1000,))
    except KeyboardInterrupt:
        pass
    assert pool.apply(abs, (-3,)) == 3
    pool.close()
    pool.join()
    print("end")
    """)
    script.begun(1)
    script.interrupt(group=True)
    assert script.run(120).check() == "end\n"


@TO_WHOM
def test_interrupted_get_can_be_repeated(scripts, group):
    """The call was made before, and its result may still be wanted: get gives up waiting, not the work."""
    script = scripts.start("""
    import forklift
    def wait(x):
        mark()
        await_mark("go")
        return x
    pool = forklift.Pool(2)
    result = pool.map_async(wait, range(4), 1)
    try:
        result.get()
    except KeyboardInterrupt:
        mark("caught")
        mark("go")
    print(result.get(120))
    pool.close()
    pool.join()
    """)
    script.begun(2)
    script.interrupt(group)
    assert script.run().check() == "[0, 1, 2, 3]\n"


def test_interrupt_while_items_are_pulled(scripts):
    """The generator is the user's code and runs in the calling thread or is waited for there."""
    script = scripts.start("""
    import forklift
    def items():
        yield 1
        mark()
        mark("second")
        time.sleep(1000)
        yield 2
    with forklift.Pool(2) as pool:
        for _ in pool.imap(abs, items()):
            pass
    """)
    script.begun(1)
    script.interrupt(group=True)
    ended = script.run()
    assert ended.returncode == -signal.SIGINT
    assert ended.stderr.count("KeyboardInterrupt") >= 1


WHILE_COPYING = {
    "map": "pool.map(len, [LARGE])",
    "map of many parts": "pool.map(len, [[LARGE[at : at + 2**25] for at in range(0, 2**30, 2**25)]])",
    "apply": "pool.apply(len, (LARGE,))",
    "share": "pool.share(LARGE)",
}


@pytest.mark.parametrize("call", WHILE_COPYING.values(), ids=WHILE_COPYING)
def test_interrupt_while_a_huge_item_is_copied(scripts, call):
    """The copy is broken off, so that little of it was ever made; what was made is used again."""
    script = scripts.start(f"""
    import forklift
    import numpy as np
    import re
    import signal
    import threading
    LARGE = np.zeros(2**30, np.uint8)  # never written to, and so without memory of its own
    def shared():
        return int(re.search(r"RssShmem:\\s*(\\d+)", open("/proc/self/status").read())[1]) << 10
    def watch():
        while shared() < 2**27:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
    pool = forklift.Pool(1)
    pool.apply(abs, (-3,))
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        {call}
    except KeyboardInterrupt as error:
        print(shared() < 2**29, error.__context__)
    thread.join()
    assert pool.map(abs, range(-100, 0)) == list(range(100, 0, -1))
    assert pool.apply(abs, (-3,)) == 3
    pool.close()
    pool.join()
    print("end")
    """)
    assert script.run(120).check() == "True None\nend\n"


def test_interrupt_that_the_program_handles(scripts):
    """A handler of the user's own runs, and the call goes on."""
    script = scripts.start("""
    import signal
    import forklift
    signal.signal(signal.SIGINT, lambda *_: mark("handled"))
    def work(x):
        mark()
        await_mark("handled")
        return x
    with forklift.Pool(2) as pool:
        print(pool.map(work, [1, 2], chunksize=1))
    """)
    script.begun(2)
    script.interrupt(group=False)
    assert script.run().check() == "[1, 2]\n"


SLEEPING = {
    "asleep": "pool.map(mark_and_sleep, [1000] * 8)",
    "idle": "pool.map(mark_briefly, range(2), 1); time.sleep(1000)",
    "busy": "pool.map(mark_and_compute, [1000] * 8)",
    "holding large arguments": "pool.map(mark_and_hold, [bytes(3_000_000)] * 8, 1)",
    "waited for by nobody": "r = pool.map_async(mark_and_sleep, [1000] * 8); time.sleep(1000)",
}
SOURCE = """
import forklift
def mark_briefly(x):
    mark()
    while len(os.listdir(MARKS)) < 2:  # so that each worker gets one
        time.sleep(0.01)
def mark_and_compute(seconds):
    mark()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
def mark_and_hold(data):
    mark()
    time.sleep(1000)
pool = forklift.Pool(2)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("call", SLEEPING.values(), ids=SLEEPING)
def test_nothing_survives_the_parent(scripts, call, sent):
    script = scripts.start(SOURCE + call)
    workers = script.begun(2)
    os.kill(script.process.pid, sent)
    ended = script.run()
    assert ended.returncode == -sent
    assert ended.stderr == ""
    script.gone(workers)


@pytest.mark.parametrize("context", ["fork", "spawn", "forkserver"])
def test_nothing_survives_the_parent_in_other_contexts(scripts, context):
    script = scripts.start(f"""
    import forklift
    if __name__ == "__main__":
        pool = forklift.Pool(2, context={context!r})
        pool.map(mark_and_sleep, [1000] * 8)
    """)
    workers = script.begun(2)
    os.kill(script.process.pid, signal.SIGKILL)
    script.process.wait(120)
    script.gone(workers)


def test_workers_ignore_what_the_parent_does_with_signals(scripts):
    """A parent that ignores SIGTERM still gets rid of its workers."""
    script = scripts.start("""
    import signal
    import forklift
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pool = forklift.Pool(2)
    result = pool.map_async(mark_and_sleep, [1000] * 4)
    await_mark("go")
    pool.terminate()
    pool.join()
    print("end")
    """)
    workers = script.begun(2)
    (script.marks / "go").touch()
    assert script.run(120).check() == "end\n"
    script.gone(workers)


def test_terminate_stops_workers_that_refuse(scripts):
    """A function that ignores SIGTERM and SIGINT does not hold up terminate."""
    script = scripts.start("""
    import signal
    import forklift
    def stubborn(seconds):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return mark_and_sleep(seconds)
    pool = forklift.Pool(2)
    result = pool.map_async(stubborn, [1000] * 4)
    await_mark("go")
    pool.terminate()
    pool.join()
    print("end")
    """)
    workers = script.begun(2)
    (script.marks / "go").touch()
    assert script.run(120).check() == "end\n"
    script.gone(workers)


def test_python_is_the_one_of_the_tests(scripts):
    assert scripts.run("print(sys.version_info[:3])").check().strip() == str(tuple(sys.version_info[:3]))
