"""``rlzoo report`` on runs that were really trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

TINY = ("--env=CartPole-v1", "--steps=64", "--eval-freq=32", "--eval-episodes=1", "--n-envs=1",
        "--set=n_steps=32", "--set=batch_size=32", "--set=n_epochs=1")  # fmt: skip


def test_a_run_and_a_folder_of_runs(rlzoo: Callable, tmp_path: Path) -> None:
    for seed in (0, 1):
        found = rlzoo("train", "ppo", *TINY, "--seed", seed, "--run-dir", f"all/{seed}")
        assert found.code == 0, found.err
    found = rlzoo("report", "all/0")
    assert (found.code, found.out.strip()) == (0, str(Path("all/0/report.html")))
    text = (tmp_path / "all/0/report.html").read_text()
    final = json.loads((tmp_path / "all/0/result.json").read_text())["final"]["return_mean"]
    assert f"{final:,.1f}" in text
    assert "<svg" in text
    assert "configs/ppo/CartPole-v1.yaml:" in text
    found = rlzoo("report", "all", "--out", "both.html")
    assert found.code == 0, found.err
    assert "2 runs in all" in (tmp_path / "both.html").read_text()


def test_what_is_refused(rlzoo: Callable, tmp_path: Path) -> None:
    assert rlzoo("report", "absent").refused
    assert rlzoo("report", ".").refused
    (tmp_path / "manifest.json").write_text("{")
    (tmp_path / "notes.html").write_text("mine")
    assert rlzoo("report", ".", "--out", "notes.html").refused
    assert (tmp_path / "notes.html").read_text() == "mine"
    found = rlzoo("report", ".")
    assert found.code == 0
    assert "manifest.json is damaged" in (tmp_path / "report.html").read_text()
