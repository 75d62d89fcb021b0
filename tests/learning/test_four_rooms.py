"""Every row of the table of four rooms, within two standard errors of the page's (section 4).

The distance is that of two means: the page's, over 24 seeds, and ours, over 96, with the standard
error of their difference. The short checks, and what a broken planner does, are in
``tests/unit/test_tabular_planning.py``.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import rlzoo

pytestmark = pytest.mark.learning

FOLDER = Path(rlzoo.__file__).parents[1] / "benchmarks" / "replay_vs_model"
STEPS, SEEDS = 10_000, 96


def load_script() -> Any:
    """The benchmark, which has the rows and the page's numbers."""
    sys.path.insert(0, str(FOLDER))  # as Python does for a script
    try:
        spec = importlib.util.spec_from_file_location("four_rooms", FOLDER / "four_rooms.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


SCRIPT = load_script()
ROWS = {row.label: row for row in SCRIPT.ROWS}


@cache
def run(label: str) -> Any:
    return SCRIPT.run(ROWS[label], STEPS, SEEDS)


@pytest.mark.parametrize("label", ROWS)
def test_a_row_of_the_page(label: str) -> None:
    distance = SCRIPT.distance(ROWS[label], run(label), SEEDS)
    mean, error = run(label).part(SEEDS)
    print(f"{label}: {mean:.1f} ± {error:.1f}, {distance:+.1f} standard errors")
    assert abs(distance) <= 2


def test_another_planner_is_not_within_two_standard_errors() -> None:
    """What the rows would look like if nothing were planned, or if models were never wrong."""
    for label in ("replay", "forward, h=0.1", "forward, fictional Q 0, h=0.02"):
        instead = "Q-learning, no planning" if label == "replay" else "replay"
        assert abs(SCRIPT.distance(ROWS[label], run(instead), SEEDS)) > 4


def test_the_advantage_of_backward_planning_needs_states_that_never_occur() -> None:
    replay = run("replay").part(SEEDS)[0]
    assert run("backward, h=0.3").part(SEEDS)[0] > 0.85 * replay
    assert run("errors on real states: backward").part(SEEDS)[0] < 0.2 * replay
