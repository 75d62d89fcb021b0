"""The statistics beside those of rliable, which needs an environment of its own (pandas below 3).

python -m venv other; other/bin/pip install rliable "pandas<3"
RLZOO_RLIABLE_PYTHON=other/bin/python pytest tests/unit/test_statistics_rliable.py
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
from typing import Any

import numpy as np
import pytest

from rlzoo.report import statistics

PYTHON = os.environ.get("RLZOO_RLIABLE_PYTHON")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="RLZOO_RLIABLE_PYTHON names no interpreter that has rliable"
)

SCRIPT = """
import json, sys
import numpy as np
from rliable import library, metrics

given = json.load(sys.stdin)
x, y = np.array(given["x"]), np.array(given["y"])
taus = np.array(given["taus"])
functions = {
    "mean": metrics.aggregate_mean,
    "median": metrics.aggregate_median,
    "iqm": metrics.aggregate_iqm,
    "optimality_gap": metrics.aggregate_optimality_gap,
}
found = {}
for name, function in functions.items():
    values, intervals = library.get_interval_estimates(
        {"x": x}, lambda scores: np.array([function(scores)]), reps=2000
    )
    found[name] = [values["x"][0], *intervals["x"][:, 0]]
values, intervals = library.get_interval_estimates(
    {"x,y": (x, y)}, metrics.probability_of_improvement, reps=1000
)
found["improvement"] = [float(values["x,y"]), *np.ravel(intervals["x,y"])]
profiles, bands = library.create_performance_profile({"x": x}, taus, reps=2000)
found["profile"] = [profiles["x"].tolist(), *bands["x"].tolist()]
json.dump(found, sys.stdout)
"""
TAUS = np.linspace(-2.0, 3.0, 11)
FUNCTIONS = {
    "mean": statistics.mean,
    "median": statistics.median,
    "iqm": statistics.iqm,
    "optimality_gap": statistics.optimality_gap,
}


@functools.cache
def scores() -> tuple[np.ndarray, np.ndarray]:
    """Scores of 10 runs of 26 tasks, rounded so that there are ties."""
    rng = np.random.default_rng(2)
    tasks = rng.normal(size=26)
    x, y = (np.round(tasks + shift + rng.normal(size=(10, 26)), 1) for shift in (0.5, 0.0))
    return x, y


@functools.cache
def theirs() -> dict[str, Any]:
    x, y = scores()
    given = json.dumps({"x": x.tolist(), "y": y.tolist(), "taus": TAUS.tolist()})
    done = subprocess.run(
        [str(PYTHON), "-c", SCRIPT], input=given, capture_output=True, text=True, timeout=500
    )
    if done.returncode:
        pytest.fail(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def compare(name: str, found: statistics.Estimate) -> None:
    value, low, high = theirs()[name]
    assert found.low is not None
    assert found.high is not None
    assert found.value == pytest.approx(value, abs=1e-12)
    # Both draw at random: the ends differ by some per cent of the width.
    tolerance = 0.15 * (high - low)
    print(name, [value, low, high], [found.value, found.low, found.high])
    assert found.low == pytest.approx(low, abs=tolerance)
    assert found.high == pytest.approx(high, abs=tolerance)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_aggregates(name: str) -> None:
    compare(name, statistics.stratified_bootstrap(scores()[0], FUNCTIONS[name]))


def test_probability_of_improvement() -> None:
    compare("improvement", statistics.probability_of_improvement(*scores()))


def test_performance_profile() -> None:
    values, low, high = statistics.performance_profile(scores()[0], TAUS)
    their_values, their_low, their_high = map(np.array, theirs()["profile"])
    np.testing.assert_allclose(values, their_values, atol=1e-12)
    assert low is not None
    assert high is not None
    step = 1 / scores()[0].size  # a share can only change by whole runs
    print(np.abs(low - their_low).max(), np.abs(high - their_high).max())
    np.testing.assert_allclose(low, their_low, atol=2.01 * step)
    np.testing.assert_allclose(high, their_high, atol=2.01 * step)
