"""``benchmarks/bear/bootstrapping_error.py`` runs and shows the effect, only smaller."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import rlzoo

ROOT = Path(rlzoo.__file__).parents[1]
SCRIPT = "benchmarks/bear/bootstrapping_error.py"


def test_the_script_leaves_a_table_a_figure_and_the_numbers(tmp_path: Path) -> None:
    options = ["--states", "5", "--repeats", "3"]
    command = [sys.executable, SCRIPT, *options, "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    text = (tmp_path / "bootstrapping_error.md").read_text()
    assert "| all actions | 300 sweeps | 9.000 | 100% | 1 |" in text
    assert "| actions in the data | 300 sweeps | 0.000 | 0% | 1 |" in text
    assert f"`python {SCRIPT} {' '.join(options)}" in text
    assert (tmp_path / "bootstrapping_error.png").read_bytes().startswith(b"\x89PNG")
    lines = (tmp_path / "bootstrapping_error.jsonl").read_text().splitlines()
    facts, *points = map(json.loads, lines)
    assert {"command", "commit", "states", "repeats"} <= facts.keys()
    # One unseen action at the end: after as many sweeps as states its error is at the start.
    start = [p for p in points if p["panel"] == "travel" and p["at"] == 0]
    found = {(p["backup"], p["sweeps"]): p["error"] for p in start}
    assert found["all actions", 1] == 0
    assert found["all actions", 10] == pytest.approx(10 * 0.9**4, rel=0.02)
    assert found["actions in the data", 40] == 0
