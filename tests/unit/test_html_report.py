"""HTML pages of runs, folders of runs and benchmarks: safe, self-contained, right, repeatable."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rlzoo.errors import FailedError, RefusedError
from rlzoo.report.html import MARK, render, write_report
from rlzoo.report.html_parts import esc
from rlzoo.report.leaderboard_table import SuiteFacts
from rlzoo.report.record_schema import Record
from rlzoo.report.records import append
from rlzoo.report.run_files import read_run
from rlzoo.report.svg import Line, chart, mean_lines

EVIL = "<script>alert(1)</script>\"'&$x^$"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Collects tags, attributes, ids and text, and checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(text: str) -> Page:
    """Parse a page and check what holds for every page."""
    page = Page(text)
    assert text.startswith(f"<!DOCTYPE html>\n{MARK}")
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"https?://|//[a-z]+\.|@import|javascript:", text)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "action"):
            assert value.startswith("#"), "nothing is loaded from elsewhere"
            assert value[1:] in page.ids, "every reference has its target"
    assert len(page.ids) == len(set(page.ids)), "an id occurs once"
    return page


MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write the files of a finished run; keywords replace facts of manifest and result."""

    def make(name: str = "run", finished: bool = True, **facts: Any) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        manifest = {
            "agent": "bear", "env": "Hopper-v4", "preset": "cpu", "seed": 3, "device": "cpu",
            "dataset": "rlzoo/hopper/medium-v0", "dataset_fingerprint": "ab" * 32,
            "machine": {"cores": 2, "processor": "a processor"}, "versions": {"torch": "2.13.0"},
            "commit": "0123456789ab", "command": "rlzoo train bear --seed 3", **facts,
        }  # fmt: skip
        curve = [[100, 250.5], [200, 1234.5]]
        result = {
            "total_timesteps": 200, "curve": curve, "wall_seconds": 61.0, "steps_per_second": 12.5,
            "final": {"return_mean": 1111.5, "return_std": 22.5, "episodes": 10,
                      "normalized": 34.7},
            "best": {"return_mean": 1234.5, "return_std": 1.5, "episodes": 10, "normalized": 38.5,
                     "step": 200},
        }  # fmt: skip
        status = {"status": "finished" if finished else "running"}
        (path / "manifest.json").write_text(json.dumps({**status, **manifest}))
        if finished:
            (path / "result.json").write_text(json.dumps({**manifest, **result, **facts}))
        (path / "config.yaml").write_text(
            'agent: bear\nenv: "Hopper-v4"\npreset: "cpu"  # by default\nall:\n  run:\n'
            "    steps: 200  # --set\n  agent:\n"
            '    gamma: 0.99  # constructor\n    note: "a # b"  # configs/bear/default.yaml:7\n'
            "    # odd: <object at 0x1>  # constructor\n"
        )
        (path / "progress.csv").write_text(
            "time/total_timesteps,train/loss,eval/mean_reward,eval/std_reward\n"
            "50,1.5,,\n100,1.25,250.5,10.0\n150,nan,,\n200,1.0,1234.5,1.5\n"
        )
        return path

    return make


# --- one run -------------------------------------------------------------------------------------


def test_the_page_of_a_run_has_its_numbers_settings_and_provenance(make_run: MakeRun) -> None:
    page = parsed(render(make_run()))
    for words in (
        "bear on Hopper-v4, seed 3", "finished", "1,111.5 +- 22.5", "34.7", "1,234.5 +- 1.5",
        "best evaluation, step 200", "200 updates", "12.5 steps per second", "ab" * 32,
        "rlzoo train bear --seed 3", "0123456789ab", "torch 2.13.0", "cores 2", "--set",
        "configs/bear/default.yaml:7", '"a # b"', "<object at 0x1>", "train/loss",
    ):  # fmt: skip
        assert words in page.text, words
    assert "svg" in page.tags
    assert "prefers-color-scheme: dark" in page.text
    assert "@media print" in page.text


def test_the_same_folder_gives_the_same_bytes(make_run: MakeRun) -> None:
    run = make_run()
    first = write_report(run)
    before = first.read_bytes()
    assert first == run / "report.html"
    assert write_report(run).read_bytes() == before


def test_another_number_gives_another_page(make_run: MakeRun) -> None:
    a, b = make_run("a"), make_run("b")
    text = (b / "progress.csv").read_text()
    (b / "progress.csv").write_text(text.replace("100,1.25,250.5,10.0", "100,1.25,250.5,99.0"))
    assert render(a).replace(str(a), "") != render(b).replace(str(b), "")


def test_names_are_text_and_never_markup(make_run: MakeRun, tmp_path: Path) -> None:
    facts = {name: EVIL for name in ("agent", "env", "preset", "commit", "command", "dataset")}
    run = make_run("<b>run", **facts, machine={EVIL: EVIL}, versions={EVIL: EVIL}, error=EVIL,
                   resumed=[{"step": 5, "command": EVIL, "forced": [EVIL]}])  # fmt: skip
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        config.replace("--set", EVIL).replace("0.99", json.dumps(EVIL))
    )
    (run / "progress.csv").write_text(f'time/total_timesteps,"train/{EVIL}"\n1,1\n2,3\n')
    for text in (render(run), render(tmp_path)):
        page = parsed(text)
        assert "<script" not in text
        assert page.text.count("<script>alert(1)</script>") > 5
        assert "b" not in page.tags


def test_text_that_no_page_can_hold_is_replaced() -> None:
    shown = esc("a\0b\udcffc\x1bd\te")
    assert shown == "a�b�c�d\te"
    assert len(esc("x" * 100_000)) < 5_000
    assert esc(None) == "-"


@pytest.mark.parametrize(
    ("facts", "lock", "status", "words"),
    [
        ({"status": "failed", "error": "loss is NaN"}, None, "failed", "loss is NaN"),
        ({"status": "stopped"}, None, "stopped", "rlzoo resume"),
        ({}, {"pid": 2**22 + 1, "host": socket.gethostname()}, "interrupted", "rlzoo resume"),
        ({}, None, "interrupted", "rlzoo resume"),
        ({}, {"pid": os.getpid(), "host": socket.gethostname()}, "running", "of now"),
        ({}, {"pid": 1, "host": "another-machine"}, "running", "of now"),
        ({"status": ["odd"]}, None, "unknown", "not known"),
    ],
)
def test_runs_that_have_not_finished_are_shown_as_such(
    make_run: MakeRun, facts: dict, lock: dict | None, status: str, words: str
) -> None:
    run = make_run(finished=False, **facts)
    if lock is not None:
        (run / "run.lock").write_text(json.dumps(lock))
    assert read_run(run).status == status
    page = parsed(render(run))
    assert f"Status: {status}" in page.text
    assert words in page.text
    assert "There is no result yet." in page.text
    assert "svg" in page.tags, "the curve of the log is drawn"


def test_a_longer_training_has_an_old_result(make_run: MakeRun) -> None:
    run = make_run()
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "stopped"}))
    assert "earlier, shorter training" in parsed(render(run)).text


DAMAGE: dict[str, Callable[[Path], object]] = {
    "half a manifest": lambda p: (p / "manifest.json").write_text('{"agent": "be'),
    "a manifest of another kind": lambda p: (p / "manifest.json").write_text("[1, 2]"),
    "deep json": lambda p: (p / "result.json").write_text("[" * 200_000),
    "odd values": lambda p: (p / "result.json").write_text(
        '{"final": 3, "best": {"return_mean": "x", "step": []}, "curve": [[1], "x", [1, null], '
        '[null, 2], [1e999, 3]], "wall_seconds": {}, "total_timesteps": NaN}'
    ),
    "a huge number": lambda p: (p / "result.json").write_text(
        '{"total_timesteps": 1' + "0" * 400 + "}"
    ),
    "bytes": lambda p: (p / "result.json").write_bytes(os.urandom(500)),
    "bytes in the log": lambda p: (p / "progress.csv").write_bytes(b"\0\xff," * 50 + b"\n1,2\n"),
    "half a row": lambda p: (p / "progress.csv").write_text(
        "time/total_timesteps,eval/mean_reward\n1,2\n2,"
    ),
    "no log": lambda p: (p / "progress.csv").unlink(),
    "an empty log": lambda p: (p / "progress.csv").write_text(""),
    "words in the log": lambda p: (p / "progress.csv").write_text(
        "time/total_timesteps,train/loss\nx,y\n1,2,3\n"
    ),
    "no config": lambda p: (p / "config.yaml").unlink(),
    "another config": lambda p: (p / "config.yaml").write_text("gamma: 1\n<i>x"),
    "a folder as config": lambda p: ((p / "config.yaml").unlink(), (p / "config.yaml").mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_shown_as_such(make_run: MakeRun, damage: str, tmp_path: Path) -> None:
    run = make_run()
    DAMAGE[damage](run)
    parsed(render(run))
    parsed(render(tmp_path))
    damaged = {"half a manifest", "a manifest of another kind", "deep json", "bytes", "half a row",
               "words in the log"}  # fmt: skip
    if damage in damaged:
        assert 'class="notes"' in render(run)


def test_a_run_that_says_nothing_at_all(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    page = parsed(render(tmp_path))
    assert "There is no result yet." in page.text
    assert "config.yaml is missing." in page.text


# --- several runs --------------------------------------------------------------------------------


def test_runs_are_compared_with_means_over_seeds_and_what_differs(
    make_run: MakeRun, tmp_path: Path
) -> None:
    final = {"return_std": 1.0, "episodes": 10, "normalized": 50.0}
    make_run("bear/a", final={**final, "return_mean": 100.0}, seed=1)
    make_run("bear/b", final={**final, "return_mean": 300.0}, seed=2)
    make_run("bear/c", finished=False, seed=3, status="failed", error="out of memory")
    other = make_run("sac/d", agent="sac", final={**final, "return_mean": 7.0})
    changed = make_run("sac/e", agent="sac", final={**final, "return_mean": 8.0})
    text = (changed / "config.yaml").read_text()
    (changed / "config.yaml").write_text(text.replace("0.99", "0.5"))
    page = parsed(render(tmp_path))
    assert "5 runs in" in page.text
    assert "200.0 +- 141.4" in page.text
    assert "sac, cpu (sac/d)" in page.text, "other settings are not averaged"
    assert "7.5 +-" not in page.text
    assert "out of memory" in page.text
    assert "bear/c" in page.text
    differ = page.text[page.text.index("Settings that differ") : page.text.index("Provenance")]
    assert "gamma" in differ
    assert other.relative_to(tmp_path).as_posix() in differ
    assert "note" not in differ, "the same in all runs"
    assert "bear on" not in differ, "nothing differs there"


def test_links_and_folders_inside_of_runs_are_not_followed(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("a")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "manifest.json").write_text("{}")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert "1 run in" in parsed(render(tmp_path)).text


def test_means_are_taken_where_all_runs_have_values() -> None:
    *runs, mean = mean_lines("x", [[(0, 0.0), (10, 10.0)], [(5, 1.0), (10, 2.0), (20, 3.0)]], 1)
    assert [line.faint for line in runs] == [True, True]
    assert mean.label == "x (n=2)"
    assert (list(mean.steps), list(mean.values)) == ([5, 10], [3.0, 6.0])
    apart = mean_lines("x", [[(0, 0.0), (1, 1.0)], [(5, 1.0), (6, 2.0)]], 0)
    assert all(line.faint for line in apart)
    assert mean_lines("x", [], 0) == []


def test_a_figure_has_the_colour_of_the_text_and_the_names_as_they_are() -> None:
    svg = chart([Line("_a$^{<i>", [1, 2], [1, 2])], "t", "steps", "return", "f")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "a$^{&lt;i&gt;" in svg
    assert svg == chart([Line("_a$^{<i>", [1, 2], [1, 2])], "t", "steps", "return", "f")


# --- a benchmark ---------------------------------------------------------------------------------


def record_of(agent: str, env: str, seed: int, mean: float | None, **more: Any) -> Record:
    if mean is None:
        facts: dict[str, Any] = {"status": "failed", "error": f"broke {EVIL}"}
    else:
        final = {"return_mean": mean, "return_std": 1.0, "episodes": 5, "normalized": None}
        facts = {"status": "ok", "final": final, "curve": ((100, mean / 2), (200, mean)),
                 "commit": "feedbeef", "command": f"rlzoo train {agent} --seed {seed}"}  # fmt: skip
    return Record("mine", "smoke", agent, "default", env, seed, **{**facts, **more})


def test_a_benchmark_has_its_leaderboard_failures_and_curves(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for record in (
        record_of("good", "E-v1", 0, 100.0), record_of("good", "E-v1", 1, 200.0),
        record_of("good", "E-v1", 0, 300.0), record_of("weak<i>", "E-v1", 0, 7.5),
        record_of("weak<i>", "E-v1", 1, None),
    ):  # fmt: skip
        append(path, record)
    with open(path, "ab") as file:
        file.write(b'{"half of a li')
    text = render(tmp_path)
    page = parsed(text)
    assert "250.0 +- 70.7 (n=2)" in page.text, "the later record of a cell counts"
    assert "IQM [95 %]" in page.text
    assert "7.5 (n=1, 1 failed)" in page.text
    assert f"failed: broke {EVIL}" in page.text
    assert "results.jsonl:6" in page.text
    assert "feedbeef" in page.text
    assert "rlzoo train good --seed 1" in page.text
    assert "good (n=2)" in page.text, "a legend"
    assert "svg" in page.tags
    assert "i" not in page.tags
    assert write_report(tmp_path).read_text() == text == render(path)


def test_a_benchmark_without_records(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("garbage\n")
    page = parsed(render(tmp_path))
    assert "There are no records yet." in page.text
    assert "results.jsonl:1" in page.text


def test_what_is_known_about_a_suite_decides_what_is_compared(tmp_path: Path) -> None:
    append(tmp_path / "results.jsonl", record_of("a", "E-v1", 0, 5.0, metrics={"gap": 0.125}))
    facts = {"mine": SuiteFacts("My suite", "metrics.gap")}
    page = parsed(render(tmp_path, lambda _: facts))
    assert "My suite (mine, smoke)" in page.text
    assert "0.125" in page.text


# --- where it is written -------------------------------------------------------------------------


def test_only_a_report_is_replaced(make_run: MakeRun, tmp_path: Path) -> None:
    run, mine = make_run(), tmp_path / "mine.html"
    mine.write_text("<p>my own page</p>")
    with pytest.raises(RefusedError, match="no report"):
        write_report(run, mine)
    assert mine.read_text() == "<p>my own page</p>"
    with pytest.raises(RefusedError, match="is a folder"):
        write_report(run, tmp_path)
    assert write_report(run, tmp_path / "new" / "r.html").is_file()


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_nothing_to_report_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefusedError):
        write_report(tmp_path / name)
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_folder_that_cannot_be_written(make_run: MakeRun, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(FailedError, match="cannot be written"):
        write_report(make_run(), blocker / "r.html")
