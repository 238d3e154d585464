"""The zygote's protocol over the real socket: births, exits, and ends of every kind."""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from forklift import _zygote
from tests.unit.nursery import Nursery, is_gone, kill, package, readable, receive, until
from tests.unit.stage import ROOT


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return package(tmp_path)


def test_births_and_exits(home: Path) -> None:
    with Nursery(home) as nursery:
        nursery.prepare()
        nursery.ready()
        first, second = nursery.bear(0, 1), nursery.bear(1, 1)
        assert first.pid != second.pid and first.ask("os.getpid()") == first.pid
        assert first.ask("os.getppid()") == nursery.process.pid
        assert first.pidfd >= 0
        kill(first.pid)
        assert readable(first.pidfd) and nursery.exited() == (0, 1, -signal.SIGKILL)
        again = nursery.bear(0, 2)
        second.channel.send(b"os._exit(3)")
        assert nursery.exited() == (1, 1, 3)
        again.channel.close()
        assert nursery.exited() == (0, 2, 0)


def test_what_a_worker_finds(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "argument"])
    monkeypatch.setattr(sys, "path", [*sys.path, "/of/the/parent"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "select.py").write_text("raise SystemExit('the working directory was searched')")
    with Nursery(home) as nursery:
        nursery.prepare()
        nursery.ready()
        child = nursery.bear(4, 1)
        ask = child.ask
        assert ask("sys.argv") == ["program", "argument"] and ask("sys.path") == sys.path
        assert ask("os.getcwd()") == str(tmp_path)
        assert ask("__import__('pathlib').Path('/proc/self/comm').read_text()") == "forklift-4\n"
        assert ask("sys.stdin.read()") == "" and ask("os.read(0, 1)") == b""
        assert ask("sys.prefix") == sys.prefix and ask("sys.flags[:]") == tuple(sys.flags)
        main = ask("vars(sys.modules['__main__']).get('__file__')")
        assert main == getattr(sys.modules["__main__"], "__file__", None)
        assert ask("sys.modules['__main__'].__name__") == "__main__"
        # The standard streams, its channel, its life, and the directory that is being listed.
        links = "[(fd, os.path.realpath('/proc/self/fd/' + fd)) for fd in os.listdir('/proc/self/fd')]"
        assert len(ask(links)) == 6, ask(links)
        assert ask("os.listdir('/proc/self/task')") == [str(child.pid)]
        assert ask("__import__('gc').isenabled()") is True
        assert ask("len(__import__('threading').enumerate())") == 1
        name = "__import__('multiprocessing').current_process()"
        assert ask(name + ".name") == "ForkliftPoolWorker-5" and ask(name + "._identity") == (5,)
        assert ask(name + ".daemon") is False
        parent = "__import__('multiprocessing').parent_process()"
        assert ask(parent + ".pid") == os.getpid() and ask(parent + ".is_alive()") is True
        import multiprocessing

        nursery.socket.send(b"P" + _zygote.preparation())
        nursery.ready()
        later = nursery.bear(5, 1)
        key = bytes(multiprocessing.current_process().authkey)
        assert later.ask("bytes(__import__('multiprocessing').current_process().authkey)") == key


def test_signals_of_a_worker(home: Path) -> None:
    with Nursery(home) as nursery:
        nursery.prepare()
        nursery.ready()
        child = nursery.bear()
        kill(nursery.process.pid, signal.SIGINT)
        kill(child.pid, signal.SIGINT)
        assert child.ask("1 + 1") == 2
        code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        started = (
            f"__import__('subprocess').run([sys.executable, '-c', {code!r}], capture_output=True).stdout"
        )
        assert child.ask(started) == b"True\n"
        assert child.ask("str(__import__('signal').getsignal(17))") == "0"
        assert child.ask("__import__('signal').set_wakeup_fd(-1)") == -1
        kill(child.pid, signal.SIGTERM)
        assert nursery.exited() == (0, 1, -signal.SIGTERM)


def test_workers_differ_in_chance(home: Path) -> None:
    with Nursery(home) as nursery:
        nursery.prepare(_zygote.preparation(["numpy", "random"]))
        nursery.ready()
        children = [nursery.bear(0), nursery.bear(1)]
        for expression in ("__import__('numpy').random.random()", "__import__('random').random()"):
            assert children[0].ask(expression) != children[1].ask(expression)


def test_imports_before_births(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "wanted.py").write_text("import os; pid = os.getpid()")
    (tmp_path / "broken.py").write_text("raise RuntimeError")
    (tmp_path / "leaving.py").write_text("raise SystemExit")
    with Nursery(home) as nursery:
        nursery.prepare()
        nursery.ready()
        nursery.socket.send(b"I" + pickle.dumps(["broken", "leaving", "no_such_module", "wanted"]))
        child = nursery.bear()
        assert child.ask("sys.modules['wanted'].pid") == nursery.process.pid
        assert child.ask("'broken' in sys.modules") is False


@pytest.mark.parametrize("inline", [True, False])
def test_preparations_of_any_size(home: Path, inline: bool) -> None:
    facts = pickle.loads(_zygote.preparation())
    facts["argv"] = ["x" * (10_000 if inline else 10_000_000)]
    with Nursery(home) as nursery:
        nursery.prepare(pickle.dumps(facts), inline)
        nursery.ready()
        assert nursery.bear().ask("len(sys.argv[0])") == len(facts["argv"][0])


def test_a_preparation_that_fails_is_told(home: Path) -> None:
    with Nursery(home) as nursery:
        nursery.prepare(b"no pickle")
        packet, _ = nursery.hear()
        kind, slot, generation, _ = struct.unpack("<cIII", packet[:13])
        assert (kind, slot, generation) == (b"f", 0xFFFF_FFFF, 0xFFFF_FFFF) and b"Error: " in packet
        nursery.prepare(inline=True)
        nursery.ready()


@pytest.mark.parametrize("ending", ["Q", "end of file"])
def test_the_end_of_a_zygote_is_the_end_of_its_children(home: Path, ending: str) -> None:
    with Nursery(home) as nursery:
        nursery.prepare()
        nursery.ready()
        children = [nursery.bear(slot) for slot in range(3)]
        children[0].channel.send(b"__import__('time').sleep(1000)")
        if ending == "Q":
            nursery.socket.send(b"Q")
        else:
            nursery.socket.close()
        assert nursery.process.wait(120) == 0
        assert all(is_gone(child.pid) for child in children)


def test_a_zygote_that_is_killed_leaves_its_children_to_their_lives(home: Path) -> None:
    with Nursery(home) as nursery:
        nursery.prepare()
        nursery.ready()
        child, other = nursery.bear(0), nursery.bear(1)
        nursery.process.kill()
        assert nursery.socket.recv(10) == b""
        assert child.ask("1 + 1") == 2
        child.channel.send(b"__import__('time').sleep(1000)")
        os.close(child.life)
        child.life = -1
        assert readable(child.pidfd)
        assert other.ask("1 + 1") == 2


def test_a_life_that_was_over_before_the_birth(home: Path) -> None:
    with Nursery(home) as nursery:
        nursery.prepare()
        nursery.ready()
        child = nursery.order(0, 1)
        os.close(child.life)
        child.life = -1
        packet, (child.pidfd,) = nursery.hear()
        assert packet[:1] == b"b" and nursery.exited() == (0, 1, -signal.SIGKILL)


PARENT = """
    import json, os, sys, time
    from pathlib import Path
    from tests.unit.nursery import Nursery
    if __name__ == "__main__":
        nursery = Nursery(Path(sys.argv[1]))
        nursery.prepare()
        nursery.ready()
        children = [nursery.bear(slot) for slot in range(2)]
        children[0].channel.send(b"__import__('time').sleep(1000)")
        inheritor = 0
        if sys.argv[2] == "inherited":
            inheritor = os.fork()
        if inheritor == 0 and sys.argv[2] == "inherited":
            time.sleep(1000)
        print(json.dumps([nursery.process.pid, *(child.pid for child in children), inheritor]), flush=True)
        time.sleep(1000)
"""


@pytest.mark.parametrize("descriptors", ["closed", "inherited"])
def test_a_parent_that_is_killed_leaves_nothing(home: Path, tmp_path: Path, descriptors: str) -> None:
    """Also if a child of it still holds every descriptor that would tell the zygote."""
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'python'}"}
    with subprocess.Popen(
        [sys.executable, script, home, descriptors], stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout is not None
        *pids, inheritor = json.loads(parent.stdout.readline())
        assert not any(map(is_gone, pids))
        parent.kill()
        parent.wait()
        try:
            for pid in pids:
                until(lambda pid=pid: is_gone(pid), f"{pid} of {pids} is alive")  # type: ignore[misc]
        finally:
            if inheritor:
                kill(inheritor)


def test_an_interpreter_of_its_own(home: Path) -> None:
    with Nursery(home, Nursery.command(home, "spawn")) as nursery:
        child = nursery.order(7, 1, b"W")
        nursery.prepare()
        assert receive(child.channel) == b"up"
        assert child.ask("os.getpid()") == nursery.process.pid
        assert child.ask("__import__('pathlib').Path('/proc/self/comm').read_text()") == "forklift-7\n"
        assert len(child.ask("os.listdir('/proc/self/fd')")) <= 7
        assert child.ask("__import__('signal').set_wakeup_fd(-1)") == -1
        child.channel.close()
        assert nursery.process.wait(120) == 0


def test_a_fork_of_the_parent(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal, socket, sys
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        from forklift import _zygote
        def interrupted(number, frame):
            raise KeyboardInterrupt
        signal.signal(signal.SIGUSR1, interrupted)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life, life_ours = os.pipe()
        print("once")
        pid = _zygote.fork(theirs.fileno(), life, 2, 1, [life_ours, ours.fileno()])
        theirs.close()
        def ask(expression):
            ours.send(expression.encode())
            return ours.recv(10000).decode()
        assert ours.recv(10) == b"up"
        assert ask("sys.modules['__main__'].pid_of_parent") == str(os.getpid()) if False else True
        assert ask("os.getppid()") == str(os.getpid())
        assert ask("str(__import__('signal').getsignal(10))") == "'0'"
        assert ask("os.read(0, 1)") == "b''"
        os.kill(pid, signal.SIGINT)
        assert ask("1 + 1") == "2"
        ours.send(b"__import__('time').sleep(1000)")
        os.close(life_ours)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
        print("twice")
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\ntwice\n", "")


def test_the_interpreters_options_are_kept() -> None:
    options = ["-O", "-W", "error::UserWarning", "-X", "utf8=1", "-X", "int_max_str_digits=5000", "-E", "-s"]
    code = "import forklift._zygote as z; print(z.command_line())"
    for extra in ([], ["-X", "dev"], ["-b"], ["-bb"], ["-P"]):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        start = [sys.executable, *options, *extra, "-c", f"import sys; sys.path.append('{ROOT}/python'); "]
        start[-1] += code
        printed = subprocess.run(
            start, capture_output=True, text=True, env=environment, timeout=120, check=True
        )
        command: list[str] = eval(printed.stdout)
        ends = command.index("-c")
        shown = "import sys; print([*sys.flags], sys.warnoptions, sys._xoptions)"
        outputs = {
            subprocess.run(
                [*line, "-c", shown], capture_output=True, text=True, env=environment, timeout=120
            ).stdout
            for line in ([sys.executable, *options, *extra], command[:ends])
        }
        assert len(outputs) == 1, outputs


@pytest.mark.parametrize(
    ("given", "names", "share"),
    [
        ({}, {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"}, "2"),
        ({"MKL_NUM_THREADS": "7"}, {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}, "2"),
        ({"OMP_NUM_THREADS": "7"}, {"RAYON_NUM_THREADS", "POLARS_MAX_THREADS"}, "2"),
        ({"GOTO_NUM_THREADS": "7"}, {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}, "2"),
    ],
)
def test_thread_caps(given: dict[str, str], names: set[str], share: str) -> None:
    caps = _zygote.thread_caps(4, 8, given)
    assert names <= set(caps) and not set(given) & set(caps) and set(caps.values()) == {share}
    if "OMP_NUM_THREADS" in given:
        assert "OPENBLAS_NUM_THREADS" not in caps and "MKL_NUM_THREADS" not in caps
    assert set(_zygote.thread_caps(100, 8, given).values()) == {"1"}


def test_simple_warning_filters_reach_workers(home: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        preparation = _zygote.preparation()
    with Nursery(home) as nursery:
        nursery.prepare(preparation)
        nursery.ready()
        found: Any = nursery.bear().ask("str(__import__('warnings').filters[0])")
        assert found == "('ignore', None, <class 'UserWarning'>, None, 0)"
