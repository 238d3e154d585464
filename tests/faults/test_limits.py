"""Limits of the system, reached on purpose: a clear error or a slower way, never a hang or a crash.

Each program lowers one limit for itself, uses a pool, and says `ok` or the one line of its error.
"""

from __future__ import annotations

import platform

import pytest

from tests.script import Scripts

pytestmark = pytest.mark.timeout(300)

BODY = """
import numpy, resource, forklift
def double(item):
    return item * 2
def run():
    with forklift.Pool(2) as pool:
        assert pool.map(double, range(20)) == [2 * n for n in range(20)]
        got = pool.map(double, [numpy.full(100_000, n) for n in range(8)])
        assert [int(a[0]) for a in got] == [2 * n for n in range(8)]
def tell(run=run):
    try:
        run()
    except (OSError, MemoryError, forklift.ForkliftError) as error:
        print("error", type(error).__name__, str(error)[:500])
    else:
        print("ok")
"""

#: Installs a seccomp filter that answers one system call, by its number, with an error.
SECCOMP = """
import ctypes, errno, struct
def deny(number, error):
    code = b"".join(struct.pack("HBBI", *line) for line in [
        (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000)])
    lines = ctypes.create_string_buffer(code, len(code))
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    program = Program(len(code) // 8, ctypes.addressof(lines))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0, ctypes.get_errno()
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_standard_streams_closed(scripts: Scripts, closed: tuple[int, ...]) -> None:
    program = scripts.start(
        f"{BODY}\nfor fd in {closed}: os.close(fd)\nrun()\nmark('done')\nos._exit(0)"  # no flush of closed streams
    )
    ended = program.run()
    assert ended.returncode == 0, ended
    assert (program.marks / "done").exists()


def test_file_size_limit_of_nothing(scripts: Scripts) -> None:
    source = f"{BODY}\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\ntell()"
    ended = scripts.run(source)
    assert ended.returncode == 0, ended
    said = ended.stdout
    assert said == "ok\n" or (said.startswith("error") and "ulimit -f" in said), said


def test_address_space(scripts: Scripts) -> None:
    source = f"""{BODY}
double(numpy.ones(2))
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20), resource.RLIM_INFINITY))
tell()
"""
    ended = scripts.run(source)
    assert ended.returncode == 0, ended
    said = ended.stdout
    assert said == "ok\n" or (said.startswith("error") and "ulimit -v" in said), said


def test_no_writable_temporary_directory(scripts: Scripts) -> None:
    source = f"{BODY}\nos.environ['TMPDIR'] = '/proc/nowhere'\nos.chdir('/proc')\ntell()"
    assert scripts.run(source).check() == "ok\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter has x86-64's numbers of system calls")
@pytest.mark.parametrize("answer", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize(("name", "number"), [("pidfd_open", 434), ("memfd_create", 319)])
def test_system_call_refused(scripts: Scripts, name: str, number: int, answer: str) -> None:
    ended = scripts.run(f"{BODY}\n{SECCOMP}\ndeny({number}, errno.{answer})\ntell()")
    assert ended.returncode == 0, ended
    said = ended.stdout
    assert said == "ok\n" or (said.startswith("error") and name in said), said


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter has x86-64's numbers of system calls")
@pytest.mark.parametrize("answer", ["EPERM", "EINVAL"])
def test_seals_refused(scripts: Scripts, answer: str) -> None:
    """`fcntl(F_ADD_SEALS)` alone: segments are made without, and everything works."""
    source = f"""{BODY}
{SECCOMP.replace("(0x15, 0, 1, number)", "(0x15, 0, 3, number), (0x20, 0, 0, 24), (0x15, 0, 1, 1033)")}
import fcntl
fd = os.memfd_create("probe", os.MFD_ALLOW_SEALING)
deny(72, errno.{answer})
try:
    fcntl.fcntl(fd, 1033, 2)
except OSError:
    tell()
"""
    assert scripts.run(source).check() == "ok\n"


#: Becomes a user that has no other process, for root is not held to the limit; keeps the right to read its files.
NOBODY = """
import ctypes, struct
if os.getuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1, 0, 0, 0)  # keep capabilities
    os.setgroups([])
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
    reading = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[reading] * 3, 0, 0, 0)) == 0
    for capability in (1, 2):
        libc.prctl(47, 2, capability, 0, 0)  # also for the programs that it starts
"""


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_limit_on_processes(scripts: Scripts, room: int) -> None:
    """Threads count as well. An error that names the limit, or fewer workers; and all is well once there is room."""
    source = f"""{BODY}
run()
{NOBODY}
used = sum(int(open(f"/proc/{{p}}/status").read().split("Threads:")[1].split()[0])
           for p in os.listdir("/proc") if p.isdigit() and os.stat(f"/proc/{{p}}").st_uid == os.getuid())
resource.setrlimit(resource.RLIMIT_NPROC, (used + {room}, 4096))
def tight():
    with forklift.Pool(8) as pool:
        assert pool.map(double, range(20)) == [2 * n for n in range(20)]
tell(tight)
resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))
tell()
"""
    ended = scripts.run(source)
    assert ended.returncode == 0, ended
    first, second = ended.stdout.splitlines()
    assert (room and first == "ok") or (first.startswith("error") and "ulimit -u" in first), first
    assert second == "ok", second


#: A mount namespace of the program's own, in which it may change what the file system looks like.
NAMESPACE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def must(answer):
    if answer:
        print("skip", os.strerror(ctypes.get_errno()))
        os._exit(0 if sys.stdout.flush() is None else 1)
must(libc.unshare(0x00020000 | (0 if os.getuid() == 0 else 0x10000000)))
must(libc.mount(None, b"/", None, 0x4000 | 0x40000, None))
"""
SHM = {
    "absent": "must(libc.mount(b'proc', b'/dev/shm', b'proc', 0, None))",
    "full": """must(libc.mount(b'tmpfs', b'/dev/shm', b'tmpfs', 0, b'size=4k'))
open('/dev/shm/all', 'wb').write(bytes(4096))""",
    "read only": "must(libc.mount(b'tmpfs', b'/dev/shm', b'tmpfs', 1, b'size=4k'))",
}
PLACES = {f"/dev/shm {name}": source for name, source in SHM.items()} | {
    "everything read only": """
for place in ("/", "/tmp", "/dev/shm", "/var/tmp", "/dev", os.path.expanduser("~")):
    place = place.encode()
    if libc.mount(place, place, None, 0x1000, None) == 0:
        libc.mount(None, place, None, 0x1000 | 0x20 | 1, None)
for place in ("/tmp", "/dev/shm", "/var/tmp", "/", "."):
    try:
        open(os.path.join(place, "probe"), "w")
        print("skip: writable", place)
        os._exit(0 if sys.stdout.flush() is None else 1)
    except OSError:
        pass
""",
}


@pytest.mark.parametrize("change", PLACES.values(), ids=PLACES)
def test_no_place_for_files_is_needed(scripts: Scripts, change: str) -> None:
    """Memory files have no name and need no file system: payloads of 100 MB cross all the same."""
    source = f"""{BODY}
{NAMESPACE}
{change}
def large():
    with forklift.Pool(2) as pool:
        got = pool.map(double, [numpy.full(2_000_000, n) for n in range(6)])
        assert [int(a[0]) for a in got] == [2 * n for n in range(6)]
run()
tell(large)
"""
    said = scripts.run(source).check()
    if said.startswith("skip"):
        pytest.skip(said)
    assert said == "ok\n"


def test_limit_on_address_space_of_workers(scripts: Scripts) -> None:
    """What a worker cannot have is its own item's MemoryError; its neighbours are done."""
    source = f"""{BODY}
def limit(megabytes):
    now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (megabytes << 20), resource.RLIM_INFINITY))
def take(megabytes):
    return len(bytes(megabytes << 20))
with forklift.Pool(2, limit, (400,)) as pool:
    got = pool.map(take, [1, 2, 4000, 3], 1, on_error="return")
    print([type(one).__name__ for one in got])
    print(pool.map(take, [1]))
"""
    assert scripts.run(source).check() == "['int', 'int', 'MemoryError', 'int']\n[1048576]\n"
