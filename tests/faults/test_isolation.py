"""Nothing gets in from outside, and nothing gets out to the user's own subprocesses."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

LIST = """
import os
for name in os.listdir("/proc/self/fd"):
    try:
        print(name, os.readlink("/proc/self/fd/" + name))
    except OSError:
        pass
"""


def descriptors_of_a_child(_: int = 0) -> list[str]:
    """What a subprocess finds open beyond the standard streams when its starter closes nothing."""
    text = subprocess.run(
        [sys.executable, "-c", LIST],
        close_fds=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()
    return [line for line in text.splitlines() if int(line.split()[0]) > 2]


def ours(lines: list[str]) -> list[str]:
    return [
        line for line in lines if any(kind in line for kind in ("forklift", "socket:", "pidfd", "eventfd"))
    ]


@pytest.fixture
def pool() -> Any:
    import forklift

    with forklift.Pool(2) as pool:
        pool.map(abs, range(4))
        yield pool


def test_parents_subprocess_inherits_nothing() -> None:
    """Compared with what a subprocess finds before there is a pool: the test runner has descriptors of its own."""
    import forklift

    before = set(ours(descriptors_of_a_child()))
    with forklift.Pool(2) as pool:
        pool.map(abs, range(4))
        assert set(ours(descriptors_of_a_child())) <= before
        mine = pool.apply_async(worker_pid, (0,))
        assert mine.get(120) != os.getpid()


def test_workers_subprocess_inherits_nothing(pool: Any) -> None:
    for lines in pool.map(descriptors_of_a_child, range(2), chunksize=1):
        assert ours(lines) == []


def test_no_socket_listens_or_has_a_name(scripts: Any) -> None:
    """In a process of its own: the test runner's has the sockets of other tests' libraries."""
    ended = scripts.run("""
    import forklift
    from pathlib import Path

    def worker_pid(_):
        time.sleep(0.05)
        return os.getpid()

    def sockets_of(pid):
        found = set()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found.add(os.readlink(entry))
            except OSError:
                pass
        return {link[8:-1] for link in found if link.startswith("socket:[")}

    with forklift.Pool(2) as pool:
        pids = {os.getpid(), *pool.map(worker_pid, range(4), chunksize=1)}
        mine = set().union(*map(sockets_of, pids))
        unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        print(len(pids) > 1, any(fields[6] in mine for fields in unix))
        for fields in unix:
            if fields[6] in mine and (fields[3] == "00010000" or len(fields) != 7):
                print("listens or has a name:", fields)
        for table in ("tcp", "tcp6", "udp", "udp6"):
            path = Path("/proc/net") / table
            if path.exists():
                print(*{line.split()[9] for line in path.read_text().splitlines()[1:]} & mine, end="")
    """)
    assert ended.check() == "True True\n"


def worker_pid(_: int) -> int:
    return os.getpid()
