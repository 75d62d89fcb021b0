"""Curves and figures of a leaderboard table."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rlzoo.core.tasks.scores import normalized_score
from rlzoo.report import figures
from rlzoo.report.figures import Line
from rlzoo.report.leaderboard_details import dots, over_axis, words
from rlzoo.report.leaderboard_table import Row, Table, score_matrix
from rlzoo.report.leaderboard_text import WIDE
from rlzoo.report.records import Record
from rlzoo.report.reference import Reference
from rlzoo.report.statistics import (
    Band,
    Estimate,
    common_steps,
    performance_profile,
    probability_of_improvement,
    sample_efficiency,
)

ALL = "all environments"
# Points of a curve that is drawn: more are neither seen nor shown by TensorBoard.
GRID = 50
# Limits of a performance profile.
TAUS = 51
# Draws for the bands of curves and profiles: edges of a picture need fewer than numbers do.
RESAMPLES = 500
# Environments on one figure.
PER_PAGE = 12
# More pairs than this cannot be read: then every agent is compared with the best one only.
PAIRS = 15

Curve = tuple[tuple[int, float], ...]


def value_name(table: Table) -> str:
    """Return what learning curves show: the score, or returns that cannot be turned into it."""
    if _is_metric(table) and any(r.metric_curves for row in table.rows for r in row.records):
        return words(table.score)
    return "normalised score" if table.score == "normalized" else "undiscounted return"


def curve_of(record: Record, table: Table) -> Curve:
    """Return the finite points of a run's curve in the unit of :func:`value_name`."""
    if value_name(table) == words(table.score):
        metric = record.metric_curves.get(table.score.removeprefix("metrics."), ())
        return tuple((step, value) for step, value in metric if math.isfinite(value))
    scale = _scale(record.env) if table.score == "normalized" else (0.0, 1.0)
    if scale is None:
        return ()
    low, factor = scale
    return tuple((s, low + factor * value) for s, value in record.curve if math.isfinite(value))


@functools.cache
def _scale(env: str) -> tuple[float, float] | None:
    """Return offset and factor of a normalised score; all of them are linear in the return."""
    offset, one = normalized_score(env, 0.0), normalized_score(env, 1.0)
    return None if offset is None or one is None else (offset, one - offset)


def bands(table: Table) -> dict[str, dict[str, Line]]:
    """Return environment -> agent -> IQM of its runs over steps with a 95 % band.

    Where returns have a common scale and there are several environments, ``ALL`` is one more.
    """
    found: dict[str, dict[str, Line]] = {}
    for row in table.rows:
        curves: dict[str, list[Curve]] = {}
        for record in row.records:
            curve = curve_of(record, table)
            if record.status == "ok" and len(curve) > 1:
                curves.setdefault(record.env, []).append(curve)
        for env in table.envs:
            if env in curves:
                found.setdefault(env, {})[row.name] = _band([curves[env]])
        if table.score == "normalized" and len(curves) == len(table.envs) > 1:
            found.setdefault(ALL, {})[row.name] = _band(list(curves.values()))
    return found


def _band(tasks: Sequence[Sequence[Curve]]) -> Line:
    """Return the band of an agent from its curves, which are grouped by environment."""
    steps = common_steps(tasks)
    grid = steps[:: math.ceil(len(steps) / GRID) or 1]
    if len(steps) and grid[-1] != steps[-1]:
        grid = np.append(grid, steps[-1])
    band = sample_efficiency(tasks, grid, resamples=RESAMPLES)
    return _line(grid, band)


def _line(x: npt.NDArray[Any], band: Band) -> Line:
    low, high = (None if end is None else end.tolist() for end in (band.low, band.high))
    return Line(x.tolist(), band.values.tolist(), low, high)


def references(table: Table, env: str) -> dict[str, Estimate]:
    """Return name -> published number of the agents of the table in one environment."""
    if env not in table.envs:
        return {}
    index = table.envs.index(env)
    cells = (row.cells[index] for row in table.rows)
    return {
        f"{cell.reference.agent}, published": _as_estimate(cell.reference)
        for cell in cells
        if cell.reference is not None
    }


def _as_estimate(reference: Reference) -> Estimate:
    """Return a published number with its interval, none where that has no width or no end."""
    low, high = reference.interval
    is_range = low < high and math.isfinite(high - low)
    n = reference.n or 0
    if not is_range:
        return Estimate(reference.value, None, None, n, n)
    return Estimate(reference.value, low, high, n, n)


def draw(table: Table, curves: Mapping[str, Mapping[str, Line]]) -> dict[str, bytes]:
    """Return name -> PNG of every figure for which the table has the numbers.

    Args:
        table: The table.
        curves: What :func:`bands` returned for it.
    """
    names = table.names
    title = f"{table.title} ({table.size})"
    drawn: dict[str, bytes] = {}
    statistics: dict[str, dict[str, Estimate]] = {}
    for row in table.rows:
        for name, found in row.statistics.items():
            statistics.setdefault(name, {})[row.name] = found
    if statistics:
        drawn["intervals"] = figures.interval_figure(statistics, names, title)
    drawn |= _by_env(table, title)
    if panels := over_axis(table):
        xlabel = str(table.facts.axis)
        drawn["axis"] = figures.curve_figure(panels, names, title, "", xlabel=xlabel)
    if points := dots(table):
        drawn["runs"] = figures.dots_figure(points, names, title)
    if profiles := _profiles(table):
        drawn["profile"] = figures.profile_figure(profiles, names, title, "score")
    if pairs := _improvements(table):
        drawn["improvement"] = figures.improvement_figure(pairs, title)
    for name, envs in _pages(list(curves)):
        others = _is_metric(table) and value_name(table) != words(table.score)
        lines = {} if others else {env: references(table, env) for env in envs}
        drawn[name] = figures.curve_figure(
            {env: curves[env] for env in envs}, names, title, value_name(table), lines
        )
    return drawn


def _pages(envs: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """Return name of a figure -> environments on it: one each, or many where there are many."""
    if len(envs) <= WIDE:
        return [(f"curves/{env}", [env]) for env in envs]
    starts = range(0, len(envs), PER_PAGE)
    return [(f"curves/{n}", envs[s : s + PER_PAGE]) for n, s in enumerate(starts, start=1)]


def _is_metric(table: Table) -> bool:
    return table.score.startswith("metrics.")


def _by_env(table: Table, title: str) -> dict[str, bytes]:
    """Draw the intervals of the environments, as many on a page as can be read."""
    pages = {}
    starts = range(0, len(table.envs), PER_PAGE)
    for page, start in enumerate(starts, start=1):
        panels: dict[str, dict[str, Estimate]] = {}
        lines = {}
        for index, env in list(enumerate(table.envs))[start : start + PER_PAGE]:
            cells = {row.name: row.cells[index].estimate for row in table.rows}
            panels[env] = {name: found for name, found in cells.items() if found is not None}
            lines[env] = references(table, env)
        name = "environments" if len(starts) == 1 else f"environments/{page}"
        pages[name] = figures.interval_figure(panels, table.names, title, lines)
    return pages


def _profiles(table: Table) -> dict[str, Line]:
    """Return agent -> performance profile; empty where scores have no common scale."""
    complete = [row for row in table.rows if row.statistics and row.n_envs == len(table.envs)]
    scores = [row.matrix[np.isfinite(row.matrix)] for row in complete]
    if not scores:
        return {}
    every = np.concatenate(scores)
    margin = 0.05 * float(np.ptp(every)) or 1.0  # equal scores: a step in the middle
    taus = np.linspace(every.min() - margin, every.max() + margin, TAUS)
    found = {}
    for row in complete:
        found[row.name] = _line(taus, performance_profile(row.matrix, taus, resamples=RESAMPLES))
    return found


def _improvements(table: Table) -> dict[tuple[str, str], Estimate]:
    """Return pairs of agents -> probability that the first is better, over shared environments."""
    rows = [row for row in table.rows if row.n_envs]
    pairs = list(itertools.combinations(rows, 2))
    if len(pairs) > PAIRS:
        pairs = pairs[: len(rows) - 1]
    found = {}
    for x, y in pairs:
        shared = _shared(x, y)
        if shared:
            of_x = score_matrix([x.cells[index] for index in shared])
            of_y = score_matrix([y.cells[index] for index in shared])
            found[x.name, y.name] = probability_of_improvement(of_x, of_y)
    return found


def _shared(x: Row, y: Row) -> list[int]:
    return [i for i, (a, b) in enumerate(zip(x.cells, y.cells, strict=True)) if a.n and b.n]
