"""`forklift doctor`: what it finds, how it says so, and how it ends."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

import forklift
from forklift import _native, doctor


def run(
    *arguments: str, columns: int = 80, before: Callable[[], None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forklift", *arguments],
        env=os.environ | {"COLUMNS": str(columns)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=before,
        check=False,
    )


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    report = json.loads(done.stdout)
    assert report["version"] == 1
    assert report["well"] == (done.returncode == 0)
    return {finding["topic"]: finding for finding in report["findings"]}


def test_all_is_well_here():
    done = run("doctor", "--json")
    found = findings(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert found["cores"]["found"].startswith(f"{_native.cores()} for this process")
    assert found["a pool"]["means"] == "Forklift works here"
    assert found["numpy"]["grade"] == "good"
    assert all(finding["means"] for finding in found.values())


def test_lines_fit_the_terminal():
    for columns in (60, 80, 200):
        done = run("doctor", columns=columns)
        assert done.returncode == 0
        assert "Forklift works here" in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= min(columns, 100)
        assert "\x1b" not in done.stdout  # no colours where nobody sees them


def test_too_few_descriptors_are_named_with_what_to_do():
    limit = 64 + 16 * _native.cores() - 1
    done = run(
        "doctor", "--json", before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit * 2))
    )
    found = findings(done)["open files"]
    assert done.returncode == 1
    assert found["found"] == f"{limit:,} allowed"
    assert found["mend"] == f"ulimit -n {limit + 1}"


def test_a_hard_limit_on_descriptors_is_not_what_ulimit_can_raise():
    done = run("doctor", "--json", before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60)))
    assert findings(done)["open files"]["mend"].startswith("raise the hard limit from 60 to ")


def test_a_limit_on_file_sizes_is_named():
    def cut() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))

    found = findings(run("doctor", "--json", before=cut))["file size"]
    assert found["found"] == "limited to 1.07 GB"
    assert found["mend"] == "ulimit -f unlimited"


def test_a_limit_on_processes_is_named():
    found = findings(
        run("doctor", "--json", before=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (5, 5)))
    )["processes"]
    assert (found["found"], found["grade"], found["mend"]) == ("5 allowed", "bad", "raise ulimit -u")


@pytest.mark.parametrize("controller", ["", "pids"])
def test_the_cgroup_with_least_room_for_processes_counts(tmp_path, monkeypatch, controller):
    """Version 2 and version 1; the outer one has the limit that matters, and the innermost has none."""
    own = tmp_path / controller / "outer" / "inner"
    own.mkdir(parents=True)
    for place, limit in ((own, "max"), (own.parent, "100"), (own.parent.parent, "1000")):
        (place / "pids.max").write_text(f"{limit}\n")
        (place / "pids.current").write_text("95\n")
    real = doctor._read
    told = f"1:cpu:/elsewhere\n3:{controller}:/outer/inner\n"
    monkeypatch.setattr(doctor, "_read", lambda path: told if path == "/proc/self/cgroup" else real(path))
    monkeypatch.setattr(doctor, "CGROUPS", str(tmp_path))
    assert list(doctor._cgroup_processes()) == [(100, 95), (1000, 95)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    found = doctor._processes(2)
    assert (found.found, found.grade) == ("100 allowed, 5 left", "bad")
    assert found.mend == "raise pids.max of the cgroup"


def test_start_methods_are_told():
    found = findings(run("doctor", "--json"))["start methods"]
    assert "fork server" in found["found"] and "inherit" in found["means"]


def test_one_core_is_told():
    one = {min(os.sched_getaffinity(0))}
    found = findings(run("doctor", "--json", before=lambda: os.sched_setaffinity(0, one)))["cores"]
    assert found["grade"] == "note"
    assert "cannot be faster than a for loop" in found["means"]


def test_threads_that_the_user_set_are_named():
    assert (
        "OMP_NUM_THREADS=3" in findings(run("doctor", "--json", OMP_NUM_THREADS="3"))["BLAS threads"]["found"]
    )


def test_the_command_line_helps():
    assert run("--version").stdout == f"forklift, version {forklift.__version__}\n"
    assert "doctor" in run("--help").stdout
    assert "Examples" in run("doctor", "--help").stdout
    done = run("docter")
    assert done.returncode == 2
    assert "docter" in done.stderr
