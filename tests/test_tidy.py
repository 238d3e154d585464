"""The house rules that no linter keeps: floors, sizes, names, and the places of `unsafe`.

Every check reads text and returns its findings as lines, so that one run shows all of them.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CRATES = ("shm", "core", "python")
LINES_MAX = 600
FORBIDDEN_NAMES = {"utils", "util", "helpers", "common", "misc", "base", "manager", "handler", "service"}

#: The floors of the Python package, lowest first: a module imports only what stands left of it.
PYTHON_FLOORS = """
    errors _elsewhere _native _units _plain
    _mapped _reducers _identities _changes _bindings _byvalue _needs _pickling
    _failure _salvage _outcome
    _worker _zygote
    _feeding _progress _options _budget _settings
    _births _estimate _threads _inherited _inherit _ends
    backends _staff
    report result _calls _apply shared
    _places _cuts blocks pool _desk _streams executor _kept integrations
    doctor tuning top bench cli
    __init__ __main__
""".split()

#: Pure machines: the modules of the crate that they may name, and what of the standard library they must not.
MACHINES = ("scheduler", "supervisor", "pressure")
MACHINES_MAY_IMPORT = {"id", "config", "event"}
MACHINES_MUST_NOT_NAME = re.compile(
    r"\bstd::(?:thread|fs|net|io|process|sync|os)\b|\bInstant::now\b|\bSystemTime\b|\brustix\b"
)

FLOORS_LINE = re.compile(r"^//! (?:floors: )?(\w+(?: [·│] \w+)+)$", re.MULTILINE)
MACHINE_PATH = re.compile("|".join(f"/{folder}/" for folder in ("work", "root", "tmp/bash_jobs")))


def tracked() -> list[Path]:
    """The files of the project: committed, or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = (ROOT / name for name in listed.split("\0") if name)
    return [path for path in paths if path.is_file()]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def rust_code(path: Path) -> str:
    """A Rust file without comments and without its unit tests, which stand at its foot."""
    text = path.read_text().partition("#[cfg(test)]")[0]
    return re.sub(r"//.*", "", text)


def rust_files(crate: str) -> list[Path]:
    return sorted((ROOT / "crates" / crate / "src").rglob("*.rs"))


def floors(crate: str) -> list[str]:
    """The crate's ordered list of modules, as its lib.rs prints it."""
    lists = FLOORS_LINE.findall((ROOT / "crates" / crate / "src" / "lib.rs").read_text())
    assert len(lists) == 1, f"crates/{crate}/src/lib.rs should print one list of floors, found {len(lists)}"
    return re.split(r" [·│] ", lists[0])


def rust_imports(path: Path, module: str) -> Iterator[str]:
    """The top-level names of its own crate that a file uses."""
    code = rust_code(path)
    root = r"\bcrate" if path.parent.name == module else r"\b(?:crate|super)"
    for found in re.finditer(root + r"::(?:(\w+)|\{([^;]*)\};)", code):
        if found[1]:
            yield found[1]
        else:
            flat = re.sub(r"::\{[^{}]*\}", "", re.sub(r"(?<=\w)::\w+", "", found[2]))
            yield from re.findall(r"\w+", re.sub(r"\bas \w+", "", flat))


def module_of(path: Path, source: Path) -> str:
    """The floor that a file belongs to: its own name, or that of its folder right below the source."""
    return path.relative_to(source).parts[0].removesuffix(".rs").removesuffix(".pyi").removesuffix(".py")


@pytest.mark.parametrize("crate", CRATES)
def test_rust_modules_import_only_what_stands_left_of_them(crate: str) -> None:
    order = floors(crate)
    findings = []
    for path in rust_files(crate):
        module = module_of(path, ROOT / "crates" / crate / "src")
        if module == "lib":
            continue
        if module not in order:
            findings.append(f"{name(path)}: not in the floors of lib.rs")
            continue
        allowed = {module, *order[: order.index(module)]}
        findings += [
            f"{name(path)}: uses crate::{used}" for used in rust_imports(path, module) if used not in allowed
        ]
    assert not findings


@pytest.mark.parametrize("machine", MACHINES)
def test_machines_know_nothing_of_the_world(machine: str) -> None:
    findings = []
    for path in rust_files("core"):
        if module_of(path, ROOT / "crates" / "core" / "src") != machine:
            continue
        may = MACHINES_MAY_IMPORT | {machine}
        findings += [
            f"{name(path)}: uses crate::{used}" for used in rust_imports(path, machine) if used not in may
        ]
        findings += [
            f"{name(path)}: names {word}" for word in MACHINES_MUST_NOT_NAME.findall(rust_code(path))
        ]
    assert not findings


def python_imports(tree: ast.Module) -> Iterator[str]:
    """The modules of forklift that a file imports when it runs; imports for type checkers do not count."""
    for_types = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    skipped = {id(inner) for node in for_types for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("forklift.")
            )
        elif isinstance(node, ast.ImportFrom):
            parts = (node.module or "").split(".")
            if node.level == 0 and parts[0] != "forklift":
                continue
            below = parts[1:] if node.level == 0 else [part for part in parts if part]
            yield from [below[0]] if below else [alias.name for alias in node.names]


def test_python_modules_import_only_what_stands_left_of_them() -> None:
    source = ROOT / "python" / "forklift"
    findings = []
    for path in sorted(source.rglob("*.py")):
        module = module_of(path, source)
        if module not in PYTHON_FLOORS:
            findings.append(f"{name(path)}: not in PYTHON_FLOORS")
            continue
        if module == "integrations" or module == "cli":
            continue  # users of the public package like any other
        allowed = {module, *PYTHON_FLOORS[: PYTHON_FLOORS.index(module)]}
        used = python_imports(ast.parse(path.read_text()))
        findings += [f"{name(path)}: imports {other}" for other in used if other not in allowed]
    assert not findings


def test_files_are_of_a_size_that_can_be_read() -> None:
    sizes = {
        name(path): len(path.read_text().splitlines()) for path in tracked() if path.suffix in (".py", ".rs")
    }
    assert not {path: lines for path, lines in sizes.items() if lines >= LINES_MAX}


def test_modules_are_named_by_nouns_that_say_something() -> None:
    parts = {name(path): Path(name(path)).with_suffix("").parts for path in tracked()}
    assert not [
        path for path, words in parts.items() if FORBIDDEN_NAMES & {word.strip("_") for word in words}
    ]


def test_unsafe_stands_only_where_the_architecture_says() -> None:
    lines = [
        line for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines() if line.startswith("unsafe:")
    ]
    assert len(lines) == 1, (
        "ARCHITECTURE.md should have one line that begins with 'unsafe:' and names the files"
    )
    permitted = set(re.findall(r"`([^`]+\.rs)`", lines[0]))
    found = set()
    for path in tracked():
        if path.suffix == ".rs":
            code = re.sub(r"//.*", "", path.read_text()).replace("'\"'", "")
            code = re.sub(r'"(?:[^"\\]|\\.)*"', "", code)
            found |= {name(path)} if re.search(r"\bunsafe\b", code) else set()
    assert not found - permitted
    assert not permitted - found, "named in ARCHITECTURE.md, but free of unsafe code"


def test_no_path_of_a_developers_machine_is_written_down() -> None:
    findings = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        findings += [f"{name(path)}: {found}" for found in set(MACHINE_PATH.findall(text))]
    assert not findings
