"""The Python part of a worker process: what has to be set before the native loop runs, and after it has ended.

Reached by three ways, all in `_zygote`: forked from the zygote, forked from the user's process, or started as an
interpreter of its own. Nothing is imported here that the loop does not need: this is part of every pool's start.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
    from typing import Any
else:
    import _signal as signal  # `signal` itself makes enums of all numbers first: 3 ms.


def main(channel_fd: int, life_fd: int, slot: int, upstream: int, authkey: bytes | None = None) -> int:
    """Serve calls from the channel until told to stop; return the exit code.

    `life_fd` is the read end of a pipe that only the user's process can write to, or -1. `upstream` is the pid of the
    user's process, `authkey` its key for connections of `multiprocessing` that the user's function opens.
    """
    life_fd = arm_life(life_fd)
    # Ctrl-C at the terminal reaches all its processes; the user's process decides what becomes of this one. A handler,
    # and not SIG_IGN, since programs started from here would inherit that.
    signal.signal(signal.SIGINT, _disregard)
    name_title(f"forklift-{slot}")
    name_process(_Name(slot, upstream, life_fd, authkey))

    from forklift import _native

    return _native.serve(channel_fd)


_coverage: Any = None


def measure() -> None:
    """Have what is done here measured, if coverage.py measures the process that this one was forked from.

    It does so where `patch = subprocess` is set, by variables of the environment. What had been measured before the
    fork is that process's to write down.
    """
    global _coverage
    control: Any = sys.modules.get("coverage.control")
    if control is None:
        return
    try:
        former = control.Coverage.current()
        if former is not None:
            former._auto_save = False
            former.stop()
        _coverage = control.process_startup(force=True)
    except Exception as error:  # Another version of coverage.py; the user's work does not depend on it.
        print(f"forklift: a worker is not measured: {error!r}", file=sys.stderr)


def leave(code: int, run_exit_functions: bool) -> None:
    """End this process. `run_exit_functions` is for workers that were not forked from the user's process.

    In those that were, the registered functions are the user's own, for the end of the user's own process.
    """
    try:
        if _coverage is not None:
            _coverage.stop()
            _coverage.save()
        if (util := sys.modules.get("multiprocessing.util")) is not None:
            util._exit_function()  # Children that the user's function started, if any.
        if run_exit_functions and (atexit := sys.modules.get("atexit")) is not None:
            atexit._run_exitfuncs()
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    flush()
    os._exit(code & 0xFF)


def flush() -> None:
    """Write out what the standard streams hold; a stream that is closed or broken holds nothing."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue


def fill_standard_places() -> None:
    """Open nothing where output belongs, if the user's process has closed it: what native code prints would land in
    whatever has that number next, shared memory among it."""
    try:
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
        os.close(fd)
    except OSError:
        pass


def arm_life(life_fd: int) -> int:
    """Have the kernel kill this process as soon as nobody holds the write end of the pipe any more.

    No thread has to wait for it, and the user's function may be anywhere. `PR_SET_PDEATHSIG` would look at the
    zygote, or at the thread that forked. The pipe is opened once more, because the signal's owner belongs to the open
    file, which workers would otherwise share. Returns the descriptor that is armed, -1 for none.
    """
    if life_fd < 0:
        return -1
    try:
        # Not blocking, for a pipe without writers would never open.
        own = os.open(f"/proc/self/fd/{life_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        own = life_fd
        os.set_inheritable(own, False)
    try:
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    except OSError:
        pass  # A sandbox may refuse. The channel's end of file and the zygote remain.
    # It may have happened before. Asked of the old descriptor: the new one has never seen a writer, and for such a
    # one the kernel reports no end.
    poll = select.poll()
    poll.register(life_fd, 0)
    if poll.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)
    if own != life_fd:
        os.close(life_fd)
    return own


def name_title(title: str) -> None:
    """Set the name that `ps` and `top` show, of which the kernel keeps 15 characters."""
    try:
        with open("/proc/self/comm", "wb", buffering=0) as comm:
            comm.write(title.encode())
    except OSError:
        pass


def name_process(name: _Name) -> None:
    """Let `multiprocessing` know this process by its seat, now if it is imported, else when it comes to be."""
    module = sys.modules.get("multiprocessing.process")
    if module is not None:
        name.give(module)
    else:
        sys.meta_path.insert(0, name)


class _Name:
    """What `multiprocessing` is to know of this process and its parent.

    Also the import hook that waits for `multiprocessing.process`: importing it in advance would take 15 ms.
    """

    def __init__(self, slot: int, upstream: int, life_fd: int, authkey: bytes | None) -> None:
        self.slot = slot
        self.upstream = upstream
        self.life_fd = life_fd
        self.authkey = authkey

    def give(self, module: Any) -> None:
        """Set it in the module."""
        current = module.current_process()
        current.name = f"ForkliftPoolWorker-{self.slot + 1}"
        # What programs read to give each worker its own device or file, as they do with `multiprocessing.Pool`.
        current._identity = (self.slot + 1,)
        if self.authkey is not None:
            current.authkey = self.authkey
        if self.life_fd >= 0:
            # The pipe becomes readable when that process ends, as the sentinel of a parent process should.
            module._parent_process = module._ParentProcess("MainProcess", self.upstream, self.life_fd)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find the module as the others do, and have it named once it has run."""
        if name != "multiprocessing.process":
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                self.run = spec.loader.exec_module
                spec.loader.exec_module = self.run_and_give  # type: ignore[method-assign]
                return spec
        return None

    def run_and_give(self, module: Any) -> None:
        """Stand in for the loader's `exec_module`."""
        self.run(module)
        self.give(module)


def _disregard(number: int, frame: FrameType | None) -> None:
    return None
