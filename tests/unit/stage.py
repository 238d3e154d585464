"""Two processes for tests of pickling: a script as the user's `__main__`, and a plain Python that plays the worker.

The script imports `Worker` from here. No native code is involved: pickles travel through pipes, buffers in band.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_MAX = 120


def run(folder: Path, script: str) -> str:
    """Run a script as `__main__` in a process of its own; return what it printed."""
    path = folder / "script.py"
    path.write_text("from tests.unit.stage import Worker\n" + textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, path],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'python'}:{folder}"},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert not done.stderr, done.stderr[-4000:]
    return done.stdout


class Worker:
    """The other process, seen from the script. `ways` tells how each call was pickled."""

    def __init__(self) -> None:
        code = f"from tests.unit.stage import serve; serve({os.getpid()})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.ways: list[str] = []
        self.sizes: list[int] = []

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.communicate(timeout=SECONDS_MAX)

    def send(self, obj: Any) -> None:
        way, data = pickled(obj)
        self.ways.append(way)
        self.sizes.append(len(data))
        assert self.process.stdin is not None
        self.process.stdin.write(struct.pack("<Q", len(data)) + data)
        self.process.stdin.flush()

    def call(self, function: Any, *args: Any) -> Any:
        """Call in the worker; return the result or raise the exception as the parent's side makes it."""
        import _pickle

        from forklift import _failure

        self.send((function, args))
        assert self.process.stdout is not None
        fine, value = _pickle.loads(_read(self.process.stdout))
        if not fine:
            raise _failure.unpack_exception(value, 3)
        return value


def pickled(obj: Any) -> tuple[str, bytes]:
    """Pickle as the native code does: the fast way, and if it fails the thorough one."""
    from forklift import _pickling

    try:
        return "fast", dumps(_pickling.Pickler, obj)
    except Exception:
        return "cloud", dumps(_pickling.cloud_pickler_class(), obj)


def dumps(kind: Any, obj: Any) -> bytes:
    from forklift._pickling import _Sink

    sink = _Sink()
    kind(sink, 5).dump(obj)
    return sink.bytes()


def _read(stream: Any) -> bytes:
    (size,) = struct.unpack("<Q", stream.read(8))
    data: bytes = stream.read(size)
    return data


def serve(upstream: int) -> None:
    """Play the worker."""
    import _pickle

    from forklift import _byvalue, _failure, _pickling

    _byvalue.become_worker(upstream)
    sys.modules["__main__"] = ModuleType("__main__")
    output = sys.stdout.buffer
    sys.stdout = sys.stderr
    while True:
        head = sys.stdin.buffer.read(8)
        if len(head) < 8:
            return
        data = sys.stdin.buffer.read(struct.unpack("<Q", head)[0])
        answer: Any
        try:
            function, args = _pickle.loads(data)
            answer = (True, function(*args))
        except BaseException as error:
            answer = (False, _failure.pack_exception(error))
        try:
            try:
                data = dumps(_pickling.ResultPickler, answer)
            except Exception:
                data = dumps(_pickling.cloud_pickler_class(upward=True), answer)
        except Exception as error:
            data = dumps(_pickling.ResultPickler, (False, _failure.pack_result_failure(answer[1], error)))
        output.write(struct.pack("<Q", len(data)) + data)
        output.flush()
