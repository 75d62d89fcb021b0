"""``benchmarks/goal_gail/curves.py`` puts our curves beside the published ones."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

import rlzoo
from rlzoo.report.record_schema import Record
from rlzoo.report.records import append

SCRIPT = Path(rlzoo.__file__).parents[1] / "benchmarks" / "goal_gail" / "curves.py"
STEPS = (75_000, 150_000)


def record(preset: str, seed: int, values: tuple[float, ...], **changes: Any) -> Record:
    curves = {"reached": tuple(zip(STEPS, values, strict=True))}
    facts: dict[str, Any] = {
        "suite": "goals", "size": "small", "agent": "goal-gail", "env": "rlzoo/FourRooms-v0",
        "status": "ok", "metric_curves": curves, "metrics": {"reached": values[-1]},
    }  # fmt: skip
    return Record(preset=preset, seed=seed, **{**facts, **changes})


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, out: Path) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(folder), "--out", str(out)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_means_intervals_and_published_values_stand_in_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in (
        record("goalgail", 0, (0.5, 0.7)), record("goalgail", 1, (0.6, 0.8)),
        record("gail", 0, (0.3, 0.4)), record("bc", 0, (0.2, 0.2)),
        record("her-exact", 0, (0.1, 0.2), status="failed", error="stopped"),
        record("gail", 1, (0.9, 0.9), env="rlzoo/MiniFourRooms-v0"),
    ):  # fmt: skip
        append(tmp_path / "results.jsonl", one)
    run(monkeypatch, tmp_path, tmp_path)
    lines = (tmp_path / "FourRooms-v0.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    assert rows[0] == [
        "steps", "goalgail (2)", "goalgail, published", "gail (1)", "gail, published", "bc (1)",
    ]  # fmt: skip
    assert rows[2:] == [
        ["75,000", "0.550 [0.500, 0.600]", "0.509 ± 0.116", "0.300", "0.370 ± 0.055", "0.200"],
        ["150,000", "0.750 [0.700, 0.800]", "0.714 ± 0.042", "0.400", "0.402 ± 0.020", "0.200"],
    ]
    assert (tmp_path / "FourRooms-v0.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_and_sizes_that_differ_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="Run `rlzoo benchmark goals"):
        run(monkeypatch, tmp_path, out)
    for size in ("small", "paper"):
        append(tmp_path / "results.jsonl", record("gail", 0, (0.3, 0.4), size=size))
    with pytest.raises(SystemExit, match="'paper', 'small'"):
        run(monkeypatch, tmp_path, out)
    assert not out.exists()
