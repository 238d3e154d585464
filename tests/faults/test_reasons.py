"""What `WorkerDied` says of the reason: in words, and as true as can be told from outside."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path

import pytest

import forklift
from forklift.errors import death_in_words
from tests.script import Scripts

from . import work

WORDS = {
    signal.SIGSEGV: ["SIGSEGV", "segmentation fault", "stack"],
    signal.SIGBUS: ["SIGBUS", "mapping"],
    signal.SIGABRT: ["SIGABRT", "abort"],
    signal.SIGFPE: ["SIGFPE", "arithmetic"],
    signal.SIGILL: ["SIGILL", "processor"],
    signal.SIGTERM: ["SIGTERM", "asked it to end"],
    signal.SIGALRM: ["SIGALRM", "alarm"],
    signal.SIGXCPU: ["SIGXCPU", "ulimit -t"],
    signal.SIGUSR1: ["SIGUSR1"],
    signal.SIGHUP: ["SIGHUP", "terminal"],
}


def end_by(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pause()


@pytest.mark.parametrize("number", WORDS, ids=lambda number: number.name)
def test_signals_in_words(pool, number):
    with pytest.raises(forklift.WorkerDied) as caught:
        pool.apply(end_by, (int(number),))
    assert caught.value.signal == number.name
    assert all(word in caught.value.reason for word in WORDS[number]), caught.value.reason
    assert len(caught.value.reason) < 300


def test_a_kill_by_somebody_is_not_called_a_lack_of_memory(pool):
    """Where the kernel counts its own kills in this cgroup, one that it did not count was sent."""
    if not any(map(Path.exists, counting())):
        pytest.skip("no cgroup counts kills here")
    with pytest.raises(forklift.WorkerDied) as caught:
        pool.apply(work.die, ("SIGKILL",))
    assert "not by the kernel's out-of-memory killer" in caught.value.reason
    assert "SIGKILL" in caught.value.reason


def test_exit_codes_in_words(pool):
    with pytest.raises(forklift.WorkerDied, match=r"exited with code 3.*os\._exit\(3\)"):
        pool.apply(work.die, ("exit 3",))
    with pytest.raises(forklift.WorkerDied, match=r"exited with code 0"):
        pool.apply(work.die, ("exit 0",))


def test_what_the_core_knows_goes_before_what_a_signal_suggests():
    assert "forklift itself killed it" in death_in_words(-9, ("expelled", "malformed message"))
    assert "cgroup" in death_in_words(-9, ("memory", "cgroup"))
    assert "most likely" in death_in_words(-9, ("memory", "machine"))
    assert "possibly" in death_in_words(-9)
    assert "nobody could collect" in death_in_words(None)


def counting() -> list[Path]:
    """Where this process' cgroup counts what is killed in it for want of memory: versions 1 and 2."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {controllers: path[1:] for _, controllers, path in lines}
    return [
        Path("/sys/fs/cgroup/memory", paths.get("memory", ""), "memory.oom_control"),
        Path("/sys/fs/cgroup", paths.get("", ""), "memory.events"),
    ]


def memory_cgroup() -> Path:
    """A cgroup of our own with room for little; skips where none may be made."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            parent, limit = Path("/sys/fs/cgroup/memory") / path[1:], "memory.limit_in_bytes"
        elif not controllers and Path("/sys/fs/cgroup/cgroup.controllers").exists():
            parent, limit = Path("/sys/fs/cgroup") / path[1:], "memory.max"
        else:
            continue
        group = parent / f"forklift-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(300 << 20))
            for swap in ("memory.swap.max", "memory.memsw.limit_in_bytes"):
                if (group / swap).exists():
                    (group / swap).write_text("0" if swap == "memory.swap.max" else str(300 << 20))
        except OSError:
            group.rmdir()
            continue
        return group
    pytest.skip("no memory cgroup can be made here")


def test_a_kill_for_want_of_memory_is_told(scripts: Scripts):
    """The real thing: a worker takes more than its cgroup has, and the kernel kills it."""
    group = memory_cgroup()
    try:
        source = textwrap.dedent("""
        import forklift
        def eat(megabytes):
            return len(bytes(b"x") * (megabytes << 20))
        with forklift.Pool(2) as pool:
            results = pool.map(eat, [1, 2, 1000, 3], 1, on_error="return")
            print([type(result).__name__ for result in results])
            print(results[2])
            print(pool.map(eat, [1, 1]))
        """)
        join = f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        ended = scripts.run(join + source)
        lines = ended.check().splitlines()
        assert lines[0] == "['int', 'int', 'WorkerDied', 'int']"
        assert "item 2: killed by SIGKILL" in lines[1] and "by the kernel's out-of-memory killer" in lines[1]
        assert "not by" not in lines[1]
        assert lines[2] == "[1048576, 1048576]"
    finally:
        group.rmdir()


def test_a_worker_that_talks_nonsense_is_said_to_have_been_expelled(pool):
    """Bytes that are no message, written to the channel by the function itself."""

    def disturb(_: int) -> None:
        import socket

        for fd in range(3, 100):
            try:
                socket.socket(fileno=os.dup(fd)).send(b"\xffnonsense")
            except OSError:
                continue  # not open, or no socket
        signal.pause()

    with pytest.raises(forklift.WorkerDied, match="forklift itself killed it.*malformed message"):
        pool.map(disturb, [1])
    assert pool.map(abs, [-1]) == [1]
