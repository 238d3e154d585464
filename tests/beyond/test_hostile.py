"""Reports that somebody else wrote, and names that somebody else chose: nothing of them is executed or obeyed."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import pty
import random
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from forklift import Pool, Report, _progress, _threads, cli
from forklift._plain import html, plain
from forklift.report import Look
from forklift.report.form import _FIELDS, BYTES_MAX, dumps
from forklift.tuning import Setting, Trial, Tuning
from tests.beyond.test_advice import chunk, figures
from tests.beyond.test_page import BROWSER, VOID, Reader, needs_browser, render

#: What a browser would run, what ends an element, an attribute or a script, and what a terminal obeys.
PAYLOADS = (
    "<script>window.pwned=1</script>",
    "</script><script>window.pwned=1</script>",
    "\"' onmouseover='window.pwned=1' autofocus onfocus=\"window.pwned=1",
    "<img src=x onerror=window.pwned=1>",
    "</style></title></div><b id=pwned>",
    "{title} {0} %s \\u003cscript>",
    "\x1b[31m\x1b]0;pwned\x07\x9b2J\r\x08",
    "a\u202eb\u2066c\u2028d\u200f",
    "\ud800\udfff\x00",
    "line\nline\tline",
    "x" * 10_000,
)
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def full():
    """A report in which every list holds something, and every text is text."""
    report = figures(
        imported=["pandas", "scipy"],
        incidents=[(0.1, "died", 1, 7)],
        memory=[Look(at, 1 << 20, 1 << 20, 0, 0) for at in (0.0, 0.5)],
        records=[chunk(0, 0.0, 1.0), chunk(1, 0.0, 0.5, 1, 4)],
        staff={"deaths": 1},
    )
    return replace(report, engine="Ray", nodes=["here", "there"], admitted=[(0.1, 50), (0.2, 100)])


def saved():
    return json.loads(dumps(full()))


def places(value, path=()):
    """The paths of all values within a value."""
    yield path
    for key, each in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(each, (*path, key))


def put(tree, path, value):
    """A copy of the tree that holds something else there."""
    tree = copy.deepcopy(tree)
    if not path:
        return value
    place = tree
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return tree


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


class Elements(HTMLParser):
    """How often which element and attribute stands in a page."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, *sorted(name for name, _ in attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def shown(report, folder):
    """All that a report is shown as: texts for a terminal, and pages with their elements."""
    texts = [str(report), repr(report), *(advice.text for advice in report.advice)]
    page, trace, form = (folder / f"out{end}" for end in (".html", ".trace.json", ".json"))
    for path in (page, trace, form):
        report.save(path)
    assert OBEYED.search("".join(texts)) is None
    for path in (trace, form):
        json.loads(path.read_text(), parse_constant=pytest.fail)
        assert OBEYED.search(path.read_text()) is None
    pages = [page.read_text(), report._repr_html_()]
    assert OBEYED.search("".join(pages)) is None
    return [Elements(text).found for text in pages]


def loaded(tree, folder):
    """What the file becomes: a report, or the words of the error, which name a field and hold nothing hostile."""
    path = folder / "in.json"
    path.write_bytes(tree if isinstance(tree, bytes) else json.dumps(tree).encode())
    try:
        return Report.load(path)
    except ValueError as error:
        assert str(error).startswith("in.json ") and OBEYED.search(str(error)) is None
        assert len(str(error)) < 400
        return str(error)


def test_every_field_has_a_check():
    assert set(_FIELDS) == set(Report.__dataclass_fields__)


def test_what_was_saved_is_read_as_it_was(tmp_path):
    report = full()
    assert replace(loaded(saved(), tmp_path), staff=report.staff) == report


@pytest.mark.parametrize("payload", PAYLOADS, ids=ascii)
def test_no_text_of_a_report_becomes_markup_or_control(tmp_path, payload):
    tree = saved()
    texts = [path for path in places(tree) if isinstance(at(tree, path), str)]
    assert ("function",) in texts and ("nodes", 0) in texts and ("incidents", 0, 1) in texts
    usual = shown(loaded(tree, tmp_path), tmp_path)
    seen = 0
    for path in texts:
        found = loaded(put(tree, path, payload), tmp_path)
        if isinstance(found, Report):
            seen += 1
            assert shown(found, tmp_path) == usual, path
    assert seen >= 9
    everywhere = tree
    for path in texts:
        if isinstance(loaded(put(everywhere, path, payload), tmp_path), Report):
            everywhere = put(everywhere, path, payload)
    assert shown(loaded(everywhere, tmp_path), tmp_path) == usual


@pytest.mark.parametrize("payload", PAYLOADS, ids=ascii)
def test_no_name_of_a_field_becomes_anything(tmp_path, payload):
    tree = saved()
    usual = shown(loaded(tree, tmp_path), tmp_path)
    for path in places(tree):
        if isinstance(at(tree, path), dict):
            found = loaded(put(tree, (*path, payload), 1), tmp_path)
            assert isinstance(found, str) or shown(found, tmp_path) == usual, path


#: What stands nowhere in a report.
MISFITS = (
    *(None, True, "7", -1, -1.5, 1e308, 2**80, 10**5000, [], {}, [[]], {"a": 1}, ""),
    *(float("nan"), float("inf"), -float("inf")),
)


@pytest.mark.parametrize("seed", range(8))
def test_a_changed_file_is_a_report_or_a_clear_error(tmp_path, seed):
    choice = random.Random(seed)
    tree = saved()
    paths = list(places(tree))
    sys.set_int_max_str_digits(0)  # To write them down; it is put back before they are read.
    files = []
    for _ in range(80):
        changed = tree
        for path in choice.sample(paths, choice.choice((1, 1, 2, 5))):
            try:
                changed = put(changed, path, choice.choice((*MISFITS, *PAYLOADS)))
            except (KeyError, IndexError, TypeError):
                continue  # What it stood in is gone already.
        files.append(json.dumps(changed).encode())
    sys.set_int_max_str_digits(4300)
    for file in files:
        if choice.random() < 0.3:
            cut = choice.randrange(len(file))
            file = file[:cut] + choice.choice((b"", b"\xff", b'"', b"]}", file[cut + 1 :]))
        found = loaded(file, tmp_path)
        if isinstance(found, Report):
            shown(found, tmp_path)


def test_each_number_may_be_anything_in_its_range(tmp_path):
    tree = saved()
    for path in places(tree):
        if type(at(tree, path)) in (int, float):
            for value in (0, 0.5, 2**63):
                found = loaded(put(tree, path, value), tmp_path)
                if isinstance(found, Report):
                    shown(found, tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("wall",), "1", "wall must be a number from 0 on that is finite"),
        (("wall",), float("nan"), "wall must be a number"),
        (("lanes", 1, "slot"), "0", r"lanes\[1\].slot must be a whole number from 0 on, not '0'"),
        (("lanes", 0, "seconds", "compute"), -1, r"lanes\[0\].seconds.compute must be a number"),
        (("parent", "<b>"), 1, "parent has '<b>', which this forklift does not know"),
        (("records", "rows", 0, 6), 0, r"records.rows\[0\]\[6\] must be a whole number from 1 on"),
        (("records", "columns", 0), "__class__", r"records.columns\[0\] must be one of begin"),
        (("incidents", 0, 1), "exploded", r"incidents\[0\]\[1\] must be one of born"),
        (("function",), "x" * 20_000, "function has 20000 characters"),
        (("finished",), 1, "finished must be true or false, not 1"),
        (("nodes",), [["a"] * 3] * 2, r"nodes\[0\] must be text, not a list of 3"),
        (("imported",), [""] * 300_000, "imported has 300000 elements"),
        (("forklift_report",), "\x1b", r"forklift_report must be a whole number from 0 on, not '\\x1b'"),
        (("forklift_report",), True, "forklift_report must be a whole number"),
    ],
)
def test_errors_name_the_field(tmp_path, path, value, words):
    assert re.search(words, loaded(put(saved(), path, value), tmp_path))


@pytest.mark.parametrize(
    "file",
    [b"[" * 200_000, b"\xff\xfe", b"9" * 5000, b" " * (BYTES_MAX + 1), b"\0"],
    ids=["nested", "no text", "a long number", "large", "a zero"],
)
def test_other_files_are_refused_at_once(tmp_path, file):
    assert re.search("is not a report|larger than any report", loaded(file, tmp_path))


def test_only_the_scripts_and_styles_of_the_page_are_allowed(tmp_path):
    full().save(tmp_path / "report.html")
    Tuning("work", [Trial(None, 1, [1.0]), Trial(Setting(), 1, [1.0])], 1.0).save(tmp_path / "tuning.html")
    for name, scripts in (("report", 2), ("tuning", 0)):
        text = (tmp_path / f"{name}.html").read_text()
        [policy] = [meta["content"] for meta in Reader(text).named("meta") if "http-equiv" in meta]
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        assert rules["default-src"] == "'none'" and "style-src" not in rules
        for element, kind, count in (("script", "script-src", scripts), ("style", "style-src-elem", 1)):
            bodies = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
            digests = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies]
            assert len(bodies) == count
            assert rules[kind] == (" ".join(f"'sha256-{digest}'" for digest in digests) or "'none'")


@needs_browser
def test_a_browser_runs_nothing_that_a_page_was_made_to_hold(tmp_path):
    assert BROWSER is not None
    page = tmp_path / "report.html"
    full().save(page)
    probe = "document.documentElement.dataset.pwned = 1"
    injected = f'<script>{probe}</script><img src="x" onerror="{probe}"><style>body {{ color: red }}</style>'
    page.write_text(page.read_text().replace("</main>", f"{injected}</main>"))
    shown = Reader(render(page)).named("html")[0]
    assert "data-pwned" not in shown and shown["data-drawn"] == "4"


@pytest.mark.parametrize("payload", PAYLOADS[:-1], ids=ascii)
def test_names_of_functions_and_texts_of_exceptions_are_shown_plain(tmp_path, payload):
    def work(item):
        return item

    work.__qualname__ = payload
    with Pool(1) as pool:
        pool.map(work, range(3))
        report = pool.report()
    shown(report, tmp_path)
    assert payload not in str(report) or payload == plain(payload)
    tuning = Tuning(payload, [Trial(None, 1, [1.0]), Trial(Setting(), 1, [], payload)], 1.0)
    assert OBEYED.search(str(tuning)) is None
    tuning.save(tmp_path / "tuning.html")
    for text in ((tmp_path / "tuning.html").read_text(), tuning._repr_html_()):
        assert OBEYED.search(text) is None
        assert {tag for tag, *_ in Elements(text).found}.isdisjoint({"script", "img"})


def test_the_command_prints_no_control_characters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    hostile = put(put(saved(), ("function",), "\x1b[31m"), ("nodes", 0), "\x9b2J\u202e")
    (tmp_path / "a\x1b[5m.json").write_text(json.dumps(hostile))
    (tmp_path / "b\x1b[5m.json").write_text('{"forklift_report": "\\u001b[31m"}')
    (tmp_path / "hostile.py").write_text('def work(item): return item\nraise ImportError("\\x1b[31m")')
    monkeypatch.setenv("OMP_NUM_THREADS", "\x1b[31m")
    for status, arguments in (
        (0, ["report", "a\x1b[5m.json"]),
        (0, ["report", "a\x1b[5m.json", "--save", "c\x1b[5m.html"]),
        (2, ["report", "b\x1b[5m.json"]),
        (2, ["report", "none\x1b[5m.json"]),
        (2, ["report", "a\x1b[5m.json", "--save", "\x1b[5m/x.html"]),
        (2, ["report", "--\x1b[5m"]),
        (2, ["\x1b[5m"]),
        (2, ["--\x1b[5m"]),
        (2, ["tune", "hostile:work", "\x1b[5m"]),
        (2, ["tune", "os:getpid", "os:\x1b[5m"]),
        (2, ["tune", "os:getpid", "os:sep", "--processes", "\x1b[5m"]),
        (None, ["doctor"]),
        (None, ["doctor", "--json"]),
    ):
        result = run(cli.main, arguments)
        assert result.exit_code in ((0, 1) if status is None else (status,)), (arguments, result.output)
        assert OBEYED.search(result.output) is None, (arguments, result.output)
        assert "Traceback" not in result.output
    assert json.loads(run(cli.main, ["doctor", "--json"]).output)["version"] == 1


def test_a_bar_s_description_does_not_reach_the_terminal_as_it_is(monkeypatch):
    upper, lower = pty.openpty()
    with os.fdopen(lower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        telemetry = SimpleNamespace(bytes=lambda: (0, 0))
        meter = _progress.meter("\x1b]0;pwned\x07", 3, telemetry)
        meter(3)
        meter.close()
    heard = os.read(upper, 65536).decode()
    os.close(upper)
    assert "\\u001b]0;pwned\\u0007" in heard and "\x1b]" not in heard


def test_threads_of_any_name_are_named(monkeypatch):
    monkeypatch.setattr(_threads, "_openblas_threads", set)
    thread = SimpleNamespace(native_id=1 << 30, name="\x1b[31m")
    monkeypatch.setattr(_threads.threading, "enumerate", lambda: [thread])
    monkeypatch.setattr(_threads.os, "listdir", lambda _: [str(1 << 30)])
    assert _threads.foreign() == ["\\u001b[31m"]


def test_plain_text_stays_as_it_is():
    words = "naïve – 数え 👩‍🚀 «x» a&b"
    assert plain(words) == words
    assert plain("a\nb\tc") == "a\\u000ab\\u0009c" and plain("a\nb\tc", lines=True) == "a\nb\tc"
    assert html("<'\"&\x1b>") == "&lt;&#x27;&quot;&amp;\\u001b&gt;"
    assert json.loads(plain(json.dumps(["\x9b\u202e"], ensure_ascii=False))) == ["\x9b\u202e"]
