"""A zygote under test: the real process and socket, with a stand-in for the native loop.

The stand-in answers each packet on a worker's channel with the `repr` of the expression that it holds.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import forklift
from forklift import _zygote

SECONDS_MAX = 120.0
SOURCE = Path(_zygote.__file__).parent

STAND_IN = """
import os, socket, sys
def serve(descriptor):
    channel = socket.socket(fileno=descriptor)
    channel.send(b"up")
    names = {"os": os, "sys": sys}
    while packet := channel.recv(65536):
        try:
            answer = repr(eval(packet.decode(), names))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        channel.send(answer.encode())
    return 0
"""


def package(folder: Path) -> Path:
    """Lay out a package of the real modules with the stand-in among them."""
    home = folder / "forklift"
    home.mkdir()
    for module in SOURCE.glob("*.py"):
        (home / module.name).symlink_to(module)
    (home / "_native.py").write_text(STAND_IN)
    return home


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that comes to pass without an event to wait for."""
    end = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Whether the process is dead; a zombie that nobody reaps is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def receive(channel: socket.socket) -> bytes:
    channel.settimeout(SECONDS_MAX)
    return channel.recv(65536)


class Child:
    """A worker, seen from its parent."""

    def __init__(self, channel: socket.socket, life: int) -> None:
        self.channel = channel
        self.life = life
        self.pid = 0
        self.pidfd = -1

    def ask(self, expression: str) -> Any:
        self.channel.send(expression.encode())
        answer = receive(self.channel).decode()
        try:
            return eval(answer, {})
        except (SyntaxError, NameError, TypeError):
            return answer

    def close(self) -> None:
        self.channel.close()
        for descriptor in (self.life, self.pidfd):
            if descriptor >= 0:
                os.close(descriptor)
        self.life = self.pidfd = -1


class Nursery:
    """A zygote and what was born of it. Closed in the end, whatever happened."""

    def __init__(self, home: Path, command: list[str] | None = None) -> None:
        self.children: list[Child] = []
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life, self.life = os.pipe()
        self.their_life = life
        try:
            self.process = subprocess.Popen(command or self.command(home), stdin=theirs)
        finally:
            theirs.close()

    @staticmethod
    def command(home: Path, method: str = "zygote") -> list[str]:
        path, forklift.__path__ = forklift.__path__, [str(home)]
        try:
            return _zygote.command_line(method)
        finally:
            forklift.__path__ = path

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        for child in self.children:
            child.close()
        for descriptor in {self.life, self.their_life} - {-1}:
            os.close(descriptor)
        try:
            self.process.wait(SECONDS_MAX)
        finally:
            self.process.kill()
            self.process.wait()

    def prepare(self, preparation: bytes | None = None, inline: bool = False) -> None:
        data = _zygote.preparation() if preparation is None else preparation
        if inline:
            self.socket.send(b"P" + data)
            return
        memory = os.memfd_create("preparation")
        os.write(memory, data)
        socket.send_fds(self.socket, [b"P" + struct.pack("<Q", len(data))], [memory, self.their_life])
        os.close(memory)
        os.close(self.their_life)
        self.their_life = -1

    def hear(self) -> tuple[bytes, list[int]]:
        self.socket.settimeout(SECONDS_MAX)
        packet, descriptors, _, _ = socket.recv_fds(self.socket, 65536, 4)
        return packet, descriptors

    def ready(self) -> None:
        assert self.hear() == (b"r", [])

    def order(self, slot: int, generation: int, tag: bytes = b"B") -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life, life_ours = os.pipe()
        socket.send_fds(self.socket, [tag + struct.pack("<II", slot, generation)], [theirs.fileno(), life])
        theirs.close()
        os.close(life)
        child = Child(ours, life_ours)
        self.children.append(child)
        return child

    def bear(self, slot: int = 0, generation: int = 1) -> Child:
        child = self.order(slot, generation)
        packet, descriptors = self.hear()
        kind, *seat, child.pid = struct.unpack("<cIII", packet)
        assert kind == b"b" and seat == [slot, generation]
        if descriptors:
            (child.pidfd,) = descriptors
        assert receive(child.channel) == b"up"
        return child

    def exited(self) -> tuple[int, int, int]:
        packet, descriptors = self.hear()
        kind, *rest = struct.unpack("<cIIi", packet)
        assert kind == b"x" and not descriptors
        slot, generation, code = rest
        return slot, generation, code


def readable(descriptor: int) -> bool:
    """Whether it becomes readable in time: for a pidfd, whether its process ends."""
    return bool(select.select([descriptor], [], [], SECONDS_MAX)[0])


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)
