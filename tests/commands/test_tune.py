"""`forklift.tune` and its command: what is tried, what is concluded, and the line to paste."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

import forklift
from forklift.tuning import Setting, Trial, Tuning, experiment

AUTOMATIC = Setting()


def nap(item: int) -> int:
    time.sleep(0.02)
    return item


def trial(setting: Setting | None, milliseconds: float, items: int = 10, failure: str = "") -> Trial:
    return Trial(setting, items, [milliseconds * items / 1000] * 3, failure)


def tuning(*trials: Trial) -> Tuning:
    return Tuning("work", list(trials), 1.0)


@pytest.mark.parametrize(
    ("others", "best"),
    [
        ([trial(AUTOMATIC, 6), trial(Setting(chunksize=4), 5)], Setting(chunksize=4)),
        ([trial(AUTOMATIC, 5.2), trial(Setting(chunksize=4), 5)], AUTOMATIC),
        ([trial(AUTOMATIC, 12), trial(Setting(chunksize=4), 9.8)], None),
        ([trial(AUTOMATIC, 12), trial(Setting(processes=4), 11)], None),
        ([trial(AUTOMATIC, 5), trial(Setting(chunksize=1), 1, items=5)], AUTOMATIC),
        ([trial(AUTOMATIC, 5), trial(Setting(chunksize=1), 1, failure="broke")], AUTOMATIC),
        (
            [
                trial(AUTOMATIC, 9),
                trial(Setting(4, 2), 5),
                trial(Setting(4), 5.1),
                trial(Setting(4, 2, False), 4.9),
            ],
            Setting(4),
        ),
    ],
)
def test_the_best_is_clearly_better_and_says_least(others, best):
    found = tuning(trial(None, 10), *others)
    assert found.best == best
    assert found.line in str(found)
    assert found.verdict in str(found)


def test_what_is_concluded_is_said():
    loop = trial(None, 10)
    assert "No pool beats the for loop" in tuning(loop, trial(AUTOMATIC, 20)).verdict
    assert tuning(loop, trial(AUTOMATIC, 20)).line == "results = [work(item) for item in items]"
    assert "automatic settings are the best" in tuning(loop, trial(AUTOMATIC, 5)).verdict
    better = tuning(loop, trial(AUTOMATIC, 8), trial(Setting(3, 7, True, 50, 2), 4))
    assert "2.5 times as fast as the for loop, 2.00 times as fast as the automatic" in better.verdict
    assert better.line.splitlines() == [
        'os.environ["OMP_NUM_THREADS"] = "2"  # before the pool is made',
        "with forklift.Pool(processes=3, maxtasksperchild=50) as pool:",
        "    results = pool.map(work, items, chunksize=7, inherit=True)",
    ]
    assert "No pool came as far" in tuning(loop, trial(AUTOMATIC, 5, failure="broke")).verdict


def test_experiments_find_a_setting_that_is_far_ahead(monkeypatch):
    """Here eight workers are four times as fast as two, whatever else the machine does."""

    def takes(bench, setting, sample):
        return 0.02 * len(sample) / (1 if setting is None else setting.processes or 2)

    monkeypatch.setattr(experiment._Bench, "run", takes)
    assert tuned().best == Setting(processes=8)


def tuned():
    return forklift.tune(
        nap,
        list(range(48)),
        seconds=2,
        processes=[8],
        chunksize=[24],
        inherit=[],
        maxtasksperchild=[],
        threads=[],
    )


def test_experiments_are_made_on_pools():
    found = tuned()
    assert {Setting(processes=8), Setting(chunksize=24), AUTOMATIC, None} <= {
        trial.setting for trial in found.trials
    }
    final = max(trial.items for trial in found.trials)
    assert {trial.items for trial in found.finalists} == {final}
    assert found.loop in found.finalists
    assert all(trial.runs for trial in found.finalists)


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = forklift.tune(abs, [-1] * 100, seconds=0.5, processes=[], chunksize=[], inherit=[], threads=[2])
    assert Setting(threads=2) in {trial.setting for trial in found.trials}
    assert "OMP_NUM_THREADS" not in os.environ


def test_a_failing_setting_is_named_and_does_not_win():
    items = [threading.Lock() for _ in range(8)]
    found = forklift.tune(
        lambda lock: lock.locked(),
        items,
        seconds=1,
        processes=[],
        chunksize=[],
        inherit=[],
        maxtasksperchild=[],
        threads=[],
    )
    assert "cannot be sent" in found.automatic.failure
    assert found.best is None
    assert "No pool came as far" in str(found)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((abs, []), "there are none"),
        ((abs, [1], {"seconds": 0}), "seconds must be above 0"),
        ((abs, [1], {"processes": [0]}), "at least 1"),
        ((abs, [1], {"inherit": ["maybe"]}), "inherit must be True, False or 'auto', not 'maybe'"),
        ((abs, [1], {"maxtasksperchild": [0]}), "maxtasksperchild must be"),
        ((None, [1]), "func must be a callable"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, error):
    func, items, *options = arguments
    with pytest.raises((ValueError, TypeError), match=error):
        forklift.tune(func, items, **(options[0] if options else {}))


def test_what_the_function_raises_here_is_raised():
    with pytest.raises(ZeroDivisionError):
        forklift.tune(lambda item: 1 / item, [0, 1], seconds=0.5)


def command(*arguments: str, cwd: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forklift", *arguments],
        cwd=str(cwd),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_prints_a_table_and_writes_a_page(tmp_path):
    (tmp_path / "job.py").write_text(
        "def items(): return list(range(2000))\ndef work(x): return sum(range(x % 50))\n"
    )
    page = tmp_path / "page.html"
    done = command(
        "tune",
        "job:work",
        "job:items",
        "--seconds",
        "1.5",
        "--processes",
        "1",
        "--page",
        str(page),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "for loop" in done.stdout
    assert "automatic" in done.stdout
    assert "processes=1" in done.stdout
    assert "work(item)" in done.stdout or "pool.map(work" in done.stdout
    text = page.read_text()
    assert "<svg" in text
    assert "http://" not in text
    assert "https://" not in text


def test_the_command_tries_what_it_is_told_to(tmp_path):
    (tmp_path / "job.py").write_text("items = list(range(200))\ndef work(x): return x\n")
    told = {
        "--processes": "",
        "--chunksize": "",
        "--threads": "",
        "--inherit": "true",
        "--maxtasksperchild": "7,50",
    }
    options = [word for option in told.items() for word in option]
    done = command("tune", "job:work", "job:items", "--seconds", "0.5", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ")[0].strip() for line in done.stdout.splitlines()]
    for tried in ("for loop", "automatic", "inherit=True", "maxtasksperchild=7", "maxtasksperchild=50"):
        assert tried in rows, done.stdout
    assert not any(name in done.stdout for name in ("processes=", "chunksize=", "threads=", "inherit=False"))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--inherit", "maybe"), "'maybe' is not a list of true, false and auto"),
        (("--maxtasksperchild", "few"), "'few' is not a list of numbers"),
        (("--maxtasksperchild", "0"), "maxtasksperchild must be"),
    ],
)
def test_the_command_names_values_that_cannot_be_tried(tmp_path, options, error):
    (tmp_path / "job.py").write_text("items = [1]\ndef work(x): return x\n")
    done = command("tune", "job:work", "job:items", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert error in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("func", "items", "error"),
    [
        ("job", "job:items", "'job' is not MODULE:NAME"),
        ("nojob:work", "job:items", "nojob cannot be imported"),
        ("job:work", "job:itms", "job has no 'itms'; it has items"),
        ("job:work", "job:empty", "there are none"),
    ],
)
def test_the_command_names_what_is_wrong(tmp_path, func, items, error):
    (tmp_path / "job.py").write_text("items = [1]\nempty = []\ndef work(x): return x\n")
    done = command("tune", func, items, cwd=tmp_path)
    assert done.returncode == 2
    assert error in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [("tune", "job:work", "job:items", "--page"), ("bench", "--page"), ("report", "job.py", "--save")],
)
def test_a_page_that_has_no_place_is_refused_before_the_work(tmp_path, arguments):
    (tmp_path / "job.py").write_text(
        "items = [1]\ndef work(x):\n    open('worked', 'w').close()\n    return x\n"
    )
    done = command(*arguments, "nowhere/page.html", cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no directory" in done.stderr and "nowhere" in done.stderr
    assert not (tmp_path / "worked").exists()


def test_a_saved_report_is_shown_and_turned_into_a_page(tmp_path):
    with forklift.Pool(2) as pool:
        pool.map(abs, range(100))
        report = pool.report()
    report.save(tmp_path / "run.json")
    assert command("report", "run.json", cwd=tmp_path).stdout == f"{report}\n"
    done = command("report", "run.json", "--save", "run.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<html" in (tmp_path / "run.html").read_text()
    assert command("report", "run.json", "--save", "run.pdf", cwd=tmp_path).returncode == 2
    (tmp_path / "other.json").write_text("{}")
    assert command("report", "other.json", cwd=tmp_path).returncode == 2
