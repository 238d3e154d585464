"""The page: whole, offline, readable by everybody, and drawn by a real browser."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from forklift import Pool
from forklift.report import Histogram
from forklift.report.page import bins, thinned
from tests.beyond.test_advice import chunk, figures

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium is installed (apt-get install chromium)"
)

#: Elements that stand alone.
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Reader(HTMLParser):
    """What a page holds."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def named(self, tag):
        return [attributes for found, attributes in self.elements if found == tag]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A page of a real call, with something in each picture."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    with Pool(2) as pool:
        pool.map(time.sleep, [0.005] * 60 + [0.3])
        pool.report().save(path)
    return path


def render(page, width=1000):
    """The document after its scripts have run, in a browser that can reach nothing."""
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        f"--user-data-dir={page.parent / 'profile'}",
        f"--window-size={width},1600",
        "--virtual-time-budget=10000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_the_page_reaches_for_nothing(saved):
    text = saved.read_text()
    page = Reader(text)
    assert not [attributes for _, attributes in page.elements if "src" in attributes or "href" in attributes]
    assert "url(" not in text and "@import" not in text
    [policy] = [meta["content"] for meta in page.named("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")


def test_what_a_page_needs_to_be_read(saved):
    page = Reader(saved.read_text())
    assert page.named("html") == [{"lang": "en"}]
    assert len(page.named("h1")) == 1 and len(page.named("title")) == 1 and len(page.named("main")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    pictures = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    assert len(pictures) >= 3 + 4 and all(len(picture["aria-label"]) > 20 for picture in pictures)
    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identities) == len(set(identities))
    for words in ("speed-up", "item 60 took", "Where the time went", "worker 1", "Payload", "Memory"):
        assert words in page.text


def test_nothing_that_a_user_names_becomes_markup(tmp_path):
    report = figures(function="<script>alert(1)</script>", imported=["</script>"])
    report.save(tmp_path / "report.html")
    page = Reader((tmp_path / "report.html").read_text())
    assert len(page.named("script")) == 3
    assert "map(<script>alert(1)</script>)" in page.text
    assert "<script>alert" not in report._repr_html_()


def test_a_notebook_shows_a_part_without_scripts():
    report = figures(parent={"copy": 0.5})
    html = report._repr_html_()
    assert "<script" not in html and "Copying 52.4 MB" in html and "worker 1" in html
    Reader(html)


def test_a_call_without_items(tmp_path):
    with Pool(1) as pool:
        pool.map(abs, [])
        pool.report().save(tmp_path / "report.html")
    page = Reader((tmp_path / "report.html").read_text())
    assert "0 of 0 items" in page.text


def test_many_chunks_are_thinned():
    records = [chunk(slot, at, at + 0.5, at, 3) for at in range(5000) for slot in range(4)]
    few = thinned(records, 1000)
    assert 500 < len(few) <= 1000
    assert sum(record.items for record in few) == 3 * 20_000
    assert sum(record.compute for record in few) == pytest.approx(0.5 * 20_000)
    assert {record.slot for record in few} == {0, 1, 2, 3}
    assert thinned(records, 20_000) is records


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_bins_hold_all_items(count):
    values = [(1e-6 * 1.01**number, 2) for number in range(count)]
    columns = bins(Histogram(2 * count, 1, 1, 1, values))
    assert 1 <= len(columns) <= 32 and sum(number for _, _, number in columns) == 2 * count
    assert all(low < high for low, high, _ in columns)


def test_no_bins_of_nothing():
    assert bins(Histogram(0, 0, 0, 0, [])) == []


def test_the_plotting_library_comes_with_its_licence():
    assert "MIT License" in (files("forklift.report") / "uPlot.LICENSE").read_text()


@needs_browser
@pytest.mark.parametrize("width", [500, 1400])
def test_a_browser_draws_all_pictures(saved, width):
    page = Reader(render(saved, width=width))
    assert page.named("html")[0].get("data-drawn") == "4", "the script ended early"
    assert len(page.named("canvas")) == 4
    for canvas in page.named("canvas"):
        assert 200 < int(canvas["width"]) <= width


@needs_browser
def test_the_page_is_accessible(saved):
    axe = files(pytest.importorskip("axe_core_python", reason="axe-core-python is not installed"))
    script = (axe / "axe.min.js").read_text().replace("</script", "<\\/script")
    check = """
        axe.run(document).then((found) => {
          const place = document.createElement("output");
          place.id = "findings";
          const rows = found.violations.map((rule) => [rule.id, rule.help, rule.nodes.map((node) => node.html)]);
          place.textContent = JSON.stringify({violations: rows, passes: found.passes.length});
          document.body.append(place);
        });
    """
    whole = saved.read_text().replace("</body>", f"<script>{script}</script><script>{check}</script></body>")
    # The page's policy allows neither these scripts nor a style that was turned.
    whole = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", whole)
    checked = saved.with_name("checked.html")
    for scheme in ("light", "dark"):
        # What the system prefers cannot be told to a headless browser; the page's own rule is turned instead.
        turned = whole if scheme == "light" else whole.replace("(prefers-color-scheme: dark)", "all", 1)
        checked.write_text(turned)
        found = re.search(r'<output id="findings">(.*?)</output>', render(checked), re.DOTALL)
        assert found, "axe did not run"
        findings = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
        assert findings["violations"] == [] and findings["passes"] > 20, (scheme, findings)
