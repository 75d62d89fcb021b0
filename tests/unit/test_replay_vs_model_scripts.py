"""The scripts of ``benchmarks/replay_vs_model`` run as their README says, only shorter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import rlzoo

ROOT = Path(rlzoo.__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "options", "expected", "records"),
    [
        ("stability", ["--mdps", "5"], "| model, q=0.9 | -0.272000 | -0.272 | 2.0e+23 |", 18),
        ("four_rooms", ["--seeds", "2", "--steps", "200"], "| replay | 757 ± 30 |", 19),
    ],
)
def test_a_script_leaves_a_table_a_figure_and_the_numbers(
    name: str, options: list[str], expected: str, records: int, tmp_path: Path
) -> None:
    module = f"benchmarks.replay_vs_model.{name}"
    command = [sys.executable, "-m", module, *options, "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    text = (tmp_path / f"{name}.md").read_text()
    assert expected in text
    assert f"`python -m {module} {' '.join(options)}" in text
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    facts, *results = map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines())
    assert {"command", "commit", "seeds"} <= facts.keys()
    assert len(results) == records
