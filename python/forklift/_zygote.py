"""The zygote: a small clean process that workers are forked from. And the two other ways in which workers start.

The user's process starts it once, as a fresh interpreter with `command_line`. It imports what workers need and then
forks one for every birth it is asked for: no thread of the user's process, no lock held by one, no open file gets into
a worker, and a birth takes a millisecond. It runs one thread and waits in one place (`_Zygote.serve`).

Protocol: one SOCK_SEQPACKET socket, one message a packet, integers little-endian, the first byte says which. Packets
to the zygote hold at most 32 KiB.

    to the zygote
      P  preparation: what `preparation()` returned, as it is; or, and if longer than 32 KiB in any case: u64 length,
         with a memfd that holds it from offset 0, and after that, optionally, the read end of the zygote's own life
         pipe. Must come first; may come again, for workers born later.
      B  birth: u32 slot, u32 generation, with two descriptors: the worker's end of its channel, and the read end of
         its life pipe (see `_worker.arm_life`).
      I  import: a pickled list of module names. One that cannot be imported is passed over: whoever really needs it
         will see why.
      Q  quit: as the end of file; the zygote exits with code 0.
      W  be a worker, not a zygote: u32 slot, u32 generation, with the two descriptors of `B`. Comes before `P`, after
         which the process answers nothing, leaves this socket, and serves its channel (the `spawn` context).
    from the zygote
      r  ready: the preparation has been applied. Births may be asked for before; they wait.
      b  born: u32 slot, u32 generation, u32 pid, with one descriptor, the pidfd, where the kernel has them.
      f  failed: u32 slot, u32 generation, u32 errno, then a text in UTF-8. Both numbers are 0xFFFFFFFF if it is
         the preparation that failed.
      x  exited: u32 slot, u32 generation, i32 exit code, negative for a signal. Comes once for each `b`, after it.

End of file (the user's process is gone, or has had enough) or the death of the user's process, which the zygote
watches by pidfd as well because a child of the user's process may have inherited the socket: all living children are
killed with SIGKILL, and the zygote exits. SIGINT is ignored: Ctrl-C is the user's process's to answer. SIGTERM is left
as it is and ends the zygote alone: its children then end with their channels or life pipes, and the user's process
sees the end of file, and their deaths through their pidfds. After a SIGKILL of the zygote it is the same. SIGURG, which
comes with `Q`, ends one that is in the middle of imports, and is ignored at any other time.
"""

from __future__ import annotations

import _pickle
import _socket
import gc
import os
import select
import sys
from _struct import Struct, pack

from forklift import _worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable, Mapping
    from typing import Any
else:
    import _signal as signal

PACKET_BYTES_MAX = 64 << 10
INLINE_BYTES_MAX = 32 << 10
NO_WORKER = 0xFFFF_FFFF
# The state of NumPy's global generator.
_MT19937_WORDS = 624
# How long an ending zygote collects the children it has killed, where nobody else might.
REAP_SECONDS_MAX = 1.0

_BIRTH = Struct("<II")
_EXITED = Struct("<cIIi")
_NEWS = Struct("<cIII")
_LENGTH = Struct("<Q")


# In the user's process -------------------------------------------------------------------------------------------


def command_line(method: str = "zygote", fd: int = 0, life_fd: int = -1) -> list[str]:
    """Return the command that starts a zygote, or for "spawn" a single worker, with its socket at descriptor `fd`.

    Which of both it becomes the packets say; here only its name differs.
    As standard input no descriptor has to be inheritable at any time.
    The life pipe can come with the preparation instead of as `life_fd`. A Ctrl-C in the first 20 ms prints a
    traceback unless the process is started with SIGINT ignored.
    """
    return _interpreter(
        f"main({fd}, {life_fd})", "forklift-worker" if method == "spawn" else "forklift-zygote"
    )


def _interpreter(call: str, title: str) -> list[str]:
    """Start this interpreter with the same options.

    Measured: `-S` would save 4 to 6 of 14 ms. But then hooks of editable installs are missing, `sys.prefix` is not
    that of the virtual environment, and whatever a worker starts in its turn with its own flags (loky, spawn) finds no
    packages. `-c` is as fast as a script: a script is compiled anew each time, a module is not.
    """
    import forklift

    executable = sys.executable
    if (spawn := sys.modules.get("multiprocessing.spawn")) is not None:
        executable = os.fsdecode(spawn.get_executable() or executable)
    # Else a file `select.py` in the working directory would be taken for the standard library's.
    drop = "" if sys.flags.safe_path else "del sys.path[0]; "
    # Loaded from its place, since sys.path comes later, and might lead to another installation.
    path = [os.path.abspath(folder) for folder in forklift.__path__]
    code = (
        f"import sys; {drop}import _frozen_importlib as b, _frozen_importlib_external as e; "
        f"b._load(e.spec_from_file_location('forklift', {os.path.join(path[0], '__init__.py')!r}, "
        f"submodule_search_locations={path!r})); "
        f"import forklift._zygote as z; z.{call}"
    )
    return [executable, *_flags(), "-c", code, title]


def _flags() -> list[str]:
    """Return the options this interpreter runs with, as `subprocess` finds them out, and all of `-X`."""
    flags = sys.flags
    options = ["-" + "O" * flags.optimize] if flags.optimize else []
    letters = {"debug": "d", "dont_write_bytecode": "B", "no_site": "S", "verbose": "v", "bytes_warning": "b"}
    options += [
        "-" + letter * getattr(flags, name) for name, letter in letters.items() if getattr(flags, name)
    ]
    if flags.isolated:
        options.append("-I")
    else:
        letters = {"ignore_environment": "E", "no_user_site": "s", "safe_path": "P"}
        options += ["-" + letter for name, letter in letters.items() if getattr(flags, name)]
    implied = {
        "error::BytesWarning" if flags.bytes_warning > 1 else "",
        "default::BytesWarning" if flags.bytes_warning == 1 else "",
        "default" if flags.dev_mode else "",
    }
    options += ["-W" + option for option in sys.warnoptions if option not in implied]
    if flags.dev_mode and "dev" not in sys._xoptions:
        options += ["-X", "dev"]
    for name, value in sys._xoptions.items():
        options += ["-X", name if value is True else f"{name}={value}"]
    return options


def preparation(preload: Iterable[str] = ()) -> bytes:
    """Pickle what a worker has to know of the user's process. Made of plain values: reading it imports nothing.

    `preload` names modules to be imported once all else is done.
    """
    main = sys.modules.get("__main__")
    process = sys.modules.get("multiprocessing.process")
    try:
        cwd = os.getcwd()
    except OSError:  # It has been deleted.
        cwd = None
    facts: dict[str, Any] = {
        "pid": os.getpid(),
        # Whose definitions are known by their identity when they come back.
        "origin": os.getpid(),
        "path": [cwd if entry == "" and cwd else entry for entry in sys.path],
        "argv": list(getattr(sys, "argv", [])),
        "cwd": cwd,
        "main": {
            name: value
            for name in ("__file__", "__package__", "__doc__")
            if isinstance(value := getattr(main, name, None), str)
        },
        "main_alias": "__mp_main__" in sys.modules,
        "authkey": bytes(process.current_process().authkey) if process is not None else None,
        "dont_write_bytecode": sys.dont_write_bytecode,
        "pycache_prefix": sys.pycache_prefix,
        "recursion_limit": sys.getrecursionlimit(),
        "int_max_str_digits": sys.get_int_max_str_digits(),
        "warnings": _simple_warning_filters(),
        "faulthandler": (module := sys.modules.get("faulthandler")) is not None and module.is_enabled(),
        "preload": list(preload),
    }
    return _pickle.dumps(facts, 5)


def _simple_warning_filters() -> list[tuple[str, str]]:
    """Return filters like `warnings.simplefilter("ignore")`, which a notebook sets and expects of its workers too.

    Others name modules, patterns or classes, which would have to be imported first.
    """
    import builtins

    if (warnings := sys.modules.get("warnings")) is None:
        return []
    filters: list[Any] = warnings.filters
    return [
        (action, category.__name__)
        for action, message, category, module, line in filters
        if (message, module, line) == (None, None, 0) and getattr(builtins, category.__name__, 0) == category
    ]


# Variables by which native libraries take their number of threads, and those of them that OMP_NUM_THREADS stands for.
_FOLLOW_OMP = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_OWN = ("VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS")


def thread_caps(processes: int, cores: int, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return variables for a child's environment that share the cores out between the workers' native threads.

    What the user has set stays. Where OMP_NUM_THREADS is set, libraries that follow it get no variable of their own:
    that would go before it.
    """
    given = os.environ if environment is None else environment
    names = ["OMP_NUM_THREADS", *_FOLLOW_OMP, *_OWN] if "OMP_NUM_THREADS" not in given else list(_OWN)
    share = str(max(1, cores // max(1, processes)))
    caps = {name: share for name in names if name not in given}
    if "GOTO_NUM_THREADS" in given:
        caps.pop("OPENBLAS_NUM_THREADS", None)
    return caps


def fork(channel_fd: int, life_fd: int, slot: int, generation: int, close_fds: Iterable[int]) -> int:
    """Fork a worker from this process, for the `fork` context; return its pid. The child never returns.

    `close_fds` must name the write ends of all life pipes: the child would keep itself alive.
    """
    upstream = os.getpid()
    _worker.flush()  # What is in a buffer now would be written twice.
    pid = _fork_quietly()
    if pid == 0:
        fork_worker(channel_fd, life_fd, slot, close_fds, upstream)
    return pid


def fork_worker(
    channel_fd: int, life_fd: int, slot: int, close_fds: Iterable[int], upstream: int = 0
) -> None:
    """Make a worker of a process that has just been forked from the user's. Never returns."""
    code = 1
    try:
        from forklift import _byvalue

        # What is inherited stays out of the cyclic collector's hands, which would write to, and so copy, all of it.
        gc.freeze()
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            # Handlers of the user's process would run the user's shutdown here. What is ignored stays ignored.
            if callable(signal.getsignal(number)) and number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
        for fd in close_fds:
            try:
                os.close(fd)
            except OSError:
                continue
        _empty_stdin()
        upstream = upstream or os.getppid()
        _byvalue.become_worker(upstream, inherited=True)
        if (util := sys.modules.get("multiprocessing.util")) is not None:
            # As its own children do: finalizers and children of the user's process are not ours.
            util._finalizer_registry.clear()
            util._run_after_forkers()
            sys.modules["multiprocessing.process"]._children.clear()
        _reseed()
        _worker.measure()
        code = _worker.main(channel_fd, life_fd, slot, upstream)
    except BaseException as error:
        code = _report(error)
    finally:
        _worker.leave(code, run_exit_functions=False)


# In the new process ----------------------------------------------------------------------------------------------


def main(fd: int = 0, life_fd: int = -1) -> None:
    """Be the zygote until there is no more use for it, or a worker, as the first packets say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _close_inherited(keep=(fd, life_fd))
    _worker.fill_standard_places()
    if fd <= 2:
        fd = os.dup(fd)  # Where standard streams belong nothing else may stay.
    _empty_stdin()
    _worker.name_title("forklift-zygote")
    zygote = _Zygote(fd, life_fd)
    zygote.serve()
    zygote.socket.close()
    if zygote.seat is not None and zygote.facts["pid"]:
        zygote.be_worker(*zygote.seat)


class _Zygote:
    """The one object of the zygote: its socket, its children, what it was told."""

    def __init__(self, fd: int, life_fd: int) -> None:
        os.set_inheritable(fd, False)
        self.socket = _socket.socket(fileno=fd)
        self.children: dict[int, tuple[int, int]] = {}
        self.facts: dict[str, Any] = {"pid": 0, "authkey": None}
        self.seat: tuple[int, int, int] | None = None
        self.parent_fd = -1
        self.life_fd = _worker.arm_life(life_fd)
        self.poll = select.poll()
        # SIGCHLD only has to end the waiting: Python's C handler writes a byte here.
        self.woken_fd, self.wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.wake_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _worker._disregard)
        self.poll.register(fd, select.POLLIN)
        self.poll.register(self.woken_fd, select.POLLIN)

    def serve(self) -> None:
        """Wait, and do what comes. The only place where the zygote waits."""
        _warm()
        try:
            while True:
                ready = [fd for fd, _ in self.poll.poll()]
                if self.woken_fd in ready:
                    self.collect()
                if self.parent_fd in ready or (self.socket.fileno() in ready and not self.receive()):
                    break
        except (BrokenPipeError, ConnectionResetError):
            pass  # The user's process is gone; the end of file would have been next.
        finally:
            self.end()

    def receive(self) -> bool:
        """Read one packet and obey it; say whether there will be more."""
        room = _socket.CMSG_SPACE(4 * 4)
        packet, ancillary, flags, _ = self.socket.recvmsg(PACKET_BYTES_MAX, room, _socket.MSG_CMSG_CLOEXEC)
        fds = _descriptors(ancillary)
        kind, body = packet[:1], packet[1:]
        if not packet or kind == b"Q":
            return False
        if kind == b"B" and flags & _socket.MSG_CTRUNC:
            list(map(os.close, fds))
            self.send_failure(_BIRTH.unpack(body), OSError(24, os.strerror(24)))  # EMFILE
            return True
        if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            raise ValueError("a packet to the zygote was longer than 64 KiB or held too many descriptors")
        if kind == b"P":
            self.prepare(body, fds)
            return self.seat is None
        if kind == b"W" and len(fds) == 2:
            self.seat = (*fds, _BIRTH.unpack(body)[0])
        elif kind == b"I":
            self.import_all(_pickle.loads(body))
        elif kind == b"B" and len(fds) == 2:
            slot, generation = _BIRTH.unpack(body)
            self.bear(slot, generation, *fds)
        else:
            raise ValueError(f"the zygote knows no packet {packet[:20]!r} with {len(fds)} descriptors")
        return True

    def prepare(self, body: bytes, fds: list[int]) -> None:
        """Apply a preparation, and watch the process that it came from."""
        try:
            if fds:
                body = _read_all(fds[0], _LENGTH.unpack(body)[0])
                os.close(fds[0])
            for life_fd in fds[1:2]:
                self.life_fd = _worker.arm_life(life_fd)
            self.facts = _prepare(body)
        except Exception as error:
            self.send_failure((NO_WORKER, NO_WORKER), error)
            return
        if self.seat is not None:
            return
        if self.parent_fd < 0 and self.facts["pid"] == os.getppid():
            try:
                self.parent_fd = os.pidfd_open(self.facts["pid"])
                self.poll.register(self.parent_fd, select.POLLIN)
            except OSError:
                pass
        self.socket.send(b"r")
        self.import_all(self.facts["preload"])

    def import_all(self, names: list[str]) -> None:
        """Import what can be; or leave in the middle of it, when there is no more use for this process."""
        signal.signal(signal.SIGURG, self.leave)
        try:
            if self.is_told_to_quit():
                return  # The signal came before.
            for name in names:
                try:
                    __import__(name)
                except BaseException:  # A module may also call sys.exit().
                    continue
        finally:
            signal.signal(signal.SIGURG, signal.SIG_DFL)

    def is_told_to_quit(self) -> bool:
        try:
            return self.socket.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT) in (b"", b"Q")
        except OSError:
            return False

    def leave(self, _number: int, _frame: object) -> None:
        """End here and now: a signal's handler. An exception would have to pass through half-imported modules."""
        self.end()
        if (atexit := sys.modules.get("atexit")) is not None:
            atexit._run_exitfuncs()
        os._exit(0)

    def bear(self, slot: int, generation: int, channel_fd: int, life_fd: int) -> None:
        """Fork a worker. Returns in the zygote only."""
        gc.freeze()  # Or the child's first collection would touch, and so copy, every page with objects.
        try:
            pid = _fork_quietly()
        except OSError as error:
            self.send_failure((slot, generation), error)
            return
        finally_close = (channel_fd, life_fd)
        if pid == 0:
            if (atexit := sys.modules.get("atexit")) is not None:
                atexit._clear()  # What modules registered in the zygote is for the zygote's end.
            self.be_worker(channel_fd, life_fd, slot)
        self.children[pid] = (slot, generation)
        for fd in finally_close:
            os.close(fd)
        try:
            pidfd = os.pidfd_open(pid)  # Of this very child: nobody else can have reaped it.
        except OSError:
            pidfd = -1
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pack("i", pidfd))] if pidfd >= 0 else []
        self.socket.sendmsg([_NEWS.pack(b"b", slot, generation, pid)], rights)
        if pidfd >= 0:
            os.close(pidfd)

    def be_worker(self, channel_fd: int, life_fd: int, slot: int) -> None:
        """Turn this process into a worker. Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.socket.close()
            for fd in (self.woken_fd, self.wake_fd, self.parent_fd, self.life_fd):
                if fd >= 0:
                    os.close(fd)
            _reseed()
            _worker.measure()
            gc.enable()
            from forklift import _byvalue

            _byvalue.become_worker(self.facts["origin"])
            code = _worker.main(channel_fd, life_fd, slot, self.facts["pid"], self.facts["authkey"])
        except BaseException as error:
            code = _report(error)
        finally:
            _worker.leave(code, run_exit_functions=True)

    def collect(self) -> None:
        """Reap the children that have ended and tell of them."""
        try:
            while os.read(self.woken_fd, 4096):
                pass
        except BlockingIOError:
            pass
        for pid, status in _reapable():
            seat = self.children.pop(pid, None)
            if seat is not None:
                self.socket.send(_EXITED.pack(b"x", *seat, os.waitstatus_to_exitcode(status)))

    def end(self) -> None:
        """Kill the children that are left, and see them gone: the process that would inherit them may not reap."""
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        waited = 0.0
        while self.children and waited < REAP_SECONDS_MAX:
            for pid, _ in _reapable():
                self.children.pop(pid, None)
            select.select([], [], [], 0.002)
            waited += 0.002

    def send_failure(self, seat: tuple[Any, ...], error: Exception) -> None:
        number = getattr(error, "errno", None) or 0
        text = f"{type(error).__name__}: {error}"[:2000]
        self.socket.send(_NEWS.pack(b"f", *seat, number) + text.encode(errors="replace"))


def _reapable() -> Iterable[tuple[int, int]]:
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            yield pid, status
    except ChildProcessError:
        return


def _prepare(data: bytes) -> dict[str, Any]:
    """Become like the user's process in what a worker's code can see of it."""
    from types import ModuleType

    facts: dict[str, Any] = _pickle.loads(data)
    sys.path[:] = facts["path"]
    sys.argv = facts["argv"]
    sys.dont_write_bytecode = facts["dont_write_bytecode"]
    sys.pycache_prefix = facts["pycache_prefix"]
    sys.setrecursionlimit(facts["recursion_limit"])
    sys.set_int_max_str_digits(facts["int_max_str_digits"])
    try:
        if facts["cwd"] is not None:
            os.chdir(facts["cwd"])
    except OSError:
        pass
    for action, category in reversed(facts["warnings"]):
        import builtins
        import warnings

        kind = getattr(builtins, category)
        if (action, None, kind, None, 0) not in warnings.filters:
            warnings.simplefilter(action, kind)
    if facts["faulthandler"]:
        import faulthandler

        faulthandler.enable()
    # An empty main module, that nothing of ours is in; the user's definitions will be bound in it as they arrive.
    main = ModuleType("__main__")
    main.__dict__.update(facts["main"], __builtins__=sys.modules["builtins"])
    sys.modules["__main__"] = main
    if facts["main_alias"]:
        sys.modules["__mp_main__"] = main
    return facts


def _warm() -> None:
    """Import what every worker needs, while the user's process is busy with its own part."""
    try:
        import forklift._native
        import forklift._outcome
        import forklift._pickling  # noqa: F401
    except ImportError:
        pass  # The worker will say why.


def _fork_quietly() -> int:
    """Fork without Python's warning about threads: native libraries have some, which are prepared for it."""
    if sys.version_info < (3, 12):
        return os.fork()
    import warnings

    # Not `catch_warnings`: the child would run inside it for all its life.
    kept = warnings.filters[:]
    warnings.simplefilter("ignore", DeprecationWarning)
    try:
        return os.fork()
    finally:
        warnings.filters[:] = kept
        warnings._filters_mutated()


def _reseed() -> None:
    """Give the worker random numbers of its own. (`random` does so by itself after a fork.)

    `numpy.random.seed()` would draw less and take twice as long: of all that it reads, a new process copies the pages.
    """
    if (random := sys.modules.get("numpy.random")) is not None:
        words = sys.modules["numpy"].frombuffer(os.urandom(4 * _MT19937_WORDS), "uint32")
        try:
            random.set_state(("MT19937", words, _MT19937_WORDS))
        except ValueError:  # A module has put another generator in its place.
            random.seed()


def _empty_stdin() -> None:
    """Let a worker read nothing: at a terminal it would take what is meant for the user's process."""
    try:
        fd = os.open(os.devnull, os.O_RDONLY)
        if fd != 0:
            os.dup2(fd, 0)
            os.close(fd)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    except OSError:
        pass


def _close_inherited(keep: tuple[int, ...]) -> None:
    """Close descriptors that a careless parent let through; those that this process opened close on exec."""
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        fd = int(name)
        try:
            if fd > 2 and fd not in keep and os.get_inheritable(fd):
                os.close(fd)
        except OSError:
            continue


def _descriptors(ancillary: list[Any]) -> list[int]:
    sent = (data for *kind, data in ancillary if kind == [_socket.SOL_SOCKET, _socket.SCM_RIGHTS])
    return [fd for data in sent for fd in Struct(f"{len(data) // 4}i").unpack_from(data)]


def _read_all(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.pread(fd, size - len(data), len(data))
        if not piece:
            raise EOFError(f"a preparation ended after {len(data)} of {size} bytes")
        data += piece
    return data


def _report(error: BaseException) -> int:
    """Print what ended a worker; return its exit code. What the user's function raises never comes here."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    sys.excepthook(type(error), error, error.__traceback__)
    return 1
