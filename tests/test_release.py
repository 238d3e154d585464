"""What is published: a wheel that works without Rust in every CPython of this machine, sources, and honest refusals."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = 11, 14

WORK = """
import forklift
with forklift.Pool(2) as pool:
    assert pool.map(lambda item: item * 2, [b"x" * 1_000_000, 21]) == [b"x" * 2_000_000, 42]
    try:
        pool.map(len, [1])
    except TypeError as error:
        print(type(error.__cause__).__name__, forklift.__version__)
"""


def interpreters() -> list[str]:
    """The newest of each minor version of CPython that this machine has, the running one among them."""
    found = {sys.version_info[:2]: sys.executable}
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(OLDEST, NEWEST + 1):
        installed = (Path(place) / f"bin/python3.{minor}" for place in ("/usr", "/usr/local"))
        candidates = [*kept.glob(f"3.{minor}.*/bin/python3"), *installed]
        for candidate in candidates:
            if (3, minor) not in found and candidate.exists() and has_venv(candidate):
                found[3, minor] = str(candidate)
    return list(found.values())


def has_venv(python: Path) -> bool:
    """Whether an interpreter runs and can make environments; those of distributions often cannot."""
    return (
        subprocess.run([python, "-c", "import ensurepip"], capture_output=True, timeout=120).returncode == 0
    )


def plain_environment() -> dict[str, str]:
    """Of a user who has neither Rust nor another Python at hand."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    return kept | {"PATH": "/usr/bin:/bin"}


def environment_of(python: str, place: Path, *packages: str | Path) -> Path:
    """Make an environment that has these packages, and return its interpreter.

    It gets no pip of its own: to install that takes longer than all else.
    """
    subprocess.run([python, "-m", "venv", "--without-pip", place], check=True, timeout=120)
    inside = place / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        inside,
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, *packages], check=True, env=plain_environment(), timeout=240)
    return inside


def maturin(*arguments: str) -> None:
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix, "PYO3_PYTHON": sys.executable}
    environment.pop("CONDA_PREFIX", None)
    program = Path(sys.executable).with_name("maturin")
    subprocess.run(
        [program, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True, timeout=600
    )


@pytest.mark.timeout(900)
def test_the_wheel_works_in_clean_environments_without_rust(tmp_path):
    maturin("build", "--release", "--out", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    assert re.fullmatch(r"forklift-[\d.]+-cp311-abi3-(manylinux|linux).*\.whl", wheel.name)
    for number, python in enumerate(interpreters()):
        place = tmp_path / f"environment-{number}"
        inside = environment_of(python, place, wheel)
        done = subprocess.run(
            [inside, "-W", "error", "-c", WORK],
            env=plain_environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.stderr, done.stdout.split()[:1]) == ("", ["RemoteTraceback"]), python
        shutil.rmtree(place)


def test_the_sources_hold_what_building_needs(tmp_path):
    maturin("sdist", "--out", str(tmp_path))
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Cargo.lock", "LICENSE", "README.md", "pyproject.toml", "crates/shm/src/lib.rs"} <= names
    assert {"crates/core/src/lib.rs", "crates/python/src/lib.rs", "python/forklift/py.typed"} <= names
    assert not any(name.endswith(".so") for name in names)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_a_debug_build_says_so_at_import():
    done = run("import forklift._native as native; native.DEBUG = True; from forklift import Pool")
    assert done.returncode == 0
    assert "RuntimeWarning: this forklift was built without optimisation" in done.stderr
    assert run("from forklift import Pool").stderr == ""


@pytest.mark.parametrize(
    ("name", "instead"),
    [("Pool", "multiprocessing.Pool"), ("shared_arrays", "multiprocessing.shared_memory")],
)
def test_elsewhere_the_first_pool_says_what_to_use(name, instead):
    done = run(f"""
import sys
sys.platform = "darwin"
import forklift
from forklift import {name}, WorkerDied, TaskTimeout
try:
    {name}(2)
except NotImplementedError as error:
    print(error)
""")
    assert done.stderr == ""
    assert f"forklift.{name} needs Linux" in done.stdout
    assert f"this is darwin: use {instead} here" in done.stdout
